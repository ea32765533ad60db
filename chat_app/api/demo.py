"""The door of the demonstration: whoever opens the page without a sign-in gets one.

Pure ASGI, before the page. `/?leave` ends that, so that staff can sign in as themselves; the
page with any other query, as in the link of the first administrator, is left alone.
"""

import logging
from http.cookies import CookieError, SimpleCookie

from chat_app.accounts import sessions
from chat_app.api import auth
from chat_app.api.access import ASGI, Receive, Scope, Send
from chat_app.app import App
from chat_app.errors import AppError, NotSignedIn
from chat_app.flows import demo, signin

log = logging.getLogger(__name__)
LEAVE = b"leave"


class Door:
    """Wraps an application that serves a demonstration."""

    def __init__(self, inner: ASGI, app: App) -> None:
        self.inner = inner
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sign a visitor of the page in; everything else passes."""
        page = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/"
        query = scope.get("query_string", b"") if page else b""
        if query == LEAVE:
            await _redirect(send, "/?signin", auth.no_cookie(self.app))
        elif page and not query and not await self._known(scope):
            await self._enter(scope, receive, send)
        else:
            await self.inner(scope, receive, send)

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        agent = dict(scope["headers"]).get(b"user-agent", b"").decode("latin-1")
        client = scope.get("client") or ("", 0)
        try:
            token = await demo.enter(self.app, ip=str(client[0]), agent=agent)
        except AppError as error:
            log.warning("a visitor could not be signed in: %s", error)
            await self.inner(scope, receive, send)
        else:
            await _redirect(send, "/", auth.session_cookie(self.app, token))

    async def _known(self, scope: Scope) -> bool:
        """Whether the browser is signed in. Who was, before all began anew, comes in again."""
        name = sessions.cookie_name(sessions.secure_cookies(self.app.settings))
        given = dict(scope["headers"]).get(b"cookie", b"").decode("latin-1")
        try:
            shown = SimpleCookie(given).get(name)
            if shown is None:
                return False
            await signin.identify(self.app, cookie=shown.value)
        except (CookieError, NotSignedIn):
            return False
        except AppError as error:
            log.info("a visitor's sign-in does not count: %s", error)
        return True


async def _redirect(send: Send, place: str, cookie: str) -> None:
    headers = [
        (b"location", place.encode()),
        (b"set-cookie", cookie.encode()),
        (b"cache-control", b"no-store"),
        (b"content-length", b"0"),
    ]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
