"""Monitoring and performance over REST: figures, graphs, rules, advice, memory given back."""

from typing import Any

import pytest

from chat_app.flows import advice, monitoring
from chat_app.flows.monitoring import Monitor
from chat_app.monitor import series
from chat_app.monitor.series import Tally
from tests.api.conftest import Person, Serve, Server


@pytest.fixture
def watched(server: Server) -> Server:
    """The server has looked at itself just now."""
    monitor = Monitor(server.app)
    monitor.tick(wait=True)
    server.app.telemetry.traffic.saw("/api/billing/balance", 200, 0.02)
    server.app.telemetry.traffic.saw("/api/billing/balance", 503, 0.2)
    monitor.tick(wait=True)
    monitor.stop()
    return server


def get(root: Person, path: str, **query: str) -> Any:
    answer = root.client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_figures_of_a_time(watched: Server, root: Person) -> None:
    shown = get(root, "/api/monitoring/analytics")
    assert shown["from"] < shown["to"]
    assert shown["requests"]["billing"]["requests"] >= 2
    assert shown["requests"]["billing"]["failed"] >= 1
    assert 0 < shown["requests"]["billing"]["p50_ms"] <= shown["requests"]["billing"]["p95_ms"]
    assert shown["figures"]["disk.free_bytes"]["least"] > 0
    assert set(shown["answers"]) == {"done", "failed", "cancelled"}
    nothing = get(root, "/api/monitoring/analytics", **{"from": "2020-01-01", "to": "2020-01-02"})
    assert nothing["requests"] == nothing["figures"] == {}
    assert nothing["minutes_seen"] == 0
    bad = root.client.get(
        "/api/monitoring/analytics", params={"from": "2026-01-02", "to": "2026-01-01"}
    )
    assert (bad.status_code, bad.json()["error"]["code"]) == (422, "invalid_time")


@pytest.mark.parametrize("span", advice.RANGES)
def test_graphs_have_gaps_where_nothing_was_seen(watched: Server, root: Person, span: str) -> None:
    seconds, width = advice.RANGES[span]
    shown = get(root, "/api/monitoring/series", range=span, names="memory.percent,nonsense")
    assert shown["step_seconds"] == width
    assert set(shown["figures"]) == {"memory.percent"}
    points = shown["figures"]["memory.percent"]
    assert seconds / width <= len(points) <= seconds / width + 2
    assert points[0] is None
    assert 0 < points[-1] < 100
    assert root.client.get("/api/monitoring/series?range=2h").status_code == 422


def test_rules_are_changed_and_made_usual_again(watched: Server, root: Person) -> None:
    path = "/api/monitoring/rules/queue_wait"
    listed = {item["name"]: item for item in get(root, "/api/monitoring/rules")["items"]}
    assert listed["disk_low"]["value"] > 0
    assert not listed["disk_low"]["above"]
    assert not any(item["raised"] for item in listed.values())
    changed = root.client.put(path, json={"threshold": 2500, "channels": ["app", "app"]}).json()
    assert (changed["threshold"], changed["channels"]) == (2500, ["app"])
    again = root.client.put(path, json={"enabled": False}).json()
    assert (again["threshold"], again["enabled"]) == (2500, False)
    for bad in (
        {"threshold": -1}, {"for_seconds": 90_000}, {"channels": ["pigeon"]}, {"name": "x"},
        {"threshold": "much"},
    ):  # fmt: skip
        assert root.client.put(path, json=bad).status_code == 422, bad
    assert root.client.put("/api/monitoring/rules/nope", json={}).status_code == 404
    usual = root.client.delete(path).json()
    assert (usual["threshold"], usual["enabled"]) == (10_000, True)
    types = [item["type"] for item in get(root, "/api/admin/audit")["items"]]
    assert types.count("machine_rule_changed") >= 3


def test_an_open_fault_is_an_alert(watched: Server, root: Person) -> None:
    app = watched.app
    edge = monitoring.Edge(app.telemetry.judge.rules["disk_low"], True, 5e8, app.clock.micros())
    app.db.write(lambda session: monitoring.tell(app, edge, session))
    alerts = get(root, "/api/monitoring/alerts")["items"]
    (disk,) = [item for item in alerts if item["rule"] == "disk_low"]
    assert disk["place"] == app.telemetry.source
    assert "0.50 GB" in disk["sentence"]
    (fault,) = get(root, "/api/monitoring/faults")["items"]
    assert fault["cleared_at"] is None
    query = {"kind": "monitoring", "to": f"{app.clock.now():%Y-%m-%d}"}
    (row,) = get(root, "/api/monitoring/report", **query)["items"]
    assert (row["rule"], row["value"], row["cleared_at"]) == ("disk_low", 5e8, "")
    end = monitoring.Edge(edge.rule, False, 9e9, app.clock.micros())
    app.db.write(lambda session: monitoring.tell(app, end, session))
    assert get(root, "/api/monitoring/faults")["items"][0]["cleared_at"] is not None


def test_performance_now(watched: Server, root: Person) -> None:
    shown = get(root, "/api/performance/metrics")
    assert shown["source"] == watched.app.telemetry.source
    assert shown["figures"]["memory.process_bytes"] > 1e7
    assert shown["requests"]["billing"]["requests"] >= 2


def seen(server: Server, **values: float) -> list[advice.Finding]:
    """What is advised when these figures were seen for a while."""
    now = server.app.clock.micros() // 1_000_000
    slots = [
        series.Slot(
            now - 60 * at, {name.replace("__", "."): tally(value) for name, value in values.items()}
        )
        for at in range(40)
    ]
    patch = pytest.MonkeyPatch()
    patch.setattr(advice, "look_back", lambda *_, **__: slots)
    try:
        return advice.analyse(server.app).findings
    finally:
        patch.undo()


def tally(value: float) -> Tally:
    made = Tally()
    made.add(value)
    return made


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"engine__queue_ms_p95": 12_000}, "Queue p95 reached 12.0 s over the last hour (well: 5"),
        ({"engine__ttft_ms_p95": 8000}, "First word p95 reached 8.0 s"),
        ({"engine__busy_percent": 93}, "The busiest model worked 93 % over the last hour"),
        ({"engine__kv_used_percent": 97}, "The KV cache was filled up to 97 %"),
        ({"engine__answers_failed": 1, "engine__answers_done": 9}, "40 of 400 answers failed"),
        ({"engine__prompt_tokens": 1000, "engine__cached_tokens": 10}, "Only 1 % of 40,000 prompt"),
        ({"cpu__percent": 91}, "The processor worked at 91 %"),
        ({"memory__percent": 95}, "Memory was filled up to 95 %"),
        ({"swap__used_bytes": 3e9}, "Swap held 3.00 GB"),
        ({"loop__lag_ms": 900}, "The event loop was late by up to 900 ms"),
        ({"db__wait_ms_p95": 400}, "Writing the books took up to 400 ms"),
        ({"db__wal_bytes": 2e9}, "The write-ahead log grew to 2.00 GB"),
        ({"gpu.0.percent": 12, "engine__waiting": 3}, "3.0 answers waited on average while GPU 0"),
        ({"http.page.requests": 9, "http.page.failed": 1, "http.page.b01": 9}, "40 of 360 reque"),
        ({"http.page.requests": 10, "http.page.b08": 10}, "p95 of requests of class page was 2.4"),
    ],
)  # fmt: skip
def test_advice_has_numbers(server: Server, values: dict[str, float], words: str) -> None:
    (only,) = seen(server, **values)
    assert words in only.sentence
    assert len(only.action.split()) > 5


def test_a_quiet_hour_needs_nothing(server: Server, root: Person) -> None:
    assert seen(server, engine__queue_ms_p95=100, cpu__percent=20, memory__percent=50) == []
    shown = get(root, "/api/performance/analysis", hours="24")
    assert shown["hours"] == 24
    assert shown["summary"]


def test_memory_is_really_freed(serve: Serve) -> None:
    """A cache of some hundred MB is dropped, and the process is smaller by nearly as much."""
    from chat_app.llm.cache import Kept

    server = serve(llm={"cache": {"max_mib": 400, "entries": 1000}})
    root = server.person(admin=True)
    words = [f"{number:06}" + "w" * 500_000 for number in range(150)]
    for number, text in enumerate(words):
        kept = Kept(((text, 1),), "stop", 1)
        server.app.cache.put((str(number), "key"), kept)
    held = server.app.cache.stats()["bytes"]
    assert held > 7e7
    words.clear()
    del text, kept
    done = root.client.post("/api/performance/optimize/memory", json={"models": False}).json()
    assert server.app.cache.stats()["entries"] == 0
    assert done["freed_bytes"] == max(0, done["before_bytes"] - done["after_bytes"])
    assert done["freed_bytes"] > 0.8 * 7e7
    assert [step["step"] for step in done["steps"]] == ["caches", "objects", "pages"]


def test_idle_models_are_unloaded_and_busy_ones_stay(serve: Serve) -> None:
    server = serve()
    root = server.person(admin=True)
    gone: list[str] = []

    async def unload(model: str) -> None:
        gone.append(model)

    base = {"pid": None, "running": 0, "waiting": 0, "memory_bytes": 1}
    models = {
        "idle": {**base, "idle_seconds": 500.0},
        "fresh": {**base, "idle_seconds": 5.0},
        "busy": {**base, "running": 1, "idle_seconds": 0.0},
    }
    stats = {"running": 1, "waiting": 0, "models": models}
    server.app.engine.stats = lambda: stats  # type: ignore[method-assign]
    server.app.engine.unload = unload  # type: ignore[method-assign]
    steps = root.client.post("/api/performance/optimize/memory").json()["steps"]
    assert gone == ["idle"]
    assert "idle was unloaded" in steps[0]["sentence"]
