"""Shared conversations: a snapshot of what is shown, behind a link that nobody can guess.

What others see is a copy that changes only when its owner says so. It has what was asked and
answered and by which model: no name, no price, no image, no other conversation.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlmodel import Session, col, delete, func, select

from chat_app.chat import conversations
from chat_app.chat.conversations import MessageRow
from chat_app.chat.share_tables import Share
from chat_app.errors import Conflict, Invalid, NotFound, NotSignedIn, TooLarge
from chat_app.ids import new_id

ACCESS = ("signed_in", "open")
MAX_SHARES = 200
# Markdown made to be slow takes seconds at this size, and everybody may open an open link.
MAX_BYTES = 512 * 1024


class ShareNotFound(NotFound):
    """No such link, or it was taken back: the answer is the same."""

    code = "share_not_found"
    message = "This link leads nowhere any more. Ask the person who gave it to you for a new one."


class NotShared(NotFound):
    """The conversation has no link."""

    code = "not_shared"
    message = "This conversation is not shared. Share it first."


class ShareForMembers(NotSignedIn):
    """The link is for people with an account here."""

    code = "share_for_members"
    message = "This conversation is for people with an account here. Sign in and open it again."


class NothingToShare(Invalid):
    """Nothing has been said in the conversation yet."""

    code = "nothing_to_share"
    message = "There is nothing to share yet. Wait for an answer, then share the conversation."


class TooLargeToShare(TooLarge):
    """The texts are longer than a page that is shared may be. Fact: `limit_bytes`."""

    code = "too_large_to_share"
    message = "This conversation is too long to be shared. Share a shorter one."


class TooManyShares(Conflict):
    """The user has as many links as there may be. Fact: `limit`."""

    code = "too_many_shares"
    message = "There are as many links as there may be. Take one back, then share this."


@dataclass(frozen=True)
class Said:
    """A message of a snapshot; `images` is how many it showed."""

    role: str
    text: str
    model: str
    images: int = 0


def publish(
    session: Session,
    *,
    user_id: int,
    conversation_id: str,
    access: str | None,
    update: bool,
    hash_of: Callable[[str], str],
    now: int,
) -> Share:
    """Share a conversation, or change how it is shared; `hash_of` hashes the token of an id.

    The first time a snapshot is made, later only with `update`. An `access` of None stays as it
    is, or is for people who are signed in. Raises ConversationNotFound, NothingToShare,
    TooLargeToShare or TooManyShares.
    """
    found = conversations.get(session, user_id=user_id, conversation_id=conversation_id)
    share = _of(session, conversation_id)
    if share is None:
        _room_for_one(session, user_id)
        name = new_id("shr")
        share = Share(
            id=name,
            user_id=user_id,
            conversation_id=conversation_id,
            token_hash=hash_of(name),
            access=access or ACCESS[0],
            title="",
            snapshot="",
            messages=0,
            created_at=now,
            updated_at=now,
        )
        update = True
    share.access = access or share.access
    if update:
        said = _said(
            conversations.messages(session, user_id=user_id, conversation_id=conversation_id)
        )
        share.title = found.title[:200]
        share.snapshot = _packed(said)
        share.messages = len(said)
        share.updated_at = now
    session.add(share)
    session.flush()
    return share


def take_back(session: Session, *, user_id: int, conversation_id: str) -> None:
    """End the link; its snapshot is deleted. Raises ConversationNotFound or NotShared."""
    conversations.get(session, user_id=user_id, conversation_id=conversation_id)
    share = _of(session, conversation_id)
    if share is None:
        raise NotShared
    session.delete(share)
    session.flush()


def listed(session: Session, *, user_id: int) -> Sequence[Share]:
    """The user's links, newest first."""
    return session.exec(
        select(Share)
        .where(Share.user_id == user_id)
        .order_by(col(Share.created_at).desc(), col(Share.id))
    ).all()


def behind(session: Session, *, token_hash: str) -> Share:
    """The share that a token opens; raises ShareNotFound."""
    found = session.exec(select(Share).where(Share.token_hash == token_hash)).first()
    if found is None:
        raise ShareNotFound
    return found


def said_in(share: Share) -> list[Said]:
    """What the snapshot holds."""
    return [Said(**item) for item in json.loads(share.snapshot)]


def drop(session: Session, *, conversation_ids: Sequence[str]) -> None:
    """End the links to conversations that are deleted."""
    session.execute(delete(Share).where(col(Share.conversation_id).in_(conversation_ids)))


def forget(session: Session, *, user_id: int) -> None:
    """End all links of a person who leaves."""
    session.execute(delete(Share).where(col(Share.user_id) == user_id))


def _of(session: Session, conversation_id: str) -> Share | None:
    return session.exec(select(Share).where(Share.conversation_id == conversation_id)).first()


def _room_for_one(session: Session, user_id: int) -> None:
    have = session.exec(
        select(func.count()).select_from(Share).where(Share.user_id == user_id)
    ).one()
    if have >= MAX_SHARES:
        raise TooManyShares(limit=MAX_SHARES)


def _said(rows: Sequence[MessageRow]) -> list[Said]:
    """What is shown, without answers that came to nothing or are still being written."""
    return [
        Said(row.role, row.content, row.model, len(row.images))
        for row in rows
        if row.state != "running" and (row.content.strip() or row.images)
    ]


def _packed(said: Sequence[Said]) -> str:
    if not any(item.role == "assistant" for item in said):
        raise NothingToShare
    text = json.dumps([vars(item) for item in said], ensure_ascii=False)
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise TooLargeToShare(limit_bytes=MAX_BYTES)
    return text
