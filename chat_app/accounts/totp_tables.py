"""Tables of the second factor: a sealed secret and hashed backup codes, worthless in a dump."""

from sqlalchemy import CheckConstraint, Column, ForeignKey
from sqlmodel import Field, SQLModel

from chat_app.db import BigInt


class Totp(SQLModel, table=True):
    """A user's secret for one-time codes. It counts from `confirmed_at` on.

    `last_step` is the newest time step (30 s) of which a code was accepted: none at or before
    it is accepted again.
    """

    __tablename__ = "totp"
    __table_args__ = (CheckConstraint("last_step >= 0", name="last_step"),)

    user_id: int = Field(
        sa_column=Column(
            BigInt,
            ForeignKey("user.id", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        )
    )
    sealed: str = Field(max_length=200)
    last_step: int = Field(default=0, sa_column=Column(BigInt, nullable=False))
    created_at: int = Field(sa_column=Column(BigInt, nullable=False))
    confirmed_at: int | None = Field(default=None, sa_column=Column(BigInt))


class BackupCode(SQLModel, table=True):
    """A code that stands in for the authenticator, once."""

    __tablename__ = "backup_code"

    code_hash: str = Field(primary_key=True, max_length=64)
    user_id: int = Field(
        sa_column=Column(
            BigInt, ForeignKey("user.id", ondelete="CASCADE"), nullable=False, index=True
        )
    )
    created_at: int = Field(sa_column=Column(BigInt, nullable=False))
    used_at: int | None = Field(default=None, sa_column=Column(BigInt))
