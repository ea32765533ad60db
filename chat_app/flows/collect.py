"""Collecting what is owed for plans and top-ups: from a kept card, or on the provider's page.

The provider is asked outside of every transaction: the attempt is claimed before, and its outcome
is written after, so two processes never charge one order twice, and a lost answer is looked up.
"""

import asyncio
import logging
from functools import partial

from sqlmodel import Session

from chat_app.accounts import users
from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.clock import MICROS_PER_SECOND
from chat_app.credits import plans, topups
from chat_app.credits.payments import attempts, kept, orders
from chat_app.credits.payments.attempts import Attempt, BeingCharged
from chat_app.credits.payments.orders import NotPayable, Payment
from chat_app.credits.payments.provider import Card, Charged, ProviderRefused, ProviderUnreachable
from chat_app.flows import dunning, payments

log = logging.getLogger(__name__)

HOUR = 3600 * MICROS_PER_SECOND
AT_ONCE = 50


async def checkout(app: App, *, user_id: int, payment_id: str, base: str = "") -> Payment:
    """Open the provider's page for an order that waits; the same page for everyone who asks.

    A plan's order keeps the card for the next periods, as its owner agreed to when choosing it.
    The order of a provider without a page comes back as it is. Raises UnknownPayment, NotPayable,
    BeingCharged and ProviderUnreachable: ask again then.
    """
    return await asyncio.to_thread(_checkout, app, user_id, payment_id, base)


async def now(app: App, *, user_id: int, payment_id: str) -> Payment:
    """Charge the kept card for an order that its owner has just made, if there is one."""
    return await asyncio.to_thread(_now, app, user_id, payment_id)


def due(app: App) -> int:
    """Charge kept cards for the plans and top-ups that wait; returns how many were paid by it."""
    if not app.payments.hosted:
        return 0
    most = app.settings.credits.plan_retries + 1
    with app.db.read() as session:
        found = attempts.due(
            session, provider=app.payments.name, most=most, now=app.clock.micros(), limit=AT_ONCE
        )
    return sum(_collect(app, payment_id).status == "paid" for payment_id in found)


def retire(app: App) -> int:
    """Close the pages of orders that were given up here; returns how many were closed."""
    if not app.payments.hosted:
        return 0
    with app.db.read() as session:
        found = orders.to_retire(session, provider=app.payments.name, limit=AT_ONCE)
    closed = 0
    for order in found:
        try:
            standing = app.payments.retire(order)
        except (ProviderUnreachable, ProviderRefused):
            log.warning("the page of order %s was not closed", order.id, exc_info=True)
            continue
        if standing.state == "paid":
            payments.refuse(app, order, standing, NotPayable())
        app.db.write(partial(orders.retired, payment_id=order.id))
        closed += 1
    return closed


async def cards(app: App, *, user_id: int) -> list[Card]:
    """The user's kept cards, the one that is charged first. Raises ProviderUnreachable."""

    def ask() -> list[Card]:
        with app.db.read() as session:
            customer = kept.customer(session, user_id=user_id, provider=app.payments.name)
        return [] if customer is None else app.payments.cards(customer)

    return await asyncio.to_thread(ask)


async def forget(app: App, *, user_id: int) -> None:
    """Keep no card of the user any more: nothing is charged from now on.

    The provider forgets it at once, or as soon as it answers again.
    """

    def story(session: Session) -> None:
        if kept.customer(session, user_id=user_id, provider=app.payments.name) is None:
            return
        kept.forget(session, user_id=user_id)
        audit.record(
            session, type="card_forgotten", actor=f"user:{user_id}", now=app.clock.micros()
        )

    await app.db.awrite(story)
    await asyncio.to_thread(forget_gone, app)


def forget_gone(app: App) -> int:
    """Have the provider forget the cards that nobody wants kept; returns of how many customers."""
    if not app.payments.hosted:
        return 0
    with app.db.read() as session:
        found = kept.going(session, provider=app.payments.name, limit=AT_ONCE)
    done = 0
    for customer in found:
        try:
            app.payments.forget(customer)
        except (ProviderUnreachable, ProviderRefused):
            log.warning("a kept card is not forgotten yet", exc_info=True)
            continue
        app.db.write(partial(kept.gone, provider=app.payments.name, customer_ref=customer))
        done += 1
    return done


def _now(app: App, user_id: int, payment_id: str) -> Payment:
    with app.db.read() as session:
        order = orders.get(session, user_id=user_id, payment_id=payment_id)
        customer = kept.customer(session, user_id=user_id, provider=app.payments.name)
    if not app.payments.hosted or order.status != "pending" or customer is None:
        return order
    return _collect(app, payment_id)


def _checkout(app: App, user_id: int, payment_id: str, base: str) -> Payment:
    with app.db.read() as session:
        order = orders.get(session, user_id=user_id, payment_id=payment_id)
    provider = app.payments
    if order.provider == provider.name and order.provider_ref != order.id:
        order = payments.look(app, payment_id)
    if order.status != "pending":
        raise NotPayable
    if not provider.hosted or order.provider != provider.name or order.checkout_url:
        return order
    attempt = _claim(app, payment_id)
    if attempt is not None and attempt.again:
        # A card may have been charged with nobody hearing of it.
        order = _try(app, attempt)
        attempt = _claim(app, payment_id) if order.status == "pending" else None
    if attempt is None:
        raise NotPayable
    with app.db.read() as session:
        customer = kept.customer(session, user_id=user_id, provider=provider.name)
    back = payments.way_back(app, order, base)
    page = provider.start(
        order,
        success_url=back,
        cancel_url=back,
        attempt=attempt.number,
        keep=order.subscription_id is not None or customer is not None,
        customer=customer,
    )

    def story(session: Session) -> Payment:
        attempts.release(session, payment_id=payment_id)
        return orders.opened(session, payment_id=payment_id, ref=page.ref, url=page.url)

    return app.db.write(story)


def _claim(app: App, payment_id: str) -> Attempt | None:
    return app.db.write(
        lambda session: attempts.claim(session, payment_id=payment_id, now=app.clock.micros())
    )


def _collect(app: App, payment_id: str) -> Payment:
    """One attempt with the kept card. Never raises for what the provider says."""
    try:
        attempt = _claim(app, payment_id)
    except BeingCharged:
        attempt = None
    with app.db.read() as session:
        order = orders.find(session, payment_id)
    return order if attempt is None else _try(app, attempt)


def _try(app: App, attempt: Attempt) -> Payment:
    order = attempt.order
    with app.db.read() as session:
        customer = kept.customer(session, user_id=order.user_id, provider=order.provider)
        rests = users.get(session, order.user_id).suspended
    charged = Charged(None, "no_card")
    if customer is not None and not rests:
        try:
            charged = app.payments.charge(
                order, customer=customer, attempt=attempt.number, again=attempt.again
            )
        except (ProviderUnreachable, ProviderRefused):
            # Not released: whoever comes next asks for this attempt again.
            log.warning("order %s: the card was not charged", order.id, exc_info=True)
            return order
    return app.db.write(partial(_charged, app, order, charged, rests))


def _charged(app: App, order: Payment, charged: Charged, rests: bool, session: Session) -> Payment:
    """Write down what came of an attempt."""
    now = app.clock.micros()
    retry_at = now + app.settings.credits.plan_retry_hours * HOUR
    attempts.release(session, payment_id=order.id, retry_at=retry_at)
    if charged.standing is not None:
        if charged.standing.state == "paid":
            return payments.accept(app, session, charged.standing, now=now)
        return orders.opened(
            session, payment_id=order.id, ref=charged.standing.checkout_ref, url=None
        )
    audit.record(
        session,
        type="payment_declined",
        actor=f"provider:{order.provider}",
        now=now,
        payment=order.id,
        user=order.user_id,
        reason=charged.reason,
    )
    if order.subscription_id is None:
        orders.fail(session, payment_id=order.id, now=now)
        topups.declined(session, payment_id=order.id, now=now)
    failed = orders.find(session, order.id)
    if rests:
        return failed
    if order.subscription_id is None:
        dunning.topup(session, failed, now=now, reason=charged.reason)
    else:
        held = plans.load(session, order.subscription_id, zone=app.settings.business.zone)
        dunning.unpaid(
            session, held=held, rules=app.settings.credits, now=now, reason=charged.reason
        )
    return failed
