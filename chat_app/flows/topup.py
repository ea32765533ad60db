"""Automatic top-ups, after the commit that made the credits run low.

Whoever settles an answer looks once; a job looks again for what was missed.
"""

import asyncio
import logging
from functools import partial

from sqlmodel import Session

from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.credits import ledger, topups
from chat_app.credits.payments import kept
from chat_app.credits.payments.orders import Payment
from chat_app.credits.topups import Rule
from chat_app.errors import AppError, Conflict
from chat_app.flows import collect, dunning, fraud
from chat_app.flows.plans import shop
from chat_app.money import format_credits

log = logging.getLogger(__name__)


class NoCard(Conflict):
    """Nobody can be charged without being there."""

    code = "no_card_kept"
    message = "This needs a card that may be charged. Add credits and choose to keep the card."


async def set_rule(
    app: App, *, user_id: int, threshold: int, package_code: str, per_day: int
) -> Rule:
    """Set the user's rule; raises BadTopup, UnknownPackage, or NoCard where one is needed."""

    def story(session: Session) -> Rule:
        now = app.clock.micros()
        provider = app.payments
        if provider.hosted and not kept.customer(session, user_id=user_id, provider=provider.name):
            raise NoCard
        rule = topups.put(
            session,
            user_id=user_id,
            threshold=threshold,
            package_code=package_code,
            per_day=per_day,
            now=now,
        )
        audit.record(
            session,
            type="auto_topup_set",
            actor=f"user:{user_id}",
            now=now,
            threshold=format_credits(threshold),
            package=package_code,
            per_day=per_day,
        )
        return rule

    rule = await app.db.awrite(story)
    await look(app, user_id=user_id)
    return rule


async def stop(app: App, *, user_id: int) -> bool:
    """Switch the rule off; False when none was on."""
    return await app.db.awrite(
        lambda session: topups.stop(session, user_id=user_id, now=app.clock.micros())
    )


async def look(app: App, *, user_id: int) -> None:
    """Buy if the user's rule says so. Never raises: the answer that led here is settled."""
    try:
        if await asyncio.to_thread(_is_low, app, user_id):
            order = await app.db.awrite(partial(_fire, app, user_id))
            if order is not None:
                await collect.now(app, user_id=user_id, payment_id=order.id)
    except Exception:
        log.exception("an automatic top-up was not looked at")


def run_low(app: App) -> int:
    """Buy for everyone whose credits are low and whose rule was missed; returns the orders."""
    with app.db.read() as session:
        found = topups.low(session, now=app.clock.micros())
    made = 0
    for user_id in found:
        try:
            made += app.db.write(partial(_fire, app, user_id)) is not None
        except AppError as error:
            log.warning("the automatic top-up of user %s failed: %s", user_id, error)
    return made


def _is_low(app: App, user_id: int) -> bool:
    with app.db.read() as session:
        rule = topups.get(session, user_id=user_id)
        if rule is None or not rule.active:
            return False
        return ledger.balance(session, user_id=user_id).available < rule.threshold


def _fire(app: App, user_id: int, session: Session) -> Payment | None:
    now = app.clock.micros()
    order = topups.fire(session, shop(app), user_id=user_id, now=now)
    if order is not None:
        audit.record(
            session,
            type="auto_topup_ordered",
            actor="system",
            now=now,
            user=user_id,
            payment=order.id,
            status=order.status,
            amount_minor=order.amount_minor,
        )
        if order.status == "paid":
            fraud.paid(app, session, order, now=now)
        elif not app.payments.hosted:  # else it is charged after the commit
            dunning.topup(session, order, now=now)
    return order
