"""Connections that are slow, silent or too large, over raw sockets (bar 25)."""

import json
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.ui.conftest import Site, Visitor, serving
from ui import connections

MODEL = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site that loses its patience soon, and whose answers are long."""
    with serving(
        tmp_path_factory.mktemp("hasty"),
        server={"head_seconds": 0.5, "stall_seconds": 1},
        llm={"max_output_tokens": 8192},
        script={"tokens": 8192},
    ) as running:
        yield running


def wire(site: Site, *, small: bool = False) -> socket.socket:
    """A connection; a `small` one takes little before it is read."""
    where = urlsplit(site.url)
    made = socket.socket()
    if small:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.settimeout(20)
    made.connect((where.hostname, where.port))
    return made


def ended(one: socket.socket) -> bool:
    """Whether the server ends the connection, reading whatever comes before that."""
    try:
        while one.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return True  # a timeout is an error that the test does not catch


@pytest.mark.parametrize(
    "sent",
    [b"", b"\r\n", b"G", b"GET /livez HTTP/1.1\r\n", b"GET /livez HTTP/1.1\r\nHost: x\r\nX-A: b"],
)
def test_half_a_request_is_cut(hasty: Site, sent: bytes) -> None:
    """The server alone would wait for the rest for ever."""
    with wire(hasty) as one:
        one.sendall(sent)
        assert ended(one)


@pytest.mark.parametrize("drop", [b"X-A: b\r\n", b"\r\n"])
def test_a_head_that_drips_is_cut(hasty: Site, drop: bytes) -> None:
    """Each piece comes in time, the whole never does."""
    with wire(hasty) as one:
        if drop.strip():
            one.sendall(b"GET /livez HTTP/1.1\r\n")
        one.settimeout(0.1)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                one.sendall(drop)
                if not one.recv(1):
                    return
            except TimeoutError:
                continue
            except (ConnectionResetError, BrokenPipeError):
                return
        raise AssertionError("the connection is still open")


def test_the_second_request_of_a_connection_is_watched_too(hasty: Site) -> None:
    """After an answer the next request may be awaited, but not half of it."""
    with wire(hasty) as one:
        one.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in one.recv(65536)
        one.sendall(b"GET /livez HTTP/1.1\r\nHo")
        assert ended(one)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"X-Long: " + b"a" * 40_000 + b"\r\n", b"431"),
        (b"X-Long: " + b"a" * 200_000, b"431"),  # it never ends
        (b"".join(b"X-%d: a\r\n" % number for number in range(150)), b"431"),
        (b"Broken\r\n", b"400"),
        (b"Content-Length: -1\r\n", b"400"),
        (b"Content-Length: 1\r\nContent-Length: 2\r\n", b"400"),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"400"),
    ],
)
def test_heads_that_are_too_large_or_ambiguous(hasty: Site, head: bytes, status: bytes) -> None:
    """Refused in the shape of all refusals, before any route."""
    with wire(hasty) as one:
        one.sendall(b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n")
        answer = one.recv(65536)
        assert answer.startswith(b"HTTP/1.1 " + status), answer
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert set(error) == {"message", "type", "code", "param"}


def test_an_ordinary_large_head_passes(hasty: Site) -> None:
    """Fifty headers and a long cookie are nothing unusual."""
    headers = {f"X-{number}": "a" * 100 for number in range(50)} | {"Cookie": "a=" + "b" * 4000}
    assert httpx.get(f"{hasty.url}/livez", headers=headers, timeout=60).status_code == 200


def settled(person: Visitor) -> dict[str, str]:
    """The balance once nothing is held any more."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        balance: dict[str, str] = person.client.get("/api/billing/balance").json()
        if balance["held"] == "0":
            return balance
        time.sleep(0.1)
    raise AssertionError(f"the hold stays: {balance}")


def test_a_reader_that_stops_is_let_go_and_pays_as_usual(hasty: Site) -> None:
    """Bars 3 and 25: the connection goes, the answer is written to its end and settled once."""
    person = hasty.person()
    body = json.dumps({"model": MODEL, "message": "go on and on", "stream": True}).encode()
    cookie = "; ".join(f"{name}={value}" for name, value in person.client.cookies.items())
    with wire(hasty, small=True) as one:
        one.sendall(
            b"POST /api/chat/message HTTP/1.1\r\nHost: " + urlsplit(hasty.url).netloc.encode()
            + b"\r\nOrigin: " + hasty.url.encode()
            + b"\r\nContent-Type: application/json\r\nCookie: " + cookie.encode()
            + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )  # fmt: skip
        assert one.recv(1) == b"H"
        mine = one.getsockname()
        deadline = time.monotonic() + 30
        while any(open.client == mine for open in hasty.server.server_state.connections):
            assert time.monotonic() < deadline, "the stalled reader still has its connection"
            time.sleep(0.1)
        assert settled(person)["available"] == "99"
    talk = person.client.get("/api/chat/conversations").json()["items"][0]["id"]
    said = person.client.get(f"/api/chat/conversations/{talk}").json()["messages"][-1]["content"]
    assert said.split()[-1] == "w8191"


def test_a_page_that_stops_reading_its_events_pays_as_usual(hasty: Site) -> None:
    """The same through Gradio's queue, whose buffer has no bound of its own."""
    person = hasty.person()
    end, _ = person.call(hasty.number("send"), ["and on", MODEL, None, "slow", "", ""])
    assert end["success"], end
    person.session = secrets.token_hex(6)
    person.join(hasty.number("write"), [None]).raise_for_status()
    cookie = "; ".join(f"{name}={value}" for name, value in person.client.cookies.items())
    path = f"/gradio_api/queue/data?session_hash={person.session}"
    with wire(hasty, small=True) as one:
        one.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nCookie: {cookie}\r\n\r\n".encode())
        assert settled(person)["available"] == "99"


def test_an_address_has_so_many_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Private addresses are left out, because a proxy with everybody behind it may have one."""
    monkeypatch.setattr(connections, "_may_be_a_proxy", lambda _peer: False)
    with serving(tmp_path, server={"connections_per_address": 2}) as site, ExitStack() as held:
        first, second, third = (held.enter_context(wire(site)) for _ in range(3))
        assert ended(third)
        for one in (first, second):
            one.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b" 200 " in one.recv(65536)
            assert ended(one)
        again = held.enter_context(wire(site))
        again.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in again.recv(65536)
