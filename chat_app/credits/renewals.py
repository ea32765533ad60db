"""Renewals: plans are begun, changed, paused and ended here, and renewed when a period is over.

Every period is charged and granted once, whoever comes first. The rules for what went wrong:
a period that was over, credits and all, before anybody renewed is skipped, neither charged nor
granted; a payment that fails is tried again some times, and then the plan pauses or ends.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

from sqlmodel import Session, col, update

from chat_app.clock import MICROS_PER_SECOND
from chat_app.credits import ledger, plans
from chat_app.credits.payments import offline, orders
from chat_app.credits.payments.orders import Payment
from chat_app.credits.plans import Period, Plan, Subscription
from chat_app.credits.shop_tables import PeriodRow, SubscriptionRow
from chat_app.errors import Conflict
from chat_app.ids import new_id
from chat_app.money import Money
from chat_app.settings import Credits as Rules

HOUR = 3600 * MICROS_PER_SECOND
# More periods than this at once is a clock that is wrong, not a program that was off.
MAX_CATCH_UP = 240


class HasPlan(Conflict):
    """One plan for each user."""

    code = "has_plan"
    message = "You have a plan already. Change it instead."


class PlanBusy(Conflict):
    """The plan is paused, unpaid or waits for its first payment."""

    code = "plan_not_active"
    message = "Your plan is not active. Resume or pay it first, or cancel it."


class NotPaid(Conflict):
    """The payment for a plan did not go through at once, so nothing was changed."""

    code = "plan_not_paid"
    message = "The payment did not go through and nothing was changed. Try again later."


Charge = Callable[[Session, Payment, int], Payment]


def offline_charge(session: Session, payment: Payment, now: int) -> Payment:
    """The demonstration's way to be paid without the owner."""
    return offline.charge(session, payment, now=now)


@dataclass(frozen=True)
class Shop:
    """How plans are sold here: the settings, the seller's time zone, and who takes the money.

    `charge` returns the order as it is after a try: paid, failed, or pending when its owner or
    the provider decides later. With `waits` a new plan waits for that, and the old one stays
    until then.
    """

    rules: Rules
    zone: tzinfo
    provider: str = offline.NAME
    charge: Charge = offline_charge
    waits: bool = False


def subscribe(
    session: Session, shop: Shop, *, user_id: int, plan_code: str, now: int
) -> Subscription:
    """Begin a plan; its first period starts now. Raises UnknownPlan, HasPlan or NotPaid.

    An earlier one that was never paid makes way.
    """
    ledger.wallet(session, user_id=user_id, now=now)  # locked: one story of a user at a time
    held = plans.current(session, user_id=user_id, zone=shop.zone)
    if held is not None and held.status != "pending":
        raise HasPlan(plan=held.period.plan_code)
    if held is not None:
        _end(session, held, now=now)
    plan = plans.get(session, plan_code)
    id = new_id("sub")
    session.add(
        SubscriptionRow(id=id, user_id=user_id, status="pending", due_at=now, created_at=now)
    )
    session.flush()
    first = _begin(session, shop, id, _terms_of(plan), number=0, starts_at=now, anchor=(now, 0))
    paid = _charge(session, shop, plans.load(session, id, zone=shop.zone), first, now=now)
    if paid.status == "failed":
        raise NotPaid
    return plans.load(session, id, zone=shop.zone)


def change(session: Session, shop: Shop, *, user_id: int, plan_code: str, now: int) -> Subscription:
    """Change the plan. A dearer one begins a new period when it is paid, at its full price;
    credits of the old one stay until their own end. Any other begins with the next period.

    Choosing the plan that one has takes a planned change or cancellation back. Raises
    UnknownPlan, NoSubscription, PlanBusy or NotPaid.
    """
    held = _own(session, shop, user_id=user_id, now=now)
    if held.status != "active":
        raise PlanBusy(status=held.status)
    plan = plans.get(session, plan_code)
    waiting = plans.period(session, held.id, held.period.number + 1, zone=shop.zone)
    if waiting is not None and (waiting.plan_code, waiting.price) == (plan.code, plan.price):
        return held
    _withdraw(session, held, now=now)
    if plan.code == held.period.plan_code:
        _set(session, held, next_plan=None, cancel_at_end=False)
    elif plan.price.amount <= held.period.price.amount:
        _set(session, held, next_plan=plan.code, cancel_at_end=False)
    else:
        _begin_now(session, shop, held, _terms_of(plan), now=now)
    return plans.load(session, held.id, zone=shop.zone)


def cancel(session: Session, shop: Shop, *, user_id: int, now: int) -> Subscription:
    """End the plan with its period; at once if nothing is paid ahead. Credits stay.

    Raises NoSubscription.
    """
    held = _own(session, shop, user_id=user_id, now=now)
    if held.status in ("active", "paused") and held.period.ends_at > now:
        _withdraw(session, held, now=now)
        _set(session, held, status="active", cancel_at_end=True, next_plan=None)
    else:
        _end(session, held, now=now)
    return plans.load(session, held.id, zone=shop.zone)


def end(session: Session, shop: Shop, *, user_id: int, now: int) -> bool:
    """End the plan at once, whatever was paid ahead; False if there is none."""
    held = plans.current(session, user_id=user_id, zone=shop.zone)
    if held is None:
        return False
    _end(session, held, now=now)
    return True


def pause(session: Session, shop: Shop, *, user_id: int, now: int) -> Subscription:
    """No further period until it is resumed; the credits that are there stay.

    Raises NoSubscription or PlanBusy.
    """
    held = _own(session, shop, user_id=user_id, now=now)
    if held.status != "active" or held.cancel_at_end:
        raise PlanBusy(status=held.status)
    _withdraw(session, held, now=now)
    _set(session, held, status="paused")
    return plans.load(session, held.id, zone=shop.zone)


def resume(session: Session, shop: Shop, *, user_id: int, now: int) -> Subscription:
    """Go on after a pause, or take a cancellation back. When the paid period is over, a new
    one starts now, and later ones on this day of the month.

    Raises NoSubscription, PlanBusy or NotPaid.
    """
    held = _own(session, shop, user_id=user_id, now=now)
    if held.status == "active" and held.cancel_at_end:
        _set(session, held, cancel_at_end=False)
    elif held.status != "paused":
        raise PlanBusy(status=held.status)
    elif held.period.ends_at > now and held.period.state == "paid":
        _set(session, held, status="active")
    else:
        _withdraw(session, held, now=now)
        _begin_now(session, shop, held, _next_terms(session, held), now=now)
    return plans.load(session, held.id, zone=shop.zone)


def renew(session: Session, shop: Shop, *, subscription_id: str, now: int) -> list[Period]:
    """Do what is due for a subscription; returns the periods that were paid by it.

    Two processes that try at once do it once: the row is locked and looked at again.
    """
    owner = plans.load(session, subscription_id, zone=shop.zone).user_id
    ledger.wallet(session, user_id=owner, now=now)
    paid: list[Period] = []
    for _ in range(MAX_CATCH_UP):
        held = plans.load(session, subscription_id, zone=shop.zone, lock=True)
        if held.status not in ("active", "past_due") or held.ended_at or held.due_at > now:
            break
        if held.cancel_at_end:
            _end(session, held, now=now)
            break
        number = held.period.number + 1
        following = plans.period(session, held.id, number, zone=shop.zone)
        if following is not None and following.starts_at < held.period.ends_at:
            _withdraw(session, held, now=now)  # a dearer plan that nobody paid
            following = None
        if following is None:
            anchor = (held.period.anchor_at, held.period.anchor_number)
            following = _begin(
                session, shop, held.id, _next_terms(session, held), number=number,
                starts_at=held.period.ends_at, anchor=anchor,
            )  # fmt: skip
            _set(session, held, next_plan=None)
        if following.credits_end_at is not None and following.credits_end_at <= now:
            _skip(session, held, following, now=now)
            continue
        if held.tries > shop.rules.plan_retries:
            if shop.rules.plan_unpaid == "pause":
                _skip(session, held, following, now=now, status="paused")
            else:
                _end(session, held, now=now)
            break
        order = _charge(session, shop, held, following, now=now)
        if order.status == "paid":
            paid.append(following)
            continue
        _set(
            session,
            held,
            status="past_due",
            tries=held.tries + 1,
            due_at=now + shop.rules.plan_retry_hours * HOUR,
        )
        break
    return paid


@dataclass(frozen=True)
class _Terms:
    code: str
    name: str
    price: Money
    credits: int
    keep_periods: int | None


def _terms_of(plan: Plan) -> _Terms:
    return _Terms(plan.code, plan.name, plan.price, plan.credits, plan.keep_periods)


def _next_terms(session: Session, held: Subscription) -> _Terms:
    """Those of the chosen next plan while it is offered, else the ones agreed on before."""
    if held.next_plan is not None:
        try:
            return _terms_of(plans.get(session, held.next_plan))
        except plans.UnknownPlan:
            pass
    old = held.period
    return _Terms(old.plan_code, old.plan_name, old.price, old.credits, old.keep_periods)


def _own(session: Session, shop: Shop, *, user_id: int, now: int) -> Subscription:
    ledger.wallet(session, user_id=user_id, now=now)
    held = plans.current(session, user_id=user_id, zone=shop.zone)
    if held is None:
        raise plans.NoSubscription
    return plans.load(session, held.id, zone=shop.zone, lock=True)


def _begin(
    session: Session,
    shop: Shop,
    id: str,
    terms: _Terms,
    *,
    number: int,
    starts_at: int,
    anchor: tuple[int, int],
) -> Period:
    anchor_at, anchor_number = anchor
    session.add(
        PeriodRow(
            subscription_id=id,
            number=number,
            state="due",
            plan_code=terms.code,
            plan_name=terms.name,
            price_minor=terms.price.amount,
            currency=terms.price.currency,
            credits=terms.credits,
            keep_periods=terms.keep_periods,
            anchor_at=anchor_at,
            anchor_number=anchor_number,
            starts_at=starts_at,
            ends_at=plans.edge(anchor_at, number + 1 - anchor_number, shop.zone),
            created_at=starts_at,
        )
    )
    session.flush()
    made = plans.period(session, id, number, zone=shop.zone)
    assert made is not None
    return made


def _begin_now(
    session: Session, shop: Shop, held: Subscription, terms: _Terms, *, now: int
) -> None:
    """A new period from now on, once it is paid. Raises NotPaid, and nothing is changed then."""
    number = held.period.number + 1
    new = _begin(session, shop, held.id, terms, number=number, starts_at=now, anchor=(now, number))
    order = _charge(session, shop, held, new, now=now)
    if order.status != "paid" and not (shop.waits and order.status == "pending"):
        raise NotPaid


def _withdraw(session: Session, held: Subscription, *, now: int) -> None:
    """Take back a period that was to begin at once and was not paid, with its order."""
    row = session.get(PeriodRow, (held.id, held.period.number + 1), populate_existing=True)
    if row is None or row.state != "due" or held.status not in ("active", "paused"):
        return
    if row.payment_id is not None:
        orders.fail(session, payment_id=row.payment_id, now=now)
    session.delete(row)
    session.flush()


def _charge(
    session: Session, shop: Shop, held: Subscription, period: Period, *, now: int
) -> Payment:
    """Try to be paid for a period: by its open order if there is one, else by a new one."""
    order = None
    if period.payment_id is not None:
        order = orders.get(session, user_id=held.user_id, payment_id=period.payment_id)
    if order is None or order.status == "failed":
        order = orders.create_for_period(
            session,
            subscription=held,
            period=period,
            provider=shop.provider,
            now=now,
            rules=shop.rules,
        )
        session.execute(
            update(PeriodRow)
            .where(
                col(PeriodRow.subscription_id) == held.id, col(PeriodRow.number) == period.number
            )
            .values(payment_id=order.id)
        )
    if order.status == "paid":
        return order
    return shop.charge(session, order, now)


def _skip(
    session: Session, held: Subscription, period: Period, *, now: int, status: str = "active"
) -> None:
    if period.payment_id is not None:
        orders.fail(session, payment_id=period.payment_id, now=now)
    session.execute(
        update(PeriodRow)
        .where(col(PeriodRow.subscription_id) == held.id, col(PeriodRow.number) == period.number)
        .values(state="skipped")
    )
    plans.move(session, held.id, period.number, status=status)


def _end(session: Session, held: Subscription, *, now: int) -> None:
    for number in (held.period.number, held.period.number + 1):
        row = session.get(PeriodRow, (held.id, number))
        if row is not None and row.state == "due" and row.payment_id is not None:
            orders.fail(session, payment_id=row.payment_id, now=now)
    _set(session, held, status="cancelled", ended_at=now)


def _set(session: Session, held: Subscription, **values: Any) -> None:
    session.execute(
        update(SubscriptionRow).where(col(SubscriptionRow.id) == held.id).values(**values)
    )
