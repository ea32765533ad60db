"""REST: what people do with their own account: the profile, their data, and the end of it."""

from collections.abc import Iterator
from typing import Annotated, Literal

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from chat_app.api import auth, deps
from chat_app.api.auth import Password
from chat_app.api.deps import Body, Text, errors_in
from chat_app.api.second_factor import Code
from chat_app.api.views import Shown, UserOut
from chat_app.clock import from_micros, rfc3339
from chat_app.flows import erase, export, mailbox, presence, profile

router = APIRouter(prefix="/auth", tags=["auth"])


_CODE = "Needed with the password where two-factor sign-in is on: a code or a backup code."


class Profile(Body):
    display_name: Annotated[Text, Field(max_length=200)] | None = None
    language: Annotated[Text, Field(max_length=64)] | None = None
    timezone: Annotated[Text, Field(max_length=64)] | None = None
    email: Annotated[Text, Field(max_length=320)] | None = None
    password: Annotated[Password, Field(description="Needed with `email`.")] | None = None
    code: Annotated[Code, Field(description=_CODE)] | None = None


class Farewell(Body):
    password: Password
    code: Annotated[Code, Field(description=_CODE)] | None = None
    confirm: Annotated[
        Literal["forfeit", True] | None,
        Field(description='`"forfeit"` or `true`: the credits that are left are given up.'),
    ] = None


@router.patch("/me", responses=errors_in(401, 403, 422, 429, 503))
async def change_me(
    app: deps.App, who: deps.CurrentUser, ip: deps.ClientIp, body: Profile
) -> UserOut:
    """Change the own profile: what is given is changed, an empty text takes it back.

    Another `email` counts once the link that is mailed to it was opened.
    """
    if body.email is not None:
        await mailbox.change_email(
            app,
            user_id=deps.user_id(who),
            email=body.email,
            password=body.password or "",
            code=body.code,
            ip=ip,
        )
    user = await profile.change(
        app,
        user_id=deps.user_id(who),
        display_name=body.display_name,
        language=body.language,
        timezone=body.timezone,
    )
    return UserOut.of(user)


@router.delete("/me", status_code=204, responses=errors_in(401, 403, 409, 422, 429, 503))
async def erase_me(
    app: deps.App, who: deps.CurrentUser, ip: deps.ClientIp, body: Farewell, response: Response
) -> None:
    """Erase the own account for good. Amounts and invoices stay in the books without the name."""
    await erase.account(
        app,
        user_id=deps.user_id(who),
        password=body.password,
        code=body.code,
        forfeit=bool(body.confirm),
        ip=ip,
    )
    response.headers["Set-Cookie"] = auth.no_cookie(app)


class Presence(Body):
    password: Password
    code: Annotated[Code, Field(description=_CODE)] | None = None


class PresenceOut(Shown):
    """Until when what asks for a fresh password goes on in this session."""

    confirmed_until: str


@router.post("/confirm", responses=errors_in(401, 403, 422, 429, 503))
async def confirm_presence(
    app: deps.App, who: deps.CurrentUser, ip: deps.ClientIp, body: Presence
) -> PresenceOut:
    """Show the password again in this session, after a refusal with `password_needed`."""
    until = await presence.refresh(app, who, password=body.password, code=body.code, ip=ip)
    return PresenceOut(confirmed_until=rfc3339(until))


@router.get(
    "/me/export",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/zip": {}}}, **errors_in(401, 403, 429)},
)
async def export_me(app: deps.App, who: deps.CurrentUser) -> StreamingResponse:
    """All that is stored about the account: a ZIP of JSON files, invoices and images.

    A sign-in that is older than `accounts.fresh_minutes` is refused with `password_needed`
    until `POST /api/auth/confirm`.
    """
    await presence.require(app, who)
    pieces: Iterator[bytes] = export.archive(app, user_id=deps.user_id(who))
    name = f"{who.user.username}-{from_micros(app.clock.micros()):%Y-%m-%d}.zip"
    return StreamingResponse(
        pieces,
        media_type="application/zip",
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "no-store",
        },
    )
