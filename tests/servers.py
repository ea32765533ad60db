"""Real servers for tests: `launch.py` in a process of its own, and a browserless client."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx

ROOT = Path(__file__).resolve().parent.parent
PASSWORD = "correct horse battery staple"
MODEL = "smollm2-135m-instruct"
_UNLIMITED = {
    f"CHAT_APP_LIMITS__{name}": "0"
    for name in (
        "RUNNING_PER_USER",
        "WAITING_PER_USER",
        "QUEUE_TOTAL",
        "REQUESTS_PER_MINUTE",
        "REGISTRATIONS_PER_HOUR_PER_IP",
        "LOGIN_FAILURES_PER_15_MINUTES",
    )
}


@dataclass
class Server:
    """A running `launch.py`. `lines` is what it printed so far."""

    url: str
    process: subprocess.Popen[str]
    data_dir: Path
    log: Path
    lines: list[str] = field(default_factory=list)

    def kill(self) -> None:
        """SIGKILL, as a power cut of the process would be."""
        self.process.kill()
        self.process.wait()

    def terminate(self, timeout: float = 60) -> int:
        """SIGTERM; the exit code, after the drain."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    """The environment of a test server: nothing of ours but these settings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_APP_")}
    return (
        clean
        | _UNLIMITED
        | {
            "CHAT_APP_DATA_DIR": str(data_dir),
            "CHAT_APP_SERVER__PORT": "0",
            "CHAT_APP_LLM__ENGINE": "script",
            "CHAT_APP_LLM__SCRIPT__FIRST_TOKEN_MS": "0",
            **{f"CHAT_APP_{name}": value for name, value in settings.items()},
        }
    )


def launch(
    data_dir: Path, *, timeout: float = 90, program: Sequence[str] = ("launch.py",), **settings: str
) -> Server:
    """Start `launch.py` and wait until it serves. `settings` are names without the prefix;
    `program` is what Python runs instead.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    log = data_dir.parent / f"{data_dir.name}.log"
    errors: IO[str] = log.open("a")
    process = subprocess.Popen(
        [sys.executable, *program],
        cwd=ROOT,
        env=environment(data_dir, **settings),
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    errors.close()
    assert process.stdout is not None
    lines: list[str] = []
    began = time.monotonic()
    for line in process.stdout:
        lines.append(line.strip())
        found = re.match(r"Serving on (\S+)", line)
        if found:
            return Server(found[1], process, data_dir, log, lines)
        if time.monotonic() - began > timeout:
            break
    process.kill()
    raise AssertionError(f"the server did not start: {lines}\n{log.read_text()[-4000:]}")


@contextmanager
def serving(data_dir: Path, **settings: str) -> Iterator[Server]:
    """A server that is ended with the block."""
    server = launch(data_dir, **settings)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


class Person:
    """Somebody with a cookie session and a bearer token."""

    def __init__(self, server: Server, name: str) -> None:
        self.name = name
        self.cookies = httpx.Client(base_url=server.url, timeout=60, headers={"Origin": server.url})
        self.cookies.post(
            "/api/auth/register",
            json={"username": name, "email": f"{name}@example.org", "password": PASSWORD},
        ).raise_for_status()
        signed_in = self.cookies.post(
            "/api/auth/login", json={"login": name, "password": PASSWORD}
        ).raise_for_status()
        self.token: str = signed_in.json()["access_token"]
        self.bearer = httpx.Client(
            base_url=server.url,
            timeout=60,
            headers={"Authorization": f"Bearer {self.token}"},
        )

    def balance(self) -> dict[str, str]:
        """The balance as the API says it: decimal strings."""
        answer = self.bearer.get("/api/billing/balance").raise_for_status()
        shown: dict[str, str] = answer.json()
        return shown

    def send(self, text: str = "hello", *, bearer: bool = True, **more: object) -> httpx.Response:
        """POST a message and wait for the whole answer."""
        client = self.bearer if bearer else self.cookies
        return client.post(
            "/api/chat/message", json={"model": MODEL, "message": text, "stream": False, **more}
        )

    def close(self) -> None:
        """Close both connections."""
        self.cookies.close()
        self.bearer.close()


def verify(server_data: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the operator's `verify` on a data directory."""
    return subprocess.run(
        [sys.executable, "-m", "chat_app", "verify"],
        cwd=ROOT,
        env=environment(server_data, **settings),
        capture_output=True,
        text=True,
        check=False,
    )
