"""Figures for operators: a page that Prometheus reads, and a verdict in sentences."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chat_app.app import App
from chat_app.flows import figures
from chat_app.monitor.prometheus import Metric, text
from chat_app.monitor.system import SystemStats
from tests.apps import MODEL, answer, ask, person, running_app

GIB = 2**30
FINE = SystemStats(
    cpu_percent=10,
    memory_used_bytes=4 * GIB,
    memory_total_bytes=16 * GIB,
    process_rss_bytes=GIB,
    disk_free_bytes=50 * GIB,
    disk_total_bytes=100 * GIB,
    load_1m=0.5,
    gpus=(),
)
QUIET: dict[str, Any] = {"running": 0, "waiting": 0, "models": {}, "recent": {}}
_SAMPLE = re.compile(r'([a-z_:0-9]+)(\{([a-z_]+="(?:[^"\\]|\\.)*",?)+\})? (-?[\d.e+-]+|NaN)')


def samples(page: str) -> dict[str, float]:
    """Every sample of a page; anything that is no sample and no comment is an error."""
    found = {}
    for line in page.splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            continue
        match = _SAMPLE.fullmatch(line)
        assert match, line
        found[match[1] + (match[2] or "")] = float(match[4])
    return found


def test_the_page_is_what_a_scraper_reads(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path, script={"tokens": 6}) as app:
            alice = await person(app)
            for _ in range(3):
                await answer(app, alice, await ask(app, alice, temperature=0.0))
            page = await asyncio.to_thread(figures.page, app)
            found = samples(page)
            assert page.endswith("\n")
            assert found[f'chat_app_answers_total{{model="{MODEL}",end="done"}}'] == 1
            assert found[f'chat_app_tokens_total{{model="{MODEL}",kind="completion"}}'] == 6
            assert found["chat_app_cache_hits_total"] == 2
            assert found["chat_app_holds_open"] == 0
            names = [line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")]
            assert len(names) == len(set(names))

    asyncio.run(story())


def test_a_workers_own_figures_are_on_the_page(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path) as app:
            loaded = {
                "pid": 1,
                "backend": "openvino",
                "device": "cpu",
                "running": 2,
                "waiting": 1,
                "memory_bytes": 5,
                "load_seconds": 1.5,
                "figures": {"kv_used_share": 0.25, "odd name-s": 3.0},
            }
            app.engine.stats = lambda: {**QUIET, "models": {"m": loaded}}  # type: ignore
            found = samples(figures.page(app))
            assert found['chat_app_backend_kv_used_share{model="m"}'] == 0.25
            assert found['chat_app_backend_odd_name_s{model="m"}'] == 3
            assert found['chat_app_model_answers{model="m",state="waiting"}'] == 1
            key = 'chat_app_model_load_seconds{model="m",backend="openvino",device="cpu"}'
            assert found[key] == 1.5

    asyncio.run(story())


def server(state: str, **more: Any) -> dict[str, Any]:
    return {
        "url": "http://10.0.0.7:8000",
        "kind": "vllm",
        "state": state,
        "models": ["m"],
        "left_out": ["m"] if state == "open" else [],
        "running": 2,
        "answers_total": 5,
        "failures_total": 3,
        "failures_in_row": 3,
        "answers_counted_here_total": 1,
        "odd_usage_total": 0,
        "last_failure": "engine_crashed",
        "last_failure_seconds": 4.0,
        "asked_again_seconds": 11.0 if state == "open" else None,
    } | more


def test_servers_elsewhere_are_on_the_page_and_in_the_verdict(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path) as app:
            both = [server("open"), server("up", url="http://b:1/x", last_failure="")]
            engine = {**QUIET, "servers": both}
            app.engine.stats = lambda: engine  # type: ignore
            found = samples(figures.page(app))
            assert found['chat_app_remote_state{server="10.0.0.7:8000",state="open"}'] == 1
            assert found['chat_app_remote_state{server="b:1/x",state="up"}'] == 1
            assert found['chat_app_remote_failures_total{server="b:1/x"}'] == 3
            (trouble,) = figures.troubles(app, FINE, engine)
            assert trouble.level == "warn"
            assert "10.0.0.7:8000 gets no answers of m (engine_crashed)" in trouble.sentence
            both[1]["state"] = "down"
            levels = [item.level for item in figures.troubles(app, FINE, engine)]
            assert levels == ["bad", "bad"]

    asyncio.run(story())


def test_prometheus_own_parser_takes_the_page(tmp_path: Path) -> None:
    """Every family once, counters end in _total, histograms add up; vLLM's names are there."""
    from prometheus_client.parser import text_string_to_metric_families

    from chat_app.flows.monitoring import Monitor

    async def story() -> str:
        async with running_app(tmp_path) as app:
            alice = await person(app)
            await answer(app, alice, await ask(app, alice))
            for seconds, status in ((0.003, 200), (0.2, 404), (99.0, 500)):
                app.telemetry.traffic.saw("/api/billing/balance", status, seconds)
            monitor = Monitor(app)
            for _ in range(2):
                await asyncio.to_thread(monitor.tick, wait=True)
            app.telemetry.latest["gpu.0.percent"] = 40.0
            monitor.stop()
            return await asyncio.to_thread(figures.page, app)

    page = asyncio.run(story())
    families = {family.name: family for family in text_string_to_metric_families(page)}
    assert len(families) == page.count("# TYPE")
    kinds = {family.type for family in families.values()}
    assert kinds == {"gauge", "counter", "histogram"}
    times = families["chat_app_http_request_duration_seconds"].samples
    assert {one.labels.get("room") for one in times} == {"billing"}
    found = {(one.name.rpartition("_")[2], one.labels.get("le")): one.value for one in times}
    assert found["bucket", "0.005"] == 1
    assert found["bucket", "0.25"] == 2
    assert found["bucket", "30"] == 2
    assert found["bucket", "+Inf"] == found["count", None] == 3
    assert found["sum", None] == pytest.approx(99.203)
    for name in (
        "vllm:prompt_tokens", "vllm:generation_tokens", "vllm:request_success",
        "http_server_request_duration_seconds", "chat_app_disk_free_bytes", "chat_app_db_down",
        "chat_app_gpu_busy_ratio", "chat_app_alert_raised", "chat_app_db_writes",
    ):  # fmt: skip
        assert name in families, name
    assert families["chat_app_gpu_busy_ratio"].samples[0].value == 0.4


def test_labels_and_help_cannot_break_a_line() -> None:
    metric = Metric("a_total", "counter", "two\nlines \\").add(1e15, model='x"} 9\ny\\')
    page = text([metric, Metric("empty", "gauge", "nothing")])
    assert page.splitlines() == [
        "# HELP a_total two\\nlines \\\\",
        "# TYPE a_total counter",
        'a_total{model="x\\"} 9\\ny\\\\"} 1000000000000000',
    ]


def recent(**values: Any) -> dict[str, Any]:
    base = {"answers_done": 0, "answers_failed": 0, "answers_cancelled": 0, "failure_codes": {}}
    return {**QUIET, "recent": {"m": {**base, **values}}}


def told(app: App, machine: SystemStats = FINE, engine: dict[str, Any] = QUIET) -> list[str]:
    return [f"{item.level}: {item.sentence}" for item in figures.troubles(app, machine, engine)]


def test_a_quiet_night_needs_nobody(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path) as app:
            assert told(app) == []
            assert told(app, engine=recent(answers_done=100, answers_failed=3)) == []
            assert told(app, engine=recent(answers_failed=2)) == []
            assert told(app, engine=recent(queue_ms_p95=9000.0)) == []

    asyncio.run(story())


@pytest.mark.parametrize(
    ("machine", "engine", "sentence"),
    [
        ({"disk_free_bytes": 100_000_000}, QUIET, "bad: The disk is almost full"),
        ({"disk_free_bytes": 900_000_000}, QUIET, "warn: Only 0.9 GB"),
        ({"memory_used_bytes": 15 * GIB}, QUIET, "warn: Memory is almost full"),
        (
            {},
            recent(answers_done=7, answers_failed=3, failure_codes={"out_of_memory": 3}),
            "bad: 3 of the last 10 answers of m failed (out_of_memory)",
        ),
        ({}, recent(queue_ms_p95=32_000.0), "warn: m is overloaded: people wait up to 32 s"),
    ],
)
def test_trouble_is_a_sentence(
    tmp_path: Path, machine: dict[str, Any], engine: dict[str, Any], sentence: str
) -> None:
    async def story() -> None:
        async with running_app(tmp_path) as app:
            (only,) = told(app, replace(FINE, **machine), engine)
            assert only.startswith(sentence)

    asyncio.run(story())


def test_a_full_house_is_told_worst_first(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(
            tmp_path, limits={"queue_total": 5}, script={"first_token_ms": 300}
        ) as app:
            alice = await person(app)
            started = [await ask(app, alice) for _ in range(4)]
            assert told(app) == ["warn: 4 of 5 places are taken. It is getting full."]
            started.append(await ask(app, alice))
            full = told(app, replace(FINE, memory_used_bytes=15 * GIB))
            assert [item.split(":")[0] for item in full] == ["bad", "warn"]
            assert "All 5 places" in full[0]
            await asyncio.gather(*(answer(app, alice, item) for item in started))

    asyncio.run(story())
