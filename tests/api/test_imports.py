"""Conversations from files: what comes out of here goes in again, and ChatGPT's too."""

import json
from typing import Any

import pytest

from tests.api.conftest import MODEL, Person

IMPORT = "/api/chat/conversations/import"


def bring(person: Person, file: object, **headers: str) -> Any:
    send = {"Content-Type": "application/json", **headers}
    return person.client.post(IMPORT, content=json.dumps(file), headers=send)


def node(parent: str | None, role: str, *parts: Any, **message: Any) -> dict[str, Any]:
    """A node of ChatGPT's tree."""
    content = {"content_type": "text", "parts": list(parts)}
    about = {"model_slug": "gpt-4o"} if role == "assistant" else {}
    said = {"author": {"role": role}, "content": content, "metadata": about, **message}
    return {"parent": parent, "children": [], "message": said}


TREE = {
    "title": "Sky\u0000 <b>blue</b>",
    "create_time": 1700000000.5,
    "current_node": "f",
    "mapping": {
        "root": {"parent": None, "children": ["a"], "message": None},
        "a": node("root", "system", ""),
        "b": node("a", "user", "why is it blue?", create_time=1700000001.0),
        "old": node("b", "assistant", "an answer that was replaced"),
        "c": node("b", "assistant", "because", {"image": 1}, create_time=1700000002.0),
        "d": node("c", "tool", "a search"),
        "e": node("d", "assistant", "of Rayleigh \ud800", create_time=float("inf")),
        "f": node("e", "user", "thanks", create_time=10**400),
    },
}


def test_what_is_exported_here_comes_back(ann: Person, bob: Person) -> None:
    talk = ann.ask("one").json()["conversation_id"]
    ann.ask("two", conversation_id=talk)
    file = ann.client.get(f"/api/chat/conversations/{talk}/export").json()
    (made,) = bring(bob, file).json()["items"]
    assert (made["title"], made["messages"], made["skipped"]) == (file["title"], 4, 0)
    again = bob.client.get(f"/api/chat/conversations/{made['id']}/export").json()
    keep = ("role", "content", "model")
    for before, after in zip(file["messages"], again["messages"], strict=True):
        assert {name: after[name] for name in keep} == {name: before[name] for name in keep}
    assert bob.available() == "100"
    # It is a conversation like any other: it goes on, and is found.
    answer = bob.ask("three", conversation_id=made["id"]).json()
    assert answer["usage"]["prompt_tokens"] == 5 + 1 + 8 + 1 + 8 + 1
    assert len(bob.client.get("/api/chat/history", params={"q": "two"}).json()["items"]) == 1


def test_chatgpts_file(ann: Person) -> None:
    answer = bring(ann, [TREE])
    assert answer.status_code == 201, answer.text
    (made,) = answer.json()["items"]
    assert (made["title"], made["messages"], made["skipped"]) == ("Sky <b>blue</b>", 3, 1)
    talk = ann.client.get(f"/api/chat/conversations/{made['id']}").json()
    assert [(row["role"], row["content"], row["model"]) for row in talk["messages"]] == [
        ("user", "why is it blue?", "gemma-3-1b-it"),
        ("assistant", "because\n\nof Rayleigh ?", "gpt-4o"),
        ("user", "thanks", "gemma-3-1b-it"),
    ]
    assert talk["messages"][0]["created_at"] == "2023-11-14T22:13:21Z"
    assert talk["model"] == "gemma-3-1b-it"
    retried = ann.client.post(f"/api/chat/conversations/{made['id']}/retry", json={"model": MODEL})
    assert retried.status_code == 200, retried.text


def test_the_same_key_imports_once(ann: Person) -> None:
    first = bring(ann, TREE, **{"Idempotency-Key": "file"})
    again = bring(ann, TREE, **{"Idempotency-Key": "file"})
    assert first.json() == again.json()
    assert len(ann.client.get("/api/chat/conversations").json()["items"]) == 1
    other = bring(ann, [TREE, TREE], **{"Idempotency-Key": "file"})
    assert other.json()["error"]["code"] == "idempotency_conflict"


def loop() -> dict[str, Any]:
    return {
        "mapping": {"a": node("b", "user", "x"), "b": node("a", "user", "y")},
        "current_node": "a",
    }


@pytest.mark.parametrize(
    ("file", "status", "code"),
    [
        ({}, 422, "not_an_export"),
        ([], 422, "not_an_export"),
        ("text", 422, "not_an_export"),
        ([1], 422, "not_an_export"),
        (None, 422, "not_an_export"),
        ({"mapping": []}, 422, "not_an_export"),
        ({"mapping": {"a": 1}, "current_node": "a"}, 422, "not_an_export"),
        ({"mapping": {"a": node(["b"], [], 1)}, "current_node": {}}, 422, "not_an_export"),
        ({"format": "ml-chat-billing/conversation/1", "messages": 5}, 422, "not_an_export"),
        ([TREE] * 501, 413, "too_much_to_import"),
        (
            {"format": "ml-chat-billing/conversation/1",
             "messages": [{"role": "user", "content": "x"}] * 10_001},
            413,
            "too_much_to_import",
        ),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_what_is_none_is_refused_whole(ann: Person, file: Any, status: int, code: str) -> None:
    answer = bring(ann, file)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert ann.client.get("/api/chat/conversations").json()["items"] == []


def test_a_tree_that_leads_in_a_circle_ends(ann: Person) -> None:
    (made,) = bring(ann, loop()).json()["items"]
    assert made["messages"] == 2
