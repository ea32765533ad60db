"""Budgets: what one person has used of a wallet in a period, and has set aside.

A member's month counts what an organisation pays for; a day counts what somebody sends to
others. The wallet is locked before its budgets. Limits are the caller's: they may change while
a budget runs. Periods are calendar days and months in UTC.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlmodel import Session

from chat_app.clock import from_micros, rfc3339, to_micros
from chat_app.credits import accounts
from chat_app.credits.sql import Books, Statement
from chat_app.errors import OutOfCredits
from chat_app.money import MAX_MICROCREDITS, format_credits

_OPEN = Statement(
    """INSERT INTO budget (scope, account_id, user_id, starts_at, ends_at)
    VALUES (:scope, :account_id, :user_id, :starts_at, :ends_at)
    ON CONFLICT (account_id, scope, user_id, starts_at) DO NOTHING"""
)
_FIND = Statement(
    """SELECT id, ends_at, used, held FROM budget WHERE account_id = :account_id
     AND scope = :scope AND user_id = :user_id AND starts_at = :starts_at"""
)
_HOLD = Statement(
    """UPDATE budget SET held = held + :micro
    WHERE id = :id AND used + held + :micro <= :most"""
)
_SPEND = Statement(
    """UPDATE budget SET used = used + :micro
    WHERE id = :id AND used + held + :micro <= :most"""
)
_RELEASE = Statement(
    """UPDATE budget SET held = held - :held, used = used + :spent
    WHERE id = :id AND held >= :held"""
)
_MEMBERS = Statement(
    """SELECT user_id, id, ends_at, used, held FROM budget
    WHERE account_id = :account_id AND scope = 'member' AND starts_at = :starts_at"""
)


class BudgetReached(OutOfCredits):
    """The member's budget of this month does not reach, though the organisation may be rich."""

    code = "budget_reached"
    message = (
        "This is more than you may spend for your organisation this month. "
        "Ask who runs it for a higher limit, or pay with your own credits."
    )


class Period(NamedTuple):
    """From `starts_at` to before `ends_at`, in µs."""

    starts_at: int
    ends_at: int


@dataclass(slots=True)
class Budget:
    """What was used and is set aside until `ends_at` (µs), in microcredits."""

    id: int
    ends_at: int
    used: int
    held: int

    def left(self, limit: int | None) -> int:
        """What a limit leaves; nothing is below zero, no limit is more than anybody has."""
        return MAX_MICROCREDITS if limit is None else max(0, limit - self.used - self.held)


def month_of(now: int) -> Period:
    """The calendar month (UTC) that `now` is in."""
    first = from_micros(now).astimezone(UTC)
    first = datetime(first.year, first.month, 1, tzinfo=UTC)
    following = (first + timedelta(days=31)).replace(day=1)
    return Period(to_micros(first), to_micros(following))


def day_of(now: int) -> Period:
    """The calendar day (UTC) that `now` is in."""
    moment = from_micros(now).astimezone(UTC)
    first = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    return Period(to_micros(first), to_micros(first + timedelta(days=1)))


def open_month(books: Books, *, account_id: int, user_id: int, now: int) -> Budget:
    """The member's budget of this month in an organisation's wallet, which is locked."""
    return _open(
        books, scope="member", account_id=account_id, user_id=user_id, period=month_of(now)
    )


def open_day(books: Books, *, account_id: int, user_id: int, now: int) -> Budget:
    """What the user has sent today from a wallet, which is locked."""
    return _open(
        books, scope="transfer", account_id=account_id, user_id=user_id, period=day_of(now)
    )


def hold(books: Books, budget: Budget, *, micro: int, limit: int | None) -> bool:
    """Set `micro` of the budget aside, if the limit leaves it."""
    return books.change(_HOLD, id=budget.id, micro=micro, most=_most(limit)) == 1


def spend(books: Books, budget: Budget, *, micro: int, limit: int | None) -> bool:
    """Count `micro` as used at once, if the limit leaves it."""
    return books.change(_SPEND, id=budget.id, micro=micro, most=_most(limit)) == 1


def release(books: Books, *, budget_id: int, held: int, spent: int) -> None:
    """End what was set aside: `spent` of it is used, the rest may be used again."""
    changed = books.change(_RELEASE, id=budget_id, held=held, spent=spent)
    assert changed == 1, "a hold is part of what its budget holds"


def reached(budget: Budget, *, needed: int, limit: int | None) -> BudgetReached:
    """The refusal with its facts."""
    return BudgetReached(
        reason="budget",
        limit_source="member",
        needed=format_credits(needed),
        available=format_credits(budget.left(limit)),
        resets_at=rfc3339(budget.ends_at),
        hint="Ask for a higher monthly limit, or pay with your own credits.",
    )


def of_members(session: Session, *, org_id: int, now: int) -> Mapping[int, Budget]:
    """This month's budgets of an organisation's members, past ones too, by user."""
    books = Books(session)
    wallet = accounts.find_pool(books, org_id=org_id)
    if wallet is None:
        return {}
    rows = books.rows(_MEMBERS, account_id=wallet.id, starts_at=month_of(now).starts_at)
    return {user_id: Budget(*columns) for user_id, *columns in rows}


def _open(books: Books, *, scope: str, account_id: int, user_id: int, period: Period) -> Budget:
    values = {
        "scope": scope,
        "account_id": account_id,
        "user_id": user_id,
        "starts_at": period.starts_at,
    }
    row = books.one(_FIND, **values)
    if row is None:
        books.change(_OPEN, **values, ends_at=period.ends_at)
        row = books.one(_FIND, **values)
    assert row is not None
    return Budget(*row)


def _most(limit: int | None) -> int:
    return 2**63 - 1 if limit is None else limit
