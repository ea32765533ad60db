"""`/v1` with OpenAI's own Python client, as it comes: answers, streams, refusals, money."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from sqlmodel import select

from chat_app.chat.tables import Conversation, Message, Reply
from chat_app.flows import erase
from tests.api.conftest import MODEL, Person, Serve, Server
from tests.api.test_images import sent

HELLO: list[Any] = [{"role": "user", "content": "hello there"}]
METERED = "gemma-3-1b-it"
EIGHT = "w0 w1 w2 w3 w4 w5 w6 w7 "


def client(server: Server, person: Person, **more: Any) -> OpenAI:
    """The official client with nothing but an address and a token."""
    key = person.tokens["access_token"]
    return OpenAI(base_url=f"{server.url}/v1", api_key=key, **{"max_retries": 0, **more})


def wait_for(found: Callable[[], bool]) -> None:
    """Until it is so; the test's own time limit ends what never comes."""
    while not found():
        time.sleep(0.02)


@pytest.fixture
def ai(server: Server, ann: Person) -> Iterator[OpenAI]:
    with client(server, ann) as made:
        yield made


@pytest.fixture(scope="module")
def ida(server: Server) -> Person:
    """Somebody who is only ever refused."""
    return server.person()


@pytest.fixture(scope="module")
def refusing(server: Server, ida: Person) -> Iterator[OpenAI]:
    with client(server, ida) as made:
        yield made


@contextmanager
def scripted(server: Server, **script: Any) -> Iterator[None]:
    """Answers of another kind for a while, by the same server."""
    engine: Any = server.app.engine.engine  # type: ignore[attr-defined]
    before = engine.script
    engine.script = before.model_copy(update=script)
    try:
        yield
    finally:
        engine.script = before


@pytest.fixture(scope="module")
def priced(server: Server, root: Person) -> None:
    """One credit for each token of METERED's answers."""
    price = {"model": METERED, "kind": "per_token", "input_per_million": 0, "confirm": True}
    made = root.client.post("/api/admin/prices", json=price | {"output_per_million": 1_000_000})
    assert made.status_code == 201, made.text


@pytest.fixture
def metered(server: Server, priced: None) -> Iterator[Server]:
    """Answers of 40 tokens at 40 a second, one credit a token."""
    with scripted(server, tokens=40, tokens_per_second=40):
        yield server


def test_an_answer_and_what_it_cost(ai: OpenAI, ann: Person) -> None:
    raw = ai.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
    answer = raw.parse()
    assert answer.choices[0].message.content == EIGHT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 2  # the model reads what was sent and nothing else
    assert (answer.usage.completion_tokens, answer.usage.total_tokens) == (8, 10)
    assert raw.headers["x-credits-charged"] == "1"
    assert raw.headers["x-credits-available"] == ann.available() == "99"
    assert raw.headers["x-request-id"] == answer.id == answer._request_id
    kept = ann.client.get(f"/api/chat/replies/{answer.id}").json()
    assert (kept["content"], kept["charged"]) == (EIGHT, "1")


def test_a_stream_costs_what_the_whole_costs(ai: OpenAI, ann: Person) -> None:
    """T17: stream and non-stream of one seed cost the same."""
    asked: dict[str, Any] = {"model": MODEL, "messages": HELLO, "seed": 7, "temperature": 1}
    whole = ai.chat.completions.create(**asked)
    chunks = list(
        ai.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == EIGHT
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1
    last = chunks[-1]
    assert last.choices == []
    assert last.usage == whole.usage or last.usage is not None
    assert (last.model_extra or {})["credits"]["charged"] == "1"
    rows = ann.client.get("/api/billing/transactions", params={"type": "message"}).json()["items"]
    assert [row["credits"] for row in rows] == ["-1", "-1"]


def test_async_client(server: Server, ann: Person) -> None:
    async def talk() -> tuple[str, list[str]]:
        key = ann.tokens["access_token"]
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key) as ai:
            whole = await ai.chat.completions.create(model=MODEL, messages=HELLO)
            stream = await ai.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
            return whole.choices[0].message.content or "", [
                chunk.choices[0].delta.content or "" async for chunk in stream
            ]

    whole, pieces = asyncio.run(talk())
    assert whole == "".join(pieces) == EIGHT


def test_the_clients_stream_helper(ai: OpenAI) -> None:
    with ai.chat.completions.stream(model=MODEL, messages=HELLO) as events:
        pieces = [event.delta for event in events if event.type == "content.delta"]
        done = events.get_final_completion()
    assert "".join(pieces) == EIGHT
    assert done.choices[0].message.content == EIGHT


def test_models(ai: OpenAI) -> None:
    listed = {model.id for model in ai.models.list()}
    assert {"gemma-3-1b-it", "gemma-3-12b-it", MODEL} <= listed
    one = ai.models.retrieve(MODEL)
    assert (one.object, one.owned_by) == ("model", "ml-chat-billing")
    assert (one.model_extra or {})["price"]["per_message"] == "1"
    with pytest.raises(openai.NotFoundError) as missing:
        ai.models.retrieve("gpt-4o")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_length(ai: OpenAI, field: str) -> None:
    more: dict[str, Any] = {field: 3}
    answer = ai.chat.completions.create(model=MODEL, messages=HELLO, **more)
    assert answer.choices[0].message.content == "w0 w1 w2 "
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize(("stop", "text"), [("w3", "w0 w1 w2 "), (["zz", "w1 w2"], "w0 ")])
def test_stop(ai: OpenAI, stop: Any, text: str) -> None:
    answer = ai.chat.completions.create(model=MODEL, messages=HELLO, stop=stop)
    assert answer.choices[0].message.content == text
    assert answer.choices[0].finish_reason == "stop"


def test_sampling_reaches_the_engine(server: Server, ai: OpenAI) -> None:
    seen = []
    submit = server.app.engine.submit

    def watched(request: Any) -> Any:
        seen.append(request)
        return submit(request)

    server.app.engine.submit = watched  # type: ignore[method-assign]
    try:
        ai.chat.completions.create(
            model="gemma-3-1b-it",
            messages=[
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": "one"}]},
                {"role": "user", "content": "two"},
                {"role": "assistant", "content": "three"},
                {"role": "developer", "content": "be kind"},
                {"role": "user", "content": "four"},
            ],
            temperature=0.25,
            top_p=0.5,
            seed=11,
            stop=["a", "b"],
        )
    finally:
        server.app.engine.submit = submit  # type: ignore[method-assign]
    (request,) = seen
    assert [(turn.role, turn.content) for turn in request.messages] == [
        ("system", "be brief\n\nbe kind"),
        ("user", "one\n\ntwo"),
        ("assistant", "three"),
        ("user", "four"),
    ]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.25, 0.5, 11)
    assert request.stop == ("a", "b")


def test_an_answer_can_be_sent_back(ai: OpenAI) -> None:
    """What programs do to go on: append the client's own message object."""
    first = ai.chat.completions.create(model=MODEL, messages=HELLO)
    talk: list[Any] = [*HELLO, first.choices[0].message, *HELLO]
    second = ai.chat.completions.create(model=MODEL, messages=talk)
    assert second.usage is not None
    assert second.usage.prompt_tokens == 2 + 8 + 2


def test_images_are_seen_and_priced(ai: OpenAI, ann: Person) -> None:
    url = f"data:image/png;base64,{sent()['data']}"
    shown: list[Any] = [
        {"type": "text", "text": "what is this"},
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
    ]
    talk: list[Any] = [
        {"role": "user", "content": shown},
        {"role": "assistant", "content": "a picture"},
        {"role": "user", "content": "sure?"},
    ]
    answer = ai.chat.completions.create(model="gemma-3-4b-it", messages=talk)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3 + 260 + 2 + 1
    assert (answer.model_extra or {})["credits"]["charged"] == "30"  # 25 and 5 for the image
    with pytest.raises(openai.BadRequestError) as blind:
        ai.chat.completions.create(model=MODEL, messages=talk)
    assert blind.value.code == "model_cannot_see"
    assert ann.available() == "70"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/a.png",
        "https://example.org/a.png",
        "file:///etc/passwd",
        "data:text/html;base64,AAAA",
        "data:image/png;base64,%%%",
        "data:image/svg+xml;base64,AAAA",
    ],
)
def test_no_outside_image_is_fetched(refusing: OpenAI, url: str) -> None:
    shown: list[Any] = [{"type": "image_url", "image_url": {"url": url}}]
    with pytest.raises(openai.BadRequestError) as refused:
        refusing.chat.completions.create(
            model="gemma-3-4b-it", messages=[{"role": "user", "content": shown}]
        )
    assert refused.value.code == "outside_image"
    assert refused.value.param == "messages.0.content.0.image_url.url"


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"n": 2}, "n"),
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"frequency_penalty": -1}, "frequency_penalty"),
    ({"logprobs": True}, "logprobs"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"tools": [TOOL]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"temperature": 2.5}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"seed": 2**63}, "seed"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "assistant", "content": "hi"}]}, "messages"),
    ({"messages": [{"role": "system", "content": "hi"}]}, "messages"),
    ({"messages": [*HELLO, {"role": "assistant", "content": "hi"}]}, "messages"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0"),
]


@pytest.mark.parametrize(("more", "param"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_not_offered_is_refused_by_name(
    refusing: OpenAI, ida: Person, more: dict[str, Any], param: str
) -> None:
    """A field that cannot be honoured is never left out in silence."""
    with pytest.raises(openai.BadRequestError) as refused:
        refusing.chat.completions.create(**{"model": MODEL, "messages": HELLO, **more})
    assert refused.value.type == "invalid_request_error"
    assert str(refused.value.param).startswith(param)
    assert ida.available() == "100"


def test_fields_that_change_nothing_are_accepted(ai: OpenAI) -> None:
    answer = ai.chat.completions.create(
        model=MODEL, messages=HELLO, n=1, presence_penalty=0, frequency_penalty=0.0, user="me",
        response_format={"type": "text"}, logprobs=False, store=False, metadata={"a": "b"},
        tools=[], stop=None, seed=None, service_tier="auto",
    )  # fmt: skip
    assert answer.choices[0].message.content == EIGHT


def test_refusals_are_the_clients_own_errors(server: Server, ai: OpenAI, ann: Person) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        ai.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.AuthenticationError) as stranger:
        OpenAI(base_url=f"{server.url}/v1", api_key="nonsense", max_retries=0).models.list()
    assert stranger.value.code == "invalid_api_key"
    with pytest.raises(openai.APIStatusError) as broke:
        ai.chat.completions.create(
            model="gemma-3-12b-it", messages=HELLO, extra_body={"payer": "org:999"}
        )
    assert broke.value.status_code == 404
    for _ in range(2):
        ai.chat.completions.create(model="gemma-3-12b-it", messages=HELLO)
    with pytest.raises(openai.APIStatusError) as empty:
        ai.chat.completions.create(model="gemma-3-12b-it", messages=HELLO, stream=True)
    assert empty.value.status_code == 402
    assert (empty.value.type, empty.value.code) == ("insufficient_quota", "insufficient_quota")
    facts: Any = empty.value.body
    assert (facts["needed"], facts["available"]) == ("50", "0")
    assert facts["reason"]
    assert empty.value.request_id


def test_no_credits_are_not_tried_again(server: Server, ann: Person) -> None:
    """402 and 429 are different things: one needs a person, the other a moment."""
    ai = client(server, ann, max_retries=3)
    for _ in range(2):
        ai.chat.completions.create(model="gemma-3-12b-it", messages=HELLO)
    tried = []
    ai._client.event_hooks["response"].append(lambda answer: tried.append(answer.status_code))
    with pytest.raises(openai.APIStatusError):
        ai.chat.completions.create(model="gemma-3-12b-it", messages=HELLO)
    assert tried == [402]


def test_the_client_waits_and_tries_again_after_429(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowded = serve(
        limits={"running_per_user": 1, "waiting_per_user": 0, "queue_total": 1},
        script={"tokens": 400, "tokens_per_second": 40},
    )
    ann, bob = crowded.person(), crowded.person()
    first = client(crowded, ann).chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    next(iter(first))
    with pytest.raises(openai.RateLimitError) as busy:
        client(crowded, bob).chat.completions.create(model=MODEL, messages=HELLO)
    told = int(busy.value.response.headers["retry-after"])
    waited = []

    class Clock:
        """The client's clock, which does not really sleep."""

        time = staticmethod(time.time)

        def sleep(self, seconds: float) -> None:
            waited.append(seconds)
            first.close()
            wait_for(lambda: len(crowded.app.replies) == 0)

    patient = client(crowded, bob, max_retries=1)
    monkeypatch.setattr("openai._base_client.time", Clock())
    with patient.chat.completions.create(model=MODEL, messages=HELLO, stream=True) as stream:
        next(iter(stream))
    assert waited
    assert waited[0] >= told >= 1


def test_a_key_gives_the_stored_answer_again(ai: OpenAI, ann: Person) -> None:
    headers = {"Idempotency-Key": "once"}
    asked: dict[str, Any] = {"model": MODEL, "messages": HELLO, "extra_headers": headers}
    first = ai.chat.completions.create(**asked)
    again = ai.chat.completions.create(**asked)
    assert (first.id, first.choices, first.usage) == (again.id, again.choices, again.usage)
    streamed = ai.chat.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == EIGHT
    assert ann.available() == "99"
    with pytest.raises(openai.ConflictError) as other:
        ai.with_options(max_retries=2).chat.completions.create(**asked | {"seed": 1})
    assert other.value.code == "idempotency_conflict"
    assert other.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(openai.ConflictError):
        ai.chat.completions.create(**asked | {"messages": [{"role": "user", "content": "no"}]})


def test_it_leaves_no_conversation_and_the_texts_go_after_a_day(
    server: Server, ai: OpenAI, ann: Person
) -> None:
    said = "a question that nobody may find"
    url = f"data:image/png;base64,{sent()['data']}"
    shown: list[Any] = [
        {"type": "text", "text": said},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    answer = ai.chat.completions.create(
        model="gemma-3-4b-it", messages=[{"role": "user", "content": shown}]
    )
    assert ann.client.get("/api/chat/conversations").json()["items"] == []
    assert ann.client.get("/api/chat/history", params={"q": "question"}).json()["items"] == []
    assert ann.client.get("/api/chat/history", params={"q": "w0"}).json()["items"] == []
    with server.app.db.read() as session:
        reply = session.get(Reply, answer.id)
        assert reply is not None
        talk = session.get(Conversation, reply.conversation_id)
        assert talk is not None
        assert talk.deleted_at == talk.created_at + 24 * 3600 * 1_000_000
        rows = session.exec(select(Message).where(Message.conversation_id == talk.id)).all()
        assert {row.content for row in rows} == {"", EIGHT}
        talk_id = talk.id

    def make_due(session: Any) -> None:
        session.get(Conversation, talk_id).deleted_at = 1

    folder = server.app.settings.data_dir / "images" / ann.id
    assert len(list(folder.iterdir())) == 1
    server.app.db.write(make_due)
    assert erase.forget_programs_texts(server.app) == 1
    assert erase.forget_programs_texts(server.app) == 0
    kept = ann.client.get(f"/api/chat/replies/{answer.id}").json()
    assert (kept["content"], kept["charged"]) == ("", "30")
    assert list(folder.iterdir()) == []


def test_a_left_stream_is_stopped_and_paid_to_the_token(metered: Server) -> None:
    """T9, T11, T14: leaving a stream ends the answer, one settlement, what was produced is paid."""
    ann = metered.person()
    with client(metered, ann) as ai:
        with ai.chat.completions.create(
            model=METERED, messages=HELLO, max_tokens=40, stream=True
        ) as stream:
            seen = [chunk for _, chunk in zip(range(5), stream, strict=False)]
        wait_for(lambda: not metered.app.replies.get(seen[0].id))
    ended = ann.client.get(f"/api/chat/replies/{seen[0].id}").json()
    produced = ended["usage"]["completion_tokens"]
    assert 4 <= produced < 40
    assert (ended["finish_reason"], ended["charged"]) == ("cancelled", str(produced))
    assert ended["content"] == "".join(f"w{number} " for number in range(produced))
    assert ann.available() == str(100 - produced)
    charges = ann.client.get("/api/billing/transactions", params={"type": "message"}).json()
    assert len(charges["items"]) == 1


def test_a_left_request_is_stopped_and_paid_to_the_token(metered: Server) -> None:
    """T9 for an answer in one piece, whose client cannot wait that long."""
    ann = metered.person()
    with client(metered, ann, timeout=0.4) as ai, pytest.raises(openai.APITimeoutError):
        ai.chat.completions.create(model=METERED, messages=HELLO, max_tokens=40)
    wait_for(lambda: len(metered.app.replies) == 0)
    with metered.app.db.read() as session:
        (row,) = session.exec(select(Reply).where(Reply.user_id == int(ann.id))).all()
    assert row.finish_reason == "cancelled"
    assert 0 < row.completion_tokens < 40
    assert row.charged == row.completion_tokens * 1_000_000
    assert ann.available() == str(100 - row.completion_tokens)


def test_with_a_key_it_is_written_to_its_end(metered: Server) -> None:
    """T12: who comes back with the same key gets the whole answer, charged once."""
    ann = metered.person()
    headers = {"Idempotency-Key": "later"}
    asked: dict[str, Any] = {
        "model": METERED,
        "messages": HELLO,
        "max_tokens": 40,
        "extra_headers": headers,
    }
    with client(metered, ann, timeout=0.4) as ai, pytest.raises(openai.APITimeoutError):
        ai.chat.completions.create(**asked)
    ai = client(metered, ann)
    with pytest.raises(openai.ConflictError) as early:
        ai.chat.completions.create(**asked)
    assert early.value.code == "in_progress"
    wait_for(lambda: len(metered.app.replies) == 0)
    answer = ai.chat.completions.create(**asked)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 40
    assert ann.available() == "60"


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_at_once_has_a_status_and_is_free(
    server: Server, ai: OpenAI, ann: Person, stream: bool
) -> None:
    """T6, T10: nothing is charged for an error, and its text is no answer."""
    with scripted(server, fault="oom"), pytest.raises(openai.InternalServerError) as failed:
        ai.chat.completions.create(model=MODEL, messages=HELLO, stream=stream)
    assert failed.value.status_code == 503
    assert failed.value.code == "out_of_memory"
    assert failed.value.response.headers["retry-after"]
    assert ann.available() == "100"


def test_a_failure_within_a_stream_is_an_error_of_the_stream(
    server: Server, ai: OpenAI, ann: Person
) -> None:
    seen: list[str] = []
    with scripted(server, fault="error_at:4"), pytest.raises(openai.APIError) as failed:
        seen.extend(
            chunk.choices[0].delta.content or ""
            for chunk in ai.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        )
    assert "".join(seen) == "w0 w1 w2 w3 "
    assert failed.value.code == "engine_error"
    assert ann.available() == "100"


def test_a_list_that_does_not_fit(server: Server, ai: OpenAI) -> None:
    talk: list[Any] = [
        {"role": role, "content": "some words of it"} for role in ("user", "assistant") * 4
    ]
    with scripted(server, context_tokens=20):
        with pytest.raises(openai.BadRequestError) as long:
            ai.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "a " * 40}]
            )
        answer = ai.chat.completions.create(model=MODEL, messages=[*talk, *HELLO])
    assert long.value.code == "context_length_exceeded"
    assert (answer.model_extra or {})["credits"]["dropped_messages"] > 0


def test_an_organisation_pays(ai: OpenAI, ann: Person, root: Person) -> None:
    gift = root.client.post(
        f"/api/admin/users/{ann.id}/credits", json={"credits": 10, "reason": "a present"}
    )
    gift.raise_for_status()
    org = ann.client.post("/api/orgs", json={"name": "Harbour Ltd"}).json()["id"]
    ann.client.post(f"/api/orgs/{org}/fund", json={"credits": 10}).raise_for_status()
    raw = ai.chat.completions.with_raw_response.create(
        model=MODEL, messages=HELLO, extra_headers={"X-Payer": f"org:{org}"}
    )
    assert raw.headers["x-credits-available"] == "9"
    assert ann.available() == "100"


def test_comments_keep_a_silent_stream_alive(
    server: Server, ann: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client's and a proxy's patience is not the engine's: the stream speaks meanwhile."""
    from chat_app.api import openai as route
    from chat_app.api import sse
    from chat_app.flows import standing

    monkeypatch.setattr(standing, "WAKE_SECONDS", 0.1)
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(route, "FIRST_SECONDS", 0.1)
    body = {"model": MODEL, "messages": HELLO, "stream": True}
    with (
        scripted(server, first_token_ms=800),
        ann.client.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        lines = [line for line in answer.iter_lines() if line]
    assert isinstance(answer, httpx.Response)
    assert ": still here" in lines
    assert lines[-1] == "data: [DONE]"
