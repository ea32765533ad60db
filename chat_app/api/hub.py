"""REST: signing in with Hugging Face, in a Space.

The browser is led there and back. What goes wrong on the way back is told by the page: it gets
the code of the refusal in its address, and no more.
"""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from chat_app.accounts import hub as rows
from chat_app.accounts import sessions
from chat_app.api import auth, deps
from chat_app.api.auth import Password
from chat_app.api.deps import Body, Text, errors_in
from chat_app.api.views import Shown, SignInOut
from chat_app.app import App
from chat_app.clock import rfc3339
from chat_app.errors import AppError
from chat_app.flows import hub
from chat_app.flows.signin import SignIn

router = APIRouter(prefix="/auth/hub", tags=["auth"])

Part = Annotated[str, Query(max_length=2048)]


class Code(Body):
    code: Annotated[Text, Field(max_length=64)]


class Proof(Body):
    password: Password
    code: Annotated[Text, Field(max_length=64)] | None = None


class HubOut(Shown):
    """Whether Hugging Face is offered here, and as whom it signs in to the account that asks."""

    offered: bool
    linked: bool
    name: str | None
    linked_at: str | None


class LeadOut(Shown):
    """Where the browser goes next."""

    url: str


@router.get("", responses=errors_in(401))
def standing(app: deps.App, who: deps.CurrentUser) -> HubOut:
    """Whether a Hugging Face account signs in to this one."""
    with app.db.read() as session:
        row = rows.of_user(session, user_id=deps.user_id(who))
    return HubOut(
        offered=app.hub is not None,
        linked=row is not None,
        name=row.name if row else None,
        linked_at=rfc3339(row.linked_at) if row else None,
    )


@router.get("/start", status_code=303, response_class=Response, responses=errors_in(404))
async def start(app: deps.App) -> Response:
    """Lead the browser to Hugging Face to sign in. Only in a Space; elsewhere 404 `hub_absent`."""
    hub.provider(app)
    try:
        begun = await hub.begin(app)
    except AppError as error:
        return _lead(f"/?hub={error.code}")
    return _lead(begun.address, _cookie(app, begun.cookie, hub.VALID_SECONDS))


@router.get("/callback", status_code=303, response_class=Response, responses=errors_in(404))
async def callback(
    *,
    app: deps.App,
    request: Request,
    ip: deps.ClientIp,
    agent: deps.Agent,
    device: deps.Device,
    state: Part = "",
    code: Part = "",
    error: Part = "",
) -> Response:
    """Where Hugging Face leads the browser back to. Ends at the page, signed in or told why not."""
    hub.provider(app)
    cookie = _kept(app, request)
    try:
        done = await hub.finish(
            app, cookie=cookie, state=state, code=code, error=error,
            ip=ip, agent=agent, device=device,
        )  # fmt: skip
    except AppError as refusal:
        place = "/?hub={}#account" if cookie.startswith("link.") else "/?hub={}"
        return _lead(place.format(refusal.code), _cookie(app, "", 0))
    if done.second:
        return _lead("/?hub=second", _cookie(app, done.second, hub.VALID_SECONDS))
    if done.signed_in is None:
        return _lead("/#account", _cookie(app, "", 0))
    return _lead("/", _cookie(app, "", 0), *auth.cookies(app, done.signed_in))


@router.post(
    "/second",
    dependencies=[deps.SameOrigin],
    responses=errors_in(401, 403, 404, 422, 429, 503),
)
async def second(
    *,
    app: deps.App,
    request: Request,
    ip: deps.ClientIp,
    agent: deps.Agent,
    device: deps.Device,
    body: Code,
    response: Response,
) -> SignInOut:
    """The code of an account with two-factor sign-in, after Hugging Face has named its owner."""
    done: SignIn = await hub.second(
        app, cookie=_kept(app, request), code=body.code, ip=ip, agent=agent, device=device
    )
    for cookie in (*auth.cookies(app, done), _cookie(app, "", 0)):
        response.headers.append("Set-Cookie", cookie)
    response.headers["Cache-Control"] = "no-store"
    return SignInOut.of(done)


@router.post("/link", responses=errors_in(401, 403, 404, 409, 422, 429, 503))
async def link(
    app: deps.App, who: deps.CurrentUser, ip: deps.ClientIp, body: Proof, response: Response
) -> LeadOut:
    """Begin to link a Hugging Face account to this one: go to `url` with the same browser."""
    begun = await hub.begin_link(app, who, password=body.password, code=body.code, ip=ip)
    response.headers["Set-Cookie"] = _cookie(app, begun.cookie, hub.VALID_SECONDS)
    response.headers["Cache-Control"] = "no-store"
    return LeadOut(url=begun.address)


@router.post("/unlink", status_code=204, responses=errors_in(401, 403, 404, 422, 429, 503))
async def unlink(app: deps.App, who: deps.CurrentUser, ip: deps.ClientIp, body: Proof) -> None:
    """Hugging Face signs in to this account no longer."""
    await hub.unlink(app, who, password=body.password, code=body.code, ip=ip)


def _lead(place: str, *cookies: str) -> Response:
    answer = Response(status_code=303, headers={"Location": place, "Cache-Control": "no-store"})
    for cookie in cookies:
        answer.headers.append("Set-Cookie", cookie)
    return answer


def _kept(app: App, request: Request) -> str:
    return request.cookies.get(_name(app), "")


def _cookie(app: App, value: str, seconds: int) -> str:
    return auth.cookie(app, value, seconds, name=_name(app))


def _name(app: App) -> str:
    return hub.cookie_name(sessions.secure_cookies(app.settings))
