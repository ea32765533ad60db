"""The shield: what reaches the application at all, and which headers every answer carries.

Pure ASGI around REST and Gradio together. Gradio serves far more paths than its own page
needs, so only those pass. It does not know who a user is: handlers check that (`guard.py`).
"""

import asyncio
import hashlib
import json
import os
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_SECONDS = 60
MAX_BINDINGS = 20_000
_OWN = re.compile(r"/(?:(?:api|v1)(?:/.*)?|livez|readyz|health|metrics)")
_GRADIO = re.compile(
    r"/|/assets/[\w./@-]+|/static/[\w./@-]+|/theme\.css|/manifest\.json|/favicon\.ico|/robots\.txt"
    r"|/gradio_api/heartbeat/\w+|/gradio_api/queue/join|/gradio_api/queue/data"
    r"|/gradio_api/cancel|/gradio_api/startup-events"
)
_SAFE = {"GET", "HEAD", "OPTIONS"}
_COOKIE_NAMES = ("__Host-chat_session", "chat_session")
_HUB = "https://huggingface.co"

_REFUSALS = {
    400: ("malformed", "The request could not be read. Check its format and send it again."),
    403: ("not_allowed", "This request did not come from this site. Open the page and try again."),
    404: ("not_found", "This could not be found. Check the address."),
    408: ("timeout", "The request took too long to arrive. Send it again."),
    413: ("too_large", "This is too large. Shorten it and send it again."),
}


class _Refused(Exception):
    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(status)
        self.status = status
        self.code = code or _REFUSALS[status][0]


class Shield:
    """Wraps an application. `max_body_bytes` bounds every request body."""

    def __init__(self, inner: ASGI, *, max_body_bytes: int, public_url: str = "") -> None:
        self.inner = inner
        self.max_body_bytes = max_body_bytes
        self.hosts = {
            host.lower()
            for host in (urlsplit(public_url).netloc, os.environ.get("SPACE_HOST", ""))
            if host
        }
        self.headers = _headers(framed=bool(os.environ.get("SPACE_ID")))
        self._owners: OrderedDict[str, str] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Lifespan events pass; websockets are not offered."""
        if scope["type"] == "lifespan":
            await self.inner(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        answer = self._dressed(scope, send)
        try:
            received = await self._checked(scope, receive)
        except _Refused as refused:
            await _refuse(answer, refused)
            return
        await self.inner(scope, received, answer)

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        path, headers = scope["path"], _lower(scope)
        gradio = not _OWN.fullmatch(path)
        if gradio and not _GRADIO.fullmatch(path):
            raise _Refused(404)
        if gradio and ".." in path:
            raise _Refused(404)
        self._check_origin(scope, headers, gradio=gradio)
        if scope["method"] in _SAFE:
            if path == "/gradio_api/queue/data":
                query = parse_qs(scope["query_string"].decode("latin-1"))
                self._check_owner(headers, (query.get("session_hash") or [""])[0])
            elif path.startswith("/gradio_api/heartbeat/"):
                self._check_owner(headers, path.rsplit("/", 1)[1])
            return receive
        body = await self._body(headers, receive)
        if gradio:
            self._check_gradio_body(headers, body)
        return _replay(body, receive)

    def _check_origin(self, scope: Scope, headers: dict[str, str], *, gradio: bool) -> None:
        safe = scope["method"] in _SAFE
        if safe and not scope["path"].startswith("/gradio_api/"):
            return
        if not gradio and "authorization" in headers and "cookie" not in headers:
            return  # a program with its own token; no other site can make a browser send that
        if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise _Refused(403, "cross_origin")
        origin = headers.get("origin")
        if origin is not None:
            allowed = {headers.get("host", "").lower(), *self.hosts}
            if urlsplit(origin).netloc.lower() not in allowed:
                raise _Refused(403, "cross_origin")

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes:
        """The whole body, by counted bytes: a declared length may lie."""
        declared = headers.get("content-length", "0")
        if not declared.isdigit():
            raise _Refused(400)
        if int(declared) > self.max_body_bytes:
            raise _Refused(413)
        chunks, size = [], 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Refused(400)
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    if size > self.max_body_bytes:
                        raise _Refused(413)
                    chunks.append(chunk)
                    if not message.get("more_body"):
                        return b"".join(chunks)
        except TimeoutError as error:
            raise _Refused(408) from error

    def _check_gradio_body(self, headers: dict[str, str], body: bytes) -> None:
        try:
            content = json.loads(body) if body else {}
        except (ValueError, RecursionError) as error:
            raise _Refused(400) from error
        if _names_a_file(content):
            raise _Refused(403, "no_files")
        session = content.get("session_hash") if isinstance(content, dict) else None
        self._check_owner(headers, session if isinstance(session, str) else "")

    def _check_owner(self, headers: dict[str, str], session_hash: str) -> None:
        """A session hash is chosen by the page and travels in URLs: the first user keeps it."""
        if not session_hash or len(session_hash) > 64:
            raise _Refused(403, "foreign_session")
        owner = _owner(headers.get("cookie", ""))
        known = self._owners.setdefault(session_hash, owner)
        if known != owner:
            raise _Refused(403, "foreign_session")
        self._owners.move_to_end(session_hash)
        while len(self._owners) > MAX_BINDINGS:
            self._owners.popitem(last=False)

    def _dressed(self, scope: Scope, send: Send) -> Send:
        path = scope["path"]

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in self.headers}
                kept = [
                    (name, value)
                    for name, value in message.get("headers", [])
                    if name.lower() not in own and not name.lower().startswith(b"access-control-")
                ]
                message["headers"] = [*kept, *self.headers, *_caching(path, kept)]
            await send(message)

        return dressed


def _headers(*, framed: bool) -> list[tuple[bytes, bytes]]:
    ancestors = f"'self' {_HUB}" if framed else "'self'"
    policy = (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        "connect-src 'self'; worker-src 'self' blob:; form-action 'self'; base-uri 'self'; "
        f"object-src 'none'; frame-ancestors {ancestors}"
    )
    headers = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "permissions-policy": "camera=(), microphone=(), geolocation=()",
    }
    if not framed:
        headers["x-frame-options"] = "SAMEORIGIN"
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def _caching(path: str, kept: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    if any(name.lower() == b"cache-control" for name, _ in kept):
        return []
    if path.startswith(("/assets/", "/static/")):
        return [(b"cache-control", b"public, max-age=31536000, immutable")]
    return [(b"cache-control", b"no-store")]


def _lower(scope: Scope) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        headers[key] = f"{headers[key]}; {text}" if key == "cookie" and key in headers else text
    return headers


def _owner(cookie: str) -> str:
    """A digest of the sign-in cookie, so that the map holds no secret."""
    try:
        jar = SimpleCookie(cookie)
    except CookieError:
        return "anonymous"
    for name in _COOKIE_NAMES:
        if name in jar and jar[name].value:
            return hashlib.sha256(jar[name].value.encode()).hexdigest()
    return "anonymous"


def _names_a_file(content: object) -> bool:
    """Whether any object in the JSON has the shape that Gradio opens as a file."""
    waiting = [content]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            meta = item.get("meta")
            if isinstance(meta, dict) and meta.get("_type") == "gradio.FileData":
                return True
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return False


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` that gives the body once and then waits for the end of the connection."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def _refuse(send: Send, refused: _Refused) -> None:
    words = _REFUSALS[refused.status][1]
    error = {"message": words, "type": "invalid_request_error", "code": refused.code, "param": None}
    body = json.dumps({"error": error}).encode()
    await send(
        {
            "type": "http.response.start",
            "status": refused.status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
