"""throttles"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "throttle",
        sa.Column("bucket", sa.String(length=64), nullable=False),
        sa.Column("empty_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.PrimaryKeyConstraint("bucket", name=op.f("pk_throttle")),
    )
    op.create_index("ix_throttle_empty_at", "throttle", ["empty_at"])


def downgrade() -> None:
    op.drop_index("ix_throttle_empty_at", table_name="throttle")
    op.drop_table("throttle")
