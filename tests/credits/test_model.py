"""The ledger against a second, simple one: about 160 runs of 30 moves each."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from chat_app.db import Database
from tests.credits import model

RUN = settings(
    max_examples=160,
    stateful_step_count=30,
    deadline=None,
    database=None,
    derandomize=True,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)


def test_the_ledger_does_what_the_model_does(sqlite_database: Database) -> None:
    """And every branch is reached: a machine that settles nothing would be green, too."""
    path = Path(str(sqlite_database.engine.url.database))

    class OnSqlite(model.Machine):
        pass

    OnSqlite.path = path
    model.reached.clear()
    run_state_machine_as_test(OnSqlite, settings=RUN)
    missed = sorted(model.BRANCHES - set(model.reached))
    print(dict(sorted(model.reached.items())))
    assert missed == []


@pytest.mark.postgres
def test_the_ledger_does_the_same_on_postgres(postgres_url: str) -> None:
    class OnPostgres(model.Machine):
        @classmethod
        def url(cls) -> str:
            return postgres_url

    few = settings(RUN, max_examples=10, phases=(Phase.generate,))
    run_state_machine_as_test(OnPostgres, settings=few)
