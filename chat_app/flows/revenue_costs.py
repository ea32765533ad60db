"""The running costs of `[costs]` in the money ledger: a posting for each day, made once.

What a day costs is the busy time of its models times the prices that are set. Within a month the
sum is rounded, not each day, so small days are not lost. What is booked so is owed (`payable`)
until a payout pays it; a closed month is left alone.
"""

from collections import defaultdict
from datetime import date, timedelta
from fractions import Fraction
from typing import Any

from sqlalchemy import text
from sqlmodel import Session

from chat_app.app import App
from chat_app.clock import to_micros
from chat_app.credits.operations import IdempotencyConflict
from chat_app.flows import running
from chat_app.flows.running import MS_PER_HOUR, per_hour
from chat_app.revenue import journals, spans
from chat_app.revenue.journals import Line
from chat_app.revenue.rounding import half_up, shares
from chat_app.revenue.tables import BookMarkRow
from chat_app.settings import Costs

KIND, OWED = "running", "payable:running"
EPOCH = date(1970, 1, 1)
_BUSY = """SELECT at / 86400000000, model, COUNT(*), SUM(completion_tokens), SUM(engine_ms)
 FROM "usage" WHERE at >= :first AND at < :end GROUP BY 1, 2 ORDER BY 1, 2"""
_POSTED = """SELECT j.day, j.kind, SUM(p.amount_minor) FROM posting p
 JOIN journal j ON j.id = p.journal_id
 WHERE p.account LIKE 'cost:%' AND p.currency = :currency AND j.day >= :since AND j.day <= :until
 GROUP BY 1, 2 ORDER BY 1, 2"""
_BY_ACCOUNT = """SELECT p.account, SUM(p.amount_minor) FROM posting p
 JOIN journal j ON j.id = p.journal_id WHERE j.kind = 'running' AND p.account LIKE 'cost:%'
 AND p.currency = :currency AND j.day >= :since AND j.day < :before GROUP BY 1"""
_NEXT = "SELECT MIN(day), MAX(CASE WHEN kind = 'running' THEN day END) FROM journal"


def post_due(app: App) -> int:
    """Post the costs of all written days that have none; returns of how many.

    Power is what the GPUs drew in the week before, where they say.
    """
    costs, now = app.settings.costs, app.clock.micros()
    if not any(per_hour(costs).values()):
        return 0
    today = app.clock.now()
    drawn = running.power(app, since=today - timedelta(days=7), until=today)
    costs = costs.model_copy(update={"watts": drawn.watts})
    return app.db.write(lambda session: write(session, costs=costs, now=now))


def write(session: Session, *, costs: Costs, now: int) -> int:
    """`post_due` in a session. Days after the newest with costs, and in no closed month."""
    mark = session.get(BookMarkRow, 1)
    oldest, newest = session.execute(text(_NEXT)).one()
    if mark is None or oldest is None:
        return 0
    first = date.fromisoformat(newest) + timedelta(days=1) if newest else date.fromisoformat(oldest)
    closed = [row.id for row in journals.closed(session)]
    if closed:
        first = max(first, spans.month(closed[-1]).last + timedelta(days=1))
    last = date.fromisoformat(mark.day)
    if first > last:
        return 0
    month = first.replace(day=1)
    busy: dict[date, int] = defaultdict(int)
    for number, _, _, _, ms in session.execute(text(_BUSY), _span(month, last)):
        busy[EPOCH + timedelta(days=number)] += int(ms)
    before = {"currency": costs.currency, "since": month.isoformat(), "before": first.isoformat()}
    posted = {row[0]: int(row[1]) for row in session.execute(text(_BY_ACCOUNT), before)}
    passed = sum(ms for day, ms in busy.items() if day < first)
    count = 0
    for day in sorted(day for day in busy if day >= first):
        if day.replace(day=1) != month:
            month, posted, passed = day.replace(day=1), {}, 0
        lines = []
        for account, price in per_hour(costs).items():
            due = _due(price, passed, busy[day], posted.get(account, 0))
            posted[account] = posted.get(account, 0) + due
            lines += [Line(account, costs.currency, due), Line(OWED, costs.currency, -due)]
        passed += busy[day]
        hours = busy[day] / MS_PER_HOUR
        made = journals.post(
            session, key=f"{KIND}:{day}", day=day.isoformat(), kind=KIND,
            memo=f"Models were busy for {hours:.2f} hours", lines=lines, now=now,
        )  # fmt: skip
        count += made is not None
    return count


def book(
    app: App, *, day: str, kind: str, minor: int, currency: str, memo: str, key: str, actor: str
) -> int:
    """Book a bill that the bank paid, once for each key; returns the entry's id.

    The kind `payout` pays what was booked by the day. Raises PeriodClosed, or
    IdempotencyConflict when the key stands for another cost.
    """
    now = app.clock.micros()
    account = OWED if kind == "payout" else f"cost:{kind}"
    lines = (Line(account, currency, minor), Line("cash:bank", currency, -minor))

    def story(session: Session) -> int:
        made = journals.post(
            session, key=f"cost:{key}", day=day, kind="cost", memo=memo, lines=lines, now=now,
            actor=actor,
        )  # fmt: skip
        if made is not None:
            return made
        before = journals.find(session, f"cost:{key}")
        assert before is not None
        if (before.day, before.memo, before.lines) != (day, memo, lines):
            raise IdempotencyConflict
        return before.id

    return app.db.write(story)


def by_model(
    session: Session, *, since: date, until: date, currency: str
) -> dict[str, tuple[int, int, int, int]]:
    """Model → (booked cost in minor units, answers, tokens, busy ms).

    A day's running costs are shared by the busy time of that day, bills by that of the whole
    time, so the shares add up to what is booked; without any answer it stands under no name.
    """
    booked: dict[str, int] = defaultdict(int)
    bills = 0
    days = {"currency": currency, "since": since.isoformat(), "until": until.isoformat()}
    for day, kind, minor in session.execute(text(_POSTED), days):
        if kind == KIND:
            booked[day] += int(minor)
        else:
            bills += int(minor)
    found: dict[str, list[int]] = {}
    by_day: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for number, model, answers, tokens, ms in session.execute(text(_BUSY), _span(since, until)):
        by_day[(EPOCH + timedelta(days=number)).isoformat()].append((model, int(ms)))
        row = found.setdefault(model, [0, 0, 0, 0])
        for place, value in enumerate((0, answers, tokens, ms)):
            row[place] += int(value)

    def share(minor: int, busy: list[tuple[str, int]]) -> None:
        names = [name for name, _ in busy] or [""]
        weights = [Fraction(ms) for _, ms in busy] or [Fraction(1)]
        for name, part in zip(names, shares(minor, weights), strict=True):
            if part:
                found.setdefault(name, [0, 0, 0, 0])[0] += part

    for day, minor in booked.items():
        share(minor, by_day[day])
    share(bills, [(name, row[3]) for name, row in sorted(found.items()) if name])
    return {name: (row[0], row[1], row[2], row[3]) for name, row in found.items()}


def _due(price: Fraction, passed: int, ms: int, posted: int) -> int:
    """What a day adds to its month. When the price has changed, the day counts by itself."""
    if half_up(price * Fraction(passed, MS_PER_HOUR)) == posted:
        return half_up(price * Fraction(passed + ms, MS_PER_HOUR)) - posted
    return half_up(price * Fraction(ms, MS_PER_HOUR))


def _span(since: date, until: date) -> dict[str, Any]:
    """Whole days as moments: the first, and the one after the last."""
    end = until + timedelta(days=1)
    return {"first": to_micros(spans.midnight(since)), "end": to_micros(spans.midnight(end))}
