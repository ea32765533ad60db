"""Refusals: one table, one shape, one place."""

import asyncio
import json
import logging
from pathlib import Path

import httpx
import pytest

from chat_app import api, errors
from chat_app.api import errors as edge
from chat_app.errors import AppError, TooMany, Unavailable
from tests.api.conftest import Server


def test_every_error_has_a_status_a_code_and_a_next_step(server: Server) -> None:
    """Walks every error class of the program."""
    seen: dict[str, type[AppError]] = {}
    for leaf in edge.leaves():
        if not leaf.__module__.startswith("chat_app."):
            continue
        assert edge.family(leaf)[0] != 500, leaf
        assert leaf.code.replace("_", "").isalnum(), leaf
        assert leaf.code.islower(), leaf
        assert leaf.message.endswith("."), leaf
        ancestors = [seen[leaf.code]] if leaf.code in seen else []
        assert all(issubclass(leaf, other) for other in ancestors), (leaf, ancestors)
        seen[leaf.code] = leaf
    assert len(seen) > 30
    assert set(edge.FAMILIES) == set(AppError.__subclasses__())


def test_waiting_errors_say_how_long() -> None:
    for kind in (TooMany, Unavailable):
        answer = edge.answer(kind(retry_after_seconds=7))
        assert answer.headers["retry-after"] == "7"
        assert json.loads(bytes(answer.body))["error"]["retry_after_seconds"] == 7


def test_facts_never_hide_the_fixed_fields_and_always_encode() -> None:
    error = errors.Conflict(
        type="x", code="x", odd="\ud800", bad={1: {2}}, nested=[{"a": b"\xff"}], param="p"
    )
    shape = json.loads(bytes(edge.answer(error).body))["error"]
    assert (shape["type"], shape["code"], shape["param"]) == ("conflict_error", "conflict", "p")
    assert shape["odd"] == "?"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/nothing", 404, "not_found"),
        ("GET", "/nothing/../x", 404, "not_found"),
        ("POST", "/livez", 405, "method_not_allowed"),
        ("GET", "/api/auth/login", 405, "method_not_allowed"),
        ("GET", "/api/auth/me/", 404, "not_found"),
        ("GET", "/api/auth/me", 401, "not_signed_in"),
    ],
)
def test_the_frameworks_own_refusals_have_the_shape(
    server: Server, method: str, path: str, status: int, code: str
) -> None:
    answer = server.client().request(method, path)
    assert answer.status_code == status
    shape = answer.json()
    assert set(shape) == {"error"}
    assert set(shape["error"]) >= {"message", "type", "code", "param"}
    assert shape["error"]["code"] == code


def test_a_bug_answers_with_a_reference_and_tells_the_log(
    server: Server, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    web = api.create(server.app)

    @web.get("/bug")
    def bug() -> None:
        raise RuntimeError("the secret is 42")

    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app=web, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/bug")

    with caplog.at_level(logging.ERROR):
        answer = asyncio.run(call())
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "internal")
    assert "42" not in answer.text
    assert error["reference"] in caplog.text
    assert "the secret is 42" in caplog.text
