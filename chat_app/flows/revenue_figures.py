"""Revenue as operators see it: recurring revenue, recognition, tax, receivables, cohorts.

Metrics come from the periods of plans, recognition from the money ledger, tax and receivables
from the invoices. pandas is loaded when somebody asks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from chat_app.app import App
from chat_app.clock import from_micros, to_micros
from chat_app.credits import takings
from chat_app.credits.takings import OfModel, PlanPeriod, Taxed
from chat_app.db import Database
from chat_app.flows import revenue
from chat_app.revenue import journals, months
from chat_app.revenue.months import Month
from chat_app.revenue.spans import Span

if TYPE_CHECKING:
    import pandas as pd

    from chat_app.revenue.metrics import Cohort, Metrics

RUN_RATE_DAYS = 30
DAYS_PER_YEAR = 365
LATELY = timedelta(days=RUN_RATE_DAYS)


@dataclass(frozen=True)
class Recurring:
    """MRR at a moment with the months before it. `run_rate_minor`: usage of 30 days as a year."""

    now: "Metrics"
    months: "pd.DataFrame"
    by_plan: dict[str, int]
    run_rate_minor: int
    currencies: list[str]


@dataclass(frozen=True)
class Recognition:
    """The money ledger by month. `written_to` is the last day in it, `closed` its closed months."""

    months: list[Month]
    waterfall: dict[str, dict[str, int]]
    by_model: list[OfModel]
    currency: str
    written_to: str | None
    closed: list[str]


@dataclass(frozen=True)
class Receivables:
    """Open invoices by days past due: rows of customers, then `total`; and the allowance."""

    aged: "pd.DataFrame"
    allowance: dict[str, int]
    currency: str
    invoices: list[takings.OpenInvoice]


def end_of(app: App, span: Span) -> datetime:
    """The last moment of a span, or now where it is not over."""
    return min(span.end, app.clock.now())


def recurring(
    app: App,
    *,
    as_of: datetime | None = None,
    since: datetime | None = None,
    currency: str | None = None,
    history: int = 12,
) -> Recurring:
    """MRR and its movements since `since` or in the month that ends at `as_of`, and by month."""
    from chat_app.revenue import metrics

    moment = as_of or app.clock.now()
    with app.db.read() as session:
        periods = takings.plan_periods(session, until=to_micros(moment))
        today = moment.date()
        lately = today - LATELY
        used = journals.balances(session, since=lately.isoformat(), until=today.isoformat())
    currencies = sorted({each.currency for each in periods} | {code for _, code in used})
    chosen = currency or (currencies[0] if currencies else None)
    moves = movements(periods)
    run = -used.get(("revenue:usage", chosen or ""), 0)
    return Recurring(
        now=metrics.compute(moves, moment, chosen, since=since),
        months=metrics.history(moves, moment, months=history, currency=chosen),
        by_plan={
            str(plan): int(minor)
            for plan, minor in metrics.breakdown(moves, moment, "plan", currency=chosen).items()
        },
        run_rate_minor=a_year(run),
        currencies=currencies,
    )


def a_year(minor: int) -> int:
    """What thirty days would be in a year."""
    return minor * DAYS_PER_YEAR // RUN_RATE_DAYS


def cohorts(
    app: App, *, as_of: datetime | None = None, currency: str | None = None
) -> "list[Cohort]":
    """Customers by the month of their first payment, see `metrics.retention`."""
    from chat_app.revenue import metrics

    moment = as_of or app.clock.now()
    with app.db.read() as session:
        periods = takings.plan_periods(session, until=to_micros(moment))
    known = sorted({each.currency for each in periods})
    return metrics.retention(
        movements(periods), moment, currency=currency or (known[0] if known else None)
    )


def recognition(
    app: App, *, since: date | None = None, until: date | None = None, currency: str | None = None
) -> Recognition:
    """Deferred revenue month by month, and what was bought when and earned when."""
    last = until or app.clock.now().date()
    with app.db.read() as session:
        first = since.isoformat() if since else ""
        rows = months.roll_forward(session, since=first, until=last.isoformat())
        # A cost in another money alone is no reason to show that money.
        known = sorted(
            {row.currency for row in rows if row.billed or row.closing or row.recognized}
        )
        chosen = currency or (known[0] if known else "USD")
        start = datetime.combine(since or date(1970, 1, 1), datetime.min.time(), UTC)
        end = datetime.combine(last + timedelta(days=1), datetime.min.time(), UTC)
        return Recognition(
            months=[row for row in rows if row.currency == chosen],
            waterfall=months.waterfall(
                session, currency=chosen, since=first, until=last.isoformat()
            ),
            by_model=[
                row
                for row in takings.by_model(session, since=to_micros(start), until=to_micros(end))
                if row.currency == chosen
            ],
            currency=chosen,
            written_to=revenue.written_to(session),
            closed=[row.id for row in journals.closed(session)],
        )


def tax(app: App, *, since: date, until: date) -> list[Taxed]:
    """What is owed to whom for documents issued from one day to another (included)."""
    return taxes(app.db, since=since, until=until)


def taxes(db: Database, *, since: date, until: date) -> list[Taxed]:
    """`tax` from a database."""
    start = datetime.combine(since, datetime.min.time(), UTC)
    end = datetime.combine(until + timedelta(days=1), datetime.min.time(), UTC)
    with db.read() as session:
        return takings.taxed(session, since=to_micros(start), until=to_micros(end))


def receivables(
    app: App, *, as_of: datetime | None = None, currency: str | None = None
) -> Receivables:
    """Open invoices by days past due at a moment."""
    import pandas as pd

    from chat_app.revenue import receivables as rules

    moment = as_of or app.clock.now()
    with app.db.read() as session:
        found = takings.open_invoices(session, at=to_micros(moment))
    known = sorted({each.currency for each in found})
    chosen = currency or (known[0] if known else "USD")
    mine = [each for each in found if each.currency == chosen]
    frame = pd.DataFrame(
        {
            "invoice_id": [each.id for each in mine],
            "customer_id": [str(each.user_id) for each in mine],
            "due_date": [each.due_on for each in mine],
            "open_minor": [each.open_minor for each in mine],
        }
    )
    aged = rules.aging(frame, moment)
    return Receivables(aged, rules.allowance(aged), chosen, mine)


def open_invoices(db: Database, *, before: int) -> list[takings.OpenInvoice]:
    """Invoices that were sent and not paid just before a moment (µs)."""
    with db.read() as session:
        return takings.open_invoices(session, at=before - 1)


def movements(periods: Sequence[PlanPeriod]) -> "pd.DataFrame":
    """Rows `customer_id, ts, mrr_minor, plan, currency` for `revenue.metrics`.

    A period counts from its start; where no other follows at its end, the customer has left.
    """
    import pandas as pd

    rows: list[tuple[Any, ...]] = []
    for number, each in enumerate(periods):
        following = periods[number + 1] if number + 1 < len(periods) else None
        rows.append((each.user_id, each.starts_at, each.net_minor, each.plan, each.currency))
        goes_on = (
            following is not None
            and following.user_id == each.user_id
            and following.starts_at <= each.ends_at
        )
        if not goes_on:
            rows.append((each.user_id, each.ends_at, 0, each.plan, each.currency))
    frame = pd.DataFrame(rows, columns=["customer_id", "ts", "mrr_minor", "plan", "currency"])
    return frame.assign(ts=[from_micros(at) for at in frame["ts"]])
