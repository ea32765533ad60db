"""Real receivers on this machine: a web server that writes down calls, and a mail server."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller


@dataclass
class Call:
    """A request that arrived."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Web:
    """A web server. `answer` decides what it says: a status, or a function of the handler."""

    port: int = 0
    calls: list[Call] = field(default_factory=list)
    answer: int | Callable[[Any], None] = 200
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The address of a hook."""
        return f"http://{self.place}/hook"


@contextmanager
def web() -> Iterator[Web]:
    """A running web server."""
    made = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            names = {name.lower(): value for name, value in self.headers.items()}
            made.calls.append(Call(self.path, names, body))
            if callable(made.answer):
                made.answer(self)
                return
            self.send_response(made.answer)
            for name, value in made.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", "0")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Post:
    """A mail server. `reply` is what it says to each mail."""

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    envelopes: list[tuple[str, list[str]]] = field(default_factory=list)
    reply: str = "250 OK"
    recipient_reply: str = "250 OK"


@contextmanager
def post() -> Iterator[Post]:
    """A running mail server."""
    made = Post()

    class Handler:
        async def handle_RCPT(
            self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
        ) -> str:
            if made.recipient_reply.startswith("250"):
                envelope.rcpt_tos.append(address)
            return made.recipient_reply

        async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
            if made.reply.startswith("250"):
                message = message_from_bytes(envelope.content, policy=policy.default)
                assert isinstance(message, EmailMessage)
                made.mails.append(message)
                made.envelopes.append((envelope.mail_from, envelope.rcpt_tos))
            return made.reply

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        made.port = free.getsockname()[1]
    controller = Controller(Handler(), hostname="127.0.0.1", port=made.port)
    controller.start()
    try:
        yield made
    finally:
        controller.stop()


def drip(handler: Any, *, seconds: float) -> None:
    """An answer that comes a byte at a time and never ends."""
    handler.send_response(200)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.05)
