"""Servers elsewhere that go and come back under `auto`: this machine writes meanwhile."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chat_app.llm import places
from chat_app.llm.engine import Delta, Event
from tests.llm.conftest import (
    DEMO,
    Stage,
    check_protocol,
    done,
    failed,
    stage,
    text_of,
    tokens_of,
)
from tests.llm.test_remote import KEY, Odd, ready, status

pytestmark = pytest.mark.weights


@contextmanager
def beside(odd: Odd, folder: Path, engine: str = "auto") -> Iterator[Stage]:
    """The demo model here, and a server elsewhere that serves it too."""
    remote = {
        "api_key": KEY,
        "connect_seconds": 1,
        "first_token_seconds": 5,
        "failures_to_open": 1,
        "open_seconds": 0.1,
    }
    with stage(
        DEMO, engine=engine, remote_url=odd.url, threads=1, models_dir=folder, remote=remote
    ) as made:
        yield made


@pytest.fixture
def odd() -> Iterator[Odd]:
    server = Odd()
    yield server
    server.stop()


def backend(here: Stage) -> str:
    return str(here.engine.stats()["models"][DEMO]["backend"])


def test_an_answer_moves_here_and_the_next_ones_go_back(
    odd: Odd, demo_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One person sees nothing of it but a wait; who reads an answer keeps its writer."""
    with beside(odd, demo_weights) as here:
        here.run(ready(here))
        assert text_of(here.answer()) == "a b c "
        assert backend(here) == "remote"

        odd.behave = status(500)
        events = here.answer(max_tokens=4)
        check_protocol(events)
        assert done(events).usage.completion_tokens == 4
        assert "a b c" not in text_of(events)
        assert here.engine.state(DEMO).state == "ready"
        assert backend(here) == "openvino"
        assert "no configured server of it can be used right now" in here.engine.why(DEMO)

        async def comes_back() -> list[Event]:
            seen: list[Event] = []
            async for event in here.engine.submit(here.request(max_tokens=60)):
                seen.append(event)
                if tokens_of(seen) == 2 and isinstance(event, Delta):
                    odd.behave = lambda handler: handler.answer("back again")
                    await ready(here)
                    assert backend(here) == "openvino", "not for what may be a moment"
                    monkeypatch.setattr(places, "BACK_SECONDS", 0.0)
                    other = [item async for item in here.engine.submit(here.request())]
                    assert text_of(other) == "back again "
                    assert backend(here) == "remote"
            return seen

        events = here.run(comes_back())
        check_protocol(events)
        assert done(events).usage.completion_tokens > 2

        async def alone() -> None:
            model = here.engine.engine._models[DEMO]  # type: ignore[attr-defined]
            while model.retired:
                await asyncio.sleep(0.05)

        here.run(alone())
        assert here.engine.stats()["running"] == 0


def test_by_force_it_fails_with_a_code_and_nothing_is_loaded(odd: Odd, demo_weights: Path) -> None:
    with beside(odd, demo_weights, "remote") as here:
        here.run(ready(here))
        odd.behave = status(500)
        for code in ("engine_crashed", "model_not_available"):
            events = here.answer()
            check_protocol(events)
            assert failed(events).code == code
            assert failed(events).usage.completion_tokens == 0
        assert here.engine.state(DEMO).state == "broken"
        assert backend(here) == "remote"
