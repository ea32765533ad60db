"""Tables of what is sold and given: plans, codes, periodic grants, automatic top-ups.

Amounts are microcredits unless they end in `_minor`; times are microseconds.
"""

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, String, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from chat_app.credits.tables import _big, _big_or_none, _key, _whole
from chat_app.db import BigInt


class PlanRow(SQLModel, table=True):
    """A monthly plan on offer. Whoever has it keeps the terms that were in force at the start.

    `keep_periods`: 0, the credits end with their period; n, that many periods later; None, never.
    """

    __tablename__ = "plan"
    __table_args__ = (
        CheckConstraint(_whole("price_minor"), name="price_minor"),
        CheckConstraint(_whole("credits", "1"), name="credits"),
        CheckConstraint("keep_periods IS NULL OR keep_periods >= 0", name="keep_periods"),
    )

    code: str = Field(primary_key=True, max_length=32)
    name: str = Field(max_length=64)
    price_minor: int = _big()
    currency: str = Field(max_length=3)
    credits: int = _big()
    keep_periods: int | None = _big_or_none()
    position: int = _big(server_default=text("0"))
    active: bool = True
    created_at: int = _big()


class SubscriptionRow(SQLModel, table=True):
    """A user's plan. `period` is the number of the newest period that was paid or skipped.

    `due_at` is when the next thing is to be done: a renewal, or another try to be paid.
    """

    __tablename__ = "subscription"
    __table_args__ = (
        CheckConstraint(
            "status IN ('pending', 'active', 'past_due', 'paused', 'cancelled')", name="status"
        ),
        CheckConstraint("(status = 'cancelled') = (ended_at IS NOT NULL)", name="ended"),
        Index(
            "uq_subscription_live_user_id",
            "user_id",
            unique=True,
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
        Index(
            "ix_subscription_live_due_at",
            "due_at",
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
    )

    id: str = Field(primary_key=True, max_length=32)
    user_id: int = _big()
    status: str = Field(max_length=16)
    period: int = _big(server_default=text("0"))
    next_plan: str | None = Field(default=None, max_length=32)
    cancel_at_end: bool = False
    tries: int = _big(server_default=text("0"))
    due_at: int = _big()
    created_at: int = _big()
    ended_at: int | None = _big_or_none()


class PeriodRow(SQLModel, table=True):
    """One period of a subscription with its terms; the key makes it one grant for each.

    The days of the month are counted from `anchor_at`, which was the start of period
    `anchor_number`.
    """

    __tablename__ = "subscription_period"
    __table_args__ = (
        CheckConstraint("state IN ('due', 'paid', 'skipped')", name="state"),
        CheckConstraint(_whole("price_minor"), name="price_minor"),
        CheckConstraint(_whole("credits", "1"), name="credits"),
        CheckConstraint("ends_at > starts_at", name="ends_at"),
    )

    subscription_id: str = Field(
        sa_column=Column(String(32), ForeignKey("subscription.id"), primary_key=True)
    )
    number: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    state: str = Field(max_length=16)
    plan_code: str = Field(max_length=32)
    plan_name: str = Field(max_length=64)
    price_minor: int = _big()
    currency: str = Field(max_length=3)
    credits: int = _big()
    keep_periods: int | None = _big_or_none()
    anchor_at: int = _big()
    anchor_number: int = _big()
    starts_at: int = _big()
    ends_at: int = _big()
    payment_id: str | None = Field(default=None, max_length=32)
    created_at: int = _big()


class CodeBatchRow(SQLModel, table=True):
    """Redemption codes that were made together, and what each is worth."""

    __tablename__ = "code_batch"
    __table_args__ = (
        CheckConstraint(_whole("credits", "1"), name="credits"),
        CheckConstraint("uses >= 1 AND per_user >= 1 AND count >= 1", name="limits"),
        CheckConstraint("valid_days IS NULL OR valid_days >= 1", name="valid_days"),
    )

    id: str = Field(primary_key=True, max_length=32)
    name: str = Field(max_length=64)
    credits: int = _big()
    count: int = _big()
    uses: int = _big()
    per_user: int = _big()
    valid_days: int | None = _big_or_none()
    expires_at: int | None = _big_or_none()
    created_by: str = Field(max_length=64)
    created_at: int = _big()


class CodeRow(SQLModel, table=True):
    """One code: its keyed hash, never its text. `hint` is the last four characters."""

    __tablename__ = "redemption_code"
    __table_args__ = (
        CheckConstraint("used >= 0 AND used <= uses", name="used"),
        Index("ix_redemption_code_created_at", "created_at", "id"),
    )

    id: str = Field(primary_key=True, max_length=32)
    batch_id: str = Field(max_length=32, foreign_key="code_batch.id", index=True)
    number: int = _big()
    hash: str = Field(max_length=64, unique=True)
    hint: str = Field(max_length=4)
    uses: int = _big()
    used: int = _big(server_default=text("0"))
    expires_at: int | None = _big_or_none()
    revoked_at: int | None = _big_or_none()
    created_at: int = _big()


class RedemptionRow(SQLModel, table=True):
    """A code was redeemed: who, the how-manieth time of theirs, and the grant."""

    __tablename__ = "redemption"
    __table_args__ = (
        UniqueConstraint("code_id", "user_id", "number", name="uq_redemption_code_user_number"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = _key()
    code_id: str = Field(max_length=32, foreign_key="redemption_code.id")
    user_id: int = _big()
    number: int = _big()
    transfer_id: int = _big("transfer.id", unique=True)
    at: int = _big()


class PeriodicGrantRow(SQLModel, table=True):
    """The free credits of a period were given to a user: once, by the key."""

    __tablename__ = "periodic_grant"

    user_id: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    period: str = Field(primary_key=True, max_length=16)
    transfer_id: int = _big("transfer.id", unique=True)
    at: int = _big()


class AutoTopupRow(SQLModel, table=True):
    """A user's rule: buy a package when less than `threshold` is available."""

    __tablename__ = "auto_topup"
    __table_args__ = (
        CheckConstraint(_whole("threshold", "1"), name="threshold"),
        CheckConstraint("per_day >= 1", name="per_day"),
    )

    user_id: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    threshold: int = _big()
    package_code: str = Field(max_length=32, foreign_key="package.code")
    per_day: int = _big()
    active: bool = True
    blocked_until: int | None = _big_or_none()
    updated_at: int = _big()


class TopupRow(SQLModel, table=True):
    """An automatic order, numbered for its user."""

    __tablename__ = "auto_topup_order"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'paid', 'declined')", name="state"),
        Index("ix_auto_topup_order_user_id_at", "user_id", "at"),
    )

    user_id: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    number: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    payment_id: str = Field(max_length=32, foreign_key="payment.id", unique=True)
    state: str = Field(max_length=16)
    at: int = _big()
