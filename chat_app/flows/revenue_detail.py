"""What stands behind the figures of revenue: breakdowns, margins, and the rows of each figure.

A breakdown adds up to what the money ledger earned in its time, to the cent: what a lot earned is
shared out over the answers that used it then. Costs of answers come from `running.py`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
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
from chat_app.flows import running
from chat_app.revenue.rounding import half_up, shares

By = Literal["model", "channel", "organisation", "plan", "country"]
Figure = Literal["billed", "usage", "subscription", "breakage", "adjustment", "refunded", "closing"]
OTHER, ENDED, CORRECTED = "Other", "Credits that ended unused", "Corrections"
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
# The same lines that make up a month of `revenue.months`; the sign turns them into its figure.
_FIGURES: dict[str, tuple[str, int]] = {
    "billed": ("p.account LIKE 'deferred:%' AND j.kind = 'sale'", -1),
    "usage": ("p.account = 'revenue:usage'", -1),
    "subscription": ("p.account = 'revenue:subscription'", -1),
    "breakage": ("p.account = 'revenue:breakage'", -1),
    "adjustment": ("p.account = 'revenue:adjustment'", -1),
    "refunded": ("p.account LIKE 'deferred:%' AND j.kind LIKE '%~_taken' ESCAPE '~'", 1),
    "closing": ("p.account LIKE 'deferred:%'", -1),
}
_ROWS = """SELECT COALESCE(p.payment_id, ''), SUM(p.amount_minor), COUNT(*), MIN(j.day), MAX(j.day),
  y.user_id, u.username, i.id, i.number
 FROM posting p JOIN journal j ON j.id = p.journal_id
 LEFT JOIN payment y ON y.id = p.payment_id LEFT JOIN "user" u ON u.id = y.user_id
 LEFT JOIN invoice i ON i.payment_id = p.payment_id AND i.kind = 'invoice'
  AND i.status <> 'void'
 WHERE {condition} AND p.currency = :currency AND j.day >= :since AND j.day <= :until
  AND COALESCE(p.payment_id, '') > :after
 GROUP BY COALESCE(p.payment_id, ''), y.user_id, u.username, i.id, i.number
 HAVING SUM(p.amount_minor) <> 0 ORDER BY 1 LIMIT :limit"""


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
class Row:
    """The part of a figure that comes from one order; without `payment_id` from none."""

    payment_id: str
    minor: int
    entries: int
    first_day: str
    last_day: str
    user_id: int | None
    username: str | None
    invoice_id: str | None
    invoice: str | None


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
    days = {"since": since.isoformat(), "until": until.isoformat(), "currency": currency}
    earned = session.execute(text(_EARNED), days).all()
    if by in _BY_ORDER:
        labels = {row[0]: row[1] for row in session.execute(text(_BY_ORDER[by]))}
        return _sorted((labels.get(row[1], OTHER), int(row[3]), 0) for row in earned)
    label, tables = _BY_ANSWER[by]
    used: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
    query = text(_USED.format(label=label, tables=tables))
    for lot, name, micro, answers in session.execute(query, {**_span(since, until), **days}):
        used[lot].append((name, int(micro), int(answers)))
    return _sorted(_by_answer(earned, used))


def margins(app: App, *, since: date, until: date, currency: str) -> list[Margin]:
    """What each model earned less what its running cost, the most earned first.

    Every answer costs, also one that was paid with free credits. Without costs in `[costs]`, or
    in another currency than theirs, they are zero.
    """
    with app.db.read() as session:
        earned = parts(session, by="model", since=since, until=until, currency=currency)
    by_model = {part.name: part.earned_minor for part in earned}
    costs = app.settings.costs
    found = [
        Margin(
            model=run.model,
            earned_minor=by_model.get(run.model, 0),
            cost_minor=half_up(run.cost) if currency == costs.currency else 0,
            answers=run.answers,
            tokens=run.tokens,
            engine_ms=run.engine_ms,
        )
        for run in running.runs(app, since=since, until=until)
    ]
    return sorted(found, key=lambda one: (-one.earned_minor, one.model))


def rows(
    app: App,
    *,
    figure: Figure,
    since: date,
    until: date,
    currency: str,
    limit: int,
    after: str = "",
) -> list[Row]:
    """The orders that a figure of the money ledger comes from; they add up to it.

    `closing` counts everything up to `until`. Ordered by the order's id, after `after`.
    """
    condition, sign = _FIGURES[figure]
    values = {
        "currency": currency,
        "since": "" if figure == "closing" else since.isoformat(),
        "until": until.isoformat(),
        # What belongs to no order comes first, under an empty id.
        "after": after or "\x00",
        "limit": limit,
    }
    query = _ROWS.format(condition=condition)
    if not after:
        query = query.replace("AND COALESCE(p.payment_id, '') > :after", "")
        del values["after"]
    with app.db.read() as session:
        found = session.execute(text(query), values).all()
    return [Row(row[0], sign * int(row[1]), int(row[2]), *row[3:]) for row in found]


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
) -> Iterable[tuple[str, int, int]]:
    """What lots earned, shared out over the answers that used them."""
    for answers in used.values():
        yield from ((name, 0, count) for name, _, count in answers)
    fixed: dict[str, str] = {"revenue:breakage": ENDED, "revenue:adjustment": CORRECTED}
    for lot, _, account, minor in earned:
        if account in fixed:
            yield fixed[account], int(minor), 0
        elif not used.get(lot):
            yield ("Plans, unused" if account == "revenue:subscription" else OTHER), int(minor), 0
        else:
            split = shares(int(minor), [Fraction(micro) for _, micro, _ in used[lot]])
            yield from (
                (name, part, 0) for (name, _, _), part in zip(used[lot], split, strict=True)
            )


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
