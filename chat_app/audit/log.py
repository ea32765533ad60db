"""The event log: who did what, and when. Rows are added in the writer's own transaction."""

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert
from sqlmodel import Session, col, select

from chat_app.audit.tables import EventRow
from chat_app.errors import Invalid


class BadPage(Invalid):
    """The cursor of a list in the audit is not one that was given out."""

    code = "invalid_audit_cursor"
    message = "This page of the list does not exist. Start again without a cursor."


def canonical(facts: object) -> str:
    """JSON with sorted keys and no spaces, so that equal facts have equal bytes."""
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def record(session: Session, *, type: str, actor: str, now: int, **facts: object) -> None:
    """Add an event. `now` is in microseconds, `facts` are JSON values."""
    row = {"at": now, "type": type, "actor": actor, "payload": canonical(facts)}
    session.execute(insert(EventRow).values(**row))


@dataclass(frozen=True)
class Event:
    """An event as it was recorded; `at` in µs."""

    seq: int
    at: int
    type: str
    actor: str
    facts: dict[str, Any]


def find(
    session: Session,
    *,
    type: str = "",
    actor: str = "",
    since: int | None = None,
    until: int | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> tuple[list[Event], str | None]:
    """Events, newest first, and the cursor of the next page or None.

    `since` is included, `until` is not. Raises BadPage.
    """
    query = select(EventRow).order_by(col(EventRow.seq).desc()).limit(limit + 1)
    if cursor:
        if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
            raise BadPage
        query = query.where(col(EventRow.seq) < int(cursor))
    if type:
        query = query.where(EventRow.type == type)
    if actor:
        query = query.where(EventRow.actor == actor)
    if since is not None:
        query = query.where(EventRow.at >= since)
    if until is not None:
        query = query.where(EventRow.at < until)
    rows = session.exec(query).all()
    found = [
        Event(row.seq or 0, row.at, row.type, row.actor, json.loads(row.payload))
        for row in rows[:limit]
    ]
    return found, str(found[-1].seq) if len(rows) > limit else None


def types(session: Session) -> list[str]:
    """Every kind of event that was ever recorded."""
    return sorted(session.exec(select(EventRow.type).distinct()))
