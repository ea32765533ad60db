"""What routes ask for: who is calling, the App, a checked key, checked texts.

Every route names its caller: `CurrentUser` or a permission (`allowed`) in its signature, or it
is open to all and listed as such in the matrix of tests/api. A cookie alone is not enough to
change anything: the request must come from our own pages or from no browser at all.
"""

import functools
import ipaddress
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Header, Path, Query, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictInt

from chat_app.accounts import devices, sessions
from chat_app.accounts.permissions import Permission
from chat_app.accounts.sessions import SignedIn
from chat_app.api import rates, scopes
from chat_app.app import App as TheApp
from chat_app.clock import from_micros, to_micros
from chat_app.errors import Invalid, NotAllowed, NotFound, NotSignedIn
from chat_app.flows import signin, staff
from chat_app.ids import new_id
from chat_app.money import BadCredits, parse_credits

SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
MAX_CURSOR = 200
_PUBLIC_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KEY = re.compile(r"[\x21-\x7e]{1,200}")


class CrossSite(NotAllowed):
    """Another site's page sent the request with the visitor's cookie."""

    code = "cross_site"
    message = "This request came from another site and was refused. Open the chat itself."


class BadIdempotencyKey(Invalid):
    """The header is empty, too long or has strange characters."""

    code = "invalid_idempotency_key"
    message = "An Idempotency-Key has 1 to 200 visible ASCII characters. Send a UUID, for example."


class BadTime(Invalid):
    """A time in the query cannot be read."""

    code = "invalid_time"
    message = "Times are RFC 3339, for example 2026-01-31T12:00:00Z, or a date such as 2026-01-31."


class Body(BaseModel):
    """A request body: known fields, exact types, nothing else."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def _clean(text: str) -> str:
    """Text that every database stores and every page shows."""
    if "\x00" in text:
        raise ValueError("contains a NUL character")
    if any("\ud800" <= mark <= "\udfff" for mark in text):
        raise ValueError("contains half of a surrogate pair")
    return text


def _credits(value: object) -> int:
    try:
        return parse_credits(value)
    except BadCredits as error:
        raise ValueError(str(error)) from error


Clean = AfterValidator(_clean)
Text = Annotated[str, Clean]
Name = Annotated[str, Field(max_length=200), Clean]
Credits = Annotated[
    StrictInt,
    BeforeValidator(_credits, json_schema_input_type=str | int),
    Field(description='Credits as an integer or a decimal text, for example 10 or "0.25".'),
]
PublicId = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]


def the_app(request: Request) -> TheApp:
    """The App that this web application serves."""
    app = request.app.state.app
    assert isinstance(app, TheApp)
    return app


App = Annotated[TheApp, Depends(the_app)]


def client_ip(request: Request) -> str:
    """The caller's address. A proxy is believed only on a private address and when one is set."""
    peer = request.client.host if request.client else ""
    forwarded = request.headers.get("x-forwarded-for", "")
    if forwarded and the_app(request).settings.server.public_url and _is_private(peer):
        nearest = forwarded.rpartition(",")[2].strip()
        return nearest if _is_address(nearest) else peer
    return peer


ClientIp = Annotated[str, Depends(client_ip)]


def agent(request: Request) -> str:
    """What the caller's program calls itself."""
    return request.headers.get("user-agent", "")[: sessions.MAX_AGENT]


Agent = Annotated[str, Depends(agent)]


def cookie(request: Request) -> str | None:
    """The session cookie, if there is one."""
    name = sessions.cookie_name(sessions.secure_cookies(the_app(request).settings))
    return request.cookies.get(name)


Cookie = Annotated[str | None, Depends(cookie)]


def device(request: Request) -> str:
    """The cookie of a browser that has signed in before; empty without one."""
    name = devices.cookie_name(sessions.secure_cookies(the_app(request).settings))
    return request.cookies.get(name, "")


Device = Annotated[str, Depends(device)]


def same_origin(request: Request) -> None:
    """Refuse what a page of another site makes a browser send; raises CrossSite.

    Programs that send neither header carry no visitor's cookie by accident.
    """
    if request.method in SAFE_METHODS or request.headers.get("authorization"):
        return
    site = request.headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        raise CrossSite
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc not in _own_hosts(request):
        raise CrossSite


SameOrigin = Depends(same_origin)


def bearer(request: Request) -> str | None:
    """The access token or API key of `Authorization`, or of `x-api-key`, which means the same.

    Raises NotSignedIn for another scheme, and for two that differ.
    """
    named = request.headers.get("x-api-key")
    header = request.headers.get("authorization")
    if header is None:
        if named is not None and not named.strip():
            raise NotSignedIn
        return named.strip() if named is not None else None
    scheme, _, token = header.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or named not in (None, token):
        raise NotSignedIn
    return token


Bearer = Annotated[str | None, Depends(bearer)]

_scheme = HTTPBearer(
    auto_error=False, description="An access token from POST /api/auth/login, or an API key."
)
_key_scheme = APIKeyHeader(
    name="x-api-key", auto_error=False, description="An API key from POST /api/auth/keys."
)


async def signed_in(
    request: Request,
    app: App,
    token: Bearer,
    _shown_in_docs: Annotated[HTTPAuthorizationCredentials | None, Security(_scheme)] = None,
    _shown_too: Annotated[str | None, Security(_key_scheme)] = None,
) -> SignedIn:
    """Whoever calls, by access token, API key or cookie.

    The one place that asks whether a key may come here: raises NotSignedIn, BadKey, CrossSite,
    or KeyNotAllowed for a route whose scope the key lacks.
    """
    if token is not None:
        who = await signin.identify(app, bearer=token)
        if who.key is not None:
            scopes.require(request, who.key)
    else:
        same_origin(request)
        who = await signin.identify(app, cookie=cookie(request))
    rates.note(request, user_id(who))
    return who


CurrentUser = Annotated[SignedIn, Depends(signed_in)]


@functools.cache
def allowed(permission: Permission) -> Callable[..., Awaitable[SignedIn]]:
    """`signed_in`, for roles with the permission, and a second factor where money moves.

    Raises AdminsOnly, NotPermitted or SecondFactorRequired. A test finds the permission of each
    route by what this returns.
    """

    async def permitted(app: App, who: CurrentUser) -> SignedIn:
        await staff.require(app, who, permission)
        return who

    permitted.permission = permission  # type: ignore[attr-defined]
    return permitted


def is_local(request: Request) -> bool:
    """Whether a program on this very machine asks, and asks directly.

    A proxy on this machine is not the one who asks: it names another host or says for whom. Nor
    is a page of another site in a browser here.
    """
    headers = request.headers
    if any(name in headers for name in ("x-forwarded-for", "x-real-ip", "forwarded", "via")):
        return False
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return False
    host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
    return _is_loopback(request.client.host if request.client else "") and (
        host == "localhost" or _is_loopback(host)
    )


async def operator(
    request: Request,
    app: App,
    token: Bearer,
    _shown_in_docs: Annotated[HTTPAuthorizationCredentials | None, Security(_scheme)] = None,
) -> None:
    """A program on this machine, or staff; raises NotSignedIn, AdminsOnly or NotPermitted."""
    if not is_local(request):
        await staff.require(app, await signed_in(request, app, token), "machine.read")


Operator = Depends(operator)


def user_id(who: SignedIn) -> int:
    """The caller's number."""
    assert who.user.id is not None
    return who.user.id


def idempotency_key(
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="The same key with the same body gives the same answer and acts once.",
        ),
    ] = None,
) -> str:
    """The caller's key, or a fresh one; raises BadIdempotencyKey."""
    if key is None:
        return new_id("key")
    if not _KEY.fullmatch(key):
        raise BadIdempotencyKey(param="Idempotency-Key")
    return key


IdempotencyKey = Annotated[str, Depends(idempotency_key)]


def _found_id(text: str) -> str:
    if not _PUBLIC_ID.fullmatch(text):
        raise NotFound
    return text


def _path_id(id: Annotated[str, Path(description="The id.")]) -> str:
    return _found_id(id)


Id = Annotated[str, Depends(_path_id)]


def _path_user(id: Annotated[str, Path(description="The user's id.")]) -> int:
    if not (id.isascii() and id.isdigit() and len(id) < 19):
        raise NotFound
    return int(id)


UserId = Annotated[int, Depends(_path_user)]

Limit = Annotated[int, Query(ge=1, le=100, description="Items on a page.")]
Cursor = Annotated[
    str | None, Query(max_length=MAX_CURSOR, description="`next_cursor` of the page before."), Clean
]
Search = Annotated[str, Query(max_length=200, description="Text to look for."), Clean]


def read_time(text: str | None, name: str) -> int | None:
    """Microseconds of an RFC 3339 time or a date, UTC where none is said; raises BadTime."""
    if text is None or not text.strip():
        return None
    # A plus sign that nobody escaped arrives as a space.
    try:
        moment = datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text else text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        micros = to_micros(moment)
        from_micros(micros)  # an hour before the first year, by its zone, cannot be shown
        return micros
    except (ValueError, OverflowError) as error:
        raise BadTime(param=name) from error


def _since(
    since: Annotated[
        str | None, Query(alias="from", max_length=64, description="Not before.")
    ] = None,
) -> int | None:
    return read_time(since, "from")


def _until(
    until: Annotated[str | None, Query(alias="to", max_length=64, description="Before.")] = None,
) -> int | None:
    return read_time(until, "to")


Since = Annotated[int | None, Depends(_since)]
Until = Annotated[int | None, Depends(_until)]


def errors_in(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals of a route, for the OpenAPI description."""
    from chat_app.api.views import ErrorBody

    return {status: {"model": ErrorBody} for status in statuses}


def _own_hosts(request: Request) -> set[str]:
    public = the_app(request).settings.server.public_url
    return {request.headers.get("host", ""), urlsplit(public).netloc} - {""}


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_loopback(text: str) -> bool:
    return _is_address(text) and ipaddress.ip_address(text).is_loopback


def _is_private(text: str) -> bool:
    return _is_address(text) and ipaddress.ip_address(text).is_private
