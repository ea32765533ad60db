"""The database: stories that fail leave nothing, and do not harm those beside them."""

import threading

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlmodel import Session

from chat_app.audit import log
from chat_app.audit.tables import EventRow
from chat_app.db import Database, DatabaseUnavailable


def add(session: Session, name: str) -> None:
    log.record(session, type=name, actor="test", now=0)


def names(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.execute(text("SELECT type FROM event_log ORDER BY type")).scalars())


def test_a_story_that_raises_leaves_nothing(database: Database) -> None:
    def story(session: Session) -> None:
        add(session, "lost")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        database.write(story)
    assert names(database) == []


def test_stories_in_one_batch_do_not_harm_each_other(database: Database) -> None:
    """A failed flush ends its own story; its neighbours in the batch are kept."""
    gate = threading.Event()
    database.submit(lambda session: gate.wait(5))

    def bad_flush(session: Session) -> None:
        add(session, "bad")
        session.add(EventRow(at=0, type="bad", actor=None, payload=""))  # type: ignore[arg-type]

    def by_statement(session: Session) -> None:
        add(session, "bad")
        session.execute(text("INSERT INTO event_log (at) VALUES (1)"))

    waiting = [
        database.submit(lambda session: add(session, "a")),
        database.submit(bad_flush),
        database.submit(by_statement),
        database.submit(
            lambda session: session.add(EventRow(at=0, type="b", actor="", payload=""))
        ),
    ]
    gate.set()
    waiting[0].result(10)
    for failed in waiting[1:3]:
        with pytest.raises(IntegrityError):
            failed.result(10)
    waiting[3].result(10)
    assert names(database) == ["a", "b"]


def test_readers_cannot_write_on_sqlite(sqlite_database: Database) -> None:
    with (
        sqlite_database.read() as session,
        pytest.raises(OperationalError, match="readonly"),
    ):
        add(session, "x")


def test_closing_finishes_what_was_accepted(database: Database) -> None:
    waiting = [database.submit(lambda session: add(session, "x")) for _ in range(50)]
    database.close()
    assert all(future.result(1) is None for future in waiting)
    with pytest.raises(DatabaseUnavailable):
        database.write(lambda session: add(session, "late"))


def test_durability_is_not_traded_for_speed(sqlite_database: Database) -> None:
    """WAL with synchronous=FULL: NORMAL loses acknowledged charges in a power cut."""
    found = sqlite_database.write(
        lambda session: (
            session.execute(text("PRAGMA journal_mode")).scalar_one(),
            session.execute(text("PRAGMA synchronous")).scalar_one(),
            session.execute(text("PRAGMA foreign_keys")).scalar_one(),
        )
    )
    assert found == ("wal", 2, 1)
