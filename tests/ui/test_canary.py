"""Canaries: what is planted as a secret is nowhere to be found afterwards (bars 20 and 38)."""

import json
import logging
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from chat_app import logs
from tests.apps import MODEL
from tests.logging_state import kept_handlers
from tests.ui.conftest import Site, serving
from tests.ui.test_told import history_number

PASSWORD = "canary-password-quite-unlikely"
WRONG = "canary-of-a-wrong-password"
NEW = "canary-of-the-next-password"
PROMPT = "canary-prompt-about-my-illness"
SEARCH = "canary-of-what-is-searched"


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Path]]:
    """A site that logs all it has to say into a file, as JSON."""
    folder = tmp_path_factory.mktemp("logs")
    file = folder / "chat.log"
    with kept_handlers(), serving(folder / "data") as running:
        logs.configure(format="console", level="debug", file=str(file))
        yield running, file


def lines(file: Path) -> list[dict[str, Any]]:
    for handler in logging.getLogger().handlers:
        handler.flush()
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_nothing_secret_is_in_logs_files_pages_or_figures(
    logged: tuple[Site, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """Bars 20, 38: sign-ins, messages on both doors, searches, refusals and bugs."""
    site, file = logged
    visitor = site.visitor()
    client, name = visitor.client, f"canary{secrets.token_hex(3)}"
    body = {"username": name, "email": f"{name}@example.org", "password": PASSWORD}
    client.post("/api/auth/register", json=body).raise_for_status()
    assert client.post("/api/auth/register", json=body).status_code == 409
    assert client.post("/api/auth/login", json={"login": name, "password": WRONG}).is_error
    assert client.post("/api/auth/login", content=b'{"password": "' + WRONG.encode()).is_error
    tokens = client.post("/api/auth/login", json={"login": name, "password": PASSWORD}).json()
    planted = {
        "password": PASSWORD,
        "wrong password": WRONG,
        "cookie": client.cookies["chat_session"],
        "access token": tokens["access_token"],
        "refresh token": tokens["refresh_token"],
        **{
            f"key {number}": key.hex()
            for number, key in enumerate(
                (
                    site.app.secrets.audit_key,
                    site.app.secrets.link_key,
                    site.app.secrets.tokens.keys[0].secret,
                    site.app.secrets.pepper.keys[0].secret,
                )
            )
        },
    }
    asked = {"model": MODEL, "message": PROMPT}
    client.post("/api/chat/message", json=asked).raise_for_status()
    client.post("/api/chat/message", json={**asked, "stream": True}).raise_for_status()
    assert client.post("/api/chat/message", json={**asked, "max_tokens": PROMPT}).is_error
    client.get("/api/chat/history", params={"q": SEARCH}).raise_for_status()
    ok, _ = visitor.call(site.number("send"), [PROMPT, MODEL, None, "key-of-the-page", "", ""])
    assert ok["success"]
    turned = client.post("/api/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
    planted["next refresh token"] = turned.json()["refresh_token"]
    made = client.post("/api/webhooks", json={"url": "https://example.org/hook", "events": []})
    if made.is_success:
        planted["webhook secret"] = made.json()["secret"]
    changed = client.post("/api/auth/password/change", json={"current": PASSWORD, "new": NEW})
    planted |= {"new password": NEW, "new cookie": client.cookies["chat_session"]}
    planted["new access token"] = changed.json()["access_token"]

    # A bug in the middle of it: the database lacks a table, and its errors quote statements.
    with sqlite3.connect(site.data_dir / "chat.db") as connection:
        connection.execute("ALTER TABLE message RENAME TO message_away")
    try:
        broken = client.get("/api/chat/history", params={"q": SEARCH})
        assert broken.status_code == 500
        # The server closes the connection after a bug.
        again = httpx.post(
            f"{site.url}/api/chat/message", json=asked, cookies=client.cookies, timeout=60
        )
        assert again.status_code in {500, 503}
        visitor.session = secrets.token_hex(6)  # the cookie is another, so the page was reloaded
        visitor.call(site.number("send"), [PROMPT, MODEL, None, "another-key", "", ""])
    finally:
        with sqlite3.connect(site.data_dir / "chat.db") as connection:
            connection.execute("ALTER TABLE message_away RENAME TO message")

    said = file.read_text()
    assert "Traceback" in said
    assert broken.headers["x-request-id"] in said
    shown = capfd.readouterr()
    page, config = client.get("/").text, client.get("/config").text
    metrics = client.get("/metrics").text + client.get("/api/monitoring/health").text
    everywhere = {
        "log": said,
        "output": shown.out + shown.err,
        "page": page + config + site.visitor().client.get("/").text,
        "figures": metrics,
        "errors": broken.text + turned.headers.get("location", ""),
    }
    for place, text in everywhere.items():
        for kind, value in {**planted, "prompt": PROMPT, "search": SEARCH}.items():
            assert value not in text, f"{kind} in the {place}"
    stored = b"".join(path.read_bytes() for path in site.data_dir.glob("chat.db*"))
    assert PROMPT.encode() in stored, "the positive control: a history is kept"
    for kind, value in planted.items():
        assert value.encode() not in stored, f"{kind} in the database"
        if kind.startswith("key"):
            assert bytes.fromhex(value) not in stored, f"{kind} in the database"


def test_a_line_for_each_request_with_its_id_user_route_and_time(
    logged: tuple[Site, Path],
) -> None:
    site, file = logged
    person = site.person()
    given = person.client.get("/api/auth/me", headers={"X-Request-ID": "mine-1234"})
    assert given.headers["x-request-id"] == "mine-1234"
    made = person.client.get("/api/chat/conversations/con_x?secret=1")
    assert made.status_code == 404
    id = made.headers["x-request-id"]
    for bad in ("short", "x" * 65, "with space 1", "new\tline-aaaa"):
        answered = person.client.get("/api/auth/me", headers={"X-Request-ID": bad})
        assert answered.headers["x-request-id"] != bad
    refused = site.visitor().client.get("/gradio_api/info")
    assert refused.status_code == 404
    assert refused.headers["x-request-id"]
    asked = person.client.post("/api/chat/message", json={"model": MODEL, "message": "hello"})
    found = {line.get("request_id"): line for line in lines(file) if line["event"] == "request"}
    line = found[id]
    assert line["route"] == "/api/chat/conversations/{id}"
    assert (line["method"], line["status"], line["level"]) == ("GET", 404, "info")
    assert isinstance(line["duration_ms"], int)
    assert line["user"].startswith("u_")
    assert found["mine-1234"]["user"] == line["user"]
    assert person.username not in file.read_text()
    # The answer is written by a job, which goes on under the id of the request that began it.
    id = asked.headers["x-request-id"]
    (ended,) = [
        line for line in lines(file) if line["event"] == "answer ended" and line["request_id"] == id
    ]
    assert ended["reply"] == asked.json()["reply_id"]
    assert ended["hold"] > 0
    assert ended["user"] == line["user"]
    assert ended["completion_tokens"] == 8


def test_the_page_and_the_jobs_carry_an_id_too(
    logged: tuple[Site, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a person reads in a toast is what the operator looks for."""
    site, file = logged
    person = site.person()

    def broken(*_args: Any, **_more: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("chat_app.chat.conversations.list_for", broken)
    joined = person.join(site.number("start_new"), [None]).headers["x-request-id"]
    assert joined
    end, _ = person.call(history_number(site), ["", "", "", "0", ""])
    reference = end["output"]["error"].rsplit(" ", 1)[1].rstrip(".")
    (line,) = [line for line in lines(file) if line.get("request_id") == reference
               and "exception" in line]  # fmt: skip
    assert line["user"].startswith("u_")
    requests = [line for line in lines(file) if line.get("request_id") == reference]
    assert any(line.get("route", "").endswith("/queue/join") for line in requests)

    from chat_app.jobs import Job, Runner

    job = Job("a broken job", 60, broken)
    assert Runner(site.app.db, site.app.clock, [job]).run_due() == 1
    (line,) = [line for line in lines(file) if line.get("job") == "a broken job"]
    assert line["request_id"]
    assert "user" not in line
