"""A message by its id, for its owner; what belongs to another user is not found."""

from sqlmodel import Session, col, select

from chat_app.chat.tables import Conversation, Message
from chat_app.errors import NotFound


class MessageNotFound(NotFound):
    """No such message of this user, or of this conversation."""

    code = "message_not_found"
    message = "This message does not exist any more. Open the conversation again."


def message(session: Session, *, user_id: int, message_id: str) -> Message:
    """The user's message, or MessageNotFound. One of a deleted conversation is gone."""
    found = session.exec(
        select(Message)
        .join(Conversation, col(Conversation.id) == Message.conversation_id)
        .where(
            Message.id == message_id,
            Conversation.user_id == user_id,
            col(Conversation.deleted_at).is_(None),
        )
    ).first()
    if found is None:
        raise MessageNotFound
    return found
