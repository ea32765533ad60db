"""The program in a process of its own, its model at a server of ours, and who chats with it."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.llm.test_remote import Odd
from tests.servers import MODEL, Person, Server, launch, verify

SETTINGS = {
    "LLM__ENGINE": "remote",
    "LLM__REMOTE__FIRST_TOKEN_SECONDS": "1.5",
    "LLM__REMOTE__IDLE_SECONDS": "1.5",
    "LLM__REMOTE__OPEN_SECONDS": "0.2",
    "ACCOUNTS__WELCOME_CREDITS": "100",
    "CHAT__LEASE_SECONDS": "3",
    "CHAT__PROGRESS_SECONDS": "0.5",
}


@dataclass
class Scene:
    """The program, the server its model is at, and somebody who chats."""

    server: Server
    far: Odd
    ann: Person

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.server.url + path, timeout=20)

    def until(self, holds: Callable[[], bool], what: str, seconds: float = 30) -> None:
        ends = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < ends, f"{what}: {self.server.log.read_text()[-3000:]}"
            time.sleep(0.1)

    def ready(self) -> bool:
        return self.get("/readyz").status_code == 200

    def down(self) -> bool:
        return self.get("/readyz").status_code == 503

    def at_rest(self) -> dict[str, Any]:
        """Ann's balance when nothing is held any more."""
        self.until(lambda: self.ann.balance()["held"] == "0", "a hold stays")
        return self.ann.balance()


class Answer(threading.Thread):
    """A streamed answer, read by a thread: what came, and how it ended."""

    def __init__(self, ann: Person, *, reply_id: str = "") -> None:
        """A new one, or the reply of that id once more."""
        super().__init__(daemon=True)
        self.ann, self.reply_id = ann, reply_id
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.begun = threading.Event()
        self.start()

    def run(self) -> None:
        again = f"/api/chat/replies/{self.reply_id}/events"
        asked: dict[str, Any] = {"method": "GET", "url": again}
        if not self.reply_id:
            body = {"model": MODEL, "message": "tell me", "stream": True}
            asked = {"method": "POST", "url": "/api/chat/message", "json": body}
        with self.ann.bearer.stream(**asked, timeout=90) as answer:
            kind = ""
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    kind = line[7:]
                elif line.startswith("data: "):
                    self.events.append((kind, json.loads(line[6:])))
                    if kind == "delta":
                        self.begun.set()

    def end(self) -> tuple[str, dict[str, Any]]:
        self.join(60)
        assert not self.is_alive(), self.events
        return self.events[-1]


def gated(gate: threading.Event) -> Callable[[Any], None]:
    """Five words, then as many when the gate opens, with a ping now and then."""

    def behave(handler: Any) -> None:
        handler.stream()
        handler.pieces("one ", "two ", "three ", "four ", "five ")
        for _ in range(600):
            if gate.wait(0.1):
                break
            handler.pieces("and ")
        handler.pieces("ten ")
        handler.close()

    return behave


@contextmanager
def playing(
    data_dir: Path, *, program: Sequence[str] = ("launch.py",), **settings: str
) -> Iterator[Scene]:
    """A scene. However it was hurt: it ends by itself at the end, and its books are right."""
    far = Odd()
    settings = {**SETTINGS, "LLM__REMOTE_URL": far.url, **settings}
    try:
        server = launch(data_dir, program=program, **settings)
        try:
            ann = Person(server, "ann")
            yield Scene(server, far, ann)
            ann.close()
            assert server.terminate() == 0
            proven = verify(data_dir, **settings)
            assert proven.returncode == 0, proven.stdout
        finally:
            server.process.kill()
            server.process.wait()
    finally:
        far.stop()
