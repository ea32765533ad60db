"""Conversations and messages: list, open, rename, delete, search, and what a model reads of one.

Every query names the owner; what belongs to another user is not found.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, and_, case, func, or_
from sqlalchemy.orm import Mapped
from sqlmodel import Session, col, select, update

from chat_app.chat import feedback, images, owned, parameters
from chat_app.chat import search as finder
from chat_app.chat.answer_tables import MessageFeedback
from chat_app.chat.feedback import Feedback
from chat_app.chat.parameters import Parameters
from chat_app.chat.tables import Conversation, Message, MessageImage, Reply
from chat_app.chat.tree import Tree
from chat_app.errors import Invalid, NotFound

TITLE_LENGTH = 60
TITLE_WORDS = 6
PAGE = 100
HIDDEN_TITLE = "API"
TEMPORARY_TITLE = "Temporary chat"
# Where a message is that follows none, for those who name what a message follows.
ROOT = "root"
NO_FOLDER = "none"
Hit = finder.Hit
search = finder.find
MessageNotFound = owned.MessageNotFound
message = owned.message


class ConversationNotFound(NotFound):
    """No such conversation of this user."""

    code = "conversation_not_found"
    message = "This conversation does not exist any more. Open another one or start a new chat."


@dataclass(frozen=True)
class ConversationRow:
    """A line of the conversation list."""

    id: str
    title: str
    model: str
    created_at: int
    updated_at: int
    message_count: int
    pinned: bool = False
    archived: bool = False
    folder_id: str | None = None


@dataclass(frozen=True)
class MessageRow:
    """A message as it is shown. From `reply_id` on it is about the reply behind an answer.

    `siblings` are the ids of all that follow what it follows, itself at `sibling_index` (from 0).
    `beside` has the answers of several models to one question, until one of them is picked.
    """

    id: str
    role: str
    content: str
    model: str
    created_at: int
    reply_id: str | None = None
    charged: int | None = None
    finish_reason: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    state: str | None = None
    dropped_messages: int = 0
    cached: bool = False
    images: tuple[MessageImage, ...] = ()
    receipt_id: str | None = None
    pair_id: str | None = None
    parent_id: str | None = None
    siblings: tuple[str, ...] = ()
    sibling_index: int = 0
    beside: tuple["MessageRow", ...] = ()
    tokens: int = 0
    ended_at: int | None = None
    feedback: Feedback | None = None


def title_of(text: str) -> str:
    """A title from the first words of a message."""
    line = " ".join(text.split())
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1].rstrip() + "…"


def title_from(text: str) -> str | None:
    """The title in a model's words, or None when they are none.

    One line of at most six words and 60 characters, without markup, links, control characters
    or the beginning of a formula.
    """
    line = next((line for line in text.splitlines() if line.strip()), "")
    line = "".join(
        " " if unicodedata.category(mark)[0] == "Z" else mark
        for mark in unicodedata.normalize("NFC", line)
        if unicodedata.category(mark)[0] != "C"
    )
    line = re.sub(r"^\W*(?:the )?title\s*(?:is)?\s*[:：\-–—]\s*", "", line, flags=re.IGNORECASE)
    line = re.sub(r"[*_`#~\"“”„«»]+", "", " ".join(line.split()))
    line = line.strip(" '’‘.,;:!-–—=+@|").strip()
    if not 1 <= len(line) <= TITLE_LENGTH or len(line.split()) > TITLE_WORDS:
        return None
    if re.search(r"[<>\[\]{}|\\$]|://|www\.", line, flags=re.IGNORECASE):
        return None
    return line if any(mark.isalpha() for mark in line) else None


def give_title(session: Session, *, conversation_id: str, title: str) -> bool:
    """Give a conversation the model's title, unless a person gave it one or it is gone."""
    changed = session.execute(
        update(Conversation)
        .where(
            col(Conversation.id) == conversation_id,
            col(Conversation.renamed).is_(False),
            col(Conversation.deleted_at).is_(None),
        )
        .values(title=title)
    ).rowcount  # type: ignore[attr-defined]
    return bool(changed)


def hidden(*, id: str, user_id: int, model: str, now: int, until: int) -> Conversation:
    """A conversation behind an answer to a program: never shown, its texts go at `until`."""
    return Conversation(
        id=id,
        user_id=user_id,
        title=HIDDEN_TITLE,
        model=model,
        created_at=now,
        updated_at=now,
        deleted_at=until,
    )


def due(session: Session, *, now: int, limit: int = PAGE) -> list[tuple[str, int]]:
    """Hidden and temporary conversations whose texts have to go, with their users."""
    query = select(Conversation.id, Conversation.user_id).where(
        or_(col(Conversation.deleted_at) <= now, col(Conversation.temporary_until) <= now),
        Conversation.title != "",
    )
    return [(found, user) for found, user in session.exec(query.limit(limit)).all()]


def wipe(session: Session, *, conversation_ids: Sequence[str]) -> None:
    """Take the texts and titles out of conversations."""
    session.execute(
        update(Message).where(col(Message.conversation_id).in_(conversation_ids)).values(content="")
    )
    _forget_notes(session, conversation_ids)
    session.execute(
        update(Conversation)
        .where(col(Conversation.id).in_(conversation_ids))
        .values(
            title="",
            settings="",
            deleted_at=func.coalesce(
                col(Conversation.deleted_at), col(Conversation.temporary_until)
            ),
        )
    )


def get(session: Session, *, user_id: int, conversation_id: str) -> Conversation:
    """The user's conversation, or ConversationNotFound."""
    found = session.exec(
        select(Conversation).where(
            Conversation.id == conversation_id,
            Conversation.user_id == user_id,
            col(Conversation.deleted_at).is_(None),
        )
    ).first()
    if found is None:
        raise ConversationNotFound
    return found


def list_for(
    session: Session,
    *,
    user_id: int,
    limit: int = 50,
    cursor: str | None = None,
    q: str | None = None,
    pinned: bool | None = None,
    archived: bool | None = None,
    folder: str | None = None,
) -> tuple[list[ConversationRow], str | None]:
    """The user's conversations, newest activity first, and the cursor of the next page.

    None asks for all; `folder` may be NO_FOLDER for those that are in none.
    """
    limit = max(1, min(limit, PAGE))
    count = (
        select(func.count())
        .select_from(Message)
        .where(Message.conversation_id == Conversation.id)
        .correlate(Conversation)
        .scalar_subquery()
    )
    query = (
        select(Conversation, count)
        .where(
            Conversation.user_id == user_id,
            col(Conversation.deleted_at).is_(None),
            col(Conversation.temporary_until).is_(None),
        )
        .order_by(col(Conversation.updated_at).desc(), col(Conversation.id).desc())
        .limit(limit + 1)
    )
    if q and q.strip():
        query = query.where(col(Conversation.title).icontains(q.strip(), autoescape=True))
    if pinned is not None:
        query = query.where(col(Conversation.pinned_at).is_not(None) == pinned)
    if archived is not None:
        query = query.where(col(Conversation.archived_at).is_not(None) == archived)
    if folder is not None:
        inside = None if folder == NO_FOLDER else folder
        query = query.where(col(Conversation.folder_id).is_not_distinct_from(inside))
    if cursor:
        query = query.where(_before(cursor, col(Conversation.updated_at), col(Conversation.id)))
    rows = session.exec(query).all()
    page = [
        ConversationRow(
            row.id,
            row.title,
            row.model,
            row.created_at,
            row.updated_at,
            total,
            pinned=row.pinned_at is not None,
            archived=row.archived_at is not None,
            folder_id=row.folder_id,
        )
        for row, total in rows[:limit]
    ]
    return page, _cursor(page[-1].updated_at, page[-1].id) if len(rows) > limit else None


def messages(
    session: Session, *, user_id: int, conversation_id: str, whole: bool = False
) -> list[MessageRow]:
    """The messages of the active path, or with `whole` all of the tree, each after its parent."""
    conversation = get(session, user_id=user_id, conversation_id=conversation_id)
    rows = session.exec(
        select(Message, Reply)
        .join(Reply, col(Reply.message_id) == Message.id, isouter=True)
        .where(Message.conversation_id == conversation_id)
    ).all()
    tree = Tree([message for message, _ in rows])
    replies = {message.id: reply for message, reply in rows}
    shown = tree.walk() if whole else tree.path(conversation.leaf_id)
    last = replies[shown[-1].id] if shown and not whole else None
    pair = [] if last is None or last.pair_id is None else tree.siblings(last.message_id)
    rowed = _rows(session, user_id=user_id, tree=tree, replies=replies, of=[*shown, *pair])
    found = [rowed[message.id] for message in shown]
    if last is not None and pair:
        both = (rowed[each.id] for each in pair)
        beside = tuple(each for each in both if each.pair_id == last.pair_id)
        found[-1] = replace(found[-1], beside=beside)
    return found


def message_row(session: Session, *, user_id: int, message_id: str) -> MessageRow:
    """One message as it is shown; raises MessageNotFound."""
    found = message(session, user_id=user_id, message_id=message_id)
    reply = session.exec(select(Reply).where(Reply.message_id == message_id)).first()
    tree = _tree(session, found.conversation_id)
    rowed = _rows(session, user_id=user_id, tree=tree, replies={found.id: reply}, of=[found])
    return rowed[found.id]


def _rows(
    session: Session,
    *,
    user_id: int,
    tree: Tree[Message],
    replies: Mapping[str, Reply | None],
    of: Sequence[Message],
) -> dict[str, MessageRow]:
    """Messages of a tree with all that is shown of them, by their ids."""
    asked = [message.id for message in of if message.role == "user"]
    pictures = images.of(session, asked)
    said = [message.id for message in of if message.role == "assistant"]
    votes = feedback.of(session, user_id=user_id, message_ids=said)
    rowed = {}
    for message in of:
        siblings = tuple(each.id for each in tree.siblings(message.id))
        rowed[message.id] = replace(
            _row(message, replies[message.id]),
            images=tuple(pictures.get(message.id, ())),
            feedback=votes.get(message.id),
            parent_id=tree.parent(message.id),
            siblings=siblings,
            sibling_index=siblings.index(message.id),
        )
    return rowed


def path(session: Session, *, conversation_id: str, end: str | None) -> list[Message]:
    """The messages from the beginning to `end`, or to the newest one where `end` is not there."""
    return _tree(session, conversation_id).path(end)


def place_of(
    session: Session, *, conversation_id: str, leaf_id: str | None, parent_id: str | None
) -> str | None:
    """What a new message follows: `parent_id`, or the end of the active path without one.

    None when it begins the conversation. Raises MessageNotFound when the parent is elsewhere.
    """
    if parent_id == ROOT:
        return None
    if parent_id is None and leaf_id is not None:
        return leaf_id
    if parent_id is None:
        return _tree(session, conversation_id).newest()
    found = session.get(Message, parent_id)
    if found is None or found.conversation_id != conversation_id:
        raise MessageNotFound
    return parent_id


def rename(session: Session, *, user_id: int, conversation_id: str, title: str) -> Conversation:
    """Give it another title of 1 to 200 characters. Its place in the list stays."""
    cleaned = " ".join(title.split())
    if not 1 <= len(cleaned) <= 200:
        raise Invalid("A title has between 1 and 200 characters.", param="title")
    conversation = get(session, user_id=user_id, conversation_id=conversation_id)
    conversation.title = cleaned
    conversation.renamed = True
    session.add(conversation)
    session.flush()
    return conversation


def set_parameters(
    session: Session, *, user_id: int, conversation_id: str, settings: Parameters
) -> Conversation:
    """Have its next answers written so. Raises ConversationNotFound or BadParameters."""
    text = parameters.checked(settings).dump()
    conversation = get(session, user_id=user_id, conversation_id=conversation_id)
    conversation.settings = text
    session.add(conversation)
    session.flush()
    return conversation


def delete(session: Session, *, user_id: int, conversation_id: str, now: int) -> None:
    """Wipe the texts and hide the conversation. What was charged stays in the books."""
    conversation = get(session, user_id=user_id, conversation_id=conversation_id)
    conversation.deleted_at = now
    conversation.title = conversation.settings = ""
    session.add(conversation)
    session.execute(
        update(Message).where(col(Message.conversation_id) == conversation_id).values(content="")
    )
    _forget_notes(session, [conversation_id])
    session.flush()


def history(
    session: Session, *, conversation_id: str, leaf_id: str | None = None, at: str | None = None
) -> list[Message]:
    """Questions and answers for the model, oldest first: the path to `at`, and nothing beside it.

    Without `at` it is the active path, which ends at `leaf_id`. A question that got no answer is
    left out with its silence, unless it is the last one and `at` itself; in place of a silent
    answer its newest sibling with text counts. What continues an answer is told as one with it.
    Raises MessageNotFound.
    """
    if at == ROOT:
        return []
    tree = _tree(session, conversation_id)
    if at is not None and at not in tree.rows:
        raise MessageNotFound
    path = tree.path(at or leaf_id)
    told: list[Message] = []
    for number, row in enumerate(path):
        if row.role == "assistant":
            continue
        said: list[Message] = []
        for answer in path[number + 1 :]:
            if answer.role == "user":
                break
            said.append(answer)
        text = "".join(answer.content for answer in said)
        if not text.strip():
            others = [each for each in tree.children(row.id) if each.role == "assistant"]
            said = [each for each in others if each.content.strip()][-1:]
            text = "".join(answer.content for answer in said)
        if row.id == at:
            told.append(row)
        elif said and text.strip():
            told += [row, _joined(said, text)]
    return told


def _joined(said: Sequence[Message], text: str) -> Message:
    """One answer out of several that continue each other."""
    if len(said) == 1:
        return said[0]
    last = said[-1]
    return Message(
        id=last.id,
        conversation_id=last.conversation_id,
        parent_id=said[0].parent_id,
        role="assistant",
        content=text,
        model=last.model,
        created_at=last.created_at,
    )


def _forget_notes(session: Session, conversation_ids: Sequence[str]) -> None:
    """The votes stay as numbers."""
    inside = select(Message.id).where(col(Message.conversation_id).in_(conversation_ids))
    session.execute(
        update(MessageFeedback).where(col(MessageFeedback.message_id).in_(inside)).values(note="")
    )


def _tree(session: Session, conversation_id: str) -> Tree[Message]:
    return Tree(
        session.exec(select(Message).where(Message.conversation_id == conversation_id)).all()
    )


def _row(message: Message, reply: Reply | None) -> MessageRow:
    if reply is None:
        return MessageRow(
            message.id, message.role, message.content, message.model, message.created_at
        )
    return MessageRow(
        id=message.id,
        role=message.role,
        content=message.content,
        model=message.model,
        created_at=message.created_at,
        reply_id=reply.id,
        charged=reply.charged,
        finish_reason=reply.finish_reason,
        error_code=reply.error_code,
        error_message=reply.error_message,
        state=reply.state,
        dropped_messages=reply.dropped_messages,
        cached=reply.cached,
        receipt_id=str(reply.transfer_id) if reply.transfer_id is not None else None,
        pair_id=reply.pair_id,
        tokens=reply.completion_tokens,
        ended_at=reply.ended_at,
    )


def _cursor(at: int, row_id: str) -> str:
    return f"{at}.{row_id}"


def _before(cursor: str, at: Mapped[int], row_id: Mapped[str]) -> ColumnElement[bool]:
    moment, _, last = cursor.partition(".")
    if not moment.isdigit() or len(moment) > 17 or not last:
        raise Invalid("This page marker is not valid. Start from the first page.", param="cursor")
    return or_(at < int(moment), and_(at == int(moment), row_id < last))


def count_running(session: Session, *, conversation_id: str) -> int:
    """How many answers of the conversation are being written."""
    rows: Sequence[str] = session.exec(
        select(Reply.id).where(Reply.conversation_id == conversation_id, Reply.state == "running")
    ).all()
    return len(rows)


def spent(session: Session, *, conversation_id: str) -> int:
    """Microcredits that the answers of the conversation have cost, or hold while they run."""
    counts = case((col(Reply.state) == "running", col(Reply.maximum)), else_=col(Reply.charged))
    query = select(func.coalesce(func.sum(counts), 0)).where(
        Reply.conversation_id == conversation_id
    )
    return int(session.exec(query).one())


def any_answer(session: Session) -> bool:
    """Whether any answer was ever written here."""
    return session.exec(select(Reply.id).where(Reply.state == "done").limit(1)).first() is not None
