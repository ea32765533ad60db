"""Webhooks: where a person's program wants to be told, signed as Standard Webhooks says.

The secret is derived from a key of this installation and the endpoint's id and version, so
the database holds none and a copy of it signs nothing. After a rotation the former secret
signs as well for a day. Knows nothing of how a call travels: `wire.py`.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select, update

from chat_app.clock import MICROS_PER_SECOND, rfc3339
from chat_app.errors import Conflict, Invalid, NotFound
from chat_app.ids import new_id
from chat_app.notify import wire
from chat_app.notify.kinds import EVENTS, KINDS
from chat_app.notify.tables import WebhookRow

OVERLAP_SECONDS = 24 * 3600
MAX_FAILURES = 3


class UnknownWebhook(NotFound):
    """There is no such webhook, or it is another user's."""

    code = "unknown_webhook"
    message = "This webhook does not exist any more. Reload the list."


class BadEvents(Invalid):
    """No event, or one that does not exist."""

    code = "invalid_events"
    message = "Choose at least one event of the list."


class TooManyWebhooks(Conflict):
    """The person has as many webhooks as the operator allows."""

    code = "too_many_webhooks"
    message = "There is no room for another webhook. Remove one first."


@dataclass(frozen=True)
class Endpoint:
    """A webhook as its owner sees it; times in µs. `failures` counts dead calls in a row."""

    id: str
    user_id: int
    url: str
    events: tuple[str, ...]
    enabled: bool
    failures: int
    previous_until: int | None
    created_at: int


def add(
    session: Session,
    *,
    user_id: int,
    url: str,
    events: Sequence[str],
    key: bytes,
    most: int,
    allowed: frozenset[str],
    now: int,
) -> tuple[Endpoint, str]:
    """A new endpoint and its secret, which is shown this once.

    Raises BadWebhookUrl, BadEvents or TooManyWebhooks.
    """
    url = url.strip()
    wire.parse(url, allowed=allowed)
    chosen = _events(events)
    if len(of(session, user_id=user_id)) >= most:
        raise TooManyWebhooks(limit=most)
    row = WebhookRow(
        id=new_id("whk"), user_id=user_id, url=url, events=json.dumps(chosen), created_at=now,
        secret_version=1, failures=0,
    )  # fmt: skip
    session.add(row)
    session.flush()
    return _endpoint(row), secret(key, row.id, row.secret_version)


def of(session: Session, *, user_id: int) -> list[Endpoint]:
    """The person's endpoints, oldest first."""
    rows = session.exec(
        select(WebhookRow)
        .where(WebhookRow.user_id == user_id, col(WebhookRow.deleted_at).is_(None))
        .order_by(col(WebhookRow.created_at), col(WebhookRow.id))
    )
    return [_endpoint(row) for row in rows]


def listeners(session: Session, *, event: str, since: int) -> list[int]:
    """Who had a webhook for this event before `since` (µs)."""
    rows = session.exec(
        select(WebhookRow.user_id)
        .where(
            col(WebhookRow.enabled).is_(True),
            col(WebhookRow.created_at) < since,
            col(WebhookRow.events).contains(f'"{event}"', autoescape=True),
        )
        .distinct()
    )
    return list(rows)


def get(session: Session, *, user_id: int, webhook_id: str) -> Endpoint:
    """One endpoint of the person; raises UnknownWebhook."""
    return _endpoint(_row(session, user_id, webhook_id))


def change(
    session: Session,
    *,
    user_id: int,
    webhook_id: str,
    allowed: frozenset[str],
    url: str | None = None,
    events: Sequence[str] | None = None,
    enabled: bool | None = None,
) -> Endpoint:
    """Change what is given. Switching on forgets earlier failures. Raises what `add` does."""
    row = _row(session, user_id, webhook_id)
    if url is not None:
        wire.parse(url.strip(), allowed=allowed)
        row.url = url.strip()
    if events is not None:
        row.events = json.dumps(_events(events))
    if enabled is not None:
        row.enabled = enabled
        row.failures = 0 if enabled else row.failures
    session.add(row)
    session.flush()
    return _endpoint(row)


def remove(session: Session, *, user_id: int, webhook_id: str, now: int) -> None:
    """Remove an endpoint; what waits for it will not leave. Raises UnknownWebhook."""
    row = _row(session, user_id, webhook_id)
    row.deleted_at, row.enabled = now, False
    session.add(row)
    session.flush()


def rotate(
    session: Session, *, user_id: int, webhook_id: str, key: bytes, now: int
) -> tuple[Endpoint, str]:
    """A new secret, shown this once; the former one signs as well for a day."""
    row = _row(session, user_id, webhook_id)
    row.secret_version += 1
    row.previous_until = now + OVERLAP_SECONDS * MICROS_PER_SECOND
    session.add(row)
    session.flush()
    return _endpoint(row), secret(key, row.id, row.secret_version)


def called(session: Session, *, webhook_id: str) -> None:
    """A call arrived: earlier failures are forgotten."""
    session.execute(
        update(WebhookRow)
        .where(col(WebhookRow.id) == webhook_id, col(WebhookRow.failures) > 0)
        .values(failures=0)
        .execution_options(synchronize_session=False)
    )


def gave_up(session: Session, *, webhook_id: str, gone: bool = False) -> Endpoint | None:
    """A call is dead. After some in a row, or when the receiver is `gone`, none are made any more.

    Returns the endpoint if this switched it off.
    """
    row = session.exec(
        select(WebhookRow).where(WebhookRow.id == webhook_id).with_for_update()
    ).first()
    if row is None or not row.enabled:
        return None
    row.failures += 1
    if gone or row.failures >= MAX_FAILURES:
        row.enabled = False
    session.add(row)
    session.flush()
    return None if row.enabled else _endpoint(row)


def secret(key: bytes, webhook_id: str, version: int) -> str:
    """The secret as the receiver keeps it: `whsec_` and base64 of 32 bytes."""
    return "whsec_" + base64.b64encode(_secret(key, webhook_id, version)).decode()


def body_of(kind: str, data: dict[str, Any], *, created_at: int) -> bytes:
    """The call's body; the same bytes at every try."""
    content = {"type": KINDS[kind].event, "timestamp": rfc3339(created_at), "data": data}
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def headers_of(
    session: Session, *, webhook_id: str, message_id: str, body: bytes, key: bytes, now: int
) -> tuple[str, dict[str, str]] | None:
    """The address and the signed headers of a call, or None if the endpoint is off or gone."""
    row = session.get(WebhookRow, webhook_id)
    if row is None or not row.enabled or row.deleted_at is not None:
        return None
    versions = [row.secret_version]
    if row.previous_until is not None and now < row.previous_until:
        versions.append(row.secret_version - 1)
    seconds = now // MICROS_PER_SECOND
    signed = f"{message_id}.{seconds}.".encode() + body
    signatures = " ".join(
        "v1," + base64.b64encode(
            hmac.digest(_secret(key, row.id, version), signed, hashlib.sha256)
        ).decode()
        for version in versions
    )  # fmt: skip
    return row.url, {
        "content-type": "application/json",
        "user-agent": "ml-chat-billing-webhooks",
        "webhook-id": message_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": signatures,
    }


def _secret(key: bytes, webhook_id: str, version: int) -> bytes:
    named = f"webhook secret\n{webhook_id}\n{version}"
    return hmac.digest(key, named.encode(), hashlib.sha256)


def _events(events: Sequence[str]) -> list[str]:
    if not events or not set(events) <= set(EVENTS):
        raise BadEvents(param="events", events=list(EVENTS))
    return sorted(set(events))


def _row(session: Session, user_id: int, webhook_id: str) -> WebhookRow:
    row = session.get(WebhookRow, webhook_id, populate_existing=True)
    if row is None or row.user_id != user_id or row.deleted_at is not None:
        raise UnknownWebhook
    return row


def _endpoint(row: WebhookRow) -> Endpoint:
    return Endpoint(
        id=row.id,
        user_id=row.user_id,
        url=row.url,
        events=tuple(json.loads(row.events)),
        enabled=row.enabled,
        failures=row.failures,
        previous_until=row.previous_until,
        created_at=row.created_at,
    )
