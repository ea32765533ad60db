"""rules for alerts of the machine, its faults, what is known of the installation"""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "machine_rule",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=True),
        sa.Column("threshold", sa.Double(), nullable=True),
        sa.Column("for_seconds", sa.Integer(), nullable=True),
        sa.Column("channels", sa.String(length=40), nullable=True),
        sa.Column("changed_by", sa.String(length=64), nullable=False),
        sa.Column("changed_at", _BIG, nullable=False),
        sa.CheckConstraint("threshold >= 0", name=op.f("ck_machine_rule_threshold")),
        sa.CheckConstraint(
            "for_seconds BETWEEN 0 AND 86400", name=op.f("ck_machine_rule_for_seconds")
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_machine_rule")),
    )
    op.create_table(
        "machine_alert",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("rule", sa.String(length=40), nullable=False),
        sa.Column("place", sa.String(length=120), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("threshold", sa.Double(), nullable=False),
        sa.Column("raised_at", _BIG, nullable=False),
        sa.Column("cleared_at", _BIG, nullable=True),
        sa.CheckConstraint(
            "cleared_at IS NULL OR cleared_at >= raised_at", name=op.f("ck_machine_alert_order")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_machine_alert")),
        sqlite_autoincrement=True,
    )
    open_ones = sa.text("cleared_at IS NULL")
    op.create_index(
        "uq_machine_alert_open",
        "machine_alert",
        ["rule", "place"],
        unique=True,
        sqlite_where=open_ones,
        postgresql_where=open_ones,
    )
    op.create_index("ix_machine_alert_raised_at", "machine_alert", ["raised_at"])
    op.create_table(
        "machine_fact",
        sa.Column("name", sa.String(length=160), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("at", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_machine_fact")),
    )


def downgrade() -> None:
    op.drop_table("machine_fact")
    op.drop_index("ix_machine_alert_raised_at", table_name="machine_alert")
    op.drop_index("uq_machine_alert_open", table_name="machine_alert")
    op.drop_table("machine_alert")
    op.drop_table("machine_rule")
