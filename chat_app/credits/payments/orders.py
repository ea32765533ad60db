"""Orders: created with a price, fulfilled once, whatever announces the payment how often.

Knows no provider: what one says of an order comes to `accept`, which believes nothing that does
not fit the order. Fulfilment is by order, never by event, so it may be announced ten times.
"""

from dataclasses import dataclass, replace

from sqlmodel import Session, and_, col, func, or_, select, update

from chat_app.credits import ledger, operations, packages, plans
from chat_app.credits.invoices import register
from chat_app.credits.payments.tables import DisputeRow, RefundRow
from chat_app.credits.tables import Operation, PaymentRow
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


class Mismatch(Conflict):
    """What a provider says does not fit the order: `reason` says what. Nothing was granted."""

    code = "payment_mismatch"
    message = "This payment does not fit its order, so nothing was granted. Ask an administrator."


@dataclass(frozen=True)
class Standing:
    """What a provider says of an order: `state` is open, paid or failed; money in minor units.

    `customer_ref` is who paid, if their card may be charged again.
    """

    provider: str
    checkout_ref: str
    order_id: str
    user_id: str
    state: str
    amount_minor: int
    currency: str
    intent_ref: str | None
    customer_ref: str | None = None


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
    provider_ref: str
    subscription_id: str | None = None
    period: int | None = None
    checkout_url: str | None = None
    intent_ref: str | None = None
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


def opened(session: Session, *, payment_id: str, ref: str, url: str | None) -> Payment:
    """The provider has a checkout for the order, and perhaps a page. Kept once."""
    session.execute(
        update(PaymentRow)
        .where(
            col(PaymentRow.id) == payment_id,
            col(PaymentRow.provider_ref) == payment_id,
            col(PaymentRow.checkout_url).is_(None),
        )
        .values(provider_ref=ref, checkout_url=url)
    )
    row = session.get(PaymentRow, payment_id, populate_existing=True)
    if row is None:
        raise UnknownPayment
    return _payment(row)


def accept(session: Session, standing: Standing, *, now: int) -> Payment:
    """Believe what a provider says of an order, if it fits: grant when paid, close when failed.

    T27: provider, checkout, user, amount and currency must be the order's; raises Mismatch, or
    UnknownPayment. A paid order stays paid, and a failed one that was paid after all is for an
    operator: NotPayable.
    """
    row = _locked(session, standing.order_id)
    reason = _misfit(row, standing)
    if reason:
        raise Mismatch(reason=reason, payment=row.id)
    if standing.state == "failed" and row.status == "pending":
        row.status = "failed"
    if standing.state != "paid":
        session.flush()
        return _payment(row, replayed=True)
    if row.status != "failed":
        row.provider_ref = standing.checkout_ref
        row.intent_ref = standing.intent_ref
        session.flush()
    return fulfil(session, payment_id=row.id, now=now)


def fulfil(session: Session, *, payment_id: str, now: int) -> Payment:
    """The order is paid: grant its credits as one lot, once for each order.

    The price is spread over the bonus too. Raises UnknownPayment or NotPayable.
    """
    row = _locked(session, payment_id)
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


def find(session: Session, payment_id: str) -> Payment:
    """An order, whoever's; raises UnknownPayment."""
    row = session.get(PaymentRow, payment_id)
    if row is None:
        raise UnknownPayment
    return _payment(row)


def find_intent(session: Session, intent_ref: str) -> Payment | None:
    """The order that a provider's payment belongs to, if we know of one yet."""
    row = session.exec(select(PaymentRow).where(PaymentRow.intent_ref == intent_ref)).first()
    return None if row is None else _payment(row)


def search(
    session: Session,
    *,
    status: str = "",
    q: str = "",
    user_id: int | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> tuple[list[Payment], str | None]:
    """Orders of all users, newest first; `q` is an id of ours or the provider's.

    Returns the cursor of the next page or None. Raises BadCursor.
    """
    query = select(PaymentRow)
    if status:
        query = query.where(PaymentRow.status == status)
    if user_id is not None:
        query = query.where(PaymentRow.user_id == user_id)
    if q:
        refs = (PaymentRow.id, PaymentRow.provider_ref, PaymentRow.intent_ref)
        query = query.where(or_(*(col(ref) == q for ref in refs)))
    if cursor:
        at, _, last = cursor.partition("-")
        if not (at.isascii() and at.isdigit() and len(at) < 19 and last):
            raise ledger.BadCursor
        created = col(PaymentRow.created_at)
        older = and_(created == int(at), col(PaymentRow.id) < last)
        query = query.where(or_(created < int(at), older))
    query = query.order_by(col(PaymentRow.created_at).desc(), col(PaymentRow.id).desc())
    rows = session.exec(query.limit(limit + 1)).all()
    more = f"{rows[limit - 1].created_at}-{rows[limit - 1].id}" if len(rows) > limit else None
    return [_payment(row) for row in rows[:limit]], more


def to_poll(session: Session, *, provider: str, since: int, limit: int) -> list[Payment]:
    """Open orders of a provider since then, those first that were not asked for longest."""
    rows = session.exec(
        select(PaymentRow)
        .where(
            PaymentRow.status == "pending",
            PaymentRow.provider == provider,
            col(PaymentRow.created_at) >= since,
            col(PaymentRow.provider_ref) != col(PaymentRow.id),
        )
        .order_by(func.coalesce(col(PaymentRow.polled_at), 0), col(PaymentRow.id))
        .limit(limit)
    )
    return [_payment(row) for row in rows]


def polled(session: Session, *, payment_id: str, now: int) -> None:
    """The provider was asked about the order."""
    session.execute(
        update(PaymentRow).where(col(PaymentRow.id) == payment_id).values(polled_at=now)
    )


def to_retire(session: Session, *, provider: str, limit: int) -> list[Payment]:
    """Orders that were given up here while their checkout was open there."""
    rows = session.exec(
        select(PaymentRow)
        .where(
            PaymentRow.status == "failed",
            PaymentRow.provider == provider,
            col(PaymentRow.checkout_url).is_not(None),
        )
        .limit(limit)
    )
    return [_payment(row) for row in rows]


def retired(session: Session, *, payment_id: str) -> None:
    """The order has no checkout any more."""
    session.execute(
        update(PaymentRow).where(col(PaymentRow.id) == payment_id).values(checkout_url=None)
    )


def open_of(session: Session, *, subscription_id: str) -> Payment | None:
    """The order of a plan that waits for its payment, or None."""
    row = session.exec(
        select(PaymentRow)
        .where(PaymentRow.subscription_id == subscription_id, PaymentRow.status == "pending")
        .order_by(col(PaymentRow.created_at).desc())
    ).first()
    return None if row is None else _payment(row)


def grants(session: Session, *, payment_id: str) -> list[int]:
    """The transfers that brought the order's credits: its grant, and what came back to it."""
    row = session.get_one(PaymentRow, payment_id)
    operation = session.get(Operation, row.fulfilled_op_id) if row.fulfilled_op_id else None
    found = [None if operation is None else operation.transfer_id]
    back = select(RefundRow.returned_id).where(RefundRow.payment_id == payment_id)
    found += session.scalars(back)
    back = select(DisputeRow.returned_id).where(DisputeRow.payment_id == payment_id)
    found += session.scalars(back)
    return [transfer for transfer in found if transfer is not None]


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


def _locked(session: Session, payment_id: str) -> PaymentRow:
    # The locked read comes first: two announcements of one payment wait for each other.
    row = session.exec(
        select(PaymentRow)
        .where(PaymentRow.id == payment_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).first()
    if row is None:
        raise UnknownPayment
    return row


def _misfit(row: PaymentRow, standing: Standing) -> str:
    """What does not fit, in one word; empty when all does."""
    fits = {
        "provider": row.provider == standing.provider,
        "checkout": row.provider_ref in (standing.checkout_ref, row.id),
        "user": str(row.user_id) == standing.user_id,
        # An abandoned session may have no total any more, and nothing is granted for it.
        "currency": row.currency == standing.currency or standing.state != "paid",
        "amount": row.amount_minor == standing.amount_minor or standing.state != "paid",
    }
    return next((name for name, right in fits.items() if not right), "")


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
        period=row.period,
        provider_ref=row.provider_ref,
        checkout_url=row.checkout_url,
        intent_ref=row.intent_ref,
    )
    return replace(found, replayed=replayed)
