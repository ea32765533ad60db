"""Hostile input on every route: refused in the one shape, never a crash, never a credit moved."""

import json
from typing import Any

import httpx
import pytest

from tests.api.conftest import Person, Server
from tests.api.matrix import MATRIX
from tests.effort import effort

pytestmark = pytest.mark.usefixtures("drills_here")
# Bodies as raw bytes, because a polite client would not send them (bar 11).
_EVERY_VALUE = [
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"1E400",
    b"true",
    b"null",
    b"-1",
    b"0.1",
    b"9223372036854775808",
    b"1" + b"0" * 400,
    b"1" * 5000,
    b'"\\ud800"',
    b'"\\u0000"',
    b'"a\\u0000b"',
    b'"' + b"x" * 20_000 + b'"',
    b'"1e400"',
    b'"NaN"',
    '"٣"'.encode(),
    b'"%s"' % b"'; DROP TABLE user; --",
    b"[]",
    b"{}",
    b"[[1]]",
    b'{"a": {"b": 1}}',
]


def values_for(number: int) -> list[bytes]:
    """All of them with `--full`; else every fourth, another fourth for the next field."""
    return effort(_EVERY_VALUE, _EVERY_VALUE[number % 4 :: 4])


WHOLE = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"NaN",
    b"\xff\xfe\x00",
    b'{"model": "\xff"}',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"message": "a", "message": 1}',
]
POSTS = sorted(route for route in MATRIX if route.split()[0] in ("POST", "PATCH", "PUT"))


@pytest.fixture(scope="module")
def described(server: Server) -> dict[str, Any]:
    """The OpenAPI description."""
    found: dict[str, Any] = server.client().get("/api/openapi.json").json()
    return found


def takes_a_body(schema: dict[str, Any], route: str) -> bool:
    """Whether it reads one; without, all bodies are the same to it."""
    method, path = route.split()
    return "requestBody" in schema["paths"][path][method.lower()]


def body_fields(schema: dict[str, Any], route: str) -> list[str]:
    """The fields of a route's body."""
    method, path = route.split()
    content = schema["paths"][path][method.lower()].get("requestBody", {}).get("content", {})
    form = content.get("application/json", {}).get("schema", {})
    for option in [form, *form.get("anyOf", [])]:
        if "$ref" in option:
            name = option["$ref"].rpartition("/")[2]
            return list(schema["components"]["schemas"][name]["properties"])
    return []


def refused(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert set(answer.json()["error"]) >= {"message", "type", "code", "param"}


@pytest.mark.parametrize("route", POSTS)
def test_hostile_bodies(server: Server, described: dict[str, Any], route: str) -> None:
    """Bar 11."""
    person = server.person(admin=True)
    method, path = route.split()
    url = path.replace("{id}", "1" if "/admin/" in path else "rep_x")
    send = {"Content-Type": "application/json"}
    anonymous = server.client()
    good = MATRIX[route].body or {}
    if path.endswith(("logout", "logout-all")):
        person = server.person(admin=True)
    before = person.available()
    for raw in WHOLE if takes_a_body(described, route) else effort(WHOLE, WHOLE[1:2]):
        refused(anonymous.request(method, url, content=raw, headers=send))
        if not path.endswith(("logout", "logout-all")):
            refused(person.client.request(method, url, content=raw, headers=send))
    for number, field in enumerate(body_fields(described, route), POSTS.index(route)):
        for value in values_for(number):
            rest = {name: item for name, item in good.items() if name != field}
            pairs = [f"{json.dumps(name)}: {json.dumps(item)}" for name, item in rest.items()]
            raw = ("{" + ", ".join([*pairs, f"{json.dumps(field)}: "])).encode() + value + b"}"
            answer = person.client.request(method, url, content=raw, headers=send)
            refused(answer)
            negative = value == b"-1" and "/admin/" in path  # administrators may take credits
            if field in ("credits", "spend_limit") and value != b"null" and not negative:
                assert answer.status_code in (404, 422, 400, 402, 409), (field, value, answer.text)
    if not path.endswith(("logout", "logout-all", "message", "completions", "compare")):
        assert person.available() == before


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=101",
        "limit=NaN",
        "limit=1e2",
        "limit=9223372036854775808",
        "limit=true",
        "cursor=%00",
        "cursor=%FF",
        "cursor=" + "9" * 30,
        "cursor=-1",
        "cursor=1.x%00",
        "cursor=" + "x" * 300,
        "q=%00",
        "q=%ED%A0%80",
        "q=" + "%25" * 200,
        "q=" + "x" * 201,
        "from=%00",
        "from=-1",
        "to=99999-01-01",
        "from=0001-01-01T00:00:00%2B14:00",
        "type=';--",
        "status=nobody",
        "after=-1",
        "after=99999999999999999999",
        "period=century",
        "format=exe",
        "model=%00",
        "a=1&a=2&limit=5&limit=6",
    ],
)
def test_hostile_queries(root: Person, query: str) -> None:
    for route in MATRIX:
        method, path = route.split()
        if method == "GET":
            url = path.replace("{id}", root.id if "/admin/" in path else "rep_x")
            refused(root.client.get(f"{url}?{query}"))


def test_other_content_types_are_not_read_as_json(ann: Person) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = ann.client.post(
            "/api/billing/add",
            content=b'{"package_id": "starter"}',
            headers={"Content-Type": kind},
        )
        assert answer.status_code in (400, 422), kind


def test_markup_in_texts_comes_back_as_data(ann: Person) -> None:
    """Bar 12: what people write is JSON text with a JSON content type, nothing a page runs."""
    answer = ann.ask("<script>alert(1)</script>").json()
    shown = ann.client.get(f"/api/chat/conversations/{answer['conversation_id']}")
    assert shown.headers["content-type"] == "application/json"
    assert shown.json()["messages"][0]["content"] == "<script>alert(1)</script>"
