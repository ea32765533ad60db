"""The database: one writer with group commit on SQLite, a pool on PostgreSQL, one interface.

`write(story)` runs `story(session)` in a transaction and returns after it is durable; a story
that raises leaves nothing behind. `read()` gives a session for queries. Domain functions take
the session and flush; they never commit.

On SQLite all writes of the process go through one thread: up to 64 stories that wait are run
one after another inside one `BEGIN IMMEDIATE`, each in its own savepoint, and share one fsync.
That is faster than a transaction each, fair between callers, and no two stories interleave.
"""

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import BigInteger, Connection, Engine, Integer, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool, QueuePool
from sqlmodel import Session, SQLModel

from chat_app.errors import AppError, Unavailable
from chat_app.fold import fold
from chat_app.wal import Carrier

T = TypeVar("T")
Story = Callable[[Session], T]

BigInt = BigInteger().with_variant(Integer, "sqlite")
BATCH = 64
# Of each reader of a SQLite file, and there may be forty; the system caches the file for all.
READER_CACHE_KIB = 512
PG_WRITERS = 8
PG_ATTEMPTS = 5
# Serialization failure, deadlock: the transaction did nothing and may simply run again.
PG_RETRY_STATES = {"40001", "40P01"}
# A server that is out of reach is noticed: without these a lost packet is waited for by minutes.
PG_WAITS = {"connect_timeout": 5, "tcp_user_timeout": 20_000, "keepalives_idle": 20}
MIGRATION_LOCK = 7_250_116  # any number: the same for all processes of this program
# `session.info` key: callbacks that run in the same batch after a story was rolled back.
AFTER_ROLLBACK = "after_rollback"

# Alembic can only change a constraint that has a name, so every one gets one.
SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class DatabaseUnavailable(Unavailable):
    """The database cannot be written: disk full, locked by another program, gone."""

    code = "database_unavailable"
    message = "The books cannot be written right now, so nothing was done. Try again in a moment."


class Waits:
    """How long writes took, from being asked for to being durable. Safe from any thread."""

    MOST = 2000

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: list[float] = []
        self.total = 0
        self.seconds_total = 0.0

    def add(self, seconds: float) -> None:
        """One more write is durable."""
        with self._lock:
            self.total += 1
            self.seconds_total += seconds
            if len(self._seconds) < self.MOST:
                self._seconds.append(seconds)

    def take(self) -> list[float]:
        """The writes since the last call, sorted; of very many the first ones."""
        with self._lock:
            taken, self._seconds = self._seconds, []
        return sorted(taken)


@dataclass
class _Ticket:
    story: Story[Any]
    future: "Future[Any]" = field(default_factory=Future)
    at: float = field(default_factory=time.monotonic)


class Database:
    """Reads and writes by URL. `close()` finishes what was accepted."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.waits = Waits()
        self.sqlite = make_url(url).get_backend_name() == "sqlite"
        if self.sqlite:
            path = make_url(url).database
            if path and path != ":memory:":
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self.engine = _sqlite_engine(url, immediate=True)
            self._reader = _sqlite_engine(url, immediate=False)
            self._queue: queue.SimpleQueue[_Ticket | None] = queue.SimpleQueue()
            self._thread: threading.Thread | None = None
            self._starting = threading.Lock()
            self._carrier = Carrier(path or "")
        else:
            given = make_url(url).query
            self.engine = create_engine(
                url,
                pool_size=PG_WRITERS + 4,
                max_overflow=8,
                hide_parameters=True,
                connect_args={key: wait for key, wait in PG_WAITS.items() if key not in given},
            )
            self._reader = self.engine
            self._pool = ThreadPoolExecutor(PG_WRITERS, thread_name_prefix="db-write")
        self._closed = False

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for queries: one snapshot, nothing written, closed at the end.

        Raises DatabaseUnavailable when the database cannot be reached.
        """
        try:
            with Session(self._reader, expire_on_commit=False) as session:
                yield session
        except DBAPIError as error:
            shown = _translated(error)
            if shown is error or _is_ours(error):
                raise
            raise shown from error

    def submit(self, story: Story[T]) -> "Future[T]":
        """Queue a write and return at once; the future holds its result when it is durable."""
        if self._closed:
            raise DatabaseUnavailable
        if not self.sqlite:
            return self._pool.submit(self._run_alone, story)
        self._ensure_writer()
        ticket = _Ticket(story)
        self._queue.put(ticket)
        return ticket.future

    def write(self, story: Story[T]) -> T:
        """Run `story(session)` in a write transaction; return when it is durable.

        Raises what the story raises, and DatabaseUnavailable when the database cannot be
        written; in both cases nothing was changed.
        """
        if not self.sqlite:
            if self._closed:
                raise DatabaseUnavailable
            return self._run_alone(story)
        return self.submit(story).result()

    async def awrite(self, story: Story[T]) -> T:
        """`write` for a coroutine: the event loop stays free meanwhile."""
        return await asyncio.wrap_future(self.submit(story))

    def scrub(self) -> bool:
        """Empty the file of recent writes, which still shows what was deleted just now.

        False if a reader was in the way: then the file is overwritten by later writes. Does
        nothing on PostgreSQL, where that is the server's business.
        """
        if not self.sqlite:
            return True
        with self.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.execute("PRAGMA busy_timeout=2000")
            busy = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        return not busy

    def close(self) -> None:
        """Finish the queued writes and close all connections."""
        if self._closed:
            return
        self._closed = True
        if self.sqlite:
            if self._thread is not None:
                self._queue.put(None)
                self._thread.join()
            self._carrier.close()
            self._reader.dispose()
        else:
            self._pool.shutdown()
        self.engine.dispose()

    # SQLite: the writer thread

    def _ensure_writer(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._writer, name="db-writer", daemon=True)
                self._thread.start()

    def _writer(self) -> None:
        connection: Connection | None = None
        while True:
            batch, last = self._next_batch()
            if batch:
                try:
                    connection = connection or self.engine.connect()
                    self._run_batch(connection, batch)
                except BaseException as error:  # the thread outlives any fault
                    _fail(batch, error)
                    with suppress(Exception):
                        if connection is not None:
                            connection.invalidate()
                            connection.close()
                    connection = None
            if last:
                if connection is not None:
                    connection.close()
                return

    def _next_batch(self) -> tuple[list[_Ticket], bool]:
        batch: list[_Ticket] = []
        ticket = self._queue.get()
        while True:
            if ticket is None:
                return batch, True
            batch.append(ticket)
            if len(batch) >= BATCH:
                return batch, False
            try:
                ticket = self._queue.get_nowait()
            except queue.Empty:
                return batch, False

    def _run_batch(self, connection: Connection, batch: list[_Ticket]) -> None:
        outcomes: list[tuple[_Ticket, Any, BaseException | None]] = []
        with connection.begin():
            for ticket in batch:
                if ticket.future.set_running_or_notify_cancel():
                    outcomes.append(_in_savepoint(connection, ticket))
        # Only now is it durable, so only now may anybody hear of it.
        durable = time.monotonic()
        for ticket, result, error in outcomes:
            self.waits.add(durable - ticket.at)
            if error is None:
                ticket.future.set_result(result)
            else:
                ticket.future.set_exception(error)
        driver: Any = connection.connection.driver_connection
        self._carrier.committed(driver)

    # PostgreSQL: a transaction each, retried where the server asks for it

    def _run_alone(self, story: Story[T]) -> T:
        began = time.monotonic()
        try:
            return self._run_again(story)
        finally:
            self.waits.add(time.monotonic() - began)

    def _run_again(self, story: Story[T]) -> T:
        for attempt in range(PG_ATTEMPTS):
            session = Session(self.engine, expire_on_commit=False)
            try:
                with session, session.begin():
                    return story(session)
            except AppError:
                self._run_after_rollback(session)
                raise
            except DBAPIError as error:
                state = getattr(error.orig, "sqlstate", None)
                if state in PG_RETRY_STATES and attempt < PG_ATTEMPTS - 1:
                    time.sleep(0.01 * 2**attempt)
                    continue
                raise _translated(error) from error
        raise AssertionError("unreachable")

    def _run_after_rollback(self, session: Session) -> None:
        callbacks = session.info.get(AFTER_ROLLBACK)
        if callbacks:
            with Session(self.engine) as later, later.begin():
                for callback in callbacks:
                    callback(later)


def _in_savepoint(
    connection: Connection, ticket: _Ticket
) -> tuple[_Ticket, Any, BaseException | None]:
    # The savepoint is the driver's; the session makes its own inside only when it is used, so
    # a story of plain statements (the ledger's) does without the cost of one.
    driver: Any = connection.connection.driver_connection
    driver.execute("SAVEPOINT story")
    session = Session(connection, join_transaction_mode="create_savepoint", expire_on_commit=False)
    try:
        result = ticket.story(session)
        session.flush()
        if session.in_transaction():
            session.commit()
        driver.execute("RELEASE story")
    except (OperationalError, sqlite3.OperationalError):
        # The whole transaction may be gone (disk full rolls it back): fail the batch.
        raise
    except Exception as error:
        session.rollback()
        driver.execute("ROLLBACK TO story")
        driver.execute("RELEASE story")
        if isinstance(error, AppError):
            _run_after_rollback(connection, session)
        return ticket, None, error
    else:
        return ticket, result, None
    finally:
        session.close()


def _run_after_rollback(connection: Connection, session: Session) -> None:
    callbacks = session.info.get(AFTER_ROLLBACK)
    if callbacks:
        with Session(connection, join_transaction_mode="create_savepoint") as later:
            for callback in callbacks:
                callback(later)
            later.commit()


def _fail(batch: list[_Ticket], error: BaseException) -> None:
    shown = error
    if isinstance(error, (DBAPIError, sqlite3.OperationalError)):
        shown = _translated(error)
    for ticket in batch:
        if not ticket.future.done():
            with suppress(Exception):
                ticket.future.set_running_or_notify_cancel()
            ticket.future.set_exception(shown)


def _is_ours(error: DBAPIError) -> bool:
    """Whether SQLite did not understand the statement: a table is missing, and it is there."""
    cause = error.orig
    code = getattr(cause, "sqlite_errorcode", None) if isinstance(cause, sqlite3.Error) else None
    return code == sqlite3.SQLITE_ERROR


def _translated(error: DBAPIError | sqlite3.OperationalError) -> Exception:
    gone = isinstance(error, DBAPIError) and error.connection_invalidated
    if gone or isinstance(error, (OperationalError, sqlite3.OperationalError)):
        failure = DatabaseUnavailable()
        failure.__cause__ = error
        return failure
    return error


# The connection that was used last has its pages and statements at hand. Each begins anew after a
# while: the statements it keeps take more and more memory, up to 1.5 MB.
_READERS: dict[str, Any] = {
    "pool_size": 8,
    "max_overflow": 32,
    "pool_use_lifo": True,
    "pool_recycle": 300,
}


def _sqlite_engine(url: str, *, immediate: bool) -> Engine:
    engine = create_engine(
        url,
        poolclass=NullPool if immediate else QueuePool,
        connect_args={"timeout": 30, "check_same_thread": False},
        hide_parameters=True,  # an error's text reaches the log, what people wrote must not
        **({} if immediate else _READERS),
    )

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions by itself
        connection.create_function("search_fold", 1, fold, deterministic=True)  # for triggers
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA wal_autocheckpoint=0")  # see wal.py
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA secure_delete=ON")  # what was deleted is not left in free pages
        if not immediate:
            cursor.execute("PRAGMA query_only=ON")
            cursor.execute(f"PRAGMA cache_size=-{READER_CACHE_KIB}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def migrate(database: Database) -> None:
    """Bring the database to the newest schema, in one transaction.

    Several processes may start at once: the first does it and the others wait. Raises
    DatabaseUnavailable when the database cannot be reached or written.
    """
    from alembic import command

    from chat_app import migrations

    try:
        with database.engine.connect() as connection:
            if database.sqlite:
                # Batch migrations rebuild tables that others refer to. The switch does nothing
                # inside a transaction, so it comes before, on this connection only.
                driver: Any = connection.connection.driver_connection
                driver.execute("PRAGMA foreign_keys=OFF")
            with connection.begin():
                if not database.sqlite:
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
                command.upgrade(migrations.config(connection), "head")
    except OperationalError as error:
        raise _translated(error) from error


def schema_is_current(database: Database) -> bool:
    """Whether the database has the newest schema and all its triggers."""
    from alembic.migration import MigrationContext

    from chat_app import migrations
    from chat_app.migrations import full_text, triggers

    with database.read() as session:
        connection = session.connection()
        revision = MigrationContext.configure(connection).get_current_revision()
        absent = triggers.missing(connection) or full_text.missing(connection)
        return revision == migrations.head() and not absent
