"""the money ledger: journals, postings, closed months, and what lots have earned"""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _big(name: str, *references: str, **options: object) -> "sa.Column[int]":
    options.setdefault("nullable", False)
    return sa.Column(name, _BIG, *(sa.ForeignKey(one) for one in references), **options)  # type: ignore[arg-type]


def upgrade() -> None:
    op.create_table(
        "journal",
        _big("id", autoincrement=True, primary_key=True),
        sa.Column("key", sa.String(length=160), nullable=False),
        sa.Column("day", sa.String(length=10), nullable=False),
        sa.Column("kind", sa.String(length=24), nullable=False),
        sa.Column("memo", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        _big("created_at"),
        sa.CheckConstraint("length(day) = 10", name=op.f("ck_journal_day")),
        sa.UniqueConstraint("key", name=op.f("uq_journal_key")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_journal_day", "journal", ["day"])
    op.create_table(
        "posting",
        _big("journal_id", "journal.id", primary_key=True, autoincrement=False),
        _big("line", primary_key=True, autoincrement=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        _big("amount_minor"),
        _big("lot_id", "lot.id", nullable=True),
        sa.Column("payment_id", sa.String(length=32), sa.ForeignKey("payment.id")),
        sa.CheckConstraint("amount_minor <> 0", name=op.f("ck_posting_amount_minor")),
    )
    op.create_index("ix_posting_account", "posting", ["account", "journal_id"])
    op.create_index("ix_posting_payment_id", "posting", ["payment_id"])
    op.create_index("ix_posting_lot_id", "posting", ["lot_id"])
    op.create_table(
        "book_period",
        sa.Column("id", sa.String(length=7), primary_key=True),
        sa.Column("digest", sa.String(length=64), nullable=False),
        _big("closed_at"),
        sa.Column("closed_by", sa.String(length=64), nullable=False),
    )
    op.create_table(
        "book_mark",
        _big("id", primary_key=True, autoincrement=False),
        sa.Column("day", sa.String(length=10), nullable=False),
        _big("transfer_id"),
        sa.CheckConstraint("id = 1", name=op.f("ck_book_mark_one")),
    )
    zero = ("used", "gone", "expired", "earned", "broken", "handed", "gone_gross", "expected_bp")
    op.create_table(
        "lot_revenue",
        _big("lot_id", "lot.id", primary_key=True, autoincrement=False),
        sa.Column("payment_id", sa.String(length=32), sa.ForeignKey("payment.id")),
        sa.Column("currency", sa.String(length=3), nullable=False),
        _big("granted"),
        _big("gross_minor"),
        _big("net_minor"),
        *(_big(name, server_default="0") for name in zero),
        _big("starts_at", nullable=True),
        _big("ends_at", nullable=True),
        sa.CheckConstraint(
            "net_minor >= 0 AND net_minor <= gross_minor", name=op.f("ck_lot_revenue_net_minor")
        ),
        sa.CheckConstraint(
            "earned + broken + handed <= net_minor", name=op.f("ck_lot_revenue_deferred")
        ),
        sa.CheckConstraint("used + gone + expired <= granted", name=op.f("ck_lot_revenue_granted")),
    )
    op.create_index("ix_lot_revenue_payment_id", "lot_revenue", ["payment_id"])
    op.create_index("ix_lot_revenue_ends_at", "lot_revenue", ["ends_at"])


def downgrade() -> None:
    for table in ("lot_revenue", "book_mark", "book_period", "posting", "journal"):
        op.drop_table(table)
