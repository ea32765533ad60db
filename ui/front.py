"""The front page: made by Gradio once, then kept, and sent as whoever asks for it will see it.

Gradio makes the same half megabyte anew for every visitor, and shows nobody anything before a
first event has said who they are. Here the cookie says it: the page arrives with its tabs. That
decides nothing; each handler looks at the cookie again (`guard.py`), and so does the first event.
"""

import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.routing import BaseRoute, Match, Mount

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Message, Receive, Scope, Send

# For each address by which the page is asked for, and each look of it.
MOST_KEPT = 16
_CONFIG = "window.gradio_config = "
# Gradio is told these alone, so that what is kept under them depends on nothing else.
_ADDRESS = (b"host", b"x-forwarded-host", b"x-forwarded-proto")

Look = Mapping[int, Mapping[str, Any]]


class Front(BaseRoute):
    """Stands before Gradio for `/`.

    `who` tells whose look a request gets, `looks` are the properties of components that differ in
    each, by their numbers, and `dress` is what is done to the text of the page in the end.
    """

    def __init__(
        self,
        mount: Mount,
        *,
        who: Callable[["Scope"], Awaitable[str]],
        looks: Mapping[str, Look],
        dress: Callable[[str], str],
    ) -> None:
        self.mount = mount
        self.who = who
        self.looks = looks
        self.dress = dress
        self._kept: OrderedDict[tuple[bytes, ...], bytes] = OrderedDict()

    def matches(self, scope: "Scope") -> tuple[Match, "Scope"]:
        """Only the page itself."""
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"] != "/":
            return Match.NONE, {}
        if b"deep_link" in scope.get("query_string", b""):
            return Match.NONE, {}
        return self.mount.matches(scope)

    async def handle(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """The page with the look of whoever asks, from what is kept if it is there."""
        from starlette.responses import HTMLResponse

        look = await self.who(scope)
        given = dict(scope["headers"])
        told = [(name, given[name]) for name in _ADDRESS if name in given]
        key = (look.encode(), scope["scheme"].encode(), *(given.get(n, b"") for n in _ADDRESS))
        page = self._kept.get(key)
        if page is None:
            bare = {**scope, "headers": told, "query_string": b""}
            status, body = await self._made(bare, receive)
            if status != 200:
                await HTMLResponse(body, status)(scope, receive, send)
                return
            page = self.dress(arranged(body.decode(), self.looks[look])).encode()
            self._kept[key] = page
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        await HTMLResponse(page)(scope, receive, send)

    async def _made(self, scope: "Scope", receive: "Receive") -> tuple[int, bytes]:
        status, parts = 0, []

        async def take(message: "Message") -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))

        await self.mount.handle(scope, receive, take)
        return status, b"".join(parts)


def arranged(html: str, look: Look) -> str:
    """The page with these properties of its components."""
    start = html.find(_CONFIG)
    if start < 0:
        return html
    start += len(_CONFIG)
    config, end = json.JSONDecoder().raw_decode(html, start)
    for component in config["components"]:
        component["props"] |= look.get(component["id"], {})
    # As Gradio writes it: nothing in it ends the script that it stands in.
    text = json.dumps(config, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&'":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return html[:start] + text + html[end:]


def install(
    web: "FastAPI",
    *,
    who: Callable[["Scope"], Awaitable[str]],
    looks: Mapping[str, Look],
    dress: Callable[[str], str],
) -> None:
    """Put it before all routes of `web`, where Gradio is mounted last."""
    mount = web.router.routes[-1]
    if not isinstance(mount, Mount):
        raise TypeError("Gradio is not where it was mounted.")
    web.router.routes.insert(0, Front(mount, who=who, looks=looks, dress=dress))
