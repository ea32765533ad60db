"""The guard: every handler learns from the cookie, on each call, who is asking.

Gradio runs any handler for anybody who knows its number, hidden or "private" ones too, so a
handler without a guard is open to the world. A test walks all of them.
"""

import inspect
import ipaddress
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import aclosing
from http.cookies import CookieError, SimpleCookie
from typing import Any, Literal

import gradio as gr

from chat_app import logs
from chat_app.accounts import sessions
from chat_app.accounts.permissions import Permission
from chat_app.accounts.sessions import SignedIn
from chat_app.app import App
from chat_app.errors import AppError, NotSignedIn
from chat_app.flows import signin, staff, standing
from ui import inputs as inputs_room
from ui.errors import told

Role = Literal["anyone", "user"] | Permission
Handler = Callable[..., Any]


def guard(app: App, role: Role) -> Callable[[Handler], Handler]:
    """A decorator for `handler(user, *inputs)`; Gradio calls what it returns with a request.

    `role` is `anyone` (the user may be None), `user`, or a permission such as `users.read`, for
    staff who have it. Errors become toasts. The result is marked with `guard_role`, which a test
    asks for.
    """

    def decorate(handler: Handler) -> Handler:
        wrapped: Handler
        fit = inputs_room.fitter(handler)
        if inspect.isasyncgenfunction(handler):

            async def streaming(request: gr.Request, *inputs: Any) -> AsyncIterator[Any]:
                who = await identify(app, request, role)
                async with aclosing(handler(who and who.user, *fit(inputs))) as updates:
                    async for update in updates:
                        # Long after its start, too: a stream may run for minutes.
                        if who is not None:
                            await standing.require(app, who, staff=role not in ("anyone", "user"))
                        yield update

            wrapped = told(streaming)
        elif inspect.iscoroutinefunction(handler):

            async def waiting(request: gr.Request, *inputs: Any) -> Any:
                who = await identify(app, request, role)
                return await handler(who and who.user, *fit(inputs))

            wrapped = told(waiting)
        else:
            raise TypeError(f"{handler.__name__} must be async: the event loop is shared")
        return _signed(wrapped, handler, role)

    return decorate


async def identify(app: App, request: gr.Request, role: Role) -> SignedIn | None:
    """Whose sign-in the request's cookie belongs to.

    Raises NotSignedIn, AdminsOnly, NotPermitted, or SecondFactorRequired where money moves.
    """
    # Gradio runs handlers in tasks of their own, so what the request was given is bound again.
    logs.bind(request_id=request.headers.get("x-request-id") or logs.new_id())
    name = sessions.cookie_name(sessions.secure_cookies(app.settings))
    try:
        who = await signin.identify(app, cookie=request.cookies.get(name))
    except NotSignedIn:
        if role == "anyone":
            return None
        raise
    match role:
        case "anyone" | "user":
            pass
        case permission:
            await staff.require(app, who, permission)
    return who


async def role_of(app: App, scope: MutableMapping[str, Any]) -> str:
    """The role of whoever's cookie a request for the page carries; empty for nobody.

    Whoever could not be looked up gets the page as nobody: its first event says more.
    """
    name = sessions.cookie_name(sessions.secure_cookies(app.settings))
    given = dict(scope["headers"]).get(b"cookie", b"").decode("latin-1")
    try:
        shown = SimpleCookie(given).get(name)
        return (await signin.identify(app, cookie=shown.value)).user.role if shown else ""
    except (CookieError, AppError):
        return ""


def address(app: App, request: gr.Request) -> str:
    """The visitor's address, as the REST API reads it: a proxy is believed on a private one."""
    peer = request.client.host if request.client else ""
    nearest = str(request.headers.get("x-forwarded-for", "")).rpartition(",")[2].strip()
    try:
        behind = bool(app.settings.server.public_url) and ipaddress.ip_address(peer).is_private
        return str(ipaddress.ip_address(nearest)) if behind and nearest else peer
    except ValueError:
        return peer


def _signed(wrapped: Handler, handler: Handler, role: Role) -> Handler:
    """Give the wrapper the signature by which Gradio finds the request and counts inputs."""
    request = inspect.Parameter(
        "request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request
    )
    own = list(inspect.signature(handler).parameters.values())[1:]
    notes = {name: note for name, note in handler.__annotations__.items() if name != "return"}
    wrapped.__name__ = handler.__name__
    wrapped.__doc__ = handler.__doc__
    wrapped.__annotations__ = {
        "request": gr.Request,
        **{item.name: notes[item.name] for item in own if item.name in notes},
    }
    wrapped.__dict__.pop("__wrapped__", None)
    wrapped.__signature__ = inspect.Signature([request, *own])  # type: ignore[attr-defined]
    wrapped.guard_role = role  # type: ignore[attr-defined]
    return wrapped
