"""Prebuilt statements, run on a session's connection at the driver's speed.

The ledger's hot path is some twenty statements for a message. As text they cost a tenth of
what the ORM needs for them, and they read the same for SQLite and PostgreSQL. Errors are
SQLAlchemy's, whichever way a statement takes.
"""

import re
import sqlite3
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session

Row = Any
_PARAMETER = re.compile(r"(?<![\w:]):(\w+)")


class Statement:
    """SQL with `:name` parameters. `lock` adds FOR UPDATE where rows are locked one by one;
    `returning` names the new row's key of an INSERT.
    """

    __slots__ = ("postgres", "sqlite")

    def __init__(self, text: str, *, lock: bool = False, returning: str | None = None) -> None:
        text = " ".join(text.split())
        self.sqlite = text
        self.postgres = _PARAMETER.sub(r"%(\1)s", text)
        if lock:
            self.postgres += " FOR UPDATE"
        if returning:
            self.postgres += f" RETURNING {returning}"


class Books:
    """The connection of a session's transaction. What the session has pending is flushed first.

    In the SQLite writer the session is bound to a connection that is inside a savepoint
    already, so its own transaction need not begin.
    """

    __slots__ = ("_connection", "_raw", "sqlite")

    def __init__(self, session: Session) -> None:
        if session.new or session.dirty or session.deleted:
            session.flush()
        connection = session.bind
        if not isinstance(connection, Connection) or session.in_transaction():
            connection = session.connection()
        self._connection: Connection = connection
        self.sqlite = connection.dialect.name == "sqlite"
        self._raw: Any = connection.connection.driver_connection if self.sqlite else None

    def rows(self, statement: Statement, **values: object) -> list[Row]:
        """All rows of a query, as tuples."""
        if self.sqlite:
            rows: list[Row] = self._execute(statement.sqlite, values).fetchall()
            return rows
        return list(self._connection.exec_driver_sql(statement.postgres, values))

    def one(self, statement: Statement, **values: object) -> Row | None:
        """The first row of a query, or None."""
        rows = self.rows(statement, **values)
        return rows[0] if rows else None

    def change(self, statement: Statement, **values: object) -> int:
        """Run an UPDATE, INSERT or DELETE; returns how many rows it touched."""
        if self.sqlite:
            return int(self._execute(statement.sqlite, values).rowcount)
        return self._connection.exec_driver_sql(statement.postgres, values).rowcount

    def insert(self, statement: Statement, **values: object) -> int:
        """Run an INSERT of one row; returns its key. The statement names it in `returning`."""
        if self.sqlite:
            return int(self._execute(statement.sqlite, values).lastrowid)
        return int(self._connection.exec_driver_sql(statement.postgres, values).scalar_one())

    def _execute(self, text: str, values: dict[str, object]) -> Any:
        try:
            return self._raw.execute(text, values)
        except sqlite3.Error as error:
            raise DBAPIError.instance(text, values, error, sqlite3.Error) from error
