"""Limits: rates are exact, places are handed on in order, and nobody is locked out by others."""

import asyncio
import threading

import pytest

from chat_app.accounts.limits import (
    Limits,
    QueueFull,
    RateLimited,
    TooManyAnswers,
    TooManySignIns,
    TooManySignUps,
)
from chat_app.settings import Limits as LimitSettings

ANN, BOB = 1, 2


class Watch:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def watch() -> Watch:
    return Watch()


def make(watch: Watch, **settings: int) -> Limits:
    return Limits(LimitSettings(**settings), now=watch)


def test_the_rate_is_a_moving_minute_with_a_true_retry_after(watch: Watch) -> None:
    limits = make(watch, requests_per_minute=3)
    for _ in range(3):
        limits.check_rate(ANN)
        watch.seconds += 10
    with pytest.raises(RateLimited) as refused:
        limits.check_rate(ANN)
    assert refused.value.retry_after_seconds == 30
    limits.check_rate(BOB)
    watch.seconds += 29.9
    with pytest.raises(RateLimited):
        limits.check_rate(ANN)
    watch.seconds += 0.1
    limits.check_rate(ANN)
    with pytest.raises(RateLimited):
        limits.check_rate(ANN)


def test_zero_is_no_limit(watch: Watch) -> None:
    limits = make(
        watch,
        requests_per_minute=0,
        running_per_user=0,
        waiting_per_user=0,
        queue_total=0,
        registrations_per_hour_per_ip=0,
        login_failures_per_15_minutes=0,
    )
    for _ in range(500):
        ticket = limits.admit_message(ANN)
        assert ticket.state == "running"
        limits.admit_sign_up("10.0.0.1")
        limits.admit_sign_in("ann", "10.0.0.1")
    assert limits.counts() == (500, 0)


def test_waiting_has_no_end_when_its_limit_is_zero(watch: Watch) -> None:
    limits = make(watch, running_per_user=1, waiting_per_user=0, queue_total=0)
    tickets = [limits.enter(ANN) for _ in range(50)]
    assert limits.counts(ANN) == (1, 49)
    assert limits.position(tickets[49]) == 49


def test_places_are_bounded_for_a_user_and_for_all(watch: Watch) -> None:
    limits = make(watch, running_per_user=2, waiting_per_user=1, queue_total=4)
    tickets = [limits.enter(ANN) for _ in range(3)]
    assert [ticket.state for ticket in tickets] == ["running", "running", "waiting"]
    with pytest.raises(TooManyAnswers) as refused:
        limits.enter(ANN)
    assert refused.value.retry_after_seconds >= 1
    limits.enter(BOB)
    with pytest.raises(QueueFull):
        limits.enter(3)
    assert limits.counts() == (3, 1)
    tickets[2].leave()
    limits.enter(3)


def test_places_are_handed_on_in_order_and_given_back_once(watch: Watch) -> None:
    async def story() -> None:
        limits = make(watch, running_per_user=1, waiting_per_user=2, queue_total=10)
        first, second, third = (limits.enter(ANN) for _ in range(3))
        assert await first.turn()
        waits = [asyncio.create_task(ticket.turn()) for ticket in (second, third)]
        await asyncio.sleep(0)
        assert [limits.position(ticket) for ticket in (first, second, third)] == [0, 1, 2]
        first.leave()
        first.leave()
        assert await waits[0]
        assert not waits[1].done()
        assert limits.counts(ANN) == (1, 1)
        second.leave()
        assert await waits[1]
        third.leave()
        assert limits.counts() == (0, 0)

    asyncio.run(story())


def test_a_waiting_place_can_be_given_back(watch: Watch) -> None:
    async def story() -> None:
        limits = make(watch, running_per_user=1, waiting_per_user=2, queue_total=10)
        first, second, third = (limits.enter(ANN) for _ in range(3))
        wait = asyncio.create_task(second.turn())
        await asyncio.sleep(0)
        second.leave()
        assert await wait is False
        assert limits.position(third) == 1
        first.leave()
        assert await third.turn()

    asyncio.run(story())


def test_a_cancelled_wait_keeps_its_place_and_can_leave(watch: Watch) -> None:
    async def story() -> None:
        limits = make(watch, running_per_user=1, waiting_per_user=2, queue_total=10)
        first, second = limits.enter(ANN), limits.enter(ANN)
        wait = asyncio.create_task(second.turn())
        await asyncio.sleep(0)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait
        first.leave()
        assert await second.turn()
        second.leave()
        assert limits.counts() == (0, 0)

    asyncio.run(story())


def test_many_threads_never_get_more_places_than_there_are(watch: Watch) -> None:
    """T1: parallel requests do not all pass the check."""
    limits = make(watch, running_per_user=2, waiting_per_user=2, queue_total=0)
    barrier = threading.Barrier(32)
    granted, refused, most = [], [], []

    def hammer() -> None:
        barrier.wait()
        for _ in range(50):
            try:
                ticket = limits.enter(ANN)
            except TooManyAnswers:
                refused.append(1)
                continue
            running, waiting = limits.counts(ANN)
            most.append((running, waiting))
            granted.append(1)
            ticket.leave()

    threads = [threading.Thread(target=hammer) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) + len(refused) == 32 * 50
    assert max(running for running, _ in most) <= 2
    assert max(waiting for _, waiting in most) <= 2
    assert limits.counts() == (0, 0)


def test_retry_after_follows_how_long_answers_take(watch: Watch) -> None:
    limits = make(watch, running_per_user=1, waiting_per_user=1, queue_total=0)

    def advice() -> int:
        running, waiting = limits.enter(ANN), limits.enter(ANN)
        with pytest.raises(TooManyAnswers) as refused:
            limits.enter(ANN)
        watch.seconds += 40
        waiting.leave()
        running.leave()
        return refused.value.retry_after_seconds

    first = advice()
    for _ in range(20):
        advice()
    assert first < 10
    assert 35 <= advice() <= 40


def test_sign_ups_of_one_address(watch: Watch) -> None:
    """T34: one address does not get welcome credits without end."""
    limits = make(watch, registrations_per_hour_per_ip=2)
    limits.admit_sign_up("10.0.0.1")
    limits.admit_sign_up("10.0.0.1")
    limits.undo_sign_up("10.0.0.1")
    limits.admit_sign_up("10.0.0.1")
    with pytest.raises(TooManySignUps) as refused:
        limits.admit_sign_up("10.0.0.1")
    assert refused.value.retry_after_seconds == 3600
    limits.admit_sign_up("10.0.0.2")
    watch.seconds += 3600
    limits.admit_sign_up("10.0.0.1")


def test_an_attacker_cannot_lock_the_owner_out(watch: Watch) -> None:
    limits = make(watch, login_failures_per_15_minutes=2)
    for _ in range(2):
        limits.admit_sign_in("ann", "6.6.6.6")
    with pytest.raises(TooManySignIns):
        limits.admit_sign_in("ann", "6.6.6.6")
    limits.admit_sign_in("ann", "10.0.0.1")
    limits.signed_in("ann", "10.0.0.1")
    limits.admit_sign_in("bob", "6.6.6.6")
    watch.seconds += 15 * 60
    limits.admit_sign_in("ann", "6.6.6.6")


def test_old_keys_are_forgotten(watch: Watch) -> None:
    limits = make(watch, registrations_per_hour_per_ip=2)
    for number in range(3000):
        limits.admit_sign_up(f"10.0.{number // 256}.{number % 256}")
    watch.seconds += 4000
    for _ in range(1100):
        limits._signups.take("probe")
    assert len(limits._signups._events) == 1
