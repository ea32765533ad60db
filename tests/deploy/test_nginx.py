"""The nginx configuration as it is shipped, in a real nginx before a real server."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from tests import servers

SHIPPED = servers.ROOT / "deploy" / "nginx" / "chat.conf"
NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
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


def free_ports(number: int) -> list[int]:
    """Ports that nobody uses at the moment."""
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def certificate(folder: Path) -> None:
    """A certificate for localhost that nobody else signed."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "fullchain.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "privkey.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def adapted(folder: Path, *, tls: int, plain: int, app: int) -> str:
    """The shipped configuration, on other ports and with a shorter patience for headers."""
    text = SHIPPED.read_text(encoding="utf-8")
    for old, new, times in (
        ("listen [::]:80;", "", 1),
        ("listen [::]:443 ssl http2;", "", 1),
        ("listen 80;", f"listen 127.0.0.1:{plain};", 1),
        ("listen 443 ssl", f"listen 127.0.0.1:{tls} ssl", 1),
        ("server app:7860", f"server 127.0.0.1:{app}", 2),
        ("/etc/nginx/tls/", f"{folder}/", 2),
        ("chat.example.org", "localhost", 2),
        ("proxy_set_header Host $host;", "proxy_set_header Host $http_host;", 1),
        ("client_header_timeout 10s;", "client_header_timeout 1s;", 2),
    ):
        assert text.count(old) == times, old
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """nginx and a server with answers of ten seconds."""
    if not Path(NGINX).exists():
        reason = "there is no nginx here; install the package nginx-light to run these"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("nginx")
    folder.chmod(0o755)
    tls, plain, app = free_ports(3)
    certificate(folder)
    (folder / "chat.conf").write_text(adapted(folder, tls=tls, plain=plain, app=app))
    (folder / "nginx.conf").write_text(
        ("user root;\n" if os.geteuid() == 0 else "")  # the folder is for its owner alone
        + f"pid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\nhttp {{\n"
        f"access_log off;\ninclude {folder}/chat.conf;\n"
        + "".join(
            f"{kind}_temp_path {folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        + "}\n"
    )
    command = [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    more = {
        "SERVER__PORT": str(app),
        "SERVER__PUBLIC_URL": f"https://localhost:{tls}",
        "LLM__SCRIPT__TOKENS": "400",
        "LLM__SCRIPT__TOKENS_PER_SECOND": "40",
    }
    with servers.serving(folder / "data", **more) as server:
        nginx = subprocess.Popen([*command, "-g", "daemon off;"])
        try:
            made = Front(server, tls, plain, app)
            _wait(made)
            yield made
        finally:
            nginx.terminate()
            nginx.wait()


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
