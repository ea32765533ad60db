"""Tables around answers: presets of parameters, and what people thought of an answer."""

from sqlalchemy import CheckConstraint, Column, Index, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from chat_app.db import BigInt


class Preset(SQLModel, table=True):
    """Parameters under a name, of one user. `settings` as `Parameters.dump` writes them."""

    __tablename__ = "preset"
    __table_args__ = (UniqueConstraint("user_id", "name", name="uq_preset_name"),)

    id: str = Field(primary_key=True)
    user_id: int = Field(sa_type=BigInt)
    name: str = Field(max_length=60)
    settings: str = Field(default="", sa_column=Column(Text, nullable=False))
    created_at: int = Field(sa_type=BigInt)


class MessageFeedback(SQLModel, table=True):
    """One vote of a user on an answer. `reasons` are codes with spaces between them."""

    __tablename__ = "message_feedback"
    __table_args__ = (
        CheckConstraint("vote IN (-1, 1)", name="vote"),
        Index("ix_message_feedback_model", "model"),
        Index("ix_message_feedback_user", "user_id"),
    )

    message_id: str = Field(primary_key=True, foreign_key="message.id")
    user_id: int = Field(primary_key=True, sa_type=BigInt)
    model: str = Field(max_length=128)
    vote: int
    reasons: str = Field(default="", max_length=200)
    note: str = Field(default="", sa_column=Column(Text, nullable=False))
    created_at: int = Field(sa_type=BigInt)
    changed_at: int = Field(sa_type=BigInt)
