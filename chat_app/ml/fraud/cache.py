"""Judgements kept for a while, by the version of the model and the bytes of the figures.

Only judging is saved: whoever asks has taken the event into the state before. Knows no event.
"""

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

from chat_app.clock import MICROS_PER_SECOND, Clock

T = TypeVar("T")
Key = tuple[str, bytes]
TTL_SECONDS = 300
MOST = 20_000


class Cache(Generic[T]):
    """`hits` and `misses` are counted since the start."""

    def __init__(self, clock: Clock, *, ttl_seconds: int = TTL_SECONDS, most: int = MOST) -> None:
        self._clock = clock
        self._ttl = ttl_seconds * MICROS_PER_SECOND
        self._most = most
        self._lock = threading.Lock()
        self._held: OrderedDict[Key, tuple[int, T]] = OrderedDict()
        self.hits = self.misses = 0

    def get(self, key: Key) -> T | None:
        """What is kept and not too old."""
        now = self._clock.micros()
        with self._lock:
            found = self._held.get(key)
            if found is not None and 0 <= now - found[0] < self._ttl:
                self.hits += 1
                return found[1]
            self.misses += 1
            if found is not None:
                del self._held[key]
            return None

    def put(self, key: Key, value: T) -> None:
        """Keep a judgement; those that are too old go."""
        now = self._clock.micros()
        with self._lock:
            self._held[key] = (now, value)
            self._held.move_to_end(key)
            while len(self._held) > self._most or not self._fresh(now):
                self._held.popitem(last=False)

    def _fresh(self, now: int) -> bool:
        at, _ = next(iter(self._held.values()))
        return 0 <= now - at < self._ttl

    def clear(self) -> None:
        """Forget everything: another version judges from now on."""
        with self._lock:
            self._held.clear()

    def __len__(self) -> int:
        return len(self._held)
