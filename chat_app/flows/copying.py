"""A copy of everything into an empty PostgreSQL: the way from one file to a server.

Ids stay, so that every reference, seal and receipt stays true. The whole copy is one
transaction: it is there as a whole or not at all. Stop the server first; a source that was
written meanwhile is noticed, and the copy is refused.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Table, func, inspect, make_url, select, text
from sqlalchemy.exc import ArgumentError, OperationalError

from chat_app import migrations
from chat_app.db import Database, DatabaseUnavailable
from chat_app.errors import Conflict, Invalid
from chat_app.migrations import triggers

CHUNK = 2_000


class BadTarget(Invalid):
    """The copy goes to PostgreSQL alone."""

    code = "bad_copy_target"
    message = (
        "The copy goes into a PostgreSQL database. "
        "Give a URL like postgresql+psycopg://USER:PASSWORD@HOST/NAME."
    )


class TargetNotEmpty(Conflict):
    """Something is in the target already."""

    code = "copy_target_not_empty"
    message = "The target has tables already, and nothing was copied. Give an empty database."


class SourceWasWritten(Conflict):
    """A server was writing while the copy was made."""

    code = "copy_source_written"
    message = "The source was written during the copy, so nothing was kept. Stop the server first."


def copy_to(source: Database, url: str) -> dict[str, int]:
    """Copy all tables; returns the rows of each. The source has the newest schema.

    Raises BadTarget, TargetNotEmpty, SourceWasWritten or DatabaseUnavailable, and then the
    target is as it was.
    """
    from alembic import command

    try:
        if make_url(url).get_backend_name() != "postgresql":
            raise BadTarget
    except ArgumentError as error:
        raise BadTarget from error
    target = Database(url)
    try:
        with (
            target.engine.begin() as connection,
            _watched(source) as writes,
            source.read() as session,
        ):
            if inspect(connection).get_table_names():
                raise TargetNotEmpty
            before = writes()
            if not source.sqlite:
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            command.upgrade(migrations.config(connection), "head")
            counts = _fill(session.connection(), connection)
            if writes() != before:
                raise SourceWasWritten
        return counts
    except OperationalError as error:
        failure = DatabaseUnavailable("The target cannot be reached. Check its URL and server.")
        raise failure from error
    finally:
        target.close()


def _fill(source: Connection, target: Connection) -> dict[str, int]:
    tables = migrations.metadata().sorted_tables
    _defer_references(target)
    # A migration may have added rows of its own: the source has them too.
    _switch_triggers(target, tables, "DISABLE")
    for table in reversed(tables):
        target.execute(table.delete())
    counts = {}
    for table in tables:
        counts[table.name] = 0
        for rows in _chunks(source, table):
            target.execute(table.insert(), rows)
            counts[table.name] += len(rows)
    target.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
    _enforce_references(target)
    _switch_triggers(target, tables, "ENABLE")
    for table in tables:
        _continue_numbers(target, table)
    triggers.assert_triggers(target)
    return counts


def _chunks(source: Connection, table: Table) -> Iterator[list[dict[str, Any]]]:
    result = source.execution_options(yield_per=CHUNK).execute(
        select(table).order_by(*table.primary_key.columns)
    )
    for part in result.mappings().partitions():
        yield [dict(row) for row in part]


def _references(target: Connection) -> list[tuple[str, str]]:
    query = """SELECT conrelid::regclass::text, conname FROM pg_constraint
     WHERE contype = 'f' AND connamespace = current_schema()::regnamespace"""
    return [(row[0], row[1]) for row in target.execute(text(query))]


def _defer_references(target: Connection) -> None:
    """Rows may name rows of their own table that come later: look at the end."""
    for table, name in _references(target):
        target.execute(
            text(f'ALTER TABLE {table} ALTER CONSTRAINT "{name}" DEFERRABLE INITIALLY DEFERRED')
        )


def _enforce_references(target: Connection) -> None:
    for table, name in _references(target):
        target.execute(text(f'ALTER TABLE {table} ALTER CONSTRAINT "{name}" NOT DEFERRABLE'))


def _switch_triggers(target: Connection, tables: list[Table], state: str) -> None:
    there = {table.name for table in tables}
    for name in triggers.names("postgresql"):
        table = name.rpartition("_no_")[0]
        if table in there:
            target.execute(text(f"ALTER TABLE {table} {state} TRIGGER {name}"))


def _continue_numbers(target: Connection, table: Table) -> None:
    """The next number comes after the highest that was copied."""
    for column in table.primary_key.columns:
        sequence = target.execute(
            text("SELECT pg_get_serial_sequence(:table, :column)"),
            {"table": f'"{table.name}"', "column": column.name},
        ).scalar_one()
        highest = target.execute(select(func.max(column))).scalar_one() if sequence else None
        if highest is not None:
            target.execute(
                text("SELECT setval(CAST(:name AS regclass), :value)"),
                {"name": sequence, "value": highest},
            )


@contextmanager
def _watched(source: Database) -> Iterator[Callable[[], int]]:
    """A number that changes when anybody writes to the source; always 0 on PostgreSQL."""
    if not source.sqlite:
        yield lambda: 0
        return
    # The number means something on one connection only.
    with source.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        yield lambda: int(driver.execute("PRAGMA data_version").fetchone()[0])
