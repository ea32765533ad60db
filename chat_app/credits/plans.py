"""Plans: credits for each month, what is on offer, and who has what until when.

A subscription is a row of periods, one after the other. Each has the terms that were agreed on,
and its number: the key that makes it one grant. Knows no payment; `renewals.py` moves the time.
"""

import calendar
from dataclasses import dataclass, replace
from datetime import tzinfo
from typing import Any

from sqlmodel import Session, col, select, update

from chat_app.clock import from_micros, to_micros
from chat_app.credits import packages
from chat_app.credits.shop_tables import PeriodRow, PlanRow, SubscriptionRow
from chat_app.errors import NotFound
from chat_app.money import Money

MAX_KEEP = 120


class UnknownPlan(NotFound):
    """There is no such plan, or it is no longer offered."""

    code = "unknown_plan"
    message = "This plan is not on offer. Reload the page and choose another one."


class NoSubscription(NotFound):
    """The user has no plan."""

    code = "no_subscription"
    message = "You have no plan. Choose one first."


@dataclass(frozen=True)
class Plan:
    """A monthly plan on offer, in microcredits.

    `keep_periods`: 0, credits end with their period; n, that many periods later; None, never.
    """

    code: str
    name: str
    price: Money
    credits: int
    keep_periods: int | None = 0
    position: int = 0
    active: bool = True


@dataclass(frozen=True)
class Period:
    """One period of a subscription with its terms; `credits_end_at` None: they do not end."""

    number: int
    state: str
    plan_code: str
    plan_name: str
    price: Money
    credits: int
    keep_periods: int | None
    anchor_at: int
    anchor_number: int
    starts_at: int
    ends_at: int
    credits_end_at: int | None
    payment_id: str | None = None


@dataclass(frozen=True)
class Subscription:
    """A user's plan as it stands. `period` is the newest one that was paid or skipped; before
    the first payment it is the one that waits for it. Times are microseconds.
    """

    id: str
    user_id: int
    status: str
    period: Period
    next_plan: str | None
    cancel_at_end: bool
    tries: int
    due_at: int
    created_at: int
    ended_at: int | None

    @property
    def renews_at(self) -> int | None:
        """When the next credits come; None when none will."""
        coming = self.status == "active" and not self.cancel_at_end
        return self.period.ends_at if coming else None


def edge(anchor_at: int, months: int, zone: tzinfo) -> int:
    """The instant `months` after the anchor, by the calendar of the zone.

    The day is that of the anchor, or the last of a shorter month. A time that the clocks skip
    is taken by the offset before the skip, one that comes twice is its first.
    """
    start = from_micros(anchor_at).astimezone(zone)
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    day = min(start.day, calendar.monthrange(year, month + 1)[1])
    return to_micros(start.replace(year=year, month=month + 1, day=day, fold=0))


def list_plans(session: Session, *, all: bool = False) -> list[Plan]:
    """The plans on offer, in the shop's order; with `all` the withdrawn ones too."""
    query = select(PlanRow).order_by(
        col(PlanRow.position), col(PlanRow.price_minor), col(PlanRow.code)
    )
    if not all:
        query = query.where(col(PlanRow.active).is_(True))
    return [_plan(row) for row in session.exec(query)]


def get(session: Session, code: str) -> Plan:
    """A plan on offer; raises UnknownPlan."""
    row = session.get(PlanRow, code)
    if row is None or not row.active:
        raise UnknownPlan(plan=code)
    return _plan(row)


def create(session: Session, plan: Plan, *, now: int) -> Plan:
    """Offer a new plan; raises BadPackage or PackageExists."""
    plan = _checked(plan)
    if session.get(PlanRow, plan.code) is not None:
        raise packages.PackageExists(package=plan.code)
    session.add(PlanRow(code=plan.code, created_at=now, **_columns(plan)))
    session.flush()
    return plan


def change(session: Session, code: str, **parts: object) -> Plan:
    """Change a plan for those who choose it from now on; raises UnknownPlan or BadPackage.

    Whoever has it keeps the terms of the start, until they change the plan themselves.
    """
    row = session.get(PlanRow, code, with_for_update=True)
    if row is None:
        raise UnknownPlan(plan=code)
    plan = _checked(replace(_plan(row), **parts))  # type: ignore[arg-type]
    for name, value in _columns(plan).items():
        setattr(row, name, value)
    session.add(row)
    session.flush()
    return plan


def current(session: Session, *, user_id: int, zone: tzinfo) -> Subscription | None:
    """The user's plan, or None; ended ones are history."""
    row = session.exec(
        select(SubscriptionRow).where(
            SubscriptionRow.user_id == user_id, col(SubscriptionRow.ended_at).is_(None)
        )
    ).first()
    return load(session, row.id, zone=zone) if row is not None else None


def load(session: Session, id: str, *, zone: tzinfo, lock: bool = False) -> Subscription:
    """A subscription with its period; raises NoSubscription."""
    query = select(SubscriptionRow).where(SubscriptionRow.id == id)
    if lock:
        query = query.with_for_update()
    row = session.exec(query.execution_options(populate_existing=True)).first()
    if row is None:
        raise NoSubscription
    found = period(session, id, row.period, zone=zone)
    assert found is not None, "a subscription has its period"
    return Subscription(
        id=row.id,
        user_id=row.user_id,
        status=row.status,
        period=found,
        next_plan=row.next_plan,
        cancel_at_end=row.cancel_at_end,
        tries=row.tries,
        due_at=row.due_at,
        created_at=row.created_at,
        ended_at=row.ended_at,
    )


def period(session: Session, id: str, number: int, *, zone: tzinfo) -> Period | None:
    """A period of a subscription, if it has been begun."""
    row = session.get(PeriodRow, (id, number), populate_existing=True)
    if row is None:
        return None
    return Period(
        number=row.number,
        state=row.state,
        plan_code=row.plan_code,
        plan_name=row.plan_name,
        price=Money(row.price_minor, row.currency),
        credits=row.credits,
        keep_periods=row.keep_periods,
        anchor_at=row.anchor_at,
        anchor_number=row.anchor_number,
        starts_at=row.starts_at,
        ends_at=row.ends_at,
        credits_end_at=_credits_end(row, zone),
        payment_id=row.payment_id,
    )


def period_paid(session: Session, *, subscription_id: str, number: int, payment_id: str) -> None:
    """A period was paid and its credits were granted: the subscription goes on with it.

    What was planned for after the old one is done or overtaken by that. A subscription that ended
    before the money came stays ended.
    """
    session.execute(
        update(PeriodRow)
        .where(col(PeriodRow.subscription_id) == subscription_id, col(PeriodRow.number) == number)
        .values(state="paid", payment_id=payment_id)
    )
    move(session, subscription_id, number, status="active", next_plan=None, cancel_at_end=False)


def move(session: Session, subscription_id: str, number: int, **more: object) -> None:
    """Make a period the current one: nothing is due before its end."""
    ends_at = session.exec(
        select(PeriodRow.ends_at).where(
            PeriodRow.subscription_id == subscription_id, PeriodRow.number == number
        )
    ).one()
    session.execute(
        update(SubscriptionRow)
        .where(
            col(SubscriptionRow.id) == subscription_id,
            col(SubscriptionRow.ended_at).is_(None),
            col(SubscriptionRow.period) <= number,
        )
        .values(period=number, due_at=ends_at, tries=0, **more)
    )


def due(session: Session, *, now: int, limit: int = 500) -> list[str]:
    """The ids of subscriptions for which something is to be done."""
    return list(
        session.exec(
            select(SubscriptionRow.id)
            .where(
                col(SubscriptionRow.ended_at).is_(None),
                col(SubscriptionRow.due_at) <= now,
                col(SubscriptionRow.status).in_(("active", "past_due")),
            )
            .order_by(col(SubscriptionRow.due_at), col(SubscriptionRow.id))
            .limit(limit)
        )
    )


def subscribers(session: Session, code: str, user_ids: list[int]) -> set[int]:
    """Who of these has a paid period of this plan in force."""
    found = session.exec(
        select(SubscriptionRow.user_id)
        .join(
            PeriodRow,
            (col(PeriodRow.subscription_id) == SubscriptionRow.id)
            & (col(PeriodRow.number) == SubscriptionRow.period),
        )
        .where(
            col(SubscriptionRow.user_id).in_(user_ids),
            SubscriptionRow.status == "active",
            PeriodRow.state == "paid",
            PeriodRow.plan_code == code,
        )
    )
    return set(found)


def in_force(session: Session, *, user_id: int) -> str | None:
    """The code of the plan whose paid period the user is in; None without one."""
    return session.exec(
        select(PeriodRow.plan_code)
        .join(
            SubscriptionRow,
            (col(PeriodRow.subscription_id) == SubscriptionRow.id)
            & (col(PeriodRow.number) == SubscriptionRow.period),
        )
        .where(
            SubscriptionRow.user_id == user_id,
            SubscriptionRow.status == "active",
            PeriodRow.state == "paid",
        )
    ).first()


def _credits_end(row: PeriodRow, zone: tzinfo) -> int | None:
    if row.keep_periods is None:
        return None
    if row.keep_periods == 0:
        return row.ends_at
    return edge(row.anchor_at, row.number + 1 + row.keep_periods - row.anchor_number, zone)


def _checked(plan: Plan) -> Plan:
    plan = replace(plan, name=packages.clean_name(plan.name))
    packages.check(plan.code, plan.name, plan.price, plan.credits)
    if plan.keep_periods is not None and not 0 <= plan.keep_periods <= MAX_KEEP:
        raise packages.BadPackage(f"Credits are kept for 0 to {MAX_KEEP} periods, or for ever.")
    if not 0 <= plan.position <= 10**6:
        raise packages.BadPackage("A position is a number from 0. Choose another position.")
    return plan


def _columns(plan: Plan) -> dict[str, Any]:
    return {
        "name": plan.name,
        "price_minor": plan.price.amount,
        "currency": plan.price.currency,
        "credits": plan.credits,
        "keep_periods": plan.keep_periods,
        "position": plan.position,
        "active": plan.active,
    }


def _plan(row: PlanRow) -> Plan:
    return Plan(
        code=row.code,
        name=row.name,
        price=Money(row.price_minor, row.currency),
        credits=row.credits,
        keep_periods=row.keep_periods,
        position=row.position,
        active=row.active,
    )
