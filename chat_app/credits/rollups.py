"""Rollups: sums of usage by day and month for each user and model.

They grow in the transaction that settles an answer, so a limit or a tier that is read in the
next one is exact. They follow from `usage`: `rebuild` makes them anew, `check` compares.
"""

from datetime import timedelta

from sqlalchemy import text
from sqlmodel import Session

from chat_app.audit.seal import Problem
from chat_app.clock import from_micros, to_micros
from chat_app.credits.sql import Books, Statement

MINUTE = 60_000_000
DAY = 86_400_000_000
PERIODS = ("day", "month")

_FIGURES = "messages, answers, prompt_tokens, completion_tokens, cost"
_ADD = {
    period: Statement(
        f"""INSERT INTO usage_{period} (user_id, starts_at, model, {_FIGURES})
        VALUES (:user_id, :{period}, :model, 1, :answers, :prompt_tokens, :completion_tokens, :cost)
        ON CONFLICT (user_id, starts_at, model) DO UPDATE SET
         messages = usage_{period}.messages + 1,
         answers = usage_{period}.answers + excluded.answers,
         prompt_tokens = usage_{period}.prompt_tokens + excluded.prompt_tokens,
         completion_tokens = usage_{period}.completion_tokens + excluded.completion_tokens,
         cost = usage_{period}.cost + excluded.cost"""  # noqa: S608 - constants
    )
    for period in PERIODS
}
_ADD_AT_ONCE = Statement("WITH days AS (" + _ADD["day"].sqlite + ") " + _ADD["month"].sqlite)
_LOCK = Statement('LOCK TABLE "usage" IN SHARE ROW EXCLUSIVE MODE')
DELIVERED = "CASE WHEN completion_tokens > 0 AND status <> 'error' THEN 1 ELSE 0 END"


def month_start(now: int) -> int:
    """The beginning of the calendar month in UTC, in µs."""
    moment = from_micros(now)
    return to_micros(moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0))


def next_month(now: int) -> int:
    """The beginning of the month after."""
    return month_start(to_micros(from_micros(month_start(now)) + timedelta(days=32)))


def start_of(period: str, now: int) -> int:
    """The beginning of the minute, day or month that `now` (µs) is in, in UTC."""
    if period == "month":
        return month_start(now)
    return now - now % (MINUTE if period == "minute" else DAY)


def add(
    books: Books,
    *,
    user_id: int,
    model: str,
    prompt_tokens: int,
    completion_tokens: int,
    cost: int,
    delivered: bool,
    now: int,
) -> None:
    """Count a settled answer at `now`, the time of its row in `usage`."""
    values = {
        "user_id": user_id,
        "model": model,
        "answers": int(delivered),
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "cost": cost,
    }
    starts = {period: start_of(period, now) for period in PERIODS}
    if not books.sqlite:  # one round trip to the server instead of two
        books.change(_ADD_AT_ONCE, **values, **starts)
        return
    for period, statement in _ADD.items():
        books.change(statement, **values, **{period: starts[period]})


def delivered(*, completion_tokens: int, status: str) -> bool:
    """Whether a settled answer gave its user something."""
    return completion_tokens > 0 and status != "error"


def rebuild(session: Session) -> int:
    """Make all sums anew from `usage`; returns how many rows they have."""
    books = Books(session)
    if not books.sqlite:
        books.change(_LOCK)  # nothing is settled between the deletion and the new sums
    rows = 0
    for period in PERIODS:
        books.change(Statement(f"DELETE FROM usage_{period}"))  # noqa: S608 - constants
        rows += books.change(
            Statement(
                f"""INSERT INTO usage_{period} (user_id, starts_at, model, {_FIGURES})
                SELECT * FROM ({_rebuilt(period, sqlite=books.sqlite)}) rebuilt"""  # noqa: S608
            )
        )
    return rows


def check(session: Session) -> list[Problem]:
    """Every sum that is not what its answers add up to."""
    sqlite = session.get_bind().dialect.name == "sqlite"
    problems = []
    for period in PERIODS:
        query = f"""SELECT user_id, starts_at, model, SUM(cost) AS too_much,
         SUM(messages) AS too_many FROM (
          SELECT user_id, starts_at, model, {_FIGURES} FROM usage_{period}
          UNION ALL
          SELECT user_id, starts_at, model, -messages, -answers, -prompt_tokens,
           -completion_tokens, -cost FROM ({_rebuilt(period, sqlite=sqlite)}) rebuilt
        ) sides GROUP BY user_id, starts_at, model
        HAVING SUM(messages) <> 0 OR SUM(answers) <> 0 OR SUM(prompt_tokens) <> 0
         OR SUM(completion_tokens) <> 0 OR SUM(cost) <> 0"""  # noqa: S608 - constants
        for user_id, starts_at, model, cost, messages in session.execute(text(query)):
            facts = {
                "period": period,
                "user": user_id,
                "starts_at": starts_at,
                "model": model,
                "too_much": int(cost),
                "too_many": int(messages),
            }
            problems.append(
                Problem("I15", "A sum of usage is not what its answers add up to.", facts)
            )
    return problems


def _rebuilt(period: str, *, sqlite: bool) -> str:
    if period == "day":
        starts_at = f"at / {DAY} * {DAY}"
    elif sqlite:
        starts_at = (
            "CAST(strftime('%s', at / 1000000, 'unixepoch', 'start of month') AS INTEGER) * 1000000"
        )
    else:
        starts_at = (
            "CAST(extract(epoch FROM date_trunc('month', "
            "to_timestamp(at / 1000000) AT TIME ZONE 'UTC')) AS bigint) * 1000000"
        )
    return f"""SELECT user_id, {starts_at} AS starts_at, model, COUNT(*) AS messages,
     SUM({DELIVERED}) AS answers, SUM(prompt_tokens) AS prompt_tokens,
     SUM(completion_tokens) AS completion_tokens, SUM(cost) AS cost
    FROM "usage" GROUP BY 1, 2, 3"""  # noqa: S608 - constants
