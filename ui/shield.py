"""The shield: what reaches the application at all, and which headers every answer carries.

Pure ASGI around REST and Gradio together. Gradio serves far more paths than its own page
needs, so only those pass. It does not know who a user is: handlers check that (`guard.py`).
"""

import asyncio
import hashlib
import ipaddress
import json
import os
import re
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Container, Iterator, MutableMapping
from contextlib import contextmanager
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from chat_app.accounts import sessions
from chat_app.settings import Settings
from ui import bodies, policy

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_SECONDS = 60
MAX_BINDINGS = 20_000
# A page has one stream of its events and one heartbeat; a reload may overlap.
STREAMS_PER_PAGE = 6
RETRY_SECONDS = 5
_OWN = re.compile(
    r"/(?:(?:api|v1)(?:/.*)?|share/[\w-]+|livez|readyz|health|metrics"
    r"|manifest\.json|sw\.js|offline|icons/[\w-]+\.(?:svg|png)|languages/[\w-]+\.js)"
)
_GRADIO = re.compile(
    r"/|/assets/[\w./@-]+|/static/[\w./@-]+|/theme\.css|/favicon\.ico|/robots\.txt"
    r"|/gradio_api/heartbeat/\w+|/gradio_api/queue/join|/gradio_api/queue/data"
    r"|/gradio_api/cancel|/gradio_api/startup-events"
)
_STREAMS = re.compile(
    r"/gradio_api/heartbeat/\w+|/gradio_api/queue/data|/api/chat/replies/[^/]+/events"
)
_POLICY = b"content-security-policy"
_SAFE = {"GET", "HEAD", "OPTIONS"}
_COOKIE_NAMES = ("__Host-chat_session", "chat_session")

_REFUSALS = {
    400: ("malformed", "The request could not be read. Check its format and send it again."),
    403: ("not_allowed", "This request did not come from this site. Open the page and try again."),
    404: ("not_found", "This could not be found. Check the address."),
    408: ("timeout", "The request took too long to arrive. Send it again."),
    413: ("too_large", "This is too large. Shorten it and send it again."),
    429: ("too_many_streams", "Too many pages are open at once. Close some and try again."),
}


class _Refused(Exception):
    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(status)
        self.status = status
        self.code = code or _REFUSALS[status][0]


class Shield:
    """Wraps an application: caps on bodies and open streams, foreign origins, headers.

    `handlers` are the numbers of the page's handlers; Gradio itself fails on others.
    """

    def __init__(self, inner: ASGI, settings: Settings, *, handlers: Container[int] = ()) -> None:
        self.inner = inner
        self.inline = policy.Inline()
        self.handlers = handlers
        self.caps = bodies.Caps.of(settings.server)
        public = settings.server.public_url
        self.behind_proxy = bool(public)
        self.hosts = {
            host.lower()
            for host in (urlsplit(public).netloc, os.environ.get("SPACE_HOST", ""))
            if host
        }
        https = sessions.secure_cookies(settings)
        days = settings.server.hsts_days if https else 0
        self.headers = _headers(framed_by=sessions.framed_by(settings), hsts_days=days)
        self.page_headers = [(name, policy.of_page(value)) for name, value in self.headers]
        self.streams_per_address = settings.server.streams_per_address
        self._streams: Counter[tuple[str, str]] = Counter()
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
            page = scope["path"] == "/" and scope["method"] == "GET"
            with self._counted(scope):
                # What is held is dressed before: the policy is there to be completed.
                pack = "gzip" in _lower(scope).get("accept-encoding", "")
                whole = self.inline.held(send, pack=pack)
                held = self._dressed(scope, whole) if page else answer
                await self.inner(scope, received, held)
        except _Refused as refused:
            await _refuse(answer, refused)

    @contextmanager
    def _counted(self, scope: Scope) -> Iterator[None]:
        """A stream holds a connection for as long as its reader likes, so they are counted."""
        path = scope["path"]
        if scope["method"] != "GET" or not _STREAMS.fullmatch(path):
            yield
            return
        limits: list[tuple[tuple[str, str], int]] = []
        if path.startswith("/gradio_api/"):
            limits.append((("page", _session_hash(scope)), STREAMS_PER_PAGE))
        address = self._address(scope)
        if self.streams_per_address and not _is_loopback(address):
            limits.append((("address", address), self.streams_per_address))
        if any(self._streams[who] >= most for who, most in limits):
            raise _Refused(429)
        for who, _ in limits:
            self._streams[who] += 1
        try:
            yield
        finally:
            for who, _ in limits:
                self._streams[who] -= 1
                if not self._streams[who]:
                    del self._streams[who]

    def _address(self, scope: Scope) -> str:
        """The caller's address, as the REST API reads it: a proxy is believed on a private one."""
        peer = str((scope.get("client") or ("",))[0])
        nearest = _lower(scope).get("x-forwarded-for", "").rpartition(",")[2].strip()
        try:
            behind = self.behind_proxy and ipaddress.ip_address(peer).is_private
            return str(ipaddress.ip_address(nearest)) if behind and nearest else peer
        except ValueError:
            return peer

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        path, headers = scope["path"], _lower(scope)
        gradio = not _OWN.fullmatch(path)
        if gradio and not _GRADIO.fullmatch(path):
            raise _Refused(404)
        if gradio and ".." in path:
            raise _Refused(404)
        self._check_origin(scope, headers, gradio=gradio)
        if scope["method"] in _SAFE:
            if path.startswith(("/gradio_api/queue/data", "/gradio_api/heartbeat/")):
                self._check_owner(headers, _session_hash(scope))
            return receive
        body = await self._body(headers, receive, most=self.caps.most(path))
        if gradio or (body and bodies.is_checked(path, headers.get("content-type", ""))):
            large = len(body) > bodies.LARGE
            reading = asyncio.to_thread(_read, path, body) if large else None
            content, body = await reading if reading else _read(path, body)
            if gradio:
                self._check_gradio(path, headers, content)
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

    async def _body(self, headers: dict[str, str], receive: Receive, *, most: int) -> bytes:
        """The whole body, by counted bytes: a declared length may lie."""
        declared = headers.get("content-length", "0")
        if not (declared.isascii() and declared.isdigit()):
            raise _Refused(400)
        if int(declared[:20]) > most:
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
                    if size > most:
                        raise _Refused(413)
                    chunks.append(chunk)
                    if not message.get("more_body"):
                        return b"".join(chunks)
        except TimeoutError as error:
            raise _Refused(408) from error

    def _check_gradio(self, path: str, headers: dict[str, str], content: object) -> None:
        if not isinstance(content, dict):
            raise _Refused(400)
        if path == "/gradio_api/queue/join":
            number = content.get("fn_index")
            if type(number) is not int or number not in self.handlers:
                raise _Refused(400)
        session = content.get("session_hash")
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
        ours = self.headers if _OWN.fullmatch(path) else self.page_headers

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = [(name.lower(), value) for name, value in message.get("headers", [])]
                added = ours
                if path.startswith("/share/") and any(name == _POLICY for name, _ in given):
                    # What strangers wrote is shown under a policy of its own, a stricter one.
                    added = [item for item in ours if item[0] != _POLICY]
                own = {name for name, _ in added}
                kept = [
                    (name, value)
                    for name, value in given
                    if name not in own and not name.startswith(b"access-control-")
                ]
                message["headers"] = [*kept, *added, *_caching(path, kept)]
            await send(message)

        return dressed


def _headers(*, framed_by: str, hsts_days: int) -> list[tuple[bytes, bytes]]:
    headers = {
        "content-security-policy": policy.policy(framed_by=framed_by),
        "x-content-type-options": "nosniff",
        "referrer-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    }
    if not framed_by:
        headers["x-frame-options"] = "SAMEORIGIN"
    if hsts_days:
        headers["strict-transport-security"] = f"max-age={hsts_days * 86_400}"
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def _caching(path: str, kept: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    if any(name.lower() == b"cache-control" for name, _ in kept):
        return []
    if path.startswith(("/assets/", "/static/", "/theme.css")):
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


def _read(path: str, body: bytes) -> tuple[object, bytes]:
    """The JSON of a body and the bytes to pass on.

    What goes to Gradio names no file and is mended, because its own code fails on odd text; for
    the REST API the routes say what is wrong.
    """
    gradio = path.startswith("/gradio_api/")
    try:
        content = bodies.read(body, path=path) if body else {}
        if gradio and bodies.needs_care(body):
            content = bodies.storable(content)
            body = json.dumps(content).encode()
    except bodies.Ambiguous as error:
        raise _Refused(400) from error
    except ValueError as error:
        if gradio:
            raise _Refused(400) from error
        return None, body
    if gradio and bodies.names_a_file(content):
        raise _Refused(403, "no_files")
    return content, body


def _session_hash(scope: Scope) -> str:
    """The page's own id in the address of one of its streams."""
    path: str = scope["path"]
    if path.startswith("/gradio_api/heartbeat/"):
        return path.rpartition("/")[2]
    query: bytes = scope["query_string"]
    return parse_qs(query.decode("latin-1")).get("session_hash", [""])[0]


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
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
                *([(b"retry-after", str(RETRY_SECONDS).encode())] if refused.status == 429 else []),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
