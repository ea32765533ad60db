"""Access: every request gets an id, and one line in the log when it was answered.

Pure ASGI around everything else, also around what refuses a request. The line has the route's
template, never the path, a query, a header or a body.
"""

import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from chat_app import logs

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]
Saw = Callable[[str, int, float], None]

log = logging.getLogger(__name__)

HEADER = b"x-request-id"
_GIVEN = re.compile(rb"[A-Za-z0-9._-]{8,64}")
# Asked every few seconds by machines, or files of the page: for `level = "debug"` alone.
_PREFIXES = (["", "api"], ["", "v1"], ["", "gradio_api"])
_QUIET = ("/livez", "/readyz", "/health", "/metrics", "/assets/", "/static/", "/gradio_api/")


class Access:
    """Wraps an application. The answer carries the request's id as `X-Request-ID`.

    `saw(path, status, seconds)` is told of each answer; the seconds are up to its head.
    """

    def __init__(self, inner: ASGI, saw: Saw | None = None) -> None:
        self.inner = inner
        self.saw = saw

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; a caller's own id is taken if it is plain."""
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        given = dict(scope["headers"]).get(HEADER, b"")
        id = given.decode() if _GIVEN.fullmatch(given) else logs.new_id()
        # Handlers of the page run in tasks of their own and find it there.
        others = [(name, value) for name, value in scope["headers"] if name != HEADER]
        scope["headers"] = [*others, (HEADER, id.encode())]
        status, began, seconds = 0, time.monotonic(), None

        async def answer(message: Message) -> None:
            nonlocal status, seconds
            if message["type"] == "http.response.start":
                status, seconds = message["status"], time.monotonic() - began
                headers = list(message.get("headers", []))
                if not any(name.lower() == HEADER for name, _ in headers):
                    headers.append((HEADER, id.encode()))
                message["headers"] = headers
            await send(message)

        with logs.bound(request_id=id):
            try:
                await self.inner(scope, receive, answer)
            finally:
                took = time.monotonic() - began
                if self.saw is not None:
                    self.saw(scope["path"], status, took if seconds is None else seconds)
                log.log(
                    logging.DEBUG if scope["path"].startswith(_QUIET) else logging.INFO,
                    "request",
                    extra={
                        "method": scope["method"],
                        "route": _route(scope),
                        "status": status or 499,
                        "duration_ms": round(took * 1000),
                    },
                )


def _route(scope: Scope) -> str:
    """The template of the route that answered; none: it was refused before, or is unknown."""
    template = getattr(scope.get("route"), "path", None)
    if not isinstance(template, str) or not template:
        return "-"
    # A route of an included router does not know what it was included under.
    above = scope["path"].split("/")[: -template.count("/")]
    return "/".join(above) + template if above in _PREFIXES else template
