"""T18: every way to an answer, by the page and by programs, passes the one admission."""

import ast
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlmodel import func, select

from chat_app.accounts.limits import Limits, QueueFull
from chat_app.credits.tables import Hold
from chat_app.llm.engine import Request
from chat_app.settings import Limits as LimitSettings
from tests.apps import MODEL
from tests.house import tree
from tests.ui.conftest import Site, Visitor

# Who may start an answer, and what they call. A new caller fails until it stands here; a route
# or handler also needs its line in `WAYS`.
CALLERS = {
    "message.start": {"chat_app/api/chat.py", "chat_app/api/openai.py", "ui/tabs/chat/__init__.py"},
    "message.retry": {"chat_app/api/chat.py", "ui/tabs/chat/__init__.py"},
    "onward.resume": {"chat_app/api/branches.py", "ui/tabs/chat/__init__.py"},
    "onward.compare": {"chat_app/api/branches.py", "ui/tabs/chat/__init__.py"},
    "limits.enter": {"chat_app/flows/message.py"},
    "reply.write": {"chat_app/flows/message.py"},
    # Titles are free, in the background, and only while nobody waits (T19).
    "engine.submit": {
        "chat_app/flows/reply.py", "chat_app/flows/title.py", "chat_app/llm/watch.py"
    },
}  # fmt: skip
WAYS = {
    "POST /api/chat/message": {"model": MODEL, "message": "hello"},
    "POST /api/chat/conversations/{id}/retry": {},
    "POST /api/chat/replies/{id}/continue": {},
    "POST /api/chat/compare": {"models": [MODEL, "gemma-3-1b-it"], "message": "hello"},
    "POST /v1/chat/completions": {
        "model": MODEL, "messages": [{"role": "user", "content": "hello"}]
    },
}  # fmt: skip
HANDLERS = {
    "send": ["hello", MODEL, None, "k-admission", "", ""],
    "turn": ["retry {message}", None, MODEL, ""],
}


def called(source: str) -> set[str]:
    """The last two words of everything that is called, such as `message.start`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            match = re.search(r"(\w+\.\w+)$", ast.unparse(node.func))
            if match:
                found.add(match[1])
    return found


def test_nobody_else_starts_an_answer() -> None:
    files = {
        path.relative_to(tree.ROOT).as_posix(): called(path.read_text(encoding="utf-8"))
        for room in ("chat_app", "ui")
        for path in (tree.ROOT / room).rglob("*.py")
    }
    for call, allowed in CALLERS.items():
        callers = {name for name, calls in files.items() if call in calls}
        assert callers, call
        assert callers <= allowed, call


def test_every_starting_route_and_handler_has_a_line() -> None:
    """What stands in a module that starts answers and is not in `WAYS` does not call for one."""
    for name, ways, expected in (
        ("chat_app/api/chat.py", WAYS, {"send", "retry"}),
        ("chat_app/api/branches.py", WAYS, {"go_on", "compare"}),
        # `begin` is what `send` calls.
        ("ui/tabs/chat/__init__.py", HANDLERS, {"begin", "turn"}),
    ):
        starting = set()
        for node in ast.walk(ast.parse(tree.read(name))):
            if isinstance(node, ast.AsyncFunctionDef) and {
                "message.start",
                "message.retry",
                "onward.resume",
                "onward.compare",
            } & called("\n".join(map(ast.unparse, node.body))):
                starting.add(node.name)
        # The page's `bind` holds its handlers.
        assert starting - {"bind"} == expected, name
        assert len(ways) >= len(expected)


@contextmanager
def nothing_free(site: Site) -> Iterator[list[Request]]:
    """The one place of the program is taken; gives the requests that reach the engine."""
    app, before, reached = site.app, site.app.limits, list[Request]()
    submit = app.engine.submit

    def noted(request: Request) -> object:
        reached.append(request)
        return submit(request)

    app.limits = Limits(LimitSettings(queue_total=1))
    ticket = app.limits.enter(0)
    app.engine.submit = noted  # type: ignore[assignment, method-assign]
    try:
        yield reached
    finally:
        ticket.leave()
        app.limits = before
        app.engine.submit = submit  # type: ignore[method-assign]


def test_when_no_place_is_free_every_way_is_refused_and_nothing_held(site: Site) -> None:
    person = site.person()
    begun = person.client.post("/api/chat/message", json=WAYS["POST /api/chat/message"])
    conversation = begun.json()["conversation_id"]
    cut = person.client.post(
        "/api/chat/message", json={**WAYS["POST /api/chat/message"], "max_tokens": 1}
    )
    end, _ = person.call(site.number("open_one"), [conversation, None])
    assert end["success"], end
    before = person.client.get("/api/billing/balance").json()
    with nothing_free(site) as reached:
        tried = 0
        for way, body in WAYS.items():
            id = cut.json()["reply_id"] if "/replies/" in way else conversation
            path = way.removeprefix("POST ").replace("{id}", id)
            answer = person.client.post(path, json=body)
            if answer.status_code in {404, 405} and path.startswith("/v1"):
                continue
            tried += 1
            assert answer.status_code == 429, (way, answer.text)
            assert answer.json()["error"]["code"] == QueueFull.code, way
            assert int(answer.headers["retry-after"]) >= 1, way
        for name, data in HANDLERS.items():
            tried += 1
            at = begun.json()["message_id"]
            data = [item.format(message=at) if isinstance(item, str) else item for item in data]
            end, _ = person.call(site.number(name), data)
            assert not end["success"], name
            assert end["output"]["error"] == QueueFull.message, name
        assert tried >= 4
        assert reached == []
    assert person.client.get("/api/billing/balance").json() == before
    with site.app.db.read() as session:
        assert session.exec(select(func.count()).select_from(Hold)).one() == 2


@pytest.fixture
def full(site: Site) -> Iterator[Visitor]:
    """Somebody while the models hang and every place is taken."""
    person = site.person()
    with nothing_free(site):
        yield person


def test_all_other_doors_stay_open(full: Visitor, site: Site) -> None:
    """Signing in, paying and the probes never wait behind answers."""
    again = site.visitor()
    body = {"login": full.username, "password": "correct horse battery staple"}
    assert again.client.post("/api/auth/login", json=body).status_code == 200
    for path in ("/livez", "/api/billing/balance", "/api/billing/packages", "/api/chat/status"):
        assert again.client.get(path).status_code == 200, path
    order = again.client.post("/api/billing/add", json={"package_id": "starter"})
    assert order.status_code == 201
    paid = again.client.post(f"/api/billing/payments/{order.json()['payment_id']}/confirm")
    assert paid.status_code == 200
