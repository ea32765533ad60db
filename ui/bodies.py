"""Bodies of requests: how large they may be, and JSON that two readers would not read alike.

Knows paths and bytes, nothing of users or of what a request means.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from chat_app.settings import Server

MAX_DEPTH = 64
MAX_ITEMS = 20_000
# Larger ones are read in a thread, so that nobody else waits for it.
LARGE = 32 * 1024
_IMPORTS = re.compile(r"/api/chat/conversations/import|/api/admin/bulk(?:/.*)?")
_MESSAGES = re.compile(
    r"/api/chat/message|/api/chat/conversations/[^/]+/retry|/v1/.*|/gradio_api/queue/join"
)
_ODD = re.compile(rb"\\u(?:[dD][89a-fA-F]|0000)|NaN|Infinity|\d[eE]|\d{18}")
_SIGNED = re.compile(r"/api/billing/webhooks(?:/.*)?")


class Ambiguous(ValueError):
    """JSON that is too deep, has too many parts or says a thing twice."""


@dataclass(frozen=True)
class Caps:
    """The largest body in bytes, by what a path takes."""

    message: int
    other: int
    imported: int

    @classmethod
    def of(cls, server: Server) -> "Caps":
        """The caps that the settings ask for."""
        return cls(
            message=server.max_body_kib * 1024,
            other=server.max_other_body_kib * 1024,
            imported=server.max_import_kib * 1024,
        )

    def most(self, path: str) -> int:
        """The most bytes that this path takes."""
        if _MESSAGES.fullmatch(path):
            return self.message
        return self.imported if _IMPORTS.fullmatch(path) else self.other


def is_checked(path: str, content_type: str) -> bool:
    """Whether a body of the REST API is looked into before a route reads it.

    Signed ones are left to their signature: what it covers came from whom it says.
    """
    return "json" in content_type.lower() and not _SIGNED.fullmatch(path)


def read(body: bytes, *, path: str) -> Any:
    """The JSON value; raises Ambiguous for one that must not pass, ValueError for none at all."""
    try:
        content = json.loads(body, object_pairs_hook=_once)
    except RecursionError as error:
        raise Ambiguous("too deep") from error
    _bound(content, most=MAX_ITEMS * 50 if _IMPORTS.fullmatch(path) else MAX_ITEMS)
    return content


def storable(content: Any) -> Any:
    """The same value with text that every database stores; raises Ambiguous for odd numbers.

    A page's own script sends neither NaN nor numbers beyond 64 bits. Half a surrogate pair may
    come from a text that was cut, and NUL from one that was pasted; they become a question mark.
    """
    if isinstance(content, str):
        return "".join("\ufffd" if _is_odd(mark) else mark for mark in content)
    if isinstance(content, dict):
        return {storable(name): storable(item) for name, item in content.items()}
    if isinstance(content, list):
        return [storable(item) for item in content]
    if isinstance(content, float) and not math.isfinite(content):
        raise Ambiguous("not a number")
    if isinstance(content, int) and not -(2**63) <= content < 2**63:
        raise Ambiguous("not a number that fits")
    return content


def needs_care(body: bytes) -> bool:
    """Whether the bytes of a JSON text may hold what `storable` mends or refuses.

    Such text is always escaped in JSON, odd numbers have a name, an exponent or many digits.
    """
    return _ODD.search(body) is not None


def names_a_file(content: object) -> bool:
    """Whether any object in the JSON has the shape that Gradio opens as a file."""
    for item in walk(content):
        if isinstance(item, dict):
            meta = item.get("meta")
            if isinstance(meta, dict) and meta.get("_type") == "gradio.FileData":
                return True
    return False


def walk(content: object) -> Iterable[object]:
    """Every value in a JSON value, itself included."""
    waiting = [content]
    while waiting:
        item = waiting.pop()
        yield item
        if isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _is_odd(mark: str) -> bool:
    return mark == "\x00" or "\ud800" <= mark <= "\udfff"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Ambiguous("a name stands twice")
    return made


def _bound(content: object, *, most: int) -> None:
    level, count = [content], 0
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        count += len(below)
        if count > most:
            raise Ambiguous("too many parts")
        if not below:
            return
        level = below
    raise Ambiguous("too deep")
