"""Logs: one line for each event, with what is bound, without what is secret."""

import io
import json
import logging
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chat_app import logs
from chat_app.accounts import passwords, tokens
from chat_app.secrets import ring
from tests.logging_state import kept_handlers

PASSWORD = "correct horse battery staple"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    with kept_handlers():
        yield


@pytest.fixture(params=["json", "console"])
def written(request: pytest.FixtureRequest) -> io.StringIO:
    """What a logger of ours writes in each format."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.formatter(request.param))
    logging.basicConfig(level=logging.DEBUG, handlers=[handler], force=True)
    return stream


def log() -> logging.Logger:
    return logging.getLogger("chat_app.tests")


def secrets_of_every_kind() -> dict[str, str]:
    key = ring(b"k" * 32)
    random = secrets.token_urlsafe(32)
    return {
        "access token": tokens.issue(
            key, user_id=7, session_id="s", epoch=0, now=1_800_000_000_000_000, minutes=10
        ),
        "random token": random,
        "api key": f"mcb_0123456789ab_{secrets.token_urlsafe(32)}",
        "webhook secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "stripe key": "sk_live_51H8aBcDeFgHiJkLmNoPqRs",
        "password form": passwords.Passwords(key, cost=4).hash_now(PASSWORD).partition("$")[2],
        "bearer": "Bearer abcdefghijkl.mnop",
        "cookie": "chat_session=abc.def",
        "query": "/api/chat/history?q=my+illness",
        "database url": "postgresql+psycopg://chat:hunter2@db/chat",
        "assignment": "password=hunter2",
        "statement": "[parameters: ('what the person wrote',)]",
    }


@pytest.mark.parametrize("kind", sorted(secrets_of_every_kind()))
def test_what_looks_like_a_secret_is_struck_out(written: io.StringIO, kind: str) -> None:
    """Bar 38: in the sentence, in an argument, in a field, in a nested one, in a traceback."""
    text = secrets_of_every_kind()[kind]
    log().info("beginning %s end", text)
    log().info("fields", extra={"note": text, "nested": {"deep": [text]}, "thing": Named(text)})
    try:
        raise RuntimeError(f"it was {text} after all")
    except RuntimeError:
        log().exception("broken")
    shown = written.getvalue()
    told = text.split("=")[-1].split("?")[-1].split("://")[-1].removeprefix("Bearer ")
    told = told.partition("@")[0].removeprefix("[parameters: ")
    assert told not in shown
    assert shown.count(logs.STRUCK) >= 5
    assert "beginning" in shown


class Named:
    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


@pytest.mark.parametrize(
    "name",
    ["password", "new_password", "refresh_token", "Cookie", "set_cookie", "authorization",
     "api_key", "prompt", "content", "text", "body", "query_string", "client_secret", "email"],
)  # fmt: skip
def test_fields_of_secrets_are_struck_out_by_their_name(written: io.StringIO, name: str) -> None:
    log().info("fields", extra={"given": {name: "a b c"}, name.lower() + "": "a b c"})
    assert "a b c" not in written.getvalue()


def test_numbers_and_ordinary_words_stay(written: io.StringIO) -> None:
    log().info(
        "answer ended",
        extra={"completion_tokens": 50, "route": "/api/chat/replies/{id}/events", "hold": 12},
    )
    shown = written.getvalue()
    assert logs.STRUCK not in shown
    for word in ("answer ended", "50", "/api/chat/replies/{id}/events", "12"):
        assert word in shown


def test_long_hostile_text_costs_little(written: io.StringIO) -> None:
    """ASVS 1.3.12: no shape takes time that grows with the square of the text."""
    for text in ("/" * 100_000, "eyJ" * 50_000, "://" * 50_000, "a" * 200_000, "sk_" * 50_000):
        log().info("%s", text)
    lines = written.getvalue().splitlines()
    assert max(len(line) for line in lines) < 2 * logs.LONGEST


def test_nobody_forges_a_line_or_steers_the_terminal(written: io.StringIO) -> None:
    """ASVS 16.4.1: what a person sends stays within its own line."""
    evil = "x\n2026-01-01 [info] root signed in\r\x1b[2J\u2028y\x00"
    log().info("from %s", evil, extra={"agent": evil})
    try:
        raise RuntimeError(evil)
    except RuntimeError:
        log().exception("broken")
    shown = written.getvalue()
    assert not {"\r", "\x1b", "\u2028", "\x00"} & set(shown)
    starts = [line for line in shown.splitlines() if not line.startswith("    ")]
    assert not [line for line in starts if line.startswith("2026-01-01 [info]")]
    assert len(starts) == 2


@pytest.mark.parametrize("kind", ["json", "console"])
def test_half_a_character_can_be_written(kind: str) -> None:
    """Formatted here alone: what the test program catches of a log must be text, too."""
    record = logging.LogRecord("chat_app.tests", logging.INFO, "", 0, "from %s", ("\ud800",), None)
    assert "from" in logs.formatter(kind).format(record).encode("utf-8").decode()


def test_each_line_is_one_json_document_with_what_is_bound() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.formatter("json"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    with logs.bound(request_id="outer"):
        logs.bind(user="u_1")
        with logs.bound(request_id="inner"):
            log().info("one")
            assert logs.request_id() == "inner"
        log().info("two")
    log().info("three")
    one, two, three = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (one["request_id"], one.get("user")) == ("inner", None)
    assert (two["request_id"], two["user"]) == ("outer", "u_1")
    assert "request_id" not in three
    assert {"event", "level", "logger", "timestamp"} <= set(three)
    assert three["timestamp"].endswith("Z")
    assert len({logs.request_id(), logs.request_id()}) == 2


def test_the_file_is_the_owners_and_turns_by_size(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "logs" / "chat.log"
    logs.configure(format="console", file=str(file), max_mib=1, keep=2)
    for _ in range(3):
        with file.open("a") as filled:
            filled.write('{"event": "line"}\n' * 59_000)  # a little less than 1 MiB
        many = [
            threading.Thread(target=lambda: [log().info("line %s", "x " * 200) for _ in range(30)])
            for _ in range(4)
        ]
        for thread in many:
            thread.start()
        for thread in many:
            thread.join()
    kept = sorted(path.name for path in file.parent.iterdir())
    assert kept == ["chat.log", "chat.log.1", "chat.log.2"]
    for path in file.parent.iterdir():
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        for line in path.read_text().splitlines():
            assert json.loads(line)["event"].startswith("line")
    capsys.readouterr()


def test_levels_are_for_our_own_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """With `debug` others say no more than before: their lines may hold what people wrote."""
    logs.configure(format="json", level="debug")
    log().debug("ours")
    for name in ("httpx", "sqlalchemy.engine", "multipart.multipart", "asyncio", "other"):
        logging.getLogger(name).debug("theirs")
    shown = capsys.readouterr().err
    assert "ours" in shown
    assert "theirs" not in shown
    logs.configure(format="json", level="error")
    log().info("quiet")
    logging.getLogger("other").warning("quiet")
    assert "quiet" not in capsys.readouterr().err
