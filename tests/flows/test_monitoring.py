"""Monitoring: every alert by an injected fault, told once, cleared once, over restarts too."""

import asyncio
import json
import threading
import time
from collections import namedtuple
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from standardwebhooks import Webhook

from chat_app.accounts import users
from chat_app.app import App
from chat_app.backups import make
from chat_app.backups.make import Place
from chat_app.clock import ManualClock
from chat_app.db import DatabaseUnavailable
from chat_app.flows import backup, deliver, monitoring
from chat_app.flows.monitoring import Monitor
from chat_app.jobs import JobState
from chat_app.llm.engine import ModelState
from chat_app.monitor import faults, probe, rules, system
from chat_app.monitor.probe import GpuProbe
from chat_app.monitor.rules import Change
from chat_app.monitor.tables import MachineAlert
from chat_app.notify import inbox, outbox, webhooks
from chat_app.shared.link import Link
from tests.apps import answer, ask, in_loop, person, running_app
from tests.notify import receivers

Usage = namedtuple("Usage", "total used free")


class Scene:
    """An app with a monitor whose time is moved by hand."""

    def __init__(self, app: App, clock: ManualClock, patch: pytest.MonkeyPatch) -> None:
        self.app, self.clock, self.patch = app, clock, patch
        self.seconds = 1000.0
        self.monitor = Monitor(app, now=lambda: self.seconds)

    async def looks(self, count: int = 1, every: float = 30) -> None:
        """Look some times."""
        for _ in range(count):
            self.seconds += every
            self.clock.advance(seconds=every)
            await asyncio.to_thread(self.monitor.tick, wait=True)

    def rows(self, rule: str) -> list[MachineAlert]:
        """What was written of a rule, oldest first."""
        with self.app.db.read() as session:
            found = faults.newest(session, limit=100)
        return [row for row in reversed(found) if row.rule == rule]

    def mails(self, rule: str) -> list[str]:
        """The kinds of the mails about a rule, oldest first."""
        with self.app.db.read() as session:
            rows, _ = outbox.page(session, limit=100)
        return [row.kind for row in reversed(rows)
                if row.channel == "mail" and json.loads(row.data).get("rule") == rule]  # fmt: skip


@asynccontextmanager
async def scene(folder: Path, patch: pytest.MonkeyPatch, **over: Any) -> AsyncIterator[Scene]:
    """A quiet installation with one administrator."""
    clock = ManualClock()
    async with running_app(folder, clock=clock, **over) as app:
        root = await person(app, "root")
        app.db.write(lambda s: users.set_role(s, user_id=root, role="admin"))
        made = Scene(app, clock, patch)
        patch.setattr(app.telemetry.lag, "take", lambda: 0.0)
        await made.looks(2)
        yield made
        made.monitor.stop()


Fault = Callable[[Scene], Any]


def full_disk(s: Scene) -> None:
    s.patch.setattr(probe.shutil, "disk_usage", lambda _: Usage(10**10, 10**10, 5 * 10**8))


def full_memory(s: Scene) -> None:
    s.patch.setattr(system, "memory", lambda: (95, 100))


def lost_gpu(s: Scene) -> None:
    """It was seen once, by this process or by one before it."""
    s.app.db.write(lambda session: faults.learn(session, name=monitoring.GPUS, value=1, now=1))


def slow_loop(s: Scene) -> None:
    s.patch.setattr(s.app.telemetry.lag, "take", lambda: 0.8)


def failing_requests(s: Scene) -> None:
    original = s.app.telemetry.traffic.take

    def take() -> Any:
        for number in range(20):
            s.app.telemetry.traffic.saw("/api/billing/balance", 500 if number == 0 else 200, 0.01)
        return original()

    s.patch.setattr(s.app.telemetry.traffic, "take", take)


def engine(**recent: float) -> Fault:
    """The engine says so of its last answers."""

    def fault(s: Scene) -> None:
        base = {"tokens_per_second": 1.0, "busy_share": 0.5, **recent}
        stats = {"running": 1, "waiting": 0, "models": {}, "recent": {"m": base}}
        s.patch.setattr(s.app.engine, "stats", lambda: stats)

    return fault


def taken_places(s: Scene) -> None:
    s.patch.setattr(s.app.limits, "counts", lambda: (90, 80))


def broken_model(s: Scene) -> None:
    original = s.app.engine.state

    def state(model: str) -> ModelState:
        return ModelState("broken", "bad bytes") if model == "gemma-3-1b-it" else original(model)

    s.patch.setattr(s.app.engine, "state", state)


def no_model(s: Scene) -> None:
    s.patch.setattr(s.app.engine, "state", lambda _: ModelState("not_downloaded", "none"))


def slow_database(s: Scene) -> None:
    """Somebody's transaction takes a while each time; all others wait for it."""
    s.app.db.write(
        lambda session: faults.change_rule(
            session, name="database_slow", change=Change(threshold=100), actor="x", now=1
        )
    )
    original = s.app.db.waits.take

    def take() -> Any:
        slow = s.app.db.submit(lambda _: time.sleep(0.15))
        s.app.db.submit(lambda _: None).result()
        slow.result()
        return original()

    s.patch.setattr(s.app.db.waits, "take", take)


def lost_redis(s: Scene) -> None:
    """A link that has not connected; a real Redis is lost in tests/flows/test_processes.py."""
    s.app.link = Link("redis://127.0.0.1:1/0", prefix="x")


def redis_again(s: Scene) -> None:
    assert s.app.link is not None
    s.app.link.up = True


def wrong_books(s: Scene) -> None:
    change(s, "+ 1")
    assert monitoring.prove(s.app) > 0


def right_books(s: Scene) -> None:
    change(s, "- 1")
    assert monitoring.prove(s.app) == 0


def change(s: Scene, how: str) -> None:
    statement = text(f"UPDATE account SET posted = posted {how} WHERE kind = 'wallet'")
    s.app.db.write(lambda session: session.execute(statement))


def old_proof(s: Scene) -> None:
    assert monitoring.prove(s.app) == 0
    s.clock.advance(hours=60)


def new_proof(s: Scene) -> None:
    assert monitoring.prove(s.app) == 0


def old_backup(s: Scene) -> None:
    at = s.clock.micros() - 30 * monitoring.HOUR
    make.keep(s.app.db, Place.of(s.app.settings), kind="scheduled", now=at, with_secrets=False)


def new_backup(s: Scene) -> None:
    backup.make_one(s.app, actor="root")


def failing_job(s: Scene) -> None:
    s.app.db.write(lambda session: session.merge(JobState(name="renew plans", error="oh")))


def mended_job(s: Scene) -> None:
    s.app.db.write(lambda session: session.merge(JobState(name="renew plans", error=None)))


def dead_mail(s: Scene) -> None:
    def story(session: Any) -> None:
        outbox.put(session, kind="mail_test", channel="mail", target="a@b.cd", dedupe_key="dead",
                   data={}, now=1)  # fmt: skip
        session.execute(
            text("UPDATE outbox SET state = 'dead', ended_at = 1 WHERE dedupe_key = 'dead'")
        )

    s.app.db.write(story)


def mail_again(s: Scene) -> None:
    s.app.db.write(
        lambda session: session.execute(text("DELETE FROM outbox WHERE dedupe_key = 'dead'"))
    )


def no_mending(s: Scene) -> None:
    """The patches are taken away by the test."""


def no_gpu_any_more(s: Scene) -> None:
    s.app.db.write(lambda session: faults.learn(session, name=monitoring.GPUS, value=0, now=1))


FAULTS: dict[str, tuple[Fault, Fault]] = {
    "disk_low": (full_disk, no_mending),
    "memory_high": (full_memory, no_mending),
    "gpu_missing": (lost_gpu, no_gpu_any_more),
    "loop_lag": (slow_loop, no_mending),
    "error_rate": (failing_requests, no_mending),
    "queue_wait": (engine(queue_ms_p95=12_000.0), no_mending),
    "first_token_slow": (engine(ttft_ms_p95=20_000.0), no_mending),
    "queue_full": (taken_places, no_mending),
    "model_down": (broken_model, no_mending),
    "engine_down": (no_model, no_mending),
    "database_slow": (slow_database, no_mending),
    "redis_lost": (lost_redis, redis_again),
    "ledger_wrong": (wrong_books, right_books),
    "proof_old": (old_proof, new_proof),
    "backup_old": (old_backup, new_backup),
    "job_failing": (failing_job, mended_job),
    "mail_dead": (dead_mail, mail_again),
}
ELSEWHERE = {"hold_old", "database_down"}


def test_every_rule_has_a_fault() -> None:
    assert set(FAULTS) | ELSEWHERE == set(rules.USUAL)


@in_loop
async def test_each_fault_is_told_once_and_its_end_once(tmp_path: Path) -> None:
    """Bar 44: every rule fires by its fault, stays silent while it lasts, and clears."""
    patch = pytest.MonkeyPatch()
    async with scene(tmp_path, patch, limits={"queue_total": 200}) as s:
        root = 1
        for name, (fault, mend) in FAULTS.items():
            rule = rules.USUAL[name]
            lasts = rule.for_seconds // 60 + 2
            with pytest.MonkeyPatch.context() as here:
                s.patch = here
                fault(s)
                await s.looks(lasts, every=60)
                (row,) = s.rows(name)
                assert row.cleared_at is None, name
                assert row.place == ("" if rule.shared else s.app.telemetry.source)
                await s.looks(2)
                assert len(s.rows(name)) == 1, f"{name} again"
            mend(s)
            # What failed is counted for five minutes.
            await s.looks(rule.clear_seconds // 60 + (8 if name == "error_rate" else 2), every=60)
            (row,) = s.rows(name)
            assert row.cleared_at is not None, name
            told = ["machine_alert", "machine_cleared"] if "mail" in rule.channels else []
            assert s.mails(name) == told, name
        with s.app.db.read() as session:
            assert faults.open_ones(session) == []
            items, _ = inbox.page(session, user_id=root, limit=100)
        kinds = [item.kind for item in items]
        assert kinds.count("machine_alert") == kinds.count("machine_cleared") == len(FAULTS)
        (disk,) = [item for item in items if item.title == "Alert: Little room on the disk"]
        assert "0.50 GB (below 1.00 GB for 1 min)" in disk.body
        assert "Make room" in disk.body


@in_loop
async def test_a_hold_that_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = {"tokens_per_second": 20, "tokens": 400}
    async with scene(tmp_path, monkeypatch, script=slow) as s:
        alice = await person(s.app)
        started = await ask(s.app, alice)
        await s.looks(40)
        (row,) = s.rows("hold_old")
        assert row.value > 900
        s.app.replies.get(started.reply_id).stop_wanted.set()  # type: ignore[union-attr]
        await answer(s.app, alice, started)
        await s.looks(5)
        assert s.rows("hold_old")[0].cleared_at is not None


@in_loop
async def test_a_lost_database_is_told_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be written while it lasts; afterwards its beginning and end are, in order."""
    async with scene(tmp_path, monkeypatch) as s:

        def broken(_story: object) -> None:
            raise DatabaseUnavailable

        began = s.clock.micros()
        with monkeypatch.context() as here:
            here.setattr(s.app.db, "write", broken)
            await s.looks(4)
            assert s.app.telemetry.latest["db.down"] == 1
        assert s.rows("database_down") == []
        await s.looks(4)
        (row,) = s.rows("database_down")
        assert row.cleared_at is not None
        assert began < row.raised_at < row.cleared_at
        assert s.mails("database_down") == ["machine_alert", "machine_cleared"]


@in_loop
async def test_a_database_that_hangs_stops_no_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(tmp_path, monkeypatch) as s:
        hanging = threading.Event()
        s.app.db.submit(lambda _: hanging.wait(30))
        try:
            for _ in range(4):
                s.seconds += 30
                began = time.perf_counter()
                s.monitor.tick()
                assert time.perf_counter() - began < 2
            assert s.app.telemetry.latest["db.down"] == 1
        finally:
            hanging.set()


@in_loop
async def test_a_fault_outlives_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next process goes on with the open fault: it tells nothing anew, and tells its end."""
    async with scene(tmp_path, monkeypatch) as s:
        with pytest.MonkeyPatch.context() as here:
            s.patch = here
            full_disk(s)
            await s.looks(5)
            assert s.mails("disk_low") == ["machine_alert"]
            s.monitor.stop()
            s.app.telemetry.judge.states.clear()
            s.monitor = Monitor(s.app, now=lambda: s.seconds)
            await s.looks(5)
            assert s.mails("disk_low") == ["machine_alert"]
        await s.looks(5)
        assert s.mails("disk_low") == ["machine_alert", "machine_cleared"]


@in_loop
async def test_two_processes_tell_of_a_shared_fault_once(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place's own faults are told for each place; one that never comes back is ended."""
    async with scene(tmp_path, monkeypatch, url=database_url) as s:
        mine = s.app.telemetry
        twin = Monitor(s.app, now=lambda: s.seconds)
        states: dict[str, dict[str, rules.State]] = {}
        with pytest.MonkeyPatch.context() as here:
            s.patch = here
            full_disk(s)
            failing_job(s)
            for _ in range(13):
                for monitor, place in ((s.monitor, "box-1:80"), (twin, "box-2:80")):
                    judge = rules.Judge(place, states=states.setdefault(place, {}))
                    mine.recorder.source, mine.judge = place, judge
                    s.monitor = monitor
                    await s.looks(1, every=15)
                    monitor._loaded = True
        assert len(s.rows("job_failing")) == 1
        assert s.mails("job_failing") == ["machine_alert"]
        assert {row.place for row in s.rows("disk_low")} == {"box-1:80", "box-2:80"}
        mended_job(s)
        # box-1 is gone for good.
        await s.looks(30)
        assert [bool(row.cleared_at) for row in s.rows("disk_low")] == [True, True]
        assert s.mails("disk_low").count("machine_cleared") == 1
        assert s.mails("job_failing") == ["machine_alert", "machine_cleared"]


@in_loop
async def test_a_webhook_is_called_and_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receivers.web() as receiver:
        allowed = {"webhook_allow": receiver.place}
        async with scene(tmp_path, monkeypatch, notifications=allowed) as s:
            _, secret = s.app.db.write(
                lambda session: webhooks.add(
                    session, user_id=1, url=receiver.url, events=["machine.alert"],
                    key=s.app.secrets.link_key, most=5, allowed=s.app.wire.allowed,
                    now=s.clock.micros(),
                )
            )  # fmt: skip
            failing_job(s)
            await s.looks(13)
            await asyncio.to_thread(deliver.deliver_due, s.app)
            mended_job(s)
            await s.looks(6)
            await asyncio.to_thread(deliver.deliver_due, s.app)
            (call,) = receiver.calls  # the end was not asked for
            monkeypatch.setattr("standardwebhooks.webhooks.datetime", Frozen(s.clock))
            said = Webhook(secret).verify(call.body, call.headers)
            assert said["type"] == "machine.alert"
            assert said["data"]["rule"] == "job_failing"
            assert said["data"]["value"] == 1


class Frozen:
    """`datetime` as the receiver's library sees it: at the time of the test."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock

    def now(self, **_: object) -> Any:
        return self._clock.now()

    def __getattr__(self, name: str) -> Any:
        import datetime

        return getattr(datetime.datetime, name)


@in_loop
async def test_channels_and_thresholds_are_the_operators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(tmp_path, monkeypatch) as s:
        await monitoring.change_rule(
            s.app, admin_id=1, name="disk_low",
            change=Change(threshold=1e15, for_seconds=0, channels=("app",)),
        )  # fmt: skip
        await s.looks(1)
        (row,) = s.rows("disk_low")
        assert row.threshold == 1e15
        assert s.mails("disk_low") == []
        with s.app.db.read() as session:
            assert inbox.unread(session, user_id=1) == 1
        await monitoring.change_rule(
            s.app, admin_id=1, name="disk_low", change=Change(enabled=False)
        )
        await s.looks(1)
        assert s.rows("disk_low")[0].cleared_at is not None
        with s.app.db.read() as session:
            assert inbox.unread(session, user_id=1) == 1, "nobody wanted to know"
        rule = await monitoring.reset_rule(s.app, admin_id=1, name="disk_low")
        assert rule == rules.USUAL["disk_low"]


@in_loop
async def test_the_loop_is_watched_for_real(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop of the loop is seen when it is over, and while it lasts."""
    async with scene(tmp_path, monkeypatch) as s:
        monkeypatch.undo()
        watching = asyncio.create_task(s.app.telemetry.lag.watch())
        await asyncio.sleep(0.05)
        seen: list[float] = []

        def look() -> None:
            time.sleep(0.45)
            seen.append(s.app.telemetry.lag.take() or 0.0)

        looker = threading.Thread(target=look)
        looker.start()
        time.sleep(0.6)
        looker.join()
        await asyncio.sleep(0.3)
        assert seen[0] > 0.1
        assert (s.app.telemetry.lag.take() or 0) > 0.2
        watching.cancel()


class Nvml:
    """The driver's library, of one card that may fall off the bus."""

    NVMLError = RuntimeError
    there = True

    def nvmlInit(self) -> None:
        if not self.there:
            raise RuntimeError("driver not loaded")

    def nvmlDeviceGetCount(self) -> int:
        if not self.there:
            raise RuntimeError("GPU is lost")
        return 1

    def nvmlDeviceGetHandleByIndex(self, _: int) -> str:
        return "handle"

    def nvmlDeviceGetMemoryInfo(self, _: str) -> Usage:
        return Usage(100, 25, 75)

    def nvmlDeviceGetPowerUsage(self, _: str) -> int:
        return 250_000

    def __getattr__(self, name: str) -> Any:
        def unsupported(*_: object) -> None:
            raise RuntimeError("not supported")

        return unsupported


def test_a_gpu_that_falls_off_the_bus_is_missing() -> None:
    """The driver's library fails then; it is asked again later and the GPU may be back."""

    now, library = [0.0], Nvml()
    gpus = GpuProbe(nvml=lambda: library, now=lambda: now[0])
    assert gpus.look() == {
        "gpu.count": 1, "gpu.0.memory_used_bytes": 25, "gpu.0.memory_percent": 25,
        "gpu.0.watts": 250,
    }  # fmt: skip
    library.there = False
    assert gpus.look() == {"gpu.count": 0}
    library.there = True
    assert gpus.look() == {"gpu.count": 0}, "it is not asked at every look"
    now[0] = probe.GPU_PAUSE_SECONDS + 1
    assert gpus.look()["gpu.count"] == 1
