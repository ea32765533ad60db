"""mail links, confirmed addresses, free gifts"""

import unicodedata

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_USER = sa.table("user", sa.column("id"), sa.column("email"), sa.column("email_key"))


def upgrade() -> None:
    op.add_column("user", sa.Column("email_verified_at", _BIG, nullable=True))
    op.add_column("user", sa.Column("pending_email_key", sa.String(length=254), nullable=True))
    op.create_index("ix_user_pending_email_key", "user", ["pending_email_key"])
    op.create_table(
        "account_link",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("user_id", _BIG, nullable=False),
        sa.Column("purpose", sa.String(length=16), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("address", sa.String(length=254), nullable=False),
        sa.Column("address_key", sa.String(length=254), nullable=False),
        sa.Column("created_at", _BIG, nullable=False),
        sa.Column("expires_at", _BIG, nullable=False),
        sa.Column("used_at", _BIG, nullable=True),
        sa.CheckConstraint(
            "purpose IN ('verify', 'email', 'reset')", name=op.f("ck_account_link_purpose")
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("fk_account_link_user_id_user"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_account_link")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_account_link_token_hash")),
    )
    op.create_index("ix_account_link_user_id", "account_link", ["user_id", "purpose", "created_at"])
    op.create_index("ix_account_link_address_key", "account_link", ["address_key", "created_at"])
    op.create_index("ix_account_link_expires_at", "account_link", ["expires_at"])
    op.create_table(
        "reset_wish",
        sa.Column("address_key", sa.String(length=254), nullable=False),
        sa.Column("created_at", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("address_key", name=op.f("pk_reset_wish")),
    )
    op.create_table(
        "free_gift",
        sa.Column("user_id", _BIG, autoincrement=False, nullable=False),
        sa.Column("identity", sa.String(length=64), nullable=False),
        sa.Column("block", sa.String(length=64), nullable=False),
        sa.Column("domain", sa.String(length=254), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("created_at", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_free_gift")),
    )
    op.create_index("ix_free_gift_block", "free_gift", ["block", "created_at"])
    op.create_index("ix_free_gift_domain", "free_gift", ["domain", "created_at"])
    op.create_index(
        "uq_free_gift_identity_given",
        "free_gift",
        ["identity"],
        unique=True,
        sqlite_where=sa.text("reason = ''"),
        postgresql_where=sa.text("reason = ''"),
    )
    _finer_keys()


def downgrade() -> None:
    """The finer keys of addresses stay: coarser ones could clash."""
    op.drop_table("free_gift")
    op.drop_table("reset_wish")
    op.drop_table("account_link")
    op.drop_index("ix_user_pending_email_key", table_name="user")
    op.drop_column("user", "pending_email_key")
    op.drop_column("user", "email_verified_at")


def _finer_keys() -> None:
    """A tag or a dot in an address no longer makes it another's; only its case does not count."""
    connection = op.get_bind()
    rows = connection.execute(sa.select(_USER.c.id, _USER.c.email, _USER.c.email_key)).all()
    for id, email, before in rows:
        if "@" not in email:  # of an account that was erased
            continue
        key = _key(email)
        if before != key and not before.startswith("pending "):
            connection.execute(sa.update(_USER).where(_USER.c.id == id).values(email_key=key))


def _key(email: str) -> str:
    local, _, host = unicodedata.normalize("NFC", email).strip().casefold().rpartition("@")
    try:
        host = host if host.isascii() else host.encode("idna").decode("ascii").casefold()
    except UnicodeError:
        host = ""
    return f"{local}@{host}"
