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
from chat_app.monitor import prometheus
from chat_app.monitor.health import MIN_FREE_BYTES
from chat_app.monitor.prometheus import Metric
from chat_app.monitor.system import SystemStats
from chat_app.notify import outbox

PREFIX = "chat_app"
FULL_MEMORY_SHARE = 0.92
SLOW_QUEUE_MS = 10_000.0
BUSY_QUEUE_SHARE = 0.8
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


def page(app: App) -> str:
    """All metrics in Prometheus' text format."""
    engine = app.engine.stats()
    elsewhere = server_figures.metrics(engine.get("servers", ()))
    return prometheus.text(
        [*_of_program(app), *_of_workers(engine), *_of_answers(engine), *elsewhere]
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
    return [answers, memory, load, *own.values()]


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
