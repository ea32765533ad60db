"""The provider Stripe: Checkout Sessions, kept cards, refunds, disputes and signed events.

All of it goes through Stripe's own library, imported when it is first used. It has been held to
Stripe's clients, types and published examples, but it has never run against Stripe itself.
"""

import json
from typing import Any

from chat_app.clock import MICROS_PER_SECOND
from chat_app.credits.payments.orders import Payment, Standing
from chat_app.credits.payments.provider import (
    BadSignature,
    Card,
    Charged,
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
_INTENT = "pi_"
_TAKEN = ("succeeded", "processing")
# Names, in the metadata of a payment, the attempt with a kept card that made it.
_ATTEMPT = "attempt"
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
        """A Checkout Session; the order and the attempt are its idempotency key."""
        names = _names(order)
        item = {
            "quantity": 1,
            "price_data": {
                "currency": order.currency.lower(),
                "unit_amount": order.amount_minor,
                "product_data": {"name": _title(order)},
            },
        }
        intent: dict[str, Any] = {"metadata": names}
        wanted: dict[str, Any] = {
            "mode": "payment",
            "client_reference_id": order.id,
            "metadata": names,
            "payment_intent_data": intent,
            "line_items": [item],
            "success_url": success_url,
            "cancel_url": cancel_url,
        }
        if keep:
            intent["setup_future_usage"] = "off_session"
            wanted["metadata"] = {**names, "keep": "1"}
        if customer is not None:
            wanted["customer"] = customer
        elif keep:
            wanted["customer_creation"] = "always"
        key = f"{order.id}:{attempt}" if attempt else order.id
        made = self._ask(
            lambda client: client.v1.checkout.sessions.create(wanted, {"idempotency_key": key})
        )
        return Checkout(ref=made.id, url=made.url)

    def look(self, order: Payment) -> Standing:
        """The session of the order, or the payment where a kept card was charged for it."""
        ref = order.provider_ref
        if ref.startswith(_INTENT):
            found = self._ask(lambda client: client.v1.payment_intents.retrieve(ref))
            return _intent_standing(found.to_dict())
        found = self._ask(lambda client: client.v1.checkout.sessions.retrieve(ref))
        return _standing(found.to_dict(), "")

    def charge(self, order: Payment, *, customer: str, attempt: int, again: bool) -> Charged:
        """A payment that is confirmed at once, with the owner absent, from the newest card.

        Keys are forgotten after a day and belong to one card, so a repeated attempt looks first
        whether its payment is there.
        """
        import stripe

        names = {**_names(order), _ATTEMPT: f"{order.id}:{attempt}"}
        if again:
            there = self._ask(
                lambda client: client.v1.payment_intents.list({"customer": customer, "limit": 100})
            )
            for one in there.data:
                if _named(one.to_dict()).get(_ATTEMPT) == names[_ATTEMPT]:
                    return _charged(one.to_dict())
        methods = self._methods(customer)
        if not methods:
            return Charged(None, "no_card")
        wanted = {
            "amount": order.amount_minor,
            "currency": order.currency.lower(),
            "customer": customer,
            "payment_method": methods[0]["id"],
            "off_session": True,
            "confirm": True,
            "metadata": names,
            "description": _title(order),
        }
        try:
            made = self._ask(
                lambda client: client.v1.payment_intents.create(
                    wanted, {"idempotency_key": names[_ATTEMPT]}
                )
            )
        except ProviderRefused as error:
            why = error.__cause__
            if not isinstance(why, stripe.CardError):
                raise
            asked = why.code == "authentication_required"
            return Charged(None, "needs_owner" if asked else "declined")
        return _charged(made.to_dict())

    def retire(self, order: Payment) -> Standing:
        """The session expires now; one that was paid before stays paid."""
        found = self.look(order)
        if found.state != "open" or order.provider_ref.startswith(_INTENT):
            return found
        try:
            made = self._ask(lambda client: client.v1.checkout.sessions.expire(order.provider_ref))
        except ProviderRefused:  # somebody paid between the two questions
            return self.look(order)
        return _standing(made.to_dict(), "")

    def cards(self, customer: str) -> list[Card]:
        """The newest first."""
        found = [one["card"] for one in self._methods(customer) if one.get("card")]
        return [
            Card(str(one["brand"]), str(one["last4"]), int(one["exp_month"]), int(one["exp_year"]))
            for one in found
        ]

    def forget(self, customer: str) -> None:
        """Take every card off the customer."""
        for one in self._methods(customer):
            number = one["id"]
            self._ask(lambda client, number=number: client.v1.payment_methods.detach(number))

    def _methods(self, customer: str) -> list[dict[str, Any]]:
        found = self._ask(
            lambda client: client.v1.customers.payment_methods.list(customer, {"type": "card"})
        )
        return [one.to_dict() for one in found.data]

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
            elif kind.startswith("payment_intent.") and _ATTEMPT in _named(thing):
                # A declined one is known from the answer, and its order may be paid otherwise now.
                about = _intent_standing(thing) if thing["status"] in _TAKEN else None
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
        customer_ref=_id_of(session.get("customer")) if names.get("keep") else None,
    )


def _intent_standing(intent: dict[str, Any]) -> Standing:
    """Of a payment from a kept card. One that failed is tried anew, so it closes no order."""
    names = _named(intent)
    return Standing(
        provider=NAME,
        checkout_ref=str(intent["id"]),
        order_id=str(names.get("order_id") or ""),
        user_id=str(names.get("user_id") or ""),
        state="paid" if intent["status"] == "succeeded" else "open",
        amount_minor=int(intent.get("amount_received") or 0),
        currency=str(intent.get("currency") or "").upper(),
        intent_ref=str(intent["id"]),
    )


def _charged(intent: dict[str, Any]) -> Charged:
    status = str(intent["status"])
    if status in _TAKEN:
        return Charged(_intent_standing(intent))
    return Charged(None, "needs_owner" if status == "requires_action" else "declined")


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


def _names(order: Payment) -> dict[str, str]:
    return {"order_id": order.id, "user_id": str(order.user_id)}


def _title(order: Payment) -> str:
    return f"{show_credits(order.credits + order.bonus_credits)} credits"


def _named(thing: dict[str, Any]) -> dict[str, str]:
    return dict(thing.get("metadata") or {})


def _id_of(thing: Any) -> str | None:
    """References are ids, or whole objects where somebody asked for that."""
    return str(thing["id"]) if isinstance(thing, dict) else (str(thing) if thing else None)
