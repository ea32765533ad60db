"""credits that move between wallets, organisations, budgets"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OPEN_MOVES = sa.text("parent_lot_id IS NULL")


def upgrade() -> None:
    op.create_table(
        "org",
        sa.Column("id", BIG, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("created_by", BIG, nullable=False),
        sa.Column("created_at", BIG, nullable=False),
        sa.Column("closed_at", BIG, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_org")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "org_member",
        sa.Column("org_id", BIG, nullable=False, autoincrement=False),
        sa.Column("user_id", BIG, nullable=False, autoincrement=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("monthly_limit", BIG, nullable=True),
        sa.Column("joined_at", BIG, nullable=False),
        sa.CheckConstraint("role IN ('owner', 'admin', 'member')", name=op.f("ck_org_member_role")),
        sa.CheckConstraint(
            "monthly_limit IS NULL OR monthly_limit >= 0", name=op.f("ck_org_member_monthly_limit")
        ),
        sa.ForeignKeyConstraint(["org_id"], ["org.id"], name=op.f("fk_org_member_org_id_org")),
        sa.ForeignKeyConstraint(["user_id"], ["user.id"], name=op.f("fk_org_member_user_id_user")),
        sa.PrimaryKeyConstraint("org_id", "user_id", name=op.f("pk_org_member")),
    )
    op.create_index(op.f("ix_org_member_user_id"), "org_member", ["user_id"])
    op.create_table(
        "budget",
        sa.Column("id", BIG, nullable=False),
        sa.Column("scope", sa.String(length=16), nullable=False),
        sa.Column("account_id", BIG, nullable=False),
        sa.Column("user_id", BIG, nullable=False),
        sa.Column("starts_at", BIG, nullable=False),
        sa.Column("ends_at", BIG, nullable=False),
        sa.Column("used", BIG, server_default=sa.text("0"), nullable=False),
        sa.Column("held", BIG, server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("scope IN ('member', 'transfer')", name=op.f("ck_budget_scope")),
        sa.CheckConstraint(
            "used >= 0 AND used = CAST(used AS BIGINT)", name=op.f("ck_budget_used")
        ),
        sa.CheckConstraint(
            "held >= 0 AND held = CAST(held AS BIGINT)", name=op.f("ck_budget_held")
        ),
        sa.CheckConstraint("starts_at < ends_at", name=op.f("ck_budget_period")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("fk_budget_account_id_account")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_budget")),
        sa.UniqueConstraint(
            "account_id", "scope", "user_id", "starts_at", name="uq_budget_account_id_scope"
        ),
    )
    with op.batch_alter_table("account", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.add_column(sa.Column("org_id", BIG, nullable=True))
        batch.create_unique_constraint(op.f("uq_account_org_id"), ["org_id"])
        batch.drop_constraint(op.f("ck_account_owner"), type_="check")
        batch.create_check_constraint(
            op.f("ck_account_owner"),
            "(kind = 'wallet') = ((user_id IS NULL) <> (org_id IS NULL))",
        )
        batch.create_check_constraint(
            op.f("ck_account_one_owner"), "user_id IS NULL OR org_id IS NULL"
        )
    with op.batch_alter_table("hold") as batch:
        batch.add_column(sa.Column("budget_id", BIG, nullable=True))
        batch.create_foreign_key(op.f("fk_hold_budget_id_budget"), "budget", ["budget_id"], ["id"])
        batch.create_index(op.f("ix_hold_budget_id"), ["budget_id"])
    with op.batch_alter_table("lot", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.add_column(sa.Column("parent_lot_id", BIG, nullable=True))
        batch.create_foreign_key(op.f("fk_lot_parent_lot_id_lot"), "lot", ["parent_lot_id"], ["id"])
        batch.drop_constraint(op.f("uq_lot_transfer_id"), type_="unique")
        batch.create_unique_constraint(
            "uq_lot_transfer_id_parent_lot_id", ["transfer_id", "parent_lot_id"]
        )
        batch.create_index("ix_lot_parent_lot_id", ["parent_lot_id"])
        batch.create_index(
            "uq_lot_transfer_id",
            ["transfer_id"],
            unique=True,
            sqlite_where=OPEN_MOVES,
            postgresql_where=OPEN_MOVES,
        )


def downgrade() -> None:
    _refuse_what_cannot_be_said_before()
    with op.batch_alter_table("lot", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.drop_index("uq_lot_transfer_id")
        batch.drop_index("ix_lot_parent_lot_id")
        batch.drop_constraint("uq_lot_transfer_id_parent_lot_id", type_="unique")
        batch.create_unique_constraint(op.f("uq_lot_transfer_id"), ["transfer_id"])
        batch.drop_constraint(op.f("fk_lot_parent_lot_id_lot"), type_="foreignkey")
        batch.drop_column("parent_lot_id")
    with op.batch_alter_table("hold") as batch:
        batch.drop_index(op.f("ix_hold_budget_id"))
        batch.drop_constraint(op.f("fk_hold_budget_id_budget"), type_="foreignkey")
        batch.drop_column("budget_id")
    with op.batch_alter_table("account", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.drop_constraint(op.f("ck_account_one_owner"), type_="check")
        batch.drop_constraint(op.f("ck_account_owner"), type_="check")
        batch.create_check_constraint(
            op.f("ck_account_owner"), "(kind = 'wallet') = (user_id IS NOT NULL)"
        )
        batch.drop_constraint(op.f("uq_account_org_id"), type_="unique")
        batch.drop_column("org_id")
    op.drop_table("budget")
    op.drop_table("org_member")
    op.drop_table("org")


def _refuse_what_cannot_be_said_before() -> None:
    """The books before this revision know no wallets of organisations and no moved lots."""
    moved, pools = (
        op.get_bind().execute(sa.text(f"SELECT COUNT(*) FROM {rows}")).scalar_one()
        for rows in ("lot WHERE parent_lot_id IS NOT NULL", "account WHERE org_id IS NOT NULL")
    )
    if moved or pools:
        raise RuntimeError(
            f"The books hold {moved} moved lots and {pools} wallets of organisations, which the "
            "schema before 0006 has no place for. Restore a backup from before instead."
        )
