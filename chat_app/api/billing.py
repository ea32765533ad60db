"""REST: balance, packages, payments, transactions, usage."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from chat_app.api import deps, etags
from chat_app.api.deps import Body, Credits, errors_in
from chat_app.api.views import (
    PackageOut,
    Page,
    PaymentOut,
    TransactionOut,
    UsageLineOut,
)
from chat_app.clock import MICROS_PER_SECOND, rfc3339
from chat_app.credits import ledger, packages, usage
from chat_app.errors import Invalid
from chat_app.flows import purchase

router = APIRouter(prefix="/billing", tags=["billing"])


_DAY = 24 * 3600 * MICROS_PER_SECOND
WINDOWS = {"minute": _DAY, "day": 31 * _DAY, "month": 366 * _DAY}


class OneOfTwo(Invalid):
    """A package and an amount exclude each other."""

    code = "package_or_credits"
    message = "Give either package_id or credits, not both and not neither."


class TooLong(Invalid):
    """More lines than one answer should have."""

    code = "window_too_long"
    message = "This is too long a time for this period. Ask for less, or for a longer period."


class Order(Body):
    package_id: Annotated[str, Field(max_length=64), deps.Clean] | None = None
    credits: Annotated[Credits, Field(gt=0)] | None = None
    keep_card: bool = False


@router.get(
    "/packages",
    response_model=Page[PackageOut],
    responses={**etags.NOT_CHANGED, **errors_in(401)},
)
def list_packages(request: Request, app: deps.App, who: deps.CurrentUser) -> Response:
    """Credits for sale. With an ETag for `If-None-Match`."""
    with app.db.read() as session:
        items = [PackageOut.of(item) for item in packages.list_packages(session)]
    return etags.answer(request, Page[PackageOut](items=items))


@router.post("/add", status_code=201, responses=errors_in(401, 403, 404, 409, 422, 503))
async def add(
    request: Request, app: deps.App, who: deps.CurrentUser, key: deps.IdempotencyKey, body: Order
) -> PaymentOut:
    """Order a package or an amount of credits. The credits come when it is paid.

    With a `checkout_url` it is paid there, without one it is confirmed here. With `keep_card` the
    card may be charged for plans and automatic top-ups from then on.
    """
    if (body.package_id is None) == (body.credits is None):
        raise OneOfTwo
    payment = await purchase.buy(
        app,
        user_id=deps.user_id(who),
        package_code=body.package_id,
        micro=body.credits,
        key=key,
        base=str(request.base_url),
        keep=body.keep_card,
    )
    return PaymentOut.of(payment)


@router.get("/payments/{id}", responses=errors_in(401, 404))
def show_payment(app: deps.App, who: deps.CurrentUser, id: deps.Id) -> PaymentOut:
    """An order as it stands."""
    return PaymentOut.of(purchase.get(app, user_id=deps.user_id(who), payment_id=id))


@router.post("/payments/{id}/confirm", responses=errors_in(401, 403, 404, 409, 503))
async def confirm(
    app: deps.App, who: deps.CurrentUser, id: deps.Id, key: deps.IdempotencyKey
) -> PaymentOut:
    """Pay an order of the offline provider: no real money moves. Credits come once."""
    return PaymentOut.of(
        await purchase.confirm(app, user_id=deps.user_id(who), payment_id=id, key=key)
    )


@router.get("/transactions", responses=errors_in(401, 422))
def transactions(
    *,
    app: deps.App,
    who: deps.CurrentUser,
    since: deps.Since,
    until: deps.Until,
    type: Annotated[
        str | None, Query(pattern=r"^[a-z_]{1,16}$", description="One type only.")
    ] = None,
    limit: deps.Limit = 50,
    cursor: deps.Cursor = None,
) -> Page[TransactionOut]:
    """The caller's movements of credits, newest first."""
    with app.db.read() as session:
        rows, following = ledger.transactions(
            session,
            user_id=deps.user_id(who),
            type=type,
            since=since,
            until=until,
            limit=limit,
            cursor=cursor,
        )
    return Page(items=[TransactionOut.of(row) for row in rows], next_cursor=following)


@router.get("/usage", responses=errors_in(401, 422))
def show_usage(
    app: deps.App,
    who: deps.CurrentUser,
    since: deps.Since,
    until: deps.Until,
    period: Annotated[
        Literal["minute", "day", "month"], Query(description="What a line sums up.")
    ] = "day",
) -> Page[UsageLineOut]:
    """What the caller used, by model: a day by the minute, a month by the day, a year by the month.

    That much is shown when `from` is not given, and at most ten times as much when it is. Lines
    are whole minutes, days and months in UTC, from the one that `from` is in.
    """
    until = app.clock.micros() + 1 if until is None else until
    since = until - WINDOWS[period] if since is None else since
    if until - since > 10 * WINDOWS[period]:
        raise TooLong(period=period)
    with app.db.read() as session:
        rows = usage.lines(
            session, user_id=deps.user_id(who), since=since, until=until, period=period
        )
    cut = {"minute": None, "day": 10, "month": 7}[period]
    return Page(items=[UsageLineOut.of(rfc3339(row.at)[:cut], row) for row in rows])
