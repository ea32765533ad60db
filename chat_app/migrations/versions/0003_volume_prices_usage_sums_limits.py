"""prices by volume, usage sums, spend limits"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Each table of sums, the microseconds that its beginnings are multiples of, and the beginning
# that a time belongs to: the same words on both databases, or SQLite's and PostgreSQL's.
_MONTH = (
    "CAST(strftime('%s', at / 1000000, 'unixepoch', 'start of month') AS INTEGER) * 1000000",
    "CAST(extract(epoch FROM date_trunc('month', to_timestamp(at / 1000000) AT TIME ZONE 'UTC'))"
    " AS bigint) * 1000000",
)
_SUMS = {
    "usage_minute": (60_000_000, ("at / 60000000 * 60000000",) * 2),
    "usage_day": (86_400_000_000, ("at / 86400000000 * 86400000000",) * 2),
    "usage_month": (86_400_000_000, _MONTH),
}
_PARTS = ("per_message", "input_per_million", "output_per_million", "per_image")
_LIMITS = ("per_answer", "per_conversation", "per_day", "per_month", "messages_per_month")


def _big(name: str, **options: object) -> "sa.Column[int]":
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column(name, kind, **{"nullable": False, **options})  # type: ignore[arg-type]


def upgrade() -> None:
    op.create_table(
        "offer",
        sa.Column("model_id", sa.String(length=128), nullable=False),
        sa.Column("offered", sa.Boolean(), nullable=False),
        _big("changed_at"),
        sa.PrimaryKeyConstraint("model_id", name=op.f("pk_offer")),
    )
    op.create_table(
        "price_tier",
        _big("price_id", autoincrement=False),
        _big("tier", autoincrement=False),
        sa.Column("unit", sa.String(length=16), nullable=False),
        _big("from_amount"),
        *(_big(name, nullable=True) for name in _PARTS),
        sa.CheckConstraint("unit IN ('credits', 'messages')", name=op.f("ck_price_tier_unit")),
        sa.CheckConstraint("tier >= 1", name=op.f("ck_price_tier_tier")),
        sa.CheckConstraint(
            "from_amount >= 1 AND from_amount = CAST(from_amount AS BIGINT)",
            name=op.f("ck_price_tier_from_amount"),
        ),
        *(
            sa.CheckConstraint(
                f"{name} IS NULL OR ({name} >= 0 AND {name} = CAST({name} AS BIGINT))",
                name=op.f(f"ck_price_tier_{name}"),
            )
            for name in _PARTS
        ),
        sa.ForeignKeyConstraint(
            ["price_id"], ["price.id"], name=op.f("fk_price_tier_price_id_price")
        ),
        sa.PrimaryKeyConstraint("price_id", "tier", name=op.f("pk_price_tier")),
    )
    op.create_table(
        "spend_limit",
        _big("user_id", autoincrement=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        *(_big(name, nullable=True) for name in _LIMITS),
        _big("changed_at"),
        *(
            sa.CheckConstraint(
                f"{name} IS NULL OR {name} >= 0", name=op.f(f"ck_spend_limit_{name}")
            )
            for name in _LIMITS
        ),
        sa.PrimaryKeyConstraint("user_id", "source", name=op.f("pk_spend_limit")),
    )
    op.add_column(
        "reply", sa.Column("price_tier", sa.Integer(), server_default="0", nullable=False)
    )
    op.create_index("ix_reply_conversation_id", "reply", ["conversation_id"])
    op.add_column("usage", _big("price_tier", server_default=sa.text("0")))
    op.create_index("ix_usage_user_id_model_at", "usage", ["user_id", "model", "at"])
    op.create_index("ix_usage_at", "usage", ["at"])
    sqlite = op.get_bind().dialect.name == "sqlite"
    for table, (micros, starts) in _SUMS.items():
        _add_sums(table, micros, starts[0 if sqlite else 1])


def _add_sums(table: str, micros: int, starts_at: str) -> None:
    op.create_table(
        table,
        _big("user_id", autoincrement=False),
        _big("starts_at", autoincrement=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        _big("messages"),
        _big("answers"),
        _big("prompt_tokens"),
        _big("completion_tokens"),
        _big("cost"),
        sa.CheckConstraint(
            "messages >= 0 AND answers >= 0 AND prompt_tokens >= 0 AND completion_tokens >= 0"
            " AND cost >= 0 AND answers <= messages",
            name=op.f(f"ck_{table}_sums"),
        ),
        sa.CheckConstraint(
            f"starts_at / {micros} * {micros} = starts_at", name=op.f(f"ck_{table}_starts_at")
        ),
        sa.PrimaryKeyConstraint("user_id", "starts_at", "model", name=op.f(f"pk_{table}")),
    )
    op.execute(
        sa.text(
            f"""INSERT INTO {table} (user_id, starts_at, model, messages, answers, prompt_tokens,
             completion_tokens, cost)
            SELECT user_id, {starts_at}, model, COUNT(*),
             SUM(CASE WHEN completion_tokens > 0 AND status <> 'error' THEN 1 ELSE 0 END),
             SUM(prompt_tokens), SUM(completion_tokens), SUM(cost)
            FROM "usage" GROUP BY 1, 2, 3"""
        )
    )


def downgrade() -> None:
    for table in _SUMS:
        op.drop_table(table)
    op.drop_index("ix_usage_at", "usage")
    op.drop_index("ix_usage_user_id_model_at", "usage")
    op.drop_column("usage", "price_tier")
    op.drop_index("ix_reply_conversation_id", "reply")
    op.drop_column("reply", "price_tier")
    for table in ("spend_limit", "price_tier", "offer"):
        op.drop_table(table)
