"""Money that goes back: refunds that an administrator grants, and disputes of the bank.

Credits and the record of the money change in one transaction; the provider is told after it.
The invoice is corrected when money has really gone back: with a refund that succeeded, or with a
lost dispute over what was unused. What was spent was delivered: it stays sold, and is a debt.
"""

from dataclasses import dataclass, replace

from sqlmodel import Session, col, func, select

from chat_app.clock import MICROS_PER_SECOND
from chat_app.credits import debts, refunds
from chat_app.credits.invoices import register
from chat_app.credits.payments import orders
from chat_app.credits.payments.orders import Payment
from chat_app.credits.payments.provider import DisputeStanding, RefundStanding, Repayment
from chat_app.credits.payments.tables import DisputeRow, RefundRow
from chat_app.credits.refunds import Taken
from chat_app.credits.tables import PaymentRow
from chat_app.errors import Conflict, NotFound
from chat_app.ids import new_id

RETRY_SECONDS = 60


class NotPaid(Conflict):
    """The order was never paid, so there is nothing to give back."""

    code = "not_paid"
    message = "This order has not been paid. Only paid orders can be refunded."


class Disputed(Conflict):
    """The bank has the money: a refund would pay it twice."""

    code = "payment_disputed"
    message = "This payment is disputed, so the bank decides. Refund it after the dispute is won."


class UnknownRefund(NotFound):
    """There is no such refund."""

    code = "unknown_refund"
    message = "This refund could not be found. Open the payment to see its refunds."


@dataclass(frozen=True)
class Refund:
    """A refund: microcredits that left, minor units on their way. See `RefundRow` for states.

    `arrived` if this very call made it succeed.
    """

    id: str
    payment_id: str
    state: str
    credits: int
    amount_minor: int
    currency: str
    reason: str
    actor: str
    error: str | None
    created_at: int
    ended_at: int | None
    arrived: bool = False


@dataclass(frozen=True)
class Dispute:
    """A dispute: microcredits taken and owed. See `DisputeRow` for states."""

    id: str
    payment_id: str
    user_id: int
    state: str
    reason: str
    credits: int
    owed: int
    disputed_minor: int
    opened_at: int
    closed_at: int | None


def start(
    session: Session,
    *,
    payment_id: str,
    minor: int | None,
    reason: str,
    now: int,
    key: str,
    actor: str,
) -> Refund:
    """Take the unused credits of an order out of the wallet and note the money to give back.

    All of it, or credits worth `minor`. Raises UnknownPayment, NotPaid, Disputed,
    NothingToRefund, BadRefund.
    """
    row = session.exec(
        select(PaymentRow).where(PaymentRow.id == payment_id).with_for_update()
    ).first()
    if row is None:
        raise orders.UnknownPayment
    if row.status != "paid":
        raise NotPaid
    if any(one.state in ("open", "lost") for one in disputes_of(session, payment_id)):
        raise Disputed
    taken = refunds.refund(
        session,
        user_id=row.user_id,
        grants=orders.grants(session, payment_id=payment_id),
        minor=minor,
        now=now,
        scope="refund",
        key=key,
        actor=actor,
        reference=payment_id,
        description=f"Refund: {reason}",
    )
    assert taken.transfer_id is not None
    made = RefundRow(
        id=new_id("ref"),
        payment_id=payment_id,
        credits=taken.micro,
        amount_minor=taken.minor,
        currency=row.currency,
        reason=reason,
        actor=actor,
        operation_id=taken.operation_id,
        transfer_id=taken.transfer_id,
        created_at=now,
    )
    session.add(made)
    session.flush()
    return _refund(made)


def to_send(session: Session, *, now: int, limit: int = 20) -> list[str]:
    """Refunds that the provider has not taken yet, oldest first."""
    since = now - RETRY_SECONDS * MICROS_PER_SECOND
    rows = session.exec(
        select(RefundRow.id)
        .where(
            RefundRow.state == "pending",
            (col(RefundRow.sent_at).is_(None)) | (col(RefundRow.sent_at) <= since),
        )
        .order_by(col(RefundRow.created_at), col(RefundRow.id))
        .limit(limit)
    )
    return list(rows)


def begin_sending(session: Session, refund_id: str, *, now: int) -> tuple[str, Repayment] | None:
    """The provider and what to ask of it; None when it was asked already."""
    row = session.get(RefundRow, refund_id)
    if row is None or row.state != "pending":
        return None
    again = row.attempts > 0
    row.attempts += 1
    row.sent_at = now
    order = session.get_one(PaymentRow, row.payment_id)
    session.flush()
    return order.provider, Repayment(
        id=row.id,
        payment_id=row.payment_id,
        checkout_ref=order.provider_ref,
        intent_ref=order.intent_ref,
        amount_minor=row.amount_minor,
        currency=row.currency,
        again=again,
    )


def stand(session: Session, standing: RefundStanding, *, now: int) -> Refund:
    """A refund stands so: one that succeeded corrects the invoice, one that failed gives its
    credits back, each once. Raises UnknownRefund.
    """
    row = session.exec(
        select(RefundRow)
        .where(
            RefundRow.id == standing.refund_id
            if standing.refund_id
            else RefundRow.provider_ref == standing.ref
        )
        .with_for_update()
        .execution_options(populate_existing=True)
    ).first()
    if row is None:
        raise UnknownRefund
    row.provider_ref = standing.ref or row.provider_ref
    row.error = standing.error or row.error
    before = row.state
    # What has failed stays so, and a late "sent" does not undo a success.
    if before not in ("failed", standing.state) and (before, standing.state) != (
        "succeeded",
        "sent",
    ):
        row.state = standing.state
        row.ended_at = None if standing.state == "sent" else now
        if standing.state == "failed":
            order = session.get_one(PaymentRow, row.payment_id)
            row.returned_id = _give_back(
                session,
                order,
                Taken(row.operation_id, row.credits, row.amount_minor, 0, row.transfer_id, None),
                taken_at=row.created_at,
                now=now,
                key=row.id,
                description="Refund failed, credits returned",
            )
    session.flush()
    arrived = row.state == "succeeded" != before
    if arrived:
        _correct(session, row.payment_id, reason=row.reason, key=row.id, now=now)
    return replace(_refund(row), arrived=arrived)


def unreached(session: Session, refund_id: str, *, error: str) -> None:
    """The provider could not be asked; it stays pending."""
    row = session.get_one(RefundRow, refund_id)
    row.error = error[:300]
    session.flush()


def dispute(session: Session, order: Payment, standing: DisputeStanding, *, now: int) -> Dispute:
    """A dispute stands so: open takes all credits of the order, won gives them back, each once.

    A decision is final: an older message that comes late changes nothing.
    """
    row = session.exec(
        select(DisputeRow)
        .where(DisputeRow.payment_id == order.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).first()
    if row is None:
        row = DisputeRow(
            id=standing.ref,
            provider=order.provider,
            payment_id=order.id,
            user_id=order.user_id,
            state="inquiry",
            reason=standing.reason,
            disputed_minor=standing.amount_minor,
            opened_at=now,
        )
        session.add(row)
        session.flush()
    if row.id != standing.ref:
        raise orders.Mismatch(reason="second_dispute", payment=order.id)
    if row.state in ("won", "lost"):
        return _dispute(row)
    if standing.state in ("open", "lost"):
        if row.operation_id is None:
            _charge_back(session, row, order, now=now)
        row.state = standing.state
    elif standing.state == "won":
        if row.operation_id is not None:
            row.returned_id = _give_back(
                session,
                session.get_one(PaymentRow, order.id),
                Taken(
                    row.operation_id,
                    row.credits,
                    row.amount_minor,
                    row.owed,
                    row.transfer_id,
                    row.debt_id,
                ),
                taken_at=row.opened_at,
                now=now,
                key=row.id,
                description="Dispute won, credits returned",
            )
        row.state = "won"
    row.closed_at = now if row.state in ("won", "lost") else None
    session.flush()
    if row.state == "lost":
        _correct(session, order.id, reason="Taken back by the bank", key=row.id, now=now)
    return _dispute(row)


def collect(session: Session, *, now: int) -> int:
    """Let charged-back credits that answers in progress have freed pay the debts; microcredits."""
    owing = [user_id for user_id, _ in debts.owing(session)]
    rows = session.exec(
        select(DisputeRow)
        .where(col(DisputeRow.user_id).in_(owing), col(DisputeRow.state).in_(["open", "lost"]))
        .order_by(col(DisputeRow.user_id), col(DisputeRow.id))
    )
    return sum(
        debts.collect(
            session,
            user_id=row.user_id,
            grants=orders.grants(session, payment_id=row.payment_id),
            now=now,
        )
        for row in rows.all()
    )


def flagged(session: Session, *, user_id: int) -> bool:
    """Whether a bank took a payment of this account back."""
    count = select(func.count()).where(
        DisputeRow.user_id == user_id, col(DisputeRow.state).in_(["open", "lost"])
    )
    return session.exec(count).one() > 0


def refunds_of(session: Session, payment_id: str) -> list[Refund]:
    """The refunds of an order, oldest first."""
    rows = session.exec(
        select(RefundRow)
        .where(RefundRow.payment_id == payment_id)
        .order_by(col(RefundRow.created_at), col(RefundRow.id))
    )
    return [_refund(row) for row in rows]


def refund_of_operation(session: Session, operation_id: int) -> Refund | None:
    """The refund that an operation made."""
    row = session.exec(select(RefundRow).where(RefundRow.operation_id == operation_id)).first()
    return None if row is None else _refund(row)


def get(session: Session, refund_id: str) -> Refund:
    """A refund; raises UnknownRefund."""
    row = session.get(RefundRow, refund_id)
    if row is None:
        raise UnknownRefund
    return _refund(row)


def disputes_of(session: Session, payment_id: str) -> list[Dispute]:
    """The disputes of an order."""
    rows = session.exec(select(DisputeRow).where(DisputeRow.payment_id == payment_id))
    return [_dispute(row) for row in rows]


def _correct(session: Session, payment_id: str, *, reason: str, key: str, now: int) -> None:
    """A credit note over what has gone back for good and no note has taken off yet.

    A refund that fails after it succeeded leaves its note; the next one makes up for it.
    """
    # Locked: of two refunds at once the second counts the first.
    session.exec(select(PaymentRow.id).where(PaymentRow.id == payment_id).with_for_update()).one()
    gone = sum(
        one.amount_minor for one in refunds_of(session, payment_id) if one.state == "succeeded"
    )
    gone += sum(
        min(one.amount_minor, one.disputed_minor)
        for one in session.exec(select(DisputeRow).where(DisputeRow.payment_id == payment_id))
        if one.state == "lost"
    )
    invoice = register.of_payment(session, payment_id=payment_id)
    due = gone - (invoice.credited_minor if invoice else 0)
    if due > 0:
        register.credit_note(
            session, payment_id=payment_id, amount_minor=due, reason=reason, now=now, key=key
        )


def _charge_back(session: Session, row: DisputeRow, order: Payment, *, now: int) -> None:
    taken = refunds.charge_back(
        session,
        user_id=order.user_id,
        grants=orders.grants(session, payment_id=order.id),
        now=now,
        scope="chargeback",
        key=row.id,
        actor=f"provider:{order.provider}",
        reference=order.id,
        description="Payment taken back by the bank",
    )
    row.operation_id, row.transfer_id, row.debt_id = (
        taken.operation_id,
        taken.transfer_id,
        taken.debt_id,
    )
    row.credits, row.owed, row.amount_minor = taken.micro, taken.owed, taken.minor
    row.opened_at = now


def _give_back(
    session: Session,
    order: PaymentRow,
    taken: Taken,
    *,
    taken_at: int,
    now: int,
    key: str,
    description: str,
) -> int | None:
    ends = refunds.end_of(session, grants=orders.grants(session, payment_id=order.id))
    return refunds.give_back(
        session,
        user_id=order.user_id,
        taken=taken,
        currency=order.currency,
        # The time that the credits were away does not count.
        expires_at=None if ends is None else ends + now - taken_at,
        now=now,
        scope="give back",
        key=key,
        actor=f"provider:{order.provider}",
        reference=order.id,
        description=description,
    ).transfer_id


def _refund(row: RefundRow) -> Refund:
    return Refund(
        id=row.id,
        payment_id=row.payment_id,
        state=row.state,
        credits=row.credits,
        amount_minor=row.amount_minor,
        currency=row.currency,
        reason=row.reason,
        actor=row.actor,
        error=row.error,
        created_at=row.created_at,
        ended_at=row.ended_at,
    )


def _dispute(row: DisputeRow) -> Dispute:
    return Dispute(
        id=row.id,
        payment_id=row.payment_id,
        user_id=row.user_id,
        state=row.state,
        reason=row.reason,
        credits=row.credits,
        owed=row.owed,
        disputed_minor=row.disputed_minor,
        opened_at=row.opened_at,
        closed_at=row.closed_at,
    )
