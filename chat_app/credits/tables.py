"""Tables of the credits room: accounts, transfers, holds, lots, prices and payments.

Amounts are microcredits (BIGINT) unless they end in `_minor`; times are microseconds. Every
rule that the books rest on is a named constraint here too, so that a bug cannot write around
it. `x = CAST(x AS BIGINT)` refuses the fractions that SQLite would store in any column.
"""

from typing import Any

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Text, UniqueConstraint, text
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


def _whole(column: str, low: str = "0") -> str:
    return f"{column} >= {low} AND {column} = CAST({column} AS BIGINT)"


class Account(SQLModel, table=True):
    """A wallet, or one of the system's accounts. Balances are kept on wallets only.

    A wallet belongs to a user or to an organisation, whose members spend from it.
    `posted` is what came in less what went out, `held` is set aside, `owed` was spent and then
    charged back; `last_at` is the time of the newest change, and no later change may be older.
    """

    __tablename__ = "account"
    __table_args__ = (
        CheckConstraint("kind IN ('wallet', 'system')", name="kind"),
        CheckConstraint(
            "(kind = 'wallet') = ((user_id IS NULL) <> (org_id IS NULL))", name="owner"
        ),
        CheckConstraint("user_id IS NULL OR org_id IS NULL", name="one_owner"),
        CheckConstraint("posted = CAST(posted AS BIGINT)", name="posted_whole"),
        CheckConstraint(_whole("held"), name="held"),
        CheckConstraint("floor IS NULL OR posted - held >= floor", name="floor"),
        CheckConstraint(_whole("owed"), name="owed"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = _key()
    ledger: str = Field(default="CREDIT", max_length=16)
    code: str = Field(max_length=64, unique=True)
    kind: str = Field(max_length=16)
    user_id: int | None = _big_or_none(unique=True)
    org_id: int | None = _big_or_none(unique=True)
    floor: int | None = _big_or_none()
    posted: int = _big(server_default=text("0"))
    held: int = _big(server_default=text("0"))
    owed: int = _big(server_default=text("0"))
    last_at: int = _big(server_default=text("0"))
    created_at: int = _big()
    closed_at: int | None = _big_or_none()


class Transfer(SQLModel, table=True):
    """One movement between two accounts. Never changed; corrections are new rows.

    A `pending` one is resolved at most once, by a `post`, `void` or `expire` that names it.
    `cause_id` names the transfer that a late charge follows from. `debit_after` and
    `credit_after` are the balances of the wallets it touched.
    """

    __tablename__ = "transfer"
    __table_args__ = (
        CheckConstraint("kind IN ('direct', 'pending', 'post', 'void', 'expire')", name="kind"),
        CheckConstraint(_whole("amount"), name="amount"),
        CheckConstraint(
            "amount > 0 OR kind <> 'direct' OR cause_id IS NOT NULL", name="amount_not_zero"
        ),
        CheckConstraint("amount = 0 OR kind NOT IN ('void', 'expire')", name="amount_zero"),
        CheckConstraint("debit_id <> credit_id", name="two_accounts"),
        CheckConstraint(
            "(kind IN ('post', 'void', 'expire')) = (pending_id IS NOT NULL)", name="resolves"
        ),
        UniqueConstraint("pending_id", name="uq_transfer_pending_id"),
        Index("ix_transfer_debit_id", "debit_id", "id"),
        Index("ix_transfer_credit_id", "credit_id", "id"),
        # Few have a cause: repayments, corrections of debts, late settlements.
        Index(
            "ix_transfer_cause_id",
            "cause_id",
            sqlite_where=text("cause_id IS NOT NULL"),
            postgresql_where=text("cause_id IS NOT NULL"),
        ),
        {"sqlite_autoincrement": True},
    )

    id: int | None = _key()
    kind: str = Field(max_length=16)
    code: str = Field(max_length=16)
    debit_id: int = _big("account.id")
    credit_id: int = _big("account.id")
    amount: int = _big()
    pending_id: int | None = _big_or_none("transfer.id")
    cause_id: int | None = _big_or_none("transfer.id")
    debit_after: int | None = _big_or_none()
    credit_after: int | None = _big_or_none()
    description: str | None = Field(default=None, sa_column=Column(Text))
    reference: str | None = Field(default=None, max_length=64)
    created_at: int = _big()


class Budget(SQLModel, table=True):
    """What one person has used of a wallet in a period, and has set aside.

    Scope `member`: messages paid by an organisation, in a month. Scope `transfer`: credits
    sent to others, in a day. The limit itself is elsewhere and may change meanwhile.
    """

    __tablename__ = "budget"
    __table_args__ = (
        CheckConstraint("scope IN ('member', 'transfer')", name="scope"),
        CheckConstraint(_whole("used"), name="used"),
        CheckConstraint(_whole("held"), name="held"),
        CheckConstraint("starts_at < ends_at", name="period"),
        UniqueConstraint(
            "account_id", "scope", "user_id", "starts_at", name="uq_budget_account_id_scope"
        ),
    )

    id: int | None = _key()
    scope: str = Field(max_length=16)
    account_id: int = _big("account.id")
    user_id: int = _big()
    starts_at: int = _big()
    ends_at: int = _big()
    used: int = _big(server_default=text("0"))
    held: int = _big(server_default=text("0"))


class Hold(SQLModel, table=True):
    """Credits set aside; its id is that of the pending transfer.

    A hold on an organisation's wallet counts against the budget of the member who sent it, one
    that an API key asked for against the key's budgets of `created_at`.
    """

    __tablename__ = "hold"
    __table_args__ = (
        CheckConstraint(
            "state IN ('open', 'settled', 'released', 'expired', 'late')", name="state"
        ),
        CheckConstraint(_whole("amount"), name="amount"),
        CheckConstraint("settled >= 0 AND settled <= amount", name="settled"),
        CheckConstraint("(state = 'open') = (resolved_at IS NULL)", name="resolved"),
        Index(
            "ix_hold_open_expires_at",
            "expires_at",
            sqlite_where=text("state = 'open'"),
            postgresql_where=text("state = 'open'"),
        ),
        Index(
            "ix_hold_open_account_id",
            "account_id",
            sqlite_where=text("state = 'open'"),
            postgresql_where=text("state = 'open'"),
        ),
        Index(
            "ix_hold_key_id",
            "key_id",
            "created_at",
            sqlite_where=text("key_id IS NOT NULL"),
            postgresql_where=text("key_id IS NOT NULL"),
        ),
    )

    id: int = Field(
        sa_column=Column(BigInt, ForeignKey("transfer.id"), primary_key=True, autoincrement=False)
    )
    account_id: int = _big("account.id")
    budget_id: int | None = _big_or_none("budget.id", index=True)
    key_id: str | None = Field(default=None, max_length=16)
    amount: int = _big()
    state: str = Field(max_length=16)
    settled: int = _big(server_default=text("0"))
    reference: str | None = Field(default=None, max_length=64, index=True)
    expires_at: int = _big()
    created_at: int = _big()
    resolved_at: int | None = _big_or_none()
    settlement_id: int | None = _big_or_none("transfer.id")


class Lot(SQLModel, table=True):
    """A grant of credits with its price and its end; what is used comes out of lots in order.

    `recognized_minor` is the part of the price that went with the credits that left: earned by
    those that were used, given back with refunds, handed on with credits that were moved to the
    wallet of somebody else (their lot there names this one as its parent).
    """

    __tablename__ = "lot"
    __table_args__ = (
        CheckConstraint(_whole("granted", "1"), name="granted"),
        CheckConstraint(
            "held >= 0 AND held <= remaining AND remaining <= granted", name="remaining"
        ),
        CheckConstraint("remaining = CAST(remaining AS BIGINT)", name="remaining_whole"),
        CheckConstraint("held = CAST(held AS BIGINT)", name="held_whole"),
        CheckConstraint(_whole("price_minor"), name="price_minor"),
        CheckConstraint(
            "recognized_minor >= 0 AND recognized_minor <= price_minor", name="recognized_minor"
        ),
        # What came in is one lot, but for a move: that has one for each lot it took from.
        Index(
            "uq_lot_transfer_id",
            "transfer_id",
            unique=True,
            sqlite_where=text("parent_lot_id IS NULL"),
            postgresql_where=text("parent_lot_id IS NULL"),
        ),
        UniqueConstraint("transfer_id", "parent_lot_id", name="uq_lot_transfer_id_parent_lot_id"),
        Index("ix_lot_parent_lot_id", "parent_lot_id"),
        Index(
            "ix_lot_open",
            "account_id",
            sqlite_where=text("remaining > 0"),
            postgresql_where=text("remaining > 0"),
        ),
        Index(
            "ix_lot_open_expires_at",
            "expires_at",
            sqlite_where=text("remaining > 0"),
            postgresql_where=text("remaining > 0"),
        ),
        {"sqlite_autoincrement": True},
    )

    id: int | None = _key()
    account_id: int = _big("account.id")
    transfer_id: int = _big("transfer.id")
    parent_lot_id: int | None = _big_or_none("lot.id")
    source: str = Field(max_length=16)
    priority: int = _big(server_default=text("0"))
    granted: int = _big()
    remaining: int = _big()
    held: int = _big(server_default=text("0"))
    currency: str = Field(default="USD", max_length=3)
    price_minor: int = _big(server_default=text("0"))
    recognized_minor: int = _big(server_default=text("0"))
    expires_at: int | None = _big_or_none()
    created_at: int = _big()


class HoldLot(SQLModel, table=True):
    """Which credits of which lot a hold has pinned, in burn order."""

    __tablename__ = "hold_lot"
    __table_args__ = (CheckConstraint(_whole("amount", "1"), name="amount"),)

    hold_id: int = Field(
        sa_column=Column(BigInt, ForeignKey("hold.id"), primary_key=True, autoincrement=False)
    )
    lot_id: int = Field(
        sa_column=Column(BigInt, ForeignKey("lot.id"), primary_key=True, autoincrement=False)
    )
    pos: int = _big()
    amount: int = _big()


class LotUse(SQLModel, table=True):
    """Credits that left a lot by a transfer, and their share of its price.

    The share was earned, or for the kind `refund` given back.
    """

    __tablename__ = "lot_use"
    __table_args__ = (
        CheckConstraint("kind IN ('use', 'expire', 'adjust', 'refund', 'move')", name="kind"),
        CheckConstraint(_whole("amount", "1"), name="amount"),
        CheckConstraint(_whole("revenue_minor"), name="revenue_minor"),
    )

    transfer_id: int = Field(
        sa_column=Column(BigInt, ForeignKey("transfer.id"), primary_key=True, autoincrement=False)
    )
    lot_id: int = Field(
        sa_column=Column(BigInt, ForeignKey("lot.id"), primary_key=True, autoincrement=False)
    )
    amount: int = _big()
    kind: str = Field(max_length=16)
    revenue_minor: int = _big(server_default=text("0"))


class Operation(SQLModel, table=True):
    """What a request with a key led to, for ever: the same key never acts twice."""

    __tablename__ = "operation"
    __table_args__ = (
        CheckConstraint("status IN ('done', 'refused')", name="status"),
        CheckConstraint("status = 'done' OR transfer_id IS NULL", name="refused_moves_nothing"),
        UniqueConstraint("scope", "key", name="uq_operation_scope_key"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = _key()
    scope: str = Field(max_length=64)
    key: str = Field(max_length=255)
    request_hash: str = Field(max_length=64)
    status: str = Field(max_length=16)
    outcome: str = Field(sa_column=Column(Text, nullable=False))
    transfer_id: int | None = _big_or_none("transfer.id", unique=True)
    actor: str = Field(max_length=64)
    created_at: int = _big()


class BalanceCheckpoint(SQLModel, table=True):
    """What a system account had taken and given up to a transfer: a cache, never a source."""

    __tablename__ = "balance_checkpoint"

    account_id: int = Field(
        sa_column=Column(BigInt, ForeignKey("account.id"), primary_key=True, autoincrement=False)
    )
    upto_transfer_id: int = Field(
        sa_column=Column(BigInt, ForeignKey("transfer.id"), primary_key=True, autoincrement=False)
    )
    debits: int = _big()
    credits: int = _big()
    created_at: int = _big()


class WalletChange(SQLModel, table=True):
    """A wallet whose balance changed since somebody last looked; `marks` counts the changes."""

    __tablename__ = "wallet_change"
    __table_args__ = (CheckConstraint(_whole("marks", "1"), name="marks"),)

    account_id: int = Field(
        sa_column=Column(BigInt, ForeignKey("account.id"), primary_key=True, autoincrement=False)
    )
    marks: int = _big()


class PriceRow(SQLModel, table=True):
    """One version of a model's price. Old versions stay: holds and receipts name them."""

    __tablename__ = "price"
    __table_args__ = (
        CheckConstraint("kind IN ('per_message', 'per_token', 'mixed')", name="kind"),
        CheckConstraint("version >= 1", name="version"),
        CheckConstraint(f"per_message IS NULL OR ({_whole('per_message')})", name="per_message"),
        CheckConstraint(
            f"input_per_million IS NULL OR ({_whole('input_per_million')})",
            name="input_per_million",
        ),
        CheckConstraint(
            f"output_per_million IS NULL OR ({_whole('output_per_million')})",
            name="output_per_million",
        ),
        CheckConstraint(f"per_image IS NULL OR ({_whole('per_image')})", name="per_image"),
        CheckConstraint("kind = 'per_token' OR per_message IS NOT NULL", name="has_message_part"),
        CheckConstraint(
            "kind = 'per_message' OR (input_per_million IS NOT NULL"
            " AND output_per_million IS NOT NULL)",
            name="has_token_part",
        ),
        UniqueConstraint("model_id", "version", name="uq_price_model_id_version"),
    )

    id: int | None = _key()
    model_id: str = Field(max_length=128)
    version: int = _big()
    kind: str = Field(max_length=16)
    per_message: int | None = _big_or_none()
    input_per_million: int | None = _big_or_none()
    output_per_million: int | None = _big_or_none()
    per_image: int | None = _big_or_none()
    valid_from: int = _big()


class PriceTierRow(SQLModel, table=True):
    """Other rates of a price version, from a month's volume with the model on.

    `from_amount` are microcredits or answered messages of the calendar month, by `unit`.
    """

    __tablename__ = "price_tier"
    __table_args__ = (
        CheckConstraint("unit IN ('credits', 'messages')", name="unit"),
        CheckConstraint("tier >= 1", name="tier"),
        CheckConstraint(_whole("from_amount", "1"), name="from_amount"),
        CheckConstraint(f"per_message IS NULL OR ({_whole('per_message')})", name="per_message"),
        CheckConstraint(
            f"input_per_million IS NULL OR ({_whole('input_per_million')})",
            name="input_per_million",
        ),
        CheckConstraint(
            f"output_per_million IS NULL OR ({_whole('output_per_million')})",
            name="output_per_million",
        ),
        CheckConstraint(f"per_image IS NULL OR ({_whole('per_image')})", name="per_image"),
    )

    price_id: int = Field(
        sa_column=Column(BigInt, ForeignKey("price.id"), primary_key=True, autoincrement=False)
    )
    tier: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    unit: str = Field(max_length=16)
    from_amount: int = _big()
    per_message: int | None = _big_or_none()
    input_per_million: int | None = _big_or_none()
    output_per_million: int | None = _big_or_none()
    per_image: int | None = _big_or_none()


class OfferRow(SQLModel, table=True):
    """Whether a model is offered; a model without a row is."""

    __tablename__ = "offer"

    model_id: str = Field(primary_key=True, max_length=128)
    offered: bool
    changed_at: int = _big()


class UsageRow(SQLModel, table=True):
    """What an answer used and cost; one row and one transfer for each settled answer.

    `duration_ms` is what the user waited for it, `engine_ms` its share of the model's busy time.
    """

    __tablename__ = "usage"
    __table_args__ = (
        CheckConstraint(
            "prompt_tokens >= 0 AND completion_tokens >= 0 AND cached_tokens >= 0", name="tokens"
        ),
        CheckConstraint(_whole("cost"), name="cost"),
        CheckConstraint("duration_ms >= 0", name="duration_ms"),
        Index("ix_usage_account_id_at", "account_id", "at"),
        Index("ix_usage_user_id_model_at", "user_id", "model", "at"),
        Index("ix_usage_at", "at"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = _key()
    transfer_id: int = _big("transfer.id", unique=True)
    account_id: int = _big("account.id")
    user_id: int = _big()
    reply_id: str = Field(max_length=64, unique=True)
    model: str = Field(max_length=128)
    price_version: int = _big()
    price_tier: int = _big(server_default=text("0"))
    prompt_tokens: int = _big()
    completion_tokens: int = _big()
    cached_tokens: int = _big(server_default=text("0"))
    cost: int = _big()
    duration_ms: int = _big(server_default=text("0"))
    engine_ms: int = _big(server_default=text("0"))
    status: str = Field(max_length=16)
    at: int = _big()


class PackageRow(SQLModel, table=True):
    """Credits for sale. The bonus is part of what the price buys."""

    __tablename__ = "package"
    __table_args__ = (
        CheckConstraint(_whole("price_minor"), name="price_minor"),
        CheckConstraint(_whole("credits", "1"), name="credits"),
        CheckConstraint(_whole("bonus_credits"), name="bonus_credits"),
        CheckConstraint("valid_days IS NULL OR valid_days >= 1", name="valid_days"),
    )

    code: str = Field(primary_key=True, max_length=32)
    name: str = Field(max_length=64)
    price_minor: int = _big()
    currency: str = Field(max_length=3)
    credits: int = _big()
    bonus_credits: int = _big(server_default=text("0"))
    position: int = _big(server_default=text("0"))
    active: bool = True
    valid_days: int | None = _big_or_none()
    created_at: int = _big()


class PaymentRow(SQLModel, table=True):
    """An order for credits and what became of it. `fulfilled_op_id` names its one grant.

    `source`, `priority`, `valid_days` and `ends_at` are the terms of the lot that it becomes;
    an order with a `subscription_id` pays for that `period` of a plan. `provider_ref` is the
    provider's checkout (the order's own id until there is one) and `intent_ref` its payment, by
    which refunds and disputes name it. `tries`, `busy_until` and `retry_at` belong to `attempts`.
    """

    __tablename__ = "payment"
    __table_args__ = (
        CheckConstraint("status IN ('pending', 'paid', 'failed')", name="status"),
        CheckConstraint(_whole("credits", "1"), name="credits"),
        CheckConstraint(_whole("bonus_credits"), name="bonus_credits"),
        CheckConstraint(_whole("amount_minor"), name="amount_minor"),
        CheckConstraint(
            "(status = 'paid') = (fulfilled_op_id IS NOT NULL)", name="paid_means_granted"
        ),
        CheckConstraint("source IN ('paid', 'plan')", name="source"),
        UniqueConstraint("provider", "provider_ref", name="uq_payment_provider_ref"),
        Index("ix_payment_user_id_created_at", "user_id", "created_at"),
        Index("ix_payment_status_created_at", "status", "created_at"),
        Index("ix_payment_intent_ref", "intent_ref", unique=True),
    )

    id: str = Field(primary_key=True, max_length=32)
    provider: str = Field(max_length=16)
    provider_ref: str = Field(max_length=128)
    status: str = Field(max_length=16)
    user_id: int = _big()
    package_code: str | None = Field(default=None, max_length=32)
    credits: int = _big()
    bonus_credits: int = _big(server_default=text("0"))
    amount_minor: int = _big()
    currency: str = Field(max_length=3)
    source: str = Field(default="paid", max_length=16, sa_column_kwargs={"server_default": "paid"})
    priority: int = _big(server_default=text("0"))
    valid_days: int | None = _big_or_none()
    ends_at: int | None = _big_or_none()
    subscription_id: str | None = Field(default=None, max_length=32, index=True)
    period: int | None = _big_or_none()
    fulfilled_op_id: int | None = _big_or_none("operation.id", unique=True)
    created_at: int = _big()
    paid_at: int | None = _big_or_none()
    checkout_url: str | None = Field(default=None, sa_column=Column(Text))
    intent_ref: str | None = Field(default=None, max_length=128)
    polled_at: int | None = _big_or_none()
    tries: int = _big(server_default=text("0"))
    busy_until: int | None = _big_or_none()
    retry_at: int | None = _big_or_none()
