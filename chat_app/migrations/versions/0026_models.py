"""models"""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _json(name: str) -> sa.Column:
    return sa.Column(name, sa.Text(), nullable=False)


def upgrade() -> None:
    op.create_table(
        "demo_user",
        sa.Column("user_id", BIG, autoincrement=False, nullable=False),
        sa.Column("seed", BIG, nullable=False),
        sa.Column("scenario", sa.String(length=32), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_demo_user")),
    )
    op.create_table(
        "ml_prediction",
        sa.Column("id", BIG, nullable=False),
        sa.Column("run_id", BIG, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("ds", sa.String(length=32), server_default="", nullable=False),
        sa.Column("as_of", BIG, nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("lo", sa.Float(), nullable=True),
        sa.Column("hi", sa.Float(), nullable=True),
        sa.Column("basis", sa.String(length=32), nullable=False),
        _json("reasons"),
        _json("facts"),
        sa.Column("model_version", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ml_prediction")),
        sa.UniqueConstraint("run_id", "subject", "ds", name="uq_ml_prediction_run_subject_ds"),
    )
    op.create_index("ix_ml_prediction_kind_run", "ml_prediction", ["kind", "run_id", "value"])
    op.create_index("ix_ml_prediction_subject", "ml_prediction", ["subject", "kind"])
    op.create_table(
        "ml_model_version",
        sa.Column("id", BIG, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("algorithm", sa.String(length=32), nullable=False),
        sa.Column("as_of", BIG, nullable=False),
        _json("metrics"),
        sa.Column("is_demo", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ml_model_version")),
        sa.UniqueConstraint("kind", "version", name="uq_ml_model_version_kind_version"),
    )
    op.create_table(
        "ml_rollout",
        sa.Column("kind", sa.String(length=32), nullable=False),
        _json("state"),
        sa.Column("changed_by", sa.String(length=64), nullable=False),
        sa.Column("changed_at", BIG, nullable=False),
        sa.PrimaryKeyConstraint("kind", name=op.f("pk_ml_rollout")),
    )
    op.create_table(
        "ml_training_run",
        sa.Column("id", BIG, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("as_of", BIG, nullable=False),
        sa.Column("rows", BIG, server_default="0", nullable=False),
        sa.Column("version", sa.String(length=32), nullable=True),
        sa.Column("champion", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("is_demo", sa.Boolean(), server_default=sa.false(), nullable=False),
        _json("report"),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("started_at", BIG, nullable=False),
        sa.Column("ended_at", BIG, nullable=True),
        sa.CheckConstraint(
            "state IN ('running', 'done', 'failed')", name=op.f("ck_ml_training_run_state")
        ),
        sa.CheckConstraint(
            "(state = 'running') = (ended_at IS NULL)", name=op.f("ck_ml_training_run_ended")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ml_training_run")),
    )
    op.create_index("ix_ml_training_run_kind", "ml_training_run", ["kind", "id"])
    op.create_table(
        "ml_backtest",
        sa.Column("id", BIG, nullable=False),
        sa.Column("run_id", BIG, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("candidate", sa.String(length=32), nullable=False),
        sa.Column("origin", sa.String(length=40), server_default="", nullable=False),
        _json("scores"),
        sa.Column("chosen", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ml_backtest")),
    )
    op.create_index("ix_ml_backtest_run_id", "ml_backtest", ["run_id"])
    op.create_table(
        "ml_drift",
        sa.Column("id", BIG, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("feature", sa.String(length=64), nullable=False),
        sa.Column("psi", sa.Float(), nullable=True),
        sa.Column("threshold", sa.Float(), nullable=False),
        sa.Column("alarm", sa.Boolean(), nullable=False),
        sa.Column("looked_at", BIG, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ml_drift")),
    )
    op.create_index("ix_ml_drift_kind", "ml_drift", ["kind", "looked_at"])


def downgrade() -> None:
    for table in (
        "ml_drift",
        "ml_backtest",
        "ml_training_run",
        "ml_rollout",
        "ml_model_version",
        "ml_prediction",
        "demo_user",
    ):
        op.drop_table(table)
