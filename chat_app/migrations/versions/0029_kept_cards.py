"""kept cards, and attempts at an order"""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "payment_customer",
        sa.Column("provider", sa.String(length=16), nullable=False),
        sa.Column("customer_ref", sa.String(length=128), nullable=False),
        sa.Column("user_id", BIG, nullable=False),
        sa.Column("going", sa.Boolean(), nullable=False),
        sa.Column("kept_at", BIG, nullable=False),
        sa.PrimaryKeyConstraint("provider", "customer_ref", name=op.f("pk_payment_customer")),
    )
    op.create_index(op.f("ix_payment_customer_user_id"), "payment_customer", ["user_id"])
    op.add_column("payment", sa.Column("tries", BIG, server_default="0", nullable=False))
    op.add_column("payment", sa.Column("busy_until", BIG, nullable=True))
    op.add_column("payment", sa.Column("retry_at", BIG, nullable=True))


def downgrade() -> None:
    for name in ("retry_at", "busy_until", "tries"):
        op.drop_column("payment", name)
    op.drop_index(op.f("ix_payment_customer_user_id"), table_name="payment_customer")
    op.drop_table("payment_customer")
