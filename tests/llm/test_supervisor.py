"""Workers: loaded once for all, replaced when they die, gone when they should be."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from chat_app import settings
from chat_app.llm import build, catalogue, process, supervisor
from chat_app.llm.engine import ChatMessage, Delta, Event, Loading, ModelNotReady, Request
from tests.llm.conftest import (
    DEMO,
    GEMMA,
    ROOT,
    Stage,
    check_protocol,
    done,
    failed,
    first,
    stage,
    tokens_of,
)

pytestmark = pytest.mark.weights


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.05)
    return True


def pid_of(here: Stage) -> int:
    return int(here.engine.stats()["models"][here.model]["pid"])


def workers() -> list[psutil.Process]:
    """The engine's processes; the session's PostgreSQL is a child of this process as well."""
    return [one for one in psutil.Process().children() if "chat_app.llm.worker" in one.cmdline()]


def test_all_who_wait_share_one_load_and_see_it(demo: Stage) -> None:
    async def story() -> list[list[Event]]:
        return await asyncio.gather(*(demo.events(demo.request(max_tokens=2)) for _ in range(3)))

    demo.run(demo.engine.unload(DEMO))
    assert demo.engine.state(DEMO).state == "available"
    answers = demo.run(story())
    for events in answers:
        check_protocol(events)
        assert isinstance(events[0], Loading)
        assert done(events).reason == "length"
    assert demo.engine.state(DEMO).state == "ready"
    # What is admitted at once is what the worker says.
    assert demo.engine.slots(DEMO) >= 4
    assert len(workers()) == 1


def test_cancel_while_the_model_loads_ends_at_once(demo: Stage) -> None:
    async def story() -> list[Event]:
        request = demo.request()
        seen = []
        async for event in demo.engine.submit(request):
            seen.append(event)
            demo.engine.cancel(request.id)
        return seen

    demo.run(demo.engine.unload(DEMO))
    events = demo.run(story())
    check_protocol(events)
    assert done(events).reason == "cancelled"
    assert done(events).usage.prompt_tokens == 0
    demo.run(demo.engine.load(DEMO))


def test_a_killed_worker_fails_its_answers_and_the_next_one_works(demo: Stage) -> None:
    """T5, T6: the process is shot in the middle of answers; each ends once, with its usage."""

    async def story() -> list[list[Event]]:
        async def shot(number: int) -> list[Event]:
            seen: list[Event] = []
            async for event in demo.engine.submit(demo.request(max_tokens=500)):
                seen.append(event)
                if number == 0 and isinstance(event, Delta) and tokens_of(seen) == 5:
                    os.kill(pid, signal.SIGKILL)
            return seen

        await demo.engine.load(DEMO)
        pid = pid_of(demo)
        return await asyncio.gather(shot(0), shot(1))

    for events in demo.run(story()):
        check_protocol(events)
        assert failed(events).code == "engine_crashed"
        assert failed(events).usage.completion_tokens >= 1
    assert done(demo.answer(max_tokens=2)).reason == "length"


def test_unload_ends_the_process(demo: Stage) -> None:
    demo.run(demo.engine.load(DEMO))
    pid = pid_of(demo)
    demo.run(demo.engine.unload(DEMO))
    assert not psutil.pid_exists(pid)
    assert demo.engine.stats()["models"] == {}
    demo.run(demo.engine.unload(DEMO))


def test_a_worker_that_hangs_is_stopped_and_replaced(demo: Stage) -> None:
    """The whole process is frozen: the watch ends the answer, the supervisor the process."""

    async def story(pid: int) -> list[Event]:
        seen: list[Event] = []
        async for event in engine.submit(demo.request(max_tokens=500)):
            seen.append(event)
            if isinstance(event, Delta) and tokens_of(seen) == 3:
                os.kill(pid, signal.SIGSTOP)
        return seen

    limit, supervisor.CANCEL_LIMIT_SECONDS = supervisor.CANCEL_LIMIT_SECONDS, 1.0
    engine = demo.engine
    demo.run(engine.load(DEMO))
    kept, engine._stall_seconds = engine._stall_seconds, 0.5  # type: ignore[attr-defined]
    try:
        events = demo.run(story(pid_of(demo)))
    finally:
        supervisor.CANCEL_LIMIT_SECONDS = limit
        engine._stall_seconds = kept  # type: ignore[attr-defined]
    check_protocol(events)
    assert failed(events).code in ("engine_stalled", "engine_crashed")
    assert done(demo.answer(max_tokens=2)).reason == "length"


def test_an_unused_model_leaves_memory(demo_weights: Path) -> None:
    with stage(DEMO, threads=1, idle_unload_minutes=0.005) as here:
        here.answer(max_tokens=1)

        async def story() -> None:
            while here.engine.stats()["models"]:
                await asyncio.sleep(0.1)

        here.run(story(), seconds=20)
        assert here.engine.state(DEMO).state == "available"


def test_close_ends_answers_with_what_they_have(demo_weights: Path) -> None:
    here = Stage(build.create(settings.load(models_dir=demo_weights, llm={"threads": 1})), DEMO)

    async def story() -> list[Event]:
        seen: list[Event] = []
        async for event in here.engine.submit(here.request(max_tokens=500)):
            seen.append(event)
            if isinstance(event, Delta) and tokens_of(seen) == 3:
                closing.append(asyncio.create_task(here.engine.close()))
        await closing[0]
        return seen

    closing: list[asyncio.Task[None]] = []
    events = here.run(story())
    check_protocol(events)
    assert done(events).reason == "cancelled"
    assert failed(here.answer()).code == "engine_closed"
    here.close()


def test_a_damaged_file_turns_off_that_model_alone(demo_weights: Path, tmp_path: Path) -> None:
    shutil.copytree(demo_weights / DEMO, tmp_path / DEMO)
    file = tmp_path / DEMO / "SmolLM2-135M-Instruct.Q4_1.gguf"
    with file.open("r+b") as handle:
        handle.write(b"not a GGUF file, but of the same size")
    here = Stage(build.create(settings.load(models_dir=tmp_path, llm={"threads": 1})), DEMO)
    events = here.answer()
    check_protocol(events)
    assert failed(events).code == "load_failed"
    assert "damaged" in failed(events).message
    assert "models pull" in failed(events).message
    assert here.engine.state(DEMO).state == "broken"
    assert failed(here.answer()).code == "model_not_available"
    assert here.engine.state("gemma-3-1b-it").state == "not_downloaded"
    here.close()


def test_a_model_that_is_not_here_says_how_to_get_it(tmp_path: Path) -> None:
    here = Stage(build.create(settings.load(models_dir=tmp_path)), "gemma-3-1b-it")
    events = here.answer()
    check_protocol(events)
    assert failed(events).code == "model_not_available"
    assert "models pull gemma-3-1b-it" in failed(events).message
    with pytest.raises(ModelNotReady):
        here.run(here.engine.load("gemma-3-1b-it"))
    here.close()


def test_a_load_that_takes_too_long_is_given_up(demo_weights: Path) -> None:
    with stage(DEMO, threads=1, load_seconds=0.2) as here:
        events = here.answer()
        check_protocol(events)
        assert failed(events).code == "load_failed"
        assert "0 seconds" in failed(events).message
        assert here.engine.state(DEMO).state == "available"


def test_workers_see_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "CHAT_APP_ADMIN__PASSWORD", "AWS_SECRET_ACCESS_KEY", "DATABASE_URL"):
        monkeypatch.setenv(name, "do not tell")
    made = process.environment(threads=3, backend="native")
    assert "do not tell" not in made.values()
    assert made["OMP_NUM_THREADS"] == "3"


PARENT = """
import asyncio, sys
from pathlib import Path
from chat_app import settings
from chat_app.llm import build

async def main():
    engine = build.create(settings.load(models_dir=Path(sys.argv[1]), llm={"threads": 1}))
    await engine.start()
    if sys.argv[3] == "loaded":
        await engine.load(sys.argv[2])
        print(engine.stats()["models"][sys.argv[2]]["pid"], flush=True)
    else:
        asyncio.create_task(engine.load(sys.argv[2]))
        inner = engine.engine
        from chat_app.llm.process import Process
        start = Process.start
        async def told(spec):
            process = await start(spec)
            print(process.pid, flush=True)
            return process
        Process.start = told
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("moment", ["loading", "loaded"])
def test_a_worker_ends_with_the_web_process(demo_weights: Path, moment: str) -> None:
    """The web process is shot, so it can tell nobody: the worker must notice by itself."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(demo_weights.resolve()), DEMO, moment],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert psutil.pid_exists(worker)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert eventually(lambda: not psutil.pid_exists(worker))


def test_the_demo_model_answers_sensibly(demo: Stage) -> None:
    entry = catalogue.get(DEMO)
    told = (
        ChatMessage("system", entry.system_prompt),
        ChatMessage("user", "What is the capital of France?"),
    )
    events = demo.run(
        demo.events(demo.request(messages=told, sampling=entry.sampling, max_tokens=30))
    )
    assert "Paris" in "".join(event.text for event in events if isinstance(event, Delta))


def test_the_second_turn_reuses_the_first(demo: Stage) -> None:
    """The prefix cache: a long conversation's next turn reads only what is new."""
    long = ChatMessage("user", "Remember: " + "the fox jumps over the dog. " * 120)
    demo.run(demo.engine.load(DEMO))
    cold = done(demo.run(demo.events(demo.request(messages=(long,), max_tokens=4))))
    again = (long, ChatMessage("assistant", "Yes."), ChatMessage("user", "And?"))
    warm = done(demo.run(demo.events(demo.request(messages=again, max_tokens=4))))
    assert warm.usage.prompt_tokens > cold.usage.prompt_tokens > 700
    assert warm.usage.ttft_ms < cold.usage.ttft_ms / 2


def test_leaving_in_the_middle_of_a_load_does_not_stop_it(demo: Stage) -> None:
    demo.run(demo.engine.unload(DEMO))

    async def story() -> None:
        events = demo.engine.submit(demo.request())
        await first(events, lambda event: isinstance(event, Loading))
        await events.aclose()  # type: ignore[attr-defined]
        await demo.engine.load(DEMO)

    demo.run(story())
    assert demo.engine.state(DEMO).state == "ready"


def test_an_idle_model_makes_room_for_another(
    demo: Stage, gemma_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker says once that memory is short: the idle model goes, the load is tried again."""
    tries = []

    async def short_once(self: process.Process, progress: object) -> None:
        tries.append(self.spec.model)
        if len(tries) == 1:
            raise process.Refused("not_enough_memory", "There is not enough memory.")

    demo.run(demo.engine.load(DEMO))
    with monkeypatch.context() as patch:
        patch.setattr(process.Process, "load", short_once)
        demo.run(demo.engine.load(GEMMA))
    assert tries == [GEMMA, GEMMA]
    assert list(demo.engine.stats()["models"]) == [GEMMA]
    demo.run(demo.engine.unload(GEMMA))


def test_memory_that_is_short_for_good_is_refused(
    demo: Stage, gemma_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def short(self: process.Process, progress: object) -> None:
        raise process.Refused("not_enough_memory", "There is not enough memory. Unload another.")

    monkeypatch.setattr(process.Process, "load", short)
    events = demo.run(demo.events(demo.request(model=GEMMA)))
    check_protocol(events)
    assert failed(events).code == "not_enough_memory"
    assert demo.engine.state(GEMMA).state == "available"


def test_a_worker_that_dies_again_and_again_is_restarted_less_and_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = supervisor.Supervisor(settings.load(models_dir=tmp_path))
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: 1000.0)
    model = made._model(DEMO)
    pauses = []
    for _ in range(9):
        made._crashed(model)
        pauses.append(model.not_before - 1000.0)
    assert pauses == [0, 1, 2, 4, 8, 16, 32, 60, 60]


def test_the_engine_works_on_the_loop_of_the_server(demo_weights: Path) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def story() -> list[Event]:
        engine = build.create(settings.load(models_dir=demo_weights, llm={"threads": 1}))
        await engine.start()
        request = Request("u", DEMO, (ChatMessage("user", "Hi"),), 3)
        seen = [event async for event in engine.submit(request)]
        await engine.close()
        return seen

    events = uvloop.run(story())
    check_protocol(events)
    assert tokens_of(events) >= 1
