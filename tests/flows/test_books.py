"""The proof reads one snapshot: it is true while others write, and it finds what is wrong."""

import asyncio
import threading
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlmodel import Session

from chat_app import schedule
from chat_app.audit import anchors, differences, log, seal
from chat_app.credits import holds, ledger
from chat_app.db import Database
from chat_app.flows import books
from chat_app.migrations import triggers
from chat_app.money import MICRO
from tests.apps import person, running_app

KEY = b"k" * 32
NOW = 1_760_000_000_000_000


def spend(session: Session, *, user_id: int, number: int) -> None:
    """A grant, a hold and its settlement: rows in six tables at once."""
    names = {"scope": "test", "now": NOW + number}
    key = f"{user_id}-{number}"
    ledger.grant(
        session, user_id=user_id, micro=5 * MICRO, source="promo", key=f"g{key}", actor="t", **names
    )
    hold = holds.place(
        session,
        user_id=user_id,
        micro=2 * MICRO,
        ttl_seconds=600,
        key=f"h{key}",
        reference=key,
        **names,
    )
    holds.settle(session, hold_id=hold.id, micro=MICRO, now=NOW + number, usage=None)


def test_the_proof_holds_while_others_write(database: Database) -> None:
    """An operator proves the books of a busy server: nothing half done is reported."""
    ended = threading.Event()

    def write(user_id: int) -> None:
        for number in count(1):
            if ended.is_set():
                return
            database.write(partial(spend, user_id=user_id, number=number))

    writers = [threading.Thread(target=write, args=(user,)) for user in (1, 2, 3)]
    for writer in writers:
        writer.start()
    try:
        found = [problem for _ in range(12) for problem in books.prove(database, key=KEY)]
    finally:
        ended.set()
        for writer in writers:
            writer.join()
    assert found == []
    assert books.prove(database, key=KEY) == []


def test_another_key_breaks_the_seals(database: Database) -> None:
    database.write(lambda session: spend(session, user_id=1, number=1))
    database.write(lambda session: seal.seal(session, key=KEY, now=NOW + 10))
    assert books.prove(database, key=KEY) == []
    assert {problem.invariant for problem in books.prove(database, key=b"x" * 32)} == {"I14"}


@pytest.mark.parametrize("change", ["posted = posted + 1", "held = held + 1"])
def test_a_changed_balance_is_found(database: Database, change: str) -> None:
    database.write(lambda session: spend(session, user_id=1, number=1))
    database.write(
        lambda session: session.execute(text(f"UPDATE account SET {change} WHERE kind = 'wallet'"))
    )
    assert "I2" in {problem.invariant for problem in books.prove(database, key=KEY)}


def test_a_cut_tail_is_found_by_the_anchors(database: Database, tmp_path: Path) -> None:
    """Rows, uses, seals: all of the end is gone, and what is left looks whole."""
    path = tmp_path / anchors.FILE

    def seal_all(at: int) -> None:
        database.write(lambda session: seal.seal(session, key=KEY, now=at))
        with database.read() as session:
            head = seal.head(session)
        anchors.append(path, head=head, key=KEY, now=at, every=0)

    database.write(lambda s: log.record(s, type="one", actor="t", now=NOW))
    seal_all(NOW + 1)
    database.write(lambda s: log.record(s, type="two", actor="t", now=NOW + 2))
    seal_all(NOW + 3)
    assert books.prove(database, key=KEY, data_dir=tmp_path) == []
    with database.engine.begin() as connection:
        for table in ("event_log", "event_seal"):
            on = "" if database.sqlite else f" ON {table}"
            connection.execute(text(f"DROP TRIGGER {table}_no_delete{on}"))
        connection.execute(text("DELETE FROM event_log WHERE seq = 2"))
        connection.execute(text("DELETE FROM event_seal WHERE first_id = 2"))
        if database.sqlite:
            connection.execute(text("UPDATE sqlite_sequence SET seq = 1 WHERE name = 'event_log'"))
        triggers.create(connection)
    assert books.prove(database, key=KEY) == []
    [lost] = books.prove(database, key=KEY, data_dir=tmp_path)
    assert (lost.invariant, lost.facts["stream"], lost.facts["row"]) == ("I14", "event", 2)
    path.unlink()
    [missing] = books.prove(database, key=KEY, data_dir=tmp_path)
    assert missing.sentence == "The file of anchors is missing."


def test_every_job_of_the_schedule_runs(tmp_path: Path) -> None:
    """Seals with anchors, the reconciliation and the checkpoints among them."""

    async def story() -> None:
        async with running_app(tmp_path) as app:
            await person(app)
            for job in schedule.jobs(app):
                await asyncio.to_thread(job.run)
            with app.db.read() as session:
                assert differences.newest(session) is not None
                kept = session.execute(text("SELECT COUNT(*) FROM balance_checkpoint"))
                assert kept.scalar_one() > 0
            key = app.secrets.audit_key
            assert books.state(app).anchor is not None
            assert books.prove(app.db, key=key, data_dir=app.settings.data_dir) == []

    asyncio.run(story())
