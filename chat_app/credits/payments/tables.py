"""Tables of payments: what providers announced, refunds, disputes, kept cards.

Times are microseconds, credits microcredits, money minor units.
"""

from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlmodel import Field, SQLModel

from chat_app.db import BigInt


def _key() -> Any:
    return Field(default=None, sa_column=Column(BigInt, primary_key=True))


def _big(*references: str, **options: Any) -> Any:
    keys = [ForeignKey(name) for name in references]
    return Field(sa_column=Column(BigInt, *keys, nullable=False, **options))


def _big_or_none(*references: str, **options: Any) -> Any:
    keys = [ForeignKey(name) for name in references]
    return Field(default=None, sa_column=Column(BigInt, *keys, nullable=True, **options))


def _payment(*, nullable: bool, **options: Any) -> Any:
    return Column(String(32), ForeignKey("payment.id"), nullable=nullable, **options)


class WebhookEventRow(SQLModel, table=True):
    """Something a provider announced, once for each of its ids, and what was made of it.

    `state`: `new` (to be tried), `done`, `ignored` (nothing for us), `refused` (`reason` says
    why; an operator has to look).
    """

    __tablename__ = "webhook_event"
    __table_args__ = (
        CheckConstraint("state IN ('new', 'done', 'ignored', 'refused')", name="state"),
        CheckConstraint("(state = 'new') = (processed_at IS NULL)", name="processed"),
        CheckConstraint("attempts >= 0", name="attempts"),
        UniqueConstraint("provider", "event_id", name="uq_webhook_event_provider_event_id"),
        Index("ix_webhook_event_state_id", "state", "id"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = _key()
    provider: str = Field(max_length=16)
    event_id: str = Field(max_length=128)
    type: str = Field(max_length=64)
    payload: str = Field(sa_column=Column(Text, nullable=False))
    payment_id: str | None = Field(default=None, sa_column=_payment(nullable=True, index=True))
    state: str = Field(default="new", max_length=16)
    reason: str | None = Field(default=None, max_length=64)
    attempts: int = _big(server_default=text("0"))
    tried_at: int | None = _big_or_none()
    announced_at: int = _big()
    received_at: int = _big()
    processed_at: int | None = _big_or_none()


class RefundRow(SQLModel, table=True):
    """Money on its way back. The credits left the wallet when the row was made.

    `pending` until the provider has taken it, then `sent`, `succeeded` or `failed`; of a failed
    one the credits came back (`returned_id`).
    """

    __tablename__ = "refund"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'sent', 'succeeded', 'failed')", name="state"),
        CheckConstraint("credits >= 1", name="credits"),
        CheckConstraint("amount_minor >= 1", name="amount_minor"),
        CheckConstraint("returned_id IS NULL OR state = 'failed'", name="returned"),
        Index("ix_refund_state_created_at", "state", "created_at"),
    )

    id: str = Field(primary_key=True, max_length=32)
    payment_id: str = Field(sa_column=_payment(nullable=False, index=True))
    provider_ref: str | None = Field(default=None, max_length=128, unique=True)
    state: str = Field(default="pending", max_length=16)
    credits: int = _big()
    amount_minor: int = _big()
    currency: str = Field(max_length=3)
    reason: str = Field(sa_column=Column(Text, nullable=False))
    actor: str = Field(max_length=64)
    operation_id: int = _big("operation.id", unique=True)
    transfer_id: int = _big("transfer.id", unique=True)
    returned_id: int | None = _big_or_none("transfer.id", unique=True)
    attempts: int = _big(server_default=text("0"))
    error: str | None = Field(default=None, sa_column=Column(Text))
    created_at: int = _big()
    sent_at: int | None = _big_or_none()
    ended_at: int | None = _big_or_none()


class DisputeRow(SQLModel, table=True):
    """A payment that the buyer's bank took back. One for each order.

    `inquiry` is a question without money; with `open` the credits are taken, `lost` leaves it so,
    `won` has given them back (`returned_id`). An account with an open or lost one is flagged.
    """

    __tablename__ = "dispute"
    __table_args__ = (
        CheckConstraint("state IN ('inquiry', 'open', 'won', 'lost')", name="state"),
        CheckConstraint("credits >= 0 AND owed >= 0 AND amount_minor >= 0", name="amounts"),
        CheckConstraint("returned_id IS NULL OR state = 'won'", name="returned"),
        CheckConstraint("state NOT IN ('open', 'lost') OR operation_id IS NOT NULL", name="taken"),
        UniqueConstraint("payment_id", name="uq_dispute_payment_id"),
    )

    id: str = Field(primary_key=True, max_length=128)
    provider: str = Field(max_length=16)
    payment_id: str = Field(sa_column=_payment(nullable=False))
    user_id: int = _big(index=True)
    state: str = Field(max_length=16)
    reason: str = Field(max_length=64)
    credits: int = _big(server_default=text("0"))
    owed: int = _big(server_default=text("0"))
    amount_minor: int = _big(server_default=text("0"))
    disputed_minor: int = _big()
    operation_id: int | None = _big_or_none("operation.id", unique=True)
    transfer_id: int | None = _big_or_none("transfer.id", unique=True)
    debt_id: int | None = _big_or_none("transfer.id", unique=True)
    returned_id: int | None = _big_or_none("transfer.id", unique=True)
    opened_at: int = _big()
    closed_at: int | None = _big_or_none()


class PaymentCustomerRow(SQLModel, table=True):
    """Somebody who may be charged without being there. The card itself is kept by the provider.

    One that is `going` is charged no more, and leaves when the provider has forgotten the card.
    """

    __tablename__ = "payment_customer"

    provider: str = Field(primary_key=True, max_length=16)
    customer_ref: str = Field(primary_key=True, max_length=128)
    user_id: int = _big(index=True)
    going: bool = False
    kept_at: int = _big()
