"""REST: what administrators do with prices and with what is offered."""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field, StrictBool

from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps
from chat_app.api.deps import Body, Credits, errors_in
from chat_app.api.views import Page, PriceOut, Shown
from chat_app.app import App
from chat_app.clock import rfc3339
from chat_app.credits import pricing
from chat_app.credits.pricing import BadPrice, Price, Tier
from chat_app.credits.reprice import Change
from chat_app.flows import prices, staff
from chat_app.flows.prices import Draft, Preview
from chat_app.llm import catalogue
from chat_app.money import format_credits, parse_credits

router = APIRouter(prefix="/admin", tags=["admin"])

Reading = Annotated[SignedIn, Depends(deps.allowed("prices.read"))]

ModelId = Annotated[str, Field(max_length=128), deps.Clean]
Part = Annotated[Credits, Field(ge=0)] | None
Showing = Annotated[bool, Query(description="Re-price the last 30 days; publishes nothing.")]


class Rates(Body):
    """The parts of a price, in credits; for tokens, of a million."""

    per_message: Part = None
    input_per_million: Part = None
    output_per_million: Part = None
    per_image: Part = None


class TierIn(Rates):
    """Rates for who has used that much of the model in the calendar month."""

    unit: Literal["credits", "messages"]
    from_amount: Annotated[str | int, Field(alias="from")]

    def tier(self) -> Tier:
        """As the books know it; raises BadPrice or BadCredits."""
        if self.unit == "messages" and not isinstance(self.from_amount, int):
            raise BadPrice
        messages = self.unit == "messages"
        amount = self.from_amount if messages else parse_credits(self.from_amount)
        assert isinstance(amount, int)
        rates = self.model_dump(exclude={"unit", "from_amount"})
        return Tier(unit=self.unit, from_amount=amount, **rates)


class PriceIn(Rates):
    """A price to publish. `confirm` that a change of more than 20 times is meant."""

    kind: Literal["per_message", "per_token", "mixed"]
    tiers: list[TierIn] = Field(default_factory=list, max_length=pricing.MAX_TIERS)
    valid_from: Annotated[str, Field(max_length=64)] | None = None
    confirm: StrictBool = False

    def draft(self, model: str) -> Draft:
        """As the flow wants it; raises BadPrice or BadTime."""
        rates = self.model_dump(include=set(Rates.model_fields))
        return Draft(
            model=model,
            kind=self.kind,
            tiers=tuple(item.tier() for item in self.tiers),
            valid_from=deps.read_time(self.valid_from, "valid_from"),
            **rates,
        )


class ModelPriceIn(PriceIn):
    """A price, and the model it is for."""

    model: ModelId


class ModelIn(Body):
    """What is left out stays as it is."""

    offered: StrictBool | None = None
    price: PriceIn | None = None


class ChangeOut(Shown):
    """Messages, and what they cost before and after, in credits."""

    messages: int
    before: str
    after: str

    @classmethod
    def of(cls, change: Change) -> "ChangeOut":
        return cls(
            messages=change.messages,
            before=format_credits(change.before),
            after=format_credits(change.after),
        )


class ModelChangeOut(ChangeOut):
    """A model's part."""

    model: str


class UserChangeOut(ChangeOut):
    """A user's part."""

    id: str
    username: str


class PreviewOut(Shown):
    """A price on the answers since `since`; `factor` is how many times it goes up or down.

    A `factor` of null with `needs_confirm` is a price from or to nothing.
    """

    model: str
    price: PriceOut
    since: str
    total: ChangeOut
    models: list[ModelChangeOut]
    users: list[UserChangeOut]
    sample: str
    sample_now: str | None
    sample_new: str
    factor: float | None
    needs_confirm: bool

    @classmethod
    def of(cls, found: Preview) -> "PreviewOut":
        infinite = found.factor == float("inf")
        return cls(
            model=found.price.model_id,
            price=PriceOut.model_validate(found.price.as_json()),
            since=rfc3339(found.since),
            total=ChangeOut.of(found.total),
            models=[
                ModelChangeOut(model=item.model, **ChangeOut.of(item.change).model_dump())
                for item in found.models
            ],
            users=[
                UserChangeOut(
                    id=str(item.user_id),
                    username=item.username,
                    **ChangeOut.of(item.change).model_dump(),
                )
                for item in found.users
            ],
            sample=found.sentence,
            sample_now=None if found.sample_now is None else format_credits(found.sample_now),
            sample_new=format_credits(found.sample_new),
            factor=None if found.factor is None or infinite else round(found.factor, 3),
            needs_confirm=found.needs_confirm,
        )


class PriceVersionOut(Shown):
    """A version of a model's price: `current`, `scheduled` or `past`."""

    model: str
    state: str
    valid_from: str
    price: PriceOut
    preview: PreviewOut | None = None

    @classmethod
    def of(cls, price: Price, state: str, preview: PreviewOut | None = None) -> "PriceVersionOut":
        return cls(
            model=price.model_id,
            state=state,
            valid_from=rfc3339(price.valid_from),
            price=PriceOut.model_validate(price.as_json()),
            preview=preview,
        )


class ShelfOut(Shown):
    """A model as administrators see it, with every version of its price, newest first.

    `why` says which backend runs it, and why this one.
    """

    id: str
    name: str
    state: str
    reason: str
    why: str
    offered: bool
    price: PriceOut | None
    versions: list[PriceVersionOut]


@router.get("/prices", responses=errors_in(401, 403, 404))
def list_prices(
    *,
    app: deps.App,
    who: Reading,
    model: Annotated[str | None, Query(max_length=128), deps.Clean] = None,
    preview: Showing = False,
) -> Page[PriceVersionOut]:
    """Every version of every price, newest first, or of one model.

    With `preview` the versions in force and to come are re-priced on the last 30 days.
    """
    if model is not None:
        prices.known(model)
    return Page(items=_versions(app, model, preview=preview))


@router.post("/prices", status_code=201, responses=errors_in(401, 403, 404, 409, 422))
async def publish_price(
    *,
    app: deps.App,
    who: Reading,
    key: deps.IdempotencyKey,
    body: ModelPriceIn,
    response: Response,
    preview: Showing = False,
) -> PriceVersionOut | PreviewOut:
    """Publish the next version of a price, or only look at what it would do with `preview`.

    It is in force at once or from `valid_from` on. Messages that were sent before keep theirs.
    """
    draft = body.draft(body.model)
    if preview:
        response.status_code = 200
        return PreviewOut.of(await asyncio.to_thread(prices.preview, app, draft))
    await staff.require(app, who, "prices.write")
    price = await prices.publish(
        app, draft, admin_id=deps.user_id(who), key=key, confirm=body.confirm
    )
    return _one(app, price)


@router.get("/models/{id}", responses=errors_in(401, 403, 404))
def show_model(app: deps.App, who: Reading, id: deps.Id) -> ShelfOut:
    """One model: its price, whether it is offered, and every version of the price."""
    return _shelf(app, id)


@router.put("/models/{id}", responses=errors_in(401, 403, 404, 409, 422))
async def change_model(
    app: deps.App, who: Reading, id: deps.Id, key: deps.IdempotencyKey, body: ModelIn
) -> ShelfOut:
    """Give a model another price, offer it, or hide it: a hidden one takes no new messages."""
    prices.known(id)
    admin_id = deps.user_id(who)
    if body.price is not None:
        await staff.require(app, who, "prices.write")
    if body.offered is not None:
        await staff.require(app, who, "models.write")
    if body.price is not None:
        await prices.publish(
            app, body.price.draft(id), admin_id=admin_id, key=key, confirm=body.price.confirm
        )
    if body.offered is not None:
        await prices.offer(app, admin_id=admin_id, model=id, offered=body.offered)
    return _shelf(app, id)


def _one(app: App, price: Price) -> PriceVersionOut:
    return next(
        item for item in _versions(app, price.model_id) if item.price.version == price.version
    )


def _versions(app: App, model: str | None, *, preview: bool = False) -> list[PriceVersionOut]:
    now = app.clock.micros()
    items = []
    with app.db.read() as session:
        for price in pricing.versions(session, model):
            try:
                in_force = pricing.current(session, price.model_id, now)
            except pricing.Unpriced:
                in_force = None
            state = prices.state_of(price, in_force, now)
            seen = None
            if preview and state != "past":
                seen = PreviewOut.of(prices.look(session, price, now=now))
            items.append(PriceVersionOut.of(price, state, seen))
    return items


def _shelf(app: App, model: str) -> ShelfOut:
    entry: catalogue.Entry = prices.known(model)
    versions = _versions(app, model)
    state = app.engine.state(model)
    with app.db.read() as session:
        offered = pricing.offered(session, model)
    return ShelfOut(
        id=entry.id,
        name=entry.name,
        state=state.state,
        reason=state.reason,
        why=app.engine.why(model),
        offered=offered,
        price=next((item.price for item in versions if item.state == "current"), None),
        versions=versions,
    )
