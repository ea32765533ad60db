"""REST: credits for many people at once, from JSON or from a spreadsheet's CSV."""

import csv
import io
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError

from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps
from chat_app.api.deps import Body, Credits, Text, errors_in
from chat_app.api.views import Shown
from chat_app.errors import Invalid, Malformed
from chat_app.flows import bulk
from chat_app.flows.bulk import MAX_ROWS, Result, Row
from chat_app.money import BadCredits, format_credits, parse_credits

router = APIRouter(prefix="/admin", tags=["admin"])
Adjusting = Annotated[SignedIn, Depends(deps.allowed("credits.adjust"))]


class BadCsv(Invalid):
    """Not the columns that are asked for, or a line that cannot be read. Fact: `row`."""

    code = "bad_csv"
    message = (
        "The CSV needs a first line with username,credits and, if you like, reason, and in every "
        "line an amount of credits such as 10 or 0.25. Correct it and send it again."
    )


class BulkRow(Body):
    """Credits for one person, or, negative, from them."""

    username: Annotated[Text, Field(max_length=320, description="Or the e-mail address.")]
    credits: Credits
    reason: Annotated[Text, Field(max_length=1000)] | None = None


class BulkIn(Body):
    """Rows; `reason` is for those that have none of their own."""

    rows: Annotated[list[BulkRow], Field(min_length=1, max_length=MAX_ROWS)]
    reason: Annotated[Text, Field(max_length=1000)] | None = None


class BulkResult(Shown):
    """What became, or would become, of a row. One that cannot be done has a code and why."""

    row: int
    username: str
    credits: str
    user_id: str | None
    available: str | None
    code: str | None
    message: str | None

    @classmethod
    def of(cls, result: Result) -> "BulkResult":
        return cls(
            row=result.row,
            username=result.user,
            credits=format_credits(result.micro),
            user_id=None if result.user_id is None else str(result.user_id),
            available=None if result.available is None else format_credits(result.available),
            code=result.code,
            message=result.message,
        )


class BulkOut(Shown):
    """The report. `applied` is false for a preview, and for one of rows that cannot be done."""

    applied: bool
    possible: bool
    total: str = Field(description="Credits of all rows together.")
    items: list[BulkResult]


async def _rows(request: Request) -> list[Row]:
    raw = await request.body()
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "text/csv":
        default = request.query_params.get("reason", "")
        return _csv(raw, default[:1000])
    try:
        body = BulkIn.model_validate_json(raw)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    return [Row(row.username, row.credits, row.reason or body.reason or "") for row in body.rows]


def _csv(raw: bytes, default: str) -> list[Row]:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Malformed from error
    if "\x00" in text:
        raise Malformed
    lines = csv.DictReader(io.StringIO(text, newline=""), restkey="more")
    names = {(name or "").strip().lower(): name for name in lines.fieldnames or ()}
    if not {"username", "credits"} <= set(names) <= {"username", "credits", "reason"}:
        raise BadCsv(row=0)
    rows: list[Row] = []
    try:
        for number, line in enumerate(lines, start=1):
            if number > MAX_ROWS:
                raise BadCsv(f"A file has at most {MAX_ROWS} rows. Split it.", row=number)
            fields = {name: line.get(column) for name, column in names.items()}
            if "more" in line or fields["username"] is None or fields["credits"] is None:
                raise BadCsv(row=number)
            micro = parse_credits(fields["credits"].strip())
            rows.append(Row(fields["username"], micro, fields.get("reason") or default))
    except (csv.Error, BadCredits) as error:
        raise BadCsv(row=len(rows) + 1) from error
    if not rows:
        raise BadCsv(row=0)
    return rows


_CONTENT: dict[str, Any] = {
    "application/json": {"schema": {"$ref": "#/components/schemas/BulkIn"}},
    "text/csv": {"schema": {"type": "string"}, "example": "username,credits,reason\r\n"},
}


@router.post(
    "/bulk/credits",
    responses=errors_in(400, 401, 403, 409, 413, 422),
    openapi_extra={"requestBody": {"required": True, "content": _CONTENT}},
)
async def bulk_credits(
    app: deps.App,
    who: Adjusting,
    key: deps.IdempotencyKey,
    rows: Annotated[list[Row], Depends(_rows)],
    dry_run: Annotated[Literal["", "0", "1", "true", "false"], Query()] = "",
) -> BulkOut:
    """Adjust the credits of many people: all rows or none.

    JSON, or `text/csv` with the columns `username,credits,reason`. With `?dry_run=1` nothing is
    changed and the report says what would become of every row; without it, rows that cannot be
    done refuse the whole with `bulk_refused` and the list of them.
    """
    preview = dry_run in ("1", "true")
    results = await bulk.credits(
        app, admin_id=deps.user_id(who), rows=rows, key=key, dry_run=preview
    )
    return BulkOut(
        applied=not preview,
        possible=all(result.code is None for result in results),
        total=format_credits(sum(row.micro for row in rows)),
        items=[BulkResult.of(result) for result in results],
    )
