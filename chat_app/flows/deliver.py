"""Deliver: what waits in the outbox leaves, after its cause is durable and outside transactions.

Each message is claimed in one transaction, handed over without any, and marked in another. A
process that dies in between leaves it claimed; when the lease runs out it is handed over once
more, under the same id.
"""

import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from sqlmodel import Session

from chat_app.app import App
from chat_app.clock import MICROS_PER_SECOND, from_micros
from chat_app.flows import letters, notices
from chat_app.notify import announcements, inbox, kinds, mail, outbox, preferences, webhooks
from chat_app.notify.outbox import Claimed
from chat_app.notify.tables import OutboxRow
from chat_app.notify.wire import BadWebhookUrl, Refused, Unreachable

log = logging.getLogger(__name__)

AT_ONCE = 8
ROUND_SECONDS = 60
DAY_MICROS = 24 * 3600 * MICROS_PER_SECOND


@dataclass(frozen=True)
class _Outcome:
    """How a try went: an empty error is a success, a final one is not tried again."""

    error: str = ""
    final: bool = False
    gone: bool = False


def deliver_due(app: App) -> int:
    """Try every message whose time has come; returns how many left. Runs about a minute at most."""
    left, until = 0, time.monotonic() + ROUND_SECONDS
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="deliver") as pool:
        while not app.draining and time.monotonic() < until:
            taken = claim_due(app)
            if not taken:
                break
            left += sum(pool.map(partial(one, app), taken))
    return left


def claim_due(app: App, limit: int = AT_ONCE) -> list[Claimed]:
    """Take the next messages for one try each."""
    now = app.clock.micros()
    with app.db.read() as session:
        rows = outbox.due(session, now=now, limit=limit)
    if not rows:
        return []

    def story(session: Session) -> list[Claimed]:
        found = (outbox.claim(session, row=row, now=now) for row in rows)
        return [item for item in found if item is not None]

    return app.db.write(story)


def one(app: App, message: Claimed) -> bool:
    """Hand one claimed message over and mark it; whether it left."""
    try:
        how = _call(app, message) if message.channel == "webhook" else _mail(app, message)
    except Exception as error:
        log.exception("message %s could not be handed over", message.message_id)
        how = _Outcome(f"{type(error).__name__}: {error}")
    app.db.write(lambda session: _mark(app, session, message, how))
    return not how.error


def forget_old(app: App) -> int:
    """Delete what was delivered or read long ago."""
    before = app.clock.micros() - app.settings.notifications.keep_days * DAY_MICROS

    def story(session: Session) -> int:
        gone = outbox.forget(session, before=before) + inbox.forget(session, before=before)
        return gone + announcements.forget(session, before=before)

    return app.db.write(story)


def test_webhook(app: App, *, user_id: int, webhook_id: str) -> OutboxRow:
    """Call a webhook now and tell how it went; it stays in the list of deliveries."""
    now = app.clock.micros()

    def story(session: Session) -> Claimed | None:
        endpoint = webhooks.get(session, user_id=user_id, webhook_id=webhook_id)
        name = f"test:{now}"
        data = {"url": endpoint.url}
        notices.call(session, endpoint_id=endpoint.id, user_id=user_id, kind="webhook_test",
                     name=name, data=data, now=now)  # fmt: skip
        row = outbox.by_key(session, f"{endpoint.id}:{name}")
        return outbox.claim(session, row=row, now=now)

    claimed = app.db.write(story)
    if claimed is not None:
        one(app, claimed)
    with app.db.read() as session:
        return outbox.page(session, target=webhook_id, limit=1)[0][0]


def _mail(app: App, message: Claimed) -> _Outcome:
    topic = kinds.TOPICS[kinds.KINDS[message.kind].topic]
    unsubscribe = ""
    if message.user_id is not None and not topic.fixed:
        token = preferences.link_token(
            app.secrets.link_key,
            user_id=message.user_id,
            topic=kinds.KINDS[message.kind].topic,
        )
        unsubscribe = f"{app.settings.site}/api/notifications/unsubscribe?token={token}"
    try:
        composed = mail.compose(
            kinds.letter(message.kind, letters.opened(app, json.loads(message.data))),
            settings=app.settings.mail,
            to=message.target,
            message_id=message.message_id,
            at=from_micros(message.created_at),
            site=app.settings.site,
            why=topic.name,
            unsubscribe=unsubscribe,
        )
        mail.send(composed, settings=app.settings.mail, outbox=app.settings.data_dir / "outbox")
    except (mail.BadMailAddress, mail.MailRefused) as error:
        return _Outcome(str(error), final=True)
    except (mail.MailDelayed, OSError) as error:
        return _Outcome(str(error) or type(error).__name__)
    return _Outcome()


def _call(app: App, message: Claimed) -> _Outcome:
    body = webhooks.body_of(message.kind, json.loads(message.data), created_at=message.created_at)
    with app.db.read() as session:
        signed = webhooks.headers_of(
            session,
            webhook_id=message.target,
            message_id=message.message_id,
            body=body,
            key=app.secrets.link_key,
            now=app.clock.micros(),
        )
    if signed is None:
        return _Outcome("the webhook is switched off or removed", final=True)
    url, headers = signed
    try:
        answer = app.wire.post(url, body, headers)
    except (Refused, BadWebhookUrl) as error:
        return _Outcome(str(error), final=True)
    except Unreachable as error:
        return _Outcome(str(error))
    if 200 <= answer.status < 300:
        return _Outcome()
    gone = answer.status == 410
    return _Outcome(f"status {answer.status} {answer.text}".strip(), final=gone, gone=gone)


def _mark(app: App, session: Session, message: Claimed, how: _Outcome) -> None:
    now, settings = app.clock.micros(), app.settings.notifications
    hook = message.channel == "webhook"
    if not how.error:
        outbox.sent(session, message, now=now)
        if hook:
            webhooks.called(session, webhook_id=message.target)
        return
    testing = message.kind == "webhook_test"
    dead = outbox.failed(
        session,
        message,
        error=how.error,
        now=now,
        attempts=settings.attempts,
        retry_seconds=settings.retry_seconds,
        # A test is for somebody who is looking now.
        final=how.final or testing,
    )
    if not (dead and hook) or testing:
        return
    stopped = webhooks.gave_up(session, webhook_id=message.target, gone=how.gone)
    if stopped is not None:
        notices.tell(
            session,
            user_id=stopped.user_id,
            kind="webhook_stopped",
            key=f"{stopped.id}:{message.message_id}",
            data={"url": stopped.url, "reason": how.error[:200]},
            now=now,
        )
