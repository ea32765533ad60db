"""Windows and paces, in memory: how often somebody came, and how fast answers end.

Knows nothing of users, models or money.
"""

import math
import threading
from collections import deque
from collections.abc import Callable

# An answer is thought to take this long until some have been seen.
FIRST_GUESS_SECONDS = 5.0
LEARNING_RATE = 0.2
# Of busy time, the last minute counts; a guess weighs as much as these seconds of it.
MEMORY_SECONDS = 60.0
GUESS_SECONDS = 5.0
_SWEEP_EVERY = 1024


class Window:
    """At most `limit` events of a key in any `seconds`: exact, not per calendar minute.

    A limit of 0 is no limit. Safe from any thread.
    """

    def __init__(self, limit: int, seconds: float, now: Callable[[], float]) -> None:
        self.limit = limit
        self.seconds = seconds
        self._now = now
        self._lock = threading.Lock()
        self._events: dict[object, deque[float]] = {}
        self._taken = 0

    def take(self, key: object, limit: int | None = None) -> float:
        """Count an event and return 0, or return the seconds until one would be accepted.

        `limit` is the key's own, where it has another one.
        """
        limit = self.limit if limit is None else limit
        if not limit:
            return 0.0
        with self._lock:
            now = self._now()
            self._sweep(now)
            events = self._events.setdefault(key, deque())
            self._drop_old(events, now)
            if len(events) >= limit:
                return max(0.001, events[-limit] + self.seconds - now)
            events.append(now)
            return 0.0

    def give_back(self, key: object) -> None:
        """Forget the newest event of the key: it turned out not to count."""
        with self._lock:
            events = self._events.get(key)
            if events:
                events.pop()

    def left(self, key: object, limit: int | None = None) -> tuple[int, float]:
        """How many more would be accepted now, and the seconds until all are forgotten."""
        limit = self.limit if limit is None else limit
        with self._lock:
            now = self._now()
            events = self._events.get(key)
            if not events:
                return limit, 0.0
            self._drop_old(events, now)
            reset = events[-1] + self.seconds - now if events else 0.0
            return max(0, limit - len(events)), reset

    def _drop_old(self, events: deque[float], now: float) -> None:
        while events and events[0] <= now - self.seconds:
            events.popleft()

    def _sweep(self, now: float) -> None:
        self._taken += 1
        if self._taken % _SWEEP_EVERY:
            return
        for key in list(self._events):
            self._drop_old(self._events[key], now)
            if not self._events[key]:
                del self._events[key]


class Pace:
    """How long an answer takes, and how many end in a second while all places are taken.

    Both are learned from what happens and slowly unlearned. Not safe from several threads.
    """

    def __init__(self) -> None:
        self.typical_seconds = FIRST_GUESS_SECONDS
        self._ended = 0.0
        self._busy_seconds = 0.0

    def passed(self, seconds: float) -> None:
        """All places were taken for so long."""
        kept = math.exp(-seconds / MEMORY_SECONDS)
        self._ended *= kept
        self._busy_seconds = self._busy_seconds * kept + MEMORY_SECONDS * (1 - kept)

    def took(self, seconds: float, *, all_taken: bool) -> None:
        """An answer has ended after so long."""
        self.typical_seconds += LEARNING_RATE * (seconds - self.typical_seconds)
        if all_taken:
            self._ended += 1

    def per_second(self, places: int) -> float:
        """Answers that end in a second when all `places` are taken; never 0."""
        guess = places / max(self.typical_seconds, 0.001)
        return max(
            1e-6,
            (self._ended + GUESS_SECONDS * guess) / (self._busy_seconds + GUESS_SECONDS),
        )
