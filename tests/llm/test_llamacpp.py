"""llama.cpp in the worker: a closed port, prompts reused within a scope and never across."""

import asyncio
import http.client
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from gguf import GGUFReader

from chat_app.llm import catalogue, gguf_header, loader
from chat_app.llm.backends.llamacpp import SLOTS
from chat_app.llm.engine import ChatMessage, Event, Sampling
from tests.llm.conftest import (
    DEMO,
    GEMMA,
    Stage,
    check_protocol,
    done,
    failed,
    stage,
    started,
    text_of,
)

pytestmark = pytest.mark.weights
STORY = "A cat went home and " + "slept and ate and " * 12


@pytest.fixture(scope="module")
def here(demo_weights: Path) -> Iterator[Stage]:
    with stage(DEMO, engine="llamacpp", threads=1) as made:
        made.run(made.engine.load(DEMO))
        yield made


def gguf(model: str, models_dir: Path) -> Path:
    found = loader.weights(catalogue.get(model), models_dir).gguf
    assert found is not None
    return found


def test_the_port_is_on_loopback_and_closed_without_the_key(here: Stage) -> None:
    pid = here.engine.stats()["models"][DEMO]["pid"]
    listening = [one for one in psutil.Process(pid).net_connections() if one.status == "LISTEN"]
    assert {one.laddr.ip for one in listening} == {"127.0.0.1"}
    for one in listening:
        for method, path in (
            ("POST", "/completion"),
            ("POST", "/v1/chat/completions"),
            ("POST", "/tokenize"),
            ("POST", "/slots/0?action=save"),
            ("GET", "/slots"),
            ("GET", "/props"),
            ("GET", "/"),
        ):
            line = http.client.HTTPConnection("127.0.0.1", one.laddr.port, timeout=10)
            body = json.dumps({"prompt": "x", "content": "x", "n_predict": 1})
            line.request(method, path, body, {"Authorization": "Bearer guess"})
            assert line.getresponse().status in (401, 404), path
            line.close()


def test_a_second_turn_is_cached_for_its_scope_alone(here: Stage) -> None:
    """Every slot holds the story of one scope; another one asks the same and finds nothing."""

    async def everywhere() -> list[list[Event]]:
        requests = [here.request(messages=told, max_tokens=4, user_scope="a") for _ in range(SLOTS)]
        return await asyncio.gather(*(here.events(request) for request in requests))

    def cached(scope: str) -> int:
        events = here.run(here.events(here.request(messages=told, max_tokens=2, user_scope=scope)))
        check_protocol(events)
        return started(events).cached_tokens

    told = (ChatMessage("user", STORY),)
    first = here.run(everywhere())
    asked = started(first[0]).prompt_tokens
    told += (ChatMessage("assistant", text_of(first[0])), ChatMessage("user", "And then?"))
    before = figure(here, "cached_tokens")
    theirs, mine, again, nobodys = (cached(scope) for scope in ("b", "a", "b", ""))
    assert (theirs, nobodys) == (0, 0)
    assert asked <= mine < asked + 20
    assert again > asked
    # What was said before each answer is what the library found.
    assert figure(here, "cached_tokens") - before == mine + again


def figure(here: Stage, name: str) -> float:
    """A figure of the worker, after its next report."""
    here.run(asyncio.sleep(1.3))
    return float(here.engine.stats()["models"][DEMO]["figures"].get(name, 0.0))


def test_each_of_the_sampling_values_matters(here: Stage) -> None:
    def text(**values: float) -> str:
        sampling = Sampling(**({"temperature": 1.5, "top_p": 1.0, "top_k": 0, "seed": 3} | values))  # type: ignore[arg-type]
        return text_of(here.answer("Tell me a story.", sampling=sampling, max_tokens=12))

    greedy = text(temperature=0.0)
    assert text() != greedy
    assert text(top_k=1) == text(min_p=1.0) == text(top_p=0.0) == greedy
    assert text(seed=4) != text()
    assert text(temperature=0.0, repetition_penalty=3.0) != greedy


def test_characters_of_several_tokens_are_whole_and_counted(here: Stage) -> None:
    events = here.answer("Repeat 🧑‍🚀🌍", max_tokens=20)
    check_protocol(events)
    assert "🌍" in text_of(events)
    assert "\N{REPLACEMENT CHARACTER}" not in text_of(events)
    assert len(text_of(events)) < done(events).usage.completion_tokens == 20


def test_gemma_without_a_template_reads_and_reuses_its_whole_past(gemma_weights: Path) -> None:
    """Its layers look back over a window only; a conversation can branch all the same."""
    with stage(GEMMA, engine="llamacpp", threads=1) as here:
        told = (ChatMessage("user", "word " * 700),)
        first = here.run(here.events(here.request(messages=told, max_tokens=2)))
        check_protocol(first)
        told = (ChatMessage("user", "word " * 650 + "What?"),)
        second = here.run(here.events(here.request(messages=told, max_tokens=2)))
        check_protocol(second)
        assert started(second).cached_tokens > 640
        assert here.engine.why(GEMMA).startswith("Gemma 3 270M (base) runs on the CPU with llama")


def test_a_damaged_file_is_refused_by_name(demo_weights: Path, tmp_path: Path) -> None:
    shutil.copytree(demo_weights / DEMO, tmp_path / DEMO)
    file = gguf(DEMO, tmp_path)
    with file.open("r+b") as damaged:
        damaged.seek(4)
        damaged.write(b"\xff" * 4096)
    with stage(DEMO, engine="llamacpp", models_dir=tmp_path) as here:
        events = here.answer()
        assert failed(events).code == "load_failed"
        assert file.name in failed(events).message


def test_the_header_tells_the_shape_quickly(demo_weights: Path, tmp_path: Path) -> None:
    file = gguf(DEMO, demo_weights)
    header = gguf_header.read(file)
    fields = header.fields
    assert fields["general.architecture"] == "llama"
    assert fields["llama.block_count"] == 30
    assert "<|im_start|>" in fields["tokenizer.chat_template"]
    assert "tokenizer.ggml.tokens" not in fields
    library = GGUFReader(str(file))
    assert [(one.name, one.shape, one.kind, one.start) for one in header.tensors] == [
        (one.name, tuple(map(int, one.shape[::-1])), one.tensor_type, one.data_offset)
        for one in library.tensors
    ]
    head = file.read_bytes()[:3_000_000]
    cut = tmp_path / "cut.gguf"
    for length in (0, 3, 4, 10, 100, 5000):
        cut.write_bytes(head[:length])
        with pytest.raises((gguf_header.NotGguf, ValueError)):
            gguf_header.read(cut)
    cut.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60) + b"\xff" * 64)
    with pytest.raises(gguf_header.NotGguf):
        gguf_header.read(cut)
