"""Requests: how many of each class there were, how many failed, how long they took.

A class is a part of the program that a person would name, so the number of figures does not
depend on what strangers ask for. The time is up to the head of the answer: how long a stream
then stays open is its reader's business. Safe from any thread; kept in memory.
"""

import bisect
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

# Seconds; the last bucket is everything above.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
CLASSES = ("page", "chat", "openai", "billing", "account", "admin", "ops")
_STARTS = (
    ("/api/chat", "chat"),
    ("/v1/", "openai"),
    ("/api/billing", "billing"),
    ("/api/orgs", "billing"),
    ("/api/admin", "admin"),
    ("/api/monitoring", "admin"),
    ("/api/performance", "admin"),
    ("/api/", "account"),
    ("/livez", "ops"),
    ("/readyz", "ops"),
    ("/health", "ops"),
    ("/metrics", "ops"),
)


def class_of(path: str) -> str:
    """The class of a request by its path; the page and its files are `page`."""
    return next((name for start, name in _STARTS if path.startswith(start)), "page")


@dataclass
class Count:
    """What is known of the requests of one class. `refused` are answers 4xx, `failed` 5xx."""

    requests: int = 0
    refused: int = 0
    failed: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    def less(self, before: "Count") -> "Count":
        """What came since `before`."""
        return Count(
            self.requests - before.requests,
            self.refused - before.refused,
            self.failed - before.failed,
            self.seconds - before.seconds,
            [now - old for now, old in zip(self.buckets, before.buckets, strict=True)],
        )

    def copy(self) -> "Count":
        """The same as it is now."""
        return Count(self.requests, self.refused, self.failed, self.seconds, list(self.buckets))


class Traffic:
    """Counts the requests of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = {name: Count() for name in CLASSES}
        self._taken = self.totals()

    def saw(self, path: str, status: int, seconds: float) -> None:
        """A request was answered; a status of 0 is a caller who left before."""
        place = bisect.bisect_left(BOUNDS, seconds)
        with self._lock:
            count = self._counts[class_of(path)]
            count.requests += 1
            count.refused += 400 <= status < 500
            count.failed += status >= 500
            count.seconds += seconds
            count.buckets[place] += 1

    def totals(self) -> dict[str, Count]:
        """All since the start, by class."""
        with self._lock:
            return {name: count.copy() for name, count in self._counts.items()}

    def take(self) -> dict[str, Count]:
        """What came since the last call, by class."""
        now = self.totals()
        found = {name: now[name].less(before) for name, before in self._taken.items()}
        self._taken = now
        return found


def quantile(buckets: Sequence[float], share: float) -> float | None:
    """Seconds that `share` of the requests do not exceed, within the width of a bucket.

    Linear inside of a bucket, as Prometheus does it; beyond the last bound it is that bound.
    None when there were no requests.
    """
    whole = sum(buckets)
    if not whole:
        return None
    rank, below = share * whole, 0.0
    for place, count in enumerate(buckets):
        if count and below + count >= rank:
            if place >= len(BOUNDS):
                return BOUNDS[-1]
            low = BOUNDS[place - 1] if place else 0.0
            return low + (BOUNDS[place] - low) * (rank - below) / count
        below += count
    return BOUNDS[-1]
