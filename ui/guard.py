"""The guard: every handler learns from the cookie, on each call, who is asking.

Gradio runs any handler for anybody who knows its number, hidden or "private" ones too, so a
handler without a guard is open to the world. A test walks all of them.
"""

import inspect
import ipaddress
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import gradio as gr

from chat_app.accounts import sessions
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.errors import NotSignedIn
from chat_app.flows import signin
from chat_app.flows.people import AdminsOnly
from ui import inputs as inputs_room
from ui.errors import told

Role = Literal["anyone", "user", "admin"]
Handler = Callable[..., Any]


def guard(app: App, role: Role) -> Callable[[Handler], Handler]:
    """A decorator for `handler(user, *inputs)`; Gradio calls what it returns with a request.

    `role` is `anyone` (the user may be None), `user` or `admin`. Errors become toasts. The
    result is marked with `guard_role`, which a test asks for.
    """

    def decorate(handler: Handler) -> Handler:
        wrapped: Handler
        fit = inputs_room.fitter(handler)
        if inspect.isasyncgenfunction(handler):

            async def streaming(request: gr.Request, *inputs: Any) -> AsyncIterator[Any]:
                user = await identify(app, request, role)
                async for update in handler(user, *fit(inputs)):
                    yield update

            wrapped = told(streaming)
        elif inspect.iscoroutinefunction(handler):

            async def waiting(request: gr.Request, *inputs: Any) -> Any:
                return await handler(await identify(app, request, role), *fit(inputs))

            wrapped = told(waiting)
        else:
            raise TypeError(f"{handler.__name__} must be async: the event loop is shared")
        return _signed(wrapped, handler, role)

    return decorate


async def identify(app: App, request: gr.Request, role: Role) -> User | None:
    """The user behind the request's cookie; raises NotSignedIn or AdminsOnly."""
    name = sessions.cookie_name(sessions.secure_cookies(app.settings))
    try:
        user = await signin.who(app, cookie=request.cookies.get(name))
    except NotSignedIn:
        if role == "anyone":
            return None
        raise
    if role == "admin" and user.role != "admin":
        raise AdminsOnly
    return user


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
