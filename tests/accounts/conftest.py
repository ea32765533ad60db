"""A migrated database for each test, on SQLite and on PostgreSQL."""

import pytest

from chat_app.db import Database


@pytest.fixture
def db(database: Database) -> Database:
    return database
