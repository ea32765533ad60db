"""T32 for summaries: one for each person and period, at the edges of weeks and months."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chat_app.app import App
from chat_app.clock import ManualClock
from chat_app.flows import summaries
from chat_app.notify import inbox, outbox, preferences, webhooks
from tests.apps import answer, ask, in_loop, person, running_app


@pytest.mark.parametrize(
    ("now", "week", "month"),
    [
        ("2026-03-02T00:00:00", "2026-W09", "2026-02"),
        ("2026-03-01T23:59:59", "2026-W08", "2026-02"),
        ("2026-01-01T00:00:00", "2025-W52", "2025-12"),
        ("2027-01-04T00:00:00", "2026-W53", "2026-12"),
        ("2028-03-01T00:00:00", "2028-W08", "2028-02"),
        ("2026-03-31T12:00:00", "2026-W13", "2026-02"),
    ],
)
def test_the_newest_complete_periods(now: str, week: str, month: str) -> None:
    """The 31st, a leap day, weeks that belong to the year before."""
    found = summaries.periods(datetime.fromisoformat(now).replace(tzinfo=UTC))
    assert [(topic, name) for topic, name, _, _ in found] == [("weekly", week), ("monthly", month)]
    for topic, _, begin, end in found:
        assert end <= datetime.fromisoformat(now).replace(tzinfo=UTC)
        assert (end - begin).days == 7 if topic == "weekly" else 28 <= (end - begin).days <= 31


def want(app: App, user_id: int, topic: str, wanted: bool = True) -> None:
    """Choose a summary in the app."""
    app.db.write(
        lambda s: preferences.choose(
            s, user_id=user_id, wanted={topic: {"app": wanted}}, now=app.clock.micros()
        )
    )


def titles(app: App, user_id: int) -> list[str]:
    """What the person reads, oldest first."""
    with app.db.read() as session:
        return [row.title for row in reversed(inbox.page(session, user_id=user_id, limit=50)[0])]


@in_loop
async def test_a_summary_comes_once_for_each_period(tmp_path: Path, database_url: str) -> None:
    clock = ManualClock(datetime(2026, 3, 4, tzinfo=UTC))
    async with running_app(tmp_path, url=database_url, clock=clock) as app:
        ann, bob = await person(app, "ann"), await person(app, "bob")
        want(app, ann, "weekly")
        want(app, ann, "monthly")
        eve = await person(app, "eve")
        app.db.write(
            lambda s: webhooks.add(
                s, user_id=eve, url="https://example.org/", events=["usage.weekly"], key=b"k" * 32,
                most=5, allowed=frozenset(), now=app.clock.micros(),
            )
        )  # fmt: skip
        for user_id in (ann, bob, eve):
            await answer(app, user_id, await ask(app, user_id))
        # Asked for in the middle of a period: the ones before are not sent.
        assert summaries.send_due(app) == 0
        clock.moment = datetime(2026, 3, 9, tzinfo=UTC)
        both = await asyncio.gather(*(asyncio.to_thread(summaries.send_due, app) for _ in range(2)))
        assert sum(both) == 2
        assert summaries.send_due(app) == 0
        assert titles(app, ann) == ["Your week: 1 credit"]
        with app.db.read() as session:
            calls, _ = outbox.page(session, limit=9)
        assert [(row.kind, row.user_id) for row in calls] == [("usage_weekly", eve)]
        assert titles(app, bob) == []
        # A week without a message is silent; the clock set back repeats nothing.
        clock.moment = datetime(2026, 3, 20, tzinfo=UTC)
        assert summaries.send_due(app) == 0
        clock.moment = datetime(2026, 3, 9, tzinfo=UTC)
        assert summaries.send_due(app) == 0
        # After a long stop only the newest periods: the month has a message, the week none.
        clock.moment = datetime(2026, 4, 20, tzinfo=UTC)
        assert summaries.send_due(app) == 1
        assert titles(app, ann)[1:] == ["Your March: 1 credit"]
        want(app, ann, "weekly", wanted=False)
        await answer(app, ann, await ask(app, ann))
        clock.moment = datetime(2026, 4, 27, tzinfo=UTC)
        assert summaries.send_due(app) == 0
