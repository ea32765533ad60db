"""What goes over the socket between the web process and a worker: JSON with its length before.

Four bytes of length, big-endian, then UTF-8 JSON. It knows no backend and starts nothing.
"""

import asyncio
import json
import socket
import struct
from dataclasses import asdict
from typing import Any

from chat_app.llm.engine import (
    ChatMessage,
    Delta,
    Done,
    Event,
    Failed,
    Image,
    Loading,
    Queued,
    Request,
    Sampling,
    Started,
    Usage,
)

Message = dict[str, Any]
_LENGTH = struct.Struct(">I")
MAX_BYTES = 64 * 1024 * 1024
_EVENTS: dict[str, type[Event]] = {
    kind.__name__: kind for kind in (Queued, Loading, Started, Delta, Done, Failed)
}


class WireError(Exception):
    """The other side sent something that is no message: a bug, so the line is cut."""


def pack(message: Message) -> bytes:
    """The bytes of one message."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return _LENGTH.pack(len(body)) + body


async def read(reader: asyncio.StreamReader) -> Message | None:
    """The next message, or None when the other side is gone."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > MAX_BYTES:
            raise WireError(f"a message of {length} bytes")
        return _parsed(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


class Line:
    """The worker's end: blocking, one thread."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()

    def send(self, message: Message) -> None:
        """Send it whole. Raises OSError when the other side is gone."""
        self.sock.sendall(pack(message))

    def receive(self) -> list[Message]:
        """Messages that arrived, waiting for bytes. Raises EOFError when the line is closed."""
        data = self.sock.recv(1 << 16)
        if not data:
            raise EOFError
        self._buffer += data
        found = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_BYTES:
                raise WireError(f"a message of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            found.append(_parsed(bytes(self._buffer[_LENGTH.size : end])))
            del self._buffer[:end]
        return found


def _parsed(body: bytes) -> Message:
    message = json.loads(body)
    if not isinstance(message, dict):
        raise WireError("a message that is no object")
    return message


def request_out(request: Request) -> Message:
    """A request as JSON."""
    return asdict(request)


def request_in(fields: Message) -> Request:
    """A request from JSON."""
    return Request(
        **{
            **fields,
            "messages": messages_in(fields["messages"]),
            "sampling": Sampling(**fields["sampling"]),
            "stop": tuple(fields["stop"]),
        }
    )


def messages_in(items: list[Message]) -> tuple[ChatMessage, ...]:
    """Chat messages from JSON."""
    return tuple(
        ChatMessage(
            item["role"],
            item["content"],
            tuple(Image(**image) for image in item.get("images", ())),
        )
        for item in items
    )


def event_out(event: Event) -> Message:
    """An event as JSON, its kind under `is`."""
    return {"is": type(event).__name__, **asdict(event)}


def event_in(fields: Message) -> Event:
    """An event from JSON."""
    rest = dict(fields)
    kind = _EVENTS[rest.pop("is")]
    if "usage" in rest:
        rest["usage"] = Usage(**rest["usage"])
    return kind(**rest)
