"""The flows run on both databases."""

import pytest


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """Empty for the SQLite file of the data directory, else the URL of an empty PostgreSQL."""
    if request.param == "sqlite":
        return ""
    url: str = request.getfixturevalue("empty_postgres_url")
    return url
