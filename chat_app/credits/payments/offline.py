"""The offline provider: a demonstration shop. No real money moves; confirming is paying."""

from typing import Any

from sqlmodel import Session

from chat_app.credits.payments import orders
from chat_app.credits.payments.orders import Payment, Standing
from chat_app.credits.payments.provider import (
    Card,
    Charged,
    Checkout,
    Notice,
    RefundStanding,
    Repayment,
    WebhooksOff,
)

NAME = "offline"


class Offline:
    """It has no page and no memory: the order itself is all there is."""

    name = NAME
    hosted = False

    def start(
        self,
        order: Payment,
        *,
        success_url: str,
        cancel_url: str,
        attempt: int = 0,
        keep: bool = False,
        customer: str | None = None,
    ) -> Checkout:
        """There is nothing to begin."""
        return Checkout(ref=order.id, url=None)

    def charge(self, order: Payment, *, customer: str, attempt: int, again: bool) -> Charged:
        """It always works."""
        return Charged(standing(order, "paid"))

    def retire(self, order: Payment) -> Standing:
        """There is nothing to close."""
        return self.look(order)

    def cards(self, customer: str) -> list[Card]:
        """There are none."""
        return []

    def forget(self, customer: str) -> None:
        """There is nothing to forget."""

    def look(self, order: Payment) -> Standing:
        """As our own books say."""
        state = {"paid": "paid", "failed": "failed"}.get(order.status, "open")
        return standing(order, state)

    def refund(self, wanted: Repayment) -> RefundStanding:
        """Done, as no money moved in the first place."""
        return RefundStanding(f"offline_{wanted.id}", wanted.id, "succeeded")

    def parse(self, body: bytes, signature: str) -> Notice:
        """Nobody announces anything; raises WebhooksOff."""
        raise WebhooksOff

    def read(self, payload: dict[str, Any]) -> Notice:
        """As above."""
        raise WebhooksOff


def standing(order: Payment, state: str) -> Standing:
    """What a provider that believes us says of an order."""
    return Standing(
        provider=NAME,
        checkout_ref=order.provider_ref,
        order_id=order.id,
        user_id=str(order.user_id),
        state=state,
        amount_minor=order.amount_minor,
        currency=order.currency,
        intent_ref=None,
    )


def confirm(session: Session, *, user_id: int, payment_id: str, now: int) -> Payment:
    """Pay the user's order. Raises UnknownPayment, also for an order of another provider."""
    order = orders.get(session, user_id=user_id, payment_id=payment_id)
    if order.provider != NAME:
        raise orders.UnknownPayment  # T27: one provider never completes another's order
    return orders.accept(session, standing(order, "paid"), now=now)


def charge(session: Session, payment: Payment, *, now: int) -> Payment:
    """Pay an order without its owner, as a renewal or a top-up asks for it: it always works.

    An order of another provider is left as it is: that provider decides, after the commit.
    """
    if payment.provider != NAME:
        return payment
    return orders.accept(session, standing(payment, "paid"), now=now)
