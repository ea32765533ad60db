"""A simulated year in small: the books are right by four independent looks at them.

`python -m tests.year 1000` is the same with a thousand people.
"""

from pathlib import Path

from chat_app.db import Database
from chat_app.flows import beancount
from tests.effort import effort
from tests.year import beancount_errors, proofs, simulate


def test_a_year_of_some_people_is_right(sqlite_database: Database, tmp_path: Path) -> None:
    """Seals and anchors, the ledger's rules, the reconciliation, and Beancount."""
    database = sqlite_database
    year = simulate(database, tmp_path, users=effort(20, 12), seed=7)
    assert proofs(database, tmp_path) == ([], [])
    path = tmp_path / "year.beancount"
    assert beancount.write(database, path) > 500
    assert beancount_errors(path) == []
    # A year in which something never happened would prove less.
    never = {
        "messages", "free messages", "late messages", "refused messages", "purchases",
        "orders that nobody paid", "gifts", "corrections",
    } - year.counts.keys()  # fmt: skip
    assert never == set()
