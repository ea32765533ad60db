"""REST: what staff do with accounts. Every route names its permission."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field, StrictBool

from chat_app.accounts import users, velocity
from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps, monitoring
from chat_app.api.deps import Body, Credits, Text, errors_in
from chat_app.api.views import AccountOut, BalanceOut, DashboardOut, ModelOut, Page
from chat_app.credits import ledger
from chat_app.flows import adjust, forgive, people, shelf, staff

router = APIRouter(prefix="/admin", tags=["admin"])

Operating = Annotated[SignedIn, Depends(deps.allowed("machine.read"))]
Reading = Annotated[SignedIn, Depends(deps.allowed("users.read"))]
Suspending = Annotated[SignedIn, Depends(deps.allowed("users.suspend"))]
SigningOut = Annotated[SignedIn, Depends(deps.allowed("users.logout"))]
Adjusting = Annotated[SignedIn, Depends(deps.allowed("credits.adjust"))]


Status = Literal["", "active", "suspended", "staff", "support", "finance", "admin"]


class Change(Body):
    role: Literal["user", "support", "finance", "admin"] | None = None
    suspended: StrictBool | None = None


class Adjustment(Body):
    credits: Credits
    reason: Annotated[Text, Field(max_length=1000)]


class Forgiveness(Body):
    """`credits` of what is owed; without them all of it."""

    credits: Credits | None = None
    reason: Annotated[Text, Field(max_length=1000)]


@router.get("/dashboard", responses=errors_in(401, 403))
async def dashboard(request: Request, app: deps.App, who: Operating) -> DashboardOut:
    """The program at a glance."""
    with app.db.read() as session:
        counts = users.count(session)
        models = shelf.models(app, session=session)
    return DashboardOut(
        users=counts,
        metrics=monitoring.metrics_of(app),
        health=await monitoring.health_of(request, app),
        models=[ModelOut.of(model) for model in models],
    )


@router.get("/users", responses=errors_in(401, 403, 422))
def list_users(
    *,
    app: deps.App,
    who: Reading,
    q: deps.Search = "",
    status: Annotated[Status, Query()] = "",
    limit: deps.Limit = 50,
    cursor: deps.Cursor = None,
) -> Page[AccountOut]:
    """Accounts with their balances, oldest first."""
    with app.db.read() as session:
        found, following = users.search(session, q=q, status=status, limit=limit, cursor=cursor)
        refused = velocity.refusals(session, [user.id or 0 for user in found])
        items = [
            AccountOut.seen(
                user, ledger.balance(session, user_id=user.id or 0), refused.get(user.id or 0)
            )
            for user in found
        ]
    return Page(items=items, next_cursor=following)


@router.get("/users/{id}", responses=errors_in(401, 403, 404))
def show_user(app: deps.App, who: Reading, id: deps.UserId) -> AccountOut:
    """One account with its balance."""
    with app.db.read() as session:
        user = users.get(session, id)
        refused = velocity.refusals(session, [id])
        return AccountOut.seen(user, ledger.balance(session, user_id=id), refused.get(id))


@router.patch("/users/{id}", responses=errors_in(401, 403, 404, 409, 422))
async def change_user(app: deps.App, who: Suspending, id: deps.UserId, body: Change) -> AccountOut:
    """Change a role, suspend an account or let it back in. Takes effect at once."""
    if body.role is not None:
        await staff.require(app, who, "users.role")
    user = await people.change(
        app, admin_id=deps.user_id(who), user_id=id, role=body.role, suspended=body.suspended
    )
    return AccountOut.seen(user)


@router.post("/users/{id}/credits", responses=errors_in(401, 402, 403, 404, 409, 422))
async def adjust_credits(
    app: deps.App, who: Adjusting, id: deps.UserId, key: deps.IdempotencyKey, body: Adjustment
) -> BalanceOut:
    """Add credits, or take unheld ones with a negative amount. The reason stays in the books."""
    balance = await adjust.adjust(
        app,
        admin_id=deps.user_id(who),
        user_id=id,
        micro=body.credits,
        reason=body.reason,
        key=key,
    )
    return BalanceOut.of(balance)


@router.post("/users/{id}/debt/forgive", responses=errors_in(401, 403, 404, 409, 422))
async def forgive_debt(
    app: deps.App, who: Adjusting, id: deps.UserId, key: deps.IdempotencyKey, body: Forgiveness
) -> BalanceOut:
    """Let somebody off what they owe, or a part of it. It never comes back, whoever wins."""
    balance = await forgive.forgive(
        app,
        admin_id=deps.user_id(who),
        user_id=id,
        micro=body.credits,
        reason=body.reason,
        key=key,
    )
    return BalanceOut.of(balance)


@router.post("/users/{id}/logout", status_code=204, responses=errors_in(401, 403, 404))
async def end_sign_ins(app: deps.App, who: SigningOut, id: deps.UserId) -> None:
    """Sign a user out on every device."""
    await people.end_sign_ins(app, admin_id=deps.user_id(who), user_id=id)
