"""folders, pins, the archive, and shared conversations"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    for name in ("pinned_at", "archived_at"):
        op.add_column("conversation", sa.Column(name, number, nullable=True))
    op.add_column("conversation", sa.Column("folder_id", sa.String(length=40), nullable=True))
    op.create_table(
        "folder",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("user_id", number, nullable=False),
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("name_key", sa.String(length=200), nullable=False),
        sa.Column("created_at", number, nullable=False),
        sa.CheckConstraint("name <> ''", name=op.f("ck_folder_has_name")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_folder")),
        sa.UniqueConstraint("user_id", "name_key", name="uq_folder_user_name"),
    )
    op.create_table(
        "conversation_share",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("user_id", number, nullable=False),
        sa.Column("conversation_id", sa.String(), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("access", sa.String(length=16), nullable=False),
        sa.Column("title", sa.String(length=200), nullable=False),
        sa.Column("snapshot", sa.Text(), nullable=False),
        sa.Column("messages", sa.Integer(), nullable=False),
        sa.Column("created_at", number, nullable=False),
        sa.Column("updated_at", number, nullable=False),
        sa.CheckConstraint(
            "access IN ('signed_in', 'open')", name=op.f("ck_conversation_share_access")
        ),
        sa.ForeignKeyConstraint(
            ["conversation_id"],
            ["conversation.id"],
            name=op.f("fk_conversation_share_conversation_id_conversation"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversation_share")),
        sa.UniqueConstraint("conversation_id", name=op.f("uq_conversation_share_conversation_id")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_conversation_share_token_hash")),
    )
    op.create_index("ix_conversation_share_user", "conversation_share", ["user_id", "created_at"])


def downgrade() -> None:
    op.drop_index("ix_conversation_share_user", table_name="conversation_share")
    op.drop_table("conversation_share")
    op.drop_table("folder")
    for name in ("folder_id", "archived_at", "pinned_at"):
        op.drop_column("conversation", name)
