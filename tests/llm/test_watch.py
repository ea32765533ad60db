"""The watch over every answer: no stall, no endless answer, one terminal event."""

from collections.abc import AsyncGenerator

from chat_app.llm.engine import Delta, Event, Request, Started
from chat_app.llm.script import ScriptEngine
from chat_app.llm.watch import Watched
from chat_app.settings import Script
from tests.llm.conftest import Stage, check_protocol, done, failed, text_of

MODEL = "gemma-3-1b-it"


def watched(engine: ScriptEngine, *, stall: float = 60, answer: float = 60) -> Stage:
    return Stage(Watched(engine, stall_seconds=stall, answer_seconds=answer), MODEL)


def engine(**values: object) -> ScriptEngine:
    return ScriptEngine(Script(**{"first_token_ms": 0, "tokens_per_second": 0, **values}))


def test_a_hanging_answer_ends_as_stalled_with_its_usage() -> None:
    here = watched(engine(fault="hang_at:2"), stall=0.1)
    events = here.answer()
    here.close()
    check_protocol(events)
    assert failed(events).code == "engine_stalled"
    assert failed(events).usage.completion_tokens == 2


def test_an_answer_that_hangs_before_its_first_token_stalls_too() -> None:
    here = watched(engine(fault="hang_at:0"), stall=0.1)
    assert failed(here.answer()).code == "engine_stalled"
    here.close()


def test_a_slow_answer_that_goes_on_does_not_stall() -> None:
    here = watched(engine(tokens=10, tokens_per_second=8), stall=0.7)
    assert done(here.answer()).reason == "stop"
    here.close()


def test_an_answer_past_its_deadline_ends_with_what_it_has() -> None:
    here = watched(engine(tokens=10_000, tokens_per_second=100))
    events = here.answer(max_tokens=10_000, deadline_seconds=0.2)
    check_protocol(events)
    assert failed(events).code == "deadline"
    assert failed(events).usage.completion_tokens > 0
    here.close()


def test_the_settings_bound_an_answer_without_a_deadline() -> None:
    here = watched(engine(tokens=10_000, tokens_per_second=100), answer=0.2)
    assert failed(here.answer(max_tokens=10_000)).code == "deadline"
    here.close()


class Raising(ScriptEngine):
    """An engine that breaks in the middle of an answer."""

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        yield Started(3)
        yield Delta("half ", 1)
        raise RuntimeError("secret details")


class Silent(ScriptEngine):
    """An engine that ends without a terminal event."""

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        yield Started(3)


def test_a_raise_becomes_a_failure_without_its_text() -> None:
    """T10: the text of an error is never part of an answer."""
    here = watched(Raising(Script()))
    events = here.answer()
    check_protocol(events)
    assert failed(events).code == "engine_error"
    assert "secret" not in failed(events).message
    assert text_of(events) == "half "
    here.close()


def test_an_answer_without_an_end_gets_one() -> None:
    here = watched(Silent(Script()))
    events = here.answer()
    check_protocol(events)
    assert failed(events).usage.prompt_tokens == 3
    here.close()
