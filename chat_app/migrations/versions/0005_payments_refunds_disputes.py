"""payments with a provider: checkouts, announced events, refunds, disputes, debts"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

KINDS = "kind IN ('use', 'expire', 'adjust', 'refund', 'move')"
KINDS_BEFORE = "kind IN ('use', 'expire', 'adjust')"
OWED = "owed >= 0 AND owed = CAST(owed AS BIGINT)"
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "dispute",
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("provider", sa.String(length=16), nullable=False),
        sa.Column("payment_id", sa.String(length=32), nullable=False),
        sa.Column("user_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column(
            "credits",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            server_default=sa.text("0"),
            nullable=False,
        ),
        sa.Column(
            "owed",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            server_default=sa.text("0"),
            nullable=False,
        ),
        sa.Column(
            "amount_minor",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            server_default=sa.text("0"),
            nullable=False,
        ),
        sa.Column(
            "disputed_minor", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column(
            "operation_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True
        ),
        sa.Column(
            "transfer_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True
        ),
        sa.Column("debt_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column(
            "returned_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True
        ),
        sa.Column(
            "opened_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("closed_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.CheckConstraint(
            "returned_id IS NULL OR state = 'won'", name=op.f("ck_dispute_returned")
        ),
        sa.CheckConstraint(
            "state IN ('inquiry', 'open', 'won', 'lost')", name=op.f("ck_dispute_state")
        ),
        sa.CheckConstraint(
            "state NOT IN ('open', 'lost') OR operation_id IS NOT NULL",
            name=op.f("ck_dispute_taken"),
        ),
        sa.CheckConstraint(
            "credits >= 0 AND owed >= 0 AND amount_minor >= 0", name=op.f("ck_dispute_amounts")
        ),
        sa.ForeignKeyConstraint(
            ["debt_id"], ["transfer.id"], name=op.f("fk_dispute_debt_id_transfer")
        ),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operation.id"], name=op.f("fk_dispute_operation_id_operation")
        ),
        sa.ForeignKeyConstraint(
            ["payment_id"], ["payment.id"], name=op.f("fk_dispute_payment_id_payment")
        ),
        sa.ForeignKeyConstraint(
            ["returned_id"], ["transfer.id"], name=op.f("fk_dispute_returned_id_transfer")
        ),
        sa.ForeignKeyConstraint(
            ["transfer_id"], ["transfer.id"], name=op.f("fk_dispute_transfer_id_transfer")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dispute")),
        sa.UniqueConstraint("debt_id", name=op.f("uq_dispute_debt_id")),
        sa.UniqueConstraint("operation_id", name=op.f("uq_dispute_operation_id")),
        sa.UniqueConstraint("payment_id", name="uq_dispute_payment_id"),
        sa.UniqueConstraint("returned_id", name=op.f("uq_dispute_returned_id")),
        sa.UniqueConstraint("transfer_id", name=op.f("uq_dispute_transfer_id")),
    )
    with op.batch_alter_table("dispute", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_dispute_user_id"), ["user_id"], unique=False)

    op.create_table(
        "refund",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("payment_id", sa.String(length=32), nullable=False),
        sa.Column("provider_ref", sa.String(length=128), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("credits", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "amount_minor", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column(
            "operation_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column(
            "transfer_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column(
            "returned_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True
        ),
        sa.Column(
            "attempts",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            server_default=sa.text("0"),
            nullable=False,
        ),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column(
            "created_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("sent_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("ended_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.CheckConstraint(
            "returned_id IS NULL OR state = 'failed'", name=op.f("ck_refund_returned")
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'sent', 'succeeded', 'failed')", name=op.f("ck_refund_state")
        ),
        sa.CheckConstraint("amount_minor >= 1", name=op.f("ck_refund_amount_minor")),
        sa.CheckConstraint("credits >= 1", name=op.f("ck_refund_credits")),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operation.id"], name=op.f("fk_refund_operation_id_operation")
        ),
        sa.ForeignKeyConstraint(
            ["payment_id"], ["payment.id"], name=op.f("fk_refund_payment_id_payment")
        ),
        sa.ForeignKeyConstraint(
            ["returned_id"], ["transfer.id"], name=op.f("fk_refund_returned_id_transfer")
        ),
        sa.ForeignKeyConstraint(
            ["transfer_id"], ["transfer.id"], name=op.f("fk_refund_transfer_id_transfer")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refund")),
        sa.UniqueConstraint("operation_id", name=op.f("uq_refund_operation_id")),
        sa.UniqueConstraint("provider_ref", name=op.f("uq_refund_provider_ref")),
        sa.UniqueConstraint("returned_id", name=op.f("uq_refund_returned_id")),
        sa.UniqueConstraint("transfer_id", name=op.f("uq_refund_transfer_id")),
    )
    with op.batch_alter_table("refund", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_refund_payment_id"), ["payment_id"], unique=False)
        batch_op.create_index("ix_refund_state_created_at", ["state", "created_at"], unique=False)

    op.create_table(
        "webhook_event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("provider", sa.String(length=16), nullable=False),
        sa.Column("event_id", sa.String(length=128), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("payment_id", sa.String(length=32), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column(
            "attempts",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            server_default=sa.text("0"),
            nullable=False,
        ),
        sa.Column("tried_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column(
            "announced_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column(
            "received_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column(
            "processed_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True
        ),
        sa.CheckConstraint(
            "(state = 'new') = (processed_at IS NULL)", name=op.f("ck_webhook_event_processed")
        ),
        sa.CheckConstraint(
            "state IN ('new', 'done', 'ignored', 'refused')", name=op.f("ck_webhook_event_state")
        ),
        sa.CheckConstraint("attempts >= 0", name=op.f("ck_webhook_event_attempts")),
        sa.ForeignKeyConstraint(
            ["payment_id"], ["payment.id"], name=op.f("fk_webhook_event_payment_id_payment")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_event")),
        sa.UniqueConstraint("provider", "event_id", name="uq_webhook_event_provider_event_id"),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("webhook_event", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_webhook_event_payment_id"), ["payment_id"], unique=False
        )
        batch_op.create_index("ix_webhook_event_state_id", ["state", "id"], unique=False)

    with op.batch_alter_table("account", table_kwargs={"sqlite_autoincrement": True}) as batch_op:
        batch_op.add_column(sa.Column("owed", BIG, server_default=sa.text("0"), nullable=False))
        batch_op.create_check_constraint(op.f("ck_account_owed"), OWED)
    op.add_column("payment", sa.Column("checkout_url", sa.Text(), nullable=True))
    op.add_column("payment", sa.Column("intent_ref", sa.String(length=128), nullable=True))
    op.add_column("payment", sa.Column("polled_at", BIG, nullable=True))
    op.create_index("ix_payment_intent_ref", "payment", ["intent_ref"], unique=True)
    op.create_index(
        "ix_payment_status_created_at", "payment", ["status", "created_at"], unique=False
    )
    with op.batch_alter_table("lot_use") as batch_op:
        batch_op.drop_constraint(op.f("ck_lot_use_kind"), type_="check")
        batch_op.create_check_constraint(op.f("ck_lot_use_kind"), KINDS)
    # A wallet opens these accounts when it is the first one; here there may be wallets already.
    op.execute(
        "INSERT INTO account (ledger, code, kind, created_at) "
        "SELECT 'CREDIT', 'sys:refunded', 'system', created_at FROM account "
        "WHERE code = 'sys:issued' ON CONFLICT (code) DO NOTHING"
    )
    # After a way down and up again the debts are still on their accounts.
    moved = "(SELECT COALESCE(SUM(t.amount), 0) FROM transfer t WHERE t.{side} = d.id)"
    op.execute(
        "UPDATE account SET owed = COALESCE((SELECT "
        f"{moved.format(side='debit_id')} - {moved.format(side='credit_id')} "
        "FROM account d WHERE d.code = 'debt:' || account.id), 0) WHERE kind = 'wallet'"
    )


def downgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    # The kinds that the older release does not know were no use: the nearest is an adjustment.
    # The triggers come back at the end of the migration.
    op.execute("DROP TRIGGER IF EXISTS lot_use_no_update" + ("" if sqlite else " ON lot_use"))
    op.execute("UPDATE lot_use SET kind = 'adjust' WHERE kind IN ('refund', 'move')")
    with op.batch_alter_table("lot_use") as batch_op:
        batch_op.drop_constraint(op.f("ck_lot_use_kind"), type_="check")
        batch_op.create_check_constraint(op.f("ck_lot_use_kind"), KINDS_BEFORE)
    op.drop_index("ix_payment_status_created_at", table_name="payment")
    op.drop_index("ix_payment_intent_ref", table_name="payment")
    op.drop_column("payment", "polled_at")
    op.drop_column("payment", "intent_ref")
    op.drop_column("payment", "checkout_url")
    with op.batch_alter_table("account", table_kwargs={"sqlite_autoincrement": True}) as batch_op:
        batch_op.drop_constraint(op.f("ck_account_owed"), type_="check")
        batch_op.drop_column("owed")
    op.drop_table("webhook_event")
    op.drop_table("refund")
    op.drop_table("dispute")
