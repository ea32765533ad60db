"""Usage: what a user's answers used and cost, by day and model, from the settled rows."""

from dataclasses import dataclass
from datetime import UTC, date, datetime

from sqlalchemy import func, select
from sqlmodel import Session, col

from chat_app.clock import MICROS_PER_SECOND
from chat_app.credits import accounts
from chat_app.credits.sql import Books, Statement
from chat_app.credits.tables import UsageRow

_DAY_MICROS = 24 * 3600 * MICROS_PER_SECOND
_MINUTES = Statement(
    """SELECT at / 60000000 * 60000000 AS minute, model, count(*), sum(prompt_tokens),
     sum(completion_tokens), sum(cost)
    FROM usage WHERE user_id = :user_id AND at >= :since AND at < :until
    GROUP BY 1, 2 ORDER BY 1, 2"""
)


@dataclass(frozen=True)
class UsageDay:
    """The answers of one model on one UTC day; `credits` in microcredits."""

    day: date
    model: str
    messages: int
    prompt_tokens: int
    completion_tokens: int
    credits: int


def own(session: Session, *, user_id: int, since: int, until: int) -> list[UsageDay]:
    """The user's usage from `since` to before `until` (µs), oldest day first."""
    # The epoch began at midnight UTC, so the rest of the division is the time of day.
    day = (col(UsageRow.at) - col(UsageRow.at) % _DAY_MICROS).label("day")
    rows = session.execute(
        select(
            day,
            col(UsageRow.model),
            func.count(),
            func.sum(col(UsageRow.prompt_tokens)),
            func.sum(col(UsageRow.completion_tokens)),
            func.sum(col(UsageRow.cost)),
        )
        .where(
            col(UsageRow.user_id) == user_id, col(UsageRow.at) >= since, col(UsageRow.at) < until
        )
        .group_by(day, col(UsageRow.model))
        .order_by(day, col(UsageRow.model))
    )
    return [
        UsageDay(
            day=datetime.fromtimestamp(at // MICROS_PER_SECOND, UTC).date(),
            model=model,
            messages=int(messages),
            prompt_tokens=int(prompt),
            completion_tokens=int(completion),
            credits=int(cost),
        )
        for at, model, messages, prompt, completion, cost in rows
    ]


@dataclass(frozen=True)
class UsageMinute:
    """The answers of one model in the minute that begins at `at` (µs); `credits` are micro."""

    at: int
    model: str
    messages: int
    prompt_tokens: int
    completion_tokens: int
    credits: int


def own_minutes(session: Session, *, user_id: int, since: int, until: int) -> list[UsageMinute]:
    """The user's usage from `since` to before `until` (µs) by minute, oldest first."""
    rows = Books(session).rows(_MINUTES, user_id=user_id, since=since, until=until)
    return [
        UsageMinute(at, model, messages, int(prompt), int(completion), int(cost))
        for at, model, messages, prompt, completion, cost in rows
    ]


_POOL = Statement(
    """SELECT at / 86400000000 AS day, user_id, model, count(*), sum(prompt_tokens),
     sum(completion_tokens), sum(cost)
    FROM usage WHERE account_id = :account_id AND at >= :since AND at < :until
     AND (:everybody = 1 OR user_id = :user_id)
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"""
)


@dataclass(frozen=True)
class PoolUsage(UsageDay):
    """The answers of one member with one model on one UTC day, paid by an organisation."""

    user_id: int


def of_pool(
    session: Session, *, org_id: int, since: int, until: int, user_id: int | None = None
) -> list[PoolUsage]:
    """What an organisation's wallet paid for, oldest day first; of one member if one is given."""
    books = Books(session)
    wallet = accounts.find_pool(books, org_id=org_id)
    if wallet is None:
        return []
    rows = books.rows(
        _POOL,
        account_id=wallet.id,
        since=since,
        until=until,
        everybody=1 if user_id is None else 0,
        user_id=user_id or 0,
    )
    return [
        PoolUsage(
            day=datetime.fromtimestamp(day * 86400, UTC).date(),
            model=model,
            messages=int(messages),
            prompt_tokens=int(prompt),
            completion_tokens=int(completion),
            credits=int(cost),
            user_id=member,
        )
        for day, member, model, messages, prompt, completion, cost in rows
    ]
