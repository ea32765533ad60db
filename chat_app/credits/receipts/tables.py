"""The table of receipts: which were given out, and what they said, as a hash."""

from sqlalchemy import Column, ForeignKey
from sqlmodel import Field, SQLModel

from chat_app.credits.tables import _big
from chat_app.db import BigInt


class ReceiptRow(SQLModel, table=True):
    """A receipt that was given out for a settled answer. A later one must say the same."""

    __tablename__ = "receipt"

    transfer_id: int = Field(
        sa_column=Column(BigInt, ForeignKey("transfer.id"), primary_key=True, autoincrement=False)
    )
    key_id: str = Field(max_length=32)
    sha256: str = Field(max_length=64)
    created_at: int = _big()
