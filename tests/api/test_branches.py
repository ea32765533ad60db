"""Branches by REST: edit, switch, fork, continue, compare, and chats that leave nothing."""

from typing import Any

import pytest

from tests.api.conftest import MODEL, Person

# Words of the demo model's own system prompt.
OWN = 5
TWO = ["smollm2-135m-instruct", "gemma-3-12b-it"]


def talk(person: Person, id: str, path: str = "active") -> dict[str, Any]:
    found: dict[str, Any] = person.client.get(
        f"/api/chat/conversations/{id}", params={"path": path}
    ).json()
    return found


def texts(person: Person, id: str, path: str = "active") -> list[str]:
    return [row["content"] for row in talk(person, id, path)["messages"]]


def test_an_edited_question_is_a_branch_that_alone_is_read(ann: Person) -> None:
    """The model reads the path to the new text, and nothing of the branch beside it."""
    first = ann.ask("one two three").json()
    id = first["conversation_id"]
    second = ann.ask("four five", conversation_id=id).json()
    assert second["usage"]["prompt_tokens"] == OWN + 3 + 8 + 2
    question = talk(ann, id)["messages"][2]
    quoted = {"model": MODEL, "message": "six", "conversation_id": id}
    quote = ann.client.post("/api/chat/quote", json={**quoted, "parent_id": "root"}).json()
    assert quote["prompt_tokens"] == OWN + 1
    edited = ann.ask("six", conversation_id=id, parent_id=question["parent_id"]).json()
    assert edited["usage"]["prompt_tokens"] == OWN + 3 + 8 + 1
    shown = talk(ann, id)
    assert [row["content"] for row in shown["messages"]][0::2] == ["one two three", "six"]
    assert shown["leaf_id"] == edited["message_id"]
    assert (shown["messages"][2]["siblings"][0], shown["messages"][2]["sibling_index"]) == (
        question["id"], 1,
    )  # fmt: skip
    back = ann.client.put(
        f"/api/chat/conversations/{id}/path", json={"message_id": question["id"]}
    ).json()
    assert [row["content"] for row in back["messages"]][0::2] == ["one two three", "four five"]
    assert back["leaf_id"] == second["message_id"]
    third = ann.ask("seven", conversation_id=id).json()
    assert third["usage"]["prompt_tokens"] == OWN + 3 + 8 + 2 + 8 + 1
    assert len(talk(ann, id, "all")["messages"]) == 8
    other = ann.ask("anew", conversation_id=id, parent_id="root").json()
    assert other["usage"]["prompt_tokens"] == OWN + 1
    assert texts(ann, id)[0] == "anew"
    assert ann.available() == "95"
    kept = ann.client.get(f"/api/chat/conversations/{id}/export", params={"format": "md"}).text
    assert "anew" in kept
    assert "four five" not in kept


def test_where_a_branch_may_begin(ann: Person, bob: Person) -> None:
    theirs = bob.ask("theirs").json()
    mine = ann.ask("mine").json()["conversation_id"]
    elsewhere = ann.ask("no", conversation_id=mine, parent_id=theirs["message_id"])
    assert (elsewhere.status_code, elsewhere.json()["error"]["code"]) == (404, "message_not_found")
    new = ann.ask("no", parent_id="root")
    assert (new.status_code, new.json()["error"]["code"]) == (422, "new_chats_alone")
    assert ann.client.get(f"/api/chat/messages/{theirs['message_id']}").status_code == 404
    assert (ann.available(), texts(ann, mine)[0]) == ("99", "mine")


def test_an_answer_of_the_middle_is_had_again(ann: Person) -> None:
    first = ann.ask("one").json()
    id = first["conversation_id"]
    ann.ask("two", conversation_id=id)
    again = ann.client.post(
        f"/api/chat/conversations/{id}/retry", json={"message_id": first["message_id"]}
    ).json()
    assert again["usage"]["prompt_tokens"] == OWN + 1
    shown = talk(ann, id)["messages"]
    assert [row["id"] for row in shown][1:] == [again["message_id"]]
    assert shown[1]["siblings"] == [first["message_id"], again["message_id"]]
    assert len(talk(ann, id, "all")["messages"]) == 5
    wrong = ann.client.post(
        f"/api/chat/conversations/{id}/retry", json={"message_id": "msg_of_nobody"}
    )
    assert wrong.status_code == 404


def test_a_fork_costs_nothing_and_goes_its_own_way(ann: Person) -> None:
    first = ann.ask("one").json()
    id = first["conversation_id"]
    ann.ask("two", conversation_id=id)
    made = ann.client.post(
        f"/api/chat/conversations/{id}/fork", json={"message_id": first["message_id"]}
    )
    assert made.status_code == 201
    copy = made.json()["id"]
    assert texts(ann, copy) == texts(ann, id)[:2]
    assert [row["charged"] for row in talk(ann, copy)["messages"]] == [None, None]
    assert ann.available() == "98"
    assert len(ann.client.get("/api/billing/transactions").json()["items"]) == 3
    ann.ask("three", conversation_id=copy).raise_for_status()
    assert [len(texts(ann, one)) for one in (id, copy)] == [4, 4]
    assert ann.client.delete(f"/api/chat/conversations/{id}").status_code == 204
    assert texts(ann, copy)[0] == "one"


def test_an_answer_that_was_cut_goes_on(ann: Person) -> None:
    """A new reply with its own charge; both parts are read as one text."""
    first = ann.ask("one two", max_tokens=3).json()
    assert first["finish_reason"] == "length"
    path, longer = f"/api/chat/replies/{first['reply_id']}/continue", {"max_tokens": 100}
    quote = ann.client.post(f"{path}/quote", json=longer).json()
    more = ann.client.post(path, json=longer).json()
    assert (quote["maximum"], more["charged"], ann.available()) == ("1", "1", "98")
    assert quote["prompt_tokens"] == more["usage"]["prompt_tokens"]
    id = first["conversation_id"]
    rows = talk(ann, id)["messages"]
    assert [row["role"] for row in rows] == ["user", "assistant", "assistant"]
    assert rows[2]["parent_id"] == first["message_id"]
    assert [row["charged"] for row in rows] == [None, "1", "1"]
    kept = ann.client.get(f"/api/chat/conversations/{id}/export", params={"format": "md"}).text
    assert first["content"] + more["content"] in kept
    after = ann.ask("three", conversation_id=id).json()
    assert after["usage"]["prompt_tokens"] == OWN + 2 + 3 + 8 + 1
    done = ann.client.post(f"/api/chat/replies/{more['reply_id']}/continue", json={})
    assert (done.status_code, done.json()["error"]["code"]) == (409, "nothing_to_continue")
    assert ann.available() == "97"


def compared(person: Person, **more: Any) -> Any:
    body = {"models": TWO, "message": "which is better", **more}
    return person.client.post("/api/chat/compare", json=body, headers={"Idempotency-Key": "both"})


def test_two_models_answer_side_by_side(ann: Person) -> None:
    """Two holds, two receipts, siblings; one key is one comparison; the person picks."""
    begun = compared(ann)
    assert begun.status_code == 202, begun.text
    assert [one["maximum"] for one in begun.json()["replies"]] == ["1", "50"]
    ends = []
    for one in begun.json()["replies"]:
        events = ann.client.get(f"/api/chat/replies/{one['reply_id']}/events").text
        assert "event: done" in events
        ends.append(ann.client.get(f"/api/chat/replies/{one['reply_id']}").json())
    assert compared(ann).json() == begun.json()
    assert [end["charged"] for end in ends] == ["1", "50"]
    assert len({end["receipt_id"] for end in ends}) == 2
    assert ann.available() == "49"
    id = begun.json()["conversation_id"]
    shown = talk(ann, id)
    assert shown["messages"][1]["siblings"] == [end["message_id"] for end in ends]
    assert shown["leaf_id"] == ends[0]["message_id"]
    picked = {"message_id": ends[1]["message_id"]}
    ann.client.put(f"/api/chat/conversations/{id}/path", json=picked).raise_for_status()
    assert talk(ann, id)["messages"][1]["model"] == TWO[1]


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"models": [MODEL, MODEL]}, 422, "one_model_twice"),
        ({"models": [MODEL, "nothing"]}, 404, "unknown_model"),
        ({"models": [MODEL]}, 422, None),
        ({"spend_limit": "50"}, 402, "over_spend_limit"),
    ],
)
def test_both_holds_or_none(ann: Person, more: dict[str, Any], status: int, code: str) -> None:
    refused = compared(ann, **more)
    assert refused.status_code == status, refused.text
    assert code is None or refused.json()["error"]["code"] == code
    nothing_held(ann)


def nothing_held(person: Person) -> None:
    balance = person.client.get("/api/billing/balance").json()
    assert balance["held"] == "0"
    assert person.client.get("/api/chat/conversations").json()["items"] == []
    assert person.client.get("/api/chat/status").json()["own_running"] == 0


def test_credits_for_one_model_place_no_hold(ann: Person) -> None:
    """The first would fit: it is taken back with the second, question and all."""
    spent = ann.ask(model=TWO[1]).json()["conversation_id"]
    ann.client.delete(f"/api/chat/conversations/{spent}").raise_for_status()
    assert ann.available() == "50"
    refused = compared(ann)
    assert refused.status_code == 402, refused.text
    nothing_held(ann)
    assert ann.available() == "50"


def test_a_temporary_chat_is_in_no_list_and_leaves_no_text(ann: Person) -> None:
    """The charge stays; the words go, when it is closed or after a day."""
    first = ann.ask("secret herons", temporary=True).json()
    id = first["conversation_id"]
    again = ann.ask("and eagles", conversation_id=id, temporary=True).json()
    assert again["usage"]["prompt_tokens"] == OWN + 2 + 8 + 2
    assert talk(ann, id)["temporary"] is True
    assert ann.client.get("/api/chat/conversations").json()["items"] == []
    assert ann.client.get("/api/chat/history", params={"q": "herons"}).json()["items"] == []
    exported = ann.client.get(f"/api/chat/conversations/{id}/export")
    assert (exported.status_code, exported.json()["error"]["code"]) == (409, "temporary_chat")
    mine = ann.client.get("/api/auth/me/export")
    assert b"herons" not in mine.content
    assert ann.client.delete(f"/api/chat/conversations/{id}").status_code == 204
    assert ann.client.get(f"/api/chat/conversations/{id}").status_code == 404
    assert ann.available() == "98"
    assert ann.client.get(f"/api/billing/receipts/{first['receipt_id']}").status_code == 200
    kept = ann.ask("kept").json()["conversation_id"]
    wrong = ann.ask("no", conversation_id=kept, temporary=True)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (422, "new_chats_alone")
