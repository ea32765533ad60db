"""Health and the reference page tell the truth."""

import asyncio
import re
from pathlib import Path

import pytest
from sqlmodel import SQLModel

from chat_app.db import Database, DatabaseUnavailable
from chat_app.monitor.health import MIN_FREE_BYTES, Probe
from chat_app.monitor.tables import Heartbeat
from tests.api.conftest import Person, Serve, Server
from tests.api.matrix import MATRIX


@pytest.fixture
def db(tmp_path: Path) -> Database:
    database = Database(f"sqlite:///{tmp_path / 'health.db'}")
    SQLModel.metadata.create_all(database.engine, tables=[Heartbeat.__table__])  # type: ignore[attr-defined]
    return database


def test_readiness_looks_at_disk_database_and_draining(db: Database, tmp_path: Path) -> None:
    """Bar 44: every state is told, and the probe recovers by itself."""
    now, free = [0.0], [MIN_FREE_BYTES]
    probe = Probe(db, tmp_path, now=lambda: now[0], free_bytes=lambda _: free[0])

    def look(*, draining: bool = False) -> dict[str, str]:
        now[0] += 10
        health = asyncio.run(probe.look(draining=draining, at=1))
        assert health.ready == all(state == "ok" for state in health.checks.values())
        return health.checks

    assert look() == {"server": "ok", "database": "ok", "disk": "ok"}
    assert look(draining=True)["server"] == "draining"
    free[0] = MIN_FREE_BYTES - 1
    assert look()["disk"] == "less than 200 MB free"
    free[0] = MIN_FREE_BYTES
    assert look()["disk"] == "ok"
    original = db.awrite

    async def broken(_story: object) -> None:
        raise DatabaseUnavailable

    db.awrite = broken  # type: ignore[method-assign, assignment]
    assert look()["database"] == "cannot be written"
    db.awrite = original  # type: ignore[method-assign]
    assert look()["database"] == "ok"


def test_probes_share_an_answer_for_a_moment(db: Database, tmp_path: Path) -> None:
    now = [0.0]
    looked: list[Path] = []

    def free(path: Path) -> int:
        looked.append(path)
        return MIN_FREE_BYTES

    probe = Probe(db, tmp_path, now=lambda: now[0], free_bytes=free)
    for _ in range(5):
        asyncio.run(probe.look(draining=False, at=1))
    assert len(looked) == 1
    assert not asyncio.run(probe.look(draining=True, at=1)).ready
    now[0] = 2.0
    asyncio.run(probe.look(draining=False, at=2))
    assert len(looked) == 2


def test_draining_is_not_ready_but_alive(serve: Serve) -> None:
    """Bar 23: a load balancer learns it at once."""
    server = serve()
    client = server.client()
    assert client.get("/readyz").status_code == 200
    server.app.draining = True
    for path in ("/readyz", "/health"):
        answer = client.get(path)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        assert answer.json() == {
            "status": "unavailable",
            "checks": {"server": "draining", "database": "ok", "disk": "ok"},
            "engine": "ok",
            "redis": "off",
        }
    assert client.get("/livez").status_code == 200
    person = server.person()
    refused = person.ask()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")


def test_without_a_model_the_server_is_ready_and_says_so(serve: Serve) -> None:
    """An operator has to come in to mend it, and everything but answers works."""
    from chat_app.llm.engine import ModelState

    server = serve()
    engine = server.app.engine
    engine.state = lambda _: ModelState("broken", "bad bytes")  # type: ignore[method-assign]
    answer = server.client().get("/readyz")
    assert (answer.status_code, answer.json()["engine"]) == (200, "no model can answer")


def test_metrics_count_what_is_there(server: Server, root: Person) -> None:
    shown = root.client.get("/api/monitoring/metrics").json()
    assert shown["holds_open"] == 0
    assert shown["running"] == shown["waiting"] == 0
    assert shown["uptime_seconds"] > 0
    assert isinstance(shown["engine"], dict)
    dashboard = root.client.get("/api/admin/dashboard").json()
    assert dashboard["users"]["total"] >= 1
    assert dashboard["health"]["status"] == "ok"
    assert dashboard["models"]


def test_the_reference_shows_every_route_and_reaches_nowhere(server: Server) -> None:
    client = server.client()
    page = client.get("/api/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "<script" not in page.text
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", page.text)
    assert "url(" not in page.text
    schema = client.get("/api/openapi.json").json()
    for path in schema["paths"]:
        assert f"<code>{path}</code>" in page.text
    documented = {f"{m.upper()} {path}" for path, ms in schema["paths"].items() for m in ms}
    assert "HTTPValidationError" not in str(schema)
    assert schema["x-error-codes"]["wrong_password"]["status"] == 401
    assert documented == set(MATRIX)
    for code in ("out_of_credits", "wrong_password", "idempotency_conflict", "in_progress"):
        assert f"<code>{code}</code>" in page.text


def test_the_loop_stays_free_while_people_sign_in(serve: Serve) -> None:
    """Bar 13: hashing happens elsewhere; the liveness probe is not behind it."""
    import threading

    from chat_app.accounts.passwords import Passwords

    server = serve()
    server.app.passwords = Passwords(server.app.secrets.pepper, cost=12)
    client = server.client()
    body = {"login": "nobody", "password": "some horse battery"}
    answers: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(client.post("/api/auth/login", json=body).status_code)
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    alive = 0
    while len(answers) < len(threads):
        assert client.get("/livez").status_code == 200
        alive += 1
    for thread in threads:
        thread.join()
    assert answers == [401] * 6
    # Were the loop blocked, a probe would come through once for each hash at most.
    assert alive > 12


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "203.0.113.9"},
        {"X-Real-IP": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"Via": "1.1 proxy"},
        {"Host": "chat.example.org"},
        {"Host": "127.0.0.1.example.org"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_prometheus_figures_are_for_this_machine_and_administrators(
    server: Server, root: Person, ann: Person, headers: dict[str, str]
) -> None:
    """Default-deny: a proxy on this machine, another name or another site's page is not local."""
    assert server.client().get("/metrics").status_code == 200
    assert server.client(**headers).get("/metrics").status_code == 401
    assert ann.client.get("/metrics", headers=headers).status_code == 403
    shown = root.client.get("/metrics", headers=headers)
    assert shown.status_code == 200
    assert shown.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert shown.headers["cache-control"] == "no-store"


def test_prometheus_sees_the_answers(server: Server, ann: Person) -> None:
    assert ann.ask().status_code == 200
    page = server.client().get("/metrics").text
    name = 'chat_app_answers_total{model="smollm2-135m-instruct",end="done"}'
    (line,) = [line for line in page.splitlines() if line.startswith(name)]
    assert int(line.split()[-1]) >= 1
    assert ann.username not in page
