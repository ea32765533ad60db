"""A circuit breaker: after some failures in a row a model of a server is left out for a while.

Closed: answers are sent. Open: none are, until the pause is over. Half open: one short question
finds out whether it works again. It knows no server and no clock; it is told the time.
"""

from dataclasses import dataclass
from typing import Literal

MAX_PAUSE_SECONDS = 300.0

CircuitState = Literal["closed", "open", "half_open"]


@dataclass
class Circuit:
    """One breaker. `failures` and `trips` are in a row; times in monotonic seconds."""

    failures_to_open: int
    pause_seconds: float
    failures: int = 0
    trips: int = 0
    open_until: float = 0.0
    probing: bool = False

    @property
    def state(self) -> CircuitState:
        """Whether answers may be sent: only while it is closed."""
        if not self.trips:
            return "closed"
        return "half_open" if self.probing else "open"

    def good(self) -> None:
        """An answer was whole. One that began before the circuit opened says nothing."""
        if not self.trips:
            self.failures = 0

    def bad(self, now: float, *, at_once: bool = False) -> bool:
        """An answer failed; whether that opened the circuit."""
        if self.trips:
            return False
        self.failures += 1
        if not at_once and self.failures < self.failures_to_open:
            return False
        self._trip(now)
        return True

    def due(self, now: float) -> bool:
        """The pause is over and nobody asks yet."""
        return bool(self.trips) and not self.probing and now >= self.open_until

    def probe(self) -> None:
        """Somebody asks now."""
        self.probing = True

    def probed(self, now: float, *, well: bool) -> None:
        """What came of it: closed, or open for twice as long."""
        self.probing = False
        if well:
            self.failures = self.trips = 0
        elif self.trips:
            self._trip(now)

    def _trip(self, now: float) -> None:
        self.trips += 1
        pause = self.pause_seconds * 2.0 ** min(self.trips - 1, 16)
        self.open_until = now + min(pause, max(MAX_PAUSE_SECONDS, self.pause_seconds))
