"""Tables of the audit room. Events and seals are only ever added; triggers refuse the rest."""

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    Text,
    UniqueConstraint,
)
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
    """A keyed seal over a block of rows; each names the seal before it.

    `marks` are the ids of the rows with a keyed mark of each, so that a bad row can be named.
    Seals of the first release have none.
    """

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
    marks: bytes | None = Field(default=None, sa_column=Column(LargeBinary))


class ReconRun(SQLModel, table=True):
    """One comparison of the books with what they are about; `fresh` were not there before."""

    __tablename__ = "recon_run"
    __table_args__ = (
        CheckConstraint("fresh >= 0 AND fresh <= found", name="found"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, sa_column=Column(BigInt, primary_key=True))
    actor: str = Field(max_length=64)
    checks: int = Field(sa_column=Column(BigInt, nullable=False))
    found: int = Field(sa_column=Column(BigInt, nullable=False))
    fresh: int = Field(sa_column=Column(BigInt, nullable=False))
    started_at: int = Field(sa_column=Column(BigInt, nullable=False))
    ended_at: int = Field(sa_column=Column(BigInt, nullable=False))


class ReconDiff(SQLModel, table=True):
    """Two records that do not agree. It is open as long as the newest run finds it.

    A side without an id is the one that is missing. `facts` is canonical JSON.
    """

    __tablename__ = "recon_diff"
    __table_args__ = (
        CheckConstraint("left_id IS NOT NULL OR right_id IS NOT NULL", name="one_side"),
        CheckConstraint("first_run_id <= last_run_id", name="runs"),
        Index("ix_recon_diff_last_run_id", "last_run_id", "id"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, sa_column=Column(BigInt, primary_key=True))
    check_name: str = Field(max_length=48)
    left_kind: str = Field(max_length=32)
    left_id: str | None = Field(default=None, max_length=64)
    right_kind: str = Field(max_length=32)
    right_id: str | None = Field(default=None, max_length=64)
    facts: str = Field(sa_column=Column(Text, nullable=False))
    fingerprint: str = Field(max_length=64, unique=True)
    first_run_id: int = Field(sa_column=Column(BigInt, ForeignKey("recon_run.id"), nullable=False))
    last_run_id: int = Field(sa_column=Column(BigInt, ForeignKey("recon_run.id"), nullable=False))
    first_seen_at: int = Field(sa_column=Column(BigInt, nullable=False))
    last_seen_at: int = Field(sa_column=Column(BigInt, nullable=False))
