"""Patterns: when somebody chats, with which models, and how that compares with everybody's.

Read from the settled answers of one user; of the others only counts, without names.
"""

from dataclasses import dataclass

from sqlmodel import Session

from chat_app.credits.rollups import DAY, DELIVERED
from chat_app.credits.sql import Books, Statement

HOUR = 3_600_000_000
WEEK_HOURS = 168
SHORT_TOKENS = 120
MOST_USERS = 50_000

_HOURS = Statement(
    f"""SELECT (at + :shift) / {HOUR} - (at + :shift) / {HOUR * WEEK_HOURS} * {WEEK_HOURS},
     COUNT(*) FROM "usage" WHERE user_id = :user_id AND at >= :since AND at < :until
    GROUP BY 1 ORDER BY 1"""  # noqa: S608 - constants
)
_MODELS = Statement(
    f"""SELECT model, COUNT(*), SUM({DELIVERED}), SUM(prompt_tokens), SUM(completion_tokens),
     SUM(cost), SUM(CASE WHEN {DELIVERED} = 1 AND completion_tokens <= {SHORT_TOKENS}
      THEN 1 ELSE 0 END),
     SUM(CASE WHEN {DELIVERED} = 1 AND completion_tokens <= {SHORT_TOKENS} THEN cost ELSE 0 END),
     SUM(CASE WHEN status = 'cancelled' THEN 1 ELSE 0 END),
     SUM(CASE WHEN status = 'cancelled' THEN cost ELSE 0 END), SUM(duration_ms)
    FROM "usage" WHERE user_id = :user_id AND at >= :since AND at < :until
    GROUP BY model ORDER BY 6 DESC, model"""  # noqa: S608 - constants
)
_HABITS = Statement(
    f"""SELECT user_id, COUNT(DISTINCT starts_at), COUNT(DISTINCT starts_at / {7 * DAY}),
     MAX(starts_at), SUM(answers) FROM usage_day
    WHERE starts_at >= :since AND starts_at < :until AND answers > 0
    GROUP BY user_id ORDER BY user_id LIMIT {MOST_USERS}"""  # noqa: S608 - constants
)


@dataclass(frozen=True)
class ModelUse:
    """A user's settled answers of one model; costs in microcredits.

    `answers` are those that delivered something, `short` those of at most 120 tokens, `stopped`
    those that the user cut off.
    """

    model: str
    messages: int
    answers: int
    prompt_tokens: int
    completion_tokens: int
    cost: int
    short: int
    short_cost: int
    stopped: int
    stopped_cost: int
    duration_ms: int


@dataclass(frozen=True)
class Habits:
    """What somebody did in a window: days and weeks with answers, the last such day (µs)."""

    user_id: int
    days: int
    weeks: int
    last_at: int
    answers: int


def hours(
    session: Session, *, user_id: int, since: int, until: int, shift: int = 0
) -> list[list[int]]:
    """Messages by weekday (Monday first) and hour, in the zone that is `shift` µs from UTC."""
    table = [[0] * 24 for _ in range(7)]
    values = {"user_id": user_id, "since": since, "until": until, "shift": shift}
    for slot, count in Books(session).rows(_HOURS, **values):
        # The first day of all was a Thursday.
        table[(int(slot) // 24 + 3) % 7][int(slot) % 24] = int(count)
    return table


def models(session: Session, *, user_id: int, since: int, until: int) -> list[ModelUse]:
    """The user's answers by model, the dearest first."""
    rows = Books(session).rows(_MODELS, user_id=user_id, since=since, until=until)
    return [ModelUse(str(row[0]), *(int(value) for value in row[1:])) for row in rows]


def habits(session: Session, *, since: int, until: int) -> list[Habits]:
    """Everybody who got an answer in whole UTC days from `since` to before `until`."""
    rows = Books(session).rows(_HABITS, since=since, until=until)
    return [Habits(*(int(value) for value in row)) for row in rows]
