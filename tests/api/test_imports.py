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
    assert (made["title"], made["messages"], made["skipped"]) == ("Sky <b>blue</b>", 4, 1)
    talk = ann.client.get(f"/api/chat/conversations/{made['id']}").json()
    assert [(row["role"], row["content"], row["model"]) for row in talk["messages"]] == [
        ("user", "why is it blue?", "gemma-3-1b-it"),
        ("assistant", "because\n\nof Rayleigh ?", "gpt-4o"),
        ("user", "thanks", "gemma-3-1b-it"),
    ]
    assert talk["messages"][0]["created_at"] == "2023-11-14T22:13:21Z"
    # The answer that was replaced is still there, beside the other.
    (old,) = set(talk["messages"][1]["siblings"]) - {talk["messages"][1]["id"]}
    whole = ann.client.get(f"/api/chat/conversations/{made['id']}", params={"path": "all"}).json()
    contents = {row["id"]: row["content"] for row in whole["messages"]}
    assert (len(contents), contents[old]) == (4, "an answer that was replaced")
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


def test_branches_come_back_from_our_own_file(ann: Person, bob: Person) -> None:
    """Every branch, the active one, and an answer that was continued."""
    first = ann.ask("one", max_tokens=3).json()
    talk = first["conversation_id"]
    ann.client.post(f"/api/chat/replies/{first['reply_id']}/continue", json={}).raise_for_status()
    ann.ask("two", conversation_id=talk)
    ann.ask("else", conversation_id=talk, parent_id="root")
    path = {"message_id": first["message_id"]}
    ann.client.put(f"/api/chat/conversations/{talk}/path", json=path).raise_for_status()
    file = ann.client.get(f"/api/chat/conversations/{talk}/export").json()
    assert len(file["messages"]) == 7
    (made,) = bring(bob, file).json()["items"]
    # The two parts of one answer are one message here.
    assert (made["messages"], made["skipped"]) == (6, 0)

    def said(person: Person, id: str, path: str) -> list[str]:
        shown = person.client.get(f"/api/chat/conversations/{id}", params={"path": path}).json()
        return [row["content"] for row in shown["messages"]]

    one, part, more, two, answer = said(ann, talk, "active")
    assert said(bob, made["id"], "active") == [one, part + more, two, answer]
    assert said(bob, made["id"], "all") == [one, part + more, two, answer, "else", answer]


def test_hostile_trees_end_and_keep_the_texts_apart(ann: Person) -> None:
    """Parents that are missing, of the wrong kind, their own; answers that fork after answers."""
    mapping = {
        "a": node("nowhere", "user", "a"),
        "b": node("a", "assistant", "b"),
        "c": node("b", "assistant", "c"),
        "d": node("b", "assistant", "d"),
        "e": node("e", "user", "e"),
        "f": {**node("c", "user", "f"), "parent": ["c"]},
        "g": 7,
    }
    (made,) = bring(ann, {"mapping": mapping, "current_node": "d"}).json()["items"]
    shown = ann.client.get(f"/api/chat/conversations/{made['id']}").json()
    assert [row["content"] for row in shown["messages"]] == ["a", "b", "\n\nd"]
    assert made["messages"] == 6
    long = {
        str(at): node(str(at - 1) if at else None, "assistant" if at % 2 else "user", "x" * 300)
        for at in range(3000)
    }
    (made,) = bring(ann, {"mapping": long}).json()["items"]
    assert made["messages"] == 3000
