"""Tables of the metering: sums of usage by day and month, and limits on spending.

The sums follow from `usage` and can be built anew at any time; `verify` compares them.
"""

from typing import Any

from sqlalchemy import CheckConstraint, Column
from sqlmodel import Field, SQLModel

from chat_app.db import BigInt

_DAY = 86_400_000_000
_FIGURES = ("messages", "answers", "prompt_tokens", "completion_tokens", "cost")


def _constraints() -> tuple[Any, ...]:
    sums = " AND ".join(f"{name} >= 0" for name in _FIGURES)
    return (
        CheckConstraint(f"{sums} AND answers <= messages", name="sums"),
        CheckConstraint(f"starts_at / {_DAY} * {_DAY} = starts_at", name="starts_at"),
    )


class _Sums(SQLModel):
    """What a user's answers of one model used from `starts_at` (µs) on; `cost` in microcredits.

    `messages` are all settled ones, `answers` those that delivered something.
    """

    user_id: int = Field(
        sa_type=BigInt, primary_key=True, sa_column_kwargs={"autoincrement": False}
    )
    starts_at: int = Field(
        sa_type=BigInt, primary_key=True, sa_column_kwargs={"autoincrement": False}
    )
    model: str = Field(primary_key=True, max_length=128)
    messages: int = Field(sa_type=BigInt)
    answers: int = Field(sa_type=BigInt)
    prompt_tokens: int = Field(sa_type=BigInt)
    completion_tokens: int = Field(sa_type=BigInt)
    cost: int = Field(sa_type=BigInt)


class UsageDayRow(_Sums, table=True):
    """The sums of a UTC day."""

    __tablename__ = "usage_day"
    __table_args__ = _constraints()


class UsageMonthRow(_Sums, table=True):
    """The sums of a calendar month in UTC."""

    __tablename__ = "usage_month"
    __table_args__ = _constraints()


class SpendLimitRow(SQLModel, table=True):
    """What a user may spend at most, in microcredits, by who said so.

    `source` is `user` for the user's own guards and `plan` for the quota of a plan; a key with
    a budget would be `key:` and its id. Null is no limit.
    """

    __tablename__ = "spend_limit"
    __table_args__ = (
        CheckConstraint("per_answer IS NULL OR per_answer >= 0", name="per_answer"),
        CheckConstraint(
            "per_conversation IS NULL OR per_conversation >= 0", name="per_conversation"
        ),
        CheckConstraint("per_day IS NULL OR per_day >= 0", name="per_day"),
        CheckConstraint("per_month IS NULL OR per_month >= 0", name="per_month"),
        CheckConstraint(
            "messages_per_month IS NULL OR messages_per_month >= 0", name="messages_per_month"
        ),
    )

    user_id: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    source: str = Field(primary_key=True, max_length=64)
    per_answer: int | None = Field(default=None, sa_type=BigInt)
    per_conversation: int | None = Field(default=None, sa_type=BigInt)
    per_day: int | None = Field(default=None, sa_type=BigInt)
    per_month: int | None = Field(default=None, sa_type=BigInt)
    messages_per_month: int | None = Field(default=None, sa_type=BigInt)
    changed_at: int = Field(sa_column=Column(BigInt, nullable=False))
