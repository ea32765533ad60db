"""Tables of the chat: conversations, their messages and images, and the reply behind each answer.

A message of role `assistant` is written by exactly one reply. The reply row is what survives
a crash: who pays (the hold), what was promised (the price version), how far it came (tokens,
the text in its message) and until when its process is believed to be alive (the lease).
"""

from sqlalchemy import CheckConstraint, Column, Index, Text, UniqueConstraint, false, text
from sqlmodel import Field, SQLModel

from chat_app.db import BigInt


class Conversation(SQLModel, table=True):
    """A conversation of one user. `renamed` when the title is a person's. `settings`: how its
    answers are written, see `parameters.py`.

    From `deleted_at` on its texts are gone; with any `deleted_at` it is never shown. One that
    is not shown but has a title still keeps its answer: see `conversations.hidden`. Where it
    stands in its owner's list is the work of `folders.py`.

    `leaf_id` is the message where its active path ends; without one that is the newest. A
    temporary one is in no list; its texts go at `temporary_until`, or when it is closed.
    """

    __tablename__ = "conversation"
    __table_args__ = (
        Index("ix_conversation_user", "user_id", "updated_at"),
        Index(
            "ix_conversation_temporary_until",
            "temporary_until",
            sqlite_where=Column("temporary_until", BigInt).is_not(None),
            postgresql_where=Column("temporary_until", BigInt).is_not(None),
        ),
    )

    id: str = Field(primary_key=True)
    user_id: int = Field(sa_type=BigInt)
    title: str
    renamed: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    model: str
    created_at: int = Field(sa_type=BigInt)
    updated_at: int = Field(sa_type=BigInt)
    deleted_at: int | None = Field(default=None, sa_type=BigInt)
    leaf_id: str | None = None
    temporary_until: int | None = Field(default=None, sa_type=BigInt)
    pinned_at: int | None = Field(default=None, sa_type=BigInt)
    archived_at: int | None = Field(default=None, sa_type=BigInt)
    folder_id: str | None = Field(default=None, max_length=40)
    settings: str = Field(
        default="", sa_column=Column(Text, nullable=False, server_default=text("''"))
    )

    @property
    def keeps_texts(self) -> bool:
        """Whether an answer that ends now is stored."""
        return self.deleted_at is None or self.title != ""


class Message(SQLModel, table=True):
    """A question or an answer, in a tree: the children of a message are what may follow it.

    A question follows an answer, or begins the conversation. An answer follows its question, or
    the answer that it continues.
    """

    __tablename__ = "message"
    __table_args__ = (
        CheckConstraint("role IN ('user', 'assistant')", name="role"),
        CheckConstraint("role = 'user' OR parent_id IS NOT NULL", name="answer_has_question"),
        Index("ix_message_conversation", "conversation_id", "created_at"),
        Index("ix_message_parent", "parent_id"),
    )

    id: str = Field(primary_key=True)
    conversation_id: str = Field(foreign_key="conversation.id")
    parent_id: str | None = Field(default=None, foreign_key="message.id")
    role: str
    content: str = Field(default="", sa_column=Column(Text, nullable=False))
    model: str
    created_at: int = Field(sa_type=BigInt)


class MessageImage(SQLModel, table=True):
    """An image that a question shows. Its file is in the data directory, under its content."""

    __tablename__ = "message_image"
    __table_args__ = (
        CheckConstraint("kind IN ('png', 'jpeg')", name="kind"),
        CheckConstraint("width > 0 AND height > 0 AND bytes > 0", name="sizes"),
        UniqueConstraint("message_id", "position", name="uq_message_image_position"),
        Index("ix_message_image_user", "user_id", "digest"),
    )

    id: str = Field(primary_key=True)
    message_id: str = Field(foreign_key="message.id")
    user_id: int = Field(sa_type=BigInt)
    position: int
    digest: str = Field(max_length=64)
    kind: str = Field(max_length=8)
    width: int
    height: int
    bytes: int


class Reply(SQLModel, table=True):
    """One run of a model for one question, from the hold to the settlement.

    A `cached` one was not run: its text is that of an earlier answer, and costs
    `cached_percent` of the price, as it was when the hold was placed. `images` are those of
    its question, which are priced. `key_id` is the API key that asked, if one did. Replies with
    the same `pair_id` answer one question side by side, until one of them is picked.
    """

    __tablename__ = "reply"
    __table_args__ = (
        CheckConstraint("state IN ('running', 'done', 'failed')", name="state"),
        CheckConstraint("charged >= 0 AND charged <= maximum", name="charged_within_quote"),
        CheckConstraint("(state = 'running') = (ended_at IS NULL)", name="ended"),
        Index(
            "ix_reply_running_lease",
            "lease_until",
            sqlite_where=Column("state", Text) == "running",
            postgresql_where=Column("state", Text) == "running",
        ),
        Index("ix_reply_user", "user_id", "created_at"),
        Index("ix_reply_conversation_id", "conversation_id"),
    )

    id: str = Field(primary_key=True)
    user_id: int = Field(sa_type=BigInt)
    conversation_id: str = Field(foreign_key="conversation.id")
    question_id: str = Field(foreign_key="message.id")
    message_id: str = Field(foreign_key="message.id", unique=True)
    model: str
    hold_id: int = Field(sa_type=BigInt, unique=True)
    key_id: str | None = Field(default=None, max_length=16)
    pair_id: str | None = None
    price_version: int
    price_tier: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    maximum: int = Field(sa_type=BigInt)
    state: str = "running"
    lease_until: int = Field(sa_type=BigInt)
    # Code points of each delivered piece, so that a replay gives the same deltas.
    pieces: str = Field(default="", sa_column=Column(Text, nullable=False))
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    dropped_messages: int = 0
    images: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    cached: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    cached_percent: int = Field(default=100, sa_column_kwargs={"server_default": text("100")})
    charged: int = Field(default=0, sa_type=BigInt)
    transfer_id: int | None = Field(default=None, sa_type=BigInt)
    finish_reason: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    created_at: int = Field(sa_type=BigInt)
    ended_at: int | None = Field(default=None, sa_type=BigInt)
