"""REST: reports of a time as JSON, CSV or PDF, row by row."""

from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse

from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps
from chat_app.api.deps import errors_in
from chat_app.flows import reports
from chat_app.flows.reports import Format, Kind

router = APIRouter(tags=["admin"])

Reading = Annotated[SignedIn, Depends(deps.allowed("books.read"))]
First = Annotated[date | None, Query(alias="from", description="The first day, in UTC.")]
Last = Annotated[date | None, Query(alias="to", description="The last day, included.")]
_FILES: dict[int | str, dict[str, Any]] = {
    200: {"content": {media: {} for media in reports.MEDIA.values()}}
}


@router.get(
    "/monitoring/report",
    response_class=StreamingResponse,
    responses={**_FILES, **errors_in(401, 403, 422)},
)
def report(
    *,
    app: deps.App,
    who: Reading,
    kind: Kind,
    first: First = None,
    last: Last = None,
    format: Format = "json",
) -> Response:
    """A report of the days from `from` to `to`, or of the last 30; its totals come at the end."""
    return _answer(app, kind, first, last, format)


@router.get(
    "/admin/reports/usage",
    response_class=StreamingResponse,
    responses={**_FILES, **errors_in(401, 403, 422)},
)
def usage(
    app: deps.App, who: Reading, first: First = None, last: Last = None, format: Format = "json"
) -> Response:
    """What each person used of each model on each day."""
    return _answer(app, "usage", first, last, format)


@router.get(
    "/admin/reports/financial",
    response_class=StreamingResponse,
    responses={**_FILES, **errors_in(401, 403, 422)},
)
def financial(
    app: deps.App, who: Reading, first: First = None, last: Last = None, format: Format = "json"
) -> Response:
    """Every posting of the money ledger."""
    return _answer(app, "financial", first, last, format)


@router.get(
    "/admin/reports/revenue",
    response_class=StreamingResponse,
    responses={**_FILES, **errors_in(401, 403, 422)},
)
def revenue(
    app: deps.App, who: Reading, first: First = None, last: Last = None, format: Format = "json"
) -> Response:
    """Deferred revenue and what was earned, month by month."""
    return _answer(app, "revenue", first, last, format)


def _answer(
    app: deps.App, kind: Kind, first: date | None, last: date | None, format: Format
) -> Response:
    made = reports.make(app.db, kind=kind, today=app.clock.now().date(), since=first, until=last)
    headers = {"Content-Disposition": f'attachment; filename="{made.name}.{format}"'}
    if format == "pdf":
        author, at = app.settings.business.name, app.clock.micros()
        content = reports.as_pdf(made, author=author, at=at)
        return Response(content, media_type=reports.MEDIA[format], headers=headers)
    lines: Iterator[str] = reports.as_csv(made) if format == "csv" else reports.as_json(made)
    if format == "json":
        headers = {}
    return StreamingResponse(lines, media_type=reports.MEDIA[format], headers=headers)
