"""roles of staff, second factor"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_BEFORE = "role IN ('user', 'admin')"
_AFTER = "role IN ('user', 'support', 'finance', 'admin')"


def _big() -> "sa.types.TypeEngine[int]":
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _roles(_AFTER)
    op.add_column("session", sa.Column("second_factor_at", _big(), nullable=True))
    op.create_table(
        "totp",
        sa.Column("user_id", _big(), autoincrement=False, nullable=False),
        sa.Column("sealed", sa.String(length=200), nullable=False),
        sa.Column("last_step", _big(), nullable=False),
        sa.Column("created_at", _big(), nullable=False),
        sa.Column("confirmed_at", _big(), nullable=True),
        sa.CheckConstraint("last_step >= 0", name=op.f("ck_totp_last_step")),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("fk_totp_user_id_user"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_totp")),
    )
    op.create_table(
        "backup_code",
        sa.Column("code_hash", sa.String(length=64), nullable=False),
        sa.Column("user_id", _big(), nullable=False),
        sa.Column("created_at", _big(), nullable=False),
        sa.Column("used_at", _big(), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("fk_backup_code_user_id_user"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("code_hash", name=op.f("pk_backup_code")),
    )
    op.create_index("ix_backup_code_user_id", "backup_code", ["user_id"])


def downgrade() -> None:
    op.drop_index("ix_backup_code_user_id", table_name="backup_code")
    op.drop_table("backup_code")
    op.drop_table("totp")
    op.drop_column("session", "second_factor_at")
    # The earlier program knows no such staff, and nobody may gain rights by going back.
    op.execute("UPDATE \"user\" SET role = 'user' WHERE role IN ('support', 'finance')")
    _roles(_BEFORE)


def _roles(rule: str) -> None:
    with op.batch_alter_table("user", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.drop_constraint(op.f("ck_user_role"), type_="check")
        batch.create_check_constraint(op.f("ck_user_role"), rule)
