"""Tables of the monitoring room."""

from sqlalchemy import CheckConstraint, Column
from sqlmodel import Field, SQLModel

from chat_app.db import BigInt


class Heartbeat(SQLModel, table=True):
    """One row that the readiness check writes, because only a write proves a write."""

    __tablename__ = "heartbeat"
    __table_args__ = (CheckConstraint("id = 1", name="single"),)

    id: int = Field(default=1, sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    at: int = Field(sa_column=Column(BigInt, nullable=False))
