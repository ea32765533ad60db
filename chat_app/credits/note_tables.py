"""Table of the words that people send along with credits: apart from the books, so that they can
be deleted while the transfer stays as it was sealed.
"""

from sqlalchemy import Column, ForeignKey
from sqlmodel import Field, SQLModel

from chat_app.credits.tables import _big
from chat_app.db import BigInt


class TransferNoteRow(SQLModel, table=True):
    """What the sender `user_id` wrote to a transfer."""

    __tablename__ = "transfer_note"

    transfer_id: int = Field(
        sa_column=Column(BigInt, ForeignKey("transfer.id"), primary_key=True, autoincrement=False)
    )
    user_id: int = _big(index=True)
    text: str = Field(max_length=200)
