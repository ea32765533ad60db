"""REST: what administrators put on sale and give away: packages, plans, codes."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from pydantic import Field, StrictBool

from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps
from chat_app.api.deps import Body, Credits, Text, errors_in
from chat_app.api.shop import PlanOut
from chat_app.api.views import MoneyOut, PackageOut, Page, Shown
from chat_app.app import App
from chat_app.clock import rfc3339
from chat_app.credits import codes, packages, plans
from chat_app.credits.codes import Code
from chat_app.credits.packages import Package
from chat_app.credits.plans import Plan
from chat_app.errors import Invalid
from chat_app.flows import free, shelves
from chat_app.money import Money, format_credits

router = APIRouter(prefix="/admin", tags=["admin"])

Reading = Annotated[SignedIn, Depends(deps.allowed("shelves.read"))]
Stocking = Annotated[SignedIn, Depends(deps.allowed("shelves.write"))]
Name = Annotated[Text, Field(max_length=200)]
Whole = Annotated[int, Field(ge=0, le=10**9)]


class NothingToChange(Invalid):
    """A PATCH without a field."""

    code = "nothing_to_change"
    message = "Nothing is named that could be changed. Give at least one field."


class Price(Body):
    amount: Whole
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"


class NewPackage(Body):
    id: Annotated[str, Field(max_length=64), deps.Clean]
    name: Name
    price: Price
    credits: Annotated[Credits, Field(gt=0)]
    bonus_credits: Annotated[Credits, Field(ge=0)] = 0
    valid_days: Annotated[int, Field(ge=1)] | None = None
    position: Whole = 0
    active: StrictBool = True


class PackageChange(Body):
    name: Name = ""
    price: Price | None = None
    credits: Annotated[Credits, Field(gt=0)] = 0
    bonus_credits: Annotated[Credits, Field(ge=0)] = 0
    valid_days: Annotated[int, Field(ge=1)] | None = None
    position: Whole = 0
    active: StrictBool = True


class NewPlan(Body):
    id: Annotated[str, Field(max_length=64), deps.Clean]
    name: Name
    price: Price
    credits: Annotated[Credits, Field(gt=0)]
    keep_periods: Annotated[int, Field(ge=0, le=plans.MAX_KEEP)] | None = 0
    position: Whole = 0
    active: StrictBool = True


class PlanChange(Body):
    name: Name = ""
    price: Price | None = None
    credits: Annotated[Credits, Field(gt=0)] = 0
    keep_periods: Annotated[int, Field(ge=0, le=plans.MAX_KEEP)] | None = 0
    position: Whole = 0
    active: StrictBool = True


class NewCodes(Body):
    credits: Annotated[Credits, Field(gt=0)]
    count: Annotated[int, Field(ge=1, le=codes.MAX_BATCH)] = 1
    uses: Annotated[int, Field(ge=1, le=codes.MAX_USES)] = 1
    per_user: Annotated[int, Field(ge=1, le=codes.MAX_USES)] = 1
    expires_at: Annotated[str, Field(max_length=64)] | None = None
    valid_days: Annotated[int, Field(ge=1)] | None = None
    name: Annotated[Text, Field(max_length=codes.MAX_NAME)] = ""


class ShelfPackageOut(PackageOut):
    """A package as its seller sees it."""

    valid_days: int | None
    position: int
    active: bool

    @classmethod
    def of(cls, package: Package) -> "ShelfPackageOut":
        return cls(
            id=package.code,
            name=package.name,
            price=MoneyOut(amount=package.price.amount, currency=package.price.currency),
            credits=format_credits(package.credits),
            bonus_credits=format_credits(package.bonus_credits),
            valid_days=package.valid_days,
            position=package.position,
            active=package.active,
        )


class CodeOut(Shown):
    """A redemption code. `code` is its text, shown only in the answer that made it."""

    id: str
    code: str | None
    hint: str
    credits: str
    batch_id: str
    name: str
    uses: int
    used: int
    per_user: int
    expires_at: str | None
    revoked_at: str | None
    created_at: str

    @classmethod
    def of(cls, code: Code) -> "CodeOut":
        return cls(
            id=code.id,
            code=code.text,
            hint=code.hint,
            credits=format_credits(code.credits),
            batch_id=code.batch_id,
            name=code.name,
            uses=code.uses,
            used=code.used,
            per_user=code.per_user,
            expires_at=None if code.expires_at is None else rfc3339(code.expires_at),
            revoked_at=None if code.revoked_at is None else rfc3339(code.revoked_at),
            created_at=rfc3339(code.created_at),
        )


class Revoked(Shown):
    """How many codes ended."""

    revoked: int


@router.get("/packages", responses=errors_in(401, 403))
def list_packages(app: deps.App, who: Reading) -> Page[ShelfPackageOut]:
    """All packages, also those that are not on sale."""
    with app.db.read() as session:
        found = packages.list_packages(session, all=True)
    return Page(items=[ShelfPackageOut.of(package) for package in found])


@router.post("/packages", status_code=201, responses=errors_in(401, 403, 409, 422))
async def add_package(app: deps.App, who: Stocking, body: NewPackage) -> ShelfPackageOut:
    """Put a package on sale."""
    made = await shelves.add_package(
        app,
        admin_id=deps.user_id(who),
        package=Package(
            code=body.id,
            name=body.name,
            price=Money(body.price.amount, body.price.currency),
            credits=body.credits,
            bonus_credits=body.bonus_credits,
            valid_days=body.valid_days,
            position=body.position,
            active=body.active,
        ),
    )
    return ShelfPackageOut.of(made)


@router.patch("/packages/{id}", responses=errors_in(401, 403, 404, 422))
async def change_package(
    app: deps.App, who: Stocking, id: deps.Id, body: PackageChange
) -> ShelfPackageOut:
    """Change what is named; orders that were made keep their price and credits."""
    changed = await shelves.change_package(
        app, admin_id=deps.user_id(who), code=id, parts=_parts(body)
    )
    return ShelfPackageOut.of(changed)


@router.get("/plans", responses=errors_in(401, 403))
def list_plans(app: deps.App, who: Reading) -> Page[PlanOut]:
    """All plans, also those that are not on offer."""
    with app.db.read() as session:
        return Page(items=[PlanOut.of(plan) for plan in plans.list_plans(session, all=True)])


@router.post("/plans", status_code=201, responses=errors_in(401, 403, 409, 422))
async def add_plan(app: deps.App, who: Stocking, body: NewPlan) -> PlanOut:
    """Offer a monthly plan."""
    made = await shelves.add_plan(
        app,
        admin_id=deps.user_id(who),
        plan=Plan(
            code=body.id,
            name=body.name,
            price=Money(body.price.amount, body.price.currency),
            credits=body.credits,
            keep_periods=body.keep_periods,
            position=body.position,
            active=body.active,
        ),
    )
    return PlanOut.of(made)


@router.patch("/plans/{id}", responses=errors_in(401, 403, 404, 422))
async def change_plan(app: deps.App, who: Stocking, id: deps.Id, body: PlanChange) -> PlanOut:
    """Change what is named, for those who choose the plan from now on."""
    changed = await shelves.change_plan(
        app, admin_id=deps.user_id(who), code=id, parts=_parts(body)
    )
    return PlanOut.of(changed)


@router.get("/codes", responses=errors_in(401, 403, 422))
def list_codes(
    app: deps.App, who: Reading, limit: deps.Limit = 50, cursor: deps.Cursor = None
) -> Page[CodeOut]:
    """Redemption codes, newest first, without their text."""
    with app.db.read() as session:
        found, following = codes.list_codes(session, limit=limit, cursor=cursor)
    return Page(items=[CodeOut.of(code) for code in found], next_cursor=following)


@router.post("/codes", status_code=201, responses=errors_in(401, 403, 409, 422))
async def make_codes(
    app: deps.App, who: Stocking, key: deps.IdempotencyKey, body: NewCodes
) -> Page[CodeOut]:
    """Make codes. Their text is in this answer and nowhere else: keep it."""
    return Page(items=[CodeOut.of(code) for code in await _make(app, who, key, body)])


@router.post(
    "/codes/csv",
    status_code=201,
    response_class=Response,
    responses={**errors_in(401, 403, 409, 422), 201: {"content": {"text/csv": {}}}},
)
async def make_codes_csv(
    app: deps.App, who: Stocking, key: deps.IdempotencyKey, body: NewCodes
) -> Response:
    """The same as a CSV file. With the key of an earlier request it is those codes."""
    made = await _make(app, who, key, body)
    headers = {"Content-Disposition": 'attachment; filename="codes.csv"'}
    return Response(
        codes.table(made), status_code=201, media_type="text/csv; charset=utf-8", headers=headers
    )


@router.delete("/codes/{id}", responses=errors_in(401, 403, 404))
async def revoke_codes(app: deps.App, who: Stocking, id: deps.Id) -> Revoked:
    """Make a code worth nothing, or with the id of a batch all of its codes."""
    return Revoked(revoked=await free.revoke_codes(app, admin_id=deps.user_id(who), id=id))


async def _make(app: App, who: SignedIn, key: str, body: NewCodes) -> list[Code]:
    return await free.make_codes(
        app,
        actor=f"user:{deps.user_id(who)}",
        micro=body.credits,
        count=body.count,
        uses=body.uses,
        per_user=body.per_user,
        expires_at=deps.read_time(body.expires_at, "expires_at"),
        valid_days=body.valid_days,
        name=body.name,
        key=key,
    )


def _parts(body: Body) -> dict[str, Any]:
    """The fields that the request names, as the rooms call them."""
    parts = {name: getattr(body, name) for name in body.model_fields_set}
    if not parts:
        raise NothingToChange
    price = parts.get("price")
    if isinstance(price, Price):
        parts["price"] = Money(price.amount, price.currency)
    elif "price" in parts:
        del parts["price"]
    return parts
