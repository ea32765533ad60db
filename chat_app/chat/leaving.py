"""Leaving: all texts, titles, images, folders and links of a person go; numbers stay."""

import shutil
from pathlib import Path

from sqlmodel import Session, col, delete, select, update

from chat_app.chat import folders, images, shares
from chat_app.chat.answer_tables import MessageFeedback, Preset
from chat_app.chat.tables import Conversation, Message, MessageImage, Reply


def forget(session: Session, *, user_id: int, now: int) -> None:
    """Wipe every conversation, also those that were deleted before. `now` in µs."""
    mine = select(Conversation.id).where(Conversation.user_id == user_id)
    shares.forget(session, user_id=user_id)
    folders.forget(session, user_id=user_id)
    session.execute(delete(Preset).where(col(Preset.user_id) == user_id))
    session.execute(
        update(MessageFeedback).where(col(MessageFeedback.user_id) == user_id).values(note="")
    )
    session.execute(delete(MessageImage).where(col(MessageImage.user_id) == user_id))
    session.execute(
        update(Message).where(col(Message.conversation_id).in_(mine)).values(content="")
    )
    session.execute(
        update(Reply).where(col(Reply.user_id) == user_id).values(pieces="", error_message=None)
    )
    session.execute(
        update(Conversation)
        .where(col(Conversation.user_id) == user_id)
        .values(title="", settings="")
    )
    session.execute(
        update(Conversation)
        .where(col(Conversation.user_id) == user_id, col(Conversation.deleted_at).is_(None))
        .values(deleted_at=now)
    )
    session.flush()


def drop_images(data_dir: Path, *, user_id: int) -> None:
    """Delete the files; those that are gone already are fine."""
    shutil.rmtree(data_dir / images.FOLDER / str(user_id), ignore_errors=True)
