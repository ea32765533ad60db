"""Tables of invoices: who sells, who buys, tax rates, documents with their lines and files.

An issued document is frozen: its text is `document`, and lines, tax and files are append-only.
Of an issued row only the status, the reason for it and the public link may still change.
"""

from sqlalchemy import CheckConstraint, Column, Index, LargeBinary, Text, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from chat_app.credits.tables import _big, _big_or_none, _key, _whole
from chat_app.db import BigInt


class SellerRow(SQLModel, table=True):
    """Who sells and how it is taxed, from `created_at` on; the newest row is in force.

    The facts are those of `[business]` in the settings. What was issued names its row.
    """

    __tablename__ = "seller"
    __table_args__ = (
        CheckConstraint("tax IN ('off', 'seller', 'destination')", name="tax"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = _key()
    tax: str = Field(max_length=16)
    country: str = Field(default="", max_length=2)
    facts: str = Field(sa_column=Column(Text, nullable=False))
    created_at: int = _big()


class BillingDetailsRow(SQLModel, table=True):
    """What a user wants to read on the next invoice. Earlier invoices keep what they say."""

    __tablename__ = "billing_details"

    user_id: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    name: str = Field(default="", max_length=120)
    address: str = Field(default="", max_length=400)
    country: str = Field(default="", max_length=2)
    vat_id: str = Field(default="", max_length=32)
    email: str = Field(default="", max_length=254)
    updated_at: int = _big()


class TaxRateRow(SQLModel, table=True):
    """A rate in hundredths of a percent, for the days from `valid_from` to `valid_to` (ISO)."""

    __tablename__ = "tax_rate"
    __table_args__ = (
        CheckConstraint("rate_bp >= 0 AND rate_bp <= 10000", name="rate_bp"),
        CheckConstraint("valid_to IS NULL OR valid_to >= valid_from", name="days"),
        UniqueConstraint("jurisdiction", "category", "valid_from", name="uq_tax_rate_jurisdiction"),
    )

    id: int | None = _key()
    jurisdiction: str = Field(max_length=8)
    category: str = Field(max_length=16)
    rate_bp: int = _big()
    valid_from: str = Field(max_length=10)
    valid_to: str | None = Field(default=None, max_length=10)
    source: str = Field(max_length=200)
    created_at: int = _big()


class SeriesRow(SQLModel, table=True):
    """The last number given out in a series; locked by whoever takes the next one."""

    __tablename__ = "invoice_series"
    __table_args__ = (CheckConstraint(_whole("last"), name="last"),)

    series: str = Field(primary_key=True, max_length=16)
    year: int = _big()
    last: int = _big(server_default=text("0"))
    last_at: int = _big(server_default=text("0"))


class InvoiceRow(SQLModel, table=True):
    """An invoice or a credit note. A draft has no number; `document` is canonical JSON."""

    __tablename__ = "invoice"
    __table_args__ = (
        CheckConstraint("kind IN ('invoice', 'credit_note')", name="kind"),
        CheckConstraint(
            "status IN ('draft', 'open', 'paid', 'void', 'uncollectible')", name="status"
        ),
        CheckConstraint("(status = 'draft') = (number IS NULL)", name="draft_has_no_number"),
        CheckConstraint(
            "(number IS NULL) = (issued_at IS NULL) AND (number IS NULL) = (sequence IS NULL)",
            name="issued",
        ),
        CheckConstraint("(kind = 'credit_note') = (corrects_id IS NOT NULL)", name="corrects"),
        CheckConstraint(
            "status IN ('void', 'uncollectible') OR reason IS NULL OR kind = 'credit_note'",
            name="reason",
        ),
        CheckConstraint(_whole("net_minor"), name="net_minor"),
        CheckConstraint(_whole("tax_minor"), name="tax_minor"),
        CheckConstraint("total_minor = net_minor + tax_minor", name="total_minor"),
        UniqueConstraint("series", "year", "sequence", name="uq_invoice_series_year_sequence"),
        Index("ix_invoice_user_id_created_at", "user_id", "created_at"),
        Index("ix_invoice_corrects_id", "corrects_id"),
        Index("ix_invoice_payment_id", "payment_id"),
        Index(
            "uq_invoice_payment_id_in_force",
            "payment_id",
            unique=True,
            sqlite_where=text("kind = 'invoice' AND status <> 'void'"),
            postgresql_where=text("kind = 'invoice' AND status <> 'void'"),
        ),
    )

    id: str = Field(primary_key=True, max_length=32)
    kind: str = Field(max_length=16)
    status: str = Field(max_length=16)
    number: str | None = Field(default=None, max_length=40, unique=True)
    series: str = Field(max_length=16)
    year: int | None = _big_or_none()
    sequence: int | None = _big_or_none()
    user_id: int = _big()
    payment_id: str | None = Field(default=None, max_length=32, foreign_key="payment.id")
    corrects_id: str | None = Field(default=None, max_length=32, foreign_key="invoice.id")
    seller_id: int = _big("seller.id")
    currency: str = Field(max_length=3)
    net_minor: int = _big()
    tax_minor: int = _big()
    total_minor: int = _big()
    due_on: str | None = Field(default=None, max_length=10)
    reason: str | None = Field(default=None, max_length=200)
    document: str = Field(sa_column=Column(Text, nullable=False))
    document_sha256: str = Field(max_length=64)
    public_token_hash: str | None = Field(default=None, max_length=64, unique=True)
    link_version: int = _big(server_default=text("0"))
    created_at: int = _big()
    issued_at: int | None = _big_or_none()
    closed_at: int | None = _big_or_none()


class InvoiceLineRow(SQLModel, table=True):
    """A line of an issued document; amounts are gross where prices are."""

    __tablename__ = "invoice_line"
    __table_args__ = (
        CheckConstraint(_whole("amount_minor"), name="amount_minor"),
        CheckConstraint(_whole("quantity", "1"), name="quantity"),
    )

    invoice_id: str = Field(primary_key=True, max_length=32, foreign_key="invoice.id")
    position: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    description: str = Field(max_length=200)
    quantity: int = _big()
    amount_minor: int = _big()


class InvoiceTaxRow(SQLModel, table=True):
    """What an issued document says of one rate: the summed base and its tax."""

    __tablename__ = "invoice_tax"
    __table_args__ = (
        CheckConstraint(
            "treatment IN ('standard', 'none', 'reverse_charge', 'outside')", name="treatment"
        ),
        CheckConstraint("rate_bp >= 0 AND rate_bp <= 10000", name="rate_bp"),
        CheckConstraint("treatment = 'standard' OR tax_minor = 0", name="untaxed"),
        CheckConstraint(_whole("base_minor"), name="base_minor"),
        CheckConstraint(_whole("tax_minor"), name="tax_minor"),
    )

    invoice_id: str = Field(primary_key=True, max_length=32, foreign_key="invoice.id")
    position: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    jurisdiction: str = Field(max_length=8)
    category: str = Field(max_length=16)
    treatment: str = Field(max_length=16)
    rate_bp: int = _big()
    base_minor: int = _big()
    tax_minor: int = _big()


class InvoiceFileRow(SQLModel, table=True):
    """The PDF of an issued document, written once: these bytes are given out for ever."""

    __tablename__ = "invoice_file"
    __table_args__ = (CheckConstraint(_whole("size", "1"), name="size"),)

    invoice_id: str = Field(primary_key=True, max_length=32, foreign_key="invoice.id")
    sha256: str = Field(max_length=64)
    size: int = _big()
    content: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created_at: int = _big()
