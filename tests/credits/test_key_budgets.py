"""Budgets of API keys: exact under a crowd, whoever pays, on both databases."""

from pathlib import Path

import pytest
from sqlalchemy import text
from sqlmodel import Session

from chat_app.credits import budgets, holds, key_budgets, ledger, verify
from chat_app.credits.holds import HoldView
from chat_app.credits.key_budgets import KeyBudgetReached, KeySpent, KeyUse
from chat_app.db import Database, migrate, schema_is_current
from chat_app.errors import AppError
from chat_app.money import MICRO
from tests.accounts.test_keys import made as made_key
from tests.accounts.test_keys import person as made_person
from tests.credits.books import ALICE, HOUR, NOON, balance, credits, facts, grant, place
from tests.credits.test_budgets import fund, month
from tests.credits.test_budgets import spend as spend_of_pool
from tests.credits.test_races import assert_sound, at_once
from tests.credits.test_walk import move

DAY = 24 * HOUR


def key(**limits: float) -> KeyUse:
    return KeyUse("k0000000", **{name: credits(value) for name, value in limits.items()})


def spent(database: Database, *, now: int = NOON) -> tuple[float, float, float]:
    """Today, this month, in all; with what is held."""
    with database.read() as session:
        found = key_budgets.spent(session, key_ids=["k0000000"], now=now)["k0000000"]
    return found.day / MICRO, found.month / MICRO, found.total / MICRO


def settle(database: Database, hold: HoldView, amount: float, *, now: int = NOON + 1) -> None:
    database.write(
        lambda s: holds.settle(
            s, hold_id=hold.id, micro=credits(amount), now=now, usage=facts(f"r{hold.id}")
        )
    )


@pytest.mark.parametrize("period", key_budgets.PERIODS)
def test_64_sends_with_a_key_for_ten(database: Database, period: str) -> None:
    """T1: exactly as many as the key is good for, though the wallet is good for all."""
    database.write(lambda s: grant(s, 100))
    results = at_once(
        64, lambda _: database.write(lambda s: place(s, 1, by_key=key(**{period: 10})))
    )
    placed = [result for result in results if isinstance(result, HoldView)]
    refused = [result for result in results if isinstance(result, KeyBudgetReached)]
    assert (len(placed), len(refused)) == (10, 54)
    assert refused[0].facts["period"] == period
    assert (balance(database), spent(database)) == ((100, 10, 90), (10, 10, 10))
    at_once(10, lambda n: settle(database, placed[n], 0.5))
    assert (balance(database), spent(database)) == ((95, 0, 95), (5, 5, 5))
    assert_sound(database)


def test_one_key_on_two_wallets_counts_both(database: Database) -> None:
    """T1: 64 at once, half on the user's own credits and half on a pool: ten in all."""
    database.write(lambda s: grant(s, 100))
    fund(database, 50)

    def send(number: int) -> HoldView:
        how = spend_of_pool if number % 2 else place
        return database.write(lambda s: how(s, 1, by_key=key(total=10)))  # type: ignore[no-any-return, operator]

    placed = [result for result in at_once(64, send) if isinstance(result, HoldView)]
    assert len(placed) == 10
    assert balance(database)[1] + month(database)[1] == 10
    assert spent(database) == (10, 10, 10)
    # One transaction ends holds of both wallets while others begin on them.
    at_once(
        8,
        lambda n: database.write(
            lambda s: (
                holds.sweep(s, now=NOON + HOUR)
                if n % 4 == 0
                else place(s, 1, by_key=key(), now=NOON + HOUR)
            )
        ),
    )
    assert spent(database) == (6, 6, 6)
    assert_sound(database)


def test_the_refusal_says_which_budget_and_what_is_left(database: Database) -> None:
    database.write(lambda s: grant(s, 100))
    database.write(lambda s: place(s, 3, by_key=key()))  # counts before there is a limit
    for limits, period, left, resets in (
        ({"day": 4, "month": 9}, "day", "1", "2026-01-02T00:00:00Z"),
        ({"day": 9, "month": 3.5}, "month", "0.5", "2026-02-01T00:00:00Z"),
        ({"total": 2}, "total", "0", None),
    ):
        with pytest.raises(KeyBudgetReached) as refused:
            database.write(lambda s, most=limits: place(s, 2, by_key=key(**most)))
        shown = refused.value.facts
        assert (shown["reason"], shown["limit_source"]) == ("key_budget", "key")
        assert (shown["period"], shown["needed"], shown["available"]) == (period, "2", left)
        assert shown.get("resets_at") == resets
        assert shown["hint"]
    assert (balance(database), spent(database)) == ((100, 3, 97), (3, 3, 3))
    # Nothing of a refusal stays, also when the wallet is what does not reach.
    with pytest.raises(AppError):
        database.write(lambda s: place(s, 98, by_key=key()))
    assert spent(database) == (3, 3, 3)
    assert_sound(database)


def test_a_hold_counts_for_the_day_it_was_placed_in(database: Database) -> None:
    """The edge is exact to the microsecond, and a settlement after it counts before it."""
    database.write(lambda s: grant(s, 100))
    edge = budgets.day_of(NOON).ends_at
    before = database.write(lambda s: place(s, 3, by_key=key(day=3), now=edge - 1))
    after = database.write(lambda s: place(s, 2, by_key=key(day=3), now=edge))
    settle(database, before, 2.5, now=edge + 1)
    settle(database, after, 1, now=edge + 2)
    assert spent(database) == (2.5, 3.5, 3.5)
    assert spent(database, now=edge) == (1, 3.5, 3.5)
    assert spent(database, now=NOON + 40 * DAY) == (0, 0, 3.5)
    assert_sound(database)


def test_released_expired_and_late_holds(database: Database) -> None:
    """T5: what ends without a charge makes room; what is charged late counts."""
    database.write(lambda s: grant(s, 10))
    released = database.write(lambda s: place(s, 3, by_key=key(total=3)))
    database.write(lambda s: holds.release(s, hold_id=released.id, now=NOON + 1))
    assert spent(database) == (0, 0, 0)
    late = database.write(lambda s: place(s, 3, by_key=key(total=3)))
    end = late.expires_at
    with pytest.raises(KeyBudgetReached):
        database.write(lambda s: place(s, 1, by_key=key(total=3), now=end - 1))
    # An overdue hold makes room before the sweeper comes.
    database.write(lambda s: place(s, 1, by_key=key(total=3), now=end, ttl_seconds=9999))
    assert spent(database) == (1, 1, 1)
    settle(database, late, 3, now=NOON + HOUR)
    assert spent(database)[2] == 4
    assert_sound(database)


def test_holds_without_a_key_count_for_none(database: Database) -> None:
    database.write(lambda s: grant(s, 10))
    database.write(lambda s: place(s, 1))
    with database.read() as session:
        assert session.execute(text("SELECT COUNT(*) FROM key_budget")).scalar_one() == 0
        assert key_budgets.spent(session, key_ids=["x"], now=NOON) == {"x": KeySpent()}
        assert ledger.balance(session, user_id=ALICE).held == credits(1)


def test_verify_finds_a_key_budget_that_lies(sqlite_database: Database) -> None:
    database = sqlite_database
    database.write(lambda s: grant(s, 10))
    settle(database, database.write(lambda s: place(s, 2, by_key=key())), 1)
    database.write(lambda s: place(s, 2, by_key=key()))
    for planted in (
        "UPDATE key_budget SET used = used - 1 WHERE period = 'day'",
        "UPDATE key_budget SET held = 0 WHERE period = 'total'",
        "UPDATE key_budget SET key_id = 'other'",
        "DELETE FROM key_budget WHERE period = 'month'",
        "UPDATE hold SET key_id = NULL WHERE state = 'open'",
    ):

        class Undo(AppError):
            pass

        def look(session: Session, planted: str = planted) -> None:
            session.execute(text(planted))
            assert "I24" in {problem.invariant for problem in verify.run(session)}, planted
            raise Undo

        with pytest.raises(Undo):
            database.write(look)
    assert_sound(database)


@pytest.mark.parametrize(
    "backend", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
)
def test_keys_can_be_taken_back(
    backend: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Down with keys that have spent and hold, and up again: the books are what they were."""
    url = f"sqlite:///{tmp_path / 'back.db'}"
    if backend == "postgres":
        url = request.getfixturevalue("empty_postgres_url")
    database = Database(url)
    migrate(database)
    try:
        database.write(lambda s: grant(s, 10))
        settle(database, database.write(lambda s: place(s, 2, by_key=key(day=5))), 1)
        running = database.write(lambda s: place(s, 2, by_key=key(day=5)))
        made_key(database, made_person(database))
        move(database, "0010", down=True)
        with database.engine.connect() as connection:
            assert connection.execute(text("SELECT COUNT(*) FROM hold")).scalar_one() == 2
        migrate(database)
        assert schema_is_current(database)
        assert (balance(database), spent(database)) == ((9, 2, 7), (0, 0, 0))
        settle(database, running, 1)
        assert_sound(database)
    finally:
        database.close()
