"""REST: what stands behind the figures of revenue: breakdowns, margins, rows, movements."""

import calendar
from datetime import UTC, date, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps
from chat_app.api.deps import errors_in
from chat_app.api.views import Page, Shown
from chat_app.flows import revenue_detail
from chat_app.flows.revenue_detail import By, Figure

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
    """The part of a figure that comes from one order; `payment_id` is null for what has none."""

    payment_id: str | None
    amount_minor: int
    entries: int
    first_day: str
    last_day: str
    user_id: str | None
    username: str | None
    invoice_id: str | None
    invoice: str | None


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
    """What each model earned less what its running cost by `[costs]`."""
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


@router.get("/rows", responses=errors_in(401, 403, 422))
def rows(
    *,
    app: deps.App,
    who: Reading,
    figure: Figure,
    since: First = None,
    until: Last = None,
    currency: Currency = "USD",
    limit: deps.Limit = 50,
    cursor: Annotated[str, Query(pattern=r"^[a-z0-9_]*$", max_length=32)] = "",
) -> Page[RowOut]:
    """The orders that a figure of the money ledger comes from; all of them add up to it."""
    first, last = _days(app, since, until)
    found = revenue_detail.rows(
        app, figure=figure, since=first, until=last, currency=currency, limit=limit + 1,
        after=cursor,
    )  # fmt: skip
    following = found[limit - 1].payment_id if len(found) > limit else None
    return Page(
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
            )
            for row in found[:limit]
        ],
        next_cursor=following,
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
    last = until or app.clock.now().date()
    return since or last.replace(day=1), last
