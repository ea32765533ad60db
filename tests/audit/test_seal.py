"""Seals: whatever is done to sealed rows without the key shows."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from chat_app.audit import log, seal
from chat_app.db import Database

KEY, OTHER = b"a" * 32, b"b" * 32
NOON = 1_767_268_800_000_000


def events(database: Database, count: int) -> None:
    for number in range(count):
        database.write(
            lambda session, some=number: log.record(
                session, type="test", actor="user:1", now=NOON, number=some, text="é\n"
            )
        )


def sealed(database: Database, key: bytes = KEY) -> int:
    return database.write(lambda session: seal.seal(session, key=key, now=NOON))


def problems(database: Database, key: bytes = KEY, published: str = "") -> list[str]:
    with database.read() as session:
        return [found.invariant for found in seal.verify(session, key=key, published=published)]


def around_the_triggers(database: Database, statement: str) -> None:
    with database.engine.begin() as connection:
        for table in ("event_log", "event_seal"):
            for deed in ("update", "delete"):
                where = "" if database.sqlite else f" ON {table}"
                connection.execute(text(f"DROP TRIGGER {table}_no_{deed}{where}"))
        connection.execute(text(statement))


def test_what_is_sealed_is_sealed_once(database: Database) -> None:
    events(database, 3)
    assert sealed(database) == 3
    assert sealed(database) == 0
    events(database, 2)
    assert sealed(database) == 2
    assert problems(database) == []


def test_blocks_of_a_long_log_are_chained(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal, "BLOCK", 4)
    events(sqlite_database, 10)
    assert sealed(sqlite_database) == 10
    with sqlite_database.read() as session:
        blocks = session.execute(text("SELECT first_id, last_id, count FROM event_seal")).all()
    assert [tuple(block) for block in blocks] == [(1, 4, 4), (5, 8, 4), (9, 10, 2)]
    assert problems(sqlite_database) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE event_log SET actor = 'user:2' WHERE seq = 2",
        "DELETE FROM event_log WHERE seq = 2",
        "UPDATE event_log SET seq = 20 WHERE seq = 2",
        "UPDATE event_seal SET mac = 'another' WHERE id = 1",
    ],
)
def test_a_change_shows(database: Database, statement: str) -> None:
    """I13."""
    events(database, 3)
    sealed(database)
    around_the_triggers(database, statement)
    assert problems(database) == ["I13"]


def test_the_log_refuses_changes(database: Database) -> None:
    events(database, 1)
    sealed(database)
    for statement in ("UPDATE event_log SET at = 0", "DELETE FROM event_seal"):
        with pytest.raises(DatabaseError, match="append-only"):
            database.write(lambda session, words=statement: session.execute(text(words)))


def test_another_key_does_not_verify(database: Database) -> None:
    events(database, 1)
    sealed(database)
    assert problems(database, OTHER) == ["I14"]


def test_a_cut_tail_shows_against_a_published_head(database: Database) -> None:
    """A chain alone cannot show that its end is gone: that takes a head kept elsewhere."""
    events(database, 2)
    sealed(database)
    events(database, 2)
    sealed(database)
    with database.read() as session:
        published = seal.head(session)
    assert problems(database, published=published) == []
    around_the_triggers(database, "DELETE FROM event_seal WHERE first_id = 3")
    with database.engine.begin() as connection:
        connection.execute(text("DELETE FROM event_log WHERE seq > 2"))
    assert problems(database) == []
    assert problems(database, published=published) == ["I14"]
