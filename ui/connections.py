"""Connections: how slow, how large and how many they may be, before any request exists.

The server itself waits for ever for the rest of a request's head and for a reader that has
stopped reading. It knows nothing of requests, users or the application.
"""

import asyncio
import ipaddress
import socket
from collections import Counter
from contextlib import suppress

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from chat_app.settings import Server

MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
# What the kernel holds for a slow reader; without it several megabytes for each.
SEND_BUFFER = 256 * 1024


class Connection(HttpToolsProtocol):
    """One connection. `limited` sets the three bounds; 0 means none."""

    head_seconds: float = 15
    stall_seconds: float = 30
    per_address: int = 0
    open_by_address: Counter[str]

    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None
    _in_head = False
    _head_bytes = 0
    _named_bytes = 0
    _too_large = False
    _counted = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, and give it a moment to say what it wants."""
        super().connection_made(transport)
        peer = self.client[0] if self.client else ""
        if self.per_address and not _may_be_a_proxy(peer):
            if self.open_by_address[peer] >= self.per_address:
                transport.abort()
                return
            self.open_by_address[peer] += 1
            self._counted = peer
        self._bound_the_kernel(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._disarm()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        if self._counted:
            self.open_by_address[self._counted] -= 1
            if not self.open_by_address[self._counted]:
                del self.open_by_address[self._counted]
            self._counted = ""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; a head that does not end is cut off by its size or by the time it takes."""
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._too_large = True
                self.send_400_response("")
                return
        answering = self.cycle is not None and not self.cycle.response_complete
        if self._in_head or not answering:
            self._await_head()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._head_bytes, self._named_bytes = True, 0, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; too many or too long ones end the request."""
        self._named_bytes += len(name) + len(value)
        if len(self.headers) >= MAX_HEADERS or self._named_bytes > MAX_HEAD_BYTES:
            self._too_large = True
            raise ValueError("too large a head")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head has arrived; the time for the body is the shield's matter."""
        self._in_head = False
        self._disarm()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """The next request may come; the server's own timer waits for it."""
        super().on_response_complete()
        if self._in_head:
            self._await_head()

    def pause_writing(self) -> None:
        """The reader is behind: wait for it, but not for ever."""
        super().pause_writing()
        if self._stall_timer is None and self.stall_seconds:
            self._stall_timer = self.loop.call_later(self.stall_seconds, self._cut)

    def resume_writing(self) -> None:
        """The reader has caught up."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, in the one shape of all refusals."""
        status = 431 if self._too_large else 400
        code = "head_too_large" if self._too_large else "malformed"
        words = "Send fewer and shorter headers." if self._too_large else "Check the request."
        body = (
            f'{{"error": {{"message": "This is not a request that can be read. {words}", '
            f'"type": "invalid_request_error", "code": "{code}", "param": null}}}}'
        ).encode()
        head = (
            "content-type: application/json\r\ncache-control: no-store\r\n"
            "x-content-type-options: nosniff\r\ncontent-security-policy: default-src 'none'\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        ).encode()
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

    def _await_head(self) -> None:
        if self._head_timer is None and self.head_seconds:
            self._head_timer = self.loop.call_later(self.head_seconds, self._cut)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _cut(self) -> None:
        self.transport.abort()

    def _bound_the_kernel(self, transport: asyncio.Transport) -> None:
        """Small pieces wait in the kernel, where no buffer of ours fills: it must give up too."""
        wire = transport.get_extra_info("socket")
        if wire is None:
            return
        with suppress(OSError):
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            if hasattr(socket, "TCP_USER_TIMEOUT") and self.stall_seconds:
                milliseconds = int(self.stall_seconds * 1000)
                wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def limited(server: Server) -> type[Connection]:
    """A kind of connection with the bounds of the settings, for the server's `http` option."""

    class Limited(Connection):
        head_seconds = server.head_seconds
        stall_seconds = server.stall_seconds
        per_address = server.connections_per_address

    Limited.open_by_address = Counter()
    return Limited


def raise_file_limit(wanted: int) -> None:
    """Let the process have so many connections, as far as the system allows."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _may_be_a_proxy(peer: str) -> bool:
    """Whether many people may stand behind this address."""
    try:
        return ipaddress.ip_address(peer).is_private
    except ValueError:
        return True
