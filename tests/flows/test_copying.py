"""SQLite to PostgreSQL: everything arrives as it was, can go on, and is proven there."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DatabaseError

from chat_app import migrations
from chat_app.audit import log
from chat_app.credits import holds
from chat_app.db import Database, DatabaseUnavailable
from chat_app.flows import books, copying, reconcile
from tests.apps import person, running_app
from tests.credits.books import fresh
from tests.flows.test_reconcile import history

pytestmark = pytest.mark.postgres


async def busy_history(folder: Path) -> tuple[bytes, int]:
    """A history with an open hold, seals and an anchor; the audit key and the hold."""
    async with running_app(folder) as app:
        await history(app)
        user = await person(app, "bob")
        hold = app.db.write(
            lambda session: holds.place(
                session, user_id=user, micro=5, ttl_seconds=3600, now=app.clock.micros(),
                scope="t", key="open",
            )
        )  # fmt: skip
        await asyncio.to_thread(books.seal_and_anchor, app)
        await asyncio.to_thread(reconcile.run, app)
        return app.secrets.audit_key, hold.id


def rows(database: Database) -> dict[str, list[object]]:
    """All rows of all tables, in order."""
    with database.read() as session:
        return {
            table.name: [
                tuple(row)
                for row in session.execute(select(table).order_by(*table.primary_key.columns))
            ]
            for table in migrations.metadata().sorted_tables
        }


def test_a_copy_is_the_same_and_goes_on(tmp_path: Path, empty_postgres_url: str) -> None:
    key, hold_id = asyncio.run(busy_history(tmp_path))
    source = Database(f"sqlite:///{tmp_path / 'chat.db'}")
    counts = copying.copy_to(source, empty_postgres_url)
    target = Database(empty_postgres_url)
    try:
        before, after = rows(source), rows(target)
        assert {name: sorted(some, key=str) for name, some in after.items()} == {
            name: sorted(some, key=str) for name, some in before.items()
        }
        assert counts == {name: len(some) for name, some in before.items()}
        assert counts["reply"] == 4
        assert books.prove(target, key=key, data_dir=tmp_path) == []
        assert reconcile.compare(target, now=0) == []
        # It goes on: new numbers follow, the open hold can be settled, the tables are closed.
        highest = max(row[0] for row in before["transfer"])  # type: ignore[index]
        now = 2_000_000_000_000_000
        target.write(lambda s: log.record(s, type="test", actor="test", now=now))
        assert target.write(lambda s: holds.sweep(s, now=now)) == 1
        with target.read() as session:
            table = migrations.metadata().tables["transfer"]
            assert session.execute(select(func.max(table.c.id))).scalar_one() > highest
            row = session.execute(text("SELECT state FROM hold WHERE id = :id"), {"id": hold_id})
            assert row.scalar_one() == "expired"
        with pytest.raises(DatabaseError, match="append-only"):
            target.write(lambda s: s.execute(text("UPDATE transfer SET amount = 1")))
        with pytest.raises(DatabaseError, match="foreign key"):
            target.write(
                lambda s: (
                    s.execute(text("UPDATE hold SET account_id = 999999 WHERE state='open'"))
                    and s.execute(text("UPDATE lot SET account_id = 999999"))
                )
            )
        assert books.prove(target, key=key, data_dir=tmp_path) == []
        with pytest.raises(copying.TargetNotEmpty):
            copying.copy_to(source, empty_postgres_url)
    finally:
        source.close()
        target.close()


def test_a_source_that_is_written_meanwhile_is_refused(
    sqlite_database: Database, empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the copy stays."""
    fill = copying._fill

    def slow(*arguments: object) -> dict[str, int]:
        counts = fill(*arguments)  # type: ignore[arg-type]
        sqlite_database.write(lambda s: log.record(s, type="t", actor="t", now=1, key=fresh()))
        return counts

    monkeypatch.setattr(copying, "_fill", slow)
    with pytest.raises(copying.SourceWasWritten):
        copying.copy_to(sqlite_database, empty_postgres_url)
    monkeypatch.undo()
    assert copying.copy_to(sqlite_database, empty_postgres_url)["event_log"] == 1


@pytest.mark.parametrize("url", ["sqlite:///other.db", "nonsense", ""])
def test_only_postgresql_is_a_target(sqlite_database: Database, url: str) -> None:
    with pytest.raises(copying.BadTarget):
        copying.copy_to(sqlite_database, url)


def test_a_target_that_is_not_there(sqlite_database: Database, tmp_path: Path) -> None:
    url = f"postgresql+psycopg://nobody@/none?host={tmp_path}"
    with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
        copying.copy_to(sqlite_database, url)
