"""plans codes topups"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "code_batch",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("credits", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("count", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("uses", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("per_user", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "valid_days", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True
        ),
        sa.Column(
            "expires_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True
        ),
        sa.Column("created_by", sa.String(length=64), nullable=False),
        sa.Column(
            "created_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.CheckConstraint(
            "credits >= 1 AND credits = CAST(credits AS BIGINT)", name=op.f("ck_code_batch_credits")
        ),
        sa.CheckConstraint(
            "uses >= 1 AND per_user >= 1 AND count >= 1", name=op.f("ck_code_batch_limits")
        ),
        sa.CheckConstraint(
            "valid_days IS NULL OR valid_days >= 1", name=op.f("ck_code_batch_valid_days")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_code_batch")),
    )
    op.create_table(
        "plan",
        sa.Column("code", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column(
            "price_minor", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("credits", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "keep_periods", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True
        ),
        sa.Column(
            "position",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            server_default=sa.text("0"),
            nullable=False,
        ),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column(
            "created_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.CheckConstraint(
            "credits >= 1 AND credits = CAST(credits AS BIGINT)", name=op.f("ck_plan_credits")
        ),
        sa.CheckConstraint(
            "keep_periods IS NULL OR keep_periods >= 0", name=op.f("ck_plan_keep_periods")
        ),
        sa.CheckConstraint(
            "price_minor >= 0 AND price_minor = CAST(price_minor AS BIGINT)",
            name=op.f("ck_plan_price_minor"),
        ),
        sa.PrimaryKeyConstraint("code", name=op.f("pk_plan")),
    )
    op.create_table(
        "subscription",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("user_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column(
            "period",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            server_default=sa.text("0"),
            nullable=False,
        ),
        sa.Column("next_plan", sa.String(length=32), nullable=True),
        sa.Column("cancel_at_end", sa.Boolean(), nullable=False),
        sa.Column(
            "tries",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            server_default=sa.text("0"),
            nullable=False,
        ),
        sa.Column("due_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "created_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("ended_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.CheckConstraint(
            "(status = 'cancelled') = (ended_at IS NOT NULL)", name=op.f("ck_subscription_ended")
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'active', 'past_due', 'paused', 'cancelled')",
            name=op.f("ck_subscription_status"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscription")),
    )
    op.create_index(
        "ix_subscription_live_due_at",
        "subscription",
        ["due_at"],
        unique=False,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index(
        "uq_subscription_live_user_id",
        "subscription",
        ["user_id"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )

    op.create_table(
        "auto_topup",
        sa.Column(
            "user_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column(
            "threshold", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("package_code", sa.String(length=32), nullable=False),
        sa.Column("per_day", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column(
            "blocked_until", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True
        ),
        sa.Column(
            "updated_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.CheckConstraint("per_day >= 1", name=op.f("ck_auto_topup_per_day")),
        sa.CheckConstraint(
            "threshold >= 1 AND threshold = CAST(threshold AS BIGINT)",
            name=op.f("ck_auto_topup_threshold"),
        ),
        sa.ForeignKeyConstraint(
            ["package_code"], ["package.code"], name=op.f("fk_auto_topup_package_code_package")
        ),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_auto_topup")),
    )
    op.create_table(
        "redemption_code",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("batch_id", sa.String(length=32), nullable=False),
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("hint", sa.String(length=4), nullable=False),
        sa.Column("uses", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "used",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            server_default=sa.text("0"),
            nullable=False,
        ),
        sa.Column(
            "expires_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True
        ),
        sa.Column(
            "revoked_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True
        ),
        sa.Column(
            "created_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.CheckConstraint("used >= 0 AND used <= uses", name=op.f("ck_redemption_code_used")),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["code_batch.id"], name=op.f("fk_redemption_code_batch_id_code_batch")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_redemption_code")),
        sa.UniqueConstraint("hash", name=op.f("uq_redemption_code_hash")),
    )
    op.create_index(
        op.f("ix_redemption_code_batch_id"), "redemption_code", ["batch_id"], unique=False
    )
    op.create_index(
        "ix_redemption_code_created_at", "redemption_code", ["created_at", "id"], unique=False
    )

    op.create_table(
        "subscription_period",
        sa.Column("subscription_id", sa.String(length=32), nullable=False),
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("plan_code", sa.String(length=32), nullable=False),
        sa.Column("plan_name", sa.String(length=64), nullable=False),
        sa.Column(
            "price_minor", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("credits", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "keep_periods", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True
        ),
        sa.Column(
            "anchor_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column(
            "anchor_number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column(
            "starts_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("ends_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("payment_id", sa.String(length=32), nullable=True),
        sa.Column(
            "created_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.CheckConstraint(
            "state IN ('due', 'paid', 'skipped')", name=op.f("ck_subscription_period_state")
        ),
        sa.CheckConstraint(
            "credits >= 1 AND credits = CAST(credits AS BIGINT)",
            name=op.f("ck_subscription_period_credits"),
        ),
        sa.CheckConstraint("ends_at > starts_at", name=op.f("ck_subscription_period_ends_at")),
        sa.CheckConstraint(
            "price_minor >= 0 AND price_minor = CAST(price_minor AS BIGINT)",
            name=op.f("ck_subscription_period_price_minor"),
        ),
        sa.ForeignKeyConstraint(
            ["subscription_id"],
            ["subscription.id"],
            name=op.f("fk_subscription_period_subscription_id_subscription"),
        ),
        sa.PrimaryKeyConstraint("subscription_id", "number", name=op.f("pk_subscription_period")),
    )
    op.create_table(
        "periodic_grant",
        sa.Column(
            "user_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("period", sa.String(length=16), nullable=False),
        sa.Column(
            "transfer_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(
            ["transfer_id"], ["transfer.id"], name=op.f("fk_periodic_grant_transfer_id_transfer")
        ),
        sa.PrimaryKeyConstraint("user_id", "period", name=op.f("pk_periodic_grant")),
        sa.UniqueConstraint("transfer_id", name=op.f("uq_periodic_grant_transfer_id")),
    )
    op.create_table(
        "redemption",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("code_id", sa.String(length=32), nullable=False),
        sa.Column("user_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "transfer_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(
            ["code_id"], ["redemption_code.id"], name=op.f("fk_redemption_code_id_redemption_code")
        ),
        sa.ForeignKeyConstraint(
            ["transfer_id"], ["transfer.id"], name=op.f("fk_redemption_transfer_id_transfer")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_redemption")),
        sa.UniqueConstraint("code_id", "user_id", "number", name="uq_redemption_code_user_number"),
        sa.UniqueConstraint("transfer_id", name=op.f("uq_redemption_transfer_id")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "auto_topup_order",
        sa.Column(
            "user_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("payment_id", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.CheckConstraint(
            "state IN ('pending', 'paid', 'declined')", name=op.f("ck_auto_topup_order_state")
        ),
        sa.ForeignKeyConstraint(
            ["payment_id"], ["payment.id"], name=op.f("fk_auto_topup_order_payment_id_payment")
        ),
        sa.PrimaryKeyConstraint("user_id", "number", name=op.f("pk_auto_topup_order")),
        sa.UniqueConstraint("payment_id", name=op.f("uq_auto_topup_order_payment_id")),
    )
    op.create_index(
        "ix_auto_topup_order_user_id_at", "auto_topup_order", ["user_id", "at"], unique=False
    )

    # A constraint of a new column goes with the column: SQLite keeps the table as it is.
    days = "INTEGER" if op.get_bind().dialect.name == "sqlite" else "BIGINT"
    op.execute(
        f"ALTER TABLE package ADD COLUMN valid_days {days} "
        "CONSTRAINT ck_package_valid_days CHECK (valid_days IS NULL OR valid_days >= 1)"
    )
    op.execute(
        "ALTER TABLE payment ADD COLUMN source VARCHAR(16) DEFAULT 'paid' NOT NULL "
        "CONSTRAINT ck_payment_source CHECK (source IN ('paid', 'plan'))"
    )
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column(
        "payment", sa.Column("priority", big, server_default=sa.text("0"), nullable=False)
    )
    for name in ("valid_days", "ends_at", "period"):
        op.add_column("payment", sa.Column(name, big, nullable=True))
    op.add_column("payment", sa.Column("subscription_id", sa.String(length=32), nullable=True))
    op.create_index("ix_payment_subscription_id", "payment", ["subscription_id"])


def downgrade() -> None:
    op.drop_index("ix_payment_subscription_id", table_name="payment")
    for name in ("subscription_id", "period", "ends_at", "valid_days", "priority", "source"):
        op.drop_column("payment", name)
    op.drop_column("package", "valid_days")
    op.drop_index("ix_auto_topup_order_user_id_at", table_name="auto_topup_order")

    op.drop_table("auto_topup_order")
    op.drop_table("redemption")
    op.drop_table("periodic_grant")
    op.drop_table("subscription_period")
    op.drop_index("ix_redemption_code_created_at", table_name="redemption_code")
    op.drop_index(op.f("ix_redemption_code_batch_id"), table_name="redemption_code")

    op.drop_table("redemption_code")
    op.drop_table("auto_topup")
    op.drop_index(
        "uq_subscription_live_user_id",
        table_name="subscription",
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.drop_index(
        "ix_subscription_live_due_at",
        table_name="subscription",
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )

    op.drop_table("subscription")
    op.drop_table("plan")
    op.drop_table("code_batch")
