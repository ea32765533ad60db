"""The meter: shares of the busy time add up, rates forget, percentiles are of what ended."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_app.llm.engine import Done, Failed, Request
from chat_app.llm.meter import Meter, percentile
from chat_app.llm.script import ScriptEngine
from chat_app.llm.watch import Watched
from chat_app.settings import Script
from tests.llm.conftest import Stage, done

MODEL = "gemma-3-1b-it"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_two_answers_share_the_time_in_which_both_ran() -> None:
    """0 to 2 s alone, 2 to 6 s both, 6 to 7 s the other one: 2 + 2 and 2 + 1 seconds."""
    clock = Clock()
    meter = Meter(now=clock)
    first, second = meter.answer(), meter.answer()
    first.started(prompt_tokens=3, cached_tokens=1)
    clock.now += 2
    second.started(prompt_tokens=3, cached_tokens=0)
    clock.now += 4
    assert first.ended("done") == pytest.approx(4000)
    clock.now += 1
    assert second.ended("done") == pytest.approx(3000)
    clock.now += 5
    assert second.ended("failed", "late") == pytest.approx(3000)
    figures = meter.figures()
    assert figures["busy_seconds_total"] == pytest.approx(7)
    assert figures["busy_share"] == pytest.approx(7 / 60, abs=0.001)
    assert figures["engine_ms_mean"] == pytest.approx(3500)
    assert (figures["answers_done"], figures["answers_failed"]) == (2, 0)
    assert (figures["prompt_tokens_total"], figures["cached_tokens_total"]) == (6, 1)


def test_waiting_is_no_engine_time() -> None:
    clock = Clock()
    meter = Meter(now=clock)
    waits = meter.answer()
    clock.now += 30
    assert waits.ended("cancelled") == 0.0
    assert meter.figures()["busy_seconds_total"] == 0
    assert "queue_ms_p50" not in meter.figures()


def test_a_line_before_the_engine_is_a_wait_and_no_engine_time() -> None:
    """People wait for their turn before an engine hears of them."""
    clock = Clock()
    meter = Meter(now=clock)
    span = meter.answer(waited_seconds=20)
    clock.now += 1
    span.started(prompt_tokens=1, cached_tokens=0)
    clock.now += 1
    span.wrote(1)
    span.ended("done")
    now = meter.figures()
    assert (now["queue_ms_p95"], now["ttft_ms_p95"]) == (21_000, 22_000)
    assert now["busy_seconds_total"] == 1


def test_rates_are_of_the_last_minute_and_answers_of_the_last_five() -> None:
    clock = Clock()
    meter = Meter(now=clock)
    span = meter.answer()
    clock.now += 1.5
    span.started(prompt_tokens=1, cached_tokens=0)
    clock.now += 0.5
    for _ in range(120):
        span.wrote(1)
    clock.now += 1
    span.ended("failed", "out_of_memory")
    now = meter.figures()
    assert now["tokens_per_second"] == 2.0
    assert (now["queue_ms_p50"], now["ttft_ms_p95"]) == (1500, 2000)
    assert now["failure_codes"] == {"out_of_memory": 1}
    clock.now += 62
    later = meter.figures()
    assert (later["tokens_per_second"], later["busy_share"]) == (0, 0)
    assert later["answers_failed"] == 1
    clock.now += 300
    last = meter.figures()
    assert (last["answers_failed"], last["answers_failed_total"]) == (0, 1)
    assert last["completion_tokens_total"] == 120


def test_background_work_takes_time_and_is_no_answer() -> None:
    clock = Clock()
    meter = Meter(now=clock)
    title = meter.answer(background=True)
    title.started(prompt_tokens=1, cached_tokens=0)
    clock.now += 2
    assert title.ended("done") == 2000
    assert meter.figures()["answers_done"] == 0
    assert meter.figures()["busy_seconds_total"] == 2


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.floats(0, 3), st.sampled_from(["start", "end"])),
        max_size=60,
    )
)
@settings(max_examples=60, deadline=None)
def test_engine_times_add_up_to_the_busy_time(story: list[tuple[int, float, str]]) -> None:
    """Whatever the order of starts and ends: nothing is counted twice and nothing is lost."""
    clock = Clock()
    meter = Meter(now=clock)
    spans, total = {}, 0.0
    for who, pause, what in story:
        clock.now += pause
        if what == "start" and who not in spans:
            spans[who] = meter.answer()
            spans[who].started(prompt_tokens=1, cached_tokens=0)
        elif what == "end" and who in spans:
            total += spans.pop(who).ended("done")
    total += sum(span.ended("cancelled") for span in spans.values())
    assert total / 1000 == pytest.approx(meter.figures()["busy_seconds_total"], abs=0.002)


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(number) for number in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.95)) == (50, 95)
    assert percentile([7.0], 0.95) == percentile([7.0], 0.5) == 7


def test_every_engine_under_watch_is_measured() -> None:
    """Done, failed, cancelled and left early: each is counted once, and nothing stays running."""
    script = Script(first_token_ms=0, tokens_per_second=200, tokens=20)
    here = Stage(Watched(ScriptEngine(script), stall_seconds=60, answer_seconds=60), MODEL)
    usage = done(here.answer()).usage
    assert 50 <= usage.engine_ms <= usage.duration_ms + 20

    async def leave(request: Request) -> None:
        stream = here.engine.submit(request)
        async for _ in stream:
            break
        await stream.aclose()  # type: ignore[attr-defined]

    async def cancel(request: Request) -> None:
        async for event in here.engine.submit(request):
            here.engine.cancel(request.id)
            assert not isinstance(event, Failed)
            if isinstance(event, Done):
                assert event.reason == "cancelled"

    here.run(leave(here.request()))
    here.run(cancel(here.request()))
    figures = here.engine.stats()["recent"][MODEL]
    here.close()
    assert (figures["answers_done"], figures["answers_cancelled"]) == (1, 2)
    assert figures["tokens_per_second"] > 0
    assert figures["ttft_ms_p50"] >= figures["queue_ms_p50"] >= 0
