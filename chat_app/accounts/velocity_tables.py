"""Table of the welcome credits that were given or refused."""

from sqlalchemy import Column, Index, text
from sqlmodel import Field, SQLModel

from chat_app.db import BigInt


class FreeGift(SQLModel, table=True):
    """Welcome credits of one account: given when `reason` is empty, otherwise refused for it.

    `identity` is a keyed hash of the mailbox: one mailbox is given them once. The network and
    the mail domain are forgotten after a month.
    """

    __tablename__ = "free_gift"
    __table_args__ = (
        Index(
            "uq_free_gift_identity_given",
            "identity",
            unique=True,
            sqlite_where=text("reason = ''"),
            postgresql_where=text("reason = ''"),
        ),
        Index("ix_free_gift_block", "block", "created_at"),
        Index("ix_free_gift_domain", "domain", "created_at"),
    )

    user_id: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    identity: str = Field(max_length=64)
    block: str = Field(default="", max_length=64)
    domain: str = Field(default="", max_length=254)
    reason: str = Field(default="", max_length=32)
    created_at: int = Field(sa_column=Column(BigInt, nullable=False))
