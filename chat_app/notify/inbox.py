"""Inbox: what a person reads in the app. A message is delivered by being written."""

from sqlalchemy import func, text
from sqlmodel import Session, col, delete, select, update

from chat_app.errors import NotFound
from chat_app.ids import new_id
from chat_app.notify.kinds import Letter
from chat_app.notify.tables import InboxRow

MAX_TITLE = 200

_PUT = text(
    """INSERT INTO inbox_message (public_id, user_id, kind, title, body, dedupe_key, created_at)
    VALUES (:public_id, :user_id, :kind, :title, :body, :dedupe_key, :now)
    ON CONFLICT (dedupe_key) DO NOTHING"""
)


class UnknownNotification(NotFound):
    """There is no such notification, or it is another user's."""

    code = "unknown_notification"
    message = "This notification does not exist any more. Reload the list."


def put(
    session: Session, *, user_id: int, kind: str, letter: Letter, dedupe_key: str, now: int
) -> bool:
    """Add a message in the transaction of its cause; False if the key was used before."""
    done = session.execute(
        _PUT,
        {
            "public_id": new_id("ntf"),
            "user_id": user_id,
            "kind": kind,
            "title": letter.title[:MAX_TITLE],
            "body": letter.text,
            "dedupe_key": dedupe_key,
            "now": now,
        },
    )
    return bool(done.rowcount)  # type: ignore[attr-defined]


def page(
    session: Session, *, user_id: int, unread: bool = False, limit: int, cursor: str | None = None
) -> tuple[list[InboxRow], str | None]:
    """The person's messages, newest first. Raises UnknownNotification for a foreign cursor."""
    query = (
        select(InboxRow)
        .where(InboxRow.user_id == user_id)
        .order_by(col(InboxRow.id).desc())
        .limit(limit + 1)
    )
    if unread:
        query = query.where(col(InboxRow.read_at).is_(None))
    if cursor is not None:
        at = session.exec(
            select(InboxRow.id).where(InboxRow.public_id == cursor, InboxRow.user_id == user_id)
        ).first()
        if at is None:
            raise UnknownNotification
        query = query.where(col(InboxRow.id) < at)
    rows = list(session.exec(query))
    return rows[:limit], rows[limit - 1].public_id if len(rows) > limit else None


def unread(session: Session, *, user_id: int) -> int:
    """How many messages the person has not read."""
    return session.exec(
        select(func.count())
        .select_from(InboxRow)
        .where(InboxRow.user_id == user_id, col(InboxRow.read_at).is_(None))
    ).one()


def mark_read(session: Session, *, user_id: int, now: int, public_id: str | None = None) -> int:
    """Mark one message as read, or all; returns how many were unread.

    Raises UnknownNotification for one that does not exist or is somebody else's.
    """
    query = update(InboxRow).where(
        col(InboxRow.user_id) == user_id, col(InboxRow.read_at).is_(None)
    )
    if public_id is not None:
        mine = select(InboxRow.id).where(
            InboxRow.public_id == public_id, InboxRow.user_id == user_id
        )
        if session.exec(mine).first() is None:
            raise UnknownNotification
        query = query.where(col(InboxRow.public_id) == public_id)
    done = session.execute(query.values(read_at=now).execution_options(synchronize_session=False))
    return int(done.rowcount)  # type: ignore[attr-defined]


def forget(session: Session, *, before: int) -> int:
    """Delete what was read before then."""
    done = session.execute(delete(InboxRow).where(col(InboxRow.read_at) < before))
    return int(done.rowcount)  # type: ignore[attr-defined]
