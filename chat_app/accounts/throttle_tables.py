"""The table of throttles. Keys are digests: it names neither people nor addresses."""

from sqlalchemy import Column, Index
from sqlmodel import Field, SQLModel

from chat_app.db import BigInt


class Throttle(SQLModel, table=True):
    """A bucket that fills with each attempt and empties with time, at `empty_at` (µs) wholly."""

    __tablename__ = "throttle"
    __table_args__ = (Index("ix_throttle_empty_at", "empty_at"),)

    bucket: str = Field(primary_key=True, max_length=64)
    empty_at: int = Field(sa_column=Column(BigInt, nullable=False))
