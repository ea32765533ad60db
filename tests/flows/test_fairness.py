"""A flood of one is no flood for others: who is served when, what is refused, what it costs."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chat_app.accounts.limits import QueueFull, RateLimited, TooManyAnswers
from chat_app.accounts.passwords import Passwords
from chat_app.app import App
from chat_app.chat.live import Status
from chat_app.credits import ledger
from chat_app.credits.shop_tables import PeriodRow, SubscriptionRow
from chat_app.flows import message, reply
from chat_app.llm.engine import Event, Request
from chat_app.money import MICRO
from tests.apps import answer, ask, in_loop, person, running_app

SLOTS = 2
DEFAULTS = {
    "running_per_user": 2,
    "waiting_per_user": 2,
    "queue_total": 200,
    "requests_per_minute": 120,
}


async def people(app: App, *names: str) -> list[int]:
    """Accounts, quickly."""
    app.passwords = Passwords(app.secrets.pepper, cost=4)
    return [await person(app, name) for name in names]


def order_of(app: App) -> tuple[list[int], list[int]]:
    """Whose answers the engine begins, in order; and how many it had each time."""
    submit, users, running, inside = app.engine.submit, list[int](), list[int](), [0]

    async def noted(request: Request) -> AsyncIterator[Event]:
        users.append(int(request.user_scope))
        inside[0] += 1
        running.append(inside[0])
        try:
            async for event in submit(request):
                yield event
        finally:
            inside[0] -= 1

    app.engine.submit = noted  # type: ignore[method-assign]
    return users, running


@in_loop
async def test_a_flood_of_a_thousand_costs_another_user_one_place(tmp_path: Path) -> None:
    """Bar 21: the other user's turn is the next; the flooder is told when to come back."""
    script = {"tokens": 3, "first_token_ms": 200, "slots": SLOTS}
    async with running_app(tmp_path, script=script, limits=DEFAULTS) as app:
        flooder, other = await people(app, "flooder", "other")
        begun, running = order_of(app)
        flood = [asyncio.ensure_future(ask(app, flooder, f"n{n}")) for n in range(1000)]
        while len(begun) < SLOTS:
            await asyncio.sleep(0.005)
        mine = await ask(app, other)
        sent = await asyncio.gather(*flood, return_exceptions=True)
        refused = [item for item in sent if isinstance(item, (RateLimited, TooManyAnswers))]
        admitted = [item for item in sent if isinstance(item, message.Started)]
        assert len(refused) + len(admitted) == 1000
        kinds = Counter(type(item) for item in refused)
        assert kinds[RateLimited] == 1000 - DEFAULTS["requests_per_minute"]
        assert all(1 <= item.retry_after_seconds <= 120 for item in refused)
        assert (await answer(app, other, mine)).state == "done"
        for item in admitted:
            assert (await answer(app, flooder, item)).state == "done"
        # Those that ran when the other came, and none that waited before.
        assert begun[: SLOTS + 1] == [flooder] * SLOTS + [other]
        assert max(running) <= SLOTS
        with app.db.read() as session:
            balance = ledger.balance(session, user_id=flooder)
        assert balance.total == 100 * MICRO - len(admitted) * MICRO
        assert app.limits.counts() == (0, 0)


@in_loop
async def test_a_thousand_in_line_are_all_answered_or_refused(tmp_path: Path) -> None:
    """Bar 22: the line is bounded by the pace of the model, and refusals cost nothing."""
    script = {"tokens": 2, "first_token_ms": 20, "slots": 4}
    limits = {"max_wait_seconds": 2}
    async with running_app(
        tmp_path, script=script, limits=limits, accounts={"welcome_credits": 1000}
    ) as app:
        crowd = await people(app, *(f"user{number}" for number in range(5)))
        begun, running = order_of(app)
        sent = await asyncio.gather(
            *(ask(app, crowd[number % 5], f"n{number}") for number in range(1000)),
            return_exceptions=True,
        )
        admitted = [
            (crowd[number % 5], item)
            for number, item in enumerate(sent)
            if isinstance(item, message.Started)
        ]
        refused = [item for item in sent if isinstance(item, QueueFull)]
        assert len(admitted) + len(refused) == 1000
        assert refused
        assert all(item.retry_after_seconds >= 1 for item in refused)
        for user, item in admitted:
            assert (await answer(app, user, item)).charged == 1 * MICRO
        assert max(running) <= 4
        assert len(begun) == len(admitted)
        served = Counter(begun)
        with app.db.read() as session:
            for user in crowd:
                balance = ledger.balance(session, user_id=user)
                assert (balance.total, balance.held) == ((1000 - served[user]) * MICRO, 0)


@in_loop
async def test_who_waits_is_told_their_place(tmp_path: Path) -> None:
    script = {"tokens": 1, "first_token_ms": 60_000, "slots": 1}
    async with running_app(tmp_path, script=script, limits=DEFAULTS) as app:
        ann, bob = await people(app, "ann", "bob")
        running = await ask(app, ann)
        second = await ask(app, ann)
        waiting = await ask(app, bob)
        # Ann came first, but has an answer already.
        for user, item, position in ((bob, waiting, 1), (ann, second, 2)):
            async for seen in reply.follow(app, user_id=user, reply_id=item.reply_id):
                if isinstance(seen, Status) and seen.position == position:
                    assert seen.expected_seconds >= 1
                    assert seen.sentence.startswith(f"Number {position} in line, about ")
                    break
        for user, item in ((bob, waiting), (ann, second), (ann, running)):
            await reply.stop(app, user_id=user, reply_id=item.reply_id)
            assert (await answer(app, user, item)).charged == 0


@in_loop
async def test_the_plan_in_force_sets_the_limits(tmp_path: Path) -> None:
    plans = {"pro": {"running": 3, "waiting": 0}}
    limits = {"running_per_user": 1, "waiting_per_user": 1, "plans": plans}
    async with running_app(tmp_path, script={"first_token_ms": 60_000}, limits=limits) as app:
        ann, bob = await people(app, "ann", "bob")
        for row in subscribed(ann):
            app.db.write(lambda session, row=row: session.add(row))
        for user, fitting in ((ann, 6), (bob, 2)):
            begun = [await ask(app, user, f"n{number}") for number in range(fitting)]
            assert sum(app.limits.counts(user)) == fitting
            if user == bob:
                with pytest.raises(TooManyAnswers):
                    await ask(app, user, "one more")
            for item in reversed(begun):
                await reply.stop(app, user_id=user, reply_id=item.reply_id)
                await answer(app, user, item)


def subscribed(user: int) -> list[SubscriptionRow | PeriodRow]:
    """A paid period of the plan `pro`, as `credits/renewals.py` leaves it."""
    far = 4_000_000_000_000_000
    return [
        SubscriptionRow(
            id="sub_pro", user_id=user, status="active", period=0, due_at=far, created_at=1
        ),
        PeriodRow(
            subscription_id="sub_pro", number=0, state="paid", plan_code="pro", plan_name="Pro",
            price_minor=900, currency="USD", credits=1, anchor_at=1, anchor_number=0, starts_at=1,
            ends_at=far, created_at=1,
        ),
    ]  # fmt: skip
