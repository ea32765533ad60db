"""Alerts from the wallet to the person: marked with the change, judged after it, told once."""

import asyncio
from pathlib import Path

import pytest
from sqlmodel import Session

from chat_app.app import App
from chat_app.clock import ManualClock
from chat_app.credits import changes, ledger
from chat_app.flows import adjust, alerts
from chat_app.money import MICRO
from chat_app.notify import inbox, outbox
from chat_app.notify.alerts import Rule
from tests.apps import answer, ask, in_loop, person, running_app


def titles(app: App, user_id: int) -> list[str]:
    """What the person reads in the app, oldest first."""
    with app.db.read() as session:
        rows, _ = inbox.page(session, user_id=user_id, limit=50)
    return [row.kind for row in reversed(rows)]


def marks(app: App) -> int:
    """How many wallets wait to be looked at."""
    with app.db.read() as session:
        return len(changes.take(session))


async def to(app: App, user_id: int, credits: float, key: str) -> None:
    """Bring the balance to an amount."""
    with app.db.read() as session:
        now = ledger.balance(session, user_id=user_id).total
    micro = round(credits * MICRO) - now
    await adjust.adjust(
        app, admin_id=user_id, user_id=user_id, micro=micro, reason="a test", key=key
    )


@in_loop
async def test_a_fall_is_told_once_and_again_after_a_rise(
    tmp_path: Path, database_url: str
) -> None:
    async with running_app(tmp_path, url=database_url) as app:
        ann = await person(app)
        assert alerts.look(app) == 0
        for number, (credits, expected) in enumerate(
            [(21, 0), (20, 1), (10, 0), (23, 0), (19, 0), (25, 0), (19, 1), (4, 1), (0, 0)]
        ):
            await to(app, ann, credits, f"k{number}")
            assert marks(app) == 1
            assert alerts.look(app) == expected, (number, credits)
            assert alerts.look(app) == 0
            assert marks(app) == 0
        assert titles(app, ann) == ["balance_low", "balance_low", "balance_critical"]
        with app.db.read() as session:
            rows, _ = outbox.page(session, limit=50)
        assert sorted(row.kind for row in rows) == sorted(titles(app, ann))
        assert {row.target for row in rows} == {"alice@example.org"}
        assert alerts.view(app, user_id=ann).raised == ("critical", "low")


@in_loop
async def test_a_hold_is_not_spent_and_a_settled_message_is_looked_at(tmp_path: Path) -> None:
    """The mark comes with the settlement, in its transaction, and not with the hold."""
    slow = {"tokens_per_second": 20, "tokens": 400}
    async with running_app(tmp_path, script=slow) as app:
        ann = await person(app)
        await to(app, ann, 20.5, "k")
        alerts.look(app)
        started = await ask(app, ann)
        with app.db.read() as session:
            assert ledger.balance(session, user_id=ann).available < 20 * MICRO
        assert marks(app) == 0
        assert alerts.look(app) == 0
        await asyncio.sleep(0.3)
        app.replies.get(started.reply_id).stop_wanted.set()  # type: ignore[union-attr]
        await answer(app, ann, started)
        assert marks(app) == 1
        assert alerts.look(app) == 1
        assert titles(app, ann) == ["balance_low"]


@in_loop
async def test_two_who_look_at_once_tell_once(tmp_path: Path, database_url: str) -> None:
    async with running_app(tmp_path, url=database_url) as app:
        ann = await person(app)
        await to(app, ann, 3, "k")
        await asyncio.gather(
            *(asyncio.to_thread(alerts.look, app) for _ in range(4)), return_exceptions=True
        )
        alerts.look(app)
        assert titles(app, ann) == ["balance_critical"]
        assert marks(app) == 0


@in_loop
async def test_a_change_during_the_look_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark that was seen is cleared, not the one that came after it."""
    async with running_app(tmp_path) as app:
        ann = await person(app)
        real = alerts._moves

        def meanwhile(app_: App, session: Session, change: changes.Change) -> bool:
            app.db.write(lambda s: changes.mark(s, user_id=ann))
            return real(app_, session, change)

        monkeypatch.setattr(alerts, "_moves", meanwhile)
        alerts.look(app)
        assert marks(app) == 1
        monkeypatch.undo()
        alerts.look(app)
        assert marks(app) == 0


@in_loop
async def test_a_crash_before_the_commit_tells_nobody_and_forgets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_app(tmp_path) as app:
        ann = await person(app)
        await to(app, ann, 3, "k")

        def crash(*_given: object, **_more: object) -> bool:
            raise RuntimeError("power cut")

        monkeypatch.setattr(changes, "clear", crash)
        with pytest.raises(RuntimeError):
            alerts.look(app)
        assert titles(app, ann) == []
        monkeypatch.undo()
        assert alerts.look(app) == 1
        assert titles(app, ann) == ["balance_critical"]


@in_loop
async def test_own_thresholds_count_and_count_at_once(tmp_path: Path) -> None:
    async with running_app(tmp_path) as app:
        ann = await person(app)
        alerts.look(app)
        shown = await alerts.choose(app, user_id=ann, rule=Rule(100 * MICRO, None, None))
        assert shown.rule == Rule(100 * MICRO, None, None)
        assert alerts.look(app) == 1
        assert titles(app, ann) == ["balance_low"]
        await alerts.choose(app, user_id=ann, rule=Rule(None, None, None))
        await to(app, ann, 0, "k")
        assert alerts.look(app) == 0


@in_loop
async def test_running_out_is_seen_from_the_pace(tmp_path: Path) -> None:
    """Three days with use at 1 credit a message; what is left lasts under three days."""
    clock = ManualClock()
    async with running_app(tmp_path, clock=clock, notifications={"low_credits": 1}) as app:
        ann = await person(app)
        await to(app, ann, 25, "k")
        for day in range(4):
            for _ in range(5):
                await answer(app, ann, await ask(app, ann))
            told = alerts.look(app)
            assert told == (day == 2), day
            clock.advance(hours=24)
        assert titles(app, ann) == ["balance_runout"]
