"""One Stripe account in memory: sessions, payments, refunds, disputes and the events they cause.

Objects begin as copies of Stripe's published examples, so that no key is missing or made up.
Knows nothing of HTTP.
"""

import copy
import json
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXAMPLES: dict[str, Any] = json.loads(
    (Path(__file__).parent / "fixtures" / "objects.json").read_text()
)
API_VERSION = "2026-10-28.endive"
Thing = dict[str, Any]


class Refused(Exception):
    """An answer that is an error: status, type, code, message."""

    def __init__(self, status: int, kind: str, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error: Thing = {"type": kind, "message": message, **({"code": code} if code else {})}


def bad(message: str, code: str | None = None) -> Refused:
    """A request that cannot be fulfilled."""
    return Refused(400, "invalid_request_error", message, code)


class Account:
    """All state. `tell` is called with each new event."""

    def __init__(self, tell: Callable[[Thing], None]) -> None:
        self.tell = tell
        self.lock = threading.RLock()
        self.things: dict[str, Thing] = {}
        self.events: list[Thing] = []
        self.intent_data: dict[str, Thing] = {}
        # What a card does when its owner is absent: declined, authenticate, later; else it pays.
        self.cards: dict[str, str] = {}
        self.page_url = ""

    def get(self, number: str, kind: str) -> Thing:
        """An object; Refused with 404 when there is none of this kind."""
        found = self.things.get(number)
        if found is None or found["object"] != kind:
            raise Refused(
                404, "invalid_request_error", f"No such {kind}: '{number}'", "resource_missing"
            )
        return found

    def _new(self, kind: str, prefix: str, **values: Any) -> Thing:
        made: Thing = copy.deepcopy(EXAMPLES[kind])
        made |= {"id": prefix + secrets.token_hex(12), "created": int(time.time()), **values}
        self.things[made["id"]] = made
        return made

    def emit(self, kind: str, thing: Thing) -> Thing:
        """Note an event with the object as it is now."""
        event = copy.deepcopy(EXAMPLES["event"]) | {
            "id": "evt_" + secrets.token_hex(12),
            "api_version": API_VERSION,
            "created": int(time.time()),
            "data": {"object": copy.deepcopy(thing)},
            "pending_webhooks": 1,
            "type": kind,
        }
        self.events.append(event)
        self.tell(event)
        return event

    def open_session(self, params: Thing) -> Thing:
        """A Checkout Session for what is to be paid."""
        if params.get("mode") != "payment":
            raise bad("Only mode payment is offered here.")
        if not params.get("success_url"):
            raise bad("Missing required param: success_url.", "parameter_missing")
        if params.get("customer"):
            self.get(params["customer"], "customer")
            if params.get("customer_creation"):
                raise bad("You may only specify one of these parameters: customer.")
        total, currency = 0, ""
        for item in params.get("line_items") or []:
            price = item["price_data"]
            amount, quantity = whole(price["unit_amount"]), whole(item.get("quantity", "1"))
            if amount < 0:
                raise bad("Invalid non-negative integer", "parameter_invalid_integer")
            total += amount * quantity
            currency = price["currency"]
        if total < 50:
            raise bad("The Checkout Session's total must be at least $0.50.", "amount_too_small")
        made = self._new(
            "checkout.session",
            "cs_test_",
            amount_subtotal=total,
            amount_total=total,
            currency=currency,
            client_reference_id=params.get("client_reference_id"),
            metadata=params.get("metadata") or {},
            success_url=params["success_url"],
            cancel_url=params.get("cancel_url"),
            customer=params.get("customer"),
            customer_creation=params.get("customer_creation", "if_required"),
            customer_details=None,
            shipping_cost=None,
            currency_conversion=None,
            expires_at=int(time.time()) + 24 * 3600,
            payment_intent=None,
            status="open",
            payment_status="unpaid",
            total_details={"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        )
        made["url"] = f"{self.page_url}/c/pay/{made['id']}"
        self.intent_data[made["id"]] = params.get("payment_intent_data") or {}
        return made

    def _intent(self, session: Thing, status: str) -> Thing:
        intent = self._new(
            "payment_intent",
            "pi_",
            amount=session["amount_total"],
            amount_received=session["amount_total"] if status == "succeeded" else 0,
            currency=session["currency"],
            metadata=self.intent_data[session["id"]].get("metadata") or {},
            status=status,
            customer=session["customer"],
            payment_method=None,
            setup_future_usage=self.intent_data[session["id"]].get("setup_future_usage"),
            canceled_at=None,
            last_payment_error=None,
            next_action=None,
            processing=None,
        )
        session["payment_intent"] = intent["id"]
        return intent

    def _keep(self, session: Thing) -> None:
        """The card of whoever pays is kept, where that was asked for."""
        if session["customer"] is None and session["customer_creation"] == "always":
            session["customer"] = self._new("customer", "cus_", metadata={})["id"]
        if self.intent_data[session["id"]].get("setup_future_usage") != "off_session":
            return
        if session["customer"] is None:
            raise bad("setup_future_usage needs a customer.")
        self._new("payment_method", "pm_", customer=session["customer"], metadata={})

    def methods(self, customer: str) -> list[Thing]:
        """The cards of a customer, newest first."""
        self.get(customer, "customer")
        kept = [one for one in self.things.values() if one["object"] == "payment_method"]
        return [one for one in kept if one["customer"] == customer][::-1]

    def detach(self, number: str) -> Thing:
        """The customer has the card no longer."""
        method = self.get(number, "payment_method")
        if method["customer"] is None:
            raise bad("The payment method you provided is not attached to a customer.")
        method["customer"] = None
        return method

    def charge_absent(self, params: Thing) -> Thing:
        """A payment from a kept card, confirmed at once while its owner is absent."""
        if (params.get("off_session"), params.get("confirm")) != ("true", "true"):
            raise bad("Only payments with off_session and confirm are offered here.")
        method = self.get(str(params.get("payment_method")), "payment_method")
        if method["customer"] is None or method["customer"] != params.get("customer"):
            raise bad("The PaymentMethod does not belong to the Customer.")
        amount = whole(params["amount"])
        if amount < 50:
            raise bad("Amount must be at least $0.50.", "amount_too_small")
        does = self.cards.get(method["id"], "pays")
        intent = self._new(
            "payment_intent", "pi_", amount=amount, amount_received=0,
            currency=params["currency"], customer=params["customer"],
            payment_method=method["id"], metadata=params.get("metadata") or {},
            description=params.get("description"), status="requires_payment_method",
            setup_future_usage=None, canceled_at=None, last_payment_error=None, next_action=None,
            processing=None,
        )  # fmt: skip
        if does in ("declined", "authenticate"):
            code = "card_declined" if does == "declined" else "authentication_required"
            self.emit("payment_intent.payment_failed", intent)
            refused = Refused(402, "card_error", "Your card was declined.", code)
            refused.error["payment_intent"] = dict(intent)
            raise refused
        if does == "later":
            intent["status"] = "processing"
            return intent
        charge = self._charge(intent)
        self.emit("payment_intent.succeeded", intent)
        self.emit("charge.succeeded", charge)
        return intent

    def _charge(self, intent: Thing) -> Thing:
        charge = self._new(
            "charge",
            "ch_",
            amount=intent["amount"],
            amount_captured=intent["amount"],
            captured=True,
            currency=intent["currency"],
            payment_intent=intent["id"],
            status="succeeded",
        )
        intent |= {"latest_charge": charge["id"], "status": "succeeded"}
        intent["amount_received"] = intent["amount"]
        return charge

    def pay(self, number: str, *, later: bool = False) -> Thing:
        """The customer pays; `later` by a method that takes days."""
        with self.lock:
            session = self.get(number, "checkout.session")
            if session["status"] != "open":
                raise bad(f"This Checkout Session is {session['status']}.")
            self._keep(session)
            intent = self._intent(session, "processing" if later else "succeeded")
            session |= {"status": "complete", "payment_status": "unpaid" if later else "paid"}
            session["url"] = None
            if not later:
                charge = self._charge(intent)
                self.emit("payment_intent.succeeded", intent)
                self.emit("charge.succeeded", charge)
            self.emit("checkout.session.completed", session)
            return session

    def arrive(self, number: str, *, success: bool = True) -> Thing:
        """What was paid later arrives, or does not."""
        with self.lock:
            session = self.get(number, "checkout.session")
            intent = self.get(session["payment_intent"], "payment_intent")
            if success:
                self._charge(intent)
                session["payment_status"] = "paid"
            else:
                intent["status"] = "requires_payment_method"
            how = "succeeded" if success else "failed"
            self.emit(f"checkout.session.async_payment_{how}", session)
            return session

    def expire(self, number: str) -> Thing:
        """Nobody paid in time."""
        with self.lock:
            session = self.get(number, "checkout.session")
            if session["status"] != "open":
                raise bad('Only Checkout Sessions with a status in ["open"] can be expired.')
            session |= {"status": "expired", "url": None}
            self.emit("checkout.session.expired", session)
            return session

    def refund(self, params: Thing) -> Thing:
        """Give money back, never more than was paid."""
        intent = self.get(str(params.get("payment_intent") or ""), "payment_intent")
        charge = self.get(str(intent["latest_charge"] or ""), "charge")
        left = charge["amount"] - charge["amount_refunded"]
        amount = whole(params["amount"]) if "amount" in params else left
        if charge["disputed"]:
            raise bad("Charge has been charged back; cannot issue a refund.", "charge_disputed")
        if left == 0:
            raise bad("Charge has already been refunded.", "charge_already_refunded")
        if not 0 < amount <= left:
            raise bad(f"Refund amount ({amount}) is greater than unrefunded amount ({left}).")
        made = self._new(
            "refund",
            "re_",
            amount=amount,
            charge=charge["id"],
            currency=charge["currency"],
            metadata=params.get("metadata") or {},
            payment_intent=intent["id"],
            reason=params.get("reason"),
            status="succeeded",
        )
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]
        self.emit("refund.created", made)
        self.emit("charge.refunded", charge)
        return made

    def fail_refund(self, number: str) -> Thing:
        """The bank could not take the money."""
        with self.lock:
            refund = self.get(number, "refund")
            refund |= {"status": "failed", "failure_reason": "expired_or_canceled_card"}
            charge = self.get(refund["charge"], "charge")
            charge["amount_refunded"] -= refund["amount"]
            self.emit("refund.failed", refund)
            return refund

    def dispute(self, intent_id: str, *, inquiry: bool = False) -> Thing:
        """The customer's bank takes the money back, or only asks."""
        with self.lock:
            intent = self.get(intent_id, "payment_intent")
            charge = self.get(intent["latest_charge"], "charge")
            charge["disputed"] = True
            made = self._new(
                "dispute",
                "du_",
                amount=charge["amount"] - charge["amount_refunded"],
                charge=charge["id"],
                currency=charge["currency"],
                payment_intent=intent["id"],
                reason="fraudulent",
                status="warning_needs_response" if inquiry else "needs_response",
                is_charge_refundable=inquiry,
            )
            self.emit("charge.dispute.created", made)
            if not inquiry:
                self.emit("charge.dispute.funds_withdrawn", made)
            return made

    def decide(self, number: str, *, won: bool) -> Thing:
        """The bank's decision."""
        with self.lock:
            dispute = self.get(number, "dispute")
            asked = dispute["status"].startswith("warning_")
            dispute["status"] = "warning_closed" if asked else "won" if won else "lost"
            self.get(dispute["charge"], "charge")["disputed"] = not (asked or won)
            self.emit("charge.dispute.closed", dispute)
            return dispute


def whole(text: Any) -> int:
    """An integer as a form carries it."""
    try:
        return int(str(text))
    except ValueError as error:
        raise bad(f"Invalid integer: {text}", "parameter_invalid_integer") from error
