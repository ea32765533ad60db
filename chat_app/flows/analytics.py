"""Analytics: somebody's own use in a period, beside the period before, and what to make of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlmodel import Session

from chat_app.app import App
from chat_app.chat import figures
from chat_app.clock import MICROS_PER_SECOND
from chat_app.credits import ledger, lots, patterns, pricing, rollups, usage
from chat_app.credits.patterns import ModelUse
from chat_app.credits.usage import UsageLine
from chat_app.errors import Invalid
from chat_app.flows import shelf

if TYPE_CHECKING:
    from chat_app.ml.usage import Advice, Use

DAY = 24 * 3600 * MICROS_PER_SECOND
LONGEST_DAYS = 366
DEFAULT_DAYS = 30
MOST_SHIFT_MINUTES = 14 * 60


class BadRange(Invalid):
    """The range ends before it begins, or is too long."""

    code = "bad_range"
    message = f"A range has from one day to {LONGEST_DAYS} days. Give `from` and a later `to`."


@dataclass(frozen=True)
class Sums:
    """What a period came to; `credits` in microcredits. `answers` delivered something."""

    messages: int = 0
    answers: int = 0
    credits: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: int = 0
    active_days: int = 0

    @property
    def tokens(self) -> int:
        """Read and written."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def each(self) -> int | None:
        """Microcredits for an answer."""
        return round(self.credits / self.answers) if self.answers else None


@dataclass(frozen=True)
class Score:
    """From 0 to 100, with its parts; `basis` is `ranks` or `scale`, `people` who were ranked."""

    score: float
    parts: dict[str, float]
    basis: str
    people: int


@dataclass(frozen=True)
class View:
    """Everything the analytics show. Times in µs; `lines` by UTC day; `hours` Monday first."""

    since: int
    until: int
    now: Sums
    before: Sums
    lines: list[UsageLine]
    lines_before: list[UsageLine]
    models: list[ModelUse]
    hours: list[list[int]]
    score: Score | None
    advice: "list[Advice]"
    tokens_per_credit: float | None


def bounds(app: App, *, since: int | None, until: int | None) -> tuple[int, int]:
    """Whole UTC days from the one of `since` to the one before `until`; raises BadRange.

    Without them the last thirty days, today included.
    """
    now = app.clock.micros()
    end = now if until is None else until - 1
    end = rollups.start_of("day", end) + DAY
    start = end - DEFAULT_DAYS * DAY if since is None else rollups.start_of("day", since)
    if not 0 < end - start <= LONGEST_DAYS * DAY:
        raise BadRange
    return start, end


def of(
    app: App, *, user_id: int, since: int | None = None, until: int | None = None, shift: int = 0
) -> View:
    """The user's analytics; hours are those of the zone `shift` minutes from UTC. Blocking.

    Raises BadRange.
    """
    from chat_app.ml import usage as rules

    start, end = bounds(app, since=since, until=until)
    if abs(shift) > MOST_SHIFT_MINUTES:
        raise BadRange
    with app.db.read() as session:
        now_sums, lines, models = _period(session, user_id, start, end)
        before_sums, lines_before, _ = _period(session, user_id, 2 * start - end, start)
        micros = app.clock.micros()
        hours = patterns.hours(
            session, user_id=user_id, since=start, until=end, shift=shift * 60 * MICROS_PER_SECOND
        )
        balance = ledger.balance(session, user_id=user_id)
        left = usage.runout(session, user_id=user_id, available=balance.available, now=micros)
        ending = lots.next_end(session, user_id=user_id, now=micros)
        uses = _uses(app, session, models, micros)
        today = rollups.start_of("day", micros) + DAY
        people = patterns.habits(session, since=today - rules.WINDOW_DAYS * DAY, until=today)
    advice = rules.recommend(
        rules.Facts(
            uses=uses,
            cost_before=before_sums.credits,
            answers_before=before_sums.answers,
            cached=now_sums.cached,
            days_left=left.days,
            ending=ending.micro if ending else 0,
            ending_days=(ending.at - micros) / DAY if ending else None,
        )
    )
    return View(
        start, end, now_sums, before_sums, lines, lines_before, models, hours,
        _score(people, user_id, today), advice, rules.efficiency(uses).tokens_per_credit,
    )  # fmt: skip


def _period(
    session: Session, user_id: int, since: int, until: int
) -> tuple[Sums, list[UsageLine], list[ModelUse]]:
    window = {"user_id": user_id, "since": max(since, 0), "until": until}
    lines = usage.lines(session, period="day", **window)
    models = patterns.models(session, **window)
    sums = Sums(
        messages=sum(row.messages for row in lines),
        answers=sum(row.answers for row in models),
        credits=sum(row.credits for row in lines),
        prompt_tokens=sum(row.prompt_tokens for row in lines),
        completion_tokens=sum(row.completion_tokens for row in lines),
        cached=figures.cached(session, **window),
        active_days=len({row.at for row in lines}),
    )
    return sums, lines, models


def _uses(app: App, session: Session, models: Sequence[ModelUse], now: int) -> "list[Use]":
    """The rules' view of each model: with its name, and the cheapest other one for such answers."""
    from chat_app.ml.usage import Use

    views = shelf.models(app, session=session)
    names = {view.id: view.name for view in views}
    uses = []
    for row in models:
        prompt = round(row.prompt_tokens / max(row.answers, 1))
        others = [
            (
                pricing.cost(
                    view.price, prompt_tokens=prompt, completion_tokens=patterns.SHORT_TOKENS
                ),
                view.name,
            )
            for view in views
            if view.id != row.model and view.available and not view.demo
        ]
        each, instead = min(others, default=(None, None))
        uses.append(
            Use(
                name=names.get(row.model, row.model),
                answers=row.answers,
                cost=row.cost,
                prompt_tokens=row.prompt_tokens,
                completion_tokens=row.completion_tokens,
                short=row.short,
                short_cost=row.short_cost,
                stopped=row.stopped,
                stopped_cost=row.stopped_cost,
                messages=row.messages,
                instead=instead,
                instead_each=each,
            )
        )
    return uses


def _score(people: Sequence[patterns.Habits], user_id: int, until: int) -> Score | None:
    """The user's place among everybody; None without an answer in four weeks."""
    from chat_app.ml import usage as rules

    if all(one.user_id != user_id for one in people):
        return None
    table = rules.behaviour(rules.table_of(people, until=until - DAY, day=DAY))
    mine = table[table["user_id"] == user_id].iloc[0]
    marks = {name: round(float(mine[name]), 1) for name in rules.PARTS}
    return Score(round(float(mine["score"]), 1), marks, str(mine["basis"]), len(people))
