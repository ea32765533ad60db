"""Folders, pins and the archive: where a conversation stands in its owner's list.

Moving one about changes no text and no time, so the list keeps its order.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import Session, col, delete, func, select, update

from chat_app.chat import conversations
from chat_app.chat.conversations import NO_FOLDER
from chat_app.chat.folder_tables import Folder
from chat_app.chat.tables import Conversation
from chat_app.errors import Conflict, Invalid, NotFound
from chat_app.ids import new_id

NAME_LENGTH = 60
MAX_FOLDERS = 100


class FolderNotFound(NotFound):
    """No such folder of this user."""

    code = "folder_not_found"
    message = "This folder does not exist any more. Choose another one."


class FolderExists(Conflict):
    """The user has a folder of this name."""

    code = "folder_exists"
    message = "There is a folder of this name already. Choose another name."


class TooManyFolders(Conflict):
    """The user has as many folders as there may be. Fact: `limit`."""

    code = "too_many_folders"
    message = "There are as many folders as there may be. Delete one, then make the new one."


@dataclass(frozen=True)
class FolderRow:
    """A folder with the number of conversations in it that are not archived."""

    id: str
    name: str
    created_at: int
    conversations: int


def listed(session: Session, *, user_id: int) -> list[FolderRow]:
    """The user's folders by name."""
    inside = (
        select(func.count())
        .select_from(Conversation)
        .where(
            Conversation.user_id == Folder.user_id,
            Conversation.folder_id == Folder.id,
            col(Conversation.deleted_at).is_(None),
            col(Conversation.archived_at).is_(None),
        )
        .correlate(Folder)
        .scalar_subquery()
    )
    rows = session.exec(
        select(Folder, inside).where(Folder.user_id == user_id).order_by(col(Folder.name_key))
    ).all()
    return [FolderRow(row.id, row.name, row.created_at, count) for row, count in rows]


def create(session: Session, *, user_id: int, name: str, now: int) -> FolderRow:
    """A new folder. Raises Invalid, FolderExists or TooManyFolders."""
    made = Folder(id=new_id("fld"), user_id=user_id, name="", name_key="", created_at=now)
    have = session.exec(
        select(func.count()).select_from(Folder).where(Folder.user_id == user_id)
    ).one()
    if have >= MAX_FOLDERS:
        raise TooManyFolders(limit=MAX_FOLDERS)
    return _named(session, made, name)


def rename(session: Session, *, user_id: int, folder_id: str, name: str) -> FolderRow:
    """Give a folder another name. Raises FolderNotFound, Invalid or FolderExists."""
    found = get(session, user_id=user_id, folder_id=folder_id)
    return _named(session, found, name)


def remove(session: Session, *, user_id: int, folder_id: str) -> None:
    """Delete a folder; its conversations stay, in none. Raises FolderNotFound."""
    found = get(session, user_id=user_id, folder_id=folder_id)
    session.execute(
        update(Conversation).where(col(Conversation.folder_id) == found.id).values(folder_id=None)
    )
    session.delete(found)
    session.flush()


def get(session: Session, *, user_id: int, folder_id: str) -> Folder:
    """The user's folder, or FolderNotFound."""
    found = session.exec(
        select(Folder).where(Folder.id == folder_id, Folder.user_id == user_id)
    ).first()
    if found is None:
        raise FolderNotFound
    return found


def arrange(
    session: Session,
    *,
    user_id: int,
    conversation_id: str,
    now: int,
    pinned: bool | None = None,
    archived: bool | None = None,
    folder: str | None = None,
) -> Conversation:
    """Keep a conversation on top, put it away, or into a folder; None changes nothing.

    `folder` NO_FOLDER takes it out of the one it is in. What is put away can still be found and
    read. Raises ConversationNotFound or FolderNotFound.
    """
    found = conversations.get(session, user_id=user_id, conversation_id=conversation_id)
    if pinned is not None:
        found.pinned_at = (found.pinned_at or now) if pinned else None
    if archived is not None:
        found.archived_at = (found.archived_at or now) if archived else None
    if folder == NO_FOLDER:
        found.folder_id = None
    elif folder is not None:
        found.folder_id = get(session, user_id=user_id, folder_id=folder).id
    session.add(found)
    session.flush()
    return found


def forget(session: Session, *, user_id: int) -> None:
    """Delete all folders of a person who leaves."""
    session.execute(delete(Folder).where(col(Folder.user_id) == user_id))
    session.execute(
        update(Conversation).where(col(Conversation.user_id) == user_id).values(folder_id=None)
    )


def _named(session: Session, folder: Folder, name: str) -> FolderRow:
    cleaned = _clean(name)
    if not 1 <= len(cleaned) <= NAME_LENGTH:
        raise Invalid(f"A folder's name has 1 to {NAME_LENGTH} characters.", param="name")
    key = cleaned.casefold()
    same: Sequence[str] = session.exec(
        select(Folder.id).where(
            Folder.user_id == folder.user_id, Folder.name_key == key, Folder.id != folder.id
        )
    ).all()
    if same:
        raise FolderExists
    folder.name, folder.name_key = cleaned, key
    session.add(folder)
    session.flush()
    count = session.exec(
        select(func.count())
        .select_from(Conversation)
        .where(Conversation.folder_id == folder.id, col(Conversation.archived_at).is_(None))
    ).one()
    return FolderRow(folder.id, folder.name, folder.created_at, count)


def _clean(name: str) -> str:
    """One line without control characters or marks that turn the direction of a text."""
    shown = "".join(
        " " if unicodedata.category(mark)[0] == "Z" else mark
        for mark in unicodedata.normalize("NFC", name)
        if unicodedata.category(mark)[0] != "C" or mark in "\t\n\r\u200d"
    )
    return " ".join(shown.split())
