"""Usage patterns: how somebody uses the chat, as a score, an efficiency and advice.

The score ranks people among each other; the advice are rules, each with the number behind it.
Knows no database and no page.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from chat_app.revenue import frames

PARTS = ("frequency", "recency", "depth", "regularity")
LEAST_PEOPLE = 20
WINDOW_DAYS = 28
# What is full marks while there are too few people to rank.
FULL_DAYS, FULL_DEPTH = 20, 10
_COLUMNS = ("user_id", "active_days", "active_weeks", "days_ago", "answers")
# Rules speak up from here on.
DEAR_SHARE, LONG_PROMPT, PROMPT_SHARE, STOPPED_SHARE = 0.3, 1_500, 0.8, 0.1
SOON_DAYS, MIN_ANSWERS, MIN_SAVED = 14, 5, 1_000_000
FAILED_SHARE, CACHED_SHARE, PACE_CHANGE, FEW_DAYS = 0.05, 0.05, 0.5, 7


def behaviour(table: pd.DataFrame, *, window_days: int = WINDOW_DAYS) -> pd.DataFrame:
    """A score from 0 to 100 for each person.

    Rows of `user_id, active_days, active_weeks, days_ago, answers` in the last `window_days`.
    The mean of four percentile ranks: `frequency` (days with an answer), `recency` (how lately),
    `depth` (answers on such a day) and `regularity` (weeks with one). `basis` is `ranks`, or
    `scale` with fewer than 20 people, who are held against fixed marks. Raises BadFrame.
    """
    people = frames.checked(table, _COLUMNS, name="table")
    for column in _COLUMNS[1:]:
        frames.amounts(people, column, name="table")
    depth = people["answers"] / people["active_days"].clip(lower=1)
    if len(people) >= LEAST_PEOPLE:
        raw = {
            "frequency": people["active_days"],
            "recency": -people["days_ago"],
            "depth": depth,
            "regularity": people["active_weeks"],
        }
        # The middle of equal ranks: nobody is at the top for being like everybody.
        marks = {
            name: 100 * (values.rank(method="average") - 0.5) / len(people)
            for name, values in raw.items()
        }
    else:
        weeks = max(window_days / 7, 1)
        marks = {
            "frequency": 100 * (people["active_days"] / FULL_DAYS).clip(0, 1),
            "recency": 100 * (1 - people["days_ago"] / window_days).clip(0, 1),
            "depth": 100 * (depth / FULL_DEPTH).clip(0, 1),
            "regularity": 100 * (people["active_weeks"] / weeks).clip(0, 1),
        }
    out = pd.DataFrame({"user_id": people["user_id"], **marks})
    out["score"] = out[list(PARTS)].mean(axis=1)
    out["basis"] = "ranks" if len(people) >= LEAST_PEOPLE else "scale"
    return out


@dataclass(frozen=True)
class Use:
    """What somebody's answers of one model used; costs in microcredits.

    `instead` and `instead_each`: the name of the cheapest other model that is for sale and what
    its answer of the usual size would cost; None when there is none.
    """

    name: str
    answers: int
    cost: int
    prompt_tokens: int
    completion_tokens: int
    short: int = 0
    short_cost: int = 0
    stopped: int = 0
    stopped_cost: int = 0
    messages: int = 0
    instead: str | None = None
    instead_each: int | None = None


@dataclass(frozen=True)
class Facts:
    """What the rules look at. Credits in microcredits, `cost_before` is the period before."""

    uses: Sequence[Use] = field(default_factory=tuple)
    cost_before: int = 0
    answers_before: int = 0
    cached: int = 0
    days_left: float | None = None
    ending: int = 0
    ending_days: float | None = None


@dataclass(frozen=True)
class Advice:
    """A rule that applies: its code, the number behind it with its unit, and a sentence."""

    code: str
    value: float
    figure: str
    sentence: str


@dataclass(frozen=True)
class Efficiency:
    """None where there is nothing to divide by. Credits, not microcredits."""

    credits_per_answer: float | None
    tokens_per_credit: float | None
    answer_share_of_tokens: float | None


def efficiency(uses: Sequence[Use]) -> Efficiency:
    """What credits bought: the cost of an answer, tokens for a credit, and how many were answer."""
    answers, cost = sum(use.answers for use in uses), sum(use.cost for use in uses)
    made = sum(use.completion_tokens for use in uses)
    tokens = made + sum(use.prompt_tokens for use in uses)
    return Efficiency(
        cost / answers / 1e6 if answers else None,
        tokens / (cost / 1e6) if cost else None,
        made / tokens if tokens else None,
    )


def recommend(facts: Facts) -> list[Advice]:
    """What could be done better, the largest saving first; empty when nothing stands out."""
    found: list[tuple[float, Advice]] = []
    cost = sum(use.cost for use in facts.uses)
    answers = sum(use.answers for use in facts.uses)
    for use in facts.uses:
        found += _cheaper(use, cost)
        found += _long_prompts(use)
    found += _stopped(facts, answers)
    found += _time(facts)
    found += _pace(facts, cost, answers)
    return [advice for _, advice in sorted(found, key=lambda one: -one[0])]


def _cheaper(use: Use, cost: int) -> list[tuple[float, Advice]]:
    """Short answers of a dear model that a cheaper one could give."""
    if use.instead is None or use.instead_each is None or use.short < MIN_ANSWERS:
        return []
    saved = use.short_cost - use.short * use.instead_each
    if saved < max(MIN_SAVED, DEAR_SHARE * use.short_cost) or not cost:
        return []
    sentence = (
        f"{use.short} of {use.answers} answers of {use.name} were short and cost "
        f"{_credits(use.short_cost)} credits. {use.instead} would have taken about "
        f"{_credits(use.short * use.instead_each)} for them."
    )
    return [(saved, Advice("cheaper_model", saved / 1e6, f"−{_credits(saved)}", sentence))]


def _long_prompts(use: Use) -> list[tuple[float, Advice]]:
    """Long conversations that are read again for each answer."""
    tokens = use.prompt_tokens + use.completion_tokens
    if use.answers < MIN_ANSWERS or not tokens:
        return []
    each, share = use.prompt_tokens / use.answers, use.prompt_tokens / tokens
    if each < LONG_PROMPT or share < PROMPT_SHARE:
        return []
    sentence = (
        f"For each answer {use.name} read {each:,.0f} tokens of what was said before: "
        f"{share:.0%} of all its tokens. Start a new chat when the subject changes."
    )
    return [(use.cost * 0.2, Advice("long_prompts", share, f"{share:.0%}", sentence))]


def _stopped(facts: Facts, answers: int) -> list[tuple[float, Advice]]:
    found = []
    stopped = sum(use.stopped for use in facts.uses)
    if stopped >= MIN_ANSWERS and stopped > STOPPED_SHARE * answers:
        paid = sum(use.stopped_cost for use in facts.uses)
        sentence = (
            f"You stopped {stopped} of {answers} answers, which cost {_credits(paid)} credits as "
            "far as they came. Ask for a short answer, or set a limit for an answer."
        )
        found.append((float(paid), Advice("stopped", stopped, str(stopped), sentence)))
    silent = sum(max(use.messages - use.answers, 0) for use in facts.uses)
    messages = sum(use.messages for use in facts.uses)
    if silent >= MIN_ANSWERS and silent > FAILED_SHARE * messages:
        sentence = (
            f"{silent} of {messages} messages got no answer; nothing was charged for them. "
            "Another model may be more reliable at the moment."
        )
        found.append((1.0, Advice("failed", silent, str(silent), sentence)))
    if facts.cached >= MIN_ANSWERS and facts.cached > CACHED_SHARE * answers:
        sentence = (
            f"{facts.cached} answers came from your cache because you asked the very same again: "
            "they were there at once and cost less or nothing."
        )
        found.append((2.0, Advice("cached", facts.cached, str(facts.cached), sentence)))
    return found


def _time(facts: Facts) -> list[tuple[float, Advice]]:
    found = []
    if facts.ending and facts.ending_days is not None and facts.ending_days <= SOON_DAYS:
        days = max(facts.ending_days, 0)
        sentence = (
            f"{_credits(facts.ending)} of your credits end in {_days(days)}. "
            "They are used first, so chat a little more until then."
        )
        advice = Advice("ending", facts.ending / 1e6, _credits(facts.ending), sentence)
        found.append((1e12 + facts.ending, advice))
    if facts.days_left is not None and facts.days_left <= FEW_DAYS:
        sentence = (
            f"At your usual pace your credits last {_days(facts.days_left)} more. "
            "Buy some in time, or let them be topped up automatically."
        )
        found.append((2e12, Advice("run_out", facts.days_left, _days(facts.days_left), sentence)))
    return found


def _pace(facts: Facts, cost: int, answers: int) -> list[tuple[float, Advice]]:
    if answers < MIN_ANSWERS or facts.answers_before < MIN_ANSWERS or not facts.cost_before:
        return []
    now, before = cost / answers, facts.cost_before / facts.answers_before
    if not before or now / before < 1 + PACE_CHANGE:
        return []
    sentence = (
        f"An answer costs you {_credits(round(now))} credits now; it was "
        f"{_credits(round(before))} in the period before."
    )
    rise = now / before - 1
    return [((now - before) * answers, Advice("dearer", rise, f"+{rise:.0%}", sentence))]


def _credits(micro: float) -> str:
    value = micro / 1e6
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _days(days: float) -> str:
    if days < 1:
        return "less than a day"
    whole = round(days)
    return f"{whole} day{'' if whole == 1 else 's'}"


def table_of(rows: Sequence[Any], *, until: int, day: int) -> pd.DataFrame:
    """`behaviour`'s table from rows with `user_id, days, weeks, last_at, answers`; times alike."""
    return pd.DataFrame(
        [
            (row.user_id, row.days, row.weeks, max((until - row.last_at) // day, 0), row.answers)
            for row in rows
        ],
        columns=list(_COLUMNS),
    )
