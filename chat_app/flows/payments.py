"""Payments as a provider tells of them: events, the landing page and polling lead to one place.

An announcement is stored first and acted on afterwards, in one transaction with the mark that it
was. Nothing here trusts an event beyond its signature: `orders.accept` compares it with the order.
"""

import asyncio
import json
import logging

from sqlmodel import Session

from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.clock import MICROS_PER_SECOND
from chat_app.credits.payments import events, kept, orders, returns
from chat_app.credits.payments.events import Event
from chat_app.credits.payments.orders import Mismatch, NotPayable, Payment, Standing, UnknownPayment
from chat_app.credits.payments.provider import (
    BadSignature,
    Notice,
    ProviderRefused,
    ProviderUnreachable,
    RefundStanding,
    WebhooksOff,
)
from chat_app.errors import AppError
from chat_app.flows import fraud, notices, refund
from chat_app.money import format_credits

log = logging.getLogger(__name__)

POLL_DAYS = 8
POLL_AT_ONCE = 20


async def receive(app: App, *, provider: str, body: bytes, signature: str) -> None:
    """Verify and keep an announcement, then act on it. Once it is kept, nothing can be lost.

    Raises WebhooksOff, BadSignature or DatabaseUnavailable; in all of them no row was written.
    """
    if app.payments.name != provider:
        raise WebhooksOff
    notice = await asyncio.to_thread(app.payments.parse, body, signature)
    now = app.clock.micros()
    number = await app.db.awrite(
        lambda session: events.store(
            session,
            provider=provider,
            event_id=notice.id,
            type=notice.type,
            payload=body.decode(),
            announced_at=notice.at,
            now=now,
        )
    )
    try:
        await app.db.awrite(lambda session: _act(app, session, number, notice))
    except Exception:
        log.exception("event %s is kept and will be tried again", notice.id)


def retry_events(app: App) -> int:
    """Act on kept events that are not settled yet; returns how many were tried."""
    with app.db.read() as session:
        due = events.due(session, now=app.clock.micros())
    for number in due:
        try:
            app.db.write(lambda session, number=number: _act(app, session, number))  # type: ignore[misc]
        except AppError:
            log.exception("event %d could not be tried", number)
    return len(due)


async def settle(app: App, *, payment_id: str) -> Payment:
    """Ask the provider how an open order stands, and act on it: the landing page's part.

    Raises UnknownPayment; what does not fit is kept for operators and changes nothing.
    """
    return await asyncio.to_thread(look, app, payment_id)


def poll(app: App) -> int:
    """Ask about open orders whose announcement may be lost; returns how many were asked about."""
    if not app.payments.hosted:
        return 0
    since = app.clock.micros() - POLL_DAYS * 24 * 3600 * MICROS_PER_SECOND
    with app.db.read() as session:
        found = orders.to_poll(session, provider=app.payments.name, since=since, limit=POLL_AT_ONCE)
    for order in found:
        look(app, order.id)
    return len(found)


def way_back(app: App, order: Payment, base: str) -> str:
    """Where the provider's page leads to: the public URL if one is set, else `base`."""
    server = app.settings.server
    base = (server.public_url or base or f"http://{server.host}:{server.port}").rstrip("/")
    return f"{base}/api/billing/payments/{order.id}/return"


def refuse(app: App, order: Payment, standing: Standing, error: AppError) -> None:
    """Keep for operators what a provider said and what does not fit."""
    now, reason = app.clock.micros(), _reason(error)
    app.db.write(lambda session: _keep_refusal(session, order, standing, reason, now=now))


def look(app: App, payment_id: str) -> Payment:
    """The blocking form of `settle`."""
    with app.db.read() as session:
        order = orders.find(session, payment_id)
    provider = app.payments
    unasked = order.provider != provider.name or order.provider_ref == order.id
    if order.status != "pending" or unasked:
        return order
    try:
        standing = provider.look(order)
    except (ProviderUnreachable, ProviderRefused):
        log.warning("order %s could not be looked up", payment_id, exc_info=True)
        return order
    now = app.clock.micros()
    app.db.write(lambda session: orders.polled(session, payment_id=payment_id, now=now))
    if standing.state == "open":
        return order
    try:
        return app.db.write(lambda session: accept(app, session, standing, now=now))
    except (Mismatch, NotPayable) as error:
        refuse(app, order, standing, error)
        return order


def _act(app: App, session: Session, number: int, notice: Notice | None = None) -> None:
    """Settle an event, or leave it for later; one transaction with what follows from it."""
    event = events.claim(session, number)
    if event is None:
        return
    now = app.clock.micros()
    try:
        notice = notice or app.payments.read(json.loads(event.payload))
        # What is refused leaves nothing behind but the refusal itself.
        with session.begin_nested():
            payment_id = _apply(app, session, event, notice, now=now)
    except _NotYet as later:
        events.postpone(session, number, now=now, reason=later.reason)
        return
    except (Mismatch, NotPayable, UnknownPayment, BadSignature, WebhooksOff) as error:
        reason = _reason(error)
        payment = str(error.facts.get("payment", "")) or None
        events.settle(session, number, state="refused", now=now, reason=reason, payment_id=payment)
        audit.record(
            session,
            type="payment_event_refused",
            actor=f"provider:{event.provider}",
            now=now,
            event=event.event_id,
            reason=reason,
        )
        return
    state = "done" if payment_id else "ignored"
    events.settle(session, number, state=state, now=now, payment_id=payment_id)


class _NotYet(Exception):
    """The event speaks of something that another event has yet to bring."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _apply(app: App, session: Session, event: Event, notice: Notice, *, now: int) -> str | None:
    """Returns the order it was about, or None when it was about nothing of ours."""
    about = notice.about
    if about is None:
        return None
    if isinstance(about, Standing):
        return accept(app, session, about, now=now).id
    if isinstance(about, RefundStanding):
        try:
            return refund.stand(session, about, now=now).payment_id
        except returns.UnknownRefund as unknown:
            # Ours are known before the provider hears of them, so somebody made it there.
            raise UnknownPayment(reason="refund_made_elsewhere") from unknown
    order = orders.find_intent(session, about.intent_ref)
    if order is None:
        raise _NotYet("payment_not_known_yet")
    if (order.provider, order.currency) != (event.provider, about.currency):
        raise Mismatch(reason="provider_or_currency", payment=order.id)
    disputed = returns.dispute(session, order, about, now=now)
    audit.record(
        session,
        type="payment_disputed",
        actor=f"provider:{event.provider}",
        now=now,
        payment=order.id,
        dispute=disputed.id,
        state=disputed.state,
        credits=format_credits(disputed.credits),
        owed=format_credits(disputed.owed),
    )
    notices.disputed(session, disputed, now=now)
    return order.id


def accept(app: App, session: Session, standing: Standing, *, now: int) -> Payment:
    """Act on what the provider says of an order, and tell its owner. Raises as `orders.accept`."""
    payment = orders.accept(session, standing, now=now)
    if standing.state == "paid" and not payment.replayed:
        audit.record(
            session,
            type="payment_fulfilled",
            actor=f"provider:{standing.provider}",
            now=now,
            payment=payment.id,
            credits=format_credits(payment.credits + payment.bonus_credits),
            amount_minor=payment.amount_minor,
        )
        if standing.customer_ref is not None:
            kept.keep(
                session,
                user_id=payment.user_id,
                provider=payment.provider,
                customer_ref=standing.customer_ref,
                now=now,
            )
        notices.paid(session, payment, now=now)
        fraud.paid(app, session, payment, now=now)
    elif standing.state == "failed":
        fraud.failed(app, session, payment, now=now)
    return payment


def _reason(error: AppError) -> str:
    return str(error.facts.get("reason") or error.code)


def _keep_refusal(
    session: Session, order: Payment, standing: Standing, reason: str, *, now: int
) -> None:
    number = events.store(
        session,
        provider=order.provider,
        event_id=f"look:{order.id}:{reason}",
        type="look",
        payload=json.dumps(standing.__dict__),
        announced_at=now,
        now=now,
    )
    if events.claim(session, number) is not None:
        events.settle(session, number, state="refused", now=now, reason=reason, payment_id=order.id)
