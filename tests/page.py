"""The browser page without a browser: it speaks the protocol of Gradio's queue."""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.servers import MODEL, Person, Server

CHAT_OUTPUT = "chat-log"


class Page:
    """What the page knows of the program: its handlers by name and its components by id."""

    def __init__(self, server: Server, person: Person) -> None:
        self.server = server
        self.cookies = person.cookies.cookies
        text = httpx.get(f"{server.url}/", cookies=self.cookies, timeout=30).text
        start = text.index("window.gradio_config = ") + len("window.gradio_config = ")
        self.config: dict[str, Any] = json.JSONDecoder().raw_decode(text[start:])[0]
        self._ids = {
            component["props"].get("elem_id"): component["id"]
            for component in self.config["components"]
        }

    def handler(self, name: str) -> dict[str, Any]:
        """The first handler of this name."""
        found: dict[str, Any] = next(
            item for item in self.config["dependencies"] if item["api_name"] == name
        )
        return found

    def output(self, handler: dict[str, Any], elem_id: str) -> int:
        """At which place of the handler's outputs a component stands."""
        place: int = handler["outputs"].index(self._ids[elem_id])
        return place

    @contextmanager
    def session(self) -> Iterator["Tab"]:
        """A tab of the browser; leaving the block closes it, whatever is under way."""
        with httpx.Client(
            base_url=self.server.url,
            cookies=self.cookies,
            headers={"Origin": self.server.url},
            timeout=60,
        ) as client:
            yield Tab(self, client)


class Tab:
    """An open page of one person."""

    def __init__(self, page: Page, client: httpx.Client) -> None:
        self.page = page
        self.client = client
        self.session_hash = secrets.token_hex(6)

    def call(self, name: str, data: list[Any]) -> Iterator[dict[str, Any]]:
        """Run a handler; gives the queue's messages until it has completed."""
        handler = self.page.handler(name)
        joined = self.client.post(
            "/gradio_api/queue/join",
            json={
                "data": data,
                "fn_index": handler["id"],
                "session_hash": self.session_hash,
                "event_data": None,
                "trigger_id": handler["targets"][0][0],
            },
        ).raise_for_status()
        event_id = joined.json()["event_id"]
        with self.client.stream(
            "GET", "/gradio_api/queue/data", params={"session_hash": self.session_hash}
        ) as events:
            for line in events.iter_lines():
                if not line.startswith("data: "):
                    continue
                message: dict[str, Any] = json.loads(line.removeprefix("data: "))
                if message.get("event_id") not in (None, event_id):
                    continue
                yield message
                if message["msg"] in {"process_completed", "close_stream", "unexpected_error"}:
                    return

    def send_message(self, text: str, *, wait: bool, updates: int = 1) -> bool:
        """Send a chat message; True if it was admitted, False for a lack of credits.

        With `wait` reads to the end of the answer, else leaves after so many updates.
        """
        for message in self.call("send", [text, MODEL, None, secrets.token_hex(8), "", ""]):
            if message["msg"] == "process_completed" and not message["success"]:
                assert "not enough credits" in json.dumps(message["output"]), message
                return False
        seen = 0
        for message in self.call("write", [None]):
            if message["msg"] == "process_generating" and message["success"]:
                seen += 1
                if not wait and seen >= updates:
                    break
        assert seen > 0
        return True
