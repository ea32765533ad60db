"""The served program as a whole: `launch.py` in a process of its own."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.effort import effort
from tests.servers import MODEL, PASSWORD, ROOT, Person, launch, serving, verify

SLOW = {"LLM__SCRIPT__TOKENS": "400", "LLM__SCRIPT__TOKENS_PER_SECOND": "20"}


def _stream(person: Person, seen: list[str], ended: threading.Event) -> None:
    """Read an answer's events until the server ends them or goes away."""
    try:
        with person.bearer.stream(
            "POST", "/api/chat/message", json={"model": MODEL, "message": "hi", "stream": True}
        ) as answer:
            for line in answer.iter_lines():
                if line.startswith("event:"):
                    seen.append(line.split(":", 1)[1].strip())
    except httpx.HTTPError:
        seen.append("gone")
    finally:
        ended.set()


def _start_streams(person: Person, count: int) -> tuple[list[list[str]], list[threading.Event]]:
    seen: list[list[str]] = [[] for _ in range(count)]
    ended = [threading.Event() for _ in range(count)]
    for events, end in zip(seen, ended, strict=True):
        threading.Thread(target=_stream, args=(person, events, end), daemon=True).start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not all("delta" in events for events in seen):
        time.sleep(0.05)
    assert all("delta" in events for events in seen), seen
    return seen, ended


def test_sigterm_lets_answers_end_and_settles_all(tmp_path: Path) -> None:
    """Bar 23: a stop refuses new messages, waits at most the drain time, ends the rest, settles.

    Twenty answers are being read, and the heartbeats of ten pages are open.
    """
    with (
        serving(tmp_path / "data", **SLOW, SERVER__DRAIN_SECONDS="2") as server,
        ExitStack() as held,
    ):
        alice = Person(server, "alice")
        for number in range(10):
            path = f"{server.url}/gradio_api/heartbeat/page{number}"
            beat = held.enter_context(httpx.stream("GET", path, timeout=90))
            assert next(beat.iter_lines()) == "data: ALIVE"
        seen, ended = _start_streams(alice, 20)
        began = time.monotonic()
        stopping = threading.Thread(target=server.terminate, daemon=True)
        stopping.start()
        time.sleep(0.5)
        refused = alice.send()
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "draining"
        assert int(refused.headers["Retry-After"]) >= 1
        assert httpx.get(f"{server.url}/readyz", timeout=60).status_code == 503
        assert httpx.get(f"{server.url}/livez", timeout=60).status_code == 200
        stopping.join(40)
        assert server.process.returncode == 0
        assert time.monotonic() - began < 35
        assert all(end.wait(5) for end in ended)
        assert all("done" in events for events in seen), seen
    checked = verify(tmp_path / "data")
    assert checked.returncode == 0, checked.stdout
    with serving(tmp_path / "data") as again:
        answer = httpx.post(
            f"{again.url}/api/auth/login", json={"login": "alice", "password": PASSWORD}
        ).json()
        balance = httpx.get(
            f"{again.url}/api/billing/balance",
            headers={"Authorization": f"Bearer {answer['access_token']}"},
        ).json()
        assert (balance["total"], balance["held"], balance["available"]) == ("80", "0", "80")


def test_sigkill_is_mended_within_thirty_seconds(tmp_path: Path) -> None:
    """T5: the lease runs out and the sweeper settles by progress; `--full` as it is shipped."""
    short = effort({}, {"CHAT__LEASE_SECONDS": "6"})
    server = launch(tmp_path / "data", **SLOW, **short)
    alice = Person(server, "alice")
    _start_streams(alice, 3)
    time.sleep(3)  # at least one save of the progress
    server.kill()
    with serving(tmp_path / "data", **short) as again:
        began = time.monotonic()
        client = httpx.Client(base_url=again.url, timeout=60)
        token = client.post(
            "/api/auth/login", json={"login": "alice", "password": PASSWORD}
        ).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        while time.monotonic() - began < 30:
            balance = client.get("/api/billing/balance").json()
            if balance["held"] == "0":
                break
            time.sleep(0.5)
        assert (balance["total"], balance["held"], balance["available"]) == ("97", "0", "97")
        texts = [
            client.get(f"/api/chat/conversations/{item['id']}").json()["messages"][-1]
            for item in client.get("/api/chat/conversations").json()["items"]
        ]
        assert len(texts) == 3
        assert all(text["content"].startswith("w0 w1 ") for text in texts)
    assert verify(tmp_path / "data").returncode == 0


def test_four_processes_starting_at_once_make_one_installation(tmp_path: Path) -> None:
    """One set of secrets, one schema, one administrator's link that works."""
    code = (
        "from pathlib import Path;"
        "from tests.apps import script_settings; from chat_app.app import build;"
        "from chat_app.flows import signup;"
        f"app = build(script_settings(Path({str(tmp_path / 'data')!r})));"
        "print(signup.ensure_first_admin(app)); app.db.close()"
    )
    starting = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    tokens = {process.communicate(timeout=180)[0].strip() for process in starting}
    assert [process.returncode for process in starting] == [0, 0, 0, 0]
    assert len(tokens) == 1
    assert json.loads((tmp_path / "data" / "secrets.json").read_text())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"CHAT_APP_SERVER__PROT": "1"}, "CHAT_APP_SERVER__PROT"),
        ({"CHAT_APP_SERVER__PORT": "99999"}, "server.port"),
        ({"CHAT_APP_LLM__ENGINE": "magic"}, "llm.engine"),
    ],
)
def test_a_wrong_setting_is_named_and_nothing_starts(
    tmp_path: Path, settings: dict[str, str], words: str
) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_APP_")}
    ended = subprocess.run(
        [sys.executable, "launch.py", "--data-dir", str(tmp_path / "data")],
        cwd=ROOT,
        env=clean | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "data").exists()
