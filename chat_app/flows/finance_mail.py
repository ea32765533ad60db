"""Finance reports by mail: yesterday, last week or last month, to staff who asked for them.

Each person gets each period once, and not before the money ledger is written to its end.
"""

from datetime import datetime, timedelta
from functools import partial

from sqlmodel import Session

from chat_app.accounts import permissions
from chat_app.app import App
from chat_app.clock import from_micros, to_micros
from chat_app.credits import takings
from chat_app.flows import notices, revenue, summaries
from chat_app.money import Money
from chat_app.notify import preferences
from chat_app.notify import summaries as given
from chat_app.revenue import journals, months

Span = tuple[str, str, datetime, datetime]


def periods(now: datetime) -> list[Span]:
    """The newest complete day, week and month: topic, name, beginning and end."""
    (_, week, monday, after), (_, month, first, end) = summaries.periods(now)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    yesterday = today - timedelta(days=1)
    return [
        ("books_daily", f"{yesterday:%Y-%m-%d}", yesterday, today),
        ("books_weekly", week, monday, after),
        ("books_monthly", month, first, end),
    ]


def send_due(app: App) -> int:
    """Write the reports that are due; returns how many were written."""
    told = 0
    for span in periods(from_micros(app.clock.micros())):
        topic, name, _, end = span
        with app.db.read() as session:
            asked = preferences.who_wants(session, topic=topic, since=to_micros(end))
            if not asked:
                continue
            written = revenue.written_to(session)
            if written is None or written < f"{end - timedelta(days=1):%Y-%m-%d}":
                continue
            staff = set(permissions.holders(session, "books.read"))
            people = sorted(staff & set(asked))
            waiting = given.without(session, user_ids=people, period=f"books:{name}")
        for user_id in waiting:
            told += app.db.write(partial(_send, app, user_id=user_id, span=span))
    return told


def _send(app: App, session: Session, *, user_id: int, span: Span) -> bool:
    topic, name, begin, end = span
    now = app.clock.micros()
    if not given.take(session, user_id=user_id, period=f"books:{name}", now=now):
        return False
    last = end - timedelta(days=1)
    rows, earned = figures(session, begin=begin, end=end)
    title = {"books_daily": f"{last:%d %b %Y}", "books_weekly": f"Week {name[-2:]}"}
    return notices.tell(
        session,
        user_id=user_id,
        kind=topic,
        key=name,
        data={
            "title": title.get(topic, f"{begin:%B %Y}"),
            "earned": earned,
            "from": f"{begin:%d %b %Y}",
            "to": f"{last:%d %b %Y}",
            "since": f"{begin:%Y-%m-%d}",
            "until": f"{last:%Y-%m-%d}",
            "rows": [{"name": label, "value": value} for label, value in rows],
        },
        now=now,
    )


def figures(
    session: Session, *, begin: datetime, end: datetime
) -> tuple[list[tuple[str, str]], str]:
    """The lines of a report with what was earned in all, by currency."""
    since, until = f"{begin:%Y-%m-%d}", f"{end - timedelta(days=1):%Y-%m-%d}"
    moved = journals.balances(session, since=since, until=until)
    recurring = mrr(session, at=to_micros(end) - 1)
    open_: dict[str, int] = {}
    for invoice in takings.open_invoices(session, at=to_micros(end) - 1):
        open_[invoice.currency] = open_.get(invoice.currency, 0) + invoice.open_minor
    rows: list[tuple[str, str]] = []
    earned = []
    for row in months.between(session, since=since, until=until):
        code = row.currency
        tax = -sum(
            minor
            for (account, currency), minor in moved.items()
            if currency == code and account.startswith("tax:")
        )
        earned.append(str(Money(row.recognized, code)))
        lines = (
            ("Sold, net of tax", row.billed),
            ("Earned by use", row.usage),
            ("Earned by plans", row.subscription),
            ("Earned as breakage", row.breakage),
            ("Given back", row.refunded),
            ("Still owed as credits and plans", row.closing),
            ("Tax of the time", tax),
            ("MRR at the end", recurring.get(code, 0)),
            ("Open invoices at the end", open_.get(code, 0)),
        )
        rows += [(label, str(Money(minor, code))) for label, minor in lines]
    return rows, " and ".join(earned) or "nothing"


def mrr(session: Session, *, at: int) -> dict[str, int]:
    """What the plans that run at a moment (µs) are worth in a month, by currency."""
    newest = {
        one.user_id: one
        for one in takings.plan_periods(session, until=at)
        if one.starts_at <= at < one.ends_at
    }
    found: dict[str, int] = {}
    for one in newest.values():
        found[one.currency] = found.get(one.currency, 0) + one.net_minor
    return found
