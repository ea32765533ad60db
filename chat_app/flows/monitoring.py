"""Monitoring: this process looks at itself every few seconds, keeps what it saw, tells of faults.

A thread of its own samples, so a stalled event loop is seen and not shared. What needs the
database is done by one more thread that may hang alone: then that is what the figures say.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import make_url
from sqlmodel import Session, col, delete

from chat_app import jobs, logs
from chat_app.accounts import permissions
from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.backups import keeping
from chat_app.clock import MICROS_PER_SECOND, rfc3339
from chat_app.credits import holds
from chat_app.flows import books, notices
from chat_app.llm import catalogue
from chat_app.llm.meter import percentile
from chat_app.monitor import faults
from chat_app.monitor.health import beat
from chat_app.monitor.rules import Change, Rule, State
from chat_app.monitor.tables import MachineAlert
from chat_app.notify import outbox

log = logging.getLogger(__name__)

BOOKS_SECONDS = 15
# The look at the books takes milliseconds; after this the database does not answer.
HANGS_SECONDS = 20
# Requests of so long are counted for the share that failed, and this many at least.
ERRORS_SECONDS = 300
ERRORS_AT_LEAST = 20
GONE_SECONDS = 600
MOST_EDGES = 200
HOUR = 3600 * MICROS_PER_SECOND
PROOF, GPUS = "proof", "gpus"
# What all GPUs draw together, of the looks at which a model writes: for the price of running.
BUSY_WATTS = "gpu.busy_watts"
_TOTALS = ("answers_done", "answers_failed", "answers_cancelled", "prompt_tokens",
           "cached_tokens", "completion_tokens")  # fmt: skip


@dataclass(frozen=True)
class Edge:
    """A fault that began (`raised`) or ended, at `at` µs."""

    rule: Rule
    raised: bool
    value: float
    at: int


class Monitor:
    """Looks until it is stopped. `tick` is one look, for tests too."""

    def __init__(self, app: App, *, now: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._now = now
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._books = ThreadPoolExecutor(1, thread_name_prefix="monitor-books")
        self._looking: Future[dict[str, float]] | None = None
        self._looked = -1e9
        self._known: dict[str, float] = {}
        self._told: Future[None] | None = None
        self._edges: deque[Edge] = deque(maxlen=MOST_EDGES)
        self._loaded = False
        self._before: dict[str, float] = {}
        self._requests: deque[tuple[float, int, int]] = deque()

    def start(self) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, and keep what was seen of the last minute."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        self._books.shutdown(wait=False, cancel_futures=True)
        self._app.telemetry.recorder.flush()

    def tick(self, *, wait: bool = False) -> dict[str, float]:
        """One look; with `wait` it returns after the books were looked at and faults told of."""
        began = time.perf_counter()
        telemetry = self._app.telemetry
        if wait:
            self._looked = -1e9
        self._look_at_books(wait=wait)
        values = self._values()
        at = self._app.clock.micros()
        telemetry.latest, telemetry.seen_at = values, at
        telemetry.recorder.record(values, at=at // MICROS_PER_SECOND)
        if self._loaded:
            for rule, raised, value in telemetry.judge.look(values, now=self._now()):
                log.log(
                    logging.ERROR if raised and rule.level == "bad" else logging.WARNING,
                    "fault began" if raised else "fault ended",
                    extra={"rule": rule.name, "value": value, "threshold": rule.threshold},
                )
                self._edges.append(Edge(rule, raised, value, at))
        self._tell(wait=wait)
        self._before["cost"] = (time.perf_counter() - began) * 1000
        return values

    def _run(self) -> None:
        pause = self._app.settings.monitor.sample_seconds
        with logs.bound(request_id=logs.new_id(), job="monitor"):
            while not self._stopped.wait(pause):
                try:
                    self.tick()
                except Exception:
                    log.exception("the machine could not be looked at")

    # What is seen without the database

    def _values(self) -> dict[str, float]:
        app = self._app
        engine = _engine(app)
        workers = [state["pid"] for state in engine["models"].values() if state.get("pid")]
        found = {
            **app.telemetry.machine.look(workers),
            **self._of_engine(engine),
            **self._of_requests(),
            **self._of_writes(),
            **self._known,
        }
        if app.link is not None:
            found["redis.lost"] = float(not app.link.up)
        if (lag := app.telemetry.lag.take()) is not None:
            found["loop.lag_ms"] = lag * 1000
        wanted = app.settings.monitor.gpus or self._known.get("gpu.known", 0.0)
        found["gpu.missing"] = max(0.0, wanted - found["gpu.count"])
        watts = [value for name, value in found.items() if name.endswith(".watts")]
        if watts and found["engine.running"]:
            found[BUSY_WATTS] = sum(watts)
        if "cost" in self._before:
            found["monitor.cost_ms"] = self._before["cost"]
        return found

    def _of_engine(self, engine: dict[str, Any]) -> dict[str, float]:
        app = self._app
        running, waiting = app.limits.counts()
        recent = list(engine.get("recent", {}).values())
        models = list(engine["models"].values())
        limit = app.settings.limits.queue_total
        found = {
            "engine.running": float(engine.get("running", 0)),
            "engine.waiting": float(engine.get("waiting", 0)),
            "engine.places": float(running + waiting),
            "engine.models_loaded": float(len(models)),
            "engine.memory_bytes": float(sum(one.get("memory_bytes", 0) for one in models)),
            "engine.tokens_per_second": float(sum(one["tokens_per_second"] for one in recent)),
            "engine.busy_percent": 100 * max((one["busy_share"] for one in recent), default=0.0),
        }
        if limit:
            found["engine.places_percent"] = 100 * (running + waiting) / limit
        for name in ("ttft_ms_p50", "ttft_ms_p95", "queue_ms_p50", "queue_ms_p95"):
            # Without an answer in five minutes nobody waits.
            found[f"engine.{name}"] = max((one[name] for one in recent if name in one), default=0.0)
        shares = [one["figures"]["kv_used_share"] for one in models
                  if "kv_used_share" in one.get("figures", {})]  # fmt: skip
        if shares:
            found["engine.kv_used_percent"] = 100 * float(max(shares))
        for name in _TOTALS:
            whole = float(sum(one.get(f"{name}_total", 0) for one in recent))
            found[f"engine.{name}"] = self._since(f"engine.{name}", whole)
        kept = app.cache.stats()
        found["cache.bytes"] = float(kept["bytes"])
        for name in ("hits", "misses"):
            found[f"cache.{name}"] = self._since(f"cache.{name}", float(kept[f"{name}_total"]))
        return found

    def _of_requests(self) -> dict[str, float]:
        found: dict[str, float] = {}
        requests = failed = 0
        for name, count in self._app.telemetry.traffic.take().items():
            if not count.requests:
                continue
            found[f"http.{name}.requests"] = float(count.requests)
            found[f"http.{name}.refused"] = float(count.refused)
            found[f"http.{name}.failed"] = float(count.failed)
            for place, number in enumerate(count.buckets):
                if number:
                    found[f"http.{name}.b{place:02}"] = float(number)
            if name != "ops":  # a readiness of 503 is an answer, not a fault
                requests += count.requests
                failed += count.failed
        now = self._now()
        self._requests.append((now, requests, failed))
        while self._requests[0][0] < now - ERRORS_SECONDS:
            self._requests.popleft()
        whole = sum(item[1] for item in self._requests)
        bad = sum(item[2] for item in self._requests)
        found["http.failed_percent"] = 100 * bad / whole if whole >= ERRORS_AT_LEAST else 0.0
        return found

    def _of_writes(self) -> dict[str, float]:
        db = self._app.db
        found = {}
        waits = db.waits.take()
        if waits:
            found["db.writes"] = float(len(waits))
            found["db.wait_ms_p50"] = percentile(waits, 0.5) * 1000
            found["db.wait_ms_p95"] = percentile(waits, 0.95) * 1000
            found["db.wait_ms_max"] = waits[-1] * 1000
        if db.sqlite:
            path = make_url(db.url).database or ""
            for name, end in (("db.bytes", ""), ("db.wal_bytes", "-wal")):
                with suppress(OSError):
                    found[name] = float(Path(path + end).stat().st_size)
        return found

    def _since(self, name: str, whole: float) -> float:
        """What a total has grown by since the last look; a fresh total counts from 0."""
        before = self._before.get(name, whole)
        self._before[name] = whole
        return whole - before if whole >= before else whole

    # What needs the database

    def _look_at_books(self, *, wait: bool) -> None:
        now = self._now()
        if self._looking is None and now - self._looked >= BOOKS_SECONDS:
            self._looked = now
            self._looking = self._books.submit(self._of_books)
        if self._looking is None:
            return
        if wait:
            with suppress(Exception):
                self._looking.result(HANGS_SECONDS)
        if not self._looking.done():
            if now - self._looked > HANGS_SECONDS:
                self._known["db.down"] = 1.0
            return
        looking, self._looking = self._looking, None
        error = looking.exception()
        if error is None:
            self._known = looking.result()
            return
        self._known["db.down"] = 1.0
        log.warning("the books could not be looked at: %s", error)

    def _of_books(self) -> dict[str, float]:
        app = self._app
        now = app.clock.micros()
        models = [_state(app, entry.id) for entry in catalogue.offered()]
        found = {
            "engine.models_broken": float(models.count("broken")),
            "engine.down": float(not any(
                state in ("ready", "loading", "available") for state in models
            )),
        }  # fmt: skip
        began = time.perf_counter()
        with app.db.read() as session:
            found |= self._read(session, now)
        found["db.read_ms"] = (time.perf_counter() - began) * 1000
        app.db.write(lambda session: self._mark(session, now))
        found["db.down"] = 0.0
        newest = keeping.newest(app.settings.data_dir / keeping.FOLDER)
        if newest is not None:
            found["backup.age_hours"] = max(0, now - newest.made_at) / HOUR
        return found

    def _read(self, session: Session, now: int) -> dict[str, float]:
        judge = self._app.telemetry.judge
        judge.rules = faults.rules_of(session)
        if not self._loaded:
            for row in faults.open_ones(session, place=judge.place):
                judge.states[row.rule] = State(raised=True, value=row.value)
            self._loaded = True
        oldest = holds.oldest_open(session)
        found = {
            "ledger.holds_open": float(holds.count_open(session)),
            "ledger.hold_oldest_seconds": max(0, now - (oldest or now)) / MICROS_PER_SECOND,
            "jobs.failing": float(sum(bool(one.error) for one in jobs.states(session))),
            "mail.dead": float(outbox.counts(session, channel="mail")["dead"]),
            "gpu.known": float((faults.known(session, GPUS) or (0, 0))[0]),
        }
        proof = faults.known(session, PROOF)
        if proof is not None:
            found["ledger.problems"] = float(proof[0]["problems"])
            found["ledger.proof_hours"] = max(0, now - proof[1]) / HOUR
        return found

    def _mark(self, session: Session, now: int) -> None:
        """Prove that the books can be written, and say that this process is there."""
        beat(session, at=now)
        telemetry = self._app.telemetry
        faults.learn(session, name=f"seen {telemetry.source}", value=None, now=now)
        seen = int(telemetry.latest.get("gpu.count", 0))
        if seen > (faults.known(session, GPUS) or (0, 0))[0]:
            faults.learn(session, name=GPUS, value=seen, now=now)
        for row in faults.open_ones(session):
            # A process that is gone for good ends nothing itself.
            if row.place and row.place != telemetry.source:
                there = faults.known(session, f"seen {row.place}")
                if there is None or now - there[1] > GONE_SECONDS * MICROS_PER_SECOND:
                    faults.end(session, rule=row.rule, place=row.place, now=now)

    # Who is told

    def _tell(self, *, wait: bool) -> None:
        if self._edges and (self._told is None or self._told.done()):
            self._told = self._books.submit(self._deliver)
        if wait and self._told is not None:
            self._told.result(HANGS_SECONDS)

    def _deliver(self) -> None:
        """Write the edges in their order; what cannot be written now is tried at the next look."""
        while self._edges:
            edge = self._edges[0]
            try:
                self._app.db.write(partial(tell, self._app, edge))
            except Exception as error:
                log.warning("a fault could not be written: %s", error)
                return
            self._edges.popleft()


def tell(app: App, edge: Edge, session: Session) -> bool:
    """Write that a fault began or ended, and tell administrators; False if it was told before."""
    rule = edge.rule
    place = app.telemetry.judge.place_of(rule)
    data: dict[str, Any] = {
        "rule": rule.name,
        "title": rule.title,
        "level": rule.level,
        "sentence": rule.sentence(edge.value),
        "advice": rule.advice,
        "place": place,
        "value": edge.value,
        "threshold": rule.threshold,
        "unit": rule.unit,
        "since": rfc3339(edge.at),
    }
    if edge.raised:
        number = faults.begin(session, rule=rule, place=place, value=edge.value, now=edge.at)
        if number is None:
            return False
        kind = "machine_alert"
    else:
        row = faults.end(session, rule=rule.name, place=place, now=edge.at)
        if row is None or not rule.enabled:
            return False
        number, kind = row.id, "machine_cleared"
        data |= {"since": rfc3339(row.raised_at), "until": rfc3339(row.cleared_at or edge.at)}
    for user_id in permissions.holders(session, "machine.write"):
        notices.tell(
            session, user_id=user_id, kind=kind, key=str(number), data=data,
            now=app.clock.micros(), by=rule.channels,
        )  # fmt: skip
    return True


def prove(app: App) -> int:
    """Prove the books and keep how it went; returns how many discrepancies there are."""
    found = books.prove(app.db, key=app.secrets.audit_key, data_dir=app.settings.data_dir)
    for item in found[:20]:
        log.error("the proof of the books failed: %s %s", item.invariant, item.sentence)
    value = {"problems": len(found), "first": [item.sentence for item in found[:5]]}
    app.db.write(
        lambda session: faults.learn(session, name=PROOF, value=value, now=app.clock.micros())
    )
    return len(found)


def forget_old(app: App) -> int:
    """Delete faults that ended long ago."""
    before = app.clock.micros() - app.settings.monitor.alert_days * 24 * HOUR

    def story(session: Session) -> int:
        done = session.execute(delete(MachineAlert).where(col(MachineAlert.cleared_at) < before))
        return int(done.rowcount)  # type: ignore[attr-defined]

    return app.db.write(story)


async def change_rule(app: App, *, admin_id: int, name: str, change: Change) -> Rule:
    """Change a rule; on the record. Raises UnknownRule and BadRule."""

    def story(session: Session) -> Rule:
        now, actor = app.clock.micros(), f"user:{admin_id}"
        _before, after = faults.change_rule(session, name=name, change=change, actor=actor, now=now)
        audit.record(
            session, type="machine_rule_changed", actor=actor, now=now, rule=name,
            enabled=after.enabled, threshold=repr(after.threshold), seconds=after.for_seconds,
            channels=" ".join(after.channels),
        )  # fmt: skip
        return after

    rule = await app.db.awrite(story)
    app.telemetry.judge.rules = {**app.telemetry.judge.rules, name: rule}
    return rule


async def reset_rule(app: App, *, admin_id: int, name: str) -> Rule:
    """Make a rule what it usually is; on the record. Raises UnknownRule."""

    def story(session: Session) -> Rule:
        rule = faults.reset_rule(session, name=name)
        audit.record(
            session, type="machine_rule_changed", actor=f"user:{admin_id}",
            now=app.clock.micros(), rule=name, usual=True,
        )  # fmt: skip
        return rule

    rule = await app.db.awrite(story)
    app.telemetry.judge.rules = {**app.telemetry.judge.rules, name: rule}
    return rule


def _engine(app: App) -> dict[str, Any]:
    try:
        return app.engine.stats()
    except RuntimeError:  # a model came or went on the loop meanwhile
        return app.engine.stats()


def _state(app: App, model: str) -> str:
    return app.engine.state(model).state
