"""Repricing: what the answers of a past time would have cost at another price.

Each answer keeps the share of its list price that it was charged: what was free stays free, and
an answer from the cache keeps its discount. Volumes for tiers are counted anew.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlalchemy import text
from sqlmodel import Session

from chat_app.credits import pricing, rollups
from chat_app.credits.pricing import Price
from chat_app.credits.sql import Books, Statement
from chat_app.credits.usage import Volume

SAMPLE_PROMPT, SAMPLE_COMPLETION = 300, 400
_ROWS = text(
    """SELECT user_id, at, price_version, price_tier, prompt_tokens, completion_tokens, cost, status
    FROM "usage" WHERE at >= :since AND at < :until AND model = :model ORDER BY at, id"""
)
_BY_MODEL = Statement(
    """SELECT model, SUM(messages), SUM(cost) FROM usage_day
    WHERE starts_at >= :since AND starts_at < :until GROUP BY model ORDER BY model"""
)


@dataclass
class Change:
    """Messages, and microcredits `before` and `after`."""

    messages: int = 0
    before: int = 0
    after: int = 0


@dataclass
class Repriced:
    """The answers of one model: in all, and by user id."""

    total: Change = field(default_factory=Change)
    users: dict[int, Change] = field(default_factory=dict)


def again(session: Session, price: Price, *, since: int, until: int) -> Repriced:
    """What the model's answers from `since` to before `until` (µs) would have cost at `price`.

    Reads them one by one, so that the rounding and the tiers are exact.
    """
    found = Repriced()
    # Who is how far in a month's volume is known only from the month's beginning.
    first = rollups.month_start(since) if price.tiers else since
    lists: dict[tuple[int, int], Price] = {}
    volumes: dict[tuple[int, int], Volume] = {}
    values = {"model": price.model_id, "since": first, "until": until}
    rows = session.execute(_ROWS, values, execution_options={"yield_per": 5000})
    for user_id, at, version, tier, prompt, completion, charged, status in rows:
        tokens = {"prompt_tokens": prompt, "completion_tokens": completion}
        if (version, tier) not in lists:
            lists[version, tier] = pricing.version(session, price.model_id, version, tier)
        delivered = rollups.delivered(completion_tokens=completion, status=status)
        used = (
            volumes.get((user_id, rollups.month_start(at)), Volume()) if price.tiers else Volume()
        )
        new = _same_share(
            pricing.cost(price.after(used), **tokens),
            of=pricing.cost(lists[version, tier], **tokens),
            charged=charged,
            delivered=delivered,
        )
        if price.tiers:
            volumes[user_id, rollups.month_start(at)] = Volume(
                used.credits + new, used.messages + delivered
            )
        if at >= since:
            for change in (found.total, found.users.setdefault(user_id, Change())):
                change.messages += 1
                change.before += charged
                change.after += new
    return found


def by_model(session: Session, *, since: int, until: int) -> Iterator[tuple[str, int, int]]:
    """Every model that was used on whole days from `since`: its messages and microcredits."""
    for model, messages, cost in Books(session).rows(_BY_MODEL, since=since, until=until):
        yield model, int(messages), int(cost)


def factor(before: Price, after: Price) -> float:
    """How many times a price goes up or down, by the part or sample message that moves most.

    Tiers are measured too: against the tier of the same number, else against the base.
    """
    worst = _factor(before, after)
    for number in range(1, len(after.tiers) + 1):
        earlier = before.at(number) if number <= len(before.tiers) else after
        worst = max(worst, _factor(earlier, after.at(number)))
    return worst


def sample_cost(price: Price) -> int:
    """What a message of 300 tokens in and 400 out costs, in microcredits."""
    return pricing.cost(price, prompt_tokens=SAMPLE_PROMPT, completion_tokens=SAMPLE_COMPLETION)


def _factor(before: Price, after: Price) -> float:
    pairs = [(sample_cost(before), sample_cost(after))]
    for name in ("per_message", "input_per_million", "output_per_million", "per_image"):
        one, other = getattr(before, name), getattr(after, name)
        if one is not None and other is not None:
            pairs.append((one, other))
    return max(_ratio(*pair) for pair in pairs)


def _ratio(one: int, other: int) -> float:
    low, high = sorted((one, other))
    if high == 0:
        return 1.0
    return high / low if low else float("inf")


def _same_share(listed: int, *, of: int, charged: int, delivered: bool) -> int:
    if of == 0:  # it was free then; nobody knows what share of nothing was charged
        return listed if delivered else 0
    return -(-listed * charged // of)
