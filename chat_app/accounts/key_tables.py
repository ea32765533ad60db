"""Table of API keys. Of a key's secret only a hash is kept: a dump opens no door."""

from sqlalchemy import CheckConstraint, Column, ForeignKey, Text
from sqlmodel import Field, SQLModel

from chat_app.db import BigInt

_LIMITS = ("day_limit", "month_limit", "total_limit")


class ApiKey(SQLModel, table=True):
    """A program's way in, for its user and never for more than its user may do.

    `scopes` and `models` are words with spaces between; without `models` all of them. Limits in
    microcredits, none: no limit. `token_epoch` is the user's when the key was made: whatever
    ends all their sign-ins ends the key too. Revoked keys stay, answers name them.
    """

    __tablename__ = "api_key"
    __table_args__ = (
        *(CheckConstraint(f"{name} IS NULL OR {name} >= 0", name=name) for name in _LIMITS),
        CheckConstraint("expires_at IS NULL OR expires_at > created_at", name="expires_at"),
        CheckConstraint("revoked_at IS NULL OR revoked_at >= created_at", name="revoked_at"),
    )

    id: str = Field(primary_key=True, max_length=8)
    user_id: int = Field(
        sa_column=Column(
            BigInt, ForeignKey("user.id", ondelete="CASCADE"), nullable=False, index=True
        )
    )
    name: str = Field(max_length=64)
    secret_hash: str = Field(max_length=64)
    scopes: str = Field(max_length=200)
    models: str | None = Field(default=None, sa_column=Column(Text))
    day_limit: int | None = Field(default=None, sa_type=BigInt)
    month_limit: int | None = Field(default=None, sa_type=BigInt)
    total_limit: int | None = Field(default=None, sa_type=BigInt)
    token_epoch: int = Field(sa_column=Column(BigInt, nullable=False))
    created_at: int = Field(sa_column=Column(BigInt, nullable=False))
    expires_at: int | None = Field(default=None, sa_type=BigInt)
    last_used_at: int | None = Field(default=None, sa_type=BigInt)
    revoked_at: int | None = Field(default=None, sa_type=BigInt)
