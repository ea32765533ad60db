"""A model server's replies as they come over the line: bounded, parsed, or a trouble with a code.

It knows no answer and counts no tokens. What a server says is for the log alone.
"""

import json
from collections.abc import AsyncGenerator
from typing import Any, Literal

import httpx

_LINE_BYTES = 256 * 1024
_ERROR_BYTES = 64 * 1024
# These say that the operator's key or account there is not good, or that it rests.
_CLOSED_DOORS = (
    httpx.codes.UNAUTHORIZED,
    httpx.codes.PAYMENT_REQUIRED,
    httpx.codes.FORBIDDEN,
    httpx.codes.NOT_FOUND,
    httpx.codes.SERVICE_UNAVAILABLE,
)

Blame = Literal["none", "counts", "opens", "unreachable"]
"""What a failed attempt says of the server: nothing, a failure, that it hangs, that it is gone."""


class Unreachable(Exception):
    """A server gave no usable reply to a short question."""


class Trouble(Exception):
    """An attempt failed: an event's code and the reason for the log.

    `again`: another server may do better.
    """

    def __init__(
        self, code: str, reason: str, *, again: bool = True, blame: Blame = "counts"
    ) -> None:
        super().__init__(reason)
        self.code = code
        self.again = again
        self.blame: Blame = blame


async def bounded(reply: httpx.Response, limit_bytes: int) -> bytes:
    """The body, read up to a limit. Raises Unreachable when it is longer."""
    body = bytearray()
    async for data in reply.aiter_raw():
        body += data
        if len(body) > limit_bytes:
            raise Unreachable(f"a reply of more than {limit_bytes} bytes")
    return bytes(body)


async def refusal(reply: httpx.Response, *, images: bool = False) -> Trouble:
    """What a reply that is no success means; `images`: the request showed some."""
    status = reply.status_code
    try:
        body = (await bounded(reply, _ERROR_BYTES)).decode(errors="replace")
    except Unreachable:
        body = ""
    reason = f"{status}: {body[:300]!r}"
    said = body.lower()
    bad = status >= httpx.codes.BAD_REQUEST
    if bad and images and "image" in said:
        return Trouble("model_cannot_see", reason, blame="none")
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return Trouble("model_not_available", reason, blame="none")
    if status in _CLOSED_DOORS:
        return Trouble("model_not_available", reason)
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return Trouble("engine_crashed", reason)
    if bad:
        long = "context" in said and "token" in said
        code = "context_overflow" if long else "engine_error"
        return Trouble(code, reason, again=False, blame="none")
    return Trouble("model_not_available", f"a redirect, which is not followed: {status}")


async def chunks(reply: httpx.Response, limit_bytes: int) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON objects of an event stream, until it says that it is done or breaks off.

    Raises Trouble for what is no such stream, for an error in it, and for too much of it.
    """
    held, total = bytearray(), 0
    async for data in reply.aiter_raw():
        held += data
        total += len(data)
        *lines, rest = bytes(held).split(b"\n")
        held = bytearray(rest)
        if total > limit_bytes or max(map(len, [*lines, rest])) > _LINE_BYTES:
            raise Trouble("engine_error", "the stream is longer than any answer")
        for line in lines:
            kind, _, value = line.strip().partition(b":")
            if kind == b"error":
                raise Trouble("engine_crashed", f"an error in the stream: {value[:300]!r}")
            if kind != b"data":
                continue
            if value.strip() == b"[DONE]":
                return
            yield _parsed(value)


def _parsed(value: bytes) -> dict[str, Any]:
    try:
        chunk = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise Trouble("engine_error", f"no JSON in the stream: {value[:100]!r}") from error
    if not isinstance(chunk, dict):
        raise Trouble("engine_error", f"no object in the stream: {value[:100]!r}")
    if "error" in chunk:
        raise Trouble("engine_crashed", f"an error in the stream: {str(chunk['error'])[:300]!r}")
    return chunk
