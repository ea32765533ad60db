"""Prices: versioned, never negative, and rounded once for each message.

A model without a price is not for sale. A price by message is due in full as soon as the
answer has one token; prices by token follow the tokens. An answer without tokens is free.
A price may have tiers: other rates from a volume on that a user had of the model this month.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from chat_app.credits import usage
from chat_app.credits.sql import Books, Statement
from chat_app.credits.tables import OfferRow, PriceRow, PriceTierRow
from chat_app.credits.usage import Volume
from chat_app.errors import Conflict, Invalid, NotFound
from chat_app.money import MICRO, format_credits

KINDS = ("per_message", "per_token", "mixed")
# A typing error in the unit (a price for one token as the price for a million, or the other
# way round) lands far outside of this.
MAX_PER_MESSAGE = 100_000 * MICRO
MAX_PER_MILLION = 10_000_000 * MICRO
MAX_TIERS = 10
_TIERS = Statement(
    """SELECT unit, from_amount, per_message, input_per_million, output_per_million, per_image
    FROM price_tier WHERE price_id = :price_id ORDER BY tier"""
)
_OFFERED = Statement("SELECT offered FROM offer WHERE model_id = :model_id")
MAX_FROM = {"credits": 10**12 * MICRO, "messages": 10**12}


class Unpriced(NotFound):
    """The model has no price, so it is not for sale."""

    code = "unpriced"
    message = "This model has no price yet and cannot be used. Choose another model."


class NotOffered(NotFound):
    """An administrator has taken the model off the shelf."""

    code = "not_offered"
    message = "This model is not offered at the moment. Choose another model."


class BadPrice(Invalid):
    """The parts of the price do not fit its kind, or are out of range."""

    code = "bad_price"
    message = (
        "This price is not possible. Parts are zero or more credits, and a price by token "
        "needs one for the input and one for the output. Tiers have the same parts, one unit, "
        "and begin at rising amounts."
    )


class PriceChanged(Conflict):
    """Somebody published another version at the same moment."""

    code = "price_changed"
    message = "The price was changed at the same moment. Reload and publish again."


@dataclass(frozen=True)
class Tier:
    """Rates from a month's volume on: `from_amount` microcredits or answers, by `unit`."""

    unit: str
    from_amount: int
    per_message: int | None = None
    input_per_million: int | None = None
    output_per_million: int | None = None
    per_image: int | None = None

    def as_json(self) -> dict[str, Any]:
        """For programs: amounts as decimal strings of credits, answers as a number."""
        messages = self.unit == "messages"
        return {
            "unit": self.unit,
            "from": self.from_amount if messages else format_credits(self.from_amount),
            **_shown(self),
        }


@dataclass(frozen=True)
class Price:
    """One version of a model's price, in microcredits. Unused parts are None.

    The parts are those of `tier`: 0 is where everybody begins each month.
    """

    model_id: str
    version: int
    kind: str
    per_message: int | None = None
    input_per_million: int | None = None
    output_per_million: int | None = None
    per_image: int | None = None
    tiers: tuple[Tier, ...] = ()
    tier: int = 0
    valid_from: int = 0

    def at(self, tier: int) -> "Price":
        """The price with the rates of a tier; of the base price, which is tier 0."""
        assert self.tier == 0
        if tier == 0:
            return self
        rates = self.tiers[tier - 1]
        return replace(
            self,
            tier=tier,
            per_message=rates.per_message,
            input_per_million=rates.input_per_million,
            output_per_million=rates.output_per_million,
            per_image=rates.per_image,
        )

    def after(self, used: Volume) -> "Price":
        """The price for somebody who has used that much of the model this month."""
        reached = 0
        for number, tier in enumerate(self.tiers, start=1):
            amount = used.credits if tier.unit == "credits" else used.messages
            reached = number if amount >= tier.from_amount else reached
        return self.at(reached)

    def as_json(self) -> dict[str, Any]:
        """For programs: amounts as decimal strings of credits."""
        return {
            "kind": self.kind,
            **_shown(self),
            "version": self.version,
            "tiers": [tier.as_json() for tier in self.tiers],
        }


def current(session: Session, model_id: str, now: int) -> Price:
    """The price in force at `now`, before any volume; raises Unpriced.

    The first price has no beginning: a clock that was set back takes no model off the shelf.
    """
    row = session.exec(
        select(PriceRow)
        .where(
            PriceRow.model_id == model_id, (PriceRow.valid_from <= now) | (PriceRow.version == 1)
        )
        .order_by(col(PriceRow.version).desc())
        .limit(1)
    ).first()
    if row is None:
        raise Unpriced(model=model_id)
    return _price(session, row)


def for_user(session: Session, model_id: str, *, user_id: int, now: int) -> Price:
    """What the user pays at `now`, by what they have used of the model this month.

    Raises Unpriced, or NotOffered when the model is off the shelf.
    """
    if not offered(session, model_id):
        raise NotOffered(model=model_id)
    price = current(session, model_id, now)
    if not price.tiers:
        return price
    return price.after(usage.volume(session, user_id=user_id, model=model_id, now=now))


def version(session: Session, model_id: str, version: int, tier: int = 0) -> Price:
    """One version and tier, as a hold has pinned them; raises Unpriced."""
    row = session.exec(
        select(PriceRow).where(PriceRow.model_id == model_id, PriceRow.version == version)
    ).first()
    if row is None:
        raise Unpriced(model=model_id)
    return _price(session, row).at(tier)


def versions(session: Session, model_id: str | None = None) -> list[Price]:
    """All versions, of one model or of all, newest first."""
    query = select(PriceRow).order_by(col(PriceRow.model_id), col(PriceRow.version).desc())
    if model_id is not None:
        query = query.where(PriceRow.model_id == model_id)
    return [_price(session, row) for row in session.exec(query)]


def publish(
    session: Session,
    *,
    model_id: str,
    kind: str,
    per_message: int | None = None,
    input_per_million: int | None = None,
    output_per_million: int | None = None,
    per_image: int | None = None,
    tiers: Sequence[Tier] = (),
    now: int,
    valid_from: int | None = None,
) -> Price:
    """Add the next version of a model's price, in force from `valid_from` or at once.

    Raises BadPrice, or PriceChanged when two are published at the same moment.
    """
    price = Price(
        model_id=model_id,
        version=next_version(session, model_id),
        kind=kind,
        per_message=per_message,
        input_per_million=input_per_million,
        output_per_million=output_per_million,
        per_image=per_image,
        tiers=tuple(tiers),
        valid_from=now if valid_from is None else valid_from,
    )
    check(price)
    row = PriceRow(
        model_id=model_id,
        version=price.version,
        kind=kind,
        per_message=per_message,
        input_per_million=input_per_million,
        output_per_million=output_per_million,
        per_image=per_image,
        valid_from=price.valid_from,
    )
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
            assert row.id is not None
            for number, tier in enumerate(tiers, start=1):
                session.add(
                    PriceTierRow(
                        price_id=row.id,
                        tier=number,
                        unit=tier.unit,
                        from_amount=tier.from_amount,
                        per_message=tier.per_message,
                        input_per_million=tier.input_per_million,
                        output_per_million=tier.output_per_million,
                        per_image=tier.per_image,
                    )
                )
            session.flush()
    except IntegrityError as error:
        raise PriceChanged(model=model_id) from error
    return price


def next_version(session: Session, model_id: str) -> int:
    """The number that the model's next published price gets."""
    newest = session.exec(
        select(PriceRow.version)
        .where(PriceRow.model_id == model_id)
        .order_by(col(PriceRow.version).desc())
        .limit(1)
    ).first()
    return (newest or 0) + 1


def offered(session: Session, model_id: str) -> bool:
    """Whether the model is on the shelf; it is unless somebody took it off."""
    row = Books(session).one(_OFFERED, model_id=model_id)
    return row is None or bool(row[0])


def offer(session: Session, model_id: str, *, offered: bool, now: int) -> bool:
    """Put a model on the shelf or take it off; whether that changed anything."""
    row = session.get(OfferRow, model_id)
    if (row is None or row.offered) == offered:
        return False
    row = row or OfferRow(model_id=model_id, offered=offered, changed_at=now)
    row.offered, row.changed_at = offered, now
    session.add(row)
    session.flush()
    return True


def seed(
    session: Session,
    *,
    prices: Mapping[str, int],
    now: int,
    images: Mapping[str, int] | None = None,
) -> None:
    """Give a first price by message, and by image (microcredits), to models that have none."""
    for model_id, micro in sorted(prices.items()):
        found = session.exec(
            select(PriceRow.id).where(PriceRow.model_id == model_id).limit(1)
        ).first()
        if found is None:
            try:
                publish(
                    session,
                    model_id=model_id,
                    kind="per_message",
                    per_message=micro,
                    per_image=(images or {}).get(model_id),
                    now=now,
                )
            except PriceChanged:  # another process is starting and was faster
                continue


def cost(price: Price, *, prompt_tokens: int, completion_tokens: int, images: int = 0) -> int:
    """What an answer costs in microcredits, rounded up once. `images` are the question's."""
    assert prompt_tokens >= 0
    assert completion_tokens >= 0
    assert images >= 0
    if completion_tokens == 0:
        return 0
    by_token = prompt_tokens * (price.input_per_million or 0) + completion_tokens * (
        price.output_per_million or 0
    )
    return (price.per_message or 0) + images * (price.per_image or 0) - (-by_token // 1_000_000)


def share(micro: int, *, percent: int) -> int:
    """A part of a cost in whole percent, in microcredits, rounded up once."""
    assert 0 <= percent <= 100
    return -(-micro * percent // 100)


def maximum(price: Price, *, prompt_tokens: int, max_tokens: int, images: int = 0) -> int:
    """The most that an answer of at most `max_tokens` can cost, in microcredits."""
    return cost(
        price, prompt_tokens=prompt_tokens, completion_tokens=max(1, max_tokens), images=images
    )


def longest(
    price: Price, *, prompt_tokens: int, max_tokens: int, limit: int, images: int = 0
) -> int:
    """How many tokens, at most `max_tokens`, cost no more than `limit` microcredits; 0 if none."""
    first = cost(price, prompt_tokens=prompt_tokens, completion_tokens=1, images=images)
    if first > limit:
        return 0
    if not price.output_per_million:
        return max_tokens
    left = limit - (price.per_message or 0) - images * (price.per_image or 0)
    by_token = left * 1_000_000 - prompt_tokens * (price.input_per_million or 0)
    return min(max_tokens, by_token // price.output_per_million)


def check(price: Price) -> None:
    """Raise BadPrice for parts that are no amounts, do not fit the kind, or are out of range.

    Rates by tier have the same parts; their amounts rise, in one unit.
    """
    _check_parts(price.kind, price)
    if len(price.tiers) > MAX_TIERS:
        raise BadPrice
    before = 0
    for tier in price.tiers:
        _check_parts(price.kind, tier)
        most = MAX_FROM.get(tier.unit, 0)
        same = tier.unit == price.tiers[0].unit
        if not same or type(tier.from_amount) is not int or not before < tier.from_amount <= most:
            raise BadPrice
        before = tier.from_amount


def _check_parts(kind: str, rates: "Price | Tier") -> None:
    by_token = (rates.input_per_million, rates.output_per_million)
    wanted = {
        "per_message": rates.per_message is not None and by_token == (None, None),
        "per_token": rates.per_message is None and None not in by_token,
        "mixed": rates.per_message is not None and None not in by_token,
    }
    if not wanted.get(kind, False):
        raise BadPrice
    limits = [
        (rates.per_message, MAX_PER_MESSAGE),
        (rates.per_image, MAX_PER_MESSAGE),
        (rates.input_per_million, MAX_PER_MILLION),
        (rates.output_per_million, MAX_PER_MILLION),
    ]
    # A float here is a bug or a NaN, and compares as it likes.
    if any(
        part is not None and (type(part) is not int or not 0 <= part <= most)
        for part, most in limits
    ):
        raise BadPrice


def _shown(rates: "Price | Tier") -> dict[str, str | None]:
    parts = ("per_message", "input_per_million", "output_per_million", "per_image")
    amounts = {name: getattr(rates, name) for name in parts}
    return {
        name: None if micro is None else format_credits(micro) for name, micro in amounts.items()
    }


def _price(session: Session, row: PriceRow) -> Price:
    tiers = Books(session).rows(_TIERS, price_id=row.id)
    return Price(
        model_id=row.model_id,
        version=row.version,
        kind=row.kind,
        per_message=row.per_message,
        input_per_million=row.input_per_million,
        output_per_million=row.output_per_million,
        per_image=row.per_image,
        tiers=tuple(Tier(*tier) for tier in tiers),
        valid_from=row.valid_from,
    )
