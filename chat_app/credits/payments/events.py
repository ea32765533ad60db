"""What providers announced: stored once for each of their ids, tried until it is settled.

Events come late, twice and in any order. Knows no provider and does nothing with an event.
"""

from dataclasses import dataclass

from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlmodel import Session, col, select

from chat_app.clock import MICROS_PER_SECOND
from chat_app.credits.payments.tables import WebhookEventRow

# How often an event is tried that speaks of what is not known (yet), and how long between.
MAX_ATTEMPTS = 12
_WAIT_SECONDS = 20


@dataclass(frozen=True)
class Event:
    """A stored event. `state` is new, done, ignored or refused; `reason` is for operators."""

    id: int
    provider: str
    event_id: str
    type: str
    payload: str
    payment_id: str | None
    state: str
    reason: str | None
    attempts: int
    received_at: int


def store(
    session: Session,
    *,
    provider: str,
    event_id: str,
    type: str,
    payload: str,
    announced_at: int,
    now: int,
) -> int:
    """Keep an event; one that is there already stays as it is. Returns its number."""
    insert = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert
    row = {
        "provider": provider,
        "event_id": event_id,
        "type": type[:64],
        "payload": payload,
        "state": "new",
        "announced_at": announced_at,
        "received_at": now,
    }
    session.execute(insert(WebhookEventRow).values(**row).on_conflict_do_nothing())
    found = session.exec(
        select(WebhookEventRow.id).where(
            WebhookEventRow.provider == provider, WebhookEventRow.event_id == event_id
        )
    ).one()
    assert found is not None
    return found


def claim(session: Session, number: int) -> Event | None:
    """The event, locked until the transaction ends; None when it is settled."""
    row = session.exec(
        select(WebhookEventRow)
        .where(WebhookEventRow.id == number)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one()
    return _event(row) if row.state == "new" else None


def settle(
    session: Session,
    number: int,
    *,
    state: str,
    now: int,
    reason: str | None = None,
    payment_id: str | None = None,
) -> None:
    """The event is `done`, `ignored` or `refused`."""
    row = session.get_one(WebhookEventRow, number)
    row.state, row.reason, row.payment_id = state, reason, payment_id
    row.attempts += 1
    row.tried_at = row.processed_at = now
    session.flush()


def postpone(session: Session, number: int, *, now: int, reason: str) -> None:
    """Try again later; after many times it is refused for an operator to look at."""
    row = session.get_one(WebhookEventRow, number)
    row.attempts += 1
    row.tried_at, row.reason = now, reason
    if row.attempts >= MAX_ATTEMPTS:
        row.state, row.processed_at = "refused", now
    session.flush()


def due(session: Session, *, now: int, limit: int = 50) -> list[int]:
    """Numbers of events to try again, oldest first; each waits longer than the time before."""
    rows = session.exec(
        select(WebhookEventRow)
        .where(WebhookEventRow.state == "new")
        .order_by(col(WebhookEventRow.id))
        .limit(500)
    )
    wait = _WAIT_SECONDS * MICROS_PER_SECOND
    return [
        row.id
        for row in rows
        if row.id is not None
        and (row.tried_at is None or row.tried_at + wait * 2 ** min(row.attempts, 10) <= now)
    ][:limit]


def search(
    session: Session, *, state: str = "", payment_id: str | None = None, limit: int = 50
) -> list[Event]:
    """Events for operators, newest first."""
    query = select(WebhookEventRow)
    if state:
        query = query.where(WebhookEventRow.state == state)
    if payment_id is not None:
        query = query.where(WebhookEventRow.payment_id == payment_id)
    rows = session.exec(query.order_by(col(WebhookEventRow.id).desc()).limit(limit))
    return [_event(row) for row in rows]


def _event(row: WebhookEventRow) -> Event:
    assert row.id is not None
    return Event(
        id=row.id,
        provider=row.provider,
        event_id=row.event_id,
        type=row.type,
        payload=row.payload,
        payment_id=row.payment_id,
        state=row.state,
        reason=row.reason,
        attempts=row.attempts,
        received_at=row.received_at,
    )
