"""One writer with group commit on SQLite, the same interface on PostgreSQL."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlmodel import Session

from chat_app.db import BATCH, Database, DatabaseUnavailable


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database with one counter and one list."""
    url = (
        f"sqlite:///{tmp_path / 'plain.db'}"
        if request.param == "sqlite"
        else request.getfixturevalue("empty_postgres_url")
    )
    database = Database(url)

    def create(session: Session) -> None:
        session.execute(text("CREATE TABLE line (id INTEGER PRIMARY KEY, who TEXT)"))
        session.execute(text("CREATE TABLE counter (n BIGINT CHECK (n >= 0))"))
        session.execute(text("INSERT INTO counter VALUES (100)"))

    database.write(create)
    yield database
    database.close()


def _add(number: int, who: str = "a") -> Callable[[Session], int]:
    def story(session: Session) -> int:
        session.execute(text("INSERT INTO line VALUES (:id, :who)"), {"id": number, "who": who})
        return number

    return story


def _lines(database: Database) -> list[int]:
    with database.read() as session:
        return list(session.execute(text("SELECT id FROM line ORDER BY id")).scalars())


def test_a_story_is_all_or_nothing(plain: Database) -> None:
    def half(session: Session) -> None:
        session.execute(text("INSERT INTO line VALUES (1, 'x')"))
        raise KeyError("later")

    with pytest.raises(KeyError):
        plain.write(half)
    assert _lines(plain) == []


def test_one_bad_story_of_a_batch_hurts_nobody_else(plain: Database) -> None:
    gate = threading.Event()
    first = plain.submit(lambda session: gate.wait(5))
    futures = [plain.submit(_add(number % 50)) for number in range(2 * BATCH)]  # type: ignore[arg-type]
    gate.set()
    first.result()
    failed = [future for future in futures if future.exception() is not None]
    assert _lines(plain) == list(range(50))
    assert len(failed) == 2 * BATCH - 50


def test_conditional_updates_never_pass_together(plain: Database) -> None:
    """T1 at the bottom: 320 takers, 100 to take."""

    def take(session: Session) -> int:
        result = session.execute(text("UPDATE counter SET n = n - 1 WHERE n >= 1"))
        return int(result.rowcount)  # type: ignore[attr-defined]

    futures = [plain.submit(take) for _ in range(320)]
    assert sum(future.result() for future in futures) == 100


def test_a_coroutine_can_wait_for_a_write(plain: Database) -> None:
    assert asyncio.run(plain.awrite(_add(7))) == 7  # type: ignore[arg-type]
    assert _lines(plain) == [7]


def test_a_read_session_cannot_write_on_sqlite(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    database.write(lambda session: session.execute(text("CREATE TABLE t (n INTEGER)")))
    with database.read() as session, pytest.raises(OperationalError):
        session.execute(text("INSERT INTO t VALUES (1)"))
    database.close()


def test_a_closed_database_refuses(plain: Database) -> None:
    plain.write(_add(1))
    plain.close()
    with pytest.raises(DatabaseUnavailable):
        plain.write(_add(2))


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """Every write that returned is there after SIGKILL; SQLite runs with synchronous=FULL."""
    code = f"""
import sys
from sqlalchemy import text
from chat_app.db import Database
database = Database("sqlite:///{tmp_path / "kill.db"}")
database.write(lambda s: s.execute(text("CREATE TABLE IF NOT EXISTS line (id INTEGER)")))
for number in range(100000):
    database.write(lambda s: s.execute(text("INSERT INTO line VALUES (:n)"), {{"n": number}}))
    print(number, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = -1
    for line in process.stdout:
        acknowledged = int(line)
        if acknowledged == 150:
            process.kill()
    process.wait()
    database = Database(f"sqlite:///{tmp_path / 'kill.db'}")
    assert _lines(database) == list(range(len(_lines(database))))
    assert len(_lines(database)) > acknowledged
    with database.read() as session:
        assert session.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert session.execute(text("PRAGMA synchronous")).scalar() == 2
    database.close()


def test_closing_finishes_what_was_accepted(plain: Database) -> None:
    futures = [plain.submit(_add(number)) for number in range(100)]
    plain.close()
    assert sorted(future.result() for future in futures) == list(range(100))
