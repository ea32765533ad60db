"""cached answers, titles by hand, engine time"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "conversation",
        sa.Column("renamed", sa.Boolean(), server_default=sa.false(), nullable=False),
    )
    op.add_column(
        "reply", sa.Column("cached", sa.Boolean(), server_default=sa.false(), nullable=False)
    )
    op.add_column(
        "reply",
        sa.Column("cached_percent", sa.Integer(), server_default=sa.text("100"), nullable=False),
    )
    op.add_column(
        "usage",
        sa.Column(
            "engine_ms",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            server_default=sa.text("0"),
            nullable=False,
        ),
    )


def downgrade() -> None:
    op.drop_column("usage", "engine_ms")
    op.drop_column("reply", "cached_percent")
    op.drop_column("reply", "cached")
    op.drop_column("conversation", "renamed")
