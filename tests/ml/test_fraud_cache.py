"""Judgements that are kept: found again for a while, and gone when they are too old."""

from chat_app.clock import ManualClock
from chat_app.ml.fraud.cache import Cache

TTL, MOST = 300, 1000


def test_what_is_too_old_takes_no_room() -> None:
    """A message a second for an hour: only those of the last five minutes are held."""
    clock = ManualClock()
    cache: Cache[int] = Cache(clock, ttl_seconds=TTL, most=MOST)
    for second in range(3600):
        cache.put(("v1", str(second).encode()), second)
        assert len(cache) <= TTL
        clock.advance(seconds=1)
    assert cache.get(("v1", b"3599")) == 3599
    assert cache.get(("v1", b"3000")) is None


def test_never_more_than_the_most() -> None:
    cache: Cache[int] = Cache(ManualClock(), ttl_seconds=TTL, most=3)
    for number in range(10):
        cache.put(("v1", bytes([number])), number)
    assert len(cache) == 3
    assert [cache.get(("v1", bytes([number]))) for number in (6, 7, 8, 9)] == [None, 7, 8, 9]


def test_a_clock_that_was_set_back_keeps_nothing_for_ever() -> None:
    """What was kept at a time that is still to come goes with the next judgement."""
    clock = ManualClock()
    cache: Cache[int] = Cache(clock, ttl_seconds=TTL, most=MOST)
    cache.put(("v1", b"later"), 1)
    clock.advance(days=-2)
    cache.put(("v1", b"now"), 2)
    assert len(cache) == 1
    assert cache.get(("v1", b"now")) == 2
