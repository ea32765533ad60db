"""Advice: what the last hours' figures say about speed and room, and memory that can be freed.

Every recommendation is a rule with its numbers: what was seen, what would be well, what to do.
"""

import asyncio
import gc
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from chat_app.app import App
from chat_app.clock import MICROS_PER_SECOND
from chat_app.errors import AppError
from chat_app.monitor import heap, series
from chat_app.monitor.probe import rss_of
from chat_app.monitor.requests import BOUNDS, CLASSES, quantile
from chat_app.monitor.rules import shown
from chat_app.monitor.series import Slot, Tallies, Tally

log = logging.getLogger(__name__)

# How far back, and the width of a point of a graph; both in seconds.
RANGES = {
    "1h": (3600, 60),
    "24h": (86_400, 1800),
    "7d": (7 * 86_400, 3 * 3600),
    "30d": (30 * 86_400, 12 * 3600),
}
Range = Literal["1h", "24h", "7d", "30d"]
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """A recommendation. `value` was seen, up to `goal` is well, both in `unit`."""

    area: str
    name: str
    level: Literal["info", "warn", "bad"]
    sentence: str
    action: str
    value: float
    goal: float
    unit: str


@dataclass(frozen=True)
class Analysis:
    """Findings of the last `seconds`, worst first, and the figures they were drawn from."""

    seconds: int
    minutes_seen: int
    findings: list[Finding]
    figures: Tallies


@dataclass(frozen=True)
class Freed:
    """One step of `optimize`: bytes of memory that the processes have less than before."""

    step: str
    sentence: str
    bytes: int


@dataclass(frozen=True)
class Optimized:
    """Memory of this process and its models, in bytes, before and after."""

    before_bytes: int
    after_bytes: int
    steps: list[Freed]

    @property
    def freed_bytes(self) -> int:
        """What the machine has back; 0 when others grew meanwhile."""
        return max(0, self.before_bytes - self.after_bytes)


def look_back(app: App, *, seconds: int, width: int) -> list[Slot]:
    """The last `seconds` in bins of `width` seconds, which is one of the steps or many of them."""
    now = app.clock.micros() // MICROS_PER_SECOND
    return between(app, since=now - seconds, until=now + 1, width=width)


def between(app: App, *, since: int, until: int, width: int) -> list[Slot]:
    """The figures of a time, in seconds since 1970."""
    step = max(
        (one for one in (series.MINUTE, series.QUARTER, series.DAY) if width % one == 0),
        default=series.MINUTE,
    )
    slots = app.telemetry.recorder.read(since=since - since % width, until=until, step=step)
    return series.binned(slots, since=since, until=until, width=width)


def buckets_of(tallies: Tallies, name: str) -> list[float]:
    """How many requests of a class fell into each bucket of time."""
    return [
        tallies[key].total if (key := f"http.{name}.b{place:02}") in tallies else 0.0
        for place in range(len(BOUNDS) + 1)
    ]


def requests_of(tallies: Tallies) -> dict[str, dict[str, float | None]]:
    """Counts and times by class; classes without requests are left out. Times in ms."""
    found: dict[str, dict[str, float | None]] = {}
    for name in CLASSES:
        count = tallies.get(f"http.{name}.requests")
        if count is None:
            continue
        buckets = buckets_of(tallies, name)
        times = {share: quantile(buckets, share) for share in (0.5, 0.95)}
        found[name] = {
            "requests": count.total,
            "refused": tallies.get(f"http.{name}.refused", Tally()).total,
            "failed": tallies.get(f"http.{name}.failed", Tally()).total,
            "p50_ms": None if times[0.5] is None else times[0.5] * 1000,
            "p95_ms": None if times[0.95] is None else times[0.95] * 1000,
        }
    return found


def analyse(app: App, *, seconds: int = 3600) -> Analysis:
    """What to do about the last `seconds`, if anything."""
    width = series.MINUTE if seconds <= 6 * 3600 else series.QUARTER
    slots = [slot for slot in look_back(app, seconds=seconds, width=width) if slot.tallies]
    whole = series.total(slots)
    span = _words(seconds)
    found = [*_of_engine(app, whole, span), *_of_machine(whole, slots, span),
             *_of_requests(whole, span), *_of_memory(app)]  # fmt: skip
    order = {"bad": 0, "warn": 1, "info": 2}
    return Analysis(
        seconds=seconds,
        minutes_seen=len(slots) * width // 60,
        findings=sorted(found, key=lambda item: order[item.level]),
        figures=whole,
    )


def _finding(
    whole: Tallies,
    metric: str,
    goal: float,
    unit: str,
    *,
    area: str,
    span: str,
    words: str,
    action: str,
    read: Callable[[Tally], float] = lambda tally: tally.most,
    level: Literal["info", "warn", "bad"] = "warn",
) -> Iterator[Finding]:
    tally = whole.get(metric)
    if tally is None or not tally.count or (value := read(tally)) <= goal:
        return
    sentence = f"{words} {shown(value, unit)} over the last {span} (well: {shown(goal, unit)})."
    yield Finding(area, metric, level, sentence, action, value, goal, unit)


def _mean(tally: Tally) -> float:
    return tally.mean


def _of_engine(app: App, whole: Tallies, span: str) -> Iterator[Finding]:
    yield from _finding(
        whole, "engine.queue_ms_p95", 5000, "ms", words="Queue p95 reached",
        area="engine", span=span,
        action="Let fewer answers run at once for each user (limits.running_per_user), offer a "
        "smaller model as the default, or add a machine.",
    )  # fmt: skip
    yield from _finding(
        whole, "engine.ttft_ms_p95", 5000, "ms", words="First word p95 reached",
        area="engine", span=span,
        action="Long prompts are read before the first word: keep models in memory "
        "(llm.idle_unload_minutes), shorten system prompts, use a faster device.",
    )  # fmt: skip
    yield from _finding(
        whole, "engine.busy_percent", 85, "%", words="The busiest model worked", read=_mean,
        action="It is near its limit: a second machine or server (llm.remote_url) halves this.",
        area="engine", span=span,
    )  # fmt: skip
    yield from _finding(
        whole, "engine.kv_used_percent", 90, "%", words="The KV cache was filled up to",
        area="engine", span=span,
        action="Lower llm.max_output_tokens or the number of answers at once, or give the model "
        "more memory: beyond this answers wait for room.",
    )  # fmt: skip
    yield from _finding(
        whole, "engine.places_percent", 80, "%", words="Places were taken up to",
        area="engine", span=span,
        action="Beyond 100 % messages are refused. Raise limits.queue_total if people would "
        "rather wait, or add capacity.",
    )  # fmt: skip
    failed = whole.get("engine.answers_failed", Tally()).total
    done = whole.get("engine.answers_done", Tally()).total
    if failed >= 3 and failed > 0.02 * (failed + done):
        share = 100 * failed / (failed + done)
        yield Finding(
            "engine", "engine.answers_failed", "bad",
            f"{failed:.0f} of {failed + done:.0f} answers failed over the last {span} "
            f"({share:.1f} %, well: 2 %).",
            "See the codes under Admin, Models at work, and the log. They cost nobody anything.",
            share, 2, "%",
        )  # fmt: skip
    yield from _of_caches(app, whole, span)


def _of_caches(app: App, whole: Tallies, span: str) -> Iterator[Finding]:
    prompt = whole.get("engine.prompt_tokens", Tally()).total
    cached = whole.get("engine.cached_tokens", Tally()).total
    if prompt > 20_000 and cached < 0.1 * prompt:
        share = 100 * cached / prompt
        yield Finding(
            "engine", "engine.cached_tokens", "info",
            f"Only {share:.0f} % of {prompt:,.0f} prompt tokens came from the prefix cache over "
            f"the last {span} (well: 10 %).",
            "Second turns are read anew. A backend with prefix reuse (llm.engine native) or more "
            "memory for its cache makes them start faster.",
            share, 10, "%",
        )  # fmt: skip
    kept = app.cache.stats()
    hits = whole.get("cache.hits", Tally()).total
    asked = hits + whole.get("cache.misses", Tally()).total
    full = kept["entries"] >= app.settings.llm.cache.entries > 0
    if asked >= 200 and full and hits < 0.05 * asked:
        yield Finding(
            "engine", "cache.hits", "info",
            f"The answer cache is full ({kept['entries']:,} entries) and gave {hits:.0f} of "
            f"{asked:.0f} answers over the last {span}.",
            "Raise llm.cache.entries, or set it to 0 and keep the memory.",
            100 * hits / asked, 5, "%",
        )  # fmt: skip


def _of_machine(whole: Tallies, slots: list[Slot], span: str) -> Iterator[Finding]:
    yield from _finding(
        whole, "cpu.percent", 85, "%", words="The processor worked at", read=_mean, span=span,
        area="machine", action="Leave a core to the web process (llm.threads), or move the model "
        "to a GPU or another machine.",
    )  # fmt: skip
    yield from _finding(
        whole, "memory.percent", 90, "%", words="Memory was filled up to", span=span,
        area="machine", action="Free it under Admin, Monitoring, choose a smaller model, or lower "
        "llm.idle_unload_minutes.",
    )  # fmt: skip
    yield from _finding(
        whole, "swap.used_bytes", 256e6, "GB", words="Swap held", span=span, area="machine",
        action="A model that swaps is slower by orders of magnitude: unload one.", read=_mean,
    )  # fmt: skip
    yield from _finding(
        whole, "loop.lag_ms", 250, "ms", words="The event loop was late by up to", span=span,
        area="machine", action="Everybody's answers stood still for that long. Look for lines with "
        "a long duration_ms in the log at that time.",
    )  # fmt: skip
    yield from _finding(
        whole, "db.wait_ms_p95", 250, "ms", words="Writing the books took up to", span=span,
        area="database", action="The disk is slow or shared. Put data_dir on a local SSD, or use "
        "PostgreSQL (database.url).",
    )  # fmt: skip
    yield from _finding(
        whole, "db.wal_bytes", 128e6, "GB", words="The write-ahead log grew to", span=span,
        area="database", action="A long read keeps it from being carried over: look for reports "
        "or copies that run for long.",
    )  # fmt: skip
    yield from _of_disk(slots, span)
    waiting = whole.get("engine.waiting", Tally())
    if waiting.mean >= 1:
        for name, tally in sorted(whole.items()):
            if name.startswith("gpu.") and name.endswith(".percent") and 0 < tally.mean < 40:
                yield Finding(
                    "machine", name, "info",
                    f"{waiting.mean:.1f} answers waited on average while GPU {name.split('.')[1]} "
                    f"worked at {tally.mean:.0f} % over the last {span}.",
                    "It could write more answers at once: raise limits.running_per_user, or give "
                    "the model's cache more memory.",
                    tally.mean, 40, "%",
                )  # fmt: skip


def _of_disk(slots: list[Slot], span: str) -> Iterator[Finding]:
    """When the disk will be full, by the first and the last quarter of what was seen."""
    seen = [slot for slot in slots if "disk.free_bytes" in slot.tallies]
    part = len(seen) // 4
    if part < 4:
        return
    ends = [
        sum(slot.tallies["disk.free_bytes"].mean for slot in some) / part
        for some in (seen[:part], seen[-part:])
    ]
    passed = seen[-1].at - seen[0].at
    lost = (ends[0] - ends[1]) / max(1.0, 0.75 * passed)  # bytes a second
    if lost <= 0:
        return
    days = ends[1] / lost / 86_400
    if days < 14:
        yield Finding(
            "machine", "disk.free_bytes", "bad" if days < 3 else "warn",
            f"The disk lost {shown(ends[0] - ends[1], 'GB')} over the last {span}: at this pace "
            f"it is full in {days:.1f} days.",
            "Make room, or lower what is kept: notifications.keep_days, logs, backups.",
            days, 14, "days",
        )  # fmt: skip


def _of_requests(whole: Tallies, span: str) -> Iterator[Finding]:
    for name, row in requests_of(whole).items():
        count, failed, slow = row["requests"] or 0.0, row["failed"] or 0.0, row["p95_ms"]
        if name != "ops" and failed and failed > 0.01 * count:
            share = 100 * failed / count
            yield Finding(
                "requests", f"http.{name}.failed", "bad",
                f"{failed:.0f} of {count:.0f} requests of class {name} failed over the last {span} "
                f"({share:.1f} %, well: 1 %).",
                "Search the log for their route with status 500 and above.", share, 1, "%",
            )  # fmt: skip
        # A chat answer takes as long as it takes; the engine's own figures judge it.
        if name not in ("chat", "openai") and count >= 20 and slow is not None and slow > 1000:
            yield Finding(
                "requests", f"http.{name}.p95", "warn",
                f"p95 of requests of class {name} was {shown(slow, 'ms')} over the last {span} "
                "(well: 1 s).",
                "Look at the event loop's lag and the database's waits at the same time.",
                slow, 1000, "ms",
            )  # fmt: skip


def _of_memory(app: App) -> Iterator[Finding]:
    idle = {
        model: state for model, state in app.engine.stats()["models"].items()
        if state.get("idle_seconds", 0) > 600 and state.get("memory_bytes")
    }  # fmt: skip
    if idle:
        held = sum(state["memory_bytes"] for state in idle.values())
        longest = max(state["idle_seconds"] for state in idle.values()) / 60
        names = ", ".join(sorted(idle))
        yield Finding(
            "memory", "engine.idle_models", "info",
            f"{names}: unused for up to {longest:.0f} minutes and holding {held / GIB:.1f} GiB.",
            "POST /api/performance/optimize/memory gives it back; the next message loads again.",
            held / GIB, 0, "GiB",
        )  # fmt: skip


async def optimize(
    app: App, *, models: bool = True, caches: bool = True, idle_seconds: float = 60
) -> Optimized:
    """Free memory: unload models unused for `idle_seconds`, empty caches, return freed pages.

    What is being written goes on. Nothing is lost but speed: an answer that was cached is written
    anew, a model is loaded with its next message.
    """
    pids = _pids(app)
    before = now = await asyncio.to_thread(_memory, pids)
    steps: list[Freed] = []

    async def done(step: str, sentence: str) -> None:
        nonlocal now
        after = await asyncio.to_thread(_memory, pids)
        steps.append(Freed(step, sentence, max(0, now - after)))
        now = after

    if models:
        for model in _idle(app, idle_seconds):
            try:
                await app.engine.unload(model)
            except AppError as error:  # somebody has just asked it something
                steps.append(Freed("model", f"{model} stays: {error}", 0))
                continue
            await done("model", f"{model} was unloaded; its next message loads it again.")
    if caches:
        count = app.cache.clear()
        app.outlooks.clear()
        await done("caches", f"{count} cached answers were dropped.")
    found = await asyncio.to_thread(gc.collect)
    await done("objects", f"{found} unreachable objects were collected.")
    trimmed = await asyncio.to_thread(heap.trim)
    await done("pages", "Freed pages were given back." if trimmed else _NO_TRIM)
    result = Optimized(before, now, steps)
    log.info("memory was freed: %d of %d bytes", result.freed_bytes, before)
    return result


_NO_TRIM = "This system's C library takes no order to give pages back."


def _idle(app: App, seconds: float) -> list[str]:
    stats: dict[str, Any] = app.engine.stats()["models"]
    return [
        model for model, state in stats.items()
        if not state.get("running") and not state.get("waiting")
        and state.get("idle_seconds", 0.0) >= seconds
    ]  # fmt: skip


def _pids(app: App) -> list[int]:
    workers = [state.get("pid") for state in app.engine.stats()["models"].values()]
    return [os.getpid(), *(pid for pid in workers if pid and pid != os.getpid())]


def _memory(pids: list[int]) -> int:
    return int(sum(rss_of(pid) for pid in pids))


def _words(seconds: int) -> str:
    for size, name in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size and seconds % size == 0:
            count = seconds // size
            return name if count == 1 else f"{count} {name}s"
    return f"{seconds} seconds"
