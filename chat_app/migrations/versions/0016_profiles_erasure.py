"""profiles of users, the time at which one was erased, notes of transfers"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_TEXTS = {"display_name": 64, "language": 16, "timezone": 64}


def upgrade() -> None:
    for name, length in _TEXTS.items():
        column = sa.Column(name, sa.String(length=length), server_default="", nullable=False)
        op.add_column("user", column)
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("user", sa.Column("erased_at", number, nullable=True))
    op.create_table(
        "transfer_note",
        sa.Column("transfer_id", number, autoincrement=False, nullable=False),
        sa.Column("user_id", number, nullable=False),
        sa.Column("text", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(
            ["transfer_id"], ["transfer.id"], name=op.f("fk_transfer_note_transfer_id_transfer")
        ),
        sa.PrimaryKeyConstraint("transfer_id", name=op.f("pk_transfer_note")),
    )
    op.create_index(op.f("ix_transfer_note_user_id"), "transfer_note", ["user_id"])


def downgrade() -> None:
    op.drop_index(op.f("ix_transfer_note_user_id"), table_name="transfer_note")
    op.drop_table("transfer_note")
    for name in ("erased_at", *reversed(_TEXTS)):
        op.drop_column("user", name)
