"""The shield: paths, origins, bodies, session hashes and headers, over real HTTP."""

import json
import re
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from chat_app.chat import share_page
from chat_app.settings import SettingsError
from tests.apps import script_settings
from tests.ui.conftest import Site
from ui.shield import STREAMS_PER_PAGE, Shield


@pytest.mark.parametrize(
    "path",
    [
        "/config",
        "/gradio_api/info",
        "/gradio_api/api_info",
        "/gradio_api/deep_link?session_hash=abc",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=https://example.org/x",
        "/gradio_api/runs",
        "/gradio_api/call/send",
        "/login",
        "/token",
        "/app_id",
        "/monitoring",
        "/queue/status",
        "/docs",
        "/openapi.json",
        "/static/../../../etc/passwd",
        "/assets/%2e%2e/%2e%2e/index.html",
    ],
)
def test_paths_that_the_page_does_not_need_are_closed(site: Site, path: str) -> None:
    """Deep links, uploads, file routes and the rest of Gradio's surface answer 404."""
    answer = site.visitor().client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    "path", ["/gradio_api/upload", "/gradio_api/run/send", "/gradio_api/call/send", "/api/predict"]
)
def test_closed_posts(site: Site, path: str) -> None:
    """Nothing can be uploaded, and no handler is reached around the queue."""
    answer = site.visitor().client.post(path, json={"data": []})
    assert answer.status_code in {401, 404}


def test_every_answer_carries_the_headers(site: Site) -> None:
    """CSP and friends on pages, assets, refusals and the REST API alike."""
    client = site.visitor().client
    answers = [
        client.get(path)
        for path in ("/", "/theme.css", "/api/auth/me", "/nothing-here", "/livez", "/api/none")
    ]
    answers.append(client.post("/gradio_api/queue/join", content=b"{"))
    answers.append(client.post("/api/auth/login", content=b"x" * 5_000_000))
    answers.append(client.get("/api/auth/me", headers={"Sec-Fetch-Site": "cross-site"}))
    for answer in answers:
        headers = answer.headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        inline = answer.url.path == "/theme.css" or answer.url.path.startswith(("/no", "/gradio"))
        assert ("'unsafe-inline'" in policy.partition("script-src")[2].split(";")[0]) == inline
        own = answer.url.path.startswith("/api/") or answer.url.path == "/livez"
        assert ("form-action 'self'" if own else "form-action 'none'") in policy
        assert "http" not in policy
        assert "frame-ancestors 'self'" in policy
        assert "object-src 'none'" in policy
        assert "base-uri 'self'" in policy
        assert headers["x-frame-options"] == "SAMEORIGIN"
        assert headers["referrer-policy"] == "same-origin"
        assert "camera=()" in headers["permissions-policy"]
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "strict-transport-security" not in headers  # this site is served by http
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers
    # The page runs the inline scripts that it came with, and no other.
    page = client.get("/")
    named = re.findall(r"'(sha256-[^']+)'", page.headers["content-security-policy"])
    assert len(named) == len(re.findall(r"<script(?![^>]*src=)", page.text))
    for path in ("/", "/api/auth/me", "/nothing-here", "/api/chat/models"):
        assert client.get(path).headers["cache-control"] == "no-store", path


def test_shared_pages_have_a_policy_of_their_own(site: Site) -> None:
    """What strangers wrote runs, loads and sends nothing; a policy that is missing is the usual."""
    ann = site.person()
    asked = {"model": "smollm2-135m-instruct", "message": "hello"}
    talk = ann.client.post("/api/chat/message", json=asked).json()["conversation_id"]
    shared = ann.client.post(f"/api/chat/conversations/{talk}/share", json={"access": "open"})
    page = site.visitor().client.get(shared.json()["url"])
    assert page.status_code == 200
    assert page.headers.get_list("content-security-policy") == [share_page.policy()]
    assert page.headers["referrer-policy"] == "same-origin"
    assert page.headers["x-content-type-options"] == "nosniff"
    for path in ("/share/" + "x" * 43, "/share/a/b", "/share/", "/share/%2e%2e"):
        gone = site.visitor().client.get(path)
        assert gone.status_code == 404, path
        assert "default-src 'self'" in gone.headers["content-security-policy"]


def test_private_answers_are_kept_by_nobody(site: Site) -> None:
    """ASVS 14.3.2: what concerns a person is in no cache."""
    client = site.person().client
    for path in ("auth/me", "billing/balance", "billing/transactions", "chat/conversations"):
        answer = client.get(f"/api/{path}")
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store", path


def test_assets_are_immutable_and_the_page_is_light(site: Site) -> None:
    """A second visit asks for no asset again."""
    client = site.visitor().client
    page = client.get("/").text
    assert "run_history" not in page or '"run_history":true' not in page.replace(" ", "")
    name = page.split('src="./assets/', 1)[1].split('"', 1)[0] if 'src="./assets/' in page else None
    if name is None:
        name = page.split("/assets/", 1)[1].split('"', 1)[0]
    assert "immutable" in client.get(f"/assets/{name}").headers["cache-control"]


def test_the_page_is_packed_for_those_who_unpack_it(site: Site) -> None:
    """The same page with the same policy, in a quarter of the bytes."""
    client = site.visitor().client
    plain = client.get("/", headers={"Accept-Encoding": "identity"})
    packed = client.get("/", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert "accept-encoding" in packed.headers["vary"]
    assert packed.text == plain.text
    assert packed.headers["content-security-policy"] == plain.headers["content-security-policy"]
    assert int(packed.headers["content-length"]) < len(plain.content) / 3


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/api/auth/logout", "/api/billing/add"])
def test_other_sites_cannot_act(site: Site, headers: dict[str, str], path: str) -> None:
    """A foreign page cannot use a visitor's cookie."""
    person = site.person()
    answer = person.client.post(path, json={"package_id": "starter"}, headers=headers)
    assert answer.status_code == 403
    assert person.client.get("/api/auth/me").status_code == 200


def test_other_sites_cannot_read_streams(site: Site) -> None:
    """Gradio would reflect any origin with credentials."""
    answer = site.person().client.get(
        "/gradio_api/queue/data?session_hash=abc", headers={"Origin": "https://evil.example"}
    )
    assert answer.status_code == 403
    preflight = site.visitor().client.options(
        "/gradio_api/queue/join",
        headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
    )
    assert "access-control-allow-origin" not in preflight.headers


def test_a_session_hash_belongs_to_its_first_user(site: Site) -> None:
    """Traps: `session_hash` is a bearer secret that leaks."""
    alice, eve, nobody = site.person(), site.person(), site.visitor()
    end, _ = alice.call(site.number("start_new"), [None])
    assert end["success"]
    for thief in (eve, nobody):
        thief.session = alice.session
        query = {"session_hash": alice.session}
        assert thief.client.get("/gradio_api/queue/data", params=query).status_code == 403
        assert thief.client.get(f"/gradio_api/heartbeat/{alice.session}").status_code == 403
        assert thief.join(site.number("start_new"), [None]).status_code == 403
        cancel = {"session_hash": alice.session, "fn_index": 0, "event_id": "x"}
        assert thief.client.post("/gradio_api/cancel", json=cancel).status_code == 403


@pytest.mark.parametrize(
    ("path", "setting"),
    [
        ("/api/auth/login", "max_other_body_kib"),
        ("/gradio_api/cancel", "max_other_body_kib"),
        ("/api/billing/webhooks/stripe", "max_other_body_kib"),
        ("/api/chat/message", "max_body_kib"),
        ("/v1/chat/completions", "max_body_kib"),
        ("/gradio_api/queue/join", "max_body_kib"),
        ("/api/chat/conversations/import", "max_import_kib"),
        ("/api/admin/bulk/credits", "max_import_kib"),
    ],
)
def test_big_bodies_are_refused_by_count(site: Site, path: str, setting: str) -> None:
    """Each path has its cap; a declared length may lie, and a chunked body declares none."""
    client, limit = site.visitor().client, getattr(site.app.settings.server, setting) * 1024
    assert client.post(path, content=b"x" * limit).status_code != 413
    answer = client.post(path, content=b"x" * (limit + 1))
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "too_large"

    def chunks() -> object:
        for _ in range(limit // 65536 + 2):
            yield b"x" * 65536

    with suppress(httpx.WriteError):  # the connection may go before all of it was sent
        assert client.post(path, content=chunks()).status_code == 413


def test_a_hundred_megabytes_are_not_kept(site: Site) -> None:
    """Bar 10: neither a declared nor a chunked body is collected beyond its cap."""
    here = psutil.Process()
    client = site.visitor().client
    before = here.memory_info().rss
    most = before

    def chunks() -> object:
        nonlocal most
        for _ in range(1600):
            yield b"x" * 65536
            most = max(most, here.memory_info().rss)

    with suppress(httpx.WriteError):
        assert client.post("/api/chat/message", content=chunks()).status_code == 413
    assert most - before < 20 * 2**20


def test_a_large_declared_length_is_answered_at_once(site: Site) -> None:
    """Nobody waits for ten gigabytes."""
    where = urlsplit(site.url)
    with socket.create_connection((where.hostname, where.port), timeout=10) as wire:
        wire.sendall(
            b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n"
        )
        assert b" 413 " in wire.recv(100)


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b"\xff\xfe", b"{", b'"text"', b"[]", b"{}", b'{"data": 1, "data": 2}'],
)
def test_broken_bodies_are_refused(site: Site, body: bytes) -> None:
    """Never a 500."""
    answer = site.visitor().client.post("/gradio_api/queue/join", content=body)
    assert answer.status_code in {400, 403}


@pytest.mark.parametrize(
    "body",
    [
        b'{"package_id": "starter", "package_id": "large"}',
        b'{"package_id": "starter", "package_\\u0069d": "large"}',
        b'{"a":' * 100 + b"1" + b"}" * 100,
        b"[" + b"[]," * 30_000 + b"1]",
    ],
)
def test_json_that_two_readers_read_differently_is_refused(site: Site, body: bytes) -> None:
    """A name that stands twice, or nesting and parts without end."""
    client = site.person().client
    headers = {"Content-Type": "application/json"}
    answer = client.post("/api/billing/add", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "malformed"
    assert client.get("/api/billing/transactions").json()["items"][0]["type"] != "purchase"


def test_open_streams_are_counted(sites: Callable[..., Any]) -> None:
    """A page may overlap with its reload, an address may hold so many, and they come back."""
    server = {"public_url": "http://chat.example.org", "streams_per_address": 3}
    with sites(server=server) as site, ExitStack() as held:
        person = site.person()

        def beat(page: str, address: str = "") -> httpx.Response:
            headers = {"X-Forwarded-For": address} if address else {}
            asked = person.client.stream("GET", f"/gradio_api/heartbeat/{page}", headers=headers)
            answer: httpx.Response = held.enter_context(asked)
            return answer

        for _ in range(STREAMS_PER_PAGE):
            assert beat("samepage").status_code == 200
        refused = beat("samepage")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        assert beat("otherpage").status_code == 200
        far = [beat(f"far{number}", "203.0.113.9").status_code for number in range(4)]
        assert far == [200, 200, 200, 429]
        assert beat("near", "203.0.113.10").status_code == 200
        held.close()
        deadline = time.monotonic() + 10
        while beat("again", "203.0.113.9").status_code == 429 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert beat("again", "203.0.113.9").status_code == 200


def test_https_and_frames_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HSTS goes with https; a frame of another site needs the operator's or the Space's word."""
    monkeypatch.delenv("SPACE_ID", raising=False)

    def headers(**server: Any) -> dict[str, str]:
        made = Shield(not_called, script_settings(tmp_path, server=server))
        return {name.decode(): value.decode() for name, value in made.headers}

    plain, https = headers(), headers(public_url="https://chat.example.org")
    assert "strict-transport-security" not in plain
    assert https["strict-transport-security"] == "max-age=31536000"
    off = headers(public_url="https://chat.example.org", hsts_days=0)
    assert "strict-transport-security" not in off
    framed = headers(framed_by="https://a.example.org https://b.example.org:8443")
    assert "x-frame-options" not in framed
    ancestors = "frame-ancestors 'self' https://a.example.org https://b.example.org:8443"
    assert framed["content-security-policy"].endswith(ancestors)
    assert "frame-ancestors 'self'" in plain["content-security-policy"]
    monkeypatch.setenv("SPACE_ID", "somebody/chat")
    assert headers()["content-security-policy"].endswith("'self' https://huggingface.co")
    assert headers(framed_by="")["content-security-policy"].endswith("frame-ancestors 'self'")
    for wrong in ("*", "http://a.example.org", "https://*", "https://a.org; script-src *"):
        with pytest.raises(SettingsError, match="framed_by"):
            headers(framed_by=wrong)


async def not_called(_scope: object, _receive: object, _send: object) -> None:
    raise AssertionError


def test_files_of_the_server_cannot_be_named(site: Site) -> None:
    """Traps: a mounted Gradio has its file-path check off until `has_launched` is set."""
    assert site.demo.has_launched is True
    secret = site.data_dir / "secrets.json"
    assert secret.is_file()
    person = site.person()
    number = site.number("quote")
    file = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    for value in (file, [file], {"deep": [{"file": file}]}):
        assert person.join(number, [value, None, None]).status_code == 403
    disguised = json.dumps({"data": [file], "fn_index": number, "session_hash": person.session})
    disguised = disguised.replace("gradio.FileData", "gradio.\\u0046ileData")
    answer = person.client.post("/gradio_api/queue/join", content=disguised)
    assert answer.status_code == 403


def test_gradio_itself_refuses_files_too(site: Site, tmp_path: Path) -> None:
    """The second lock: without the shield the path is still refused."""
    from gradio import processing_utils
    from gradio.context import LocalContext
    from gradio.exceptions import InvalidPathError

    outside = tmp_path / "outside.txt"
    outside.write_text("secret")
    data = {"path": str(outside), "meta": {"_type": "gradio.FileData"}}
    block = next(b for b in site.demo.blocks.values() if b.elem_id == "chat-input")
    token = LocalContext.blocks.set(site.demo)
    try:
        with pytest.raises(InvalidPathError):
            processing_utils.move_files_to_cache(data, block, check_in_upload_folder=True)
    finally:
        LocalContext.blocks.reset(token)


def test_a_message_may_speak_of_gradio_files(site: Site) -> None:
    """Text is only text, whatever it mentions."""
    text = 'what is {"meta": {"_type": "gradio.FileData"}} for?'
    question = [text, "smollm2-135m-instruct", None, "k-files", "", ""]
    end, _ = site.person().call(site.number("send"), question)
    assert end["success"]


def test_websockets_are_not_offered(site: Site) -> None:
    """There are none, so none is accepted."""
    answer = site.visitor().client.get(
        "/gradio_api/queue/join",
        headers={"Connection": "Upgrade", "Upgrade": "websocket"},
    )
    assert answer.status_code in {400, 403, 404, 405}
