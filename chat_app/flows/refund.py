"""Refunds: an administrator gives money back; credits first, then the provider is told.

The credits leave and the refund is noted in one transaction. The provider hears of it after the
commit, as often as it takes, with a key that makes it one refund.
"""

import asyncio
import logging

from sqlmodel import Session

from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.credits import operations
from chat_app.credits.payments import events, orders, returns
from chat_app.credits.payments.events import Event
from chat_app.credits.payments.orders import Payment
from chat_app.credits.payments.provider import ProviderRefused, ProviderUnreachable, RefundStanding
from chat_app.credits.payments.returns import Dispute, Refund
from chat_app.credits.refunds import refundable
from chat_app.flows import fraud, notices
from chat_app.flows.adjust import REASON_LENGTH, ReasonMissing
from chat_app.money import MICRO, format_credits

log = logging.getLogger(__name__)


async def refund(
    app: App, *, admin_id: int, payment_id: str, minor: int | None, reason: str, key: str
) -> Refund:
    """Refund what is unused of an order, or credits worth `minor`; the same key acts once.

    Raises UnknownPayment, NotPaid, Disputed, NothingToRefund, BadRefund, ReasonMissing. When
    the provider cannot be reached the refund stays `pending` and is sent by the schedule.
    """
    reason = " ".join(reason.split())
    if not 3 <= len(reason) <= REASON_LENGTH:
        raise ReasonMissing
    actor = f"user:{admin_id}"

    def do(session: Session, now: int) -> dict[str, str]:
        made = returns.start(
            session,
            payment_id=payment_id,
            minor=minor,
            reason=reason,
            now=now,
            key=f"{admin_id}:{key}",
            actor=actor,
        )
        fraud.note(
            app,
            session,
            type="refund",
            user_id=orders.find(session, payment_id).user_id,
            key=made.id,
            now=now,
            credits=made.credits / MICRO,
            amount_minor=made.amount_minor,
        )
        audit.record(
            session,
            type="payment_refunded",
            actor=actor,
            now=now,
            payment=payment_id,
            refund=made.id,
            credits=format_credits(made.credits),
            amount_minor=made.amount_minor,
            reason=reason,
        )
        return {"refund_id": made.id}

    def story(session: Session) -> str:
        now = app.clock.micros()
        outcome, _ = operations.once(
            session,
            scope=f"admin refund:{admin_id}",
            key=key,
            request={"payment": payment_id, "minor": minor, "reason": reason},
            now=now,
            actor=actor,
            run=lambda: do(session, now),
        )
        return str(outcome["refund_id"])

    refund_id = await app.db.awrite(story)
    await asyncio.to_thread(send, app, refund_id)
    with app.db.read() as session:
        return returns.get(session, refund_id)


def send(app: App, refund_id: str) -> None:
    """Ask the provider to give the money of a refund back, if it was not asked."""
    asked = app.db.write(
        lambda session: returns.begin_sending(session, refund_id, now=app.clock.micros())
    )
    if asked is None or asked[0] != app.payments.name:
        return
    try:
        standing = app.payments.refund(asked[1])
    except (ProviderUnreachable, ProviderRefused) as error:
        log.warning("refund %s could not be sent and will be tried again", refund_id)
        words = str(error)
        app.db.write(lambda session: returns.unreached(session, refund_id, error=words))
        return
    app.db.write(lambda session: stand(session, standing, now=app.clock.micros()))


def stand(session: Session, standing: RefundStanding, *, now: int) -> Refund:
    """A refund stands so; who got money back is told. Raises UnknownRefund."""
    found = returns.stand(session, standing, now=now)
    if found.arrived:
        notices.refunded(session, found, now=now)
    return found


def send_due(app: App) -> int:
    """Send refunds that the provider has not taken yet; returns how many were tried."""
    with app.db.read() as session:
        waiting = returns.to_send(session, now=app.clock.micros())
    for refund_id in waiting:
        send(app, refund_id)
    return len(waiting)


def collect(app: App) -> int:
    """Let what was freed of charged-back credits pay debts; returns microcredits."""
    return app.db.write(lambda session: returns.collect(session, now=app.clock.micros()))


class Story:
    """All about one order, for operators."""

    def __init__(self, session: Session, payment_id: str) -> None:
        self.payment: Payment = orders.find(session, payment_id)
        self.refunds: list[Refund] = returns.refunds_of(session, payment_id)
        self.disputes: list[Dispute] = returns.disputes_of(session, payment_id)
        self.events: list[Event] = events.search(session, payment_id=payment_id)
        self.flagged: bool = returns.flagged(session, user_id=self.payment.user_id)
        paid = self.payment.status == "paid"
        self.refundable_credits, self.refundable_minor = (
            refundable(
                session,
                user_id=self.payment.user_id,
                grants=orders.grants(session, payment_id=payment_id),
            )
            if paid
            else (0, 0)
        )


def story(app: App, *, payment_id: str) -> Story:
    """An order with its refunds, disputes and events; raises UnknownPayment."""
    with app.db.read() as session:
        return Story(session, payment_id)
