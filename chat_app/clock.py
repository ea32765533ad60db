"""Time: aware UTC from one place, so that tests can hold it still.

Durations (leases in memory, rates) use `time.monotonic()`; this clock is for instants that
are stored. The ledger's own time never goes backwards, see `credits/ledger.py`.
"""

from datetime import UTC, datetime, timedelta

MICROS_PER_SECOND = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_micros(moment: datetime) -> int:
    """The instant in whole microseconds since 1970-01-01 UTC. Naive times are refused."""
    if moment.tzinfo is None:
        raise ValueError("an instant needs a time zone")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_micros(micros: int) -> datetime:
    """The aware UTC instant of whole microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=micros)


def rfc3339(micros: int) -> str:
    """Microseconds as RFC 3339 in UTC, e.g. `2026-01-02T03:04:05.000006Z`."""
    return from_micros(micros).isoformat().replace("+00:00", "Z")


class Clock:
    """The wall clock."""

    def now(self) -> datetime:
        """The current instant, aware, in UTC."""
        return datetime.now(UTC)

    def micros(self) -> int:
        """The current instant in microseconds since 1970."""
        return to_micros(self.now())


class ManualClock(Clock):
    """A clock that moves when it is told to, also backwards. For tests and simulation."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self.moment = start

    def now(self) -> datetime:
        return self.moment

    def advance(self, **duration: float) -> None:
        """Move by a `timedelta` given as keywords: `clock.advance(seconds=-1)`."""
        self.moment += timedelta(**duration)
