"""The protocol of payment providers: who takes the money, and how we hear of it.

A provider starts a checkout, says how it stands, gives money back, and reads what was announced.
Calls block and may reach the network, so they run outside of every transaction. What a provider
says is checked against the order before anything is granted (`orders.accept`).
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from chat_app.credits.payments.orders import Payment, Standing
from chat_app.errors import Malformed, NotFound, Unavailable


class ProviderUnreachable(Unavailable):
    """The provider did not answer, or not in time."""

    code = "provider_unreachable"
    message = "The payment provider does not answer right now. Nothing was paid; try again soon."


class ProviderRefused(Unavailable):
    """The provider answered no; an operator has to look."""

    code = "provider_refused"
    message = "The payment provider refused this. Ask an administrator to look at the payment."


class WebhooksOff(NotFound):
    """This installation takes no announcements: no provider that sends them, or no secret."""

    code = "webhooks_off"
    message = "Webhooks are switched off here. Set the provider and its webhook secret."


class BadSignature(Malformed):
    """Forged, damaged or too old."""

    code = "bad_signature"
    message = "The signature of this event is not valid. Check the webhook secret and the clock."


@dataclass(frozen=True)
class Charged:
    """What came of charging a kept card: how the order stands, or why nothing was taken.

    `reason` is `no_card`, `needs_owner` (the bank wants its owner to confirm) or `declined`.
    """

    standing: Standing | None
    reason: Literal["", "no_card", "needs_owner", "declined"] = ""


@dataclass(frozen=True)
class Card:
    """A kept card as its owner knows it; it is good until the end of that month."""

    brand: str
    last4: str
    month: int
    year: int


@dataclass(frozen=True)
class Checkout:
    """A checkout at the provider; without a `url` there is no page to send anybody to."""

    ref: str
    url: str | None


@dataclass(frozen=True)
class Repayment:
    """Money to give back for an order; `id` makes it happen once."""

    id: str
    payment_id: str
    checkout_ref: str
    intent_ref: str | None
    amount_minor: int
    currency: str
    again: bool = False


@dataclass(frozen=True)
class RefundStanding:
    """How a refund stands. `refund_id` is ours, if the provider knows it."""

    ref: str
    refund_id: str | None
    state: Literal["sent", "succeeded", "failed"]
    error: str | None = None


@dataclass(frozen=True)
class DisputeStanding:
    """How a dispute stands; `inquiry` took no money."""

    ref: str
    intent_ref: str
    state: Literal["inquiry", "open", "won", "lost"]
    amount_minor: int
    currency: str
    reason: str


@dataclass(frozen=True)
class Notice:
    """Something announced. `about` is None for what does not concern us; `at` is in µs."""

    id: str
    type: str
    at: int
    about: Standing | RefundStanding | DisputeStanding | None


class Provider(Protocol):
    """Who takes the money. `hosted` ones have a page of their own to pay on."""

    name: str
    hosted: bool

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
        """Begin a checkout, once for each attempt at an order; `customer` is who pays, if known.

        With `keep` the card may be charged later without its owner. Raises ProviderUnreachable
        or ProviderRefused.
        """

    def charge(self, order: Payment, *, customer: str, attempt: int, again: bool) -> Charged:
        """Charge a kept card, once for each attempt; `again` when its outcome is not known.

        Raises ProviderUnreachable or ProviderRefused.
        """

    def retire(self, order: Payment) -> Standing:
        """Close the checkout of an order, unless it is paid. Raises as `look` does."""

    def cards(self, customer: str) -> list[Card]:
        """The kept cards, the one that is charged first. Raises as `look` does."""

    def forget(self, customer: str) -> None:
        """Keep no card of theirs any more. Raises as `look` does."""

    def look(self, order: Payment) -> Standing:
        """How the order stands there. Raises ProviderUnreachable or ProviderRefused."""

    def refund(self, wanted: Repayment) -> RefundStanding:
        """Give money back, once for each `wanted.id`. Raises ProviderUnreachable.

        A decided no is a standing with the state `failed`.
        """

    def parse(self, body: bytes, signature: str) -> Notice:
        """A signed announcement. Raises WebhooksOff or BadSignature."""

    def read(self, payload: dict[str, Any]) -> Notice:
        """The same for one that was verified and stored before."""
