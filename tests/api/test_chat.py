"""Messages over HTTP: the events, following again, leaving, stopping, keys."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from chat_app.api import sse
from chat_app.flows import standing
from tests.api.conftest import MODEL, Person, Serve, Server

FULL = "".join(f"w{number} " for number in range(8))


def events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The named events of a stream; comments are skipped."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def stream(person: Person, **more: Any) -> list[tuple[str, dict[str, Any]]]:
    body = {"model": MODEL, "message": "hello there", "stream": True, **more}
    with person.client.stream("POST", "/api/chat/message", json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        return list(events(answer.iter_lines()))


def begin(person: Person, text: str = "hello there") -> str:
    """Start an answer, see its first words, and go away; returns the reply's id."""
    body = {"model": MODEL, "message": text, "stream": True}
    with person.client.stream("POST", "/api/chat/message", json=body) as answer:
        reply_id = ""
        for name, data in events(answer.iter_lines()):
            reply_id = data.get("reply_id", reply_id)
            if name == "delta":
                return reply_id
    raise AssertionError("no text came")


def follow(
    person: Person, reply_id: str, after: int | None = 0
) -> list[tuple[str, dict[str, Any]]]:
    params = {} if after is None else {"after": str(after)}
    with person.client.stream(
        "GET", f"/api/chat/replies/{reply_id}/events", params=params
    ) as answer:
        assert answer.status_code == 200
        return list(events(answer.iter_lines()))


def finished(person: Person, reply_id: str) -> dict[str, Any]:
    return follow(person, reply_id)[-1][1]


def test_an_answer_in_one_piece(ann: Person) -> None:
    answer = ann.ask().json()
    assert answer["content"] == FULL
    assert answer["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 8
    assert answer["charged"] == "1"
    assert answer["balance"] == {"total": "99", "held": "0", "available": "99", "debt": "0"}
    assert answer["cached"] is False
    assert answer["receipt_id"]
    assert "error" not in answer


def test_an_answer_in_events(ann: Person) -> None:
    """The contract's four events, and T17: streamed and whole answers cost the same."""
    came = stream(ann)
    assert [name for name, _ in came] == ["start", *["delta"] * 8, "done"]
    start, done = came[0][1], came[-1][1]
    assert start["maximum"] == "1"
    assert [data["index"] for _, data in came[1:-1]] == list(range(1, 9))
    assert "".join(data["text"] for _, data in came[1:-1]) == FULL
    whole = ann.ask().json()
    assert set(done) == set(whole)
    assert (done["content"], done["charged"]) == (whole["content"], whole["charged"])
    assert done["reply_id"] == start["reply_id"]
    assert ann.available() == "98"


def test_following_again_gives_the_rest(ann: Person) -> None:
    reply_id = ann.ask().json()["reply_id"]
    for after in (0, 3, 8, 1000):
        came = follow(ann, reply_id, after)
        assert [data["index"] for name, data in came if name == "delta"] == list(
            range(after + 1, 9)
        )
        assert came[-1][0] == "done"
        assert came[-1][1]["content"] == FULL


def test_a_browser_reconnects_by_last_event_id(ann: Person) -> None:
    reply_id = ann.ask().json()["reply_id"]
    for header, first in [("5", 6), ("junk", 1), ("", 1)]:
        answer = ann.client.get(
            f"/api/chat/replies/{reply_id}/events", headers={"Last-Event-ID": header}
        )
        came = list(events(iter(answer.text.splitlines())))
        assert came[0][1]["index"] == first


def test_leaving_changes_nothing(serve: Serve) -> None:
    """T9: a closed connection neither ends the answer nor makes it free."""
    person = serve(script={"tokens": 60, "tokens_per_second": 40}).person()
    reply_id = begin(person)
    status = person.client.get("/api/chat/status").json()
    assert status["running"] == [reply_id]
    came = follow(person, reply_id)
    assert came[-1][0] == "done"
    assert came[-1][1]["usage"]["completion_tokens"] == 60
    assert came[-1][1]["charged"] == "1"
    assert person.available() == "99"


def test_stopping_ends_an_answer_and_charges_it_once(slow: Server) -> None:
    """T11, T14: stop and disconnect race; one settlement, and the place is free at once."""
    person = slow.person()
    reply_id = begin(person)
    for _ in range(3):
        stopped = person.client.post(f"/api/chat/replies/{reply_id}/stop")
        assert stopped.status_code == 200
    end = finished(person, reply_id)
    assert end["finish_reason"] == "cancelled"
    assert 0 < end["usage"]["completion_tokens"] < 400
    assert person.available() == "99"
    assert person.client.get("/api/chat/status").json()["own_running"] == 0


def test_a_stranger_cannot_stop_or_read_a_running_answer(slow: Server) -> None:
    person, stranger = slow.person(), slow.person(admin=True)
    reply_id = begin(person)
    assert stranger.client.post(f"/api/chat/replies/{reply_id}/stop").status_code == 404
    assert stranger.client.get(f"/api/chat/replies/{reply_id}/events").status_code == 404
    assert stranger.client.get(f"/api/chat/replies/{reply_id}").status_code == 404
    assert person.client.get(f"/api/chat/replies/{reply_id}").json()["state"] == "running"
    person.client.post(f"/api/chat/replies/{reply_id}/stop")
    finished(person, reply_id)


@pytest.mark.parametrize("way", ["logout", "suspend"])
def test_an_open_stream_ends_when_the_sign_in_does(slow: Server, way: str) -> None:
    """Bar 7: within five seconds, and the answer itself goes on."""
    person, admin = slow.person(), slow.person(admin=True)
    body = {"model": MODEL, "message": "hello there", "stream": True}
    with person.client.stream("POST", "/api/chat/message", json=body) as answer:
        came = events(answer.iter_lines())
        reply_id = next(came)[1]["reply_id"]
        next(came)
        if way == "logout":
            person.client.post("/api/auth/logout")
        else:
            path = f"/api/admin/users/{person.id}"
            assert admin.client.patch(path, json={"suspended": True}).status_code == 200
        ended = time.monotonic()
        name, data = list(came)[-1]
        assert time.monotonic() - ended < 5
    assert (name, data["error"]["code"]) == ("error", "not_signed_in")
    assert slow.app.replies.get(reply_id) is not None
    live = slow.app.replies.get(reply_id)
    assert live is not None
    live.stop_wanted.set()


def test_a_silent_stream_says_that_it_is_alive(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy or a browser would give up on a line that stays silent."""
    monkeypatch.setattr(standing, "WAKE_SECONDS", 0.05)
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.1)
    person = serve(script={"fault": "hang_at:2"}).person()
    body = {"model": MODEL, "message": "hello there", "stream": True}
    with person.client.stream("POST", "/api/chat/message", json=body) as answer:
        lines = answer.iter_lines()
        reply_id = next(events(lines))[1]["reply_id"]
        beats = 0
        for line in lines:
            beats += line == ": still here"
            if beats == 3:
                break
    person.client.post(f"/api/chat/replies/{reply_id}/stop")
    assert finished(person, reply_id)["content"] == "w0 w1 "


def test_one_key_is_one_answer(ann: Person) -> None:
    """Bar 5, T12: twenty at once with one key make one charge."""
    answers: list[httpx.Response] = []
    barrier = threading.Barrier(20)

    def send() -> None:
        barrier.wait()
        answers.append(ann.ask(key="one-key"))

    threads = [threading.Thread(target=send) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} <= {200, 409}
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["error"]["code"] == "in_progress"
    again = ann.ask(key="one-key").json()
    assert {a.json()["reply_id"] for a in answers if a.status_code == 200} == {again["reply_id"]}
    assert again["charged"] == "1"
    assert ann.available() == "99"
    other = ann.ask("something else", key="one-key")
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")
    came = list(
        events(
            iter(
                ann.client.post(
                    "/api/chat/message",
                    json={"model": MODEL, "message": "hello there", "stream": True},
                    headers={"Idempotency-Key": "one-key"},
                ).text.splitlines()
            )
        )
    )
    assert came[0][1]["reply_id"] == again["reply_id"]
    assert came[-1][0] == "done"
    assert ann.available() == "99"


def test_a_key_belongs_to_one_person(ann: Person, bob: Person) -> None:
    first, second = ann.ask(key="shared").json(), bob.ask(key="shared").json()
    assert first["reply_id"] != second["reply_id"]


@pytest.mark.parametrize("key", ["", "x" * 201, "a b", "é"])
def test_strange_keys_are_refused(ann: Person, key: str) -> None:
    answer = ann.client.post(
        "/api/chat/message",
        json={"model": MODEL, "message": "hello"},
        headers={"Idempotency-Key": key.encode()},  # type: ignore[dict-item]
    )
    assert answer.status_code == 422
    assert ann.available() == "100"


def test_a_running_key_is_in_progress(slow: Server) -> None:
    person = slow.person()
    body = {"model": MODEL, "message": "hello there", "stream": True}
    headers = {"Idempotency-Key": "busy"}
    with person.client.stream("POST", "/api/chat/message", json=body, headers=headers) as answer:
        reply_id = next(events(answer.iter_lines()))[1]["reply_id"]
        again = person.client.post("/api/chat/message", json=body, headers=headers)
        assert again.status_code == 409
        assert again.json()["error"]["code"] == "in_progress"
        assert again.json()["error"]["reply_id"] == reply_id
        person.client.post(f"/api/chat/replies/{reply_id}/stop")


def test_refusals_come_before_the_stream_and_cost_nothing(ann: Person, bob: Person) -> None:
    """T6: a status and a body, never a 200 with an empty stream."""
    theirs = bob.ask().json()["conversation_id"]
    for changes, status, code in [
        ({"model": "no-such-model"}, 404, "unknown_model"),
        ({"message": "   "}, 422, "empty_message"),
        ({"message": "x" * 300_000}, 413, "message_too_long"),
        ({"conversation_id": theirs}, 404, "conversation_not_found"),
        ({"spend_limit": "0.5"}, 402, "over_spend_limit"),
        ({"max_tokens": 0}, 422, "invalid"),
        ({"temperature": 2.5}, 422, "invalid"),
        ({"stream": "yes"}, 422, "invalid"),
        ({"spend_limit": 0.5}, 422, "invalid"),
        ({"user_id": 1}, 422, "invalid"),
    ]:
        for streamed in (False, True):
            body = {"model": MODEL, "message": "hello", "stream": streamed, **changes}
            answer = ann.client.post("/api/chat/message", json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), changes
    assert ann.available() == "100"


def test_no_credits_no_answer(server: Server, root: Person) -> None:
    person = server.person()
    path = f"/api/admin/users/{person.id}/credits"
    took = root.client.post(path, json={"credits": "-99.5", "reason": "for a test"})
    assert took.json()["available"] == "0.5"
    for streamed in (False, True):
        answer = person.ask(stream=streamed)
        assert answer.status_code == 402
        facts = answer.json()["error"]
        assert (facts["needed"], facts["available"]) == ("1", "0.5")
        assert facts["hint"]
    assert person.available() == "0.5"


RATE_HEADERS = [
    *(f"ratelimit-{name}" for name in ("limit", "remaining", "reset")),
    *(f"x-ratelimit-{name}-requests" for name in ("limit", "remaining", "reset")),
]


def test_headers_tell_what_is_left_of_the_minute(serve: Serve) -> None:
    """On whatever a signed-in caller asks for, streams included; messages alone count."""
    server = serve(limits={"requests_per_minute": 70})
    person = server.person()
    assert server.client().get("/api/docs").headers.get("ratelimit-limit") is None
    first = person.client.get("/api/billing/balance").headers
    assert [first[name] for name in RATE_HEADERS] == ["70", "70", "0", "70", "70", "0s"]
    assert person.ask(key="one").headers["ratelimit-remaining"] == "69"
    assert person.ask(key="one").headers["ratelimit-remaining"] == "69"
    body = {"model": MODEL, "message": "two", "stream": True}
    with person.client.stream("POST", "/api/chat/message", json=body) as stream:
        assert stream.headers["ratelimit-remaining"] == "68"
        assert 50 <= int(stream.headers["ratelimit-reset"]) <= 60
    missing = person.client.get("/api/chat/replies/rep_missing")
    assert (missing.status_code, missing.headers["ratelimit-limit"]) == (404, "70")


def test_who_waits_for_others_is_told_so(serve: Serve) -> None:
    server = serve(script={"tokens": 400, "tokens_per_second": 40, "slots": 1})
    ann, bob = server.person(), server.person()
    first = begin(ann, "one")
    body = {"model": MODEL, "message": "two", "stream": True}
    with bob.client.stream("POST", "/api/chat/message", json=body) as stream:
        seen = events(stream.iter_lines())
        (_, start), (name, place) = next(seen), next(seen)
        assert (name, place["position"]) == ("queued", 1)
        assert place["expected_seconds"] >= 1
        bob.client.post(f"/api/chat/replies/{start['reply_id']}/stop")
        ends = [name for name, _ in seen]
    assert set(ends) <= {"queued", "done"}
    assert ends[-1] == "done"
    ann.client.post(f"/api/chat/replies/{first}/stop")


def test_limits_answer_429_with_a_time(serve: Serve) -> None:
    server = serve(
        script={"tokens": 400, "tokens_per_second": 40},
        limits={"running_per_user": 1, "waiting_per_user": 1, "requests_per_minute": 4},
    )
    person = server.person()
    running = [begin(person, "one")]
    body = {"model": MODEL, "message": "two", "stream": True}
    with person.client.stream("POST", "/api/chat/message", json=body) as waiting:
        running.append(next(events(waiting.iter_lines()))[1]["reply_id"])
        full = person.ask("three")
        assert (full.status_code, full.json()["error"]["code"]) == (429, "too_many_answers")
        assert int(full.headers["retry-after"]) >= 1
        person.ask("four")
        fast = person.ask("five")
        assert (fast.status_code, fast.json()["error"]["code"]) == (429, "rate_limited")
        assert 1 <= int(fast.headers["retry-after"]) <= 60
        told = {name: fast.headers[name] for name in RATE_HEADERS}
        assert (told["ratelimit-limit"], told["ratelimit-remaining"]) == ("4", "0")
        assert 1 <= int(told["ratelimit-reset"]) <= 60
        for name in ("limit", "remaining"):
            assert told[f"x-ratelimit-{name}-requests"] == told[f"ratelimit-{name}"]
        assert told["x-ratelimit-reset-requests"].endswith("s")
        (place,) = person.client.get("/api/chat/status").json()["queued"]
        assert (place["reply_id"], place["position"]) == (running[1], 1)
        for reply_id in reversed(running):
            person.client.post(f"/api/chat/replies/{reply_id}/stop")
    ends = [finished(person, reply_id) for reply_id in running]
    assert ends[1]["charged"] == "0"
    assert person.available() == "99"


@pytest.mark.parametrize(
    ("fault", "content"), [("error_at:0", ""), ("error_at:3", "w0 w1 w2 "), ("oom", "")]
)
def test_a_failed_answer_is_an_error_and_free(serve: Serve, fault: str, content: str) -> None:
    """T6, T10: a status, not a 200; error text is neither billed nor part of the answer."""
    server = serve(script={"fault": fault})
    person = server.person()
    answer = person.ask(key="failed")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    facts = answer.json()["error"]
    assert facts["type"] == "unavailable_error"
    assert facts["code"] == ("out_of_memory" if fault == "oom" else "engine_error")
    assert facts["charged"] == "0"
    kept = person.client.get(f"/api/chat/replies/{facts['reply_id']}").json()
    assert (kept["content"], kept["error"]["code"]) == (content, facts["code"])
    assert person.ask(key="failed").json() == answer.json()
    name, data = stream(person)[-1]
    assert (name, data["error"]["code"]) == ("error", facts["code"])
    assert person.available() == "100"


def test_conversations_are_kept_and_exported(ann: Person) -> None:
    first = ann.ask("What is 7 × 6?").json()
    id = first["conversation_id"]
    ann.ask("And half of it?", conversation_id=id)
    shown = ann.client.get(f"/api/chat/conversations/{id}").json()
    assert [message["role"] for message in shown["messages"]] == ["user", "assistant"] * 2
    assert [message["charged"] for message in shown["messages"]] == [None, "1", None, "1"]
    assert shown["running"] == []
    renamed = ann.client.patch(f"/api/chat/conversations/{id}", json={"title": "  Sums  "})
    assert renamed.json()["title"] == "Sums"
    listed = ann.client.get("/api/chat/conversations").json()
    assert [(row["id"], row["title"], row["message_count"]) for row in listed["items"]] == [
        (id, "Sums", 4)
    ]
    exported = ann.client.get(f"/api/chat/conversations/{id}/export")
    assert exported.headers["content-disposition"] == (
        f'attachment; filename="conversation-{id}.json"'
    )
    assert exported.json()["messages"][0]["content"] == "What is 7 × 6?"
    text = ann.client.get(f"/api/chat/conversations/{id}/export", params={"format": "md"})
    assert text.headers["content-type"].startswith("text/markdown")
    assert text.text.startswith("# Sums")
    assert ann.client.delete(f"/api/chat/conversations/{id}").status_code == 204
    assert ann.client.get(f"/api/chat/conversations/{id}").status_code == 404
    assert ann.client.get("/api/chat/history", params={"q": "half"}).json()["items"] == []


def test_retry_answers_the_last_question_again(ann: Person) -> None:
    id = ann.ask().json()["conversation_id"]
    again = ann.client.post(f"/api/chat/conversations/{id}/retry", json={})
    assert again.status_code == 200
    assert again.json()["conversation_id"] == id
    shown = ann.client.get(f"/api/chat/conversations/{id}").json()
    assert len(shown["messages"]) == 2
    assert ann.available() == "98"


def test_history_is_searched_and_paged(ann: Person) -> None:
    for number in range(3):
        ann.ask(f"needle {number} and 100% hay")
    found = ann.client.get("/api/chat/history", params={"q": "needle", "limit": 2}).json()
    assert len(found["items"]) == 2
    rest = ann.client.get(
        "/api/chat/history", params={"q": "needle", "limit": 2, "cursor": found["next_cursor"]}
    ).json()
    assert [item["snippet"] for item in rest["items"]] == ["needle 0 and 100% hay"]
    assert rest["next_cursor"] is None
    future = {"q": "needle", "from": "2100-01-01"}
    assert ann.client.get("/api/chat/history", params=future).json()["items"] == []
    wide = {"q": "needle", "from": "2020-01-01T00:00:00+01:00", "to": "2100-01-01T00:00:00Z"}
    assert len(ann.client.get("/api/chat/history", params=wide).json()["items"]) == 3
    url = "/api/chat/history?q=needle&from=2020-01-01T00:00:00+01:00"
    assert len(ann.client.get(url).json()["items"]) == 3
    for bad in ("yesterday", "2026-13-01", "1", "9999999-01-01"):
        answer = ann.client.get("/api/chat/history", params={"from": bad})
        assert answer.json()["error"]["code"] == "invalid_time"


def test_a_quote_is_kept(ann: Person) -> None:
    quote = ann.client.post(
        "/api/chat/quote", json={"model": MODEL, "message": "hello there"}
    ).json()
    assert quote["maximum"] == "1"
    assert quote["available"] == "100"
    assert set(quote) >= {"prompt_tokens", "likely", "maximum", "price_version"}
    assert ann.ask().json()["charged"] == quote["maximum"]
    models = ann.client.get("/api/chat/models").json()["items"]
    demo = next(model for model in models if model["id"] == MODEL)
    assert demo["price"]["version"] == quote["price_version"]
    assert demo["available"] is True


def test_a_cached_answer_says_so_everywhere(ann: Person) -> None:
    """In the answer, in its events, in the conversation and in the history; paid once each."""
    first = ann.ask("what is a quay", temperature=0).json()
    again = ann.ask("what is a quay", temperature=0).json()
    assert (first["cached"], again["cached"]) == (False, True)
    assert again["content"] == first["content"]
    assert again["charged"] == "1"
    assert again["usage"] == {**first["usage"], "cached_tokens": first["usage"]["prompt_tokens"]}
    assert finished(ann, again["reply_id"])["cached"] is True
    shown = ann.client.get(f"/api/chat/conversations/{again['conversation_id']}").json()
    assert [message["cached"] for message in shown["messages"]] == [False, True]
    hits = ann.client.get("/api/chat/history", params={"q": "w1"}).json()["items"]
    assert [hit["cached"] for hit in hits] == [True, False]
    assert ann.available() == "98"
    ledger = ann.client.get("/api/billing/transactions").json()["items"]
    charges = [row for row in ledger if row["reply_id"] == again["reply_id"]]
    assert [row["credits"] for row in charges] == ["-1"]


def test_the_same_key_never_meets_the_cache(ann: Person) -> None:
    """A repeated request is the first answer, not a cached one, and costs nothing more."""
    first = ann.ask("what is a pier", temperature=0, key="same").json()
    again = ann.ask("what is a pier", temperature=0, key="same").json()
    assert again["reply_id"] == first["reply_id"]
    assert again["cached"] is False
    assert ann.available() == "99"


def test_what_was_not_read_is_in_the_answer_and_in_the_conversation(serve: Serve) -> None:
    here = serve(script={"context_tokens": 60}).person()
    conversation = None
    for number in range(5):
        body = {"max_tokens": 8}
        if conversation:
            body["conversation_id"] = conversation
        answer = here.ask(f"{number} " + "word " * 9, **body).json()
        conversation = answer["conversation_id"]
    assert answer["dropped_messages"] >= 2
    shown = here.client.get(f"/api/chat/conversations/{conversation}").json()["messages"]
    assert shown[-1]["dropped_messages"] == answer["dropped_messages"]
    assert shown[1]["dropped_messages"] == 0
    assert here.ask("word " * 80).json()["error"]["code"] == "context_overflow"
