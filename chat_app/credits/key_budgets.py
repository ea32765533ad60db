"""Budgets of API keys: what a key has used today, this month and ever, and has set aside.

They count whoever's wallet pays, and from the key's first message, so that a limit that is set
later finds what was used before. The wallet is locked before them. Days and months are UTC.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlmodel import Session

from chat_app.clock import rfc3339
from chat_app.credits import budgets
from chat_app.credits.budgets import Period
from chat_app.credits.sql import Books, Statement
from chat_app.errors import OutOfCredits
from chat_app.money import format_credits

PERIODS = ("day", "month", "total")
_EVER = Period(0, 2**62)

# One statement opens the period and sets aside, or changes nothing: no two pass together.
_HOLD = Statement(
    """INSERT INTO key_budget (key_id, period, starts_at, ends_at, used, held)
    VALUES (:key_id, :period, :starts_at, :ends_at, 0, :micro)
    ON CONFLICT (key_id, period, starts_at) DO UPDATE SET held = key_budget.held + excluded.held
    WHERE key_budget.used + key_budget.held + excluded.held <= :most"""
)
_RELEASE = Statement(
    """UPDATE key_budget SET held = held - :held, used = used + :spent
    WHERE key_id = :key_id AND period = :period AND starts_at = :starts_at AND held >= :held"""
)
_FIND = Statement(
    """SELECT used + held FROM key_budget
    WHERE key_id = :key_id AND period = :period AND starts_at = :starts_at"""
)
_WORDS = {"day": "budget for today", "month": "budget for this month", "total": "total budget"}


class KeyBudgetReached(OutOfCredits):
    """The message could cost more than a budget of the API key leaves."""

    code = "key_budget_reached"
    message = (
        "This message could cost more than the API key's budget leaves. "
        "Raise it under Account, API keys, or choose a cheaper model."
    )


@dataclass(frozen=True)
class KeyUse:
    """A key that spends, and the most it may spend in microcredits; None is no limit."""

    id: str
    day: int | None = None
    month: int | None = None
    total: int | None = None


@dataclass(frozen=True)
class KeySpent:
    """What counts towards a key's limits now, open holds included, in microcredits."""

    day: int = 0
    month: int = 0
    total: int = 0


def hold(books: Books, key: KeyUse, *, micro: int, now: int) -> KeyBudgetReached | None:
    """Set `micro` aside in each period, or say which of them has no room for it.

    After a refusal the transaction must end without a commit of what was set aside before.
    """
    for name, period in _periods(now):
        limit = getattr(key, name)
        most = 2**63 - 1 if limit is None else limit
        values = {"key_id": key.id, "period": name, "starts_at": period.starts_at}
        if micro > most or not books.change(
            _HOLD, **values, ends_at=period.ends_at, micro=micro, most=most
        ):
            row = books.one(_FIND, **values)
            left = max(0, most - (row[0] if row else 0))
            return _reached(name, period, needed=micro, left=left, limit=most)
    return None


def left(books: Books, key: KeyUse, *, now: int) -> int:
    """The least that a limit leaves, in microcredits; without limits more than anybody has."""
    least = 2**63 - 1
    for name, period in _periods(now):
        limit = getattr(key, name)
        if limit is not None:
            row = books.one(_FIND, key_id=key.id, period=name, starts_at=period.starts_at)
            least = min(least, max(0, limit - (row[0] if row else 0)))
    return least


def release(books: Books, *, key_id: str, placed_at: int, held: int, spent: int) -> None:
    """End what was set aside at `placed_at` (µs): `spent` of it is used."""
    for name, period in _periods(placed_at):
        changed = books.change(
            _RELEASE,
            key_id=key_id,
            period=name,
            starts_at=period.starts_at,
            held=held,
            spent=spent,
        )
        assert changed == 1, "a hold is part of what its key's budgets hold"


def spent(session: Session, *, key_ids: Sequence[str], now: int) -> Mapping[str, KeySpent]:
    """What each of the keys has used and has set aside."""
    books = Books(session)
    found = {}
    for key_id in key_ids:
        sums = {}
        for name, period in _periods(now):
            row = books.one(_FIND, key_id=key_id, period=name, starts_at=period.starts_at)
            sums[name] = row[0] if row else 0
        found[key_id] = KeySpent(**sums)
    return found


def _periods(now: int) -> Iterator[tuple[str, Period]]:
    yield "day", budgets.day_of(now)
    yield "month", budgets.month_of(now)
    yield "total", _EVER


def _reached(name: str, period: Period, *, needed: int, left: int, limit: int) -> KeyBudgetReached:
    hint = "Raise the key's budget under Account, API keys, or choose a cheaper model."
    resets = {} if name == "total" else {"resets_at": rfc3339(period.ends_at)}
    return KeyBudgetReached(
        f"This message could cost {format_credits(needed)} credits, and the API key's "
        f"{_WORDS[name]} leaves {format_credits(left)}. {hint}",
        reason="key_budget",
        limit_source="key",
        period=name,
        needed=format_credits(needed),
        available=format_credits(left),
        limit=format_credits(limit),
        hint=hint,
        **resets,
    )
