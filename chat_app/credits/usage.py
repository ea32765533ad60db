"""Usage: what a user's answers used and cost, and how long the credits last at this rate.

Read from the sums by day and month, which grow with every settled answer; minutes are summed
when somebody asks.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from statistics import median_high

from sqlmodel import Session

from chat_app.clock import MICROS_PER_SECOND
from chat_app.credits import accounts, rollups
from chat_app.credits.sql import Books, Statement

HALF_LIFE_DAYS = 7
WINDOW_DAYS = 56
MIN_ACTIVE_DAYS = 3
# A credit that lasts longer than this is as good as never used up.
LONGEST_DAYS = 36_500
LAST_ANSWERS = 20
MIN_ANSWERS = 3

_OWN = {
    period: Statement(
        f"""SELECT starts_at, model, messages, prompt_tokens, completion_tokens, cost
        FROM usage_{period}
        WHERE user_id = :user_id AND starts_at >= :since AND starts_at < :until
        ORDER BY starts_at, model"""  # noqa: S608 - constants
    )
    for period in rollups.PERIODS
}
_OWN["minute"] = Statement(
    f"""SELECT at / {rollups.MINUTE} * {rollups.MINUTE} AS minute, model, COUNT(*),
     SUM(prompt_tokens), SUM(completion_tokens), SUM(cost)
    FROM "usage"
    WHERE user_id = :user_id AND at >= :since AND at < :until
    GROUP BY 1, 2 ORDER BY 1, 2"""  # noqa: S608 - constants
)
_BURN = Statement(
    f"""SELECT u.at / {rollups.DAY} * {rollups.DAY} AS day, SUM(u.cost)
    FROM "usage" u JOIN account a ON a.id = u.account_id
    WHERE a.user_id = :user_id AND u.at >= :since
    GROUP BY 1 ORDER BY 1"""  # noqa: S608 - constants
)
_VOLUME = Statement(
    """SELECT cost, answers FROM usage_month
    WHERE user_id = :user_id AND starts_at = :month AND model = :model"""
)
_LENGTHS = Statement(
    """SELECT completion_tokens FROM "usage"
    WHERE user_id = :user_id AND model = :model AND completion_tokens > 0 AND status <> 'error'
    ORDER BY at DESC LIMIT :limit"""
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


@dataclass(frozen=True)
class UsageLine:
    """The answers of one model in the period that begins at `at` (µs); `credits` are micro."""

    at: int
    model: str
    messages: int
    prompt_tokens: int
    completion_tokens: int
    credits: int


@dataclass(frozen=True)
class Volume:
    """What a user used of a model in a calendar month: microcredits and delivered answers."""

    credits: int = 0
    messages: int = 0


@dataclass(frozen=True)
class Runout:
    """How long credits last. `per_day` is the usual burn in microcredits, None while unknown.

    `days` and `at` (µs) are None too when nothing is used up.
    """

    active_days: int
    per_day: int | None = None
    days: float | None = None
    at: int | None = None


def lines(
    session: Session, *, user_id: int, since: int, until: int, period: str
) -> list[UsageLine]:
    """The user's usage by `minute`, `day` or `month`, oldest first.

    From the period that `since` (µs) is in to the last one that begins before `until`; always
    whole periods, in UTC.
    """
    since = rollups.start_of(period, since)
    if period == "minute":
        until = rollups.start_of(period, until - 1) + rollups.MINUTE
    rows = Books(session).rows(_OWN[period], user_id=user_id, since=since, until=until)
    return [UsageLine(*row) for row in rows]


def own(session: Session, *, user_id: int, since: int, until: int) -> list[UsageDay]:
    """`lines` by day, with dates."""
    return [
        UsageDay(
            day=datetime.fromtimestamp(row.at // MICROS_PER_SECOND, UTC).date(),
            model=row.model,
            messages=row.messages,
            prompt_tokens=row.prompt_tokens,
            completion_tokens=row.completion_tokens,
            credits=row.credits,
        )
        for row in lines(session, user_id=user_id, since=since, until=until, period="day")
    ]


def volume(session: Session, *, user_id: int, model: str, now: int) -> Volume:
    """What the user has used of the model in the calendar month of `now`."""
    month = rollups.month_start(now)
    row = Books(session).one(_VOLUME, user_id=user_id, model=model, month=month)
    return Volume(*row) if row else Volume()


def usual_length(session: Session, *, user_id: int, model: str) -> int | None:
    """The median of the tokens of the user's last answers of the model; None below three."""
    rows = Books(session).rows(_LENGTHS, user_id=user_id, model=model, limit=LAST_ANSWERS)
    return median_high(row[0] for row in rows) if len(rows) >= MIN_ANSWERS else None


def runout(session: Session, *, user_id: int, available: int, now: int) -> Runout:
    """When `available` microcredits are used up at the usual rate.

    What an organisation paid for the user does not count. The rate is a mean of the last eight
    weeks in which a day counts half as much as one a week later; the day that is under way
    counts as far as it has gone. Unknown with less than three days on which anything was used.
    """
    today = rollups.start_of("day", now)
    since = today - (WINDOW_DAYS - 1) * rollups.DAY
    rows = Books(session).rows(_BURN, user_id=user_id, since=since)
    burnt = {int(day): int(cost) for day, cost in rows if cost and day <= today}
    if len(burnt) < MIN_ACTIVE_DAYS:
        return Runout(len(burnt))
    spent = time = 0.0
    for day in range(min(burnt), today + 1, rollups.DAY):
        weight = 0.5 ** ((today - day) / rollups.DAY / HALF_LIFE_DAYS)
        spent += weight * burnt.get(day, 0)
        time += weight * ((now - today) / rollups.DAY if day == today else 1)
    per_day = round(spent / time)
    if per_day <= 0 or available > per_day * LONGEST_DAYS:
        return Runout(len(burnt), per_day)
    days = max(0, available) / per_day
    return Runout(len(burnt), per_day, days, now + round(days * rollups.DAY))


def burnt(session: Session, *, user_id: int, since: int) -> dict[int, int]:
    """Microcredits that the user's own wallet paid on each UTC day (its beginning in µs)."""
    rows = Books(session).rows(_BURN, user_id=user_id, since=rollups.start_of("day", since))
    return {int(day): int(cost) for day, cost in rows if cost}


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
