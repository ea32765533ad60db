"""Parameters, presets, feedback and the rule of a price over REST."""

from typing import Any

import pytest

from chat_app.llm.engine import Request
from tests.api.conftest import MODEL, Person, Server

GOLEM = "You are a golem. Answer in three words."


@pytest.fixture
def asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What reaches the engine."""
    seen: list[Request] = []
    submit = server.app.engine.submit

    def note(request: Request) -> Any:
        if not request.background:
            seen.append(request)
        return submit(request)

    monkeypatch.setattr(server.app.engine, "submit", note)
    return seen


def test_parameters_reach_the_engine_and_stay_with_the_conversation(
    ann: Person, asked: list[Request]
) -> None:
    """The first message brings them, the next has them, a PATCH changes them, one may differ."""
    wish = {"temperature": 0.3, "top_p": 0.8, "seed": 11, "max_tokens": 5, "system": GOLEM}
    first = ann.ask("one", **wish).json()
    assert first["usage"]["completion_tokens"] == 5
    talk = f"/api/chat/conversations/{first['conversation_id']}"
    assert ann.client.get(talk).json()["settings"] == wish
    more = {"conversation_id": first["conversation_id"]}
    ann.ask("two", **more).raise_for_status()
    settings = {"temperature": 1.5, "max_tokens": 3}
    ann.client.patch(talk, json={"settings": settings}).raise_for_status()
    ann.ask("three", **more).raise_for_status()
    ann.ask("four", temperature=0, **more).raise_for_status()
    ann.client.post(f"{talk}/retry", json={}).raise_for_status()
    told = [
        (item.sampling.temperature, item.sampling.top_p, item.sampling.seed, item.max_tokens)
        for item in asked
    ]
    own = 1.0  # the demo model's top_p
    assert told == [
        (0.3, 0.8, 11, 5), (0.3, 0.8, 11, 5), (1.5, own, None, 3), (0.0, own, None, 3),
        (1.5, own, None, 3),
    ]  # fmt: skip
    systems = [item.messages[0].content for item in asked]
    assert systems[:2] == [GOLEM, GOLEM]
    assert systems[2:] == ["Answer the user's question briefly."] * 3
    assert ann.client.get(talk).json()["title"] == "one"


def test_the_servers_clamps_hold(ann: Person, server: Server, asked: list[Request]) -> None:
    """No length beyond the operator's, no parameter out of its range, no endless prompt."""
    ann.ask("long", max_tokens=2_000_000_000).raise_for_status()
    assert asked[-1].max_tokens == server.app.settings.llm.max_output_tokens
    for wrong in (
        {"temperature": 2.5}, {"top_p": 0}, {"seed": -1}, {"system": "x" * 8001}, {"seed": "1"}
    ):  # fmt: skip
        assert ann.ask("hello", **wrong).status_code == 422
    assert len(asked) == 1


def test_an_own_system_prompt_is_quoted_and_part_of_the_key(ann: Person) -> None:
    """It is prompt like the rest: counted in the quote; another one under the key conflicts."""
    body = {"model": MODEL, "message": "hello there"}
    plain = ann.client.post("/api/chat/quote", json=body).json()["prompt_tokens"]
    own = ann.client.post("/api/chat/quote", json={**body, "system": "a b c d e f g h i"}).json()
    assert own["prompt_tokens"] == plain + 4  # in place of the model's own five words
    first = ann.ask(system="one", key="k-system")
    assert ann.ask(system="one", key="k-system").json() == first.json()
    assert ann.ask(system="two", key="k-system").status_code == 409
    assert ann.ask(key="k-system").status_code == 409


def test_presets_are_ones_own(server: Server, ann: Person) -> None:
    """Three are built in; saving the same name again replaces it; fifty are the most."""
    other, path = server.person(), "/api/chat/presets"
    built = [item["name"] for item in ann.client.get(path).json()["items"]]
    assert built == ["Precise", "Balanced", "Creative"]
    made = ann.client.post(path, json={"name": "Golem", "settings": {"system": GOLEM}}).json()
    again = ann.client.post(path, json={"name": " Golem ", "settings": {"seed": 1}}).json()
    assert again["id"] == made["id"]
    mine = ann.client.get(path).json()["items"][3:]
    assert [(item["name"], item["settings"]["seed"]) for item in mine] == [("Golem", 1)]
    assert len(other.client.get(path).json()["items"]) == 3
    for name in ("precise", " ", "x" * 61):
        refused = ann.client.post(path, json={"name": name, "settings": {}})
        assert refused.status_code == 422
    assert ann.client.delete(f"{path}/precise").status_code == 404
    assert other.client.delete(f"{path}/{made['id']}").status_code == 404
    assert ann.client.delete(f"{path}/{made['id']}").status_code == 204


def test_feedback_is_one_vote_that_can_change(server: Server, ann: Person, root: Person) -> None:
    """It stays with the message; questions, strange reasons and others' answers are refused."""
    answer = ann.ask("how was it?").json()
    message = f"/api/chat/messages/{answer['message_id']}"
    talk = f"/api/chat/conversations/{answer['conversation_id']}"

    def tally() -> tuple[int, int, dict[str, int]]:
        items = root.client.get("/api/admin/feedback").json()["items"]
        found = [item for item in items if item["model"] == MODEL]
        return (found[0]["up"], found[0]["down"], found[0]["reasons"]) if found else (0, 0, {})

    up, down, before = tally()
    vote = {"vote": "down", "reasons": ["too_long", "wrong"], "note": " meh "}
    given = ann.client.put(f"{message}/feedback", json=vote).json()
    assert given == {**vote, "note": "meh", "message_id": answer["message_id"]}
    shown = ann.client.get(talk).json()["messages"]
    assert shown[0]["feedback"] is None
    assert shown[1]["feedback"] == given == ann.client.get(message).json()["feedback"]
    assert tally()[:2] == (up, down + 1)
    assert tally()[2]["wrong"] == before.get("wrong", 0) + 1
    ann.client.put(f"{message}/feedback", json={"vote": "up"}).raise_for_status()
    assert tally()[:2] == (up + 1, down)
    for wrong in ({"vote": "up", "reasons": ["wrong"]}, {"vote": "up", "note": "x" * 501}):
        assert ann.client.put(f"{message}/feedback", json=wrong).status_code == 422
    question = shown[0]["id"]
    path = f"/api/chat/messages/{question}/feedback"
    assert ann.client.put(path, json={"vote": "up"}).status_code == 422
    assert server.person().client.put(f"{message}/feedback", json=vote).status_code == 404
    assert ann.client.delete(f"{message}/feedback").status_code == 204
    assert ann.client.get(message).json()["feedback"] is None
    assert tally()[:2] == (up, down)
    ann.client.delete(talk).raise_for_status()
    assert ann.client.put(f"{message}/feedback", json=vote).status_code == 404
    assert ann.client.get(message).status_code == 404


def test_a_message_comes_as_it_was_written(ann: Person) -> None:
    """Copying gives the raw Markdown."""
    text = "- a\n  - b\n\n\tmake\n\n| x | y |\n|---|---|\n| $1 | `2` |"
    talk = ann.client.post(
        "/api/chat/conversations/import",
        json={
            "format": "ml-chat-billing/conversation/1",
            "messages": [
                {"role": "user", "content": "q"}, {"role": "assistant", "content": text}
            ],
        },
    ).json()  # fmt: skip
    id = talk["items"][0]["id"] if "items" in talk else talk["id"]
    messages = ann.client.get(f"/api/chat/conversations/{id}").json()["messages"]
    found = ann.client.get(f"/api/chat/messages/{messages[1]['id']}").json()
    assert found["content"] == text


def test_the_rule_says_what_the_conversation_weighs(ann: Person) -> None:
    """History and spending of the open conversation; another's conversation is not found."""
    fresh = ann.client.get("/api/chat/rule", params={"model": MODEL}).json()
    assert (fresh["history_tokens"], fresh["spent"]) == (0, "0")
    assert "gemma-3-1b-it" in {item["model"] for item in fresh["others"]}
    talk = ann.ask("one two three").json()
    query = {"model": MODEL, "conversation_id": talk["conversation_id"]}
    later = ann.client.get("/api/chat/rule", params=query).json()
    assert later["history_tokens"] == 3 + 8
    assert later["prompt_tokens"] == fresh["prompt_tokens"] + 11
    assert later["spent"] == talk["charged"]
    missing = {**query, "conversation_id": "con_nobody"}
    assert ann.client.get("/api/chat/rule", params=missing).status_code == 404
