"""parameters of conversations, presets, feedback"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def _big(name: str) -> "sa.Column[int]":
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column(name, kind, nullable=False, autoincrement=False)


def upgrade() -> None:
    op.add_column(
        "conversation", sa.Column("settings", sa.Text(), server_default="", nullable=False)
    )
    op.create_table(
        "preset",
        sa.Column("id", sa.String(), nullable=False),
        _big("user_id"),
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        _big("created_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_preset")),
        sa.UniqueConstraint("user_id", "name", name="uq_preset_name"),
    )
    op.create_table(
        "message_feedback",
        sa.Column("message_id", sa.String(), nullable=False),
        _big("user_id"),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("vote", sa.Integer(), nullable=False),
        sa.Column("reasons", sa.String(length=200), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        _big("created_at"),
        _big("changed_at"),
        sa.CheckConstraint("vote IN (-1, 1)", name=op.f("ck_message_feedback_vote")),
        sa.ForeignKeyConstraint(
            ["message_id"], ["message.id"], name=op.f("fk_message_feedback_message_id_message")
        ),
        sa.PrimaryKeyConstraint("message_id", "user_id", name=op.f("pk_message_feedback")),
    )
    op.create_index("ix_message_feedback_model", "message_feedback", ["model"])
    op.create_index("ix_message_feedback_user", "message_feedback", ["user_id"])


def downgrade() -> None:
    op.drop_index("ix_message_feedback_user", table_name="message_feedback")
    op.drop_index("ix_message_feedback_model", table_name="message_feedback")
    op.drop_table("message_feedback")
    op.drop_table("preset")
    op.drop_column("conversation", "settings")
