"""The offline provider: a demonstration shop. No real money moves; confirming is paying."""

from sqlmodel import Session

from chat_app.credits.payments import orders
from chat_app.credits.payments.orders import Payment

NAME = "offline"


def confirm(session: Session, *, user_id: int, payment_id: str, now: int) -> Payment:
    """Pay the user's order. Raises UnknownPayment, also for an order of another provider."""
    if orders.get(session, user_id=user_id, payment_id=payment_id).provider != NAME:
        raise orders.UnknownPayment  # T27: one provider never completes another's order
    return orders.fulfil(session, payment_id=payment_id, now=now)


def charge(session: Session, payment: Payment, *, now: int) -> Payment:
    """Pay an order without its owner, as a renewal or a top-up asks for it: it always works.

    An order of another provider is left as it is: that provider decides, after the commit.
    """
    if payment.provider != NAME:
        return payment
    return orders.fulfil(session, payment_id=payment.id, now=now)
