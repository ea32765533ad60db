"""public links of invoices can be withdrawn; transfers are found by their cause"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_CAUSED = sa.text("cause_id IS NOT NULL")


def upgrade() -> None:
    op.add_column(
        "invoice",
        sa.Column(
            "link_version",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            server_default=sa.text("0"),
        ),
    )
    op.create_index(
        "ix_transfer_cause_id",
        "transfer",
        ["cause_id"],
        sqlite_where=_CAUSED,
        postgresql_where=_CAUSED,
    )


def downgrade() -> None:
    op.drop_index("ix_transfer_cause_id", table_name="transfer")
    # An older program knows one link for each document: others cannot be shown, so they end.
    op.execute("UPDATE invoice SET public_token_hash = NULL WHERE link_version > 0")
    op.drop_column("invoice", "link_version")
