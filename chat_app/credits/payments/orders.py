"""Orders: created with a price, fulfilled once, whatever announces the payment how often.

Knows no provider: each calls `fulfil` when it has been paid.
"""

from dataclasses import dataclass, replace

from sqlmodel import Session, col, select, update

from chat_app.credits import ledger, operations, packages, plans
from chat_app.credits.invoices import register
from chat_app.credits.tables import PaymentRow
from chat_app.errors import Conflict, Invalid, NotFound
from chat_app.ids import new_id
from chat_app.money import Money, show_credits
from chat_app.settings import Credits as Rules


class UnknownPayment(NotFound):
    """There is no such order, or it is another user's."""

    code = "unknown_payment"
    message = "This order could not be found. Open the credits page to see your orders."


class BadOrder(Invalid):
    """Neither a package nor an amount, or both."""

    code = "bad_order"
    message = "Choose a package or an amount of credits, one of the two."


class NotPayable(Conflict):
    """The order has failed and cannot be paid any more."""

    code = "not_payable"
    message = "This order has failed. Start a new one."


@dataclass(frozen=True)
class Payment:
    """An order. Credits are microcredits; `replayed` if the call changed nothing."""

    id: str
    provider: str
    status: str
    user_id: int
    package_code: str | None
    credits: int
    bonus_credits: int
    amount_minor: int
    currency: str
    created_at: int
    paid_at: int | None
    subscription_id: str | None = None
    replayed: bool = False


def create(
    session: Session,
    *,
    user_id: int,
    package_code: str | None = None,
    micro: int | None = None,
    now: int,
    scope: str,
    key: str,
    provider: str = "offline",
    rules: Rules | None = None,
) -> Payment:
    """Order a package, or a custom amount of microcredits; once for each (scope, key).

    `rules` are the settings of custom amounts and of the lot that it becomes. Raises BadOrder,
    UnknownPackage, BadAmount, or IdempotencyConflict.
    """
    if (package_code is None) == (micro is None):
        raise BadOrder
    outcome, again = operations.once(
        session,
        scope=scope,
        key=key,
        request={"order": package_code, "micro": micro, "user": user_id, "provider": provider},
        now=now,
        actor=f"user:{user_id}",
        run=lambda: _add(
            session,
            user_id=user_id,
            package_code=package_code,
            micro=micro,
            now=now,
            provider=provider,
            rules=rules or Rules(),
        ),
    )
    row = session.get_one(PaymentRow, outcome["payment_id"])
    return _payment(row, replayed=again)


def create_for_period(
    session: Session,
    *,
    subscription: plans.Subscription,
    period: plans.Period,
    provider: str,
    now: int,
    rules: Rules,
) -> Payment:
    """Order a period of a plan. There may be another try when an order has failed, and
    `fulfil` grants the credits of a period once, whichever of its orders is paid.
    """
    row = PaymentRow(
        id=new_id("pay"),
        provider=provider,
        provider_ref="",
        status="pending",
        user_id=subscription.user_id,
        credits=period.credits,
        amount_minor=period.price.amount,
        currency=period.price.currency,
        source="plan",
        priority=rules.priorities.get("plan", 0),
        ends_at=period.credits_end_at,
        subscription_id=subscription.id,
        period=period.number,
        created_at=now,
    )
    row.provider_ref = row.id
    session.add(row)
    session.flush()
    return _payment(row)


def fail(session: Session, *, payment_id: str, now: int) -> bool:
    """The order will not be paid; False when it is not open any more."""
    changed = session.execute(
        update(PaymentRow)
        .where(col(PaymentRow.id) == payment_id, col(PaymentRow.status) == "pending")
        .values(status="failed")
    )
    return bool(changed.rowcount)  # type: ignore[attr-defined]


def fulfil(session: Session, *, payment_id: str, now: int) -> Payment:
    """The order is paid: grant its credits as one lot, once for each order.

    The price is spread over the bonus too. Raises UnknownPayment or NotPayable.
    """
    # The locked read comes first: two announcements of one payment wait for each other.
    row = session.exec(
        select(PaymentRow)
        .where(PaymentRow.id == payment_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).first()
    if row is None:
        raise UnknownPayment
    if row.status == "failed":
        raise NotPayable
    if row.status == "paid":
        return _payment(row, replayed=True)
    plan = row.subscription_id is not None
    granted = ledger.grant(
        session,
        user_id=row.user_id,
        micro=row.credits + row.bonus_credits,
        source=row.source,
        now=now,
        scope="plan" if plan else "payment",
        key=f"{row.subscription_id}:{row.period}" if plan else row.id,
        actor=f"provider:{row.provider}",
        description=_description(row),
        price_minor=row.amount_minor,
        currency=row.currency,
        priority=row.priority,
        expires_at=_end(row, now),
        reference=row.id,
    )
    changed = session.execute(
        update(PaymentRow)
        .where(col(PaymentRow.id) == payment_id, col(PaymentRow.status) == "pending")
        .values(status="paid", fulfilled_op_id=granted.operation_id, paid_at=now)
    )
    assert changed.rowcount == 1, "an order is paid once"  # type: ignore[attr-defined]
    if row.subscription_id is not None and row.period is not None:
        plans.period_paid(
            session, subscription_id=row.subscription_id, number=row.period, payment_id=row.id
        )
    session.refresh(row)
    register.for_payment(session, payment_id=row.id, now=now)
    return _payment(row)


def get(session: Session, *, user_id: int, payment_id: str) -> Payment:
    """The user's order; raises UnknownPayment, also for another user's."""
    row = session.get(PaymentRow, payment_id)
    if row is None or row.user_id != user_id:
        raise UnknownPayment
    return _payment(row)


def list_for(session: Session, *, user_id: int, limit: int = 100) -> list[Payment]:
    """The user's orders, newest first."""
    rows = session.exec(
        select(PaymentRow)
        .where(PaymentRow.user_id == user_id)
        .order_by(col(PaymentRow.created_at).desc(), col(PaymentRow.id).desc())
        .limit(limit)
    )
    return [_payment(row) for row in rows]


def _add(
    session: Session,
    *,
    user_id: int,
    package_code: str | None,
    micro: int | None,
    now: int,
    provider: str,
    rules: Rules,
) -> operations.Outcome:
    days = rules.lifetimes_days.get("paid")
    if package_code is not None:
        package = packages.get(session, package_code)
        credits, bonus, price = package.credits, package.bonus_credits, package.price
        days = package.valid_days or days
    else:
        assert micro is not None
        credits, bonus, price = micro, 0, packages.custom_price(micro, rules)
    payment_id = new_id("pay")
    session.add(
        PaymentRow(
            id=payment_id,
            provider=provider,
            provider_ref=payment_id,
            status="pending",
            user_id=user_id,
            package_code=package_code,
            credits=credits,
            bonus_credits=bonus,
            amount_minor=price.amount,
            currency=price.currency,
            priority=rules.priorities.get("paid", 0),
            valid_days=days,
            created_at=now,
        )
    )
    session.flush()
    return {"payment_id": payment_id}


def _description(row: PaymentRow) -> str:
    price = Money(row.amount_minor, row.currency)
    bonus = f" + {show_credits(row.bonus_credits)} bonus" if row.bonus_credits else ""
    number = f", plan period {row.period + 1}" if row.period is not None else ""
    return f"{show_credits(row.credits)}{bonus} credits for {price}{number}"


def _end(row: PaymentRow, now: int) -> int | None:
    """When the credits of an order that is paid now end."""
    if row.ends_at is not None:
        # What is paid after its time is good for as long as it would have been.
        return row.ends_at if row.ends_at > now else now + row.ends_at - row.created_at
    return None if row.valid_days is None else now + row.valid_days * ledger.DAY


def _payment(row: PaymentRow, *, replayed: bool = False) -> Payment:
    found = Payment(
        id=row.id,
        provider=row.provider,
        status=row.status,
        user_id=row.user_id,
        package_code=row.package_code,
        credits=row.credits,
        bonus_credits=row.bonus_credits,
        amount_minor=row.amount_minor,
        currency=row.currency,
        created_at=row.created_at,
        paid_at=row.paid_at,
        subscription_id=row.subscription_id,
    )
    return replace(found, replayed=replayed)
