"""Branches of a conversation: pick the one that is shown, fork one into a conversation of its own.

What is copied costs nothing and has no reply behind it: charges and receipts stay where they were.
"""

from sqlmodel import Session, col, select, update

from chat_app.chat import conversations, images
from chat_app.chat.conversations import MessageNotFound
from chat_app.chat.tables import Conversation, Message, Reply
from chat_app.chat.tree import Tree
from chat_app.errors import Conflict
from chat_app.ids import new_id

TITLE_LENGTH = 200
FORK = "Fork: "


class NotAnsweredYet(Conflict):
    """A branch is still being written."""

    code = "not_answered_yet"
    message = "This answer is still being written. Wait for it, or stop it first."


def pick(session: Session, *, user_id: int, conversation_id: str, message_id: str) -> Conversation:
    """From now on the active path leads through the message, and on to the newest below it.

    Raises ConversationNotFound and MessageNotFound. That a conversation is read again is no news,
    so its place in the list stays. Answers side by side are a choice that is made with it.
    """
    conversation = conversations.get(session, user_id=user_id, conversation_id=conversation_id)
    tree = _tree(session, conversation_id)
    if message_id not in tree.rows:
        raise MessageNotFound
    session.execute(
        update(Conversation)
        .where(col(Conversation.id) == conversation_id)
        .values(leaf_id=tree.newest(message_id))
    )
    pair = select(Reply.pair_id).where(Reply.message_id == message_id).scalar_subquery()
    session.execute(
        update(Reply)
        .where(col(Reply.conversation_id) == conversation_id, col(Reply.pair_id) == pair)
        .values(pair_id=None)
        .execution_options(synchronize_session=False)
    )
    session.refresh(conversation)
    return conversation


def fork(
    session: Session, *, user_id: int, conversation_id: str, message_id: str, now: int
) -> Conversation:
    """A new conversation with copies of the messages up to this one, and its settings; `now` in µs.

    Raises ConversationNotFound, MessageNotFound and NotAnsweredYet.
    """
    source = conversations.get(session, user_id=user_id, conversation_id=conversation_id)
    tree = _tree(session, conversation_id)
    if message_id not in tree.rows:
        raise MessageNotFound
    path = tree.path(message_id)
    writing = select(Reply.id).where(
        Reply.conversation_id == conversation_id,
        Reply.state == "running",
        col(Reply.message_id).in_([message.id for message in path]),
    )
    if session.exec(writing).first() is not None:
        raise NotAnsweredYet
    title = source.title if source.title.startswith(FORK) else FORK + source.title
    made = Conversation(
        id=new_id("con"),
        user_id=user_id,
        title=title[:TITLE_LENGTH],
        renamed=True,
        model=source.model,
        settings=source.settings,
        created_at=now,
        updated_at=now,
    )
    session.add(made)
    session.flush()
    copies: dict[str, str] = {}
    last: str | None = None
    for message in path:
        copy = Message(
            id=new_id("msg"),
            conversation_id=made.id,
            parent_id=last,
            role=message.role,
            content=message.content,
            model=message.model,
            created_at=message.created_at,
        )
        session.add(copy)
        copies[message.id] = last = copy.id
    made.leaf_id = last
    session.add(made)
    session.flush()
    images.copy(session, user_id=user_id, copies=copies)
    return made


def _tree(session: Session, conversation_id: str) -> Tree[Message]:
    return Tree(
        session.exec(select(Message).where(Message.conversation_id == conversation_id)).all()
    )
