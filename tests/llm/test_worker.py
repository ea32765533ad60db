"""The worker's desk: who waits, who runs, what each step becomes. With a backend of numbers."""

import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from chat_app.llm import wire, worker
from chat_app.llm.backends.base import RanOutOfMemory, Spec, Step
from chat_app.llm.engine import (
    ChatMessage,
    Delta,
    Done,
    Event,
    Failed,
    Queued,
    Request,
    Sampling,
    Started,
    Usage,
)
from chat_app.llm.worker import Desk, load
from tests.llm.conftest import check_protocol


class Counting:
    """A backend with two slots that counts: the text of token n is `n `; words are tokens."""

    slots = 2
    context_tokens = 20
    device = "cpu"
    why = ""

    def __init__(self) -> None:
        self.running: dict[str, tuple[int, int]] = {}
        self.errors: dict[str, Exception] = {}
        self.room = 100

    def encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        return [0 for message in messages for _ in message.content.split()]

    def count_text(self, text: str) -> int:
        return len(text.split())

    def decode(self, tokens: list[int]) -> str:
        return "".join(f"{token} " for token in tokens)

    def add(
        self, id: str, prompt: list[int], sampling: Sampling, max_tokens: int, *, scope: str = ""
    ) -> int | None:
        if sum(limit for _, limit in self.running.values()) + max_tokens > self.room:
            return None
        self.running[id] = (0, max_tokens)
        return 0

    def drop(self, id: str) -> None:
        self.running.pop(id, None)

    def step(self) -> list[Step]:
        steps = []
        for id, (made, limit) in list(self.running.items()):
            if error := self.errors.pop(id, None):
                steps.append(Step(id, error=error))
                continue
            self.running[id] = (made + 1, limit)
            steps.append(Step(id, [made], "length" if made + 1 >= limit else None))
        return steps

    def figures(self) -> dict[str, float]:
        return {"running": float(len(self.running))}


def desk() -> Desk:
    return Desk(Counting(), "llama")


def request(
    id: str, text: str = "a b", *, max_tokens: int = 3, stop: tuple[str, ...] = (), scope: str = ""
) -> Request:
    message = ChatMessage("user", text)
    return Request(id, "m", (message,), max_tokens, stop=stop, user_scope=scope)


def events_of(at: Desk, id: str) -> list[Event]:
    return [event for who, event in at.events if who == id]


def finish(at: Desk) -> None:
    for _ in range(50):
        at.turn()
    assert at.idle
    assert not at.backend.running  # type: ignore[attr-defined]


def test_answers_take_places_in_order() -> None:
    at = desk()
    for id in "abcd":
        at.submit(request(id))
    finish(at)
    assert events_of(at, "a") == [
        Started(2),
        Delta("0 ", 1),
        Delta("1 ", 1),
        Delta("2 ", 1),
        events_of(at, "a")[-1],
    ]
    assert [event for event in events_of(at, "d") if isinstance(event, Queued)] == [Queued(1)]
    assert events_of(at, "c")[0] == Queued(0)
    for id in "abcd":
        check_protocol(events_of(at, id))


def test_one_who_sends_many_does_not_hold_up_another() -> None:
    at = desk()
    for number in range(6):
        at.submit(request(f"busy{number}", scope="busy"))
    at.submit(request("quiet", scope="quiet"))
    finish(at)
    begun = [id for id, event in at.events if isinstance(event, Started)]
    assert begun.index("quiet") == 1


def test_without_room_an_answer_waits_and_one_that_never_fits_fails() -> None:
    at = desk()
    at.backend.room = 4  # type: ignore[attr-defined]
    at.submit(request("first", max_tokens=3))
    at.submit(request("second", max_tokens=3))
    at.submit(request("never", max_tokens=5))
    at.turn()
    assert set(at.running) == {"first"}
    assert set(at.waiting) == {"second", "never"}
    finish(at)
    assert [type(event) for event in events_of(at, "second")][-1] is Done
    end = events_of(at, "never")[-1]
    assert isinstance(end, Failed)
    assert (end.code, end.usage.prompt_tokens) == ("out_of_memory", 0)


def test_a_waiting_answer_is_cancelled_for_nothing() -> None:
    at = desk()
    for id in "abc":
        at.submit(request(id))
    at.turn()
    at.cancel("c")
    finish(at)
    end = events_of(at, "c")[-1]
    assert isinstance(end, Done)
    assert (end.reason, end.usage.prompt_tokens) == ("cancelled", 0)


def test_a_running_answer_is_cancelled_before_the_next_step() -> None:
    """T14: a stop frees the place at once."""
    at = desk()
    at.submit(request("a", max_tokens=9))
    at.turn()
    at.turn()
    at.cancel("a")
    assert at.idle
    assert not at.backend.running  # type: ignore[attr-defined]
    at.cancel("a")
    at.cancel("unknown")
    end = events_of(at, "a")[-1]
    assert isinstance(end, Done)
    assert (end.reason, end.usage.completion_tokens) == ("cancelled", 2)


def test_one_answer_out_of_memory_leaves_the_others() -> None:
    at = desk()
    at.submit(request("a"))
    at.submit(request("b"))
    at.turn()
    at.backend.errors["a"] = RanOutOfMemory()  # type: ignore[attr-defined]
    finish(at)
    end = events_of(at, "a")[-1]
    assert isinstance(end, Failed)
    assert (end.code, end.usage.completion_tokens) == ("out_of_memory", 1)
    assert isinstance(events_of(at, "b")[-1], Done)


def test_a_broken_step_says_nothing_of_its_error() -> None:
    """T10: the text of an error is never part of an answer."""
    at = desk()
    at.submit(request("a"))
    at.turn()
    at.backend.errors["a"] = RuntimeError("tensor secrets")  # type: ignore[attr-defined]
    finish(at)
    end = events_of(at, "a")[-1]
    assert isinstance(end, Failed)
    assert end.code == "engine_error"
    assert "secrets" not in end.message


def test_a_stop_text_frees_the_place() -> None:
    at = desk()
    at.submit(request("a", max_tokens=9, stop=("2 ",)))
    finish(at)
    text = "".join(event.text for event in events_of(at, "a") if isinstance(event, Delta))
    assert text == "0 1 "


def test_a_message_that_cannot_fit_is_refused_alone() -> None:
    at = desk()
    at.submit(request("a", "word " * 18))
    at.submit(request("b"))
    finish(at)
    end = events_of(at, "a")[-1]
    assert isinstance(end, Failed)
    assert end.code == "context_overflow"
    assert isinstance(events_of(at, "b")[-1], Done)


def test_prompt_and_answer_together_stay_inside_the_context() -> None:
    at = desk()
    at.submit(request("a", "word " * 10, max_tokens=500))
    finish(at)
    end = events_of(at, "a")[-1]
    assert isinstance(end, Done)
    assert end.reason == "length"
    assert end.usage.prompt_tokens + end.usage.completion_tokens == 20


def test_what_our_engine_does_not_know_runs_with_transformers(tmp_path: Path) -> None:
    """A Llama with biases: refused by one backend, run by the other, which says so."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate(["<unk>", "</s>", "a", "b"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(tmp_path)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            attention_bias=True,
        )
    ).save_pretrained(tmp_path)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        spec = Spec("m", "llama", str(tmp_path), "native", "cpu", 1, 64, why="It runs here.")
        done, backend = load(spec, wire.Line(theirs))
    assert done.backend == "transformers"
    assert type(backend).__name__ == "Transformers"
    assert "attention_bias" in backend.why
    assert "transformers runs it" in backend.why


def test_a_cancel_is_reported_before_the_others_next_step() -> None:
    """A step of a large model takes long; who presses stop does not wait for it."""
    here, there = socket.socketpair()
    there.settimeout(5)
    web = wire.Line(there)

    class Listening(Counting):
        heard: list[wire.Message]

        def step(self) -> list[Step]:
            self.heard = web.receive()
            there.close()
            return super().step()

    backend = Listening()
    inbox: list[wire.Message] = [
        {"op": "submit", "request": wire.request_out(request("a"))},
        {"op": "submit", "request": wire.request_out(request("b"))},
        {"op": "cancel", "id": "b"},
    ]
    with pytest.raises((EOFError, BrokenPipeError, ConnectionResetError)):
        worker._answer(wire.Line(here), Desk(backend, "llama"), inbox)
    (message,) = backend.heard
    ((id, fields),) = message["events"]
    assert id == "b"
    assert wire.event_in(fields) == Done("cancelled", Usage())
    here.close()
