"""The table of shared conversations: a copy of what was said, for whoever has the link."""

from sqlalchemy import CheckConstraint, Column, Index, Text
from sqlmodel import Field, SQLModel

from chat_app.db import BigInt


class Share(SQLModel, table=True):
    """One link to one conversation. `snapshot` is JSON: what was said when it was shared.

    The token is derived from the id when somebody looks at their own links, and stored as a
    hash. A private conversation has no row here.
    """

    __tablename__ = "conversation_share"
    __table_args__ = (
        CheckConstraint("access IN ('signed_in', 'open')", name="access"),
        Index("ix_conversation_share_user", "user_id", "created_at"),
    )

    id: str = Field(primary_key=True, max_length=40)
    user_id: int = Field(sa_type=BigInt)
    conversation_id: str = Field(foreign_key="conversation.id", unique=True)
    token_hash: str = Field(max_length=64, unique=True)
    access: str = Field(max_length=16)
    title: str = Field(max_length=200)
    snapshot: str = Field(sa_column=Column(Text, nullable=False))
    messages: int
    created_at: int = Field(sa_type=BigInt)
    updated_at: int = Field(sa_type=BigInt)
