"""Every revision down and up again with rows in every table, on both databases."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, Table, func, inspect, select

from chat_app import db as database_room
from chat_app import migrations
from chat_app.audit.seal import Problem
from chat_app.db import Database
from chat_app.flows import books
from chat_app.migrations import triggers
from tests.credits.test_verify import KEY, history
from tests.effort import effort


def revisions() -> list[str]:
    """All revisions, newest first."""
    script = ScriptDirectory.from_config(migrations.config())
    return [revision.revision for revision in script.walk_revisions()]


def move(database: Database, revision: str, *, down: bool) -> None:
    """To another revision, as `migrate` does it."""
    go = command.downgrade if down else command.upgrade
    with database.engine.connect() as connection:
        if database.sqlite:
            driver: Any = connection.connection.driver_connection
            driver.execute("PRAGMA foreign_keys=OFF")
        with connection.begin():
            go(migrations.config(connection), revision)


def content(connection: Connection) -> dict[str, dict[str, list[object]]]:
    """All values of every table that there is, by column, in the order of the keys."""
    found = MetaData()
    found.reflect(connection)
    kept = {}
    for table in found.tables.values():
        if table.name == "alembic_version":
            continue
        keys = list(table.primary_key.columns) or list(table.columns)
        rows = connection.execute(select(table).order_by(*keys)).mappings().all()
        kept[table.name] = {
            column.name: [row[column.name] for row in rows] for column in table.columns
        }
    return kept


def fill_the_rest(connection: Connection) -> None:
    """A row in each table that has none, made of its columns' types, where its rules allow."""
    for table in migrations.metadata().sorted_tables:
        if not connection.execute(select(func.count()).select_from(table)).scalar_one():
            row = _row(connection, table)
            place = connection.begin_nested()
            try:
                connection.execute(table.insert(), row)
            except Exception:
                place.rollback()  # its CHECKs want more than a guess
            else:
                place.commit()


def _row(connection: Connection, table: Table) -> dict[str, Any]:
    row: dict[str, Any] = {}
    rules = " ".join(str(getattr(rule, "sqltext", "")) for rule in table.constraints)
    for column in table.columns:
        reference = next(iter(column.foreign_keys), None)
        if reference is not None and not column.nullable:
            row[column.name] = connection.execute(
                select(func.max(reference.column))
            ).scalar_one_or_none()
        elif not column.nullable and column.server_default is None:
            allowed = re.search(rf"\b{column.name} IN \('([^']+)'", rules)
            values: dict[type, Any] = {int: 1, bool: False, bytes: b"x"}
            row[column.name] = allowed[1] if allowed else values.get(column.type.python_type, "x")
    return row


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def filled(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database of today's schema with a history in it."""
    name = "sqlite_database" if request.param == "sqlite" else "postgres_url"
    found = request.getfixturevalue(name)
    database = found if isinstance(found, Database) else Database(found)
    history(database)
    with database.engine.begin() as connection:
        fill_the_rest(connection)
    yield database
    database.close()


def of_the_books(database: Database) -> list[Problem]:
    """What is found in a history with made-up rows, but of documents: their tables come and go."""
    documents = ("I15", "I17", "I18")  # receipts, refunds, invoices
    found = books.prove(database, key=KEY)
    return [item for item in found if item.invariant not in documents]


def test_every_revision_goes_down_and_up_with_rows(filled: Database) -> None:
    """What a revision has columns for survives the way down to it and up again."""
    with filled.read() as session:
        at_head = content(session.connection())
    proof = of_the_books(filled)
    every = revisions()
    # Each way goes through all that is newer, so some of them see every revision too.
    some = {*every[1:4], *every[4::4], every[-1]}
    for below in [name for name in every[1:] if name in effort(set(every), some)]:
        move(filled, below, down=True)
        with filled.read() as session:
            at_below = content(session.connection())
            absent = triggers.missing(session.connection())
        _same_where_both_have_it(at_head, at_below)
        # The tables that are there are still closed.
        assert not {name for name in absent if name.rpartition("_no_")[0] in at_below}
        move(filled, "head", down=False)
        with filled.read() as session:
            again = content(session.connection())
            assert migrations.difference(session.connection()) == []
        _same_where_both_have_it(at_below, again)
        assert database_room.schema_is_current(filled)
    assert of_the_books(filled) == proof
    with filled.engine.connect() as connection:
        if filled.sqlite:
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []


def _same_where_both_have_it(
    one: dict[str, dict[str, list[object]]], other: dict[str, dict[str, list[object]]]
) -> None:
    for table in one.keys() & other.keys():
        for column in one[table].keys() & other[table].keys():
            assert one[table][column] == other[table][column], f"{table}.{column}"


def test_the_walk_has_rows_in_most_tables(filled: Database) -> None:
    """An empty table proves nothing."""
    with filled.read() as session:
        counts = {
            table.name: session.execute(select(func.count()).select_from(table)).scalar_one()
            for table in migrations.metadata().sorted_tables
        }
    empty = [name for name, count in counts.items() if not count]
    assert len(empty) <= len(counts) // 4, empty


def test_the_first_revision_goes_away_whole(tmp_path: Path) -> None:
    """Down to nothing leaves nothing but Alembic's own table."""
    database = Database(f"sqlite:///{tmp_path / 'gone.db'}")
    try:
        database_room.migrate(database)
        move(database, "base", down=True)
        with database.read() as session:
            left = inspect(session.connection()).get_table_names()
        assert left == ["alembic_version"]
    finally:
        database.close()
