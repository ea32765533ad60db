"""What stands behind the figures of revenue: breakdowns, margins, and who moved MRR.

A breakdown adds up to what the money ledger earned in its time, to the cent: what a lot earned is
shared out over the answers that used it then. Margins take off what is booked as cost.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any, Literal

from sqlalchemy import text
from sqlmodel import Session

from chat_app.app import App
from chat_app.clock import to_micros
from chat_app.credits import takings
from chat_app.credits.takings import PlanPeriod
from chat_app.flows import revenue_costs
from chat_app.revenue.rounding import shares

By = Literal["model", "channel", "organisation", "plan", "country"]
OTHER, ENDED, CORRECTED = "Other", "Credits that ended unused", "Corrections"
UNUSED = "No model ran"
_EARNED = """SELECT p.lot_id, p.payment_id, p.account, -SUM(p.amount_minor)
 FROM posting p JOIN journal j ON j.id = p.journal_id
 WHERE p.account LIKE 'revenue:%' AND p.currency = :currency
  AND j.day >= :since AND j.day <= :until
 GROUP BY p.lot_id, p.payment_id, p.account ORDER BY p.lot_id, p.account"""
_USED = """SELECT lu.lot_id, {label}, SUM(lu.amount), COUNT(*)
 FROM "usage" u JOIN lot_use lu ON lu.transfer_id = u.transfer_id
 JOIN lot l ON l.id = lu.lot_id AND l.price_minor > 0 AND l.currency = :currency {tables}
 WHERE u.at >= :first AND u.at < :end AND lu.kind = 'use'
 GROUP BY 1, 2 ORDER BY 1, 2"""
_BY_ANSWER = {
    "model": ("u.model", ""),
    "channel": (
        """CASE WHEN r.key_id IS NULL THEN 'Browser and sign-in'
         ELSE 'API key ' || COALESCE(k.name, r.key_id) END""",
        "LEFT JOIN reply r ON r.id = u.reply_id LEFT JOIN api_key k ON k.id = r.key_id",
    ),
    "organisation": (
        "COALESCE(o.name, 'Without organisation')",
        "JOIN account a ON a.id = u.account_id LEFT JOIN org o ON o.id = a.org_id",
    ),
}
_BY_ORDER = {
    "plan": """SELECT p.id, COALESCE(e.plan_name, k.name, p.package_code, 'Custom amount')
     FROM payment p LEFT JOIN package k ON k.code = p.package_code
     LEFT JOIN subscription_period e
      ON e.subscription_id = p.subscription_id AND e.number = p.period
     WHERE p.status = 'paid'""",
    "country": """SELECT p.id, COALESCE(NULLIF(MAX(x.jurisdiction), ''), NULLIF(MAX(b.country), ''),
      'Unknown')
     FROM payment p LEFT JOIN billing_details b ON b.user_id = p.user_id
     LEFT JOIN invoice i ON i.payment_id = p.id AND i.kind = 'invoice' AND i.status <> 'void'
     LEFT JOIN invoice_tax x ON x.invoice_id = i.id
     WHERE p.status = 'paid' GROUP BY p.id""",
}


@dataclass(frozen=True)
class Earned:
    """A piece of what was earned, of one order; or how many answers used paid credits."""

    name: str
    payment_id: str | None
    minor: int
    answers: int


@dataclass(frozen=True)
class Part:
    """What one plan, model, country … earned, net of tax; `answers` that used paid credits."""

    name: str
    earned_minor: int
    answers: int


@dataclass(frozen=True)
class Margin:
    """What a model earned and what running it cost, in minor units of one currency."""

    model: str
    earned_minor: int
    cost_minor: int
    answers: int
    tokens: int
    engine_ms: int

    @property
    def margin_minor(self) -> int:
        """What is left."""
        return self.earned_minor - self.cost_minor

    @property
    def share(self) -> float | None:
        """What is left of what was earned; None when nothing was."""
        return self.margin_minor / self.earned_minor if self.earned_minor else None


@dataclass(frozen=True)
class Moved:
    """A customer whose monthly amount changed between two moments."""

    user_id: int
    movement: str
    before_minor: int
    after_minor: int


def breakdown(app: App, *, by: By, since: date, until: date, currency: str) -> list[Part]:
    """What was earned from one day to another (included) by `by`, the most first."""
    with app.db.read() as session:
        return parts(session, by=by, since=since, until=until, currency=currency)


def parts(session: Session, *, by: By, since: date, until: date, currency: str) -> list[Part]:
    """`breakdown` in a session."""
    found = attributed(session, by=by, since=since, until=until, currency=currency)
    return _sorted((one.name, one.minor, one.answers) for one in found)


def attributed(
    session: Session, *, by: By, since: date, until: date, currency: str
) -> Iterator[Earned]:
    """What was earned in the time, piece by piece, with the order that paid for it."""
    days = {"since": since.isoformat(), "until": until.isoformat(), "currency": currency}
    earned = session.execute(text(_EARNED), days).all()
    if by in _BY_ORDER:
        labels = {row[0]: row[1] for row in session.execute(text(_BY_ORDER[by]))}
        for row in earned:
            yield Earned(labels.get(row[1], OTHER), row[1], int(row[3]), 0)
        return
    label, tables = _BY_ANSWER[by]
    used: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
    query = text(_USED.format(label=label, tables=tables))
    for lot, name, micro, answers in session.execute(query, {**_span(since, until), **days}):
        used[lot].append((name, int(micro), int(answers)))
    yield from _by_answer(earned, used)


def margins(app: App, *, since: date, until: date, currency: str) -> list[Margin]:
    """What each model earned less what its running cost, the most earned first.

    Costs are those that are booked in the money ledger, shared by busy time; every answer costs,
    also one that was paid with free credits.
    """
    with app.db.read() as session:
        earned = parts(session, by="model", since=since, until=until, currency=currency)
        run = revenue_costs.by_model(session, since=since, until=until, currency=currency)
    by_model = {part.name: part.earned_minor for part in earned}
    found = [
        Margin(
            model=model or UNUSED,
            earned_minor=by_model.get(model, 0),
            cost_minor=cost,
            answers=answers,
            tokens=tokens,
            engine_ms=ms,
        )
        for model, (cost, answers, tokens, ms) in run.items()
    ]
    return sorted(found, key=lambda one: (-one.earned_minor, one.model))


def moved(app: App, *, since: datetime, until: datetime, currency: str) -> list[Moved]:
    """Who moved MRR between two moments; the sums are those of `revenue.metrics`."""
    with app.db.read() as session:
        periods = takings.plan_periods(session, until=to_micros(until))
    mine = [one for one in periods if one.currency == currency]
    before, after = _standing(mine, to_micros(since)), _standing(mine, to_micros(until))
    ever = {one.user_id for one in mine if one.starts_at <= to_micros(since) and one.net_minor}
    found = []
    for user_id in sorted(before.keys() | after.keys()):
        old, new = before.get(user_id, 0), after.get(user_id, 0)
        if old != new:
            found.append(Moved(user_id, _movement(old, new, user_id in ever), old, new))
    return found


def _movement(old: int, new: int, ever: bool) -> str:
    if not old:
        return "reactivation" if ever else "new"
    if not new:
        return "churned"
    return "expansion" if new > old else "contraction"


def _standing(periods: Iterable[PlanPeriod], at: int) -> dict[int, int]:
    """What each customer's newest period is worth at a moment."""
    found: dict[int, int] = {}
    for one in periods:  # by person and time: the newest that has begun decides
        if one.starts_at <= at:
            found[one.user_id] = one.net_minor if at < one.ends_at else 0
    return {user_id: minor for user_id, minor in found.items() if minor}


def _by_answer(
    earned: Iterable[Any], used: dict[int, list[tuple[str, int, int]]]
) -> Iterator[Earned]:
    """What lots earned, shared out over the answers that used them."""
    for answers in used.values():
        yield from (Earned(name, None, 0, count) for name, _, count in answers)
    fixed: dict[str, str] = {"revenue:breakage": ENDED, "revenue:adjustment": CORRECTED}
    for lot, payment, account, minor in earned:
        if account in fixed:
            yield Earned(fixed[account], payment, int(minor), 0)
        elif not used.get(lot):
            name = "Plans, unused" if account == "revenue:subscription" else OTHER
            yield Earned(name, payment, int(minor), 0)
        else:
            split = shares(int(minor), [Fraction(micro) for _, micro, _ in used[lot]])
            for (name, _, _), part in zip(used[lot], split, strict=True):
                yield Earned(name, payment, part, 0)


def _sorted(found: Iterable[tuple[str, int, int]]) -> list[Part]:
    sums: dict[str, tuple[int, int]] = {}
    for name, minor, answers in found:
        before = sums.get(name, (0, 0))
        sums[name] = (before[0] + minor, before[1] + answers)
    made = [Part(name, minor, answers) for name, (minor, answers) in sums.items()]
    order: Callable[[Part], tuple[int, str]] = lambda part: (-part.earned_minor, part.name)  # noqa: E731
    return sorted((part for part in made if part.earned_minor or part.answers), key=order)


def _span(since: date, until: date) -> dict[str, int]:
    """The days as moments: the first, and the one after the last."""
    ends = (since, until + timedelta(days=1))
    first, end = (to_micros(datetime(day.year, day.month, day.day, tzinfo=UTC)) for day in ends)
    return {"first": first, "end": end}
