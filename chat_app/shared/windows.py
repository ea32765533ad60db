"""Windows that all processes count in: at most so many events of a key in any span of time.

Exact by Redis's own clock, in one script. While Redis is away nothing is refused here: each
process still counts for itself, see `accounts/limits.py`.
"""

from typing import Any

from cachetools import TTLCache

from chat_app.ids import new_id
from chat_app.shared.link import Link, Lost

# KEYS[1]: the events by their time; ARGV: most of them, the span in µs, this event's name.
# Answers the µs until one would be accepted (0: it was), how many are left, and until all are.
_TAKE = """
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local limit, span = tonumber(ARGV[1]), tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - span))
local n = redis.call('ZCARD', KEYS[1])
if n >= limit then
  local first = redis.call('ZRANGE', KEYS[1], n - limit, n - limit, 'WITHSCORES')
  local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
  return {math.max(1000, first[2] + span - now), 0, last[2] + span - now}
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[3])
redis.call('PEXPIRE', KEYS[1], math.ceil(span / 1000))
return {0, limit - n - 1, span}
"""
_MICROS = 1_000_000
_KNOWN = 10_000


class Windows:
    """The windows of one installation."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._known: TTLCache[str, tuple[int, float]] = TTLCache(_KNOWN, ttl=60)

    async def take(self, key: str, *, limit: int, seconds: float) -> float:
        """Count an event and return 0, or return the seconds until one would be accepted.

        While Redis is away it is always 0.
        """
        span = int(seconds * _MICROS)
        try:
            wait, left, reset = await self._link.call(
                "EVAL", _TAKE, 1, self._name(key), limit, span, new_id("ev")
            )
        except Lost:
            self._known.pop(key, None)
            return 0.0
        self._known[key] = (int(left), self._known.timer() + int(reset) / _MICROS)
        return int(wait) / _MICROS

    async def give_back(self, key: str) -> None:
        """Forget the newest event of the key: it turned out not to count."""
        try:
            gone: Any = await self._link.call("ZPOPMAX", self._name(key))
        except Lost:
            return
        left, until = self._known.get(key, (0, 0.0))
        if gone and until:
            self._known[key] = (left + 1, until)

    def left(self, key: str) -> tuple[int, float] | None:
        """How many more were accepted when this process last asked, and the seconds until all
        are; None when it has not asked in this minute.
        """
        found = self._known.get(key)
        if found is None:
            return None
        seconds = found[1] - self._known.timer()
        return (found[0], seconds) if seconds > 0 else None

    def _name(self, key: str) -> str:
        return f"{self._link.prefix}:window:{key}"
