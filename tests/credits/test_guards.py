"""Limits on spending hold against parallel messages, on both databases."""

import pytest
from sqlmodel import Session

from chat_app.credits import guards, holds, ledger, rollups
from chat_app.credits.guards import Limits, OverSpendGuard, Spent
from chat_app.credits.holds import HoldView
from chat_app.db import Database
from chat_app.money import MICRO
from tests.credits.books import ALICE, BOB, NOON, balance, credits, facts, fresh, grant, place
from tests.credits.test_races import assert_sound, at_once


def limit(database: Database, source: str = guards.USER, **limits: int) -> None:
    database.write(
        lambda session: guards.put(
            session, user_id=ALICE, limits=Limits(**limits), now=NOON, source=source
        )
    )


def guarded(session: Session, amount: float, *, now: int = NOON, spent: int = 0) -> HoldView:
    """A look at the limits and the hold, in one transaction as messages do it."""
    guards.check(
        session, user_id=ALICE, micro=credits(amount), conversation_spent=lambda: spent, now=now
    )
    return place(session, amount, now=now)


def settle(database: Database, hold: HoldView, amount: float, *, now: int = NOON) -> None:
    database.write(
        lambda session: holds.settle(
            session, hold_id=hold.id, micro=credits(amount), now=now, usage=facts(fresh())
        )
    )


@pytest.mark.parametrize(
    "limits",
    [{"per_day": 10 * MICRO}, {"per_month": 10 * MICRO}, {"messages_per_month": 10}],
    ids=lambda limits: next(iter(limits)),
)
def test_64_parallel_messages_pass_no_limit(database: Database, limits: dict[str, int]) -> None:
    """T1 with the user's own limit: a hold counts, so exactly as many are let in as fit."""
    database.write(lambda session: grant(session, 1000))
    limit(database, **limits)
    results = at_once(64, lambda _: database.write(lambda session: guarded(session, 1)))
    assert sum(isinstance(result, HoldView) for result in results) == 10
    refused = [result for result in results if isinstance(result, OverSpendGuard)]
    assert len(refused) == 54
    assert {error.facts["reason"] for error in refused} == set(limits)
    assert {error.facts["limit_source"] for error in refused} == {"user"}
    assert balance(database) == (1000, 10, 990)
    assert_sound(database)


def test_settlements_racing_with_messages_leave_no_gap(database: Database) -> None:
    """While a hold becomes a charge it counts once: never twice, never not at all."""
    database.write(lambda session: grant(session, 1000))
    limit(database, per_day=20 * MICRO)

    def chat(_number: int) -> object:
        hold = database.write(lambda session: guarded(session, 1))
        settle(database, hold, 1)
        return hold

    results = at_once(48, chat)
    assert sum(isinstance(result, HoldView) for result in results) == 20
    assert balance(database) == (980, 0, 980)
    assert_sound(database)


def test_what_was_not_spent_is_free_again(sqlite_database: Database) -> None:
    database = sqlite_database
    database.write(lambda session: grant(session, 100))
    limit(database, per_day=10 * MICRO)
    hold = database.write(lambda session: guarded(session, 8))
    with pytest.raises(OverSpendGuard) as refused:
        database.write(lambda session: guarded(session, 3))
    assert refused.value.facts == {
        "reason": "per_day",
        "limit_source": "user",
        "needed": "3",
        "available": "2",
        "limit": "10",
        "hint": "Raise the limit under Credits, Limits, or choose a cheaper model.",
    }
    settle(database, hold, 1)
    database.write(lambda session: guarded(session, 9))
    with pytest.raises(OverSpendGuard):
        database.write(lambda session: guarded(session, 0.000001))


def test_a_day_ends_at_midnight_utc(sqlite_database: Database) -> None:
    database, midnight = sqlite_database, NOON - NOON % rollups.DAY + rollups.DAY
    database.write(lambda session: grant(session, 100, now=midnight - 2))
    limit(database, per_day=5 * MICRO)
    hold = database.write(lambda session: guarded(session, 5, now=midnight - 2))
    settle(database, hold, 5, now=midnight - 1)
    with pytest.raises(OverSpendGuard):
        database.write(lambda session: guarded(session, 1, now=midnight - 1))
    database.write(lambda session: guarded(session, 5, now=midnight))


def test_a_clock_that_goes_back_opens_no_new_day(sqlite_database: Database) -> None:
    """The ledger's time of the wallet counts, not the clock's."""
    database, midnight = sqlite_database, NOON - NOON % rollups.DAY
    database.write(lambda session: grant(session, 100, now=midnight))
    limit(database, per_day=5 * MICRO)
    hold = database.write(lambda session: guarded(session, 5, now=midnight))
    settle(database, hold, 5, now=midnight)
    with pytest.raises(OverSpendGuard):
        database.write(lambda session: guarded(session, 1, now=midnight - 1))


def test_an_answer_and_a_conversation(sqlite_database: Database) -> None:
    database = sqlite_database
    database.write(lambda session: grant(session, 100))
    limit(database, per_answer=4 * MICRO, per_conversation=10 * MICRO)
    for amount, spent, reason in ((5, 0, "per_answer"), (4, 7, "per_conversation")):
        with pytest.raises(OverSpendGuard) as refused:
            database.write(
                lambda session, amount=amount, spent=spent: guarded(
                    session, amount, spent=credits(spent)
                )
            )
        assert refused.value.facts["reason"] == reason
    database.write(lambda session: guarded(session, 4, spent=credits(6)))


def test_a_plan_and_the_user_both_count(sqlite_database: Database) -> None:
    database = sqlite_database
    database.write(lambda session: grant(session, 100))
    limit(database, guards.PLAN, messages_per_month=2, per_month=50 * MICRO)
    limit(database, per_answer=60 * MICRO)
    with database.read() as session:
        assert guards.quota(session, user_id=ALICE) == Limits(None, None, None, 50 * MICRO, 2)
        assert guards.own(session, user_id=ALICE) == Limits(per_answer=60 * MICRO)
        assert guards.quota(session, user_id=BOB) is None
        assert guards.per_answer(session, user_id=ALICE) == 60 * MICRO
    with pytest.raises(OverSpendGuard) as refused:
        database.write(lambda session: guarded(session, 51))
    assert (refused.value.facts["reason"], refused.value.facts["limit_source"]) == (
        "per_month",
        "plan",
    )
    settle(database, database.write(lambda session: guarded(session, 1)), 1)
    database.write(lambda session: guarded(session, 1))
    with pytest.raises(OverSpendGuard) as refused:
        database.write(lambda session: guarded(session, 1))
    assert refused.value.facts["reason"] == "messages_per_month"
    with database.read() as session:
        assert guards.spent(session, user_id=ALICE, now=NOON) == Spent(2 * MICRO, 2 * MICRO, 2)
    limit(database, guards.PLAN)  # the plan ended
    limit(database)
    database.write(lambda session: guarded(session, 70))


def test_a_limit_of_nothing_lets_only_free_messages_pass(sqlite_database: Database) -> None:
    database = sqlite_database
    database.write(lambda session: grant(session, 100))
    limit(database, per_day=0)
    database.write(lambda session: guarded(session, 0))
    with pytest.raises(OverSpendGuard):
        database.write(lambda session: guarded(session, 0.000001))
    with database.read() as session:
        assert ledger.balance(session, user_id=ALICE).held == 0
