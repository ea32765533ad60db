"""A price is changed: looked at on the last 30 days, guarded against slips, then published.

Old versions stay, because holds, receipts and usage name them. Models are put on the shelf and
taken off it here too.
"""

from dataclasses import asdict, dataclass
from typing import Any

from sqlmodel import Session

from chat_app.accounts import users
from chat_app.app import App
from chat_app.audit import log
from chat_app.credits import operations, pricing, reprice, rollups
from chat_app.credits.pricing import Price, Tier
from chat_app.credits.reprice import Change
from chat_app.errors import Conflict, Invalid, NotFound
from chat_app.llm import catalogue
from chat_app.llm.engine import UnknownModel
from chat_app.money import show_credits

PREVIEW_DAYS = 30
LONGEST_NOTICE_DAYS = 366
# Above this, up or down, somebody has probably mixed up the unit.
SANE_FACTOR = 20
MOST_USERS = 10


class PriceJump(Conflict):
    """The price goes up or down so far that it may be a slip."""

    code = "price_needs_confirm"
    message = (
        f"This price is more than {SANE_FACTOR} times higher or lower than before. "
        "Check the unit, then publish it with `confirm`."
    )


class BadStart(Invalid):
    """A price may not begin in the past, nor in years."""

    code = "bad_price_start"
    message = (
        "A price begins now or at a time within a year. Leave the time out for now, "
        "or choose a later one."
    )


@dataclass(frozen=True)
class Draft:
    """A price that is not published. Amounts in microcredits, `valid_from` in µs, None for now."""

    model: str
    kind: str
    per_message: int | None = None
    input_per_million: int | None = None
    output_per_million: int | None = None
    per_image: int | None = None
    tiers: tuple[Tier, ...] = ()
    valid_from: int | None = None


@dataclass(frozen=True)
class ModelChange:
    """A model's part in a preview."""

    model: str
    change: Change


@dataclass(frozen=True)
class UserChange:
    """A user whose cost changes."""

    user_id: int
    username: str
    change: Change


@dataclass(frozen=True)
class Preview:
    """A price on the usage since `since` (µs): in all, by model, and whom it moves most.

    `factor` is how many times it goes up or down; above `SANE_FACTOR` it `needs_confirm`.
    `sample_now` and `sample_new` are microcredits of a sample message, told in `sentence`.
    """

    price: Price
    now: Price | None
    since: int
    total: Change
    models: tuple[ModelChange, ...]
    users: tuple[UserChange, ...]
    sample_now: int | None
    sample_new: int
    sentence: str
    factor: float | None
    needs_confirm: bool


def preview(app: App, draft: Draft) -> Preview:
    """What the last 30 days would have cost; raises BadPrice, BadStart, UnknownModel."""
    now = app.clock.micros()
    _check(draft, now)
    with app.db.read() as session:
        return look(session, _price(session, draft, now), now=now)


def look(session: Session, price: Price, *, now: int) -> Preview:
    """A preview of a price that is published or not."""
    since = rollups.start_of("day", now) - PREVIEW_DAYS * rollups.DAY
    mine = reprice.again(session, price, since=since, until=now + 1)
    models = [
        ModelChange(model, Change(messages, cost, cost))
        for model, messages, cost in reprice.by_model(session, since=since, until=now + 1)
        if model != price.model_id
    ]
    models.insert(0, ModelChange(price.model_id, mine.total))
    moved = sorted(
        (item for item in mine.users.items() if item[1].before != item[1].after),
        key=lambda item: (-abs(item[1].after - item[1].before), item[0]),
    )
    before, in_force = _before(session, price), _in_force(session, price, now)
    factor = None if before is None else reprice.factor(before, price)
    sample_now = None if in_force is None else reprice.sample_cost(in_force)
    sample_new = reprice.sample_cost(price)
    return Preview(
        price=price,
        now=in_force,
        since=since,
        total=Change(
            messages=sum(item.change.messages for item in models),
            before=sum(item.change.before for item in models),
            after=sum(item.change.after for item in models),
        ),
        models=tuple(models),
        users=tuple(
            UserChange(user_id, _name(session, user_id), change)
            for user_id, change in moved[:MOST_USERS]
        ),
        sample_now=sample_now,
        sample_new=sample_new,
        sentence=_sentence(sample_now, sample_new),
        factor=factor,
        needs_confirm=factor is not None and factor > SANE_FACTOR,
    )


async def publish(
    app: App, draft: Draft, *, admin_id: int | None, key: str, confirm: bool = False
) -> Price:
    """Publish the next version of a price, on the record; the same key publishes once.

    Raises BadPrice, BadStart, UnknownModel, and PriceJump when it needs `confirm`. Without an
    administrator it was the operator's command.
    """
    actor = "operator" if admin_id is None else f"user:{admin_id}"

    def do(session: Session, now: int) -> dict[str, Any]:
        _check(draft, now)
        price = _price(session, draft, now)
        _refuse_jump(session, price, confirm=confirm)
        price = pricing.publish(
            session,
            model_id=draft.model,
            kind=draft.kind,
            per_message=draft.per_message,
            input_per_million=draft.input_per_million,
            output_per_million=draft.output_per_million,
            per_image=draft.per_image,
            tiers=draft.tiers,
            now=now,
            valid_from=draft.valid_from,
        )
        log.record(
            session,
            type="price_published",
            actor=actor,
            now=now,
            model=draft.model,
            valid_from=price.valid_from,
            **price.as_json(),
        )
        return {"version": price.version}

    def story(session: Session) -> Price:
        now = app.clock.micros()
        outcome, _ = operations.once(
            session,
            scope=f"price:{actor}",
            key=key,
            request={**asdict(draft), "confirm": confirm},
            now=now,
            actor=actor,
            run=lambda: do(session, now),
        )
        return pricing.version(session, draft.model, outcome["version"])

    return await app.db.awrite(story)


async def offer(app: App, *, admin_id: int, model: str, offered: bool) -> None:
    """Put a model on the shelf or take it off. Answers that are under way go on."""
    known(model)

    def story(session: Session) -> None:
        now = app.clock.micros()
        if pricing.offer(session, model, offered=offered, now=now):
            log.record(
                session,
                type="model_offered" if offered else "model_hidden",
                actor=f"user:{admin_id}",
                now=now,
                model=model,
            )

    await app.db.awrite(story)


def known(model: str) -> catalogue.Entry:
    """A model that may be sold; raises UnknownModel."""
    entry = catalogue.get(model)
    if entry.hidden:
        raise UnknownModel(model=model)
    return entry


def state_of(price: Price, in_force: Price | None, now: int) -> str:
    """`current`, `scheduled` or `past`."""
    if in_force is not None and price.version == in_force.version:
        return "current"
    newer = in_force is None or price.version > in_force.version
    return "scheduled" if newer and price.valid_from > now else "past"


def _check(draft: Draft, now: int) -> None:
    known(draft.model)
    latest = now + LONGEST_NOTICE_DAYS * rollups.DAY
    if draft.valid_from is not None and not now <= draft.valid_from <= latest:
        raise BadStart(model=draft.model)


def _price(session: Session, draft: Draft, now: int) -> Price:
    price = Price(
        model_id=draft.model,
        version=pricing.next_version(session, draft.model),
        kind=draft.kind,
        per_message=draft.per_message,
        input_per_million=draft.input_per_million,
        output_per_million=draft.output_per_million,
        per_image=draft.per_image,
        tiers=draft.tiers,
        valid_from=now if draft.valid_from is None else draft.valid_from,
    )
    pricing.check(price)
    return price


def _refuse_jump(session: Session, price: Price, *, confirm: bool) -> None:
    before = _before(session, price)
    if before is None or confirm:
        return
    if (factor := reprice.factor(before, price)) > SANE_FACTOR:
        raise PriceJump(
            factor="from or to nothing" if factor == float("inf") else f"{factor:.1f}",
            sample=_sentence(reprice.sample_cost(before), reprice.sample_cost(price)),
        )


def _before(session: Session, price: Price) -> Price | None:
    if price.version == 1:
        return None
    return pricing.version(session, price.model_id, price.version - 1)


def _in_force(session: Session, price: Price, now: int) -> Price | None:
    try:
        return pricing.current(session, price.model_id, now)
    except pricing.Unpriced:
        return None


def _name(session: Session, user_id: int) -> str:
    try:
        return users.get(session, user_id).username
    except NotFound:
        return f"user {user_id}"


def _sentence(now: int | None, new: int) -> str:
    words = (
        f"A message of {reprice.SAMPLE_PROMPT} tokens in and {reprice.SAMPLE_COMPLETION} out "
        f"will cost {show_credits(new)} credits"
    )
    return words + (f", now {show_credits(now)}." if now is not None else ".")
