"""One battery for every engine: the scripted one and each backend with real weights."""

import asyncio
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from chat_app.llm import catalogue, loader
from chat_app.llm.engine import (
    ChatMessage,
    Delta,
    Done,
    Event,
    ModelBusy,
    Queued,
    Sampling,
    Started,
)
from tests.effort import effort
from tests.llm import small
from tests.llm.conftest import (
    DEMO,
    GEMMA,
    Stage,
    check_protocol,
    done,
    failed,
    models_dir,
    stage,
    started,
    text_of,
    tokens_of,
)
from tests.llm.llama_server import KEY, LlamaServer

WARM = Sampling(temperature=0.9, top_p=0.95, top_k=40, seed=7)


WEIGHTS = {
    "openvino": DEMO,
    "native": GEMMA,
    "transformers": GEMMA,
    "llamacpp": DEMO,
    "remote": DEMO,
}


# By a small model of random weights, so that it is done in seconds.
SMALL = "transformers-small"


def marks_of(name: str) -> list[pytest.MarkDecorator]:
    """Every run plays with all but two: one needs an extra, one is slow and has a small twin."""
    seldom = [pytest.mark.full] if name in ("transformers", "llamacpp") else []
    return [pytest.mark.weights, *seldom]


@pytest.fixture(
    scope="module",
    params=["script", SMALL, *(pytest.param(name, marks=marks_of(name)) for name in WEIGHTS)],
)
def here(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """A stage for each engine, its model loaded."""
    name = request.param
    if name == SMALL:
        folder = small.put(tmp_path_factory.mktemp("small"), GEMMA)
        with stage(GEMMA, engine="transformers", threads=1, models_dir=folder) as made:
            made.crash, made.instant = crash_of(made, GEMMA), True
            made.run(made.engine.load(GEMMA))
            yield made
        return
    if name == "script":
        with stage(
            DEMO, engine="script", script={"first_token_ms": 1, "tokens_per_second": 300}
        ) as made:
            made.instant = True
            yield made
        return
    model = WEIGHTS[name]
    request.getfixturevalue("demo_weights" if model == DEMO else "gemma_weights")
    with on(name, model) as made:
        made.run(made.engine.load(model))
        yield made


@contextmanager
def on(name: str, model: str) -> Iterator[Stage]:
    """An engine that writes by this backend, and how to break it."""
    if name == "remote":
        with served(model) as made:
            yield made
        return
    with stage(model, engine=name, threads=1) as made:
        made.crash = crash_of(made, model, name)
        yield made


def crash_of(made: Stage, model: str, name: str = "") -> Callable[[], None] | None:
    """Kills the worker. Every run does that to our own engine alone: they load anew after it."""
    if not (name == "native" or effort(full=True, quick=False)):
        return None
    return lambda: os.kill(made.engine.stats()["models"][model]["pid"], signal.SIGKILL)


@contextmanager
def served(model: str) -> Iterator[Stage]:
    """A real llama.cpp server elsewhere."""
    gguf = loader.weights(catalogue.get(model), models_dir()).gguf
    assert gguf is not None
    server = LlamaServer(gguf, model)
    try:
        server.start()
        remote = {"api_key": KEY, "answers_per_server": 4, "share_prefixes": True}
        with stage(model, engine="remote", remote_url=server.url, remote=remote) as made:
            made.crash, made.repair = server.kill, server.start
            yield made
    finally:
        server.kill()


def test_an_answer_streams_and_ends_at_its_limit(here: Stage) -> None:
    events = here.answer(max_tokens=6)
    check_protocol(events)
    assert done(events).reason == "length"
    assert done(events).usage.completion_tokens == 6
    assert 3 <= sum(isinstance(event, Delta) for event in events) <= 6


def test_a_limit_of_one_token(here: Stage) -> None:
    events = here.answer(max_tokens=1)
    check_protocol(events)
    assert done(events).usage.completion_tokens == 1


def test_usage_is_exact_and_timed(here: Stage) -> None:
    told = (ChatMessage("user", "How are you?"),)
    events = here.run(here.events(here.request(messages=told, max_tokens=4)))
    usage = done(events).usage
    assert usage.prompt_tokens == started(events).prompt_tokens
    assert usage.prompt_tokens == here.run(here.engine.count_tokens(here.model, told))
    assert 0 < usage.ttft_ms <= usage.duration_ms


def test_a_greedy_answer_repeats(here: Stage) -> None:
    first, again = (text_of(here.answer("Count to ten.", max_tokens=10)) for _ in range(2))
    assert first == again != ""


def test_the_same_seed_repeats_and_others_do_not_disturb_it(here: Stage) -> None:
    """In company the rounding of a batch may change a late token, so the first ones are held."""

    async def company() -> list[list[Event]]:
        return await asyncio.gather(
            here.events(here.request(sampling=WARM, max_tokens=3)),
            here.events(here.request(sampling=replace(WARM, seed=8), max_tokens=3)),
        )

    here.answer(sampling=WARM, max_tokens=8)
    alone, again = (text_of(here.answer(sampling=WARM, max_tokens=8)) for _ in range(2))
    assert alone == again
    assert alone.startswith(text_of(here.run(company())[0]))


def test_a_stop_text_is_not_shown(here: Stage) -> None:
    whole = text_of(here.answer("Count to ten.", max_tokens=12))
    stop = whole[len(whole) // 2 :][:4]
    events = here.answer("Count to ten.", max_tokens=12, stop=(stop,))
    check_protocol(events)
    assert done(events).reason == "stop"
    assert text_of(events) == whole[: whole.index(stop)]
    assert tokens_of(events) < 12


def test_cancel_in_the_middle_counts_what_was_shown(here: Stage) -> None:
    """T9, T14: after k tokens k are counted, and the place is free at once."""

    async def story() -> list[Event]:
        request = here.request(max_tokens=500)
        seen = []
        async for event in here.engine.submit(request):
            seen.append(event)
            if tokens_of(seen) >= 3:
                here.engine.cancel(request.id)
        return seen

    events = here.run(story())
    check_protocol(events)
    assert done(events).reason == "cancelled"
    assert 3 <= tokens_of(events) <= 6
    assert here.engine.stats()["running"] == 0


def test_cancel_before_anything_began(here: Stage) -> None:
    async def story() -> list[Event]:
        request = here.request(max_tokens=500)
        task = asyncio.create_task(here.events(request))
        await asyncio.sleep(0)
        here.engine.cancel(request.id)
        await asyncio.sleep(0)
        here.engine.cancel(request.id)
        return await task

    events = here.run(story())
    check_protocol(events)
    assert done(events).reason == "cancelled"
    assert tokens_of(events) <= 1


def test_cancel_of_an_unknown_or_ended_answer_does_nothing(here: Stage) -> None:
    request = here.request(max_tokens=2)
    events = here.run(here.events(request))
    here.engine.cancel(request.id)
    here.engine.cancel("never-seen")
    assert done(events).reason == "length"


def test_a_reader_who_leaves_frees_the_place(here: Stage) -> None:
    """T15: nobody closes what a closed tab has left behind, so closing must be enough."""

    async def story() -> None:
        events = here.engine.submit(here.request(max_tokens=500))
        async for event in events:
            if isinstance(event, Delta):
                break
        await events.aclose()  # type: ignore[attr-defined]

    here.run(story())
    assert here.engine.stats()["running"] == 0
    assert done(here.answer(max_tokens=2)).reason == "length"


def test_the_same_id_twice_leaves_the_first_answer_alone(here: Stage) -> None:
    async def story() -> tuple[list[Event], list[Event]]:
        request = here.request(max_tokens=8)
        seen: list[Event] = []
        second: list[Event] = []
        async for event in here.engine.submit(request):
            seen.append(event)
            if isinstance(event, Started):
                second = await here.events(request)
        return seen, second

    events, second = here.run(story())
    check_protocol(second)
    assert failed(second).code == "engine_error"
    check_protocol(events)
    assert done(events).reason == "length"


def test_many_answers_at_once_are_all_right(here: Stage) -> None:
    async def story() -> list[list[Event]]:
        requests = [here.request(f"Say {number}.", max_tokens=4) for number in range(6)]
        return await asyncio.gather(*(here.events(request) for request in requests))

    for events in here.run(story()):
        check_protocol(events)
        assert isinstance(events[-1], Done)


def test_emoji_and_broken_characters_in_the_prompt(here: Stage) -> None:
    events = here.answer("🧑‍🚀 \ud800 \x00 <|im_end|><end_of_turn>", max_tokens=3)
    check_protocol(events)
    assert isinstance(events[-1], Done)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=math.nan),
        Sampling(temperature=1.0, top_p=5.0),
        Sampling(temperature=1.0, top_p=-1.0),
        Sampling(temperature=1e9, top_k=-3, seed=-1),
        Sampling(temperature=1.0, seed=2**80),
        Sampling(temperature=0.0, repetition_penalty=-1.0),
        Sampling(temperature=0.0, repetition_penalty=0.0),
    ],
)
def test_absurd_sampling_concerns_one_answer(here: Stage, sampling: Sampling) -> None:
    before = here.engine.stats()["models"].get(here.model, {}).get("pid")
    events = here.answer(sampling=sampling, max_tokens=2)
    check_protocol(events)
    assert here.engine.stats()["models"].get(here.model, {}).get("pid") == before
    assert done(here.answer(max_tokens=2)).reason == "length"


def test_a_busy_model_is_not_unloaded(here: Stage) -> None:
    async def story() -> None:
        events = here.engine.submit(here.request(max_tokens=500))
        async for event in events:
            if isinstance(event, Started):
                break
        with pytest.raises(ModelBusy):
            await here.engine.unload(here.model)
        await events.aclose()  # type: ignore[attr-defined]

    if not scripted(here):  # which holds no memory
        here.run(story())


def test_a_long_conversation_loses_its_oldest_exchanges(here: Stage) -> None:
    told = [ChatMessage("system", "Be brief.")]
    for text in ("word " * 5000, "How are you?", "Are you sure?"):
        told += [ChatMessage("user", text), ChatMessage("assistant", "Yes.")]
    told.append(ChatMessage("user", "So?"))
    events = here.run(here.events(here.request(messages=tuple(told), max_tokens=2)))
    check_protocol(events)
    assert started(events).dropped_messages == (0 if scripted(here) else 2)


def test_a_message_that_is_too_long_alone_is_refused(here: Stage) -> None:
    events = here.answer("word " * 6000, max_tokens=2)
    check_protocol(events)
    if not scripted(here):
        assert failed(events).code == "context_overflow"
        assert failed(events).usage.prompt_tokens == 0


def test_cancel_in_the_queue_costs_nothing(here: Stage) -> None:
    async def story() -> tuple[list[Event], list[list[Event]]]:
        async def waits() -> list[Event]:
            request = here.request(max_tokens=500)
            seen = []
            async for event in here.engine.submit(request):
                seen.append(event)
                if isinstance(event, Queued):
                    here.engine.cancel(request.id)
            return seen

        others = [here.request(max_tokens=300) for _ in range(20)]
        tasks = [asyncio.create_task(here.events(request)) for request in others]
        await asyncio.sleep(0.2)
        events = await waits()
        for request in others:
            here.engine.cancel(request.id)
        return events, await asyncio.gather(*tasks)

    if scripted(here):  # which has a place for everybody
        return
    events, others = here.run(story())
    for told in (events, *others):
        check_protocol(told)
        assert done(told).reason == "cancelled"
    assert done(events).usage.prompt_tokens == done(events).usage.completion_tokens == 0
    assert here.engine.stats()["running"] == 0


def test_cancel_while_the_prompt_is_read(here: Stage) -> None:
    async def story() -> list[Event]:
        request = here.request("word " * 900, max_tokens=500)
        seen = []
        asyncio.get_running_loop().call_later(0.05, here.engine.cancel, request.id)
        async for event in here.engine.submit(request):
            seen.append(event)
        return seen

    began = time.monotonic()
    events = here.run(story())
    check_protocol(events)
    assert done(events).reason == "cancelled"
    assert here.instant or tokens_of(events) == 0
    assert time.monotonic() - began < 3
    assert done(here.answer(max_tokens=2)).reason == "length"


def test_two_hundred_at_once_all_end(here: Stage) -> None:
    """Most are cancelled at once, wherever they are by then."""

    async def story() -> list[list[Event]]:
        hello = (ChatMessage("user", "Hi"),)
        requests = [here.request(messages=hello, max_tokens=1) for _ in range(200)]
        tasks = [asyncio.create_task(here.events(request)) for request in requests]
        await asyncio.sleep(0.05)
        for number, request in enumerate(requests):
            if number % 5:
                here.engine.cancel(request.id)
        return await asyncio.gather(*tasks)

    answers = here.run(story())
    for number, events in enumerate(answers):
        check_protocol(events)
        assert done(events).usage.completion_tokens <= 1
        assert number % 5 or done(events).reason != "cancelled"
    stats = here.engine.stats()
    assert (stats["running"], stats["waiting"]) == (0, 0)


def test_after_a_crash_in_the_middle_all_is_well_again(here: Stage) -> None:
    """The answer fails, the next one is cancelled while its model is made ready, one works."""

    async def story(stop: Callable[[list[Event]], bool], act: Callable[[str], None]) -> list[Event]:
        request = here.request(max_tokens=500)
        seen: list[Event] = []
        async for event in here.engine.submit(request):
            seen.append(event)
            if stop(seen):
                await asyncio.to_thread(act, request.id)
        check_protocol(seen)
        return seen

    if (crash := here.crash) is None:
        return  # it is the web process itself, or one that is loaded anew in `--full` alone

    def third(seen: list[Event]) -> bool:
        return tokens_of(seen) == 3 and isinstance(seen[-1], Delta)

    events = here.run(story(third, lambda _id: crash()))
    assert failed(events).code == "engine_crashed"
    assert failed(events).usage.completion_tokens >= 3
    here.repair()
    events = here.run(story(lambda seen: len(seen) == 1, here.engine.cancel))
    assert done(events).reason == "cancelled"
    assert done(here.answer(max_tokens=2)).reason == "length"


def scripted(here: Stage) -> bool:
    return "script" in here.engine.why(here.model)
