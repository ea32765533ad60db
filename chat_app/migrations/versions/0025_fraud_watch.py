"""what was judged for fraud, labels, what is remembered"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0023"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "fraud_assessment",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("event_id", sa.String(length=120), nullable=False),
        sa.Column("tx_id", _BIG, nullable=True),
        sa.Column("user_id", _BIG, nullable=False),
        sa.Column("type", sa.String(length=20), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("score", sa.Integer(), nullable=False),
        sa.Column("action", sa.String(length=10), nullable=False),
        sa.Column("reasons", sa.Text(), nullable=False),
        sa.Column("refused", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("model_version", sa.String(length=32), nullable=False),
        sa.Column("bucket", sa.String(length=32), nullable=False),
        sa.Column("features_hash", sa.String(length=32), nullable=False),
        sa.Column("cached", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("latency_us", sa.Integer(), nullable=False),
        sa.Column("fallback_reason", sa.String(length=32), nullable=True),
        sa.Column("created_at", _BIG, nullable=False),
        sa.CheckConstraint(
            "action IN ('allow', 'review', 'hold')", name=op.f("ck_fraud_assessment_action")
        ),
        sa.CheckConstraint("score BETWEEN 0 AND 1000", name=op.f("ck_fraud_assessment_score")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fraud_assessment")),
        sa.UniqueConstraint("event_id", name=op.f("uq_fraud_assessment_event_id")),
        sa.UniqueConstraint("tx_id", name=op.f("uq_fraud_assessment_tx_id")),
    )
    op.create_index("ix_fraud_assessment_user", "fraud_assessment", ["user_id", "created_at"])
    op.create_index("ix_fraud_assessment_action", "fraud_assessment", ["action", "id"])
    op.create_index("ix_fraud_assessment_created_at", "fraud_assessment", ["created_at"])
    op.create_table(
        "fraud_label",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("assessment_id", _BIG, nullable=False),
        sa.Column("label", sa.String(length=8), nullable=False),
        sa.Column("labelled_by", _BIG, nullable=False),
        sa.Column("created_at", _BIG, nullable=False),
        sa.CheckConstraint("label IN ('fraud', 'legit')", name=op.f("ck_fraud_label_label")),
        sa.ForeignKeyConstraint(
            ["assessment_id"],
            ["fraud_assessment.id"],
            name=op.f("fk_fraud_label_assessment_id_fraud_assessment"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fraud_label")),
    )
    op.create_index("ix_fraud_label_assessment_id", "fraud_label", ["assessment_id", "id"])
    op.create_table(
        "entity_state",
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("key", sa.String(length=254), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("updated_at", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("kind", "key", name=op.f("pk_entity_state")),
    )


def downgrade() -> None:
    op.drop_table("entity_state")
    op.drop_table("fraud_label")
    op.drop_table("fraud_assessment")
