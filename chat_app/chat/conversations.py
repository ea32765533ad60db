"""Conversations and messages: list, open, rename, delete, search.

Every query names the owner; what belongs to another user is not found.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, and_, case, func, or_
from sqlalchemy.orm import Mapped
from sqlmodel import Session, col, select, update

from chat_app.chat import images
from chat_app.chat.tables import Conversation, Message, MessageImage, Reply
from chat_app.errors import Invalid, NotFound

TITLE_LENGTH = 60
TITLE_WORDS = 6
SNIPPET = 80
PAGE = 100
HIDDEN_TITLE = "API"
NO_FOLDER = "none"


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
    """A message as it is shown. From `reply_id` on it is about the reply behind an answer."""

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


@dataclass(frozen=True)
class Hit:
    """A message that a search found; the snippet is plain text around the first match."""

    message_id: str
    conversation_id: str
    title: str
    role: str
    snippet: str
    model: str
    created_at: int
    charged: int | None
    cached: bool = False


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
    """Hidden conversations whose texts have to go, with their users."""
    query = select(Conversation.id, Conversation.user_id).where(
        col(Conversation.deleted_at) <= now, Conversation.title != ""
    )
    return [(found, user) for found, user in session.exec(query.limit(limit)).all()]


def wipe(session: Session, *, conversation_ids: Sequence[str]) -> None:
    """Take the texts and titles out of conversations."""
    session.execute(
        update(Message).where(col(Message.conversation_id).in_(conversation_ids)).values(content="")
    )
    session.execute(
        update(Conversation).where(col(Conversation.id).in_(conversation_ids)).values(title="")
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
        .where(Conversation.user_id == user_id, col(Conversation.deleted_at).is_(None))
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


def messages(session: Session, *, user_id: int, conversation_id: str) -> list[MessageRow]:
    """All shown messages in order: each question with its newest answer."""
    get(session, user_id=user_id, conversation_id=conversation_id)
    rows = session.exec(
        select(Message, Reply)
        .join(Reply, col(Reply.message_id) == Message.id, isouter=True)
        .where(Message.conversation_id == conversation_id)
        .order_by(col(Message.created_at), col(Message.id))
    ).all()
    newest = {message.parent_id: message.id for message, _ in rows if message.parent_id}
    answers = {
        message.parent_id: _row(message, reply)
        for message, reply in rows
        if message.parent_id and newest[message.parent_id] == message.id
    }
    pictures = images.of(session, [message.id for message, _ in rows if message.role == "user"])
    shown: list[MessageRow] = []
    for message, reply in rows:
        if message.role == "user":
            row = _row(message, reply)
            shown.append(replace(row, images=tuple(pictures.get(message.id, ()))))
            if message.id in answers:
                shown.append(answers[message.id])
    return shown


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


def delete(session: Session, *, user_id: int, conversation_id: str, now: int) -> None:
    """Wipe the texts and hide the conversation. What was charged stays in the books."""
    conversation = get(session, user_id=user_id, conversation_id=conversation_id)
    conversation.deleted_at = now
    conversation.title = ""
    session.add(conversation)
    session.execute(
        update(Message).where(col(Message.conversation_id) == conversation_id).values(content="")
    )
    session.flush()


def search(
    session: Session,
    *,
    user_id: int,
    q: str = "",
    model: str | None = None,
    since: int | None = None,
    until: int | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> tuple[list[Hit], str | None]:
    """Messages of the user that contain `q`, newest first. `since` <= time < `until`, in µs."""
    limit = max(1, min(limit, PAGE))
    wanted: list[ColumnElement[bool]] = [
        col(Conversation.user_id) == user_id,
        col(Conversation.deleted_at).is_(None),
        col(Message.content) != "",
    ]
    if q.strip():
        wanted.append(col(Message.content).icontains(q.strip(), autoescape=True))
    if model:
        wanted.append(col(Message.model) == model)
    if since is not None:
        wanted.append(col(Message.created_at) >= since)
    if until is not None:
        wanted.append(col(Message.created_at) < until)
    if cursor:
        wanted.append(_before(cursor, col(Message.created_at), col(Message.id)))
    rows = session.exec(
        select(Message, Conversation, Reply)
        .join(Conversation, col(Conversation.id) == Message.conversation_id)
        .join(Reply, col(Reply.message_id) == Message.id, isouter=True)
        .where(*wanted)
        .order_by(col(Message.created_at).desc(), col(Message.id).desc())
        .limit(limit + 1)
    ).all()
    hits = [
        Hit(
            message.id,
            conversation.id,
            conversation.title,
            message.role,
            snippet(message.content, q.strip()),
            message.model,
            message.created_at,
            reply.charged if reply is not None else None,
            reply is not None and reply.cached,
        )
        for message, conversation, reply in rows[:limit]
    ]
    more = len(rows) > limit
    return hits, _cursor(hits[-1].created_at, hits[-1].message_id) if more else None


def snippet(text: str, q: str) -> str:
    """The text around the first match, or its beginning, on one line."""
    line = " ".join(text.split())
    at = max(line.casefold().find(q.casefold()), 0) if q else 0
    start = max(at - SNIPPET // 2, 0)
    end = start + 2 * SNIPPET
    return ("…" if start else "") + line[start:end] + ("…" if end < len(line) else "")


def history(session: Session, *, conversation_id: str, until: str | None = None) -> list[Message]:
    """Questions and answers for the model, oldest first, up to the question `until`.

    A question that got no answer is left out with its silence; of several answers the newest
    with text counts.
    """
    rows = session.exec(
        select(Message)
        .where(Message.conversation_id == conversation_id)
        .order_by(col(Message.created_at), col(Message.id))
    ).all()
    answers = {row.parent_id: row for row in rows if row.parent_id and row.content.strip()}
    told: list[Message] = []
    for row in rows:
        if row.role != "user":
            continue
        if row.id == until:
            return [*told, row]
        if row.id in answers:
            told += [row, answers[row.id]]
    return told


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
