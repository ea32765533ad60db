"""SIGKILL at any moment: after a restart every hold ends once and every credit is accounted for."""

import asyncio
import multiprocessing
import os
import random
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

from sqlmodel import col, func, select

from chat_app.accounts.tables import User
from chat_app.app import App, build
from chat_app.chat.tables import Message, Reply
from chat_app.credits import ledger, verify
from chat_app.credits.tables import Hold, Transfer
from chat_app.flows import orgs, sweep
from chat_app.money import MICRO
from tests.apps import ask, person, script_settings
from tests.effort import effort

KILLS = effort(50, 6)
LEASE_SECONDS = 0.4
CREDITS = 5000
POOL = 2000
OVER = {
    "accounts": {"welcome_credits": CREDITS},
    "transfers": {"sources": "welcome"},
    "script": {"tokens": 20, "tokens_per_second": 100},
    "chat": {"lease_seconds": LEASE_SECONDS, "progress_seconds": 0.05},
}


def _victim(data_dir: Path, url: str, ready: Connection, stand: str | None) -> None:
    """A server process in small: it answers without end until it is killed.

    It stands still where `stand` says, so that a slow machine cannot miss that moment.
    """

    async def story() -> None:
        app = build(script_settings(data_dir, url=url, **OVER))
        await app.start()
        with app.db.read() as session:
            alice = session.exec(select(User.id).where(User.username == "alice")).first()
        if alice is None:
            alice = await person(app)
            made = await orgs.create(app, user_id=alice, name="Pool", key="k")
            await orgs.fund(app, user_id=alice, org_id=made.id, micro=POOL * MICRO, key="k")
        (pool,) = orgs.mine(app, user_id=alice)
        ready.send("going")
        while True:
            for payer in (None, pool.id, None):
                await ask(app, alice, org_id=payer)
            for _turn in range(10):
                await asyncio.sleep(0.03)
                await sweep.save_progress(app)
                sweep.settle_abandoned(app)
                if stand == "writing" and _under_way(app):
                    _stand_still(ready)
            if stand == "written":
                _stand_still(ready)

    asyncio.run(story())


def _under_way(app: App) -> bool:
    """Whether an answer is being written whose progress is saved."""
    with app.db.read() as session:
        query = select(Reply.id).where(Reply.state == "running", Reply.completion_tokens > 0)
        return session.exec(query).first() is not None


def _stand_still(ready: Connection) -> None:
    ready.send("there")
    os.kill(os.getpid(), signal.SIGSTOP)


def test_fifty_kills_lose_and_double_nothing(tmp_path: Path, database_url: str) -> None:
    """T5, T7: each hold is settled or released once, by the job or by the sweeper.

    Every third answer is paid by an organisation's pool.
    """
    chance = random.Random(20261121)
    # Each victim is forked from a server that has imported everything and runs no thread.
    fork = multiprocessing.get_context("forkserver")
    fork.set_forkserver_preload([__name__])
    for kill in range(effort(25, 4) if database_url else KILLS):
        here, there = fork.Pipe()
        # Most are shot at any moment; some while answers are written, or when they were.
        stand = {0: "writing", 1: "written"}.get(kill % 8)
        process = fork.Process(target=_victim, args=(tmp_path, database_url, there, stand))
        process.start()
        assert here.poll(60), "the victim did not start"
        assert here.recv() == "going"
        if stand is None:
            time.sleep(chance.uniform(0.0, 0.5))
        else:
            assert here.poll(60), f"the victim was never at {stand}"
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        here.close()
        there.close()

    app = build(script_settings(tmp_path, url=database_url, **OVER))
    try:
        time.sleep(LEASE_SECONDS + 0.1)
        sweep.settle_abandoned(app)
        with app.db.read() as session:
            assert verify.run(session) == []
            assert session.exec(select(Hold).where(Hold.state == "open")).all() == []
            assert session.exec(select(Reply).where(Reply.state == "running")).all() == []
            replies = session.exec(select(Reply)).all()
            texts = dict(session.exec(select(Message.id, Message.content)).all())
            for reply in replies:
                owed = 1 * MICRO if texts[reply.message_id] else 0
                assert reply.charged == owed, reply
            charged = sum(reply.charged for reply in replies)
            alice = session.exec(select(User.id)).one()
            assert alice is not None
            balance = ledger.balance(session, user_id=alice)
            (org,) = orgs.mine(app, user_id=alice)
            assert balance.total + org.balance.total == CREDITS * MICRO - charged
            assert balance.held == org.balance.held == org.members[0].held == 0
            paid = POOL * MICRO - org.balance.total
            assert org.members[0].used == paid > 0
            settlements = session.exec(
                select(func.count())
                .select_from(Transfer)
                .where(col(Transfer.pending_id).is_not(None))
            ).one()
            assert settlements == len(replies)
        interrupted = [reply for reply in replies if reply.error_code == "interrupted"]
        # Both ways must have been taken, or the kills proved nothing.
        assert any(reply.charged for reply in interrupted)
        assert any(reply.state == "done" for reply in replies)
    finally:
        app.db.close()
