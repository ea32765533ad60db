"""REST: public links of invoices: another one in place of the old, or none."""

from typing import Annotated

from fastapi import APIRouter, Depends

from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps
from chat_app.api.deps import errors_in
from chat_app.api.views import Shown
from chat_app.flows import paperwork

router = APIRouter(prefix="/billing", tags=["billing"])
admin_router = APIRouter(prefix="/admin", tags=["admin"])

Closing = Annotated[SignedIn, Depends(deps.allowed("invoices.write"))]


class LinkOut(Shown):
    """Whoever has the address sees the invoice, until it is withdrawn."""

    hosted_url: str

    @classmethod
    def of(cls, app: deps.App, path: str) -> "LinkOut":
        """The whole address of a public page."""
        return cls(hosted_url=app.settings.server.public_url.rstrip("/") + path)


@router.post("/invoices/{id}/link", responses=errors_in(401, 403, 404, 409))
async def new_link(app: deps.App, who: deps.CurrentUser, id: deps.Id) -> LinkOut:
    """Make another public link; the one before it opens nothing any more."""
    own = deps.user_id(who)
    return LinkOut.of(app, await paperwork.new_link(app, actor_id=own, invoice_id=id, user_id=own))


@router.delete("/invoices/{id}/link", status_code=204, responses=errors_in(401, 403, 404))
async def withdraw_link(app: deps.App, who: deps.CurrentUser, id: deps.Id) -> None:
    """Withdraw the public link: it opens nothing any more. Without one nothing changes."""
    own = deps.user_id(who)
    await paperwork.withdraw_link(app, actor_id=own, invoice_id=id, user_id=own)


@admin_router.post("/invoices/{id}/link", responses=errors_in(401, 403, 404, 409))
async def admin_new_link(app: deps.App, who: Closing, id: deps.Id) -> LinkOut:
    """Make another public link of anybody's invoice in place of the old one."""
    return LinkOut.of(app, await paperwork.new_link(app, actor_id=deps.user_id(who), invoice_id=id))


@admin_router.delete("/invoices/{id}/link", status_code=204, responses=errors_in(401, 403, 404))
async def admin_withdraw_link(app: deps.App, who: Closing, id: deps.Id) -> None:
    """Withdraw the public link of anybody's invoice."""
    await paperwork.withdraw_link(app, actor_id=deps.user_id(who), invoice_id=id)
