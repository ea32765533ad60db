"""Direct updates: the page shows the same as by way of Gradio, and none piles up."""

import asyncio
import itertools
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import gradio as gr
import orjson
import pytest
from gradio_client.utils import apply_diff

from tests.ui.conftest import Site, Visitor
from ui.direct import Line, direct

MODEL = "smollm2-135m-instruct"
WORDS = re.compile(r"w\d+ ")


def shown(seen: list[dict[str, Any]]) -> list[list[Any]]:
    """What a page shows after each update, put together as its script does."""
    states: list[list[Any]] = []
    for message in seen:
        if message["msg"] != "process_generating":
            continue
        assert message["success"]
        data = message["output"]["data"]
        if states:
            data = [apply_diff(old, new) for old, new in zip(states[-1], data, strict=True)]
        states.append(data)
    return states


def write(site: Site, person: Visitor, text: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    person.call(site.number("send"), [text, MODEL, None, secrets.token_hex(8), "", ""])
    return person.call(site.number("write"), [None])


@pytest.mark.parametrize("way", [True, False])
def test_a_page_shows_each_update_and_the_end(sites: Callable[..., Any], way: bool) -> None:
    """Text only grows, the meter stands beside it, and the last update is what the event gives."""
    engine = {"tokens": 40, "tokens_per_second": 40.0}
    with sites(chat={"direct_updates": way}, llm={"script": engine}) as site:
        person = site.person()
        for text in ("the first", "the second"):  # what was said before stays as it is
            end, seen = write(site, person, text)
            states = shown(seen)
            assert end["success"]
            assert states[-1] == end["output"]["data"]
            texts = [state[0][-1]["content"][0]["text"] for state in states]
            answers = [given for given in texts if WORDS.match(given)]
            assert len(answers) > 3
            assert all(new.startswith(old) for old, new in itertools.pairwise(answers))
            assert [message["role"] for message in states[-1][0]][-2:] == ["user", "assistant"]
            assert text in str(states[-1][0][-2])
            assert any("tokens" in state[1] for state in states[:-1])
            assert "Charged" in states[-1][1]


def test_a_page_that_leaves_is_no_longer_written_to(sites: Callable[..., Any]) -> None:
    """Its event ends within seconds, while the answer goes on to be stored and paid."""
    engine = {"tokens": 400, "tokens_per_second": 20.0}
    with sites(llm={"script": engine}, server={"drain_seconds": 1}) as site:
        person = site.person()
        person.call(site.number("send"), ["long", MODEL, None, "k", "", ""])
        person.join(site.number("write"), [None]).raise_for_status()
        for message in person.events():
            if message["msg"] == "process_generating":
                break
        queue, until = site.demo._queue, time.monotonic() + 10
        while any(queue.active_jobs) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(queue.active_jobs)
        assert len(person.client.get("/api/chat/status").json()["running"]) == 1


class Reader:
    """A page's queue that is read when the test wants."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []
        self.pending_messages_per_session = {"page": self.waiting}

    def send_message(self, event: Any, message: Any) -> None:
        assert event.alive
        self.waiting.append(message)

    def read(self) -> list[Any]:
        message = self.waiting.pop(0)
        data: list[Any] = orjson.loads(orjson.dumps(message.model_dump()))["output"]["data"]
        return data


def test_one_update_waits_at_most() -> None:
    """What comes while a page has not read is in the next update, whole."""
    reader, event = Reader(), SimpleNamespace(_id="e", alive=True, session_hash="page")
    line = Line(reader, event)
    for text in ("a", "ab", "abc"):
        line.tell([[{"text": text}], text])
    assert len(reader.waiting) == 1
    assert reader.read() == [[{"text": "a"}], "a"]
    line.tell([[{"text": "abcd"}], "abcd"])
    line.tell([[{"text": "abcde"}], "abcde"])
    assert reader.read() == [[["append", [0, "text"], "bcd"]], [["append", [], "bcd"]]]
    assert not reader.waiting
    for text, last in (("abcdef", False), ("none", False), ("end", True)):
        line.tell([[{"text": text}], text], last=last)
    assert len(reader.waiting) == 2, "what is said last is not left out"
    assert reader.read()[1] == [["append", [], "ef"]]
    assert reader.read()[1] == [["replace", [], "end"]]
    assert not line.closed
    event.alive = False
    assert line.closed
    event.alive = True
    del reader.pending_messages_per_session["page"]
    assert line.closed


def test_without_a_page_the_last_update_is_returned() -> None:
    """And the generator is closed, whatever it raises."""
    closed = []
    part = gr.State()

    async def handler(end: str) -> AsyncIterator[dict[Any, Any]]:
        try:
            for step in range(3):
                yield {part: step}
            if end == "raise":
                raise gr.Error("told")
        finally:
            closed.append(end)

    telling = direct(handler, [part])
    assert asyncio.iscoroutinefunction(telling)
    assert asyncio.run(telling("well")) == {part: 2}
    with pytest.raises(gr.Error, match="told"):
        asyncio.run(telling("raise"))
    assert closed == ["well", "raise"]
