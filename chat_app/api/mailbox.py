"""REST: addresses are confirmed and forgotten passwords replaced, by links in mails."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from chat_app.api import deps
from chat_app.api.auth import Password, Token
from chat_app.api.deps import Body, Text, errors_in
from chat_app.api.views import Shown
from chat_app.flows import mailbox, recover
from chat_app.money import format_credits

router = APIRouter(prefix="/auth", tags=["auth"])


class Proof(Body):
    token: Token


class Forgotten(Body):
    email: Annotated[Text, Field(max_length=320)]


class Renewal(Body):
    token: Token
    password: Password


class ConfirmedOut(Shown):
    """Whose address was confirmed, and the free credits that came with it."""

    username: str
    email: str
    email_verified: bool
    credits_given: str


class OnItsWayOut(Shown):
    """What was asked for is done if it can be; whether it can is not said."""

    message: str


@router.post(
    "/verify-email", dependencies=[deps.SameOrigin], responses=errors_in(403, 409, 422, 503)
)
async def verify_email(app: deps.App, ip: deps.ClientIp, body: Proof) -> ConfirmedOut:
    """Confirm an address with the token of the mailed link, at sign-up and after a change."""
    done = await mailbox.confirm(app, token=body.token, ip=ip)
    return ConfirmedOut(
        username=done.user.username,
        email=done.user.email,
        email_verified=True,
        credits_given=format_credits(done.micro),
    )


@router.post("/verify-email/resend", status_code=202, responses=errors_in(401, 403, 409, 429, 503))
async def resend(app: deps.App, who: deps.CurrentUser) -> OnItsWayOut:
    """Mail the link for the account's address again, once in a minute."""
    await mailbox.resend(app, user_id=deps.user_id(who))
    return OnItsWayOut(message=f"A mail is on its way to {who.user.email}. Open the link in it.")


@router.post(
    "/password/forgot",
    status_code=202,
    dependencies=[deps.SameOrigin],
    responses=errors_in(403, 422, 429, 503),
)
async def forgot(app: deps.App, ip: deps.ClientIp, body: Forgotten) -> OnItsWayOut:
    """Ask for a link to choose a new password. The answer is the same for every address."""
    await recover.ask(app, email=body.email, ip=ip)
    return OnItsWayOut(
        message="If an account has this address, a mail is on its way. Open the link in it."
    )


@router.post(
    "/password/reset",
    status_code=204,
    dependencies=[deps.SameOrigin],
    responses=errors_in(403, 422, 429, 503),
)
async def reset(app: deps.App, ip: deps.ClientIp, body: Renewal) -> None:
    """Choose a new password with the token of the mailed link. All sign-ins end."""
    await recover.reset(app, token=body.token, password=body.password, ip=ip)
