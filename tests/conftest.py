"""Fixtures for all rooms: a migrated database, on SQLite and on a real PostgreSQL."""

import os
import shutil
import threading
from collections.abc import Iterator
from functools import cache, partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from sqlalchemy import make_url

from chat_app import db as database_room
from chat_app.accounts import passwords
from chat_app.db import Database, migrate
from tests.effort import FULL
from tests.postgres import Server, running_server

# Two workers have two processors: threads that spin for each other in numpy take them away.
os.environ.setdefault("OMP_NUM_THREADS", "1")
_numbers = count(1)
# Files that take minutes begin first, or one worker is left alone with them at the end.
_SLOW = (
    "tests/flows/test_transports.py",
    "tests/flows/test_kill.py",
    "tests/credits/mutations/",
    "tests/flows/test_serving.py",
    "tests/browser/",
    "tests/credits/test_model.py",
    "tests/credits/test_walk.py",
    "tests/credits/test_migrations.py",
    "tests/llm/",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--full`: every repetition that acceptance names."""
    parser.addoption("--full", action="store_true", help="repeat as often as acceptance says")


def pytest_configure(config: pytest.Config) -> None:
    """Workers inherit it."""
    if config.getoption("--full"):
        os.environ[FULL] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow files first, the rest as it stands; what is marked `full` needs `--full`."""
    for item in items:
        if item.get_closest_marker("full") and not os.environ.get(FULL):
            item.add_marker(pytest.mark.skip(reason="only with --full"))

    def place(item: pytest.Item) -> int:
        slow = (at for at, start in enumerate(_SLOW) if item.nodeid.startswith(start))
        return next(slow, len(_SLOW))

    items.sort(key=place)


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "template.db"
    database = Database(f"sqlite:///{path}")
    migrate(database)
    database.close()
    return path


@pytest.fixture(scope="session", autouse=True)
def _quick_starts(request: pytest.FixtureRequest) -> Iterator[None]:
    """An app that a test builds does not wait for what is proven elsewhere: a new SQLite file is a
    copy of one that all revisions made, and bcrypt hashes at its lowest cost.
    """

    def quick(database: Database) -> None:
        path = Path(make_url(database.url).database or "") if database.sqlite else None
        if path is None or path.exists():
            migrate(database)
        else:
            shutil.copyfile(request.getfixturevalue("_sqlite_template"), path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database_room, "migrate", quick)
        patch.setattr(passwords, "Passwords", partial(passwords.Passwords, cost=4))
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_trust_store() -> Iterator[None]:
    """Each client of httpx would read all the world's certificates again, to speak to us in plain
    text.
    """
    from httpx._transports import default

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(default, "create_ssl_context", cache(httpx.create_ssl_context))
        yield


@pytest.fixture(scope="module")
def drills_here() -> Iterator[None]:
    """A drill of a backup needs no process of its own, whose start takes seconds: for those who
    try everything that can be pressed. Others prove the process.
    """
    from chat_app.app import App
    from chat_app.flows import backup

    one_at_a_time = threading.Lock()

    def drilled(app: App, *, actor: str) -> SimpleNamespace:
        with one_at_a_time:  # Alembic knows but one database in a process
            found = backup.drill(backup.Place.of(app.settings))
        backup.record_drill(app.db, found, actor=actor, now=app.clock.micros())
        return SimpleNamespace(join=lambda: None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backup, "_drill_apart", drilled)
        yield


@pytest.fixture(scope="session")
def _postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server() as server:
        server.create("template_books")
        database = Database(server.url("template_books"))
        migrate(database)
        database.close()
        yield server


@pytest.fixture
def sqlite_database(tmp_path: Path, _sqlite_template: Path) -> Iterator[Database]:
    """A migrated SQLite database in a file of its own."""
    path = tmp_path / "books.db"
    shutil.copyfile(_sqlite_template, path)
    database = Database(f"sqlite:///{path}")
    yield database
    database.close()


@pytest.fixture
def empty_postgres_url(_postgres_server: Server) -> Iterator[str]:
    """The URL of an empty database on a PostgreSQL that this session has started."""
    with _postgres_server.database(f"empty_{next(_numbers)}") as url:
        yield url


@pytest.fixture
def postgres_url(_postgres_server: Server) -> Iterator[str]:
    """The URL of a migrated database on a PostgreSQL that this session has started."""
    with _postgres_server.database(f"books_{next(_numbers)}", "template_books") as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A migrated database; each test runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_database")
        return
    made = Database(request.getfixturevalue("postgres_url"))
    yield made
    made.close()
