"""Tables of links that are mailed, and of requests for a new password that wait for theirs."""

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index
from sqlmodel import Field, SQLModel

from chat_app.db import BigInt


class AccountLink(SQLModel, table=True):
    """A link for one purpose of one account. The token is derived when it is mailed."""

    __tablename__ = "account_link"
    __table_args__ = (
        CheckConstraint("purpose IN ('verify', 'email', 'reset')", name="purpose"),
        Index("ix_account_link_user_id", "user_id", "purpose", "created_at"),
        Index("ix_account_link_address_key", "address_key", "created_at"),
        Index("ix_account_link_expires_at", "expires_at"),
    )

    id: str = Field(primary_key=True, max_length=40)
    user_id: int = Field(
        sa_column=Column(BigInt, ForeignKey("user.id", ondelete="CASCADE"), nullable=False)
    )
    purpose: str = Field(max_length=16)
    token_hash: str = Field(max_length=64, unique=True)
    address: str = Field(max_length=254)
    address_key: str = Field(max_length=254)
    created_at: int = Field(sa_column=Column(BigInt, nullable=False))
    expires_at: int = Field(sa_column=Column(BigInt, nullable=False))
    used_at: int | None = Field(default=None, sa_column=Column(BigInt))


class ResetWish(SQLModel, table=True):
    """Somebody asked for a new password for this address; whether anybody has it, nobody looked."""

    __tablename__ = "reset_wish"

    address_key: str = Field(primary_key=True, max_length=254)
    created_at: int = Field(sa_column=Column(BigInt, nullable=False))
