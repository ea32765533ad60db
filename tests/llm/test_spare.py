"""A worker waits with its libraries while no model is in memory, and the next load takes it."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from chat_app.llm import spare, supervisor
from chat_app.llm.backends.base import Spec
from chat_app.llm.process import Process
from tests.apps import in_loop
from tests.llm.conftest import DEMO, Stage, done, stage, text_of

SPEC = Spec(
    model=DEMO,
    family="llama",
    path="nowhere",
    backend="native",
    device="cpu",
    threads=1,
    context_tokens=512,
)


@pytest.fixture
def here(demo_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(supervisor, "_PREPARE_SECONDS", 0.05)
    with stage(DEMO, threads=1, engine="native") as made:
        yield made


def waiting(here: Stage) -> dict[str, Any] | None:
    found: dict[str, Any] | None = here.engine.stats().get("spare")
    return found


def until(here: Stage, condition: Callable[[], object]) -> None:
    async def story() -> None:
        while not condition():
            await asyncio.sleep(0.02)

    here.run(story(), seconds=60)


def prepared(here: Stage) -> int:
    """The process that waits, once it has its libraries."""
    until(here, lambda: (waiting(here) or {}).get("prepared"))
    found = waiting(here)
    assert found is not None
    return int(found["pid"])


def mapped(pid: int) -> str:
    return " ".join(each.path for each in psutil.Process(pid).memory_maps())


def pid_of(here: Stage) -> int:
    return int(here.engine.stats()["models"][DEMO]["pid"])


@pytest.mark.weights
def test_the_load_takes_the_worker_that_waits(here: Stage) -> None:
    first = prepared(here)
    assert "libtorch" in mapped(first)
    assert here.engine.stats()["models"] == {}
    answer = here.answer(max_tokens=4)
    assert done(answer).reason == "length"
    assert pid_of(here) == first
    # None waits while a model is in memory.
    here.run(asyncio.sleep(0.5))
    assert waiting(here) is None
    here.run(here.engine.unload(DEMO))
    assert not psutil.pid_exists(first)
    second = prepared(here)
    assert second != first
    again = here.answer(max_tokens=4)
    assert (pid_of(here), text_of(again)) == (second, text_of(answer))
    here.run(here.engine.close())
    assert not psutil.pid_exists(second)


@pytest.mark.weights
def test_a_load_waits_for_the_import_that_has_begun(here: Stage) -> None:
    until(here, lambda: waiting(here))
    found = waiting(here)
    assert found is not None
    assert not found["prepared"]
    assert done(here.answer(max_tokens=2)).reason == "length"
    assert pid_of(here) == found["pid"]


@pytest.mark.weights
def test_one_too_many_is_ended(here: Stage) -> None:
    """It was being started when a load began."""
    here.run(here.engine.load(DEMO))
    inner = here.engine.engine  # type: ignore[attr-defined]
    started: list[int] = []

    async def start() -> None:
        process = await Process.start(SPEC)
        started.append(process.pid)
        inner._spare._waiting = process, asyncio.create_task(process.prepare())

    here.run(start())
    until(here, lambda: not psutil.pid_exists(started[0]))
    assert waiting(here) is None
    assert pid_of(here) != started[0]


@pytest.mark.weights
def test_a_worker_that_died_waiting_is_replaced(here: Stage) -> None:
    first = prepared(here)
    os.kill(first, signal.SIGKILL)
    here.run(asyncio.sleep(0.5))
    assert done(here.answer(max_tokens=2)).reason == "length"
    assert pid_of(here) != first


@pytest.mark.weights
def test_the_setting_turns_it_off(demo_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_PREPARE_SECONDS", 0.05)
    with stage(DEMO, threads=1, engine="native", warm_worker=False) as made:
        made.run(asyncio.sleep(1))
        assert waiting(made) is None


def test_without_weights_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_PREPARE_SECONDS", 0.05)
    with stage(DEMO, threads=1, models_dir=tmp_path) as made:
        made.run(asyncio.sleep(1))
        assert waiting(made) is None


@pytest.mark.parametrize("change", [{"backend": "transformers"}, {"threads": 2}])
@in_loop
async def test_a_worker_that_does_not_suit_makes_way(change: dict[str, Any]) -> None:
    held = spare.Spare()
    await held.prepare(SPEC)
    found = held.view()
    assert found is not None
    process = await held.worker(replace(SPEC, **change))
    try:
        assert process.pid != found["pid"]
        assert not psutil.pid_exists(found["pid"])
        assert held.view() is None
    finally:
        await process.end()


@in_loop
async def test_a_load_that_is_given_up_leaves_no_process() -> None:
    held = spare.Spare()
    await held.prepare(SPEC)
    found = held.view()
    assert found is not None
    load = asyncio.create_task(held.worker(SPEC))
    await asyncio.sleep(0.05)
    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    assert not psutil.pid_exists(found["pid"])


@in_loop
async def test_an_import_that_kills_the_worker_is_not_tried_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    held = spare.Spare()
    start = Process.start

    async def shot(spec: Spec) -> Process:
        process = await start(spec)
        process.kill()
        return process

    with monkeypatch.context() as patch:
        patch.setattr(Process, "start", shot)
        await held.prepare(SPEC)
        async with asyncio.timeout(20):
            while not (held.view() or {}).get("prepared"):
                await asyncio.sleep(0.02)
    assert "no worker waits" in caplog.text
    await held.end()
    assert not held.wanted
    # The next load is a new chance.
    process = await held.worker(SPEC)
    assert process.alive
    assert held.wanted
    await process.end()


@in_loop
async def test_a_machine_without_room_for_a_process_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refused(_spec: Spec) -> Process:
        raise BlockingIOError("no more processes")

    held = spare.Spare()
    monkeypatch.setattr(Process, "start", refused)
    await held.prepare(SPEC)
    assert held.view() is None
    assert not held.wanted
    assert "no more processes" in caplog.text


@in_loop
async def test_short_of_memory_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    held = spare.Spare()
    monkeypatch.setattr(spare, "_FREE_BYTES", 1 << 60)
    await held.prepare(SPEC)
    assert held.view() is None
    assert held.wanted
