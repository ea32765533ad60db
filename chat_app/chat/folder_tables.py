"""The table of folders. Which folder a conversation is in, the conversation says."""

from sqlalchemy import CheckConstraint, UniqueConstraint
from sqlmodel import Field, SQLModel

from chat_app.db import BigInt


class Folder(SQLModel, table=True):
    """A folder of one user. `name_key` is its name for comparing."""

    __tablename__ = "folder"
    __table_args__ = (
        CheckConstraint("name <> ''", name="has_name"),
        UniqueConstraint("user_id", "name_key", name="uq_folder_user_name"),
    )

    id: str = Field(primary_key=True, max_length=40)
    user_id: int = Field(sa_type=BigInt)
    name: str = Field(max_length=60)
    name_key: str = Field(max_length=200)
    created_at: int = Field(sa_type=BigInt)
