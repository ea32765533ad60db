"""The scripted engine: what the contract says of it, word for word."""

import asyncio
import time

import pytest

from chat_app.llm.engine import ChatMessage, Delta, Done, Event, Started, Usage
from tests.llm.conftest import Stage, check_protocol, done, failed, stage, text_of, tokens_of

MODEL = "gemma-3-1b-it"


def script(**values: object) -> dict[str, object]:
    return {"engine": "script", "script": {"first_token_ms": 0, "tokens_per_second": 0} | values}


def answer(text: str = "two words", *, max_tokens: int = 100, **values: object) -> list[Event]:
    with stage(MODEL, **script(**values)) as here:
        events = here.answer(text, max_tokens=max_tokens)
    check_protocol(events)
    return events


def test_words_with_numbers_one_token_each() -> None:
    events = answer(tokens=3)
    deltas = [event for event in events if isinstance(event, Delta)]
    assert deltas == [Delta("w0 ", 1), Delta("w1 ", 1), Delta("w2 ", 1)]
    assert done(events).reason == "stop"
    assert done(events).usage.prompt_tokens == 2


def test_prompt_tokens_are_the_words_of_all_messages() -> None:
    told = (ChatMessage("system", "a b"), ChatMessage("user", " c\nd\te "), ChatMessage("user", ""))
    with stage(MODEL, **script()) as here:
        events = here.run(here.events(here.request(messages=told)))
        assert here.run(here.engine.count_tokens(MODEL, told)) == 5
    assert events[0] == Started(5)


@pytest.mark.parametrize(
    ("limit", "reason"), [(1, "length"), (4, "length"), (5, "stop"), (9, "stop")]
)
def test_the_limit_ends_the_answer(limit: int, reason: str) -> None:
    events = answer(tokens=5, max_tokens=limit)
    assert done(events).reason == reason
    assert tokens_of(events) == min(limit, 5)


def test_error_at_fails_after_that_many_tokens_without_a_word_of_it() -> None:
    """T10: the text of an error is never part of an answer."""
    events = answer(fault="error_at:3")
    assert text_of(events) == "w0 w1 w2 "
    assert failed(events).code == "engine_error"
    assert failed(events).usage.completion_tokens == 3


def test_hang_at_hangs_until_it_is_cancelled() -> None:
    with stage(MODEL, **script(fault="hang_at:3")) as here:
        request = here.request(max_tokens=50)

        async def story() -> list[Event]:
            seen: list[Event] = []
            async for event in here.engine.submit(request):
                seen.append(event)
                if len(seen) == 4:
                    asyncio.get_running_loop().call_later(0.05, here.engine.cancel, request.id)
            return seen

        events = here.run(story())
    assert text_of(events) == "w0 w1 w2 "
    assert done(events).reason == "cancelled"


def test_oom_fails_before_any_token() -> None:
    events = answer(fault="oom")
    assert len(events) == 1
    assert failed(events).code == "out_of_memory"
    assert failed(events).usage == Usage()


def test_empty_ends_without_a_token() -> None:
    """T13: nothing was written, so nothing is counted."""
    events = answer(fault="empty")
    assert done(events).usage.completion_tokens == 0
    assert text_of(events) == ""


def test_hostile_text_has_all_kinds_of_attack() -> None:
    text = text_of(answer(fault="hostile"))
    for attack in (
        "<script>",
        "onerror=",
        "javascript:",
        "![",
        "<iframe",
        "<svg",
        "=HYPERLINK",
        "$",
    ):
        assert attack in text


def test_cancel_counts_what_was_shown() -> None:
    """T9: stopped after k tokens is k tokens."""
    with stage(MODEL, **script(tokens=1000, tokens_per_second=500)) as here:
        request = here.request(max_tokens=1000)

        async def story() -> list[Event]:
            seen = []
            async for event in here.engine.submit(request):
                seen.append(event)
                if len(seen) == 8:
                    here.engine.cancel(request.id)
                    here.engine.cancel(request.id)
            return seen

        events = here.run(story())
        assert here.engine.stats()["running"] == 0
    check_protocol(events)
    assert done(events).reason == "cancelled"
    assert tokens_of(events) == 7


def test_a_stop_text_ends_the_answer_and_is_not_shown() -> None:
    with stage(MODEL, **script(tokens=20)) as here:
        events = here.answer(stop=("w3",), max_tokens=20)
    check_protocol(events)
    assert text_of(events) == "w0 w1 w2 "
    assert done(events).reason == "stop"


def test_an_unknown_model_is_a_failure_with_its_code() -> None:
    with stage("no-such-model", **script()) as here:
        assert failed(here.answer()).code == "unknown_model"


def test_closing_the_iterator_cancels() -> None:
    with stage(MODEL, **script(tokens=1000, tokens_per_second=100)) as here:

        async def story() -> None:
            events = here.engine.submit(here.request(max_tokens=1000))
            await anext(events)
            await events.aclose()

        here.run(story())
        assert here.engine.stats()["running"] == 0


def test_two_hundred_answers_at_once_cost_little() -> None:
    """One process carries 150 users; the engine's own part of that must be small."""

    async def crowd(here: Stage) -> list[list[Event]]:
        return await asyncio.gather(*(here.events(here.request(max_tokens=40)) for _ in range(200)))

    with stage(MODEL, **script(tokens=40, tokens_per_second=100)) as here:
        began = time.process_time()
        answers = here.run(crowd(here))
        used = time.process_time() - began
    assert all(isinstance(events[-1], Done) and tokens_of(events) == 40 for events in answers)
    assert used / (200 * 40) < 0.001, "a token may cost the event loop a millisecond at most"
