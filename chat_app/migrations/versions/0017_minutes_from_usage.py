"""usage by the minute is summed when it is read"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_FIGURES = ("messages", "answers", "prompt_tokens", "completion_tokens", "cost")


def _big(name: str) -> "sa.Column[int]":
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column(name, kind, nullable=False, autoincrement=False)


def upgrade() -> None:
    op.drop_table("usage_minute")


def downgrade() -> None:
    op.create_table(
        "usage_minute",
        _big("user_id"),
        _big("starts_at"),
        sa.Column("model", sa.String(length=128), nullable=False),
        *(_big(name) for name in _FIGURES),
        sa.CheckConstraint(
            " AND ".join(f"{name} >= 0" for name in _FIGURES) + " AND answers <= messages",
            name=op.f("ck_usage_minute_sums"),
        ),
        sa.CheckConstraint(
            "starts_at / 60000000 * 60000000 = starts_at", name=op.f("ck_usage_minute_starts_at")
        ),
        sa.PrimaryKeyConstraint("user_id", "starts_at", "model", name=op.f("pk_usage_minute")),
    )
    op.execute(
        sa.text(
            """INSERT INTO usage_minute (user_id, starts_at, model, messages, answers,
             prompt_tokens, completion_tokens, cost)
            SELECT user_id, at / 60000000 * 60000000, model, COUNT(*),
             SUM(CASE WHEN completion_tokens > 0 AND status <> 'error' THEN 1 ELSE 0 END),
             SUM(prompt_tokens), SUM(completion_tokens), SUM(cost)
            FROM "usage" GROUP BY 1, 2, 3"""
        )
    )
