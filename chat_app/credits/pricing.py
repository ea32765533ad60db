"""Prices: versioned, never negative, and rounded once for each message.

A model without a price is not for sale. A price by message is due in full as soon as the
answer has one token; prices by token follow the tokens. An answer without tokens is free.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from chat_app.credits.tables import PriceRow
from chat_app.errors import Conflict, Invalid, NotFound
from chat_app.money import MICRO, format_credits

KINDS = ("per_message", "per_token", "mixed")
# A typing error in the unit (a price for one token as the price for a million, or the other
# way round) lands far outside of this.
MAX_PER_MESSAGE = 100_000 * MICRO
MAX_PER_MILLION = 10_000_000 * MICRO


class Unpriced(NotFound):
    """The model has no price, so it is not for sale."""

    code = "unpriced"
    message = "This model has no price yet and cannot be used. Choose another model."


class BadPrice(Invalid):
    """The parts of the price do not fit its kind, or are out of range."""

    code = "bad_price"
    message = (
        "This price is not possible. Parts are zero or more credits, and a price by token "
        "needs one for the input and one for the output."
    )


class PriceChanged(Conflict):
    """Somebody published another version at the same moment."""

    code = "price_changed"
    message = "The price was changed at the same moment. Reload and publish again."


@dataclass(frozen=True)
class Price:
    """One version of a model's price, in microcredits. Unused parts are None."""

    model_id: str
    version: int
    kind: str
    per_message: int | None = None
    input_per_million: int | None = None
    output_per_million: int | None = None
    per_image: int | None = None

    def as_json(self) -> dict[str, Any]:
        """For programs: amounts as decimal strings of credits."""

        def shown(micro: int | None) -> str | None:
            return None if micro is None else format_credits(micro)

        return {
            "kind": self.kind,
            "per_message": shown(self.per_message),
            "input_per_million": shown(self.input_per_million),
            "output_per_million": shown(self.output_per_million),
            "per_image": shown(self.per_image),
            "version": self.version,
        }


def current(session: Session, model_id: str, now: int) -> Price:
    """The price in force at `now`; raises Unpriced."""
    row = session.exec(
        select(PriceRow)
        .where(PriceRow.model_id == model_id, PriceRow.valid_from <= now)
        .order_by(col(PriceRow.version).desc())
        .limit(1)
    ).first()
    if row is None:
        raise Unpriced(model=model_id)
    return _price(row)


def version(session: Session, model_id: str, version: int) -> Price:
    """One version, as a hold has pinned it; raises Unpriced."""
    row = session.exec(
        select(PriceRow).where(PriceRow.model_id == model_id, PriceRow.version == version)
    ).first()
    if row is None:
        raise Unpriced(model=model_id)
    return _price(row)


def publish(
    session: Session,
    *,
    model_id: str,
    kind: str,
    per_message: int | None = None,
    input_per_million: int | None = None,
    output_per_million: int | None = None,
    per_image: int | None = None,
    now: int,
    valid_from: int | None = None,
) -> Price:
    """Add the next version of a model's price, in force from `valid_from` or at once.

    Raises BadPrice, or PriceChanged when two are published at the same moment.
    """
    _check(kind, per_message, input_per_million, output_per_million, per_image)
    newest = session.exec(
        select(PriceRow.version)
        .where(PriceRow.model_id == model_id)
        .order_by(col(PriceRow.version).desc())
        .limit(1)
    ).first()
    row = PriceRow(
        model_id=model_id,
        version=(newest or 0) + 1,
        kind=kind,
        per_message=per_message,
        input_per_million=input_per_million,
        output_per_million=output_per_million,
        per_image=per_image,
        valid_from=now if valid_from is None else valid_from,
    )
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError as error:
        raise PriceChanged(model=model_id) from error
    return _price(row)


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
    """What an answer costs in microcredits, rounded up once; `images` are the question's."""
    assert prompt_tokens >= 0
    assert completion_tokens >= 0
    assert images >= 0
    if completion_tokens == 0:
        return 0
    by_token = prompt_tokens * (price.input_per_million or 0) + completion_tokens * (
        price.output_per_million or 0
    )
    by_message = (price.per_message or 0) + images * (price.per_image or 0)
    return by_message - (-by_token // 1_000_000)


def share(micro: int, *, percent: int) -> int:
    """A part of a cost in whole percent, in microcredits, rounded up once."""
    assert 0 <= percent <= 100
    return -(-micro * percent // 100)


def maximum(price: Price, *, prompt_tokens: int, max_tokens: int, images: int = 0) -> int:
    """The most that an answer of at most `max_tokens` can cost, in microcredits."""
    most = max(1, max_tokens)
    return cost(price, prompt_tokens=prompt_tokens, completion_tokens=most, images=images)


def _check(
    kind: str,
    per_message: int | None,
    input_per_million: int | None,
    output_per_million: int | None,
    per_image: int | None,
) -> None:
    by_token = (input_per_million, output_per_million)
    wanted = {
        "per_message": per_message is not None and by_token == (None, None),
        "per_token": per_message is None and None not in by_token,
        "mixed": per_message is not None and None not in by_token,
    }
    if not wanted.get(kind, False):
        raise BadPrice
    limits = [
        (per_message, MAX_PER_MESSAGE),
        (per_image, MAX_PER_MESSAGE),
        (input_per_million, MAX_PER_MILLION),
        (output_per_million, MAX_PER_MILLION),
    ]
    if any(part is not None and not 0 <= part <= most for part, most in limits):
        raise BadPrice


def _price(row: PriceRow) -> Price:
    return Price(
        model_id=row.model_id,
        version=row.version,
        kind=row.kind,
        per_message=row.per_message,
        input_per_million=row.input_per_million,
        output_per_million=row.output_per_million,
        per_image=row.per_image,
    )
