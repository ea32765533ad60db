"""Analytics and the outlook add up to the books, for their owner alone."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from chat_app.app import App
from chat_app.clock import ManualClock, to_micros
from chat_app.credits import usage
from chat_app.flows import analytics, outlook
from chat_app.flows.analytics import DAY, BadRange
from chat_app.flows.outlook import Coming
from chat_app.money import MICRO
from tests.apps import answer, ask, in_loop, person, running_app

NOON = datetime(2026, 3, 18, 12, tzinfo=UTC)  # a Wednesday


@in_loop
async def test_sums_days_hours_and_the_period_before(tmp_path: Path) -> None:
    clock = ManualClock(NOON)
    async with running_app(tmp_path, clock=clock) as app:
        alice, bob = await person(app), await person(app, "bob")
        for text in ("one", "two", "three"):
            await answer(app, alice, await ask(app, alice, text))
        await answer(app, bob, await ask(app, bob, "mine"))
        clock.advance(days=3)
        for text in ("four", "four"):  # the second is given again
            await answer(app, alice, await ask(app, alice, text, temperature=0.0))
        view = analytics.of(app, user_id=alice, shift=90)
        assert (view.now.messages, view.now.answers, view.now.cached) == (5, 5, 1)
        assert view.now.active_days == 2
        assert view.now.credits == sum(row.credits for row in view.lines)
        assert view.now.credits == sum(row.cost for row in view.models)
        assert sum(map(sum, view.hours)) == 5
        assert view.hours[2][13] == 3  # Wednesday noon, an hour and a half east
        assert view.hours[5][13] == 2
        assert view.before == analytics.Sums()
        assert view.score is not None
        assert (view.score.basis, view.score.people) == ("scale", 2)
        today = to_micros(clock.now())
        later = analytics.of(app, user_id=alice, since=today - 2 * DAY, until=today)
        assert later.now.messages == 2
        assert later.before.messages == 3
        nobody = await person(app, "carol")
        empty = analytics.of(app, user_id=nobody)
        assert (empty.now.messages, empty.score, empty.advice) == (0, None, [])
        for wrong in ({"since": today, "until": today - 2 * DAY}, {"since": today - 400 * DAY},
                      {"shift": 10_000}):  # fmt: skip
            with pytest.raises(BadRange):
                analytics.of(app, user_id=alice, **wrong)  # type: ignore[arg-type]
        _once_a_day(app, alice, clock)


def _once_a_day(app: App, alice: int, clock: ManualClock) -> None:
    first = outlook.of(app, user_id=alice)
    assert outlook.of(app, user_id=alice) is first
    assert first.used_days == 2
    with app.db.read() as session:
        burnt = usage.burnt(session, user_id=alice, since=0)
    assert sum(burnt.values()) == 100 * MICRO - first.balance
    clock.advance(days=1)
    assert outlook.of(app, user_id=alice) is not first


def test_the_outlook_is_a_fan_that_ends_when_credits_do() -> None:
    now = to_micros(NOON)
    day = now // DAY * DAY
    burnt = {day - back * DAY: 10 * MICRO for back in range(1, 20)}
    seen = outlook.project(burnt, balance=100 * MICRO, coming=[], now=now)
    assert seen.basis == "profile"
    assert all(low <= middle <= high for low, middle, high in
               zip(seen.low, seen.middle, seen.high, strict=True))  # fmt: skip
    middle = seen.runout["p50"]
    assert middle is not None
    assert 8 * DAY < middle - day < 14 * DAY
    assert seen.days[0] == day
    assert len(seen.days) >= outlook.LEAST_SHOWN
    more = outlook.project(
        burnt, balance=100 * MICRO, coming=[Coming(now + 5 * DAY, 200 * MICRO, "plan")], now=now
    )
    assert more.runout["p50"] is not None
    assert more.runout["p50"] > middle + 10 * DAY
    nothing = outlook.project({}, balance=5 * MICRO, coming=[], now=now)
    assert nothing.basis == "insufficient"
    assert set(nothing.runout.values()) == {None}
