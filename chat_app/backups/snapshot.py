"""Snapshots: one moment of the database as a file, while others write; and the way back.

SQLite is copied by its own backup interface: a copy of the file would lose what was committed
just now. PostgreSQL is written by `pg_dump` and read by `pg_restore`.
"""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, create_engine, inspect, make_url, text
from sqlalchemy.exc import OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlmodel import Session

from chat_app.audit import seal
from chat_app.db import Database, DatabaseUnavailable
from chat_app.errors import Unavailable
from chat_app.fold import fold

SQLITE, POSTGRESQL = "sqlite", "postgresql"
NAMES = {SQLITE: "database.sqlite", POSTGRESQL: "database.dump"}


class CannotCopy(Unavailable):
    """The database could not be copied, or not be put back; the sentence says why."""

    code = "cannot_back_up"
    message = "The database could not be copied. Look at the server's log."


@dataclass(frozen=True)
class Facts:
    """What is in a database: the schema, the newest seals, and the rows of each table."""

    revision: str
    head: str
    counts: dict[str, int]


def kind(url: str) -> str:
    """`sqlite` or `postgresql`."""
    return make_url(url).get_backend_name()


def size(db: Database) -> int:
    """About how many bytes a copy needs."""
    if db.sqlite:
        path = Path(make_url(db.url).database or "")
        log = path.with_name(f"{path.name}-wal")
        return path.stat().st_size + (log.stat().st_size if log.exists() else 0)
    with db.read() as session:
        query = text("SELECT pg_database_size(current_database())")
        return int(session.execute(query).scalar_one())


def take(db: Database, target: Path) -> Facts:
    """Write the database as it is now to the new file `target`; raises CannotCopy."""
    return _take_sqlite(db.url, target) if db.sqlite else _take_postgres(db, target)


def facts(connection: Connection) -> Facts:
    """What this database holds; of a schema of any age."""
    tables = sorted(inspect(connection).get_table_names())
    counts = {
        name: int(connection.execute(text(f'SELECT COUNT(*) FROM "{name}"')).scalar_one())  # noqa: S608
        for name in tables
        if not name.startswith(("message_words", "sqlite_"))
    }
    revision = ""
    if "alembic_version" in tables:
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        revision = str(found or "")
    head = ""
    if "event_seal" in tables:
        try:
            with connection.begin_nested(), Session(connection) as session:
                head = seal.head(session)
        except SQLAlchemyError:  # an old schema
            head = ""
    return Facts(revision, head, counts)


@contextmanager
def sqlite_connection(path: Path) -> Iterator[Connection]:
    """A copy that nobody else uses, for reading."""
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    try:
        with engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.create_function("search_fold", 1, fold, deterministic=True)
            yield connection
    finally:
        engine.dispose()


def _take_sqlite(url: str, target: Path) -> Facts:
    source = make_url(url).database or ""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with closing(sqlite3.connect(source, timeout=30)) as there:
            there.execute("PRAGMA query_only=ON")
            with closing(sqlite3.connect(target)) as here:
                there.backup(here)  # all pages of one snapshot; writers go on meanwhile
                here.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
        sound(target)
    except sqlite3.Error as error:
        raise CannotCopy(f"The database could not be copied: {error}. Look at the disk.") from error
    with sqlite_connection(target) as connection:
        return facts(connection)


def sound(path: Path) -> None:
    """Whether SQLite finds the file whole; raises CannotCopy."""
    with closing(sqlite3.connect(path)) as connection:
        connection.create_function("search_fold", 1, fold, deterministic=True)
        try:
            found = [row[0] for row in connection.execute("PRAGMA quick_check")]
        except sqlite3.DatabaseError as error:
            found = [str(error)]
    if found != ["ok"]:
        raise CannotCopy(f"The database file is damaged: {found[0]}. Restore an earlier backup.")


def _take_postgres(db: Database, target: Path) -> Facts:
    with (
        db.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection,
        connection.begin(),
    ):
        # The dump shows the very moment that is counted here.
        moment = str(connection.exec_driver_sql("SELECT pg_export_snapshot()").scalar_one())
        found = facts(connection)
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        _run(
            db.url, "pg_dump", f"--snapshot={moment}", "--format=custom", "--compress=1",
            "--no-owner", "--no-privileges", f"--file={target}",
        )  # fmt: skip
    return found


@contextmanager
def scratch(url: str, name: str) -> Iterator[str]:
    """A new, empty PostgreSQL database beside that of `url`; gone at the end, unless renamed."""
    maintenance = create_engine(
        make_url(url).set(database="postgres"), isolation_level="AUTOCOMMIT", poolclass=NullPool
    )
    try:
        with maintenance.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}" TEMPLATE template0'))
        try:
            made = make_url(url).set(database=name)
            yield made.render_as_string(hide_password=False)
        finally:
            with maintenance.connect() as connection:
                connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
    except (OperationalError, ProgrammingError) as error:
        raise _refused(error) from error
    finally:
        maintenance.dispose()


def load(url: str, dump: Path) -> None:
    """Read a dump into the empty PostgreSQL database of `url`; raises CannotCopy."""
    _run(
        url, "pg_restore", "--exit-on-error", "--no-owner", "--no-privileges",
        "--single-transaction", f"--dbname={_plain(make_url(url))}", str(dump),
    )  # fmt: skip


def exchange(url: str, fresh: str, aside: str) -> None:
    """Give the database of `url` the name `aside`, and `fresh` its name.

    Raises CannotCopy when somebody is connected; then nothing was renamed.
    """
    name = make_url(url).database
    maintenance = create_engine(make_url(url).set(database="postgres"), poolclass=NullPool)
    try:
        with maintenance.begin() as connection:
            connection.execute(text(f'ALTER DATABASE "{name}" RENAME TO "{aside}"'))
            connection.execute(text(f'ALTER DATABASE "{fresh}" RENAME TO "{name}"'))
    except (OperationalError, ProgrammingError) as error:
        raise _refused(error) from error
    finally:
        maintenance.dispose()


def _refused(error: OperationalError | ProgrammingError) -> CannotCopy | DatabaseUnavailable:
    said = str(error.orig).splitlines()[0]
    if "permission denied" in said:
        return CannotCopy(
            "The database user may not create databases, which a restore needs: "
            "ALTER USER … CREATEDB, or give the URL of one who may."
        )
    if "being accessed" in said:
        return CannotCopy("Somebody is connected to the database. Stop all servers first.")
    return CannotCopy(f"The database server refused: {said}. Look at its log.")


def _run(url: str, program: str, *arguments: str) -> None:
    parts = make_url(url)
    if shutil.which(program) is None:
        raise CannotCopy(f"The program {program} is missing. Install PostgreSQL's client programs.")
    environment = {**os.environ, "PGPASSWORD": parts.password or ""}
    where = [] if program == "pg_restore" else [f"--dbname={_plain(parts)}"]
    done = subprocess.run(  # noqa: S603 - our own arguments
        [program, "--no-password", *where, *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
        raise CannotCopy(f"{program} failed: {said}. Look at the server's version and rights.")


def _plain(url: URL) -> str:
    """The URL for PostgreSQL's own programs, without the password."""
    plain = URL.create(
        "postgresql", url.username, None, url.host, url.port, url.database, url.query
    )
    return plain.render_as_string(hide_password=False)
