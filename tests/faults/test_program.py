"""Faults on the whole program: what people and the operator see, nothing lost, back by itself.

One `launch.py` in a process of its own, its model at another server that does what a test says.
"""

import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.effort import effort
from tests.faults.disk import Disk
from tests.faults.scene import Answer, Scene, gated, playing
from tests.servers import PASSWORD, ROOT, Person

DAYS = 24 * 3600


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def disk(base: Path) -> Iterator[Disk]:
    """The program's data are on it."""
    made = Disk(base / "data")
    yield made
    made.close()


@pytest.fixture(scope="module")
def clock(base: Path) -> Path:
    """By how many seconds the program's clock is wrong."""
    made = base / "clock"
    made.write_text("0")
    return made


@pytest.fixture(scope="module")
def scene(disk: Disk, clock: Path) -> Iterator[Scene]:
    program = (str(ROOT / "tests" / "faults" / "moved_clock.py"), str(clock))
    with playing(disk.folder, program=program) as made:
        yield made


@contextmanager
def full(scene: Scene, disk: Disk) -> Iterator[None]:
    if not disk.own:
        pytest.skip("mounting a small disk is not allowed here")
    disk.fill()
    try:
        yield
    finally:
        disk.free()


@contextmanager
def refusing(scene: Scene, _disk: Disk) -> Iterator[None]:
    """No file of the program may grow: SQLite hears an error that is not 'full', as from a disk
    that fails or was made read-only while it is used."""
    pid = scene.server.process.pid
    limit = resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)


@pytest.mark.parametrize("fault", [full, pytest.param(refusing, marks=pytest.mark.full)])
def test_a_disk_that_takes_nothing(scene: Scene, disk: Disk, fault: Any) -> None:
    """T24, T7: new answers are refused before a model runs; the one that is being written is
    settled when the disk takes it, once; reading goes on and nobody restarts anything."""
    before = float(scene.at_rest()["total"])
    gate = threading.Event()
    scene.far.behave = gated(gate)
    answer = Answer(scene.ann)
    assert answer.begun.wait(20)
    asked = len(scene.far.asked)
    with fault(scene, disk):
        scene.until(scene.down, "the disk is full and nobody says so")
        said = scene.get("/readyz").json()
        assert said["status"] != "ok"
        assert said["checks"]["database"] == "cannot be written"
        assert scene.get("/livez").status_code == 200
        refused = scene.ann.send()
        assert refused.status_code == 503
        assert refused.headers["Retry-After"]
        assert refused.json()["error"]["code"] == "database_unavailable"
        assert len(scene.far.asked) == asked, "nothing was generated"
        assert scene.ann.balance()["held"] != "0"
        gate.set()
        time.sleep(0.5)
        assert answer.is_alive(), "not ended before it is in the books"
    scene.until(scene.ready, "the disk is free again")
    kind, end = answer.end()
    assert kind == "done"
    assert end["charged"] == "1"
    assert float(scene.at_rest()["total"]) == before - 1
    scene.far.behave = lambda handler: handler.answer("a b c")
    assert scene.ann.send().status_code == 200


@pytest.mark.parametrize("days", [2, -2])
def test_a_clock_that_jumps(scene: Scene, clock: Path, days: int) -> None:
    """The time is set while an answer is written: it goes on, is paid once, and so are those
    that begin afterwards; who is signed in stays so or signs in again."""
    before = float(scene.at_rest()["total"])
    gate = threading.Event()
    scene.far.behave = gated(gate)
    answer = Answer(scene.ann)
    assert answer.begun.wait(20)
    name = f"jump{days}".replace("-", "m")
    try:
        clock.write_text(str(days * DAYS))
        # Past the lease, past a look of the sweepers that settle and expire.
        time.sleep(effort(35, 3.5))
        assert scene.ready()
        gate.set()
        kind, end = answer.end()
        assert kind == "done", end
        assert end["charged"] == "1"
        refreshed = scene.ann.bearer.post(
            "/api/auth/login", json={"login": "ann", "password": PASSWORD}
        )
        there = refreshed.raise_for_status().json()["access_token"]
        scene.ann.bearer.headers["Authorization"] = f"Bearer {there}"
        scene.far.behave = lambda handler: handler.answer("a b c")
        sent = scene.ann.send("another").raise_for_status()
        assert sent.json()["charged"] == "1"
        assert float(scene.at_rest()["total"]) == before - 2
        Person(scene.server, name).close()
    finally:
        clock.write_text("0")
    again = scene.ann.bearer.post("/api/auth/login", json={"login": "ann", "password": PASSWORD})
    token = again.raise_for_status().json()["access_token"]
    scene.ann.bearer.headers["Authorization"] = f"Bearer {token}"
    assert scene.ann.send("and back").json()["charged"] == "1"
    assert float(scene.at_rest()["total"]) == before - 3
    listed = scene.ann.bearer.get("/api/billing/transactions?limit=3").json()["items"]
    shown = [item["created_at"] for item in listed]
    assert shown == sorted(shown, reverse=True), "the books' time never goes backwards"


def hangs(handler: Any) -> None:
    time.sleep(2.5)


def hangs_later(handler: Any) -> None:
    handler.stream()
    handler.pieces("one ", "two ")
    time.sleep(2.5)


def disconnects(handler: Any) -> None:
    handler.stream()
    handler.pieces("one ", "two ")
    handler.connection.shutdown(2)


def lies(usage: int) -> Callable[[Any], None]:
    return lambda handler: handler.answer("a b c", usage)


@pytest.mark.parametrize(
    ("behave", "code"),
    [
        pytest.param(hangs, "engine_stalled", marks=pytest.mark.full),
        pytest.param(hangs_later, "engine_stalled", marks=pytest.mark.full),
        (disconnects, "engine_crashed"),
    ],
)
def test_a_model_server_that_fails(scene: Scene, behave: Any, code: str) -> None:
    """T6, T10: the answer fails with its code and is free, and the next one is answered."""
    before = scene.at_rest()
    scene.far.behave = behave
    failed = scene.ann.send()
    assert failed.status_code == 503, failed.text
    assert failed.json()["error"]["code"] == code
    assert scene.at_rest() == before
    scene.far.behave = lambda handler: handler.answer("a b c")
    scene.until(lambda: scene.ann.send().status_code == 200, "the model does not come back")


@pytest.mark.parametrize("said", [None, 0, 3, 1_000_000, -5])
def test_a_model_server_that_lies(scene: Scene, said: int | None) -> None:
    """T17, T21: tokens are those that arrived, or what can be true of them; the price per token
    follows them, whatever the far side reports."""
    before = float(scene.at_rest()["total"])
    scene.far.behave = lies(said) if said is not None else lambda h: h.answer("a b c")
    sent = scene.ann.send("x").raise_for_status().json()
    assert sent["usage"]["completion_tokens"] == 3
    after = float(scene.at_rest()["total"])
    assert sent["charged"] == "1"
    assert before - after == 1
