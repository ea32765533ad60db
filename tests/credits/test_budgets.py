"""An organisation's wallet and its members' months: charged directly, counted exactly."""

from collections import Counter

import pytest
from sqlalchemy import text
from sqlmodel import Session

from chat_app.credits import budgets, holds, ledger, moves, usage, verify
from chat_app.credits.accounts import Owner, WalletClosed
from chat_app.credits.holds import HoldView
from chat_app.db import Database
from chat_app.errors import AppError, OutOfCredits
from chat_app.money import MICRO, format_credits
from tests.credits.books import (
    ALICE,
    BOB,
    HOUR,
    NOON,
    SECOND,
    balance,
    credits,
    facts,
    fresh,
    grant,
)
from tests.credits.test_races import assert_sound, at_once

ORG = 7
MEMBERS = range(1, 9)


def fund(database: Database, amount: float, *, user: int = ALICE) -> None:
    """Paid credits, moved into the pool."""

    def story(session: Session) -> None:
        grant(session, amount, user=user, price_minor=round(100 * amount))
        moves.move(
            session,
            source=Owner("user", user),
            target=Owner("org", ORG),
            micro=credits(amount),
            code="fund",
            now=NOON,
            scope="test",
            key=fresh(),
            actor="test",
        )

    database.write(story)


def spend(
    session: Session,
    amount: float,
    *,
    user: int = ALICE,
    limit: float | None = None,
    **more: object,
) -> HoldView:
    """A hold of a minute that the organisation pays for."""
    values: dict[str, object] = {
        "ttl_seconds": 60,
        "now": NOON,
        "scope": "test",
        "key": fresh(),
        "org_id": ORG,
        "limit_micro": None if limit is None else credits(limit),
        **more,
    }
    return holds.place(session, user_id=user, micro=credits(amount), **values)  # type: ignore[arg-type]


def pool(database: Database) -> tuple[float, float, float]:
    with database.read() as session:
        has = ledger.pool(session, org_id=ORG)
    return has.total / MICRO, has.held / MICRO, has.available / MICRO


def month(database: Database, *, user: int = ALICE, now: int = NOON) -> tuple[float, float]:
    """Used and held."""
    with database.read() as session:
        found = budgets.of_members(session, org_id=ORG, now=now).get(user)
    return (found.used / MICRO, found.held / MICRO) if found else (0, 0)


def test_the_pool_pays_and_the_members_month_counts(database: Database) -> None:
    """The member's own credits are not touched; what is not used comes back to both."""
    fund(database, 10)
    database.write(lambda s: grant(s, 3, user=BOB))
    hold = database.write(lambda s: spend(s, 4, user=BOB, limit=5))
    assert (pool(database), month(database, user=BOB)) == ((10, 4, 6), (0, 4))
    database.write(
        lambda s: holds.settle(
            s, hold_id=hold.id, micro=credits(1.5), now=NOON + 1, usage=facts("r")
        )
    )
    assert (pool(database), month(database, user=BOB)) == ((8.5, 0, 8.5), (1.5, 0))
    assert balance(database, BOB) == (3, 0, 3)
    with database.read() as session:
        (line,) = usage.of_pool(session, org_id=ORG, since=NOON, until=NOON + HOUR)
        assert (line.user_id, line.model, line.credits) == (BOB, "m", credits(1.5))
        assert usage.of_pool(session, org_id=ORG, since=NOON, until=NOON + HOUR, user_id=3) == []
        assert usage.of_pool(session, org_id=8, since=0, until=NOON + HOUR) == []
        earned = session.execute(text("SELECT SUM(revenue_minor) FROM lot_use WHERE kind = 'use'"))
        assert int(earned.scalar_one()) == 150
    released = database.write(lambda s: spend(s, 3.5, user=BOB, limit=5))
    database.write(lambda s: holds.release(s, hold_id=released.id, now=NOON + 2))
    assert month(database, user=BOB) == (1.5, 0)
    assert_sound(database)


def test_each_refusal_says_whose_limit_it_is(database: Database) -> None:
    fund(database, 5)
    with pytest.raises(budgets.BudgetReached) as budget:
        database.write(lambda s: spend(s, 3, limit=2))
    assert budget.value.facts["limit_source"] == "member"
    assert (budget.value.facts["needed"], budget.value.facts["available"]) == ("3", "2")
    assert budget.value.facts["resets_at"].startswith("2026-02-01T00:00:00")
    with pytest.raises(OutOfCredits) as empty:
        database.write(lambda s: spend(s, 6))
    assert type(empty.value) is OutOfCredits
    assert (empty.value.facts["limit_source"], empty.value.facts["available"]) == ("org", "5")
    assert (pool(database), month(database)) == ((5, 0, 5), (0, 0))
    assert_sound(database)


def test_a_refusal_is_remembered_as_it_was(database: Database) -> None:
    """I9 for budgets: also when the limit was raised meanwhile."""
    fund(database, 5)
    for limit in (2, 5):
        with pytest.raises(budgets.BudgetReached) as refused:
            database.write(lambda s, most=limit: spend(s, 3, limit=most, key="k"))
        assert refused.value.facts["available"] == "2"
    assert_sound(database)


def test_64_sends_of_8_members_on_a_pool_for_ten(database: Database) -> None:
    """T1: exactly as many as the pool is good for, whoever sends them."""
    fund(database, 10)
    results = at_once(64, lambda n: database.write(lambda s: spend(s, 1, user=1 + n % 8)))
    assert sum(isinstance(result, HoldView) for result in results) == 10
    assert sum(isinstance(result, OutOfCredits) for result in results) == 54
    assert pool(database) == (10, 10, 0)
    assert sum(month(database, user=user)[1] for user in MEMBERS) == 10
    assert_sound(database)


def test_64_sends_of_8_members_on_budgets_for_three(database: Database) -> None:
    """T1: each member's month admits three, though the pool is good for all; all settle."""
    fund(database, 100)
    results = at_once(64, lambda n: database.write(lambda s: spend(s, 1, user=1 + n % 8, limit=3)))
    placed = [result for result in results if isinstance(result, HoldView)]
    refused = [result for result in results if isinstance(result, budgets.BudgetReached)]
    assert (len(placed), len(refused)) == (24, 40)
    assert Counter(month(database, user=user) for user in MEMBERS) == {(0, 3): 8}
    at_once(
        24,
        lambda n: database.write(
            lambda s: holds.settle(
                s, hold_id=placed[n].id, micro=credits(1), now=NOON + 1, usage=facts(f"r{n}")
            )
        ),
    )
    assert pool(database) == (76, 0, 76)
    assert Counter(month(database, user=user) for user in MEMBERS) == {(3, 0): 8}
    assert_sound(database)


def test_a_hold_counts_for_the_month_it_was_placed_in(database: Database) -> None:
    """The edge is exact to the microsecond, and a settlement after it counts before it."""
    fund(database, 100)
    edge = budgets.month_of(NOON).ends_at
    before = database.write(lambda s: spend(s, 3, limit=3, now=edge - 1))
    with pytest.raises(budgets.BudgetReached):
        database.write(lambda s: spend(s, 1, limit=3, now=edge - 1))
    after = database.write(lambda s: spend(s, 2, limit=3, now=edge))
    for hold in (before, after):
        database.write(
            lambda s, h=hold: holds.settle(
                s, hold_id=h.id, micro=h.micro, now=edge + 1, usage=facts(f"r{h.id}")
            )
        )
    assert (month(database), month(database, now=edge)) == ((3, 0), (2, 0))
    # A clock that goes back finds the wallet's month, not its own.
    database.write(lambda s: spend(s, 1, limit=3, now=edge - SECOND))
    assert month(database, now=edge) == (2, 1)
    assert_sound(database)


@pytest.mark.parametrize(
    ("moment", "ends"),
    [
        (NOON, "2026-02-01"),
        (1_709_164_800_000_000, "2024-03-01"),  # the leap day
        (1_767_225_599_999_999, "2026-01-01"),  # the last microsecond of 2025
        (1_767_225_600_000_000, "2026-02-01"),
    ],
)
def test_months_are_calendar_months(moment: int, ends: str) -> None:
    found = budgets.month_of(moment)
    assert budgets.rfc3339(found.ends_at).startswith(f"{ends}T00:00:00")
    assert found.starts_at <= moment < found.ends_at
    assert budgets.month_of(found.ends_at).starts_at == found.ends_at
    assert budgets.day_of(moment).starts_at <= moment < budgets.day_of(moment).ends_at


def test_an_overdue_hold_makes_room_in_the_budget(database: Database) -> None:
    """T5: a crash does not lock a member out until the sweeper comes."""
    fund(database, 100)
    database.write(lambda s: spend(s, 3, limit=3))
    with pytest.raises(budgets.BudgetReached):
        database.write(lambda s: spend(s, 1, limit=3, now=NOON + 60 * SECOND - 1))
    database.write(lambda s: spend(s, 3, limit=3, now=NOON + 60 * SECOND))
    assert month(database) == (0, 3)
    assert_sound(database)


def test_a_late_settlement_counts_too(database: Database) -> None:
    """The answer was given: the pool pays what it has, and the month counts what it paid."""
    fund(database, 4)
    late = database.write(lambda s: spend(s, 3, limit=3))
    database.write(lambda s: holds.sweep(s, now=NOON + HOUR))
    assert month(database) == (0, 0)
    database.write(lambda s: spend(s, 2, limit=3, now=NOON + HOUR, ttl_seconds=9999))
    done = database.write(
        lambda s: holds.settle(
            s, hold_id=late.id, micro=credits(3), now=NOON + HOUR, usage=facts("r")
        )
    )
    assert (done.late, done.charged, done.written_off) == (True, credits(2), credits(1))
    assert month(database) == (2, 2)
    assert_sound(database)


def test_a_pool_is_emptied_into_a_wallet_and_closed(database: Database) -> None:
    """Price and end go back; not while an answer runs; afterwards nothing can be paid."""
    fund(database, 5)
    hold = database.write(lambda s: spend(s, 1))

    def empty(session: Session) -> int:
        return moves.empty_pool(
            session, org_id=ORG, to_user_id=BOB, now=NOON + 1, key="x", actor="test"
        )

    with pytest.raises(moves.NotEmpty):
        database.write(empty)
    database.write(lambda s: holds.release(s, hold_id=hold.id, now=NOON + 1))
    assert database.write(empty) == credits(5)
    assert (pool(database), balance(database, BOB)) == ((0, 0, 0), (5, 0, 5))
    for again in (empty, lambda s: spend(s, 1)):
        with pytest.raises(WalletClosed):
            database.write(again)
    with database.read() as session:
        prices = session.execute(text("SELECT SUM(price_minor - recognized_minor) FROM lot"))
        assert int(prices.scalar_one()) == 500
        rows, _ = ledger.transactions(session, org_id=ORG)
    assert [(row.type, format_credits(row.credits)) for row in rows] == [
        ("allocation", "-5"),
        ("fund", "5"),
    ]
    assert_sound(database)


def test_verify_finds_a_budget_that_lies(sqlite_database: Database) -> None:
    database = sqlite_database
    fund(database, 10)
    hold = database.write(lambda s: spend(s, 2, user=BOB))
    database.write(
        lambda s: holds.settle(s, hold_id=hold.id, micro=credits(1), now=NOON + 1, usage=facts("r"))
    )
    database.write(lambda s: spend(s, 2, user=BOB, ttl_seconds=9999))
    for planted in (
        "UPDATE budget SET used = used - 1",
        "UPDATE budget SET held = 0",
        "UPDATE budget SET user_id = 99",
        "UPDATE budget SET starts_at = starts_at - 5000000000, ends_at = starts_at",
        "UPDATE hold SET budget_id = NULL WHERE state = 'open'",
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
