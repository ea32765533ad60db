"""Guards: what a user may spend at most, for an answer, a conversation, a day or a month.

Users set their own, a plan may bring a quota. They are looked at in the transaction that
places the hold, and holds count, so parallel messages cannot pass them.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

from sqlmodel import Session

from chat_app.credits import accounts, rollups
from chat_app.credits.sql import Books, Statement
from chat_app.errors import OutOfCredits
from chat_app.money import format_credits

USER, PLAN = "user", "plan"

_PARTS = "per_answer, per_conversation, per_day, per_month, messages_per_month"
_FIND = Statement(
    f"SELECT source, {_PARTS} FROM spend_limit WHERE user_id = :user_id ORDER BY source DESC"  # noqa: S608
)
_PUT = Statement(
    f"""INSERT INTO spend_limit (user_id, source, {_PARTS}, changed_at)
    VALUES (:user_id, :source, :per_answer, :per_conversation, :per_day, :per_month,
     :messages_per_month, :now)
    ON CONFLICT (user_id, source) DO UPDATE SET per_answer = excluded.per_answer,
     per_conversation = excluded.per_conversation, per_day = excluded.per_day,
     per_month = excluded.per_month, messages_per_month = excluded.messages_per_month,
     changed_at = excluded.changed_at"""  # noqa: S608 - constants
)
_DROP = Statement("DELETE FROM spend_limit WHERE user_id = :user_id AND source = :source")
_OPEN = Statement(
    """SELECT COUNT(*), COALESCE(SUM(h.amount), 0) FROM hold h
    JOIN account a ON a.id = h.account_id WHERE a.user_id = :user_id AND h.state = 'open'"""
)
# By wallet: what an organisation paid for the user is not the user's spending.
_USED = Statement(
    f"""SELECT COALESCE(SUM({rollups.DELIVERED}), 0), COALESCE(SUM(u.cost), 0)
    FROM "usage" u JOIN account a ON a.id = u.account_id
    WHERE a.user_id = :user_id AND u.at >= :starts_at"""  # noqa: S608 - constants
)
_WORDS = {
    "per_answer": "one answer",
    "per_conversation": "this conversation",
    "per_day": "today",
    "per_month": "this month",
    "messages_per_month": "messages this month",
}


class OverSpendGuard(OutOfCredits):
    """The message could cost more than a guard of the user, or a plan's quota, leaves."""

    code = "over_spend_guard"
    message = (
        "This message could cost more than the limit leaves. "
        "Raise the limit under Credits, Limits, or choose a cheaper model."
    )


@dataclass(frozen=True)
class Limits:
    """The most that may be spent, in microcredits, and answers a month; None is no limit."""

    per_answer: int | None = None
    per_conversation: int | None = None
    per_day: int | None = None
    per_month: int | None = None
    messages_per_month: int | None = None

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return any(getattr(self, field.name) is not None for field in fields(self))


@dataclass(frozen=True)
class Spent:
    """What counts towards the limits now, open holds included: microcredits and messages."""

    today: int
    this_month: int
    messages_this_month: int


def own(session: Session, *, user_id: int) -> Limits:
    """The guards that the user has set."""
    return _all(Books(session), user_id).get(USER, Limits())


def quota(session: Session, *, user_id: int) -> Limits | None:
    """What the user's plan allows, or None when it sets no limit."""
    return _all(Books(session), user_id).get(PLAN)


def put(session: Session, *, user_id: int, limits: Limits, now: int, source: str = USER) -> None:
    """Set the limits of one source as a whole; without any limit they are dropped."""
    books = Books(session)
    if not limits.any:
        books.change(_DROP, user_id=user_id, source=source)
        return
    parts = {field.name: getattr(limits, field.name) for field in fields(limits)}
    assert all(part is None or part >= 0 for part in parts.values())
    books.change(_PUT, user_id=user_id, source=source, now=now, **parts)


def spent(session: Session, *, user_id: int, now: int) -> Spent:
    """What the user has spent today and this month (UTC) and has set aside."""
    return _spent(Books(session), user_id, now)


def per_answer(session: Session, *, user_id: int) -> int | None:
    """The most that one answer of the user may cost, from whatever source."""
    found = [limits.per_answer for limits in _all(Books(session), user_id).values()]
    return min((limit for limit in found if limit is not None), default=None)


def check(
    session: Session,
    *,
    user_id: int,
    micro: int,
    conversation_spent: Callable[[], int] = lambda: 0,
    now: int,
) -> None:
    """Refuse a hold of `micro` that a limit has no room for; raises OverSpendGuard.

    For the transaction that then places the hold. Locks the user's wallet, so that two of them
    look one after the other. `conversation_spent` tells what the conversation has cost so far.
    """
    books = Books(session)
    sources = _all(books, user_id)
    if not sources:
        return
    now = accounts.lock(books, user_id=user_id, now=now).time(now)
    known = _spent(books, user_id, now)
    used = {
        "per_answer": 0,
        "per_conversation": conversation_spent(),
        "per_day": known.today,
        "per_month": known.this_month,
    }
    for source, limits in sources.items():
        for name, so_far in used.items():
            limit = getattr(limits, name)
            if limit is not None and so_far + micro > limit:
                raise _over(name, source, needed=micro, limit=limit, used=so_far)
        most = limits.messages_per_month
        if most is not None and known.messages_this_month + 1 > most:
            raise _over_messages(source, limit=most)


def _all(books: Books, user_id: int) -> dict[str, Limits]:
    return {source: Limits(*parts) for source, *parts in books.rows(_FIND, user_id=user_id)}


def _spent(books: Books, user_id: int, now: int) -> Spent:
    held = books.one(_OPEN, user_id=user_id)
    today = books.one(_USED, user_id=user_id, starts_at=rollups.start_of("day", now))
    month = books.one(_USED, user_id=user_id, starts_at=rollups.month_start(now))
    assert held is not None
    assert today is not None
    assert month is not None
    # Sums are decimals on PostgreSQL.
    return Spent(
        int(today[1] + held[1]),
        int(month[1] + held[1]),
        messages_this_month=int(month[0] + held[0]),
    )


def _over(name: str, source: str, *, needed: int, limit: int, used: int) -> OverSpendGuard:
    left = format_credits(max(0, limit - used))
    whose = "your limit" if source == USER else "your plan's limit"
    return OverSpendGuard(
        f"This message could cost {format_credits(needed)} credits, and {whose} for "
        f"{_WORDS[name]} leaves {left}. {_hint(source)}",
        reason=name,
        limit_source=source,
        needed=format_credits(needed),
        available=left,
        limit=format_credits(limit),
        hint=_hint(source),
    )


def _over_messages(source: str, *, limit: int) -> OverSpendGuard:
    return OverSpendGuard(
        f"All {limit:,} messages of this month are used. {_hint(source)}",
        reason="messages_per_month",
        limit_source=source,
        needed="1",
        available="0",
        limit=str(limit),
        hint=_hint(source),
    )


def _hint(source: str) -> str:
    if source == USER:
        return "Raise the limit under Credits, Limits, or choose a cheaper model."
    return "Choose a larger plan, or wait until the next month begins."
