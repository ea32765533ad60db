"""Limits: rates are exact, places are handed on in order, and nobody is locked out by others."""

import asyncio
import threading
from typing import Any

import pytest

from chat_app.accounts.limits import (
    Limits,
    Place,
    QueueFull,
    Rate,
    RateLimited,
    Ticket,
    TooManyAnswers,
    TooManyQuotes,
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


def make(watch: Watch, *, slots: int = 0, **settings: Any) -> Limits:
    return Limits(LimitSettings(**settings), slots=lambda _model: slots, now=watch)


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
    )
    for _ in range(500):
        limits.check_rate(ANN)
        ticket = limits.enter(ANN)
        assert ticket.state == "running"
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
        running.began()
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


def test_a_plan_has_its_own_limits(watch: Watch) -> None:
    plans = {"pro": {"running": 3, "per_minute": 5}}
    limits = make(watch, running_per_user=1, waiting_per_user=1, requests_per_minute=2, plans=plans)
    limits.know(ANN, "pro")
    limits.know(BOB, "basic")
    for user, running, per_minute in ((ANN, 3, 5), (BOB, 1, 2)):
        tickets = [limits.enter(user) for _ in range(running + 1)]
        assert [ticket.state for ticket in tickets] == ["running"] * running + ["waiting"]
        with pytest.raises(TooManyAnswers):
            limits.enter(user)
        for _ in range(per_minute):
            limits.check_rate(user)
        with pytest.raises(RateLimited):
            limits.check_rate(user)
    limits.know(ANN, None)
    assert limits.allowance(ANN) == limits.allowance(BOB)


def test_no_more_run_than_the_model_writes_and_each_model_has_a_line(watch: Watch) -> None:
    limits = make(watch, slots=2, running_per_user=0, waiting_per_user=0, max_wait_seconds=0)
    tickets = [limits.enter(user, model="a") for user in range(5)]
    assert [ticket.state for ticket in tickets] == ["running"] * 2 + ["waiting"] * 3
    assert limits.enter(9, model="b").state == "running"
    tickets[0].leave()
    tickets[1].leave()
    assert [ticket.state for ticket in tickets[2:]] == ["running", "running", "waiting"]
    assert limits.counts() == (3, 1)


def served(limits: Limits, tickets: list[Ticket]) -> list[int]:
    """The users in the order in which they are let in, one place at a time."""
    order = []
    while open_ones := [ticket for ticket in tickets if ticket.state == "running"]:
        order.append(open_ones[0].user_id)
        open_ones[0].leave()
    assert limits.counts() == (0, 0)
    return order


def test_whoever_waits_with_one_comes_before_anothers_twentieth(watch: Watch) -> None:
    """Turns go round between users, whoever asked most or first."""
    limits = make(watch, slots=1, running_per_user=0, waiting_per_user=0, max_wait_seconds=0)
    flood = [limits.enter(ANN) for _ in range(20)]
    one = limits.enter(BOB)
    two = [limits.enter(3) for _ in range(2)]
    assert limits.position(one) == 1
    assert [limits.position(ticket) for ticket in two] == [2, 4]
    assert [limits.position(flood[n]) for n in (1, 2, 3, 19)] == [3, 5, 6, 22]
    assert served(limits, [*flood, one, *two]) == [ANN, BOB, 3, ANN, 3, *[ANN] * 18]


def test_who_has_fewest_running_goes_first(watch: Watch) -> None:
    limits = make(watch, slots=3, running_per_user=0, waiting_per_user=0, max_wait_seconds=0)
    flood = [limits.enter(ANN) for _ in range(6)]
    late = [limits.enter(BOB) for _ in range(3)]
    flood[0].leave()
    flood[1].leave()
    assert limits.counts(BOB) == (1, 2)
    assert limits.counts(ANN) == (2, 2)  # both had one, and it was Ann's turn
    late[0].leave()
    assert limits.counts(BOB) == (1, 1)


def test_an_own_limit_keeps_nobody_else_waiting(watch: Watch) -> None:
    limits = make(watch, slots=2, running_per_user=1, waiting_per_user=0, max_wait_seconds=1)
    flood = [limits.enter(ANN) for _ in range(10)]
    bob = limits.enter(BOB)
    assert bob.state == "running"
    assert limits.counts(ANN) == (1, 9)
    bob.leave()
    assert limits.counts(ANN) == (1, 9)
    flood[0].leave()
    assert limits.counts(ANN) == (1, 8)


def test_the_line_is_as_long_as_is_served_in_the_longest_wait(watch: Watch) -> None:
    """Two places, ten seconds an answer, a minute at most: twelve wait and the next is refused."""
    limits = make(watch, slots=2, running_per_user=0, waiting_per_user=0, queue_total=0,
                  max_wait_seconds=60)  # fmt: skip
    user = iter(range(10_000))
    running = [limits.enter(next(user)) for _ in range(2)]
    waiting: list[Ticket] = []

    def fill() -> QueueFull:
        while True:
            try:
                waiting.append(limits.enter(next(user)))
            except QueueFull as error:
                return error

    fill()
    for _ in range(40):  # both places end every ten seconds
        for ticket in running:
            ticket.began()
        watch.seconds += 10
        ended, running = running, []
        for ticket in ended:
            ticket.leave()
            running.append(waiting.pop(0))
        assert {ticket.state for ticket in running} == {"running"}
        refused = fill()
    assert len(waiting) == 12
    assert 1 <= refused.retry_after_seconds <= 5
    places = [ticket.place() or Place(0, 0) for ticket in waiting[:3]]
    assert [place.position for place in places] == [1, 2, 3]
    assert [place.expected_seconds for place in places] == pytest.approx([5, 10, 15], abs=1)


def test_who_comes_first_may_wait_however_slow_it_is(watch: Watch) -> None:
    limits = make(watch, slots=1, running_per_user=0, max_wait_seconds=10)
    running = limits.enter(ANN)
    running.began()
    watch.seconds += 600
    assert limits.enter(BOB).state == "waiting"
    with pytest.raises(QueueFull) as refused:
        limits.enter(3)
    assert refused.value.facts["retry_after_seconds"] > 1


def test_a_model_that_turns_out_larger_lets_more_in(watch: Watch) -> None:
    size = {"m": 1}
    limits = Limits(LimitSettings(), slots=size.__getitem__, now=watch)
    tickets = [limits.enter(user, model="m") for user in range(4)]
    assert limits.counts() == (1, 3)
    size["m"] = 3
    tickets[0].began()
    assert limits.counts() == (3, 1)


def test_what_was_refused_on_the_way_says_nothing_about_the_pace(watch: Watch) -> None:
    limits = make(watch, slots=1, running_per_user=0, waiting_per_user=0)
    slow = limits.enter(ANN)
    slow.began()
    watch.seconds += 50
    slow.leave()
    for _ in range(100):
        limits.enter(ANN).leave()
    limits.enter(ANN)
    place = limits.enter(BOB).place()
    assert place is not None
    assert place.expected_seconds > 10


def test_a_replayed_message_does_not_count(watch: Watch) -> None:
    limits = make(watch, requests_per_minute=2)
    for _ in range(10):
        limits.check_rate(ANN)
        limits.undo_rate(ANN)
    limits.check_rate(ANN)
    assert limits.rate(ANN) == Rate(2, 1, 60.0)
    watch.seconds += 60
    assert limits.rate(ANN) == Rate(2, 2, 0.0)


def test_quotes_have_their_own_larger_limit(watch: Watch) -> None:
    limits = make(watch, requests_per_minute=2)
    for _ in range(8):
        limits.check_quotes(ANN)
    with pytest.raises(TooManyQuotes) as refused:
        limits.check_quotes(ANN)
    assert refused.value.retry_after_seconds == 60
    limits.check_rate(ANN)
    limits.check_quotes(BOB)


def test_old_keys_are_forgotten(watch: Watch) -> None:
    limits = make(watch, requests_per_minute=2)
    for number in range(3000):
        limits.check_rate(number)
    watch.seconds += 61
    for _ in range(1100):
        limits.check_rate(5000)
        watch.seconds += 31
    assert len(limits._messages._events) == 1
