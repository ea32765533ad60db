"""Migrations: the schema's history, for SQLite and PostgreSQL.

`chat_app.db.migrate` runs them. To write the next one after changing a `tables.py`:
`python -m chat_app.migrations "what changes"`.
"""

import pkgutil
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection, MetaData

HERE = Path(__file__).parent


def config(connection: "Connection | None" = None) -> "Config":
    """Alembic's configuration, without a file; `connection` is what it works on."""
    from alembic.config import Config

    made = Config()
    # A "%" would be read as an interpolation.
    made.set_main_option("script_location", str(HERE).replace("%", "%%"))
    made.attributes["connection"] = connection
    return made


def head() -> str:
    """The newest revision."""
    from alembic.script import ScriptDirectory

    newest = ScriptDirectory.from_config(config()).get_current_head()
    assert newest is not None, "there is at least one migration"
    return newest


def metadata() -> "MetaData":
    """The tables of all rooms, as the program defines them."""
    from sqlmodel import SQLModel

    package = import_module("chat_app")
    for found in pkgutil.walk_packages(package.__path__, "chat_app."):
        if found.name.endswith("tables") or found.name == "chat_app.jobs":
            import_module(found.name)
    return SQLModel.metadata


def difference(connection: "Connection") -> list[Any]:
    """What the database lacks or has too much, compared with the tables of the program."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from chat_app.migrations import full_text

    options = {"compare_type": True, "include_object": full_text.include}
    context = MigrationContext.configure(connection, opts=options)
    return list(compare_metadata(context, metadata()))
