"""The key figures of revenue in a span of days, each beside the equal span before and a year."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlmodel import Session

from chat_app.app import App
from chat_app.clock import to_micros
from chat_app.credits import takings
from chat_app.flows import revenue_figures
from chat_app.revenue import journals, months, spans
from chat_app.revenue.months import Month
from chat_app.revenue.spans import Span

HISTORY = 12
Kind = Literal["minor", "share"]


@dataclass(frozen=True)
class Figure:
    """A key figure now and in the span before. `spark`: the last twelve months, the oldest first.

    Minor units, or a share; None where there is nothing to compare.
    """

    name: str
    kind: Kind
    value: float | None
    before: float | None
    spark: tuple[float | None, ...] = ()

    @property
    def change(self) -> float | None:
        """How much it has changed: a share of what it was, for shares the difference."""
        if self.value is None or self.before is None:
            return None
        if self.kind == "share":
            return self.value - self.before
        return (self.value - self.before) / abs(self.before) if self.before else None


@dataclass(frozen=True)
class Overview:
    """The key figures of a span in one currency; `month` are its sums of the money ledger."""

    span: Span
    before: Span
    currency: str
    currencies: list[str]
    months: list[str]
    month: Month
    figures: list[Figure]

    def __getitem__(self, name: str) -> Figure:
        return next(one for one in self.figures if one.name == name)


def overview(app: App, *, span: Span, currency: str | None = None) -> Overview:
    """Everything that the cards of a span show."""
    last, before = span.last, span.before
    year = Span(spans.back(last.replace(day=1), HISTORY - 1), last)
    names = [f"{spans.back(last.replace(day=1), ago):%Y-%m}" for ago in reversed(range(HISTORY))]
    end, then = revenue_figures.end_of(app, span), revenue_figures.end_of(app, before)
    with app.db.read() as session:
        rows = months.roll_forward(session, since=year.first.isoformat(), until=last.isoformat())
        periods = takings.plan_periods(session, until=to_micros(end))
        both = [_sums(session, one) for one in (span, before)]
        earning = {code for code, row in both[0].items() if row.closing or row.recognized}
        known = sorted(earning | {one.currency for one in periods})
        chosen = currency or (known[0] if known else "USD")
        now, was = (_month(found, chosen) for found in both)
        due = [_due(session, moment, chosen) for moment in (end, then)]
        run = [_run_rate(session, moment, chosen) for moment in (end, then)]
    by_month = {row.period: row for row in rows if row.currency == chosen}
    opening = next(iter(by_month.values())).opening if by_month else now.opening
    figures = [
        Figure(name, "minor", value(now), value(was), _spark(by_month, names, opening, name))
        for name, value in _LEDGER.items()
    ]
    figures += _recurring(periods, (span, end), (before, then), chosen)
    figures.append(Figure("run_rate_minor", "minor", run[0], run[1]))
    figures.append(Figure("open_minor", "minor", due[0], due[1]))
    return Overview(span, before, chosen, known or [chosen], names, now, figures)


_LEDGER: dict[str, Callable[[Month], int]] = {
    "earned_minor": lambda row: row.recognized,
    "cost_minor": lambda row: row.cost,
    "margin_minor": lambda row: row.recognized - row.cost,
    "billed_minor": lambda row: row.billed,
    "refunded_minor": lambda row: row.refunded,
    "deferred_minor": lambda row: row.closing,
}


def _recurring(
    periods: Sequence[takings.PlanPeriod],
    now: tuple[Span, datetime],
    then: tuple[Span, datetime],
    currency: str,
) -> list[Figure]:
    import pandas as pd

    from chat_app.revenue import metrics

    moves = revenue_figures.movements(periods)
    (span, end), (before, ended) = now, then
    new = metrics.compute(moves, end, currency, since=min(span.begin, end))
    old = metrics.compute(moves, ended, currency, since=before.begin)
    history = metrics.history(moves, end, months=HISTORY, currency=currency)

    def spark(name: str) -> tuple[float | None, ...]:
        return tuple(None if pd.isna(value) else float(value) for value in history[name])

    kinds: tuple[tuple[str, Kind], ...] = (
        ("mrr_minor", "minor"), ("arr_minor", "minor"), ("nrr", "share"), ("grr", "share"),
        ("logo_churn", "share"),
    )  # fmt: skip
    return [
        Figure(name, kind, getattr(new, name), getattr(old, name), spark(name))
        for name, kind in kinds
    ]


def _sums(session: Session, span: Span) -> dict[str, Month]:
    found = months.between(session, since=span.first.isoformat(), until=span.last.isoformat())
    return {row.currency: row for row in found}


def _month(found: dict[str, Month], currency: str) -> Month:
    return found.get(currency) or Month("", currency, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def _spark(
    rows: dict[str, Month], names: Sequence[str], opening: int, figure: str
) -> tuple[float | None, ...]:
    """A figure by month; in a month without postings nothing moved."""
    found, owed = [], opening
    for name in names:
        row = rows.get(name)
        owed = row.closing if row else owed
        quiet = owed if figure == "deferred_minor" else 0
        found.append(float(_LEDGER[figure](row) if row else quiet))
    return tuple(found)


def _due(session: Session, at: datetime, currency: str) -> int:
    """What customers owe on sent invoices."""
    found = takings.open_invoices(session, at=to_micros(at))
    return sum(one.open_minor for one in found if one.currency == currency)


def _run_rate(session: Session, at: datetime, currency: str) -> int:
    """The usage of the thirty days up to a moment, as a year."""
    first = at.date() - revenue_figures.LATELY
    used = journals.balances(session, since=first.isoformat(), until=at.date().isoformat())
    return revenue_figures.a_year(-used.get(("revenue:usage", currency), 0))
