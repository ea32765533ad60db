"""The content security policy, and which scripts within the page may run: those it came with.

The page's own inline scripts are named by their hashes, so that nothing that a text brings along
runs: no script element and no `onerror`. `eval` stays allowed, because Gradio makes functions of
the texts of `js=` and `js_on_load` with it.
"""

import base64
import gzip
import hashlib
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

HEADER = b"content-security-policy"
_ANYTHING_INLINE = b"script-src 'self' 'unsafe-inline'"
_STRICT = b"script-src 'self';"
_INLINE = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.S | re.I)
_KEPT = 8


def policy(*, framed_by: str) -> str:
    """What an answer may load, run and be framed by. Our small pages have no inline scripts."""
    ancestors = f"'self' {framed_by}".strip()
    return (
        "default-src 'self'; script-src 'self'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        "connect-src 'self'; worker-src 'self' blob:; form-action 'self'; base-uri 'self'; "
        f"object-src 'none'; frame-src 'none'; frame-ancestors {ancestors}"
    )


def of_page(value: bytes) -> bytes:
    """The same for Gradio's page; its scripts are named once it is known (`Inline`).

    Forms of the page are sent by its script; one that a text brought along goes nowhere.
    """
    scripts = _ANYTHING_INLINE + b" 'unsafe-eval';"
    return value.replace(b"form-action 'self'", b"form-action 'none'").replace(_STRICT, scripts)


class Inline:
    """Knows the hashes of the page's inline scripts."""

    def __init__(self) -> None:
        self._seen: dict[bytes, tuple[bytes, bytes]] = {}

    def held(self, send: Send, *, pack: bool = False) -> Send:
        """`send` that waits for the whole page and then names its scripts in the policy.

        With `pack` the page is sent as gzip: it is half a megabyte of text.
        """
        start: Message = {}
        parts: list[bytes] = []

        async def hold(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                page = b"".join(parts)
                start["headers"] = [self._named(pair, start, page) for pair in start["headers"]]
                if pack and not _encoded(start):
                    page = self._known(page)[1]
                    start["headers"] = _packed(start["headers"], len(page))
                await send(start)
                await send({"type": "http.response.body", "body": page})

        return hold

    def _named(self, pair: tuple[bytes, bytes], start: Message, page: bytes) -> tuple[bytes, bytes]:
        name, value = pair
        if name != HEADER or _encoded(start):
            return pair
        hashes, _ = self._known(page)
        return name, value.replace(_ANYTHING_INLINE, b"script-src 'self' " + hashes)

    def _known(self, page: bytes) -> tuple[bytes, bytes]:
        """The hashes of all inline scripts and the packed page, which is nearly always the same."""
        digest = hashlib.sha256(page).digest()
        if digest not in self._seen:
            if len(self._seen) >= _KEPT:
                self._seen.clear()
            hashes = b" ".join(_hash(script) for script in _INLINE.findall(page))
            self._seen[digest] = hashes, gzip.compress(page, 6, mtime=0)
        return self._seen[digest]


def _encoded(start: Message) -> bool:
    return any(key == b"content-encoding" for key, _ in start["headers"])


def _packed(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    return [
        *(pair for pair in headers if pair[0] != b"content-length"),
        (b"content-encoding", b"gzip"),
        (b"content-length", str(length).encode()),
        (b"vary", b"accept-encoding"),
    ]


def _hash(script: bytes) -> bytes:
    # Browsers hash the text as they have read it, with line ends of one kind.
    text = script.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return b"'sha256-" + base64.b64encode(hashlib.sha256(text).digest()) + b"'"
