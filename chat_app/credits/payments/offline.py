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
