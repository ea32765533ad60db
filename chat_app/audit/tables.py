"""Tables of the audit room. Rows are only ever added; triggers refuse everything else."""

from sqlalchemy import CheckConstraint, Column, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from chat_app.db import BigInt


class EventRow(SQLModel, table=True):
    """Something that happened, with who did it. `payload` is canonical JSON."""

    __tablename__ = "event_log"
    __table_args__ = ({"sqlite_autoincrement": True},)

    seq: int | None = Field(default=None, sa_column=Column(BigInt, primary_key=True))
    at: int = Field(sa_column=Column(BigInt, nullable=False))
    type: str = Field(max_length=64, index=True)
    actor: str = Field(max_length=64)
    payload: str = Field(sa_column=Column(Text, nullable=False))


class SealRow(SQLModel, table=True):
    """A keyed seal over a block of rows; each names the seal before it."""

    __tablename__ = "event_seal"
    __table_args__ = (
        CheckConstraint("stream IN ('transfer', 'event')", name="stream"),
        CheckConstraint("first_id <= last_id AND count > 0", name="block"),
        UniqueConstraint("stream", "first_id", name="uq_event_seal_stream_first"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, sa_column=Column(BigInt, primary_key=True))
    stream: str = Field(max_length=16)
    first_id: int = Field(sa_column=Column(BigInt, nullable=False))
    last_id: int = Field(sa_column=Column(BigInt, nullable=False))
    count: int = Field(sa_column=Column(BigInt, nullable=False))
    previous_mac: str = Field(max_length=64)
    mac: str = Field(max_length=64)
    key_id: str = Field(max_length=16)
    sealed_at: int = Field(sa_column=Column(BigInt, nullable=False))
