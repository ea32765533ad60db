"""REST: accounts, sign-in, sessions."""

from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import Field

from chat_app.accounts import devices, sessions
from chat_app.api import deps
from chat_app.api.deps import Body, Name, Text, errors_in
from chat_app.api.views import Page, SessionOut, SignInOut, UserOut
from chat_app.app import App
from chat_app.flows import signin, signup
from chat_app.flows.signin import SignIn

router = APIRouter(prefix="/auth", tags=["auth"])

Password = Annotated[str, Field(max_length=4096)]
Token = Annotated[str, Field(max_length=512)]


class Registration(Body):
    username: Name
    email: Annotated[Text, Field(max_length=320)]
    password: Password


class Claim(Registration):
    token: Token


class Credentials(Body):
    login: Annotated[Text, Field(max_length=320)]
    password: Password
    totp: Annotated[Text, Field(max_length=64)] | None = None


class Refresh(Body):
    refresh_token: Token


class Leaving(Body):
    refresh_token: Token | None = None


class NewPassword(Body):
    current: Password
    new: Password


@router.post(
    "/register",
    status_code=201,
    dependencies=[deps.SameOrigin],
    responses=errors_in(409, 422, 429, 503),
)
async def register(app: deps.App, ip: deps.ClientIp, body: Registration) -> UserOut:
    """Create an account. It starts with the welcome credits."""
    user = await signup.register(
        app, username=body.username, email=body.email, password=body.password, ip=ip
    )
    return UserOut.of(user)


@router.post(
    "/setup",
    status_code=201,
    dependencies=[deps.SameOrigin],
    responses=errors_in(403, 409, 422, 429, 503),
)
async def setup(app: deps.App, ip: deps.ClientIp, body: Claim) -> UserOut:
    """Create the first administrator with the token of the one-time link."""
    user = await signup.claim_admin(
        app,
        token=body.token,
        username=body.username,
        email=body.email,
        password=body.password,
        ip=ip,
    )
    return UserOut.of(user)


@router.post("/login", dependencies=[deps.SameOrigin], responses=errors_in(401, 403, 422, 429, 503))
async def login(
    *,
    app: deps.App,
    ip: deps.ClientIp,
    agent: deps.Agent,
    device: deps.Device,
    body: Credentials,
    response: Response,
) -> SignInOut:
    """Sign in with a user name or e-mail address. Sets the browser's cookie as well.

    With two-factor sign-in, `totp` is the authenticator's code or a backup code: without it the
    answer is 401 `totp_required`, with a bad one 401 `wrong_totp`.
    """
    done = await signin.login(
        app,
        login=body.login,
        password=body.password,
        ip=ip,
        agent=agent,
        code=body.totp,
        device=device,
    )
    shown = _signed_in(app, response, done)
    # The browser is known from now on: what others fail from its address does not stop it.
    response.headers.append("Set-Cookie", _device(app, done))
    return shown


@router.post("/refresh", dependencies=[deps.SameOrigin], responses=errors_in(401, 422, 503))
async def refresh(app: deps.App, body: Refresh, response: Response) -> SignInOut:
    """Exchange a refresh token. Each is good for one use; a second use ends the sign-in."""
    response.headers["Cache-Control"] = "no-store"
    return SignInOut.of(await signin.refresh(app, refresh_token=body.refresh_token))


@router.post("/logout", status_code=204, dependencies=[deps.SameOrigin], responses=errors_in(403))
async def logout(
    app: deps.App,
    token: deps.Cookie,
    bearer: deps.Bearer,
    response: Response,
    body: Leaving | None = None,
) -> None:
    """End the sign-in behind the cookie, the access token or the given refresh token."""
    await signin.logout(
        app,
        session_token=token,
        refresh_token=body.refresh_token if body else None,
        session_id=signin.session_of(app, bearer) if bearer else None,
    )
    response.headers["Set-Cookie"] = cookie(app, "", 0)


@router.post("/logout-all", status_code=204, responses=errors_in(401, 403))
async def logout_all(app: deps.App, who: deps.CurrentUser, response: Response) -> None:
    """End all sign-ins of the account, on every device."""
    await signin.logout_all(app, user_id=deps.user_id(who))
    response.headers["Set-Cookie"] = cookie(app, "", 0)


@router.get("/me", responses=errors_in(401))
async def me(who: deps.CurrentUser) -> UserOut:
    """The account that asks."""
    return UserOut.of(who.user)


@router.get("/sessions", responses=errors_in(401))
def list_sessions(app: deps.App, who: deps.CurrentUser) -> Page[SessionOut]:
    """The account's sign-ins, newest first."""
    with app.db.read() as session:
        rows = sessions.list_for(session, user_id=deps.user_id(who), now=app.clock.micros())
    return Page(items=[SessionOut.of(row, current=who.session_id) for row in rows])


@router.delete("/sessions/{id}", status_code=204, responses=errors_in(401, 403, 404))
async def end_session(app: deps.App, who: deps.CurrentUser, id: deps.Id) -> None:
    """End one sign-in."""
    owner = deps.user_id(who)
    await app.db.awrite(lambda s: sessions.revoke(s, session_id=id, user_id=owner))


@router.post("/password/change", responses=errors_in(401, 403, 422, 429, 503))
async def change_password(
    *,
    app: deps.App,
    who: deps.CurrentUser,
    ip: deps.ClientIp,
    agent: deps.Agent,
    body: NewPassword,
    response: Response,
) -> SignInOut:
    """Change the password. All sign-ins end; the answer is a new one."""
    done = await signin.change_password(
        app, user_id=deps.user_id(who), current=body.current, new=body.new, ip=ip, agent=agent
    )
    return _signed_in(app, response, done)


def no_cookie(app: App) -> str:
    """The header that takes the session cookie away."""
    return cookie(app, "", 0)


def session_cookie(app: App, token: str) -> str:
    """The header that gives a browser its sign-in."""
    return cookie(app, token, app.settings.accounts.session_hours * 3600)


def cookies(app: App, done: SignIn) -> tuple[str, str]:
    """The headers that sign a browser in and have it known again."""
    return session_cookie(app, done.session_token), _device(app, done)


def _signed_in(app: App, response: Response, done: SignIn) -> SignInOut:
    response.headers["Set-Cookie"] = session_cookie(app, done.session_token)
    response.headers["Cache-Control"] = "no-store"
    return SignInOut.of(done)


def _device(app: App, done: SignIn) -> str:
    assert done.user.id is not None
    name = devices.cookie_name(sessions.secure_cookies(app.settings))
    value = devices.issue(app.secrets.link_key, user_id=done.user.id)
    return cookie(app, value, devices.MAX_AGE_SECONDS, name=name)


def cookie(app: App, value: str, seconds: int, *, name: str = "") -> str:
    """A cookie that scripts cannot read; inside another site's frame it needs three words more."""
    secure = sessions.secure_cookies(app.settings)
    parts = [
        f"{name or sessions.cookie_name(secure)}={value}",
        "Path=/",
        "HttpOnly",
        *(["Secure"] if secure else []),
        *(
            ["SameSite=None", "Partitioned"]
            if sessions.embedded(app.settings)
            else ["SameSite=Lax"]
        ),
        f"Max-Age={seconds}",
    ]
    return "; ".join(parts)
