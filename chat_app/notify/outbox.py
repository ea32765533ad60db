"""Outbox: messages are written with their cause and leave after it is durable.

Delivery is at least once: who tries a message moves its due time first, in one conditional
update, so that two processes never try it at once, and one that dies leaves it to be tried
again. The message id stays the same, so a receiver can tell a repetition.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, or_, text
from sqlmodel import Session, col, delete, select, update

from chat_app.clock import MICROS_PER_SECOND
from chat_app.errors import NotFound
from chat_app.ids import new_id
from chat_app.notify.tables import OutboxRow

LEASE_SECONDS = 180
MAX_PAUSE_SECONDS = 6 * 3600
MAX_ERROR = 300
STATES = ("waiting", "sent", "dead")

_PUT = text(
    """INSERT INTO outbox (message_id, channel, kind, user_id, target, data, dedupe_key, state,
     attempts, due_at, created_at)
    VALUES (:message_id, :channel, :kind, :user_id, :target, :data, :dedupe_key, 'waiting', 0,
     :now, :now) ON CONFLICT (dedupe_key) DO NOTHING"""
)


class UnknownMessage(NotFound):
    """There is no such message."""

    code = "unknown_message"
    message = "This message does not exist any more. Reload the list."


@dataclass(frozen=True)
class Claimed:
    """A message that this process may try now. `attempts` counts this try."""

    id: int
    message_id: str
    claim: str
    attempts: int
    channel: str
    kind: str
    user_id: int | None
    target: str
    data: str
    created_at: int


def put(
    session: Session,
    *,
    kind: str,
    channel: str,
    target: str,
    dedupe_key: str,
    data: Mapping[str, Any],
    now: int,
    user_id: int | None = None,
) -> bool:
    """Add a message inside the transaction of its cause; False if the key was used before."""
    done = session.execute(
        _PUT,
        {
            "message_id": new_id("ntf"),
            "channel": channel,
            "kind": kind,
            "user_id": user_id,
            "target": target,
            "data": json.dumps(dict(data), sort_keys=True, separators=(",", ":")),
            "dedupe_key": dedupe_key,
            "now": now,
        },
    )
    return bool(done.rowcount)  # type: ignore[attr-defined]


def due(session: Session, *, now: int, limit: int) -> Sequence[OutboxRow]:
    """Messages whose time has come, the longest waiting first."""
    return session.exec(
        select(OutboxRow)
        .where(OutboxRow.state == "waiting", col(OutboxRow.due_at) <= now)
        .order_by(col(OutboxRow.due_at), col(OutboxRow.id))
        .limit(limit)
    ).all()


def by_key(session: Session, dedupe_key: str) -> OutboxRow:
    """The message that was put under this key; raises UnknownMessage."""
    row = session.exec(select(OutboxRow).where(OutboxRow.dedupe_key == dedupe_key)).first()
    if row is None:
        raise UnknownMessage
    return row


def claim(session: Session, *, row: OutboxRow, now: int) -> Claimed | None:
    """Take the message for one try, or None when somebody else was faster.

    The try counts now: a message that kills the process is tried only so often too.
    """
    assert row.id is not None
    token = new_id("try")
    taken = session.execute(
        update(OutboxRow)
        .where(
            col(OutboxRow.id) == row.id,
            col(OutboxRow.state) == "waiting",
            col(OutboxRow.due_at) == row.due_at,
            col(OutboxRow.attempts) == row.attempts,
        )
        .values(
            due_at=now + LEASE_SECONDS * MICROS_PER_SECOND,
            attempts=row.attempts + 1,
            claim=token,
        )
        .execution_options(synchronize_session=False)
    )
    if not taken.rowcount:  # type: ignore[attr-defined]
        return None
    return Claimed(
        id=row.id,
        message_id=row.message_id,
        claim=token,
        attempts=row.attempts + 1,
        channel=row.channel,
        kind=row.kind,
        user_id=row.user_id,
        target=row.target,
        data=row.data,
        created_at=row.created_at,
    )


def sent(session: Session, message: Claimed, *, now: int) -> bool:
    """It has left. False if the lease ran out and somebody else has it now."""
    return _end(session, message, state="sent", ended_at=now, error=None)


def failed(
    session: Session,
    message: Claimed,
    *,
    error: str,
    now: int,
    attempts: int,
    retry_seconds: float,
    final: bool = False,
) -> bool:
    """It did not leave: try again later, or never after `attempts` tries or a `final` error.

    Returns whether it is dead now.
    """
    shown = " ".join(error.split())[:MAX_ERROR]
    if final or message.attempts >= attempts:
        return _end(session, message, state="dead", ended_at=now, error=shown)
    wait = pause(message.attempts, retry_seconds)
    _end(session, message, due_at=now + int(wait * MICROS_PER_SECOND), error=shown)
    return False


def pause(attempts: int, retry_seconds: float) -> float:
    """Seconds until the next try: doubled each time up to six hours, with jitter down to half."""
    full = min(retry_seconds * 2.0 ** (attempts - 1), MAX_PAUSE_SECONDS)
    return full * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing


def resend(session: Session, *, message_id: str, now: int) -> OutboxRow:
    """Let a dead message be tried again from the start; raises UnknownMessage."""
    done = session.execute(
        update(OutboxRow)
        .where(col(OutboxRow.message_id) == message_id, col(OutboxRow.state) == "dead")
        .values(state="waiting", attempts=0, due_at=now, ended_at=None, claim=None)
        .execution_options(synchronize_session=False)
    )
    if not done.rowcount:  # type: ignore[attr-defined]
        raise UnknownMessage
    return session.exec(
        select(OutboxRow)
        .where(OutboxRow.message_id == message_id)
        .execution_options(populate_existing=True)
    ).one()


def page(
    session: Session, *, state: str = "", target: str = "", limit: int, cursor: str | None = None
) -> tuple[list[OutboxRow], str | None]:
    """Messages, newest first, a page at a time. Raises UnknownMessage for a foreign cursor."""
    query = select(OutboxRow).order_by(col(OutboxRow.id).desc()).limit(limit + 1)
    if state:
        query = query.where(OutboxRow.state == state)
    if target:
        query = query.where(OutboxRow.target == target)
    if cursor is not None:
        at = session.exec(select(OutboxRow.id).where(OutboxRow.message_id == cursor)).first()
        if at is None:
            raise UnknownMessage
        query = query.where(col(OutboxRow.id) < at)
    rows = list(session.exec(query))
    following = rows[limit - 1].message_id if len(rows) > limit else None
    return rows[:limit], following


def counts(session: Session, *, channel: str = "") -> dict[str, int]:
    """How many messages are in each state, of one channel or of all."""
    query = select(OutboxRow.state, func.count()).group_by(OutboxRow.state)
    if channel:
        query = query.where(OutboxRow.channel == channel)
    rows = session.exec(query).all()
    return dict.fromkeys(STATES, 0) | {state: int(count) for state, count in rows}


def oldest_mail(session: Session) -> int | None:
    """Since when (µs) the oldest waiting mail has been waiting."""
    return session.exec(
        select(func.min(OutboxRow.created_at)).where(
            OutboxRow.state == "waiting", OutboxRow.channel == "mail"
        )
    ).one()


def forget(session: Session, *, before: int) -> int:
    """Delete what was sent before then, and calls that were given up.

    Mails that were given up stay until an operator has sent them again.
    """
    done = session.execute(
        delete(OutboxRow).where(
            col(OutboxRow.ended_at) < before,
            or_(col(OutboxRow.state) == "sent", col(OutboxRow.channel) == "webhook"),
        )
    )
    return int(done.rowcount)  # type: ignore[attr-defined]


def _end(session: Session, message: Claimed, **values: Any) -> bool:
    done = session.execute(
        update(OutboxRow)
        .where(
            col(OutboxRow.id) == message.id,
            col(OutboxRow.state) == "waiting",
            col(OutboxRow.claim) == message.claim,
        )
        .values(claim=None, **values)
        .execution_options(synchronize_session=False)
    )
    return bool(done.rowcount)  # type: ignore[attr-defined]
