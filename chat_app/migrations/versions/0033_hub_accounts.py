"""accounts of Hugging Face that sign in, and which of its answers were used"""

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "hub_account",
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("user_id", _BIG, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("linked_at", _BIG, nullable=False),
        sa.Column("used_at", _BIG, nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("fk_hub_account_user_id_user"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("subject", name=op.f("pk_hub_account")),
        sa.UniqueConstraint("user_id", name=op.f("uq_hub_account_user_id")),
    )
    op.create_table(
        "hub_answer",
        sa.Column("state_hash", sa.String(length=64), nullable=False),
        sa.Column("expires_at", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("state_hash", name=op.f("pk_hub_answer")),
    )
    op.create_index("ix_hub_answer_expires_at", "hub_answer", ["expires_at"])


def downgrade() -> None:
    op.drop_index("ix_hub_answer_expires_at", table_name="hub_answer")
    op.drop_table("hub_answer")
    op.drop_table("hub_account")
