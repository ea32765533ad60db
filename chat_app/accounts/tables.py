"""Tables of the accounts room. Tokens are stored as hashes: a dump signs nobody in."""

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, String
from sqlmodel import Field, SQLModel

from chat_app.db import BigInt


class User(SQLModel, table=True):
    """A person. `token_epoch` grows when every sign-in of theirs must end at once.

    `email_key` is what the account is found by. While the address waits to be confirmed, the
    account does not have it yet: then it stands in `pending_email_key`, where several may.
    Of one that was erased only the number, the role and the times are left.
    """

    __tablename__ = "user"
    __table_args__ = (
        CheckConstraint("role IN ('user', 'support', 'finance', 'admin')", name="role"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, sa_column=Column(BigInt, primary_key=True))
    username: str = Field(max_length=32)
    username_key: str = Field(max_length=32, unique=True)
    email: str = Field(max_length=254)
    email_key: str = Field(max_length=254, unique=True)
    password_hash: str = Field(max_length=200)
    role: str = Field(default="user", max_length=16, index=True)
    suspended: bool = False
    token_epoch: int = Field(default=0, sa_column=Column(BigInt, nullable=False))
    created_at: int = Field(sa_column=Column(BigInt, nullable=False))
    last_login_at: int | None = Field(default=None, sa_column=Column(BigInt))
    email_verified_at: int | None = Field(default=None, sa_column=Column(BigInt))
    pending_email_key: str | None = Field(default=None, max_length=254, index=True)
    display_name: str = Field(default="", max_length=64, sa_column_kwargs={"server_default": ""})
    language: str = Field(default="", max_length=16, sa_column_kwargs={"server_default": ""})
    timezone: str = Field(default="", max_length=64, sa_column_kwargs={"server_default": ""})
    erased_at: int | None = Field(default=None, sa_column=Column(BigInt))


class SignInSession(SQLModel, table=True):
    """One sign-in on one device: its cookie and its family of refresh tokens.

    The row is the sign-in. When it is gone, the cookie, the access tokens that name it and
    all its refresh tokens are worth nothing. `second_factor_at` is when a one-time code was
    last shown in it.
    """

    __tablename__ = "session"

    id: str = Field(primary_key=True, max_length=40)
    user_id: int = Field(
        sa_column=Column(
            BigInt, ForeignKey("user.id", ondelete="CASCADE"), nullable=False, index=True
        )
    )
    token_hash: str = Field(max_length=64, unique=True)
    token_epoch: int = Field(sa_column=Column(BigInt, nullable=False))
    ip: str = Field(default="", max_length=64)
    agent: str = Field(default="", max_length=256)
    created_at: int = Field(sa_column=Column(BigInt, nullable=False))
    seen_at: int = Field(sa_column=Column(BigInt, nullable=False))
    idle_at: int = Field(sa_column=Column(BigInt, nullable=False))
    expires_at: int = Field(sa_column=Column(BigInt, nullable=False))
    second_factor_at: int | None = Field(default=None, sa_column=Column(BigInt))
    confirmed_at: int | None = Field(default=None, sa_column=Column(BigInt))


class RefreshToken(SQLModel, table=True):
    """A refresh token of a sign-in. Used ones stay, so that a second use is noticed."""

    __tablename__ = "refresh_token"
    __table_args__ = (Index("ix_refresh_token_expires_at", "expires_at"),)

    token_hash: str = Field(primary_key=True, max_length=64)
    session_id: str = Field(
        sa_column=Column(
            String(40), ForeignKey("session.id", ondelete="CASCADE"), nullable=False, index=True
        )
    )
    issued_at: int = Field(sa_column=Column(BigInt, nullable=False))
    expires_at: int = Field(sa_column=Column(BigInt, nullable=False))
    used_at: int | None = Field(default=None, sa_column=Column(BigInt))


class SetupToken(SQLModel, table=True):
    """What the one-time link for the first administrator is derived from; at most one row."""

    __tablename__ = "setup_token"
    __table_args__ = (CheckConstraint("id = 1", name="single"),)

    id: int = Field(default=1, sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    nonce: str = Field(max_length=64)
    created_at: int = Field(sa_column=Column(BigInt, nullable=False))


class Org(SQLModel, table=True):
    """An organisation: people who spend from one pool of credits. Closed ones stay."""

    __tablename__ = "org"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: int | None = Field(default=None, sa_column=Column(BigInt, primary_key=True))
    name: str = Field(max_length=64)
    created_by: int = Field(sa_column=Column(BigInt, nullable=False))
    created_at: int = Field(sa_column=Column(BigInt, nullable=False))
    closed_at: int | None = Field(default=None, sa_column=Column(BigInt))


class OrgMember(SQLModel, table=True):
    """Somebody who may spend an organisation's credits.

    `monthly_limit` in microcredits of a calendar month (UTC); none: only the pool is the limit.
    """

    __tablename__ = "org_member"
    __table_args__ = (
        CheckConstraint("role IN ('owner', 'admin', 'member')", name="role"),
        CheckConstraint("monthly_limit IS NULL OR monthly_limit >= 0", name="monthly_limit"),
    )

    org_id: int = Field(
        sa_column=Column(BigInt, ForeignKey("org.id"), primary_key=True, autoincrement=False)
    )
    user_id: int = Field(
        sa_column=Column(
            BigInt, ForeignKey("user.id"), primary_key=True, autoincrement=False, index=True
        )
    )
    role: str = Field(max_length=16)
    monthly_limit: int | None = Field(default=None, sa_column=Column(BigInt))
    joined_at: int = Field(sa_column=Column(BigInt, nullable=False))
