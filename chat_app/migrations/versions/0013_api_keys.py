"""API keys, what they spend, and the answers that they asked for"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OF_KEYS = sa.text("key_id IS NOT NULL")


def upgrade() -> None:
    limits = ("day_limit", "month_limit", "total_limit")
    op.create_table(
        "api_key",
        sa.Column("id", sa.String(length=8), nullable=False),
        sa.Column("user_id", BIG, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("secret_hash", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.String(length=200), nullable=False),
        sa.Column("models", sa.Text(), nullable=True),
        *(sa.Column(name, BIG, nullable=True) for name in limits),
        sa.Column("token_epoch", BIG, nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.Column("expires_at", BIG, nullable=True),
        sa.Column("last_used_at", BIG, nullable=True),
        sa.Column("revoked_at", BIG, nullable=True),
        *(
            sa.CheckConstraint(f"{name} IS NULL OR {name} >= 0", name=op.f(f"ck_api_key_{name}"))
            for name in limits
        ),
        sa.CheckConstraint(
            "expires_at IS NULL OR expires_at > created_at", name=op.f("ck_api_key_expires_at")
        ),
        sa.CheckConstraint(
            "revoked_at IS NULL OR revoked_at >= created_at", name=op.f("ck_api_key_revoked_at")
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("fk_api_key_user_id_user"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_key")),
    )
    op.create_index(op.f("ix_api_key_user_id"), "api_key", ["user_id"])
    op.create_table(
        "key_budget",
        sa.Column("id", BIG, nullable=False),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("period", sa.String(length=8), nullable=False),
        sa.Column("starts_at", BIG, nullable=False),
        sa.Column("ends_at", BIG, nullable=False),
        sa.Column("used", BIG, server_default=sa.text("0"), nullable=False),
        sa.Column("held", BIG, server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint(
            "period IN ('day', 'month', 'total')", name=op.f("ck_key_budget_period")
        ),
        sa.CheckConstraint(
            "used >= 0 AND used = CAST(used AS BIGINT)", name=op.f("ck_key_budget_used")
        ),
        sa.CheckConstraint(
            "held >= 0 AND held = CAST(held AS BIGINT)", name=op.f("ck_key_budget_held")
        ),
        sa.CheckConstraint("starts_at < ends_at", name=op.f("ck_key_budget_ends_at")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_key_budget")),
        sa.UniqueConstraint("key_id", "period", "starts_at", name="uq_key_budget_key_id_period"),
    )
    op.add_column("hold", sa.Column("key_id", sa.String(length=16), nullable=True))
    op.create_index(
        "ix_hold_key_id",
        "hold",
        ["key_id", "created_at"],
        sqlite_where=OF_KEYS,
        postgresql_where=OF_KEYS,
    )
    op.add_column("reply", sa.Column("key_id", sa.String(length=16), nullable=True))


def downgrade() -> None:
    op.drop_column("reply", "key_id")
    op.drop_index("ix_hold_key_id", table_name="hold")
    op.drop_column("hold", "key_id")
    op.drop_table("key_budget")
    op.drop_index(op.f("ix_api_key_user_id"), table_name="api_key")
    op.drop_table("api_key")
