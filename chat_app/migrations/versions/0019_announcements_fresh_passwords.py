"""announcements on the page, when the password was shown again"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def _big() -> "sa.types.TypeEngine[int]":
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("session", sa.Column("confirmed_at", _big(), nullable=True))
    op.create_table(
        "announcement_bar",
        sa.Column("announcement_id", _big(), autoincrement=False, nullable=False),
        sa.Column("level", sa.String(length=16), nullable=False),
        sa.Column("starts_at", _big(), nullable=False),
        sa.Column("ends_at", _big(), nullable=False),
        sa.CheckConstraint("level IN ('info', 'warning')", name=op.f("ck_announcement_bar_level")),
        sa.CheckConstraint("ends_at > starts_at", name=op.f("ck_announcement_bar_times")),
        sa.ForeignKeyConstraint(
            ["announcement_id"],
            ["announcement.id"],
            name=op.f("fk_announcement_bar_announcement_id_announcement"),
        ),
        sa.PrimaryKeyConstraint("announcement_id", name=op.f("pk_announcement_bar")),
    )
    op.create_table(
        "announcement_dismissal",
        sa.Column("user_id", _big(), autoincrement=False, nullable=False),
        sa.Column("announcement_id", _big(), autoincrement=False, nullable=False),
        sa.Column("at", _big(), nullable=False),
        sa.ForeignKeyConstraint(
            ["announcement_id"],
            ["announcement.id"],
            name=op.f("fk_announcement_dismissal_announcement_id_announcement"),
        ),
        sa.PrimaryKeyConstraint(
            "user_id", "announcement_id", name=op.f("pk_announcement_dismissal")
        ),
    )


def downgrade() -> None:
    op.drop_table("announcement_dismissal")
    op.drop_table("announcement_bar")
    op.drop_column("session", "confirmed_at")
