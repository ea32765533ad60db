"""Figures for operators: the engine's, the queue's and the cache's as metrics, and a verdict.

Everything is read from what the parts already count; nothing here touches a model.
"""

import time
from dataclasses import dataclass
from typing import Any, Literal

from chat_app.app import App
from chat_app.clock import MICROS_PER_SECOND
from chat_app.credits import holds
from chat_app.flows import backup, server_figures
from chat_app.llm import catalogue
from chat_app.monitor import prometheus
from chat_app.monitor.health import MIN_FREE_BYTES
from chat_app.monitor.prometheus import Metric
from chat_app.monitor.requests import BOUNDS
from chat_app.monitor.system import SystemStats
from chat_app.notify import outbox

PREFIX = "chat_app"
FULL_MEMORY_SHARE = 0.92
SLOW_QUEUE_MS = 10_000.0
BUSY_QUEUE_SHARE = 0.8
# Figure of the time series: name on the page, its words, and what makes it the base unit.
_MEASURED = {
    "cpu.percent": ("system_cpu_ratio", "Share of the machine's processors at work.", 0.01),
    "cpu.process_percent": ("process_cpu_ratio", "Processors that this process takes.", 0.01),
    "memory.used_bytes": ("system_memory_used_bytes", "Memory of the machine in use.", 1),
    "memory.percent": ("system_memory_used_ratio", "Share of the memory in use.", 0.01),
    "memory.process_bytes": ("process_memory_bytes", "Resident memory of this process.", 1),
    "memory.workers_bytes": ("models_memory_bytes", "Resident memory of the models.", 1),
    "swap.used_bytes": ("system_swap_used_bytes", "Swap in use.", 1),
    "disk.free_bytes": ("disk_free_bytes", "Room on the disk of the data directory.", 1),
    "process.open_files": ("process_open_files", "Open files and sockets.", 1),
    "process.threads": ("process_threads", "Threads.", 1),
    "gpu.count": ("gpus", "GPUs that can be seen.", 1),
    "gpu.missing": ("gpus_missing", "GPUs that were there once.", 1),
    "loop.lag_ms": ("event_loop_lag_seconds", "How late the event loop was at worst.", 0.001),
    "db.wait_ms_p95": ("db_write_wait_seconds", "p95 of the newest writes.", 0.001),
    "db.read_ms": ("db_read_seconds", "How long reading the figures took.", 0.001),
    "db.bytes": ("db_bytes", "Size of the database's file.", 1),
    "db.wal_bytes": ("db_wal_bytes", "Size of the write-ahead log.", 1),
    "db.down": ("db_down", "1 while the books cannot be written.", 1),
    "redis.lost": ("redis_lost", "1 while this process cannot reach Redis.", 1),
    "engine.models_broken": ("models_broken", "Models that cannot answer by a fault.", 1),
    "engine.down": ("engine_down", "1 while no model can answer.", 1),
    "ledger.hold_oldest_seconds": ("hold_oldest_seconds", "Age of the oldest open hold.", 1),
    "ledger.problems": ("ledger_mismatch", "Discrepancies of the last proof; must be 0.", 1),
    "ledger.proof_hours": ("ledger_proof_age_seconds", "Since the books were proven.", 3600),
    "jobs.failing": ("jobs_failing", "Background jobs whose last run failed.", 1),
    "backup.age_hours": ("backup_age_seconds", "Age of the newest backup.", 3600),
    "monitor.cost_ms": ("monitor_look_seconds", "How long the last look took.", 0.001),
}
_GPU = {
    "percent": ("gpu_busy_ratio", "Share of the time in which the GPU worked.", 0.01),
    "memory_used_bytes": ("gpu_memory_used_bytes", "Memory of the GPU in use.", 1),
    "watts": ("gpu_power_watts", "Power that the GPU takes.", 1),
    "celsius": ("gpu_temperature_celsius", "Temperature of the GPU.", 1),
}
LATE_MESSAGE_MICROS = 3600 * MICROS_PER_SECOND
MIN_FAILURES = 3
MANY_FAILURES_SHARE = 0.1


@dataclass(frozen=True)
class Trouble:
    """Something that needs a person: a sentence with the next step. `bad` cannot wait."""

    level: Literal["warn", "bad"]
    sentence: str


def troubles(app: App, machine: SystemStats, engine: dict[str, Any]) -> list[Trouble]:
    """What an operator should do something about, worst first; nothing is good news.

    `engine` are the figures of `Engine.stats`.
    """
    found = []
    free = machine.disk_free_bytes
    if free < MIN_FREE_BYTES:
        found.append(Trouble("bad", "The disk is almost full: no answer is taken. Make room now."))
    elif free < 5 * MIN_FREE_BYTES:
        found.append(Trouble("warn", f"Only {free / 1e9:.1f} GB of disk are free. Make room."))
    if machine.memory_used_bytes > FULL_MEMORY_SHARE * machine.memory_total_bytes:
        found.append(Trouble("warn", "Memory is almost full. Unload a model or add memory."))
    limit = app.settings.limits.queue_total
    places = sum(app.limits.counts())
    if limit and places >= limit:
        found.append(
            Trouble("bad", f"All {limit} places are taken: new messages are refused for now.")
        )
    elif limit and places >= BUSY_QUEUE_SHARE * limit:
        found.append(Trouble("warn", f"{places} of {limit} places are taken. It is getting full."))
    for model, figures in engine.get("recent", {}).items():
        found += _of_model(model, figures)
    found += [Trouble(*each) for each in server_figures.troubles(engine.get("servers", ()))]
    found += _of_messages(app)
    found += _of_backups(app)
    return sorted(found, key=lambda item: item.level != "bad")


def _of_backups(app: App) -> list[Trouble]:
    made, failed = backup.last_event(app.db, backup.MADE), backup.last_event(app.db, backup.FAILED)
    drill = backup.last_event(app.db, backup.DRILL)
    found = []
    if failed is not None and (made is None or made.seq < failed.seq):
        reason = str(failed.facts.get("reason", ""))[:160]
        found.append(Trouble("bad", f"The last backup failed: {reason}"))
    if drill is not None and not drill.facts["ok"]:
        sentence = "The last try to restore a backup failed. Look under Backups and the log."
        found.append(Trouble("bad", sentence))
    return found


def _of_messages(app: App) -> list[Trouble]:
    with app.db.read() as session:
        # A webhook that fails is its owner's to mend.
        dead = outbox.counts(session, channel="mail")["dead"]
        oldest = outbox.oldest_mail(session)
    found = []
    if dead:
        words = "mail was" if dead == 1 else "mails were"
        sentence = f"{dead} {words} given up. Look under Messages and send again."
        found.append(Trouble("warn", sentence))
    if oldest is not None and app.clock.micros() - oldest > LATE_MESSAGE_MICROS:
        found.append(
            Trouble("warn", "Mails wait for over an hour. Check the mail settings and the log.")
        )
    return found


def _of_model(model: str, figures: dict[str, Any]) -> list[Trouble]:
    found: list[Trouble] = []
    failed = figures["answers_failed"]
    answers = failed + figures["answers_done"] + figures["answers_cancelled"]
    if failed >= MIN_FAILURES and failed > MANY_FAILURES_SHARE * answers:
        codes = ", ".join(sorted(figures["failure_codes"]))
        found.append(
            Trouble(
                "bad",
                f"{failed} of the last {answers} answers of {model} failed ({codes}). "
                "Look into the log; nothing was charged for them.",
            )
        )
    if figures.get("queue_ms_p95", 0.0) > SLOW_QUEUE_MS:
        seconds = figures["queue_ms_p95"] / 1000
        found.append(
            Trouble("warn", f"{model} is overloaded: people wait up to {seconds:.0f} s in line.")
        )
    return found


def engine_state(app: App) -> str:
    """`ok` when a model can answer, else a few words; cheap, no model is asked."""
    states = {app.engine.state(entry.id).state for entry in catalogue.offered()}
    if states & {"ready", "available"}:
        return "ok"
    return "loading" if "loading" in states else "no model can answer"


def page(app: App) -> str:
    """All metrics in Prometheus' text format."""
    engine = app.engine.stats()
    own = [*_of_program(app), *_of_workers(engine), *_of_answers(engine)]
    elsewhere = server_figures.metrics(engine.get("servers", ()))
    return prometheus.text(
        [*own, *_of_machine(app), *_of_requests(app), *elsewhere, *_by_other_names(app, engine)]
    )


def _gauge(name: str, words: str) -> Metric:
    return Metric(f"{PREFIX}_{name}", "gauge", words)


def _counter(name: str, words: str) -> Metric:
    return Metric(f"{PREFIX}_{name}", "counter", words)


def _of_program(app: App) -> list[Metric]:
    running, waiting = app.limits.counts()
    with app.db.read() as session:
        open_holds = holds.count_open(session)
        messages = _gauge("messages", "Mails and calls of webhooks, by state.")
        for state, count in outbox.counts(session).items():
            messages.add(count, state=state)
    kept = app.cache.stats()
    return [
        messages,
        _gauge("uptime_seconds", "Seconds since the program was started.").add(
            round(time.monotonic() - app.started_monotonic, 3)
        ),
        _gauge("draining", "1 while the program is going down.").add(float(app.draining)),
        _gauge("places", "Answers that have a place, running or waiting for their turn.")
        .add(running, state="running")
        .add(waiting, state="waiting"),
        _gauge("holds_open", "Holds of credits that are not settled.").add(open_holds),
        _gauge("cache_entries", "Answers in the cache.").add(kept["entries"]),
        _gauge("cache_bytes", "Memory of the answers in the cache.").add(kept["bytes"]),
        _counter("cache_hits_total", "Answers given from the cache.").add(kept["hits_total"]),
        _counter("cache_misses_total", "Answers that were looked for and not in the cache.").add(
            kept["misses_total"]
        ),
    ]


def _of_machine(app: App) -> list[Metric]:
    """The newest figures of the time series: what is measured of the machine and the books."""
    latest, found = app.telemetry.latest, []
    for figure, (name, words, scale) in _MEASURED.items():
        if figure in latest:
            found.append(_gauge(name, words).add(round(latest[figure] * scale, 6)))
    gpus: dict[str, Metric] = {}
    for figure, value in latest.items():
        part = figure.split(".")
        if len(part) == 3 and part[0] == "gpu" and part[2] in _GPU:
            name, words, scale = _GPU[part[2]]
            gpus.setdefault(name, _gauge(name, words)).add(round(value * scale, 6), gpu=part[1])
    faults = _gauge("alert_raised", "1 while a rule's fault lasts for this process.")
    for rule, state in sorted(app.telemetry.judge.states.items()):
        faults.add(float(state.raised), rule=rule)
    waits = app.db.waits
    return [
        *found,
        *gpus.values(),
        faults,
        _counter("db_writes_total", "Writes of the database that ended.").add(waits.total),
        _counter("db_write_seconds_total", "Time of all writes until they were durable.").add(
            round(waits.seconds_total, 6)
        ),
    ]


def _of_requests(app: App) -> list[Metric]:
    answered = _counter("http_requests_total", "Requests that were answered, by class and end.")
    times = Metric(
        f"{PREFIX}_http_request_duration_seconds", "histogram",
        "From the request to the head of its answer.",
    )  # fmt: skip
    for name, count in app.telemetry.traffic.totals().items():
        if count.requests:
            fine = count.requests - count.refused - count.failed
            for end, number in (("ok", fine), ("4xx", count.refused), ("5xx", count.failed)):
                answered.add(number, room=name, end=end)
            times.fill(BOUNDS, count.buckets, round(count.seconds, 6), room=name)
    return [answered, times]


def _by_other_names(app: App, engine: dict[str, Any]) -> list[Metric]:
    """The same under vLLM's and OpenTelemetry's names, so that their dashboards show them."""
    running = Metric("vllm:num_requests_running", "gauge", "Answers that are written.")
    waiting = Metric("vllm:num_requests_waiting", "gauge", "Answers that wait in the engine.")
    kv = Metric("vllm:kv_cache_usage_perc", "gauge", "Share of the KV cache that is used, 0 to 1.")
    for model, state in engine["models"].items():
        running.add(state.get("running", 0), model_name=model)
        waiting.add(state.get("waiting", 0), model_name=model)
        if "kv_used_share" in state.get("figures", {}):
            kv.add(state["figures"]["kv_used_share"], model_name=model)
    read = Metric("vllm:prompt_tokens_total", "counter", "Tokens of prompts.")
    written = Metric("vllm:generation_tokens_total", "counter", "Tokens that were written.")
    asked = Metric("vllm:prefix_cache_queries_total", "counter", "Tokens looked for in the cache.")
    hits = Metric("vllm:prefix_cache_hits_total", "counter", "Tokens that were in the cache.")
    ended = Metric("vllm:request_success_total", "counter", "Answers that ended well.")
    for model, figures in engine.get("recent", {}).items():
        read.add(figures["prompt_tokens_total"], model_name=model)
        written.add(figures["completion_tokens_total"], model_name=model)
        asked.add(figures["prompt_tokens_total"], model_name=model)
        hits.add(figures["cached_tokens_total"], model_name=model)
        ended.add(figures["answers_done_total"], model_name=model)
    http = Metric(
        "http_server_request_duration_seconds", "histogram", "OpenTelemetry's name of the same."
    )
    for name, count in app.telemetry.traffic.totals().items():
        if count.requests:
            http.fill(BOUNDS, count.buckets, round(count.seconds, 6), http_route=name)
    return [running, waiting, kv, read, written, asked, hits, ended, http]


def _of_workers(engine: dict[str, Any]) -> list[Metric]:
    answers = _gauge("model_answers", "Answers of a model in the engine.")
    memory = _gauge("model_memory_bytes", "Memory of a model's process.")
    load = _gauge("model_load_seconds", "How long the model took to load.")
    own: dict[str, Metric] = {}
    for model, state in engine["models"].items():
        for kind in ("running", "waiting"):
            answers.add(state.get(kind, 0), model=model, state=kind)
        where = {
            "model": model,
            "backend": str(state.get("backend", "")),
            "device": str(state.get("device", "")),
        }
        memory.add(state.get("memory_bytes", 0), **where)
        load.add(state.get("load_seconds", 0.0), **where)
        for figure, value in state.get("figures", {}).items():
            full = prometheus.name(f"backend_{figure}")
            metric = own.setdefault(full, _gauge(full, f"The backend's own figure {figure}."))
            metric.add(value, model=model)
    spare = _gauge("spare_worker_memory_bytes", "Memory of the worker that waits for a model.")
    if waiting := engine.get("spare"):
        spare.add(waiting["memory_bytes"], backend=str(waiting["backend"]))
    return [answers, memory, load, spare, *own.values()]


def _of_answers(engine: dict[str, Any]) -> list[Metric]:
    ended = _counter("answers_total", "Answers that ended, by how.")
    tokens = _counter("tokens_total", "Tokens that were read, read from the cache, or written.")
    busy = _counter("engine_busy_seconds_total", "Time in which a model had an answer to write.")
    rate = _gauge("tokens_per_second", "Tokens written each second, over the last minute.")
    share = _gauge("engine_busy_ratio", "Share of the last minute in which a model was busy.")
    mean = _gauge("engine_seconds_per_answer", "Mean engine time of the last minutes' answers.")
    waits = {
        "ttft_ms": _gauge("first_token_seconds", "From the request to the first token."),
        "queue_ms": _gauge("queue_seconds", "From the request to its start in the model."),
    }
    for model, figures in engine.get("recent", {}).items():
        for end in ("done", "failed", "cancelled"):
            ended.add(figures[f"answers_{end}_total"], model=model, end=end)
        for kind in ("prompt", "cached", "completion"):
            tokens.add(figures[f"{kind}_tokens_total"], model=model, kind=kind)
        busy.add(figures["busy_seconds_total"], model=model)
        rate.add(figures["tokens_per_second"], model=model)
        share.add(figures["busy_share"], model=model)
        if "engine_ms_mean" in figures:
            mean.add(round(figures["engine_ms_mean"] / 1000, 6), model=model)
        for name, metric in waits.items():
            for quantile, key in (("0.5", f"{name}_p50"), ("0.95", f"{name}_p95")):
                if key in figures:
                    metric.add(round(figures[key] / 1000, 6), model=model, quantile=quantile)
    return [ended, tokens, busy, rate, share, mean, *waits.values()]
