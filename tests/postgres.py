"""A real PostgreSQL server for a test session: own data, own socket, gone at the end."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from tests.effort import effort

# Processes are killed here, whose writes the system keeps; no power is cut but in --full.
_SAFE = effort("on", "off")
OPTIONS = {
    "listen_addresses": "",
    "max_connections": "200",
    "fsync": _SAFE,
    "full_page_writes": _SAFE,
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "log_min_messages": "fatal",
}


@dataclass
class Server:
    """A running server, reached through a socket in `folder`."""

    folder: Path
    command: list[str]
    owner: dict[str, Any] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it, also again after `stop`, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=subprocess.DEVNULL, stderr=log, cwd=self.folder, **self.owner
            )
        _wait(self, self.process)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT rolls back what runs, SIGQUIT is a power cut (`pg_ctl -m immediate`)."""
        assert self.process is not None
        self.process.send_signal(how)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def url(self, name: str) -> str:
        """SQLAlchemy's URL of a database."""
        return f"postgresql+psycopg://postgres@/{name}?host={quote(str(self.folder), safe='')}"

    def run(self, statement: str) -> None:
        """A statement of the administrator."""
        with psycopg.connect(
            host=str(self.folder), user="postgres", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(statement.encode())

    def create(self, name: str, template: str = "template1") -> None:
        """A new database, as a copy of another."""
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}")

    @contextmanager
    def database(self, name: str, template: str = "template1") -> Iterator[str]:
        """A database for one test."""
        self.create(name, template)
        yield self.url(name)
        self.run(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def running_server() -> Iterator[Server]:
    """Start a server; skips without one on the machine, and fails in CI."""
    programs = _programs()
    if programs is None:
        reason = "no PostgreSQL server programs (initdb, postgres) on this machine"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    # A short path: a socket's name may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="pg", dir=_memory()))
    data = folder / "data"
    owner: dict[str, Any] = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        owner = {"user": "postgres"}
        shutil.chown(folder, "postgres")
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "cwd": folder, **owner}
    log = (folder / "log").open("wb")
    try:
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N"],
            check=True,
            stderr=log,
            **quiet,
        )
        options = [f"-c{name}={value}" for name, value in OPTIONS.items()]
        server = Server(
            folder,
            [str(programs / "postgres"), "-D", str(data), f"-cunix_socket_directories={folder}",
             *options],
            owner,
        )  # fmt: skip
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _memory() -> str | None:
    """A folder in memory with room for a server: a database for a test, which is a thousand files,
    is made there in a seventh of the time. `--full` takes the disk.
    """
    place = "/dev/shm"
    roomy = os.access(place, os.W_OK) and shutil.disk_usage(place).free > 4 << 30
    return effort(None, place if roomy else None)


def _wait(server: Server, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(300):
        try:
            server.run("SELECT 1")
        except psycopg.OperationalError:
            if process.poll() is not None:
                break
            time.sleep(0.1)
        else:
            return
    log = (server.folder / "log").read_text(errors="replace")
    raise RuntimeError(f"PostgreSQL did not start: {log[-2000:]}")


def _programs() -> Path | None:
    candidates = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    candidates.sort(key=lambda path: int(path.parent.name) if path.parent.name.isdigit() else 0)
    found = shutil.which("initdb")
    if found:
        candidates.insert(0, Path(found).resolve().parent)
    return candidates[-1] if candidates else None
