"""Tables of the money ledger: journals with their postings, periods, and what each lot has earned.

Journals and postings are append-only and written once, by their key. `lot_revenue` is what the
next day is computed from; it follows from the postings and the lots.
"""

from typing import Any

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Text
from sqlmodel import Field, SQLModel

from chat_app.db import BigInt


def _big(*references: str, **options: Any) -> Any:
    keys = [ForeignKey(name) for name in references]
    return Field(sa_column=Column(BigInt, *keys, nullable=False, **options))


def _big_or_none(*references: str, **options: Any) -> Any:
    keys = [ForeignKey(name) for name in references]
    return Field(default=None, sa_column=Column(BigInt, *keys, nullable=True, **options))


class JournalRow(SQLModel, table=True):
    """One entry of the money ledger. `key` makes it once; `day` is the day it counts for (UTC)."""

    __tablename__ = "journal"
    __table_args__ = (
        CheckConstraint("length(day) = 10", name="day"),
        Index("ix_journal_day", "day"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, sa_column=Column(BigInt, primary_key=True))
    key: str = Field(max_length=160, unique=True)
    day: str = Field(max_length=10)
    kind: str = Field(max_length=24)
    memo: str = Field(sa_column=Column(Text, nullable=False))
    actor: str = Field(max_length=64)
    created_at: int = _big()


class PostingRow(SQLModel, table=True):
    """A line of a journal: minor units, a debit above zero and a credit below."""

    __tablename__ = "posting"
    __table_args__ = (
        CheckConstraint("amount_minor <> 0", name="amount_minor"),
        Index("ix_posting_account", "account", "journal_id"),
        Index("ix_posting_payment_id", "payment_id"),
        Index("ix_posting_lot_id", "lot_id"),
    )

    journal_id: int = Field(
        sa_column=Column(BigInt, ForeignKey("journal.id"), primary_key=True, autoincrement=False)
    )
    line: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    account: str = Field(max_length=64)
    currency: str = Field(max_length=3)
    amount_minor: int = _big()
    lot_id: int | None = _big_or_none("lot.id")
    payment_id: str | None = Field(default=None, max_length=32, foreign_key="payment.id")


class BookPeriodRow(SQLModel, table=True):
    """A month of the money ledger that is closed. `digest` is over its postings."""

    __tablename__ = "book_period"

    id: str = Field(primary_key=True, max_length=7)
    digest: str = Field(max_length=64)
    closed_at: int = _big()
    closed_by: str = Field(max_length=64)


class BookMarkRow(SQLModel, table=True):
    """How far the money ledger is written: up to which day and which transfer."""

    __tablename__ = "book_mark"
    __table_args__ = (CheckConstraint("id = 1", name="one"),)

    id: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    day: str = Field(max_length=10)
    transfer_id: int = _big()


class LotRevenueRow(SQLModel, table=True):
    """What was paid net of tax for a lot, and what became of it up to the mark.

    Microcredits `used`, `gone` (refunded, taken, moved on) and `expired`; minor units `earned`,
    `broken` (breakage) and `handed` (net of `gone_gross`, with what is gone). With `starts_at` a
    period of a plan, which is earned over its time.
    """

    __tablename__ = "lot_revenue"
    __table_args__ = (
        CheckConstraint("net_minor >= 0 AND net_minor <= gross_minor", name="net_minor"),
        CheckConstraint("earned + broken + handed <= net_minor", name="deferred"),
        CheckConstraint("used + gone + expired <= granted", name="granted"),
        Index("ix_lot_revenue_payment_id", "payment_id"),
        Index("ix_lot_revenue_ends_at", "ends_at"),
    )

    lot_id: int = Field(
        sa_column=Column(BigInt, ForeignKey("lot.id"), primary_key=True, autoincrement=False)
    )
    payment_id: str | None = Field(default=None, max_length=32, foreign_key="payment.id")
    currency: str = Field(max_length=3)
    granted: int = _big()
    gross_minor: int = _big()
    net_minor: int = _big()
    used: int = _big(server_default="0")
    gone: int = _big(server_default="0")
    expired: int = _big(server_default="0")
    earned: int = _big(server_default="0")
    broken: int = _big(server_default="0")
    handed: int = _big(server_default="0")
    gone_gross: int = _big(server_default="0")
    expected_bp: int = _big(server_default="0")
    starts_at: int | None = _big_or_none()
    ends_at: int | None = _big_or_none()
