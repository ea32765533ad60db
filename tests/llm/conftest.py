"""Fixtures for the engine: real weights (pulled once), and a stage on which an engine lives.

Weights are looked for in TEST_MODELS_DIR, else in the repository's models_cache.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from chat_app import settings
from chat_app.llm import build, catalogue, loader
from chat_app.llm.engine import (
    ChatMessage,
    Delta,
    Done,
    Engine,
    Event,
    Failed,
    Request,
    Sampling,
    Started,
)

DEMO = "smollm2-135m-instruct"
GEMMA = "gemma-3-270m"
ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")


class Stage:
    """An engine with an event loop of its own; `run` runs a coroutine on it."""

    def __init__(self, engine: Engine, model: str) -> None:
        self.engine = engine
        self.model = model
        self.crash: Callable[[], None] | None = None
        """Ends what writes the answers, as a power cut would; None: nothing of the kind."""
        self.repair: Callable[[], None] = lambda: None
        self.instant = False
        """It reads a long prompt before anybody could say stop."""
        self._runner = asyncio.Runner()
        self._number = 0
        self.run(engine.start())

    def run(self, story: Coroutine[Any, Any, T], seconds: float = 120) -> T:
        return self._runner.run(asyncio.wait_for(story, seconds))

    def close(self) -> None:
        self.run(self.engine.close())
        self._runner.close()

    def request(self, text: str = "Tell me a story.", **changes: Any) -> Request:
        self._number += 1
        values: dict[str, Any] = {
            "id": f"rep_{self._number}",
            "model": self.model,
            "messages": (ChatMessage("user", text),),
            "max_tokens": 12,
            "sampling": Sampling(temperature=0.0),
        } | changes
        return Request(**values)

    async def events(self, request: Request) -> list[Event]:
        return [event async for event in self.engine.submit(request)]

    def answer(self, text: str = "Tell me a story.", **changes: Any) -> list[Event]:
        return self.run(self.events(self.request(text, **changes)))


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def tokens_of(events: list[Event]) -> int:
    return sum(event.tokens for event in events if isinstance(event, Delta))


def started(events: list[Event]) -> Started:
    return next(event for event in events if isinstance(event, Started))


def done(events: list[Event]) -> Done:
    assert isinstance(events[-1], Done), events[-1]
    return events[-1]


def failed(events: list[Event]) -> Failed:
    assert isinstance(events[-1], Failed), events[-1]
    return events[-1]


def check_protocol(events: list[Event]) -> None:
    """What holds for every answer of every engine."""
    ends = [event for event in events if isinstance(event, (Done, Failed))]
    assert len(ends) == 1
    assert ends[0] is events[-1]
    deltas = [event for event in events if isinstance(event, Delta)]
    assert all(delta.text and delta.tokens >= 1 for delta in deltas)
    assert ends[0].usage.completion_tokens == tokens_of(events)
    starts = [index for index, event in enumerate(events) if isinstance(event, Started)]
    assert len(starts) <= 1
    if deltas:
        assert starts
        assert starts[0] < events.index(deltas[0])
        assert 0 < ends[0].usage.prompt_tokens <= started(events).prompt_tokens


async def first(events: AsyncIterator[Event], wanted: Callable[[Event], bool]) -> list[Event]:
    """Events up to and with the first wanted one."""
    seen = []
    async for event in events:
        seen.append(event)
        if wanted(event):
            break
    return seen


@contextmanager
def stage(model: str, **llm: Any) -> Iterator[Stage]:
    """A stage with an engine built from settings; keywords are settings of [llm]."""
    places = {"models_dir": llm.pop("models_dir", None) or models_dir()}
    made = Stage(build.create(settings.load(llm=llm, **places)), model)
    try:
        yield made
    finally:
        made.close()


def models_dir() -> Path:
    return Path(os.environ.get("TEST_MODELS_DIR") or ROOT / "models_cache")


def pulled(model: str) -> Path:
    try:
        loader.pull(catalogue.get(model), models_dir())
    except loader.PullFailed as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no weights of {model} here: {error}")
    return models_dir()


@pytest.fixture(scope="session")
def demo_weights() -> Path:
    """The models directory with the demo model in it."""
    return pulled(DEMO)


@pytest.fixture(scope="session")
def gemma_weights() -> Path:
    """The models directory with Gemma 3 270M in it, converted."""
    return pulled(GEMMA)


@pytest.fixture(scope="module")
def demo(demo_weights: Path) -> Iterator[Stage]:
    """The demo model on the engine that `auto` picks, for one module."""
    with stage(DEMO, threads=1) as made:
        yield made
