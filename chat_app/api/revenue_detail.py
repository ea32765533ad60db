"""REST: what stands behind the figures of revenue: breakdowns, margins, rows, movements."""

import calendar
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse

from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps
from chat_app.api.deps import errors_in
from chat_app.api.views import Page, Shown
from chat_app.flows import revenue_detail, revenue_overview, revenue_rows
from chat_app.flows.revenue_detail import By
from chat_app.flows.revenue_rows import Behind, Figure
from chat_app.revenue import spans

router = APIRouter(prefix="/admin/revenue", tags=["admin"])

Reading = Annotated[SignedIn, Depends(deps.allowed("books.read"))]
Currency = Annotated[str, Query(pattern=r"^[A-Z]{3}$")]
First = Annotated[date | None, Query(alias="from", description="The first day, in UTC.")]
Last = Annotated[date | None, Query(alias="to", description="The last day, included.")]


class PartOut(Shown):
    """What one of them earned, net of tax; `answers` that used paid credits."""

    name: str
    earned_minor: int
    answers: int


class BreakdownOut(Shown):
    """What was earned in the time; the parts add up to `total_minor`."""

    by: str
    since: date
    until: date
    currency: str
    total_minor: int
    items: list[PartOut]


class MarginOut(Shown):
    """What a model earned and what running it cost; `share` is null when it earned nothing."""

    model: str
    earned_minor: int
    cost_minor: int
    margin_minor: int
    share: float | None
    answers: int
    tokens: int
    engine_ms: int


class MarginsOut(Shown):
    """Every model that answered in the time."""

    since: date
    until: date
    currency: str
    items: list[MarginOut]


class RowOut(Shown):
    """The part of a figure that comes from one order, customer or document.

    `payment_id` is null for what comes from no order, `note` says what else there is to say.
    """

    payment_id: str | None
    amount_minor: int
    entries: int
    first_day: str
    last_day: str
    user_id: str | None
    username: str | None
    invoice_id: str | None
    invoice: str | None
    note: str


class RowsOut(Page[RowOut]):
    """A page of rows; all `count` of them add up to `total_minor`, which is the figure."""

    count: int
    total_minor: int


class FigureOut(Shown):
    """A key figure, in the span before, and in each of twelve months: minor units or a share.

    `change` is a share of what it was; for shares it is the difference.
    """

    name: str
    kind: str
    value: float | None
    before: float | None
    change: float | None
    spark: list[float | None]


class OverviewOut(Shown):
    """The key figures of a span beside the equal span before; `months` names the sparks' values."""

    since: date
    until: date
    before_since: date
    before_until: date
    currency: str
    currencies: list[str]
    months: list[str]
    items: list[FigureOut]


class MovedOut(Shown):
    """A customer whose monthly amount changed in the month."""

    user_id: str
    movement: str
    before_minor: int
    after_minor: int


class MovementsOut(Shown):
    """The movements of a month, or of its part up to now."""

    month: str
    currency: str
    items: list[MovedOut]


@router.get("/breakdown", responses=errors_in(401, 403, 422))
def breakdown(
    *,
    app: deps.App,
    who: Reading,
    by: By = "model",
    since: First = None,
    until: Last = None,
    currency: Currency = "USD",
) -> BreakdownOut:
    """Revenue by model, channel, organisation, plan or country; this month without a time."""
    first, last = _days(app, since, until)
    found = revenue_detail.breakdown(app, by=by, since=first, until=last, currency=currency)
    return BreakdownOut(
        by=by,
        since=first,
        until=last,
        currency=currency,
        total_minor=sum(part.earned_minor for part in found),
        items=[PartOut(**vars(part)) for part in found],
    )


@router.get("/margin", responses=errors_in(401, 403, 422))
def margin(
    *,
    app: deps.App,
    who: Reading,
    since: First = None,
    until: Last = None,
    currency: Currency = "USD",
) -> MarginsOut:
    """What each model earned less its share of what is booked as cost."""
    first, last = _days(app, since, until)
    found = revenue_detail.margins(app, since=first, until=last, currency=currency)
    return MarginsOut(
        since=first,
        until=last,
        currency=currency,
        items=[
            MarginOut(**vars(one), margin_minor=one.margin_minor, share=one.share) for one in found
        ],
    )


@router.get("/overview", responses=errors_in(401, 403, 422))
def overview(
    app: deps.App,
    who: Reading,
    since: First = None,
    until: Last = None,
    currency: Annotated[str | None, Query(pattern=r"^[A-Z]{3}$")] = None,
) -> OverviewOut:
    """What was earned, owed and given back, what recurs, beside the equal span before."""
    span = spans.of(since, until, today=app.clock.now().date())
    found = revenue_overview.overview(app, span=span, currency=currency)
    return OverviewOut(
        since=span.first,
        until=span.last,
        before_since=found.before.first,
        before_until=found.before.last,
        currency=found.currency,
        currencies=found.currencies,
        months=found.months,
        items=[
            FigureOut(
                name=one.name,
                kind=one.kind,
                value=one.value,
                before=one.before,
                change=one.change,
                spark=list(one.spark),
            )
            for one in found.figures
        ],
    )


@router.get(
    "/rows",
    response_model=RowsOut,
    responses={200: {"content": {"text/csv": {}}}, **errors_in(401, 403, 422)},
)
def rows(
    *,
    app: deps.App,
    who: Reading,
    figure: Figure,
    part: Annotated[str, Query(max_length=200)] = "",
    since: First = None,
    until: Last = None,
    currency: Currency = "USD",
    limit: deps.Limit = 50,
    cursor: Annotated[str, Query(pattern=r"^[a-z0-9_]*$", max_length=32)] = "",
    format: Literal["json", "csv"] = "json",
) -> Response | RowsOut:
    """The orders, customers or documents that a figure comes from; all of them add up to it.

    `part` narrows it: `earned` to a month of purchase (`2026-03`), `cohort` to a cohort and its
    age (`2026-03+2`), `open` to a bucket (`31-60`), `tax` to a rate
    (`DE|standard|standard|1900`), a breakdown to one of its names. As CSV all rows at once.
    """
    span = spans.of(since, until, today=app.clock.now().date())
    what = Behind(figure=figure, span=span, currency=currency, part=part)
    if format == "csv":
        name = f"{figure}-{span.first}-{span.last}.csv"
        return StreamingResponse(
            revenue_rows.as_csv(app, what),
            media_type="text/csv; charset=utf-8",
            headers={
                "Content-Disposition": f'attachment; filename="{name}"',
                "Cache-Control": "no-store",
            },
        )
    found = revenue_rows.find(app, what, limit=limit, cursor=cursor)
    return RowsOut(
        items=[
            RowOut(
                payment_id=row.payment_id or None,
                amount_minor=row.minor,
                entries=row.entries,
                first_day=row.first_day,
                last_day=row.last_day,
                user_id=None if row.user_id is None else str(row.user_id),
                username=row.username,
                invoice_id=row.invoice_id,
                invoice=row.invoice,
                note=row.note,
            )
            for row in found.items
        ],
        next_cursor=found.next_cursor,
        count=found.count,
        total_minor=found.total_minor,
    )


@router.get("/movements", responses=errors_in(401, 403, 422))
def movements(
    *,
    app: deps.App,
    who: Reading,
    month: Annotated[str | None, Query(pattern=r"^20\d\d-(0[1-9]|1[0-2])$")] = None,
    currency: Currency = "USD",
) -> MovementsOut:
    """Who moved MRR in a calendar month: new, expansion, contraction, churned, reactivation."""
    now = app.clock.now()
    period = month or f"{now:%Y-%m}"
    first = datetime.fromisoformat(f"{period}-01").replace(tzinfo=UTC)
    days = calendar.monthrange(first.year, first.month)[1]
    tick = timedelta(microseconds=1)
    until = min(first + timedelta(days=days) - tick, now)
    found = revenue_detail.moved(app, since=first - tick, until=until, currency=currency)
    return MovementsOut(
        month=period,
        currency=currency,
        items=[
            MovedOut(
                user_id=str(one.user_id),
                movement=one.movement,
                before_minor=one.before_minor,
                after_minor=one.after_minor,
            )
            for one in found
        ],
    )


def _days(app: deps.App, since: date | None, until: date | None) -> tuple[date, date]:
    span = spans.of(since, until, today=app.clock.now().date())
    return span.first, span.last
