"""REST: payments by a provider: its webhook, the way back from its page, and what operators do."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import RedirectResponse
from pydantic import Field

from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps
from chat_app.api.deps import Body, Text, errors_in
from chat_app.api.views import MoneyOut, Page, PaymentOut, Shown
from chat_app.clock import rfc3339
from chat_app.credits.payments import events, orders
from chat_app.credits.payments.events import Event
from chat_app.credits.payments.orders import Payment
from chat_app.credits.payments.provider import Card
from chat_app.credits.payments.returns import Dispute, Refund
from chat_app.flows import collect, payments, refund
from chat_app.money import format_credits

billing = APIRouter(prefix="/billing", tags=["billing"])
router = APIRouter(prefix="/admin", tags=["admin"])

Reading = Annotated[SignedIn, Depends(deps.allowed("payments.read"))]
Refunding = Annotated[SignedIn, Depends(deps.allowed("payments.refund"))]

AFTER_PAYMENT = "/#credits"


class Received(Shown):
    """The event is kept."""

    received: bool = True


class CardOut(Shown):
    """A kept card; it is good until the end of that month."""

    brand: str
    last4: str
    month: int
    year: int

    @classmethod
    def of(cls, card: Card) -> "CardOut":
        return cls(brand=card.brand, last4=card.last4, month=card.month, year=card.year)


class RefundWish(Body):
    """`amount` in minor units; without it everything unused is refunded."""

    amount: Annotated[int, Field(gt=0, lt=2**53)] | None = None
    reason: Annotated[Text, Field(max_length=1000)]


class OrderOut(PaymentOut):
    """An order as an operator sees it."""

    user_id: str
    provider_ref: str
    intent_ref: str | None
    paid_at: str | None

    @classmethod
    def seen(cls, payment: Payment) -> "OrderOut":
        return cls(
            **PaymentOut.of(payment).model_dump(),
            user_id=str(payment.user_id),
            provider_ref=payment.provider_ref,
            intent_ref=payment.intent_ref,
            paid_at=None if payment.paid_at is None else rfc3339(payment.paid_at),
        )


class RefundOut(Shown):
    """A refund; `state` is pending, sent, succeeded or failed."""

    id: str
    payment_id: str
    state: str
    credits: str
    amount: MoneyOut
    reason: str
    error: str | None
    created_at: str

    @classmethod
    def of(cls, row: Refund) -> "RefundOut":
        return cls(
            id=row.id,
            payment_id=row.payment_id,
            state=row.state,
            credits=format_credits(row.credits),
            amount=MoneyOut(amount=row.amount_minor, currency=row.currency),
            reason=row.reason,
            error=row.error,
            created_at=rfc3339(row.created_at),
        )


class DisputeOut(Shown):
    """A dispute; `state` is inquiry, open, won or lost. `owed` was spent when it came."""

    id: str
    state: str
    reason: str
    credits: str
    owed: str
    opened_at: str

    @classmethod
    def of(cls, row: Dispute) -> "DisputeOut":
        return cls(
            id=row.id,
            state=row.state,
            reason=row.reason,
            credits=format_credits(row.credits),
            owed=format_credits(row.owed),
            opened_at=rfc3339(row.opened_at),
        )


class EventOut(Shown):
    """What a provider announced; `state` is new, done, ignored or refused (see `reason`)."""

    id: str
    provider: str
    event_id: str
    type: str
    payment_id: str | None
    state: str
    reason: str | None
    attempts: int
    received_at: str

    @classmethod
    def of(cls, row: Event) -> "EventOut":
        return cls(
            id=str(row.id),
            provider=row.provider,
            event_id=row.event_id,
            type=row.type,
            payment_id=row.payment_id,
            state=row.state,
            reason=row.reason,
            attempts=row.attempts,
            received_at=rfc3339(row.received_at),
        )


class StoryOut(Shown):
    """All about one order. `flagged`: a bank has taken a payment of this account back."""

    payment: OrderOut
    refundable: MoneyOut
    refundable_credits: str
    refunds: list[RefundOut]
    disputes: list[DisputeOut]
    events: list[EventOut]
    flagged: bool


@billing.post("/payments/{id}/checkout", responses=errors_in(401, 403, 404, 409, 503))
async def open_checkout(
    request: Request, app: deps.App, who: deps.CurrentUser, id: deps.Id
) -> PaymentOut:
    """The page to pay an order that waits on, a plan's for example. Nothing is charged by this."""
    return PaymentOut.of(
        await collect.checkout(
            app, user_id=deps.user_id(who), payment_id=id, base=str(request.base_url)
        )
    )


@billing.get("/cards", responses=errors_in(401, 503))
async def list_cards(app: deps.App, who: deps.CurrentUser) -> Page[CardOut]:
    """The caller's kept cards; the first is charged for plans and automatic top-ups."""
    found = await collect.cards(app, user_id=deps.user_id(who))
    return Page(items=[CardOut.of(card) for card in found])


@billing.delete("/cards", status_code=204, responses=errors_in(401, 403))
async def forget_cards(app: deps.App, who: deps.CurrentUser) -> None:
    """Keep no card of the caller any more. Plans then wait for their owner to pay."""
    await collect.forget(app, user_id=deps.user_id(who))


@billing.post("/webhooks/stripe", responses=errors_in(400, 404, 413, 503))
async def stripe_webhook(request: Request, app: deps.App) -> Received:
    """Events of Stripe, signed. Kept first and acted on afterwards, each of them once."""
    body = await request.body()
    signature = request.headers.get("stripe-signature", "")
    await payments.receive(app, provider="stripe", body=body, signature=signature)
    return Received()


@billing.get(
    "/payments/{id}/return",
    status_code=303,
    response_class=RedirectResponse,
    responses=errors_in(404, 503),
)
async def come_back(app: deps.App, id: deps.Id) -> RedirectResponse:
    """The way back from the payment page: looks how the order stands, and leads to the credits."""
    await payments.settle(app, payment_id=id)
    return RedirectResponse(AFTER_PAYMENT, 303)


@router.get("/payments", responses=errors_in(401, 403, 422))
def list_payments(
    *,
    app: deps.App,
    who: Reading,
    q: deps.Search = "",
    status: Annotated[Literal["", "pending", "paid", "failed"], Query()] = "",
    limit: deps.Limit = 50,
    cursor: deps.Cursor = None,
) -> Page[OrderOut]:
    """Orders of all users, newest first; `q` is an id of ours or of the provider."""
    with app.db.read() as session:
        found, following = orders.search(session, status=status, q=q, limit=limit, cursor=cursor)
    return Page(items=[OrderOut.seen(row) for row in found], next_cursor=following)


@router.get("/payments/{id}", responses=errors_in(401, 403, 404))
def show_order(app: deps.App, who: Reading, id: deps.Id) -> StoryOut:
    """An order with its refunds, disputes and events, and what could be refunded."""
    story = refund.story(app, payment_id=id)
    return StoryOut(
        payment=OrderOut.seen(story.payment),
        refundable=MoneyOut(amount=story.refundable_minor, currency=story.payment.currency),
        refundable_credits=format_credits(story.refundable_credits),
        refunds=[RefundOut.of(row) for row in story.refunds],
        disputes=[DisputeOut.of(row) for row in story.disputes],
        events=[EventOut.of(row) for row in story.events],
        flagged=story.flagged,
    )


@router.post(
    "/payments/{id}/refund", status_code=201, responses=errors_in(401, 403, 404, 409, 422, 503)
)
async def refund_order(
    app: deps.App, who: Refunding, id: deps.Id, key: deps.IdempotencyKey, body: RefundWish
) -> RefundOut:
    """Refund what is unused of an order, at its exact share of the price.

    The credits leave at once; the money follows, and `state` says how far it is.
    """
    made = await refund.refund(
        app,
        admin_id=deps.user_id(who),
        payment_id=id,
        minor=body.amount,
        reason=body.reason,
        key=key,
    )
    return RefundOut.of(made)


@router.get("/payment-events", responses=errors_in(401, 403, 422))
def list_events(
    app: deps.App,
    who: Reading,
    state: Annotated[Literal["", "new", "done", "ignored", "refused"], Query()] = "",
    limit: deps.Limit = 50,
) -> Page[EventOut]:
    """What providers announced, newest first; `refused` ones need a person."""
    with app.db.read() as session:
        return Page(
            items=[EventOut.of(row) for row in events.search(session, state=state, limit=limit)]
        )
