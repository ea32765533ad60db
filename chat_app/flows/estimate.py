"""An estimate: what chatting costs in a day and a month, how long credits last, what to buy.

Plain arithmetic on the price in force and the user's volume of this month; nothing is stored.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sqlmodel import Session

from chat_app.app import App
from chat_app.credits import ledger, packages, pricing, usage
from chat_app.credits.packages import Package
from chat_app.credits.pricing import Price
from chat_app.credits.usage import Volume
from chat_app.errors import Invalid

MONTH_DAYS = 30
MAX_MESSAGES_PER_DAY = 100_000
MAX_TOKENS = 1_000_000


class BadEstimate(Invalid):
    """A number that nobody sends in a day, or below zero."""

    code = "bad_estimate"
    message = (
        f"Give 0 to {MAX_MESSAGES_PER_DAY:,} messages a day, and 0 to {MAX_TOKENS:,} tokens "
        "in a message."
    )


@dataclass(frozen=True)
class Estimate:
    """Microcredits for a message, a day and 30 days, in which tiers are reached on the way.

    `days` the available credits last, None when they are not used up. `package` is the smallest
    one that pays for the month, else the largest; `packages` how many of it are needed.
    `affordable` messages a day keep the month within the budget, None without a budget. `price`
    is the user's now, `base` that of everybody at the beginning of a month.
    """

    price: Price
    base: Price
    per_message: int
    per_day: int
    per_month: int
    available: int
    days: float | None
    package: Package | None
    packages: int
    affordable: int | None = None


def of_chatting(
    app: App,
    session: Session,
    *,
    user_id: int,
    model: str,
    messages_per_day: int,
    prompt_tokens: int,
    completion_tokens: int,
    budget: int | None = None,
) -> Estimate:
    """What so many messages a day of such a length cost; `budget` in microcredits a month.

    Raises BadEstimate, or what pricing raises for a model that is not for sale.
    """
    if not (
        0 <= messages_per_day <= MAX_MESSAGES_PER_DAY
        and 0 <= prompt_tokens <= MAX_TOKENS
        and 0 <= completion_tokens <= MAX_TOKENS
    ):
        raise BadEstimate
    now = app.clock.micros()
    mine = pricing.for_user(session, model, user_id=user_id, now=now)
    base = pricing.version(session, model, mine.version)
    used = usage.volume(session, user_id=user_id, model=model, now=now)
    tokens = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}

    def cost_of(messages: int) -> int:
        return _total(base, used, messages=messages, **tokens)

    per_day = cost_of(messages_per_day)
    per_month = cost_of(messages_per_day * MONTH_DAYS)
    available = ledger.balance(session, user_id=user_id).available
    package, count = _fitting(packages.list_packages(session), per_month)
    return Estimate(
        price=mine,
        base=base,
        per_message=pricing.cost(mine, **tokens),
        per_day=per_day,
        per_month=per_month,
        available=available,
        days=available * MONTH_DAYS / per_month if per_month else None,
        package=package,
        packages=count,
        affordable=None if budget is None else _most(cost_of, budget),
    )


def _total(
    base: Price, used: Volume, *, messages: int, prompt_tokens: int, completion_tokens: int
) -> int:
    """What `messages` more of one size cost, tier by tier."""
    spent = 0
    while messages > 0:
        now = base.after(used)
        each = pricing.cost(now, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
        count = messages
        if completion_tokens and now.tier < len(base.tiers):
            following = base.tiers[now.tier]
            if following.unit == "messages":
                count = min(messages, following.from_amount - used.messages)
            elif each:
                count = min(messages, -(-(following.from_amount - used.credits) // each))
        spent += count * each
        used = Volume(used.credits + count * each, used.messages + count)
        messages -= count
    return spent


def _most(cost_of: Callable[[int], int], budget: int) -> int:
    """The most messages a day that keep a month within `budget`."""
    low, high = 0, MAX_MESSAGES_PER_DAY
    while low < high:
        middle = (low + high + 1) // 2
        if cost_of(middle * MONTH_DAYS) <= budget:
            low = middle
        else:
            high = middle - 1
    return low


def _fitting(offers: list[Package], micro: int) -> tuple[Package | None, int]:
    """The smallest package that has so much, else the largest, and how many of it."""
    if not offers or not micro:
        return None, 0
    by_size = sorted(offers, key=lambda offer: offer.credits + offer.bonus_credits)
    for offer in by_size:
        if offer.credits + offer.bonus_credits >= micro:
            return offer, 1
    largest = by_size[-1]
    return largest, -(-micro // (largest.credits + largest.bonus_credits))
