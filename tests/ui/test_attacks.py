"""Attacks on the page: each one first works on the page as Gradio alone serves it.

So a test says something: what is refused here is not refused by chance. The bare site has the same
page with the same guarded handlers; only the shield and the settings of `ui.mount` are away.
"""

import json
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.ui.conftest import Site, Visitor, serving

EVIL = {"Origin": "https://evil.example"}
Both = tuple[Site, Site]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The page without the shield."""
    folder = tmp_path_factory.mktemp("bare")
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(folder / "cache"))
    with serving(folder / "data", shielded=False) as running:
        yield running
    patch.undo()


@pytest.fixture(scope="module")
def both(bare: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """The bare site and the shielded one."""
    with serving(tmp_path_factory.mktemp("shielded")) as site:
        yield bare, site


def status(site: Site, target: str) -> int:
    """The status of a request whose target no client has tidied."""
    where = urlsplit(site.url)
    with socket.create_connection((where.hostname, where.port), timeout=20) as wire:
        wire.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while b"\r\n" not in answer:
            answer += wire.recv(4096)
    return int(answer.split()[1])


@pytest.mark.parametrize(
    "target",
    [
        "/config",
        "/config/",
        "/%63onfig",
        "http://somewhere/config",
        "/gradio_api/app_id",
        "/gradio_api/%61pp_id",
        "/gradio_api/info?all_endpoints=True",
        "/gradio_api/openapi.json",
        "/gradio_api/login_check",
    ],
)
def test_path_tricks(both: Both, target: str) -> None:
    """What lists components, handlers and start values, by its name or by a detour."""
    assert [status(site, target) for site in both] == [200, 404]


@pytest.mark.parametrize(
    "target",
    [
        "/gradio_api/../config",
        "/assets/../config",
        "/assets/%2e%2e/config",
        "/static/..%2f..%2fconfig",
        "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/api/../config",
        "/api/%2e%2e/config",
        "/v1/../gradio_api/app_id",
        "/gradio_api/heartbeat/x/../../app_id",
        "//config",
        "/config%20",
        "/config;x",
        "/config%00",
    ],
)
def test_detours_that_lead_nowhere(both: Both, target: str) -> None:
    """The same by ways that are closed twice."""
    assert status(both[1], target) in {400, 404}


def upload(site: Site) -> httpx.Response:
    """What another site's page can make a visitor's browser send without asking first."""
    page = {"files": ("page.html", b"<script>steal()</script>", "text/html")}
    return site.person().client.post("/gradio_api/upload", files=page, headers=EVIL)


def test_foreign_uploads(both: Both) -> None:
    """Another site stores a page of its own under this site's name, and anybody reads it."""
    bare, site = both
    stored = upload(bare)
    assert stored.status_code == 200
    path = f"/gradio_api/file={stored.json()[0]}"
    assert "steal()" in bare.visitor().client.get(path).text
    assert upload(site).status_code in {403, 404}
    assert site.visitor().client.get(path).status_code == 404
    own = site.person().client.post("/gradio_api/upload", files={"files": ("a.txt", b"a")})
    assert own.status_code == 404


def test_deep_links(both: Both) -> None:
    """Who knows a page's id stores what stands in it, and whoever has the link sees it."""
    bare, site = both
    for where, expected in ((bare, 200), (site, 404)):
        alice, eve = where.person(), where.person()
        alice.call(where.number("start_new"), [None])
        query = {"session_hash": alice.session}
        answer = eve.client.get("/gradio_api/deep_link", params=query)
        assert answer.status_code == expected


def read_a_file(site: Site, eve: Visitor, path: Path, name: str) -> bool:
    """Ask a handler to take a file of the server as its input; whether it did so."""
    number = site.number(name)
    count = len(site.demo.fns[number].inputs)
    file = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
    joined = eve.join(number, [file, *[""] * (count - 1)])
    if joined.status_code != 200:
        return False
    for message in eve.events():
        if message["msg"] == "process_completed":
            break
    return True


def test_reading_files_through_an_input(
    both: Both, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A text box is given the description of a file: Gradio copies it to where it serves files."""
    bare, site = both
    secret = bare.data_dir / "secrets.json"
    assert read_a_file(bare, bare.person(), secret, "send")
    copies = list(tmp_path_factory.getbasetemp().glob("bare*/cache/*/secrets.json"))
    assert copies
    stolen = bare.visitor().client.get(f"/gradio_api/file={copies[0]}")
    assert stolen.json() == json.loads(secret.read_text())

    eve, secret = site.person(), site.data_dir / "secrets.json"
    taking = {
        fn.fn.__name__ for fn in site.demo.fns.values() if fn.fn is not None and len(fn.inputs)
    }
    assert len(taking) > 30
    for name in taking:
        assert not read_a_file(site, eve, secret, name), name
    assert list((site.data_dir / "ui").rglob("secrets.json")) == []


def hijack(site: Site, alice: Visitor, eve: Visitor) -> tuple[int, int, int]:
    """Statuses of acting in another's page, of reading its events, and of cancelling in it."""
    number = site.number("start_new")
    alice.session = secrets.token_hex(6)
    event = alice.join(number, []).raise_for_status().json()["event_id"]
    eve.session = alice.session
    acted = eve.join(number, []).status_code
    query = {"session_hash": alice.session}
    with eve.client.stream("GET", "/gradio_api/queue/data", params=query) as events:
        read = events.status_code
        if read == 200:
            assert any(event in line for line in events.iter_lines())
    cancel = {**query, "fn_index": number, "event_id": event}
    return acted, read, eve.client.post("/gradio_api/cancel", json=cancel).status_code


def test_stolen_session_hash(both: Both) -> None:
    """Traps: `session_hash` is a bearer secret that leaks."""
    bare, site = both
    assert hijack(bare, bare.person(), bare.person()) == (200, 200, 200)
    assert hijack(site, site.person(), site.person()) == (403, 403, 403)
    assert hijack(site, site.person(), site.visitor()) == (403, 403, 403)


def cross_site(site: Site) -> tuple[bool, bool, int]:
    """May another site's page send JSON here, read answers, and act with a visitor's cookie?"""
    person = site.person()
    wish = {
        **EVIL,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    asked = person.client.options("/gradio_api/queue/join", headers=wish)
    allowed = asked.status_code == 200 and "access-control-allow-headers" in asked.headers
    read = person.client.get("/", headers=EVIL).headers
    body = {"data": [], "fn_index": site.number("start_new"), "session_hash": person.session}
    acted = person.client.post("/gradio_api/queue/join", json=body, headers=EVIL).status_code
    return allowed, "access-control-allow-credentials" in read, acted


def test_cross_site_posts(both: Both) -> None:
    """A foreign page cannot use a visitor's cookie, whichever way the browser asks."""
    bare, site = both
    assert cross_site(bare) == (True, True, 200)
    assert cross_site(site) == (False, False, 403)
    for headers in (
        {"Origin": "null"},
        {"Origin": site.url.replace("127.0.0.1", "127.0.0.1.evil.example")},
        {"Origin": site.url.replace("http://", "http://user@evil.example/")},
        {"Origin": site.url, "Sec-Fetch-Site": "cross-site"},
        {"Origin": site.url, "Sec-Fetch-Site": "same-site"},
    ):
        answer = site.person().client.post("/api/auth/logout-all", headers=headers)
        assert answer.status_code == 403, headers
