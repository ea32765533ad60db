"""marks of sealed rows, reconciliation runs and differences

Going back drops the marks: seals that were made with them then no longer verify.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("event_seal", sa.Column("marks", sa.LargeBinary(), nullable=True))
    op.create_table(
        "recon_run",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("checks", _BIG, nullable=False),
        sa.Column("found", _BIG, nullable=False),
        sa.Column("fresh", _BIG, nullable=False),
        sa.Column("started_at", _BIG, nullable=False),
        sa.Column("ended_at", _BIG, nullable=False),
        sa.CheckConstraint("fresh >= 0 AND fresh <= found", name=op.f("ck_recon_run_found")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_recon_run")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "recon_diff",
        sa.Column("id", _BIG, nullable=False),
        sa.Column("check_name", sa.String(length=48), nullable=False),
        sa.Column("left_kind", sa.String(length=32), nullable=False),
        sa.Column("left_id", sa.String(length=64), nullable=True),
        sa.Column("right_kind", sa.String(length=32), nullable=False),
        sa.Column("right_id", sa.String(length=64), nullable=True),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("first_run_id", _BIG, nullable=False),
        sa.Column("last_run_id", _BIG, nullable=False),
        sa.Column("first_seen_at", _BIG, nullable=False),
        sa.Column("last_seen_at", _BIG, nullable=False),
        sa.CheckConstraint(
            "left_id IS NOT NULL OR right_id IS NOT NULL", name=op.f("ck_recon_diff_one_side")
        ),
        sa.CheckConstraint("first_run_id <= last_run_id", name=op.f("ck_recon_diff_runs")),
        sa.ForeignKeyConstraint(
            ["first_run_id"], ["recon_run.id"], name=op.f("fk_recon_diff_first_run_id_recon_run")
        ),
        sa.ForeignKeyConstraint(
            ["last_run_id"], ["recon_run.id"], name=op.f("fk_recon_diff_last_run_id_recon_run")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_recon_diff")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_recon_diff_fingerprint")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_recon_diff_last_run_id", "recon_diff", ["last_run_id", "id"])


def downgrade() -> None:
    op.drop_index("ix_recon_diff_last_run_id", table_name="recon_diff")
    op.drop_table("recon_diff")
    op.drop_table("recon_run")
    op.drop_column("event_seal", "marks")
