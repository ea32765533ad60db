"""The nginx configuration as it is shipped, in a real nginx before a real server."""

import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import httpx
import pytest

from tests import nginx, servers

FORGED = "6.6.6.6"


@dataclass
class Front:
    """A server with nginx before it."""

    app: servers.Server
    port: int
    plain_port: int
    app_port: int

    @property
    def url(self) -> str:
        """The public address."""
        return f"https://localhost:{self.port}"

    def client(self, **headers: str) -> httpx.Client:
        """Somebody outside."""
        return httpx.Client(base_url=self.url, verify=False, timeout=30, headers=headers)

    def sign_up(self, name: str) -> httpx.Client:
        """An account, by a client that carries its token."""
        client = self.client(Origin=self.url)
        body = {"username": name, "email": f"{name}@example.org", "password": servers.PASSWORD}
        client.post("/api/auth/register", json=body).raise_for_status()
        made = client.post("/api/auth/login", json={"login": name, "password": servers.PASSWORD})
        client.cookies.clear()
        client.headers["Authorization"] = f"Bearer {made.raise_for_status().json()['access_token']}"
        return client


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """nginx and a server with answers of ten seconds."""
    folder = tmp_path_factory.mktemp("nginx")
    tls, plain, app = nginx.free_ports(3)
    more = {
        "SERVER__PORT": str(app),
        "SERVER__PUBLIC_URL": f"https://localhost:{tls}",
        "LLM__SCRIPT__TOKENS": "400",
        "LLM__SCRIPT__TOKENS_PER_SECOND": "40",
    }
    with (
        nginx.running(folder, "chat.conf", tls=tls, plain=plain, apps=[app], head_seconds=1),
        servers.serving(folder / "data", **more) as server,
    ):
        made = Front(server, tls, plain, app)
        _wait(made)
        yield made


def _wait(front: Front) -> None:
    for _ in range(200):
        try:
            with front.client() as client:
                client.get("/livez").raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("nginx does not answer")


def test_a_streamed_answer_arrives_piece_by_piece(front: Front) -> None:
    """The first pieces are here while the answer is still being written."""
    ann = front.sign_up("ann")
    body = {"model": servers.MODEL, "message": "hello", "stream": True}
    kinds: list[str] = []
    with ann.stream("POST", "/api/chat/message", json=body) as answer:
        lines = answer.iter_lines()
        reply = ""
        for line in lines:
            if line.startswith("data:") and not reply:
                reply = json.loads(line[5:])["reply_id"]
            if line.startswith("event:"):
                kinds.append(line.split(":")[1].strip())
            if kinds.count("delta") == 3:
                break
        # 400 tokens take ten seconds; it can be stopped, so it is not over.
        with front.client(Authorization=str(ann.headers["Authorization"])) as other:
            stopped = other.post(f"/api/chat/replies/{reply}/stop")
            assert stopped.status_code < 300, stopped.text
        rest = [line for line in lines if line.startswith("data:")]
    done = json.loads(rest[-1][5:])
    assert done["finish_reason"] == "cancelled", done
    assert done["usage"]["completion_tokens"] < 400


def test_http2_and_modern_tls_only(front: Front) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", front.port)) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secure,
    ):
        assert secure.selected_alpn_protocol() == "h2"
        assert secure.version() == "TLSv1.3"
    with httpx.Client() as plain:
        moved = plain.get(f"http://localhost:{front.plain_port}/x?y=1")
    assert (moved.status_code, moved.headers["location"]) == (301, "https://localhost/x?y=1")


def test_the_real_address_counts_and_a_forged_one_does_not(front: Front) -> None:
    bob = front.sign_up("bob")
    forged = {"X-Forwarded-For": FORGED, "X-Real-IP": FORGED, "Forwarded": f"for={FORGED}"}
    body = {"login": "bob", "password": servers.PASSWORD}
    bob.post("/api/auth/login", json=body, headers=forged).raise_for_status()
    seen = {one["ip"] for one in bob.get("/api/auth/sessions").json()["items"]}
    assert seen == {"127.0.0.1"}
    # Without nginx the program itself would believe its private neighbour.
    with httpx.Client(base_url=f"http://127.0.0.1:{front.app_port}") as direct:
        direct.post("/api/auth/login", json=body, headers=forged).raise_for_status()
    seen = {one["ip"] for one in bob.get("/api/auth/sessions").json()["items"]}
    assert seen == {"127.0.0.1", FORGED}


def test_cookies_are_bound_to_https(front: Front) -> None:
    with front.client(Origin=front.url) as client:
        body = {"username": "carl", "email": "carl@example.org", "password": servers.PASSWORD}
        client.post("/api/auth/register", json=body).raise_for_status()
        made = client.post("/api/auth/login", json={"login": "carl", "password": servers.PASSWORD})
    assert made.headers["set-cookie"].startswith("__Host-")
    assert "Secure" in made.headers["set-cookie"]
    assert made.headers["strict-transport-security"]


def test_large_uploads_end_at_the_door(front: Front) -> None:
    with front.client() as client:
        refused = client.post("/api/chat/conversations/import", content=b"x" * (10 << 20))
        assert refused.status_code == 413
        # What the program itself takes passes nginx and is refused for want of a sign-in.
        passed = client.post("/api/chat/conversations/import", content=b"x" * (8 << 20))
        assert passed.status_code == 401, passed.text


def test_figures_are_not_for_the_internet(front: Front) -> None:
    with front.client() as client:
        assert client.get("/metrics").status_code == 404
        assert client.get("/readyz").status_code == 200


def test_a_request_that_never_ends_its_head_is_cut_off(front: Front) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", front.port), timeout=30) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secure,
    ):
        secure.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        with suppress(ConnectionResetError, ssl.SSLError):
            assert b"200" not in secure.recv(4096)


def test_while_the_program_is_away_everybody_is_told(front: Front) -> None:
    """Last in the file: it ends the server."""
    front.app.kill()
    with front.client() as client:
        page = client.get("/")
        program = client.get("/api/chat/models")
    for answer in (page, program):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "Back in a moment" in page.text
    assert program.json()["error"]["code"] == "unavailable"
