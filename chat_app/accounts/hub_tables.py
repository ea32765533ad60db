"""Tables of the sign-in by Hugging Face: whose account is whose, and which answers were used."""

from sqlalchemy import Column, ForeignKey, Index
from sqlmodel import Field, SQLModel

from chat_app.db import BigInt


class HubAccount(SQLModel, table=True):
    """An account of Hugging Face that signs in to one of ours. `subject` never changes there.

    `name` is what it was called when it was last here; it may change hands and opens nothing.
    """

    __tablename__ = "hub_account"

    subject: str = Field(primary_key=True, max_length=255)
    user_id: int = Field(
        sa_column=Column(
            BigInt, ForeignKey("user.id", ondelete="CASCADE"), nullable=False, unique=True
        )
    )
    name: str = Field(max_length=64)
    linked_at: int = Field(sa_column=Column(BigInt, nullable=False))
    used_at: int = Field(sa_column=Column(BigInt, nullable=False))


class HubAnswer(SQLModel, table=True):
    """An answer of Hugging Face that was used, by the hash of its state: none counts twice."""

    __tablename__ = "hub_answer"
    __table_args__ = (Index("ix_hub_answer_expires_at", "expires_at"),)

    state_hash: str = Field(primary_key=True, max_length=64)
    expires_at: int = Field(sa_column=Column(BigInt, nullable=False))
