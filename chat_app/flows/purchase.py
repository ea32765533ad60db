"""Buying credits: an order, its checkout, and the credits that follow from its payment."""

import asyncio

from sqlmodel import Session

from chat_app.app import App
from chat_app.audit import log
from chat_app.credits import operations
from chat_app.credits.payments import offline, orders
from chat_app.credits.payments.orders import Payment
from chat_app.flows import fraud, notices, payments
from chat_app.money import MICRO, format_credits


async def buy(
    app: App,
    *,
    user_id: int,
    package_code: str | None = None,
    micro: int | None = None,
    key: str,
    base: str = "",
    keep: bool = False,
) -> Payment:
    """Order a package or a custom amount of microcredits. The same key orders once.

    With a provider that has a page of its own the order has a `checkout_url`, which leads back to
    `base` (the public URL, if one is set); with `keep` the card may be charged for plans and
    top-ups from then on. Raises HeldForReview, and ProviderUnreachable: the same key goes on then.
    """

    def story(session: Session) -> Payment:
        now = app.clock.micros()
        made = orders.create(
            session,
            user_id=user_id,
            package_code=package_code,
            micro=micro,
            now=now,
            scope=f"order:{user_id}",
            key=key,
            rules=app.settings.credits,
            provider=app.payments.name,
        )
        if not made.replayed:
            fraud.check_order(app, session, user_id=user_id, credits=made.credits, now=now)
        return made

    order = await app.db.awrite(story)
    if not app.payments.hosted or order.checkout_url or order.status != "pending":
        return order
    back = payments.way_back(app, order, base)
    checkout = await asyncio.to_thread(
        app.payments.start, order, success_url=back, cancel_url=back, keep=keep
    )
    return await app.db.awrite(
        lambda session: orders.opened(
            session, payment_id=order.id, ref=checkout.ref, url=checkout.url
        )
    )


async def confirm(app: App, *, user_id: int, payment_id: str, key: str | None = None) -> Payment:
    """Pay an order of the offline provider: no real money moves. Credits come once.

    A key belongs to one payment: IdempotencyConflict when it was used for another.
    """

    def story(session: Session) -> Payment:
        now = app.clock.micros()
        if key is not None:
            operations.once(
                session,
                scope=f"confirm:{user_id}",
                key=key,
                request={"payment": payment_id},
                now=now,
                actor=f"user:{user_id}",
                run=dict,
            )
        payment = offline.confirm(session, user_id=user_id, payment_id=payment_id, now=now)
        if not payment.replayed:
            fraud.check(
                app,
                session,
                type="topup",
                user_id=user_id,
                key=f"paid:{payment_id}",
                now=now,
                credits=(payment.credits + payment.bonus_credits) / MICRO,
                amount_minor=payment.amount_minor,
            )
            log.record(
                session,
                type="payment_fulfilled",
                actor=f"user:{user_id}",
                now=now,
                payment=payment_id,
                credits=format_credits(payment.credits + payment.bonus_credits),
                amount_minor=payment.amount_minor,
            )
            notices.paid(session, payment, now=now)
        return payment

    return await app.db.awrite(story)


def get(app: App, *, user_id: int, payment_id: str) -> Payment:
    """The user's order as it stands."""
    with app.db.read() as session:
        return orders.get(session, user_id=user_id, payment_id=payment_id)
