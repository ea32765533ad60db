"""REST: revenue, recognition, tax, receivables and the money ledger, for the finance staff."""

import math
from datetime import date, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import Field, StrictInt

from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps
from chat_app.api.deps import errors_in
from chat_app.api.views import Page, Shown
from chat_app.clock import from_micros, rfc3339
from chat_app.flows import revenue, revenue_costs, revenue_figures
from chat_app.revenue import journals
from chat_app.revenue.journals import Journal
from chat_app.revenue.spans import Span

router = APIRouter(prefix="/admin/revenue", tags=["admin"])

Reading = Annotated[SignedIn, Depends(deps.allowed("books.read"))]
Writing = Annotated[SignedIn, Depends(deps.allowed("books.write"))]
Currency = Annotated[str | None, Query(pattern=r"^[A-Z]{3}$")]
First = Annotated[date | None, Query(alias="from", description="The first day, in UTC.")]
Last = Annotated[date | None, Query(alias="to", description="The last day, included.")]


def _as_of(
    as_of: Annotated[str | None, Query(max_length=64, description="The moment to look at.")] = None,
) -> int | None:
    return deps.read_time(as_of, "as_of")


AsOf = Annotated[int | None, Depends(_as_of)]
_FIGURES = (
    "opening_mrr_minor", "new_minor", "expansion_minor", "contraction_minor", "churned_minor",
    "reactivation_minor", "mrr_minor", "customers", "churned_customers", "nrr", "grr", "logo_churn",
)  # fmt: skip


class MetricsOut(Shown):
    """Recurring revenue in the window that ends at `as_of`; shares are null without customers."""

    as_of: str
    since: str
    currency: str | None
    mrr_minor: int
    arr_minor: int
    opening_mrr_minor: int
    new_minor: int
    expansion_minor: int
    contraction_minor: int
    churned_minor: int
    reactivation_minor: int
    customers: int
    opening_customers: int
    churned_customers: int
    nrr: float | None
    grr: float | None
    gross_revenue_churn: float | None
    net_revenue_churn: float | None
    logo_churn: float | None
    quick_ratio: float | None
    arpu_minor: int | None
    usage_run_rate_minor: int
    by_plan: dict[str, int]
    currencies: list[str]
    months: list[dict[str, Any]]


class MonthOut(Shown):
    """Deferred revenue of a month, net of tax: closing = opening + billed − what left.

    `cost` is what running the service cost in it.
    """

    period: str
    opening: int
    billed: int
    usage: int
    subscription: int
    breakage: int
    adjustment: int
    refunded: int
    other: int
    closing: int
    recognized: int
    cost: int
    closed: bool


class ModelOut(Shown):
    """What the answers of a model earned, in minor units with tax."""

    model: str
    gross_minor: int
    charges: int


class RecognitionOut(Shown):
    """The money ledger by month, up to the day that is written."""

    currency: str
    written_to: str | None
    months: list[MonthOut]
    waterfall: dict[str, dict[str, int]]
    by_model: list[ModelOut]


class TaxOut(Shown):
    """Tax owed for one rate, credit notes taken off."""

    jurisdiction: str
    category: str
    treatment: str
    rate_bp: int
    currency: str
    base_minor: int
    tax_minor: int
    documents: int


class TaxesOut(Shown):
    """Taxes on documents that were issued in this time."""

    since: date
    until: date
    items: list[TaxOut]


class AgedOut(Shown):
    """A customer's open invoices by days past due, in minor units."""

    customer_id: str
    buckets: dict[str, int]
    total: int


class ReceivablesOut(Shown):
    """Open invoices; `total` is the sum of all customers."""

    as_of: str
    currency: str
    total: AgedOut
    items: list[AgedOut]
    allowance: dict[str, int]


class CohortOut(Shown):
    """Those who began to pay in a month: who is left and what they pay, 0, 1, 2 … months later.

    Shares are of all who began, and of what they began with.
    """

    cohort: str
    customers: int
    base_minor: int
    left: list[int]
    mrr_minor: list[int]
    logo_retention: list[float | None]
    revenue_retention: list[float | None]


class CohortsOut(Shown):
    """All cohorts, oldest first."""

    items: list[CohortOut]


class LineOut(Shown):
    """A posting: a debit above zero, a credit below."""

    account: str
    currency: str
    amount_minor: int
    payment_id: str | None


class JournalOut(Shown):
    """An entry of the money ledger."""

    id: str
    key: str
    day: str
    kind: str
    memo: str
    actor: str
    lines: list[LineOut]

    @classmethod
    def of(cls, entry: Journal) -> "JournalOut":
        """An entry for the API."""
        return cls(
            id=str(entry.id),
            key=entry.key,
            day=entry.day,
            kind=entry.kind,
            memo=entry.memo,
            actor=entry.actor,
            lines=[
                LineOut(
                    account=line.account,
                    currency=line.currency,
                    amount_minor=line.minor,
                    payment_id=line.payment_id,
                )
                for line in entry.lines
            ],
        )


class TraceOut(Shown):
    """An order from its payment to the last recognised cent."""

    payment_id: str
    entries: list[JournalOut]
    balances: dict[str, int]


class ClosedOut(Shown):
    """A closed month; the digest is over its postings."""

    period: str
    digest: str
    closed_at: str
    closed_by: str


class CostIn(deps.Body):
    """A bill that was paid on a day; `payout` pays what `[costs]` has booked by the day."""

    day: Annotated[date, Field(strict=False)]
    kind: Literal["gpu", "power", "fees", "other", "payout"]
    amount_minor: Annotated[StrictInt, Field(ge=1, le=10**12)]
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    memo: deps.Name = ""


class CostOut(Shown):
    """The entry that books it."""

    journal_id: str


@router.get("/metrics", responses=errors_in(401, 403, 422))
def metrics(
    *,
    app: deps.App,
    who: Reading,
    as_of: AsOf = None,
    since: First = None,
    until: Last = None,
    currency: Currency = None,
) -> MetricsOut:
    """MRR, ARR, NRR, GRR and churn of the month that ends at `as_of`, and twelve months before.

    With `from` of the time since that day, with `to` up to the end of that day. Prepaid credits
    are no MRR: the usage of the last 30 days stands apart as a yearly run rate.
    """
    found = revenue_figures.recurring(
        app,
        as_of=_end(app, as_of, until),
        since=Span(since, until or app.clock.now().date()).begin if since else None,
        currency=currency,
    )
    known = MetricsOut.model_fields
    now = {name: value for name, value in vars(found.now).items() if name in known}
    now |= {"as_of": found.now.as_of.isoformat(), "since": found.now.since.isoformat()}
    return MetricsOut(
        **now,
        usage_run_rate_minor=found.run_rate_minor,
        by_plan=found.by_plan,
        currencies=found.currencies,
        months=[
            {"period": period, **{name: _plain(row[name]) for name in _FIGURES}}
            for period, row in found.months.iterrows()
        ],
    )


@router.get("/recognition", responses=errors_in(401, 403, 422))
def recognition(
    app: deps.App, who: Reading, since: First = None, until: Last = None, currency: Currency = None
) -> RecognitionOut:
    """Deferred revenue by month, and month of purchase by month of recognition."""
    found = revenue_figures.recognition(app, since=since, until=until, currency=currency)
    return RecognitionOut(
        currency=found.currency,
        written_to=found.written_to,
        months=[
            MonthOut(
                **{name: value for name, value in vars(row).items() if name != "currency"},
                recognized=row.recognized,
                closed=row.period in found.closed,
            )
            for row in found.months
        ],
        waterfall=found.waterfall,
        by_model=[
            ModelOut(model=row.model, gross_minor=row.gross_minor, charges=row.charges)
            for row in found.by_model
        ],
    )


@router.get("/tax", responses=errors_in(401, 403, 422))
def tax(app: deps.App, who: Reading, since: First = None, until: Last = None) -> TaxesOut:
    """Tax by jurisdiction and rate on documents issued from `since` to `until`, or this month."""
    last = until or app.clock.now().date()
    first = since or last.replace(day=1)
    found = revenue_figures.tax(app, since=first, until=last)
    return TaxesOut(since=first, until=last, items=[TaxOut(**vars(row)) for row in found])


@router.get("/receivables", responses=errors_in(401, 403, 422))
def receivables(
    app: deps.App, who: Reading, as_of: AsOf = None, until: Last = None, currency: Currency = None
) -> ReceivablesOut:
    """Open invoices by days past due, and what is expected never to come."""
    moment = _end(app, as_of, until) or app.clock.now()
    found = revenue_figures.receivables(app, as_of=moment, currency=currency)
    rows = [
        AgedOut(
            customer_id=str(customer),
            buckets={str(name): int(row[name]) for name in found.aged.columns if name != "total"},
            total=int(row["total"]),
        )
        for customer, row in found.aged.iterrows()
    ]
    return ReceivablesOut(
        as_of=moment.isoformat(),
        currency=found.currency,
        total=rows[-1],
        items=rows[:-1],
        allowance=found.allowance,
    )


@router.get("/cohorts", responses=errors_in(401, 403, 422))
def cohorts(
    app: deps.App, who: Reading, as_of: AsOf = None, until: Last = None, currency: Currency = None
) -> CohortsOut:
    """Who stayed and what they pay, by the month in which they first paid for a plan."""
    found = revenue_figures.cohorts(app, as_of=_end(app, as_of, until), currency=currency)
    return CohortsOut(
        items=[
            CohortOut(
                cohort=one.period,
                customers=one.customers,
                base_minor=one.base_minor,
                left=list(one.left),
                mrr_minor=list(one.mrr_minor),
                logo_retention=one.logo_retention,
                revenue_retention=one.revenue_retention,
            )
            for one in found
        ]
    )


@router.get("/journal", responses=errors_in(401, 403, 422))
def journal(
    *,
    app: deps.App,
    who: Reading,
    since: First = None,
    until: Last = None,
    account: Annotated[str, Query(pattern=r"^[a-z_]*(:[A-Za-z0-9_-]+)?$", max_length=64)] = "",
    limit: deps.Limit = 50,
    cursor: Annotated[int | None, Query(ge=1, le=2**62)] = None,
) -> Page[JournalOut]:
    """The entries of the money ledger, newest first; `account` may be a group such as `tax`."""
    with app.db.read() as session:
        found = journals.listed(
            session,
            since=since.isoformat() if since else "",
            until=until.isoformat() if until else "9999-12-31",
            account=account,
            limit=limit + 1,
            before=cursor,
        )
    following = str(found[limit - 1].id) if len(found) > limit else None
    return Page(items=[JournalOut.of(entry) for entry in found[:limit]], next_cursor=following)


@router.get("/trace/{id}", responses=errors_in(401, 403, 404))
def trace(app: deps.App, who: Reading, id: deps.Id) -> TraceOut:
    """All that was posted for an order, and where its money is now."""
    found = revenue.trace(app, payment_id=id)
    return TraceOut(
        payment_id=id,
        entries=[JournalOut.of(entry) for entry in found.entries],
        balances={
            f"{name} {currency}": minor for (name, currency), minor in found.balances.items()
        },
    )


@router.post("/periods/{id}/close", responses=errors_in(401, 403, 404, 409, 503))
def close(app: deps.App, who: Writing, id: deps.Id) -> ClosedOut:
    """Close a complete month such as `2026-03` for good. Closing it again changes nothing."""
    row = revenue.close(app, period=id, actor=f"user:{deps.user_id(who)}")
    return ClosedOut(
        period=row.id, digest=row.digest, closed_at=rfc3339(row.closed_at), closed_by=row.closed_by
    )


@router.post("/costs", status_code=201, responses=errors_in(401, 403, 409, 422, 503))
def add_cost(app: deps.App, who: Writing, body: CostIn, key: deps.IdempotencyKey) -> CostOut:
    """Book a cost of running the service on a day of an open month; once for each key."""
    made = revenue_costs.book(
        app,
        day=body.day.isoformat(),
        kind=body.kind,
        minor=body.amount_minor,
        currency=body.currency,
        memo=body.memo or body.kind,
        key=f"{deps.user_id(who)}:{key}",
        actor=f"user:{deps.user_id(who)}",
    )
    return CostOut(journal_id=str(made))


def _end(app: deps.App, as_of: int | None, until: date | None) -> datetime | None:
    """The moment to look at: `as_of`, or the end of the last day, or now."""
    if as_of is not None:
        return from_micros(as_of)
    return None if until is None else revenue_figures.end_of(app, Span(until, until))


def _plain(value: Any) -> Any:
    """A cell of a table as JSON has it."""
    plain = value.item() if hasattr(value, "item") else value
    return None if isinstance(plain, float) and math.isnan(plain) else plain
