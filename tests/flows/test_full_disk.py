"""A database that cannot be written: refused before anything runs, settled when it is back."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from chat_app.app import App
from chat_app.chat.live import Piece
from chat_app.credits import ledger
from chat_app.db import DatabaseUnavailable
from chat_app.flows import reply
from chat_app.money import MICRO
from tests.apps import answer, ask, person, running_app


class FullDisk:
    """Lets SQLite's file grow no further, which is the error of a full disk (SQLITE_FULL)."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._full = False
        event.listen(app.db.engine, "begin", self._limit)

    def _limit(self, connection: Any) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages if self._full else 1 << 30}")

    def fill(self) -> None:
        self._full = True

    def free(self) -> None:
        self._full = False


def test_a_full_disk_refuses_loses_nothing_and_recovers(tmp_path: Path) -> None:
    """T24: the ledger cannot be written, so nothing is generated. T7: a settlement that fails
    keeps its hold and is tried again; the answer is neither free nor charged twice."""

    async def story() -> None:
        async with running_app(tmp_path, script={"tokens": 60, "tokens_per_second": 100}) as app:
            alice = await person(app)
            started = await ask(app, alice)
            async for item in reply.follow(app, user_id=alice, reply_id=started.reply_id):
                if isinstance(item, Piece):
                    break
            disk = FullDisk(app)
            disk.fill()
            refused = 0
            for _ in range(30):  # the first free pages may still take a few
                try:
                    await ask(app, alice, "x" * 50_000)
                except DatabaseUnavailable:
                    refused += 1
            assert refused
            with app.db.read() as session:
                admitted = ledger.balance(session, user_id=alice)
            await asyncio.sleep(1.2)
            disk.free()
            end = await answer(app, alice, started)
            assert end.charged == 1 * MICRO
            live = [item.task for item in app.replies if item.task is not None]
            if live:
                await asyncio.wait(live, timeout=20)
            assert len(app.replies) == 0
            with app.db.read() as session:
                balance = ledger.balance(session, user_id=alice)
            assert balance.held == 0
            assert balance.total == 100 * MICRO - (1 + 30 - refused) * MICRO
            assert admitted.available >= 0
            await answer(app, alice, await ask(app, alice))

    asyncio.run(story())


def test_a_story_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """T8: one transaction; what throws later takes what came earlier with it."""

    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice = await person(app)

            def half(session: Any) -> None:
                ledger.grant(
                    session,
                    user_id=alice,
                    micro=5 * MICRO,
                    source="promo",
                    now=app.clock.micros(),
                    scope="test",
                    key="half",
                    actor="test",
                )
                raise RuntimeError("after the grant")

            with pytest.raises(RuntimeError):
                app.db.write(half)
            with app.db.read() as session:
                assert ledger.balance(session, user_id=alice).total == 100 * MICRO

    asyncio.run(story())
