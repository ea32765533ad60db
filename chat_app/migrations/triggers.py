"""Append-only tables: triggers that refuse every UPDATE and DELETE, on both databases.

Alembic's batch mode on SQLite drops triggers, so they are put back after each migration and
looked for at the start.
"""

from sqlalchemy import Connection, inspect, text

TABLES = (
    "transfer",
    "operation",
    "lot_use",
    "usage",
    "event_log",
    "event_seal",
    "price",
    "price_tier",
    "redemption",
    "periodic_grant",
    "seller",
    "invoice_line",
    "invoice_tax",
    "invoice_file",
    "receipt",
    "journal",
    "posting",
)
_FUNCTION = """CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = '23514'; END $$"""


class TriggersMissing(Exception):
    """A database whose books could be changed: the program does not start on it."""


def names(dialect: str) -> set[str]:
    """The triggers that must be there."""
    deeds = ("update", "delete") if dialect == "sqlite" else ("update", "delete", "truncate")
    return {f"{table}_no_{deed}" for table in TABLES for deed in deeds}


def create(connection: Connection) -> None:
    """Create the triggers of all tables that exist; those that are there are replaced."""
    dialect = connection.dialect.name
    there = set(inspect(connection).get_table_names())
    if dialect != "sqlite":
        connection.exec_driver_sql(_FUNCTION.replace("%", "%%"))
    for name in sorted(names(dialect)):
        table, _, deed = name.rpartition("_no_")
        if table not in there:
            continue
        if dialect == "sqlite":
            connection.execute(text(f"DROP TRIGGER IF EXISTS {name}"))
            connection.execute(
                text(
                    f"CREATE TRIGGER {name} BEFORE {deed.upper()} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                )
            )
        else:
            each = "STATEMENT" if deed == "truncate" else "ROW"
            connection.execute(text(f"DROP TRIGGER IF EXISTS {name} ON {table}"))
            connection.execute(
                text(
                    f"CREATE TRIGGER {name} BEFORE {deed.upper()} ON {table} "
                    f"FOR EACH {each} EXECUTE FUNCTION refuse_change()"
                )
            )


def missing(connection: Connection) -> list[str]:
    """The triggers that are not there, or switched off."""
    if connection.dialect.name == "sqlite":
        query = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    else:
        query = "SELECT tgname FROM pg_trigger WHERE tgenabled <> 'D' AND NOT tgisinternal"
    found = {row[0] for row in connection.execute(text(query))}
    return sorted(names(connection.dialect.name) - found)


def assert_triggers(connection: Connection) -> None:
    """Raise TriggersMissing with the names of those that are not there."""
    absent = missing(connection)
    if absent:
        raise TriggersMissing(
            f"These append-only triggers are missing: {', '.join(absent)}. "
            "Run `python -m chat_app migrate` to put them back, and `verify` to look for changes."
        )
