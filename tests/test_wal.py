"""The write-ahead log: carried over beside the writer, and never longer than it may be."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from chat_app import wal
from chat_app.db import Database

PAGE = 4096
ROW = "x" * 500


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A database of one table, carried over after each 200 rows, long at 100 pages."""
    monkeypatch.setattr(wal, "ROWS", 200)
    monkeypatch.setattr(wal, "LONG_PAGES", 100)
    made = Database(f"sqlite:///{tmp_path}/books.db")
    made.write(lambda session: session.execute(text("CREATE TABLE line (words TEXT)")) and None)
    yield made
    made.close()


def write(database: Database, rows: int) -> None:
    def story(session: Any) -> None:
        session.execute(text("INSERT INTO line VALUES (:words)"), [{"words": ROW}] * rows)

    database.write(story)


def carried(tmp_path: Path) -> int:
    """Rows in the database file itself, as a copy without its log shows them."""
    copy = tmp_path / "copy.db"
    copy.write_bytes((tmp_path / "books.db").read_bytes())
    with sqlite3.connect(copy) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM line").fetchone()[0])
        except sqlite3.DatabaseError:  # caught in the middle of being carried over
            return 0


def test_no_commit_carries_the_log_by_itself(database: Database, tmp_path: Path) -> None:
    driver: Any = database.engine.raw_connection()
    assert driver.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
    driver.close()
    write(database, 150)
    assert carried(tmp_path) == 0


def test_the_log_is_carried_over_beside_the_writer(database: Database, tmp_path: Path) -> None:
    write(database, 250)
    for _ in range(200):
        if carried(tmp_path) == 250:
            break
        time.sleep(0.02)
    assert carried(tmp_path) == 250


def test_the_log_begins_again_although_writing_never_stops(
    database: Database, tmp_path: Path
) -> None:
    log = tmp_path / "books.db-wal"
    for _ in range(400):
        write(database, 100)
    total = (tmp_path / "books.db").stat().st_size
    assert total > 10_000_000
    assert log.stat().st_size < total / 2


def test_a_log_that_cannot_be_carried_loses_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(wal, "_CARRY", "SELECT * FROM no_such_table")
    write(database, 250)
    write(database, 250)
    with database.read() as session:
        assert session.execute(text("SELECT count(*) FROM line")).scalar_one() == 500
