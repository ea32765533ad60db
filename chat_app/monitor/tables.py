"""Tables of the monitoring room."""

from sqlalchemy import CheckConstraint, Column, Double, Index, Text, text
from sqlmodel import Field, SQLModel

from chat_app.db import BigInt


class Heartbeat(SQLModel, table=True):
    """One row that the readiness check writes, because only a write proves a write."""

    __tablename__ = "heartbeat"
    __table_args__ = (CheckConstraint("id = 1", name="single"),)

    id: int = Field(default=1, sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    at: int = Field(sa_column=Column(BigInt, nullable=False))


class MachineRule(SQLModel, table=True):
    """What an operator changed of a rule for alerts; a field of None is as usual."""

    __tablename__ = "machine_rule"
    __table_args__ = (
        CheckConstraint("threshold >= 0", name="threshold"),
        CheckConstraint("for_seconds BETWEEN 0 AND 86400", name="for_seconds"),
    )

    name: str = Field(primary_key=True, max_length=40)
    enabled: bool | None = None
    threshold: float | None = Field(default=None, sa_column=Column(Double, nullable=True))
    for_seconds: int | None = None
    channels: str | None = Field(default=None, max_length=40)
    changed_by: str = Field(max_length=64)
    changed_at: int = Field(sa_column=Column(BigInt, nullable=False))


class MachineAlert(SQLModel, table=True):
    """A fault from its beginning to its end. Of each rule and place at most one has not ended."""

    __tablename__ = "machine_alert"
    __table_args__ = (
        CheckConstraint("cleared_at IS NULL OR cleared_at >= raised_at", name="order"),
        Index(
            "uq_machine_alert_open",
            "rule",
            "place",
            unique=True,
            sqlite_where=text("cleared_at IS NULL"),
            postgresql_where=text("cleared_at IS NULL"),
        ),
        Index("ix_machine_alert_raised_at", "raised_at"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, sa_column=Column(BigInt, primary_key=True))
    rule: str = Field(max_length=40)
    place: str = Field(max_length=120)
    value: float = Field(sa_column=Column(Double, nullable=False))
    threshold: float = Field(sa_column=Column(Double, nullable=False))
    raised_at: int = Field(sa_column=Column(BigInt, nullable=False))
    cleared_at: int | None = Field(default=None, sa_column=Column(BigInt, nullable=True))


class MachineFact(SQLModel, table=True):
    """Something that is known of the whole installation, as JSON, and since when."""

    __tablename__ = "machine_fact"

    name: str = Field(primary_key=True, max_length=160)
    value: str = Field(sa_column=Column(Text, nullable=False))
    at: int = Field(sa_column=Column(BigInt, nullable=False))
