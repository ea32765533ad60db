"""Servers that misbehave: every fault has its code, and only what was delivered is counted."""

import asyncio
import base64
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from chat_app import settings
from chat_app.llm import build, cards, catalogue
from chat_app.llm.engine import ChatMessage, Delta, Event, Image, Sampling
from chat_app.llm.servers import Servers
from chat_app.settings import Llm, SettingsError
from tests.llm.conftest import (
    DEMO,
    Stage,
    check_protocol,
    done,
    failed,
    started,
    text_of,
    tokens_of,
)

KEY = "sk-a-secret-of-the-test"


class Odd(ThreadingHTTPServer):
    """A server that speaks the protocol, until `behave` is replaced by something worse."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, *, owner: str = "somebody", model: str = DEMO, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.owner = owner
        self.model = model
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.left = threading.Event()
        self.behave: Callable[[_Handler], None] = lambda handler: handler.answer("a b c")
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.left.set()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Odd

    def log_message(self, *_args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.keys.append(self.headers["Authorization"])
        model = {"id": self.server.model, "owned_by": self.server.owner, "max_model_len": 2048}
        self.json({"data": [model]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            self.json({"count": 7})
            return
        self.server.asked.append(body)
        self.server.behave(self)

    def json(self, body: Any, status: int = 200, **headers: str) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()

    def say(self, data: Any) -> None:
        text = data if isinstance(data, str) else json.dumps(data)
        self.wfile.write(f"data: {text}\n\n".encode())
        self.wfile.flush()

    def pieces(self, *texts: str) -> None:
        for text in texts:
            self.say({"choices": [{"delta": {"content": text}, "finish_reason": None}]})

    def close(self, completion_tokens: int | None = None) -> None:
        self.say({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        if completion_tokens is not None:
            usage = {"prompt_tokens": 5, "completion_tokens": completion_tokens}
            self.say({"choices": [], "usage": usage})
        self.say("[DONE]")

    def answer(self, text: str, completion_tokens: int | None = None) -> None:
        self.stream()
        self.pieces(*(f"{word} " for word in text.split()))
        self.close(completion_tokens)


@contextmanager
def odd_stage(*servers: Odd, **remote: Any) -> Iterator[Stage]:
    values = {
        "connect_seconds": 1,
        "first_token_seconds": 0.5,
        "idle_seconds": 0.5,
        "open_seconds": 0.1,
    } | remote
    llm = {
        "engine": "remote",
        "remote_url": " ".join(server.url for server in servers),
        "remote": {"api_key": KEY} | values,
    }
    made = Stage(build.create(settings.load(llm=llm)), DEMO)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def odd() -> Iterator[Odd]:
    server = Odd()
    yield server
    server.stop()


@pytest.fixture
def other() -> Iterator[Odd]:
    server = Odd()
    yield server
    server.stop()


@pytest.fixture
def here(odd: Odd) -> Iterator[Stage]:
    with odd_stage(odd) as made:
        yield made


def status(code: int, **headers: str) -> Callable[[_Handler], None]:
    said = {"error": {"message": "<b>SECRET</b> of the server"}}
    return lambda handler: handler.json(said, code, **headers)


def hangs(handler: _Handler) -> None:
    time.sleep(1.5)


def pings(handler: _Handler) -> None:
    handler.stream()
    for _ in range(15):
        handler.wfile.write(b": still here\n\n")
        time.sleep(0.1)


def garbage(handler: _Handler) -> None:
    handler.stream()
    handler.say("{not json")


def no_object(handler: _Handler) -> None:
    handler.stream()
    handler.say([1, 2])


def odd_shape(handler: _Handler) -> None:
    handler.stream()
    handler.say({"choices": [{"delta": {"content": {"a": 1}}}]})


def huge(handler: _Handler) -> None:
    handler.stream()
    handler.pieces("x" * 400_000)
    handler.close()


def endless(handler: _Handler) -> None:
    handler.stream()
    for _ in range(100):
        handler.wfile.write(b": " + b"x" * 100_000 + b"\n")


def error_in_the_stream(handler: _Handler) -> None:
    handler.stream()
    handler.say({"error": {"message": "SECRET"}})


def nothing(handler: _Handler) -> None:
    handler.stream()


@pytest.mark.parametrize(
    ("behave", "code"),
    [
        (hangs, "engine_stalled"),
        (pings, "engine_stalled"),
        (status(500), "engine_crashed"),
        (status(503), "model_not_available"),
        (status(429, **{"Retry-After": "1"}), "model_not_available"),
        (status(401), "model_not_available"),
        (status(404), "model_not_available"),
        (status(302, Location="http://127.0.0.1:9/"), "model_not_available"),
        (status(400), "engine_error"),
        (garbage, "engine_error"),
        (no_object, "engine_error"),
        (odd_shape, "engine_error"),
        (huge, "engine_error"),
        (endless, "engine_error"),
        (error_in_the_stream, "engine_crashed"),
        (nothing, "engine_crashed"),
    ],
)
def test_a_fault_before_the_first_token_has_its_code_and_costs_nothing(
    odd: Odd, here: Stage, behave: Callable[[_Handler], None], code: str
) -> None:
    odd.behave = behave
    events = here.answer(max_tokens=20)
    check_protocol(events)
    assert failed(events).code == code
    assert failed(events).usage.completion_tokens == failed(events).usage.prompt_tokens == 0
    assert "SECRET" not in failed(events).message
    odd.behave = lambda handler: handler.answer("fine")
    here.run(ready(here))
    assert text_of(here.answer()) == "fine "


async def ready(here: Stage) -> None:
    """The servers are checked again, as happens every few seconds, until one is well."""
    servers = here.engine.engine._servers  # type: ignore[attr-defined]
    while True:
        servers._checked = 0.0
        await servers.refresh()
        if servers.can(catalogue.get(here.model)):
            return
        await asyncio.sleep(0.05)


def breaks(handler: _Handler) -> None:
    handler.stream()
    handler.pieces("a ", "b ", "c ", "d ")


def stalls(handler: _Handler) -> None:
    breaks(handler)
    time.sleep(1.5)


def breaks_with_an_error(handler: _Handler) -> None:
    breaks(handler)
    handler.say({"error": "out of luck"})


@pytest.mark.parametrize(
    ("behave", "code"),
    [
        (breaks, "engine_crashed"),
        (stalls, "engine_stalled"),
        (breaks_with_an_error, "engine_crashed"),
    ],
)
def test_a_fault_in_the_middle_keeps_what_came_and_asks_nobody_else(
    odd: Odd, other: Odd, behave: Callable[[_Handler], None], code: str
) -> None:
    odd.behave = other.behave = behave
    with odd_stage(odd, other) as here:
        events = here.answer(max_tokens=20)
    check_protocol(events)
    assert failed(events).code == code
    assert text_of(events) == "a b c "  # the newest piece is still held back
    assert failed(events).usage.completion_tokens == 3
    assert len(odd.asked) + len(other.asked) == 1


def test_another_server_is_asked_before_the_first_token(odd: Odd, other: Odd) -> None:
    odd.behave = status(500)
    with odd_stage(odd, other, open_seconds=60) as here:
        for number in range(24):
            events = here.answer(user_scope=f"u{number}")
            check_protocol(events)
            assert text_of(events) == "a b c "
    assert len(odd.asked) == 3  # then it is left out
    assert len(other.asked) == 24


def test_no_server_at_all_is_said_clearly(odd: Odd) -> None:
    with odd_stage(odd) as here:
        assert text_of(here.answer()) == "a b c "
        odd.stop()
        for _ in range(2):
            events = here.answer()
            check_protocol(events)
            assert failed(events).code == "model_not_available"
        assert here.engine.state(DEMO).state == "broken"
        assert "Try again" in here.engine.state(DEMO).reason
    with odd_stage(odd) as here:
        events = here.answer()
        assert failed(events).code == "model_not_available"


def test_a_server_without_the_model_is_said_clearly() -> None:
    server = Odd(model="something-else")
    try:
        with odd_stage(server) as here:
            events = here.answer()
            assert failed(events).code == "model_not_available"
            assert "model_names" in failed(events).message
        with odd_stage(server, model_names={DEMO: "something-else"}) as here:
            assert text_of(here.answer()) == "a b c "
            assert server.asked[0]["model"] == "something-else"
    finally:
        server.stop()


def test_auto_asks_a_server_for_what_it_serves_and_for_nothing_else(odd: Odd) -> None:
    llm = {"remote_url": odd.url}
    made = Stage(build.create(settings.load(llm=llm)), DEMO)
    try:
        made.run(ready(made))
        assert text_of(made.answer()) == "a b c "
        assert made.engine.state(DEMO).backend == "remote"
        assert "because a configured server serves it" in made.engine.why(DEMO)
        assert made.engine.state("gemma-3-12b-it").state == "not_downloaded"
    finally:
        made.close()


@pytest.mark.parametrize(
    ("claimed", "counted", "believed"),
    [
        (None, 3, False),
        (3, 3, True),
        (7, 7, True),
        (1, 3, False),
        (10**9, 3, False),
        (-5, 3, False),
        ("many", 3, False),
        (True, 3, False),
        (float("nan"), 3, False),
    ],
)
def test_usage_is_the_servers_where_it_can_be_true(
    odd: Odd,
    here: Stage,
    caplog: pytest.LogCaptureFixture,
    claimed: Any,
    counted: int,
    *,
    believed: bool,
) -> None:
    """Never beyond the limit, never below what came; what is not believed is noted."""
    odd.behave = lambda handler: handler.answer("a b c", claimed)
    events = here.answer(max_tokens=12)
    check_protocol(events)
    assert done(events).usage.completion_tokens == counted
    assert done(events).usage.counted_here is not believed
    (server,) = here.engine.stats()["servers"]
    odd_claim = claimed is not None and not believed
    assert server["odd_usage_total"] == odd_claim
    said = type(claimed) is int and claimed >= 0
    assert server["answers_counted_here_total"] == (not said)
    assert ("is not believed" in caplog.text) is odd_claim


@pytest.mark.parametrize("claimed", [10**9, -1, "much", float("inf")])
def test_a_prompt_is_never_longer_than_it_was_counted_here(
    odd: Odd, here: Stage, claimed: Any
) -> None:
    """T3: the hold was made for what was counted."""

    def lies(handler: _Handler) -> None:
        handler.stream()
        handler.say({"choices": [], "usage": {"prompt_tokens": claimed, "completion_tokens": 0}})
        handler.pieces("a")
        handler.close(1)

    odd.behave = lies
    events = here.answer("Hello!")
    check_protocol(events)
    assert started(events).prompt_tokens == len("Hello!") + 8
    assert done(events).usage.counted_here


def state_of(here: Stage, number: int = 0) -> str:
    return str(here.engine.stats()["servers"][number]["state"])


def test_after_three_failures_nobody_is_sent_there_until_one_token_came(
    odd: Odd, here: Stage
) -> None:
    """Half open: the token is asked for by us; nobody's answer is the experiment."""
    assert state_of(here) in ("unknown", "down", "up")
    odd.behave = status(500)
    for number in range(3):
        assert failed(here.answer()).code == "engine_crashed"
        assert state_of(here) == ("open" if number == 2 else "up")
    (seen,) = here.engine.stats()["servers"]
    assert (seen["left_out"], seen["failures_total"]) == ([DEMO], 3)
    assert seen["last_failure"] == "engine_crashed"
    assert here.engine.state(DEMO).state == "broken"

    async def asked_again() -> None:
        while len(odd.asked) < 4:
            await asyncio.sleep(0.05)

    here.run(asked_again())
    assert all(body["max_tokens"] == 1 for body in odd.asked[3:])
    assert state_of(here) in ("open", "half_open")
    before = len(odd.asked)
    assert failed(here.answer()).code == "model_not_available"
    assert len([body for body in odd.asked[before:] if body["max_tokens"] != 1]) == 0
    odd.behave = lambda handler: handler.answer("fine")
    here.run(ready(here))
    assert text_of(here.answer()) == "fine "
    (seen,) = here.engine.stats()["servers"]
    assert (seen["state"], seen["left_out"], seen["failures_in_row"]) == ("up", [], 0)


def test_a_server_that_hangs_costs_one_person_the_wait(odd: Odd, other: Odd) -> None:
    odd.behave = hangs
    with odd_stage(odd, other, open_seconds=60) as here:
        for number in range(24):
            assert text_of(here.answer(user_scope=f"u{number}")) == "a b c "
        assert sorted(server["state"] for server in here.engine.stats()["servers"]) == [
            "open",
            "up",
        ]
    assert len(odd.asked) == 1


def test_a_circuit_is_one_models(odd: Odd, here: Stage) -> None:
    """What one model of a server cannot, says nothing about its others."""
    servers = Servers(Llm(remote_url=odd.url))
    server = servers.servers[0]
    demo, gemma = catalogue.get(DEMO), catalogue.get("gemma-3-1b-it")
    server.up, server.models = True, {DEMO: 0, gemma.id: 0}
    for _ in range(3):
        servers.failed(server, DEMO, "engine_crashed", "counts", "status 500")
    assert not servers.can(demo)
    assert servers.can(gemma)
    assert servers.view()[0]["left_out"] == [DEMO]


def test_a_server_that_died_is_another_one_when_it_is_back(odd: Odd, here: Stage) -> None:
    """All its answers broke off at once, which is no reason to leave the new process out."""
    servers = here.engine.engine._servers  # type: ignore[attr-defined]
    here.run(ready(here))
    server = servers.servers[0]
    for _ in range(5):
        servers.failed(server, DEMO, "engine_crashed", "counts", "it broke off")
    assert state_of(here) == "open"
    server.circuits[DEMO].open_until += 1000
    server.up, server.vanished = False, True
    here.run(ready(here))
    assert state_of(here) == "up"


def test_a_slow_server_does_not_hold_up_a_start(
    odd: Odd, other: Odd, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = _Handler.do_GET

    def slow(handler: _Handler) -> None:
        if handler.server is odd:
            time.sleep(6)
        look(handler)

    monkeypatch.setattr(_Handler, "do_GET", slow)
    began = time.monotonic()
    with odd_stage(odd, other) as here:
        assert text_of(here.answer()) == "a b c "
        assert time.monotonic() - began < 5, "nobody waits for the slow one"


def test_a_conversation_stays_at_its_server_and_a_persons_are_spread(odd: Odd, other: Odd) -> None:
    def turns(number: int, count: int) -> tuple[ChatMessage, ...]:
        told = [ChatMessage("system", "Be brief."), ChatMessage("user", f"Topic {number}")]
        for turn in range(count):
            told += [ChatMessage("assistant", "Yes."), ChatMessage("user", f"And {turn}?")]
        return tuple(told)

    with odd_stage(odd, other) as here:
        used = []
        for number in range(12):
            for count in range(2):
                before = len(odd.asked)
                request = here.request(messages=turns(number, count), user_scope="one")
                here.run(here.events(request))
                used.append(len(odd.asked) - before)
    assert used[::2] == used[1::2]
    assert set(used) == {0, 1}


def test_a_bound_of_the_prompt_gives_way_to_the_servers_count(odd: Odd, here: Stage) -> None:
    odd.behave = lambda handler: handler.answer("a", 1)
    events = here.answer("Hello!")
    assert started(events).prompt_tokens == len("Hello!") + 8
    assert done(events).usage.prompt_tokens == 5


def test_a_server_that_goes_on_and_on_is_cut_at_the_limit(odd: Odd, here: Stage) -> None:
    odd.behave = lambda handler: handler.answer("w " * 5000, 5000)
    events = here.answer(max_tokens=5)
    check_protocol(events)
    assert done(events).reason == "length"
    assert text_of(events) == "w " * 5


def test_stop_texts_are_watched_here(odd: Odd, here: Stage) -> None:
    odd.behave = lambda handler: handler.answer("one two three four five six")
    events = here.answer(stop=("ree fo",), max_tokens=50)
    check_protocol(events)
    assert done(events).reason == "stop"
    assert text_of(events) == "one two th"
    assert "stop" not in odd.asked[0]


def test_a_cancel_closes_the_stream(odd: Odd, here: Stage) -> None:
    def slow(handler: _Handler) -> None:
        handler.stream()
        for _ in range(100):
            handler.pieces("w ")
            time.sleep(0.02)

    async def story() -> list[Event]:
        request = here.request(max_tokens=500)
        seen: list[Event] = []
        async for event in here.engine.submit(request):
            seen.append(event)
            if isinstance(event, Delta):
                here.engine.cancel(request.id)
        return seen

    odd.behave = slow
    events = here.run(story())
    check_protocol(events)
    assert done(events).reason == "cancelled"
    assert 1 <= tokens_of(events) <= 3
    assert odd.left.wait(2), "the server still writes"


def test_an_end_without_the_last_line_is_an_end(odd: Odd, here: Stage) -> None:
    def brief(handler: _Handler) -> None:
        handler.stream()
        handler.pieces("a")
        handler.say({"choices": [{"delta": {"content": "b"}, "finish_reason": "stop"}]})

    odd.behave = brief
    events = here.answer()
    check_protocol(events)
    assert text_of(events) == "ab"


def test_broken_characters_become_whole_ones(odd: Odd, here: Stage) -> None:
    odd.behave = lambda handler: handler.answer("\ud800 \x00 <script>")
    events = here.answer()
    check_protocol(events)
    text_of(events).encode()
    assert "\0" not in text_of(events)


def test_the_key_is_sent_and_never_shown(
    odd: Odd, here: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    odd.behave = status(401)
    here.answer()
    assert odd.keys[0] == f"Bearer {KEY}"
    loaded = settings.load(llm={"remote": {"api_key": KEY}})
    shown = (caplog.text, repr(loaded), str(loaded.model_dump()), loaded.model_dump_json())
    assert not any(KEY in text for text in (*shown, here.engine.why(DEMO)))


def test_the_prompt_cannot_open_a_turn_and_the_kind_decides_the_extras() -> None:
    server = Odd(owner="vllm")

    def continuous(handler: _Handler) -> None:
        handler.stream()
        for text, tokens in (("a", 2), ("b", 5)):
            usage = {
                "prompt_tokens": 6,
                "completion_tokens": tokens,
                "prompt_tokens_details": {"cached_tokens": 4},
            }
            handler.say({"choices": [{"delta": {"content": text}}], "usage": usage})
        handler.close(6)

    server.behave = continuous
    try:
        with odd_stage(server) as here:
            sampling = Sampling(
                temperature=0.5, top_k=0, min_p=0.1, repetition_penalty=1.2, seed=2**40
            )
            events = here.answer("<|im_end|>x", user_scope="alice", sampling=sampling)
            count = here.run(here.engine.count_tokens(DEMO, [ChatMessage("user", "Hi")]))
    finally:
        server.stop()
    check_protocol(events)
    assert [event.tokens for event in events if isinstance(event, Delta)] == [2, 3]
    assert (started(events).prompt_tokens, started(events).cached_tokens) == (6, 4)
    assert count == 7
    body = server.asked[0]
    assert body["messages"][0]["content"] == "< |im_end|>x"
    assert body["cache_salt"] == "alice"
    assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (-1, 0.1, 1.2)
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


def test_a_person_stays_at_one_server_unless_it_is_much_busier() -> None:
    servers = Servers(Llm(remote_url="http://a:1 http://b:1/v1/, http://a:1/"))
    entry = catalogue.get(DEMO)
    assert [server.url for server in servers.servers] == ["http://a:1", "http://b:1"]
    for server in servers.servers:
        server.up, server.models = True, {DEMO: 0}

    def place(scope: str) -> str:
        picked = servers.pick(entry, scope)
        assert picked is not None
        return picked.url

    places = {scope: place(scope) for scope in map(str, range(40))}
    assert len(set(places.values())) == 2
    assert {scope: place(scope) for scope in places} == places
    first = servers.servers[0]
    own = next(scope for scope, url in places.items() if url == first.url)
    first.running = 4
    assert place(own) == first.url
    first.running = 5
    assert place(own) != first.url
    servers.servers[1].up = False
    assert place(own) == first.url
    assert servers.pick(entry, own, without=[first]) is None


def test_more_answers_than_places_wait_their_turn(odd: Odd) -> None:
    running: list[int] = []
    at_once: list[int] = []

    def slow(handler: _Handler) -> None:
        running.append(1)
        at_once.append(len(running))
        time.sleep(0.05)
        running.pop()
        handler.answer("a")

    async def story() -> list[list[Event]]:
        return await asyncio.gather(*(here.events(here.request()) for _ in range(12)))

    odd.behave = slow
    with odd_stage(odd, answers_per_server=3) as here:
        for events in here.run(story()):
            check_protocol(events)
            assert text_of(events) == "a "
        assert here.engine.slots(here.model) == 3
    assert max(at_once) <= 3


@pytest.mark.parametrize("url", ["ftp://a", "http://me:secret@a", "http://a?x=1", "a:8000"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="remote_url"):
        settings.load(llm={"remote_url": url})


SEEING = "gemma-3-4b-it"


@pytest.fixture
def painting(tmp_path: Path) -> Image:
    """A file; what is in it does not matter to who sends it."""
    path = tmp_path / "picture.jpg"
    path.write_bytes(bytes(range(256)) * 40)
    return Image(str(path), hashlib.sha256(path.read_bytes()).hexdigest())


@contextmanager
def seeing(*servers: Odd, **remote: Any) -> Iterator[Stage]:
    for server in servers:
        server.model = SEEING
    with odd_stage(*servers, **remote) as here:
        here.model = SEEING
        yield here


def test_an_image_arrives_byte_for_byte(odd: Odd, painting: Image) -> None:
    with seeing(odd) as here:
        told = (ChatMessage("user", "What is <start_of_image> it?", (painting,)),)
        events = here.run(here.events(here.request(messages=told)))
        check_protocol(events)
        assert started(events).prompt_tokens > 260
        assert here.engine.sees(SEEING)
    picture, text = odd.asked[0]["messages"][0]["content"]
    assert picture["type"] == "image_url"
    kind, _, data = picture["image_url"]["url"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert base64.b64decode(data) == Path(painting.path).read_bytes()
    assert text == {"type": "text", "text": "What is < start_of_image> it?"}


def test_an_image_that_is_gone_is_nobodys_fault(odd: Odd, painting: Image) -> None:
    Path(painting.path).unlink()
    with seeing(odd) as here:
        events = here.answer(messages=(ChatMessage("user", "What?", (painting,)),))
        assert failed(events).code == "engine_error"
        assert here.engine.stats()["servers"][0]["failures_total"] == 0
    assert not odd.asked


def test_who_refuses_an_image_gets_no_other_one(odd: Odd, other: Odd, painting: Image) -> None:
    """A server that was started without the part that sees; texts still go there."""
    said = {"error": {"message": "image input is not supported"}}
    odd.behave = lambda handler: handler.json(said, 500)
    told = (ChatMessage("user", "What is it?", (painting,)),)
    with seeing(odd, other) as here:
        for number in range(16):
            events = here.answer(messages=told, user_scope=f"u{number}")
            assert text_of(events) == "a b c "
        assert len(odd.asked) == 1
        odd.behave = lambda handler: handler.answer("text")
        texts = {text_of(here.answer(user_scope=f"u{number}")) for number in range(16)}
        assert texts == {"text ", "a b c "}
        assert here.engine.sees(SEEING)
        other.behave = lambda handler: handler.json(said, 400)
        events = here.answer(messages=told)
        check_protocol(events)
        assert failed(events).code == "model_cannot_see"
        assert not here.engine.sees(SEEING)
        assert all(server["state"] == "up" for server in here.engine.stats()["servers"])


@pytest.mark.parametrize(
    ("card", "sees"),
    [
        ({"sees_images": False}, False),
        ({"sees_images": True}, True),
        ({"architecture": {"input_modalities": ["text"]}}, False),
        ({"architecture": {"input_modalities": ["text", "image"]}}, True),
        ({}, True),
    ],
)
def test_what_a_card_says_of_sight_is_believed(card: dict[str, Any], *, sees: bool) -> None:
    servers = Servers(Llm(remote_url="http://a:1"))
    entry = catalogue.get(SEEING)
    listed = {"data": [{"id": SEEING, **card}, {"id": "gone", "available": False}]}
    kind, models, seen = cards.read(listed)
    servers.servers[0].models, servers.servers[0].sees = models, seen
    assert (kind, list(models)) == ("", [SEEING])
    assert servers.sees(entry) is sees


def test_llamacpp_says_elsewhere_whether_it_sees() -> None:
    ability = [{"name": SEEING, "capabilities": ["completion"]}]
    kind, _, seen = cards.read(
        {"models": ability, "data": [{"id": SEEING, "owned_by": "llamacpp"}]}
    )
    assert (kind, seen) == ("llamacpp", {SEEING: False})
