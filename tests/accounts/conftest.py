"""A database with the accounts tables alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import SQLModel

from chat_app.accounts import tables
from chat_app.db import Database

ROOM = [tables.User, tables.SignInSession, tables.RefreshToken, tables.SetupToken]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'accounts.db'}")
    SQLModel.metadata.create_all(database.engine, tables=[room.__table__ for room in ROOM])
    yield database
    database.close()
