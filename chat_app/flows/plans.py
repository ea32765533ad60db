"""Plans as their owner and the clock see them: begun, changed, renewed, and on the record."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from sqlmodel import Session

from chat_app.accounts import users
from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.credits import operations, plans, renewals
from chat_app.credits.payments import offline, orders
from chat_app.credits.payments.orders import Payment
from chat_app.credits.plans import Subscription
from chat_app.credits.renewals import Shop
from chat_app.errors import AppError
from chat_app.flows import collect, dunning, notices
from chat_app.money import format_credits

log = logging.getLogger(__name__)


def shop(app: App) -> Shop:
    """How credits are sold here."""
    settings = app.settings
    return Shop(
        settings.credits,
        settings.business.zone,
        provider=app.payments.name,
        charge=_charge,
        waits=app.payments.hosted,
    )


def _charge(session: Session, payment: Payment, now: int) -> Payment:
    """Paid at once where that is possible, and then its owner is told."""
    done = offline.charge(session, payment, now=now)
    if done.status == "paid" and not done.replayed:
        notices.paid(session, done, now=now)
    return done


def current(app: App, *, user_id: int) -> Subscription | None:
    """The user's plan, or None."""
    with app.db.read() as session:
        return plans.current(session, user_id=user_id, zone=app.settings.business.zone)


async def choose(app: App, *, user_id: int, plan_code: str, key: str) -> Subscription:
    """Begin a plan, or change to it. The same key acts once.

    Where a provider takes the money, the kept card is charged at once; without one the plan waits
    for `waiting` to be paid on the provider's page, and so does a change to a dearer one. Raises
    UnknownPlan, PlanBusy, NotPaid or IdempotencyConflict.
    """

    def do(session: Session, now: int) -> Subscription:
        held = plans.current(session, user_id=user_id, zone=app.settings.business.zone)
        new = held is None or held.status == "pending"
        act = renewals.subscribe if new else renewals.change
        return act(session, shop(app), user_id=user_id, plan_code=plan_code, now=now)

    await _act(app, user_id, "plan_chosen", key, do, plan=plan_code)
    return await _collected(app, user_id)


async def cancel(app: App, *, user_id: int, key: str) -> Subscription:
    """End the plan with its period. Raises NoSubscription."""
    return await _act(app, user_id, "plan_cancelled", key, _of(app, user_id, renewals.cancel))


async def pause(app: App, *, user_id: int, key: str) -> Subscription:
    """No further periods until it is resumed. Raises NoSubscription or PlanBusy."""
    return await _act(app, user_id, "plan_paused", key, _of(app, user_id, renewals.pause))


async def resume(app: App, *, user_id: int, key: str) -> Subscription:
    """Go on after a pause or a cancellation, paid as in `choose` where that is due.

    Raises NoSubscription, PlanBusy or NotPaid.
    """
    await _act(app, user_id, "plan_resumed", key, _of(app, user_id, renewals.resume))
    return await _collected(app, user_id)


def waiting(app: App, *, user_id: int) -> Payment | None:
    """The order of the user's plan that waits for its payment, or None."""
    with app.db.read() as session:
        held = plans.current(session, user_id=user_id, zone=app.settings.business.zone)
        return None if held is None else orders.open_of(session, subscription_id=held.id)


async def _collected(app: App, user_id: int) -> Subscription:
    """The plan, after a try to be paid for it from the kept card."""
    order = await asyncio.to_thread(waiting, app, user_id=user_id)
    if order is not None:
        await collect.now(app, user_id=user_id, payment_id=order.id)
    held = await asyncio.to_thread(current, app, user_id=user_id)
    if held is None:
        raise plans.NoSubscription
    return held


def renew_due(app: App) -> int:
    """Renew what is due, each subscription in a transaction of its own; returns the periods paid.

    A suspended user's plan rests. One that cannot be renewed does not keep the others waiting.
    """
    with app.db.read() as session:
        due = plans.due(session, now=app.clock.micros())
    paid = 0
    for id in due:
        try:
            paid += app.db.write(partial(_renew, app, id))
        except AppError as error:
            log.warning("subscription %s was not renewed: %s", id, error)
    return paid


def _renew(app: App, id: str, session: Session) -> int:
    now = app.clock.micros()
    held = plans.load(session, id, zone=app.settings.business.zone)
    if users.get(session, held.user_id).suspended:
        return 0
    found = renewals.renew(session, shop(app), subscription_id=id, now=now)
    for period in found:
        audit.record(
            session,
            type="plan_renewed",
            actor="system",
            now=now,
            subscription=id,
            user=held.user_id,
            period=period.number,
            credits=format_credits(period.credits),
            amount_minor=period.price.amount,
        )
    after = plans.load(session, id, zone=app.settings.business.zone)
    rules, tried = app.settings.credits, not app.payments.hosted
    dunning.renewal(session, before=held, after=after, rules=rules, tried=tried, now=now)
    return len(found)


Act = Callable[[Session, int], Subscription]


def _of(app: App, user_id: int, act: Callable[..., Subscription]) -> Act:
    return lambda session, now: act(session, shop(app), user_id=user_id, now=now)


async def _act(
    app: App, user_id: int, type: str, key: str, do: Act, **request: str
) -> Subscription:
    actor = f"user:{user_id}"

    def run(session: Session, now: int) -> dict[str, str]:
        found = do(session, now)
        audit.record(
            session,
            type=type,
            actor=actor,
            now=now,
            subscription=found.id,
            plan=found.period.plan_code,
            status=found.status,
        )
        return {"subscription_id": found.id}

    def story(session: Session) -> Subscription:
        now = app.clock.micros()
        outcome, _ = operations.once(
            session,
            scope=f"plan:{user_id}",
            key=key,
            request={"act": type, **request},
            now=now,
            actor=actor,
            run=lambda: run(session, now),
        )
        id = outcome["subscription_id"]
        return plans.load(session, id, zone=app.settings.business.zone)

    return await app.db.awrite(story)
