"""The provider Stripe: Checkout Sessions, refunds, disputes and signed events.

All of it goes through Stripe's own library, imported when it is first used. It has been held to
Stripe's clients, types and published examples, but it has never run against Stripe itself.
"""

import json
from typing import Any

from chat_app.clock import MICROS_PER_SECOND
from chat_app.credits.payments.orders import Payment, Standing
from chat_app.credits.payments.provider import (
    BadSignature,
    Checkout,
    DisputeStanding,
    Notice,
    ProviderRefused,
    ProviderUnreachable,
    RefundStanding,
    Repayment,
    WebhooksOff,
)
from chat_app.money import show_credits

NAME = "stripe"
TOLERANCE_SECONDS = 300
_TIMEOUT_SECONDS = 20
_REFUND_STATES = {"succeeded": "succeeded", "failed": "failed", "canceled": "failed"}
_DISPUTE_STATES = {"won": "won", "lost": "lost", "prevented": "won", "warning_closed": "won"}


class Stripe:
    """A client for one account. `api_base` is another address than Stripe's, for tests."""

    name = NAME
    hosted = True

    def __init__(self, *, api_key: str, webhook_secret: str, api_base: str = "") -> None:
        self._api_key = api_key
        self._webhook_secret = webhook_secret
        self._api_base = api_base.rstrip("/")
        self._made: Any = None

    def start(self, order: Payment, *, success_url: str, cancel_url: str) -> Checkout:
        """A Checkout Session; the order's id is its idempotency key."""
        names = {"order_id": order.id, "user_id": str(order.user_id)}
        total = show_credits(order.credits + order.bonus_credits)
        item = {
            "quantity": 1,
            "price_data": {
                "currency": order.currency.lower(),
                "unit_amount": order.amount_minor,
                "product_data": {"name": f"{total} credits"},
            },
        }
        made = self._ask(
            lambda client: client.v1.checkout.sessions.create(
                {
                    "mode": "payment",
                    "client_reference_id": order.id,
                    "metadata": names,
                    "payment_intent_data": {"metadata": names},
                    "line_items": [item],
                    "success_url": success_url,
                    "cancel_url": cancel_url,
                },
                {"idempotency_key": order.id},
            )
        )
        return Checkout(ref=made.id, url=made.url)

    def look(self, order: Payment) -> Standing:
        """The session of the order."""
        found = self._ask(lambda client: client.v1.checkout.sessions.retrieve(order.provider_ref))
        return _standing(found.to_dict(), "")

    def refund(self, wanted: Repayment) -> RefundStanding:
        """A refund of the payment; our refund's id is its idempotency key.

        Keys are forgotten after a day, so a later attempt looks first whether it is there.
        """
        import stripe

        if wanted.intent_ref is None:
            return RefundStanding("", wanted.id, "failed", "the payment has no number")
        intent: str = wanted.intent_ref
        if wanted.again:
            there = self._ask(
                lambda client: client.v1.refunds.list({"payment_intent": intent, "limit": 100})
            )
            for one in there.data:
                if _named(one.to_dict()).get("refund_id") == wanted.id:
                    return _refund_standing(one.to_dict())
        try:
            made = self._ask(
                lambda client: client.v1.refunds.create(
                    {
                        "payment_intent": intent,
                        "amount": wanted.amount_minor,
                        "metadata": {"refund_id": wanted.id, "order_id": wanted.payment_id},
                    },
                    {"idempotency_key": wanted.id},
                )
            )
        except ProviderRefused as error:
            why = error.__cause__
            if isinstance(why, stripe.InvalidRequestError):
                return RefundStanding("", wanted.id, "failed", str(why.user_message or why)[:300])
            raise
        return _refund_standing(made.to_dict())

    def parse(self, body: bytes, signature: str) -> Notice:
        """Verified by the official library over the bytes as they came."""
        import stripe

        if not self._webhook_secret:
            raise WebhooksOff
        try:
            stripe.WebhookSignature.verify_header(
                body, signature, self._webhook_secret, TOLERANCE_SECONDS
            )
            payload = json.loads(body)
        except (stripe.SignatureVerificationError, ValueError) as error:
            raise BadSignature from error
        if not isinstance(payload, dict):
            raise BadSignature
        return self.read(payload)

    def read(self, payload: dict[str, Any]) -> Notice:
        """What an event says, whatever order events come in: the state of its object counts."""
        try:
            kind, thing = str(payload["type"]), payload["data"]["object"]
            at = int(payload["created"]) * MICROS_PER_SECOND
            about: Standing | RefundStanding | DisputeStanding | None = None
            if kind.startswith("checkout.session."):
                about = _standing(thing, kind) if thing.get("mode") == "payment" else None
            elif thing.get("object") == "refund":
                about = _refund_standing(thing)
            elif kind.startswith("charge.dispute."):
                about = _dispute_standing(thing)
            return Notice(str(payload["id"]), kind, at, about)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BadSignature("This event has not the shape that Stripe documents.") from error

    def _ask(self, call: Any) -> Any:
        import stripe

        if self._made is None:
            addresses = {"api": self._api_base} if self._api_base else {}
            self._made = stripe.StripeClient(
                self._api_key,
                base_addresses=addresses,  # type: ignore[arg-type]
                max_network_retries=1,
                http_client=stripe.RequestsClient(timeout=_TIMEOUT_SECONDS),
            )
        try:
            return call(self._made)
        except (stripe.APIConnectionError, stripe.RateLimitError) as error:
            raise ProviderUnreachable from error
        except stripe.StripeError as error:
            if (error.http_status or 500) >= 500:
                raise ProviderUnreachable from error
            raise ProviderRefused(reason=str(error.code or type(error).__name__)) from error


def _standing(session: dict[str, Any], kind: str) -> Standing:
    paid = session["payment_status"] == "paid"
    failed = session["status"] == "expired" or kind == "checkout.session.async_payment_failed"
    names = _named(session)
    return Standing(
        provider=NAME,
        checkout_ref=str(session["id"]),
        order_id=str(session.get("client_reference_id") or names.get("order_id") or ""),
        user_id=str(names.get("user_id") or ""),
        state="paid" if paid else "failed" if failed else "open",
        amount_minor=int(session.get("amount_total") or 0),
        currency=str(session.get("currency") or "").upper(),
        intent_ref=_id_of(session.get("payment_intent")),
    )


def _refund_standing(refund: dict[str, Any]) -> RefundStanding:
    return RefundStanding(
        ref=str(refund["id"]),
        refund_id=_named(refund).get("refund_id"),
        state=_REFUND_STATES.get(str(refund["status"]), "sent"),  # type: ignore[arg-type]
        error=refund.get("failure_reason"),
    )


def _dispute_standing(dispute: dict[str, Any]) -> DisputeStanding:
    status = str(dispute["status"])
    inquiry = "inquiry" if status.startswith("warning_") else "open"
    return DisputeStanding(
        ref=str(dispute["id"]),
        intent_ref=_id_of(dispute.get("payment_intent")) or "",
        state=_DISPUTE_STATES.get(status, inquiry),  # type: ignore[arg-type]
        amount_minor=int(dispute["amount"]),
        currency=str(dispute["currency"]).upper(),
        reason=str(dispute.get("reason") or "general")[:64],
    )


def _named(thing: dict[str, Any]) -> dict[str, str]:
    return dict(thing.get("metadata") or {})


def _id_of(thing: Any) -> str | None:
    """References are ids, or whole objects where somebody asked for that."""
    return str(thing["id"]) if isinstance(thing, dict) else (str(thing) if thing else None)
