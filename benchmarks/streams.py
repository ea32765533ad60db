"""How many people can chat at once: streaming answers through the page's own protocol.

    python -m benchmarks.streams [--chats 100] [--seconds 20] [--rate 20] [--earlier 40]

Starts the real program with the script engine, opens one page for each person, then sends one
message from each, spread over `--ramp` seconds, in a conversation of `--earlier` messages. Printed
are, over all chats:

- first update: from sending until the first text of the answer is there
- update lag: how much later a piece of text is on the page than the engine made it, beyond the
  quickest piece of the same answer; at 8 updates a second up to 125 ms of it is intended
- CPU of the server process, in shares of one core, while all answers stream, and per update

and, as baselines of the same run, the same figures for updates that each go by way of Gradio's
handling (`chat.direct_updates = false`) and for plain server-sent events over REST.
"""

import argparse
import asyncio
import json
import re
import secrets
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
from sqlmodel import Session

from chat_app import db as database_room
from chat_app import settings as settings_room
from chat_app.accounts import sessions, users
from chat_app.chat import imports
from chat_app.chat.imports import Said, Talk
from chat_app.clock import Clock
from chat_app.credits import ledger
from chat_app.db import Database
from chat_app.money import MICRO
from tests.page import Page
from tests.servers import MODEL, Person, Server, serving

WORD = re.compile(rb"w(\d+) ")
FIRST_TOKEN_SECONDS = 0.05
SENTENCE = (
    "This is one of the sentences that were said before, with **bold** and `code` in it. " * 2
)


@dataclass
class Chat:
    """One person's stream: when it was sent, and when which token was on the page."""

    sent: float = 0.0
    first: float | None = None
    seen: list[tuple[float, int]] = field(default_factory=list)
    updates: int = 0
    bytes: int = 0
    ended: bool = False

    def take(self, data: bytes) -> None:
        """Note an event that has just arrived."""
        now = time.monotonic()
        self.bytes += len(data)
        words = WORD.findall(data)
        if not words:
            return
        self.updates += 1
        self.first = self.first or now
        self.seen.append((now, max(int(word) for word in words)))

    def lags(self, rate: float) -> list[float]:
        """Seconds by which each update is later than the quickest one."""
        late = [now - number / rate for now, number in self.seen]
        return [value - min(late) for value in late]


def prepare(
    data_dir: Path, count: int, *, earlier: int, credits: int = 1000
) -> list[tuple[str, str | None]]:
    """People with credits, a browser session and a conversation each: their cookies, and its id."""
    database = Database(f"sqlite:///{data_dir / 'chat.db'}")
    database_room.migrate(database)
    settings = settings_room.load()
    now = Clock().micros()
    said = [Said("user", "What is it now?", None, None)] + [
        Said("user" if place % 2 == 0 else "assistant", SENTENCE, MODEL, None, place - 1)
        for place in range(1, earlier)
    ]
    talk = Talk("Earlier", tuple(said), leaf=earlier - 1)
    people = []
    for number in range(count):

        def story(session: Session, number: int = number) -> tuple[str, str | None]:
            user = users.create(
                session,
                username=f"chatter{number}",
                email=f"chatter{number}@example.org",
                password_hash="unused",
                now=now,
            )
            assert user.id is not None
            ledger.grant(
                session,
                user_id=user.id,
                micro=credits * MICRO,
                source="promo",
                now=now,
                scope="benchmark",
                key=str(number),
                actor="benchmark",
            )
            begun = imports.store(
                session,
                user_id=user.id,
                talks=[talk] if earlier else [],
                models=[MODEL],
                default_model=MODEL,
                now=now,
            )
            cookie = sessions.create(
                session,
                user=user,
                now=now,
                settings=settings.accounts,
                ip="127.0.0.1",
                agent="benchmark",
            )
            return cookie, begun[0].id if begun else None

        people.append(database.write(story))
    database.close()
    return people


def many(url: str) -> httpx.AsyncClient:
    """A client for as many connections as there are people."""
    return httpx.AsyncClient(
        base_url=url,
        timeout=120,
        headers={"Origin": url},
        limits=httpx.Limits(max_connections=None),
    )


class PageTab:
    """A browser tab: opened before, as it is when somebody sends a message."""

    def __init__(
        self, client: httpx.AsyncClient, cookie: str, conversation: str | None, page: Page
    ) -> None:
        self.client, self.conversation, self.page = client, conversation, page
        self.headers = {"Cookie": cookie}
        self.session_hash = secrets.token_hex(6)

    async def open(self) -> None:
        """What a page does when it loads."""
        async for _ in self.call("load", []):
            pass

    async def chat(self) -> Chat:
        """Send a message, then follow what is written."""
        chat = Chat(sent=time.monotonic())
        question = ["hello there", MODEL, self.conversation, secrets.token_hex(8), "", ""]
        async for _ in self.call("send", question):
            pass
        async for line in self.call("write", [None]):
            chat.ended = "process_completed" in line and '"success":true' in line
            if not chat.ended:
                chat.take(line.encode())
        return chat

    async def call(self, name: str, data: list[object]) -> AsyncIterator[str]:
        """Run a handler; gives the lines of its events."""
        handler = self.page.handler(name)
        joined = await self.client.post(
            "/gradio_api/queue/join",
            headers=self.headers,
            json={
                "data": data,
                "fn_index": handler["id"],
                "session_hash": self.session_hash,
                "event_data": None,
                "trigger_id": handler["targets"][0][0],
            },
        )
        joined.raise_for_status()
        async with self.client.stream(
            "GET",
            "/gradio_api/queue/data",
            params={"session_hash": self.session_hash},
            headers=self.headers,
        ) as events:
            async for line in events.aiter_lines():
                yield line
                if "process_completed" in line:
                    return


class RestTab:
    """A program with an open connection."""

    def __init__(
        self, client: httpx.AsyncClient, cookie: str, conversation: str | None, _page: Page
    ) -> None:
        self.client, self.conversation = client, conversation
        self.headers = {"Cookie": cookie}

    async def open(self) -> None:
        """Nothing to do."""

    async def chat(self) -> Chat:
        """One answer over REST, an event for each token."""
        chat = Chat(sent=time.monotonic())
        async with self.client.stream(
            "POST",
            "/api/chat/message",
            headers=self.headers,
            json={
                "model": MODEL,
                "message": "hello there",
                "stream": True,
                **({"conversation_id": self.conversation} if self.conversation else {}),
            },
        ) as events:
            async for line in events.aiter_lines():
                if line == "event: done":
                    chat.ended = True
                    break
                chat.take(line.encode())
        return chat


WAYS: tuple[tuple[str, type[PageTab] | type[RestTab], str], ...] = (
    ("page", PageTab, "true"),
    ("by Gradio", PageTab, "false"),
    ("REST", RestTab, "true"),
)


async def run(
    way: type[PageTab] | type[RestTab],
    server: Server,
    people: list[tuple[str, str | None]],
    page: Page,
    options: argparse.Namespace,
) -> dict[str, float]:
    """All chats once; returns the figures."""
    process = psutil.Process(server.process.pid)
    async with many(server.url) as client:
        tabs = [way(client, cookie, talk, page) for cookie, talk in people]
        for tab in tabs:
            await tab.open()

        async def one(place: int, tab: PageTab | RestTab) -> Chat:
            await asyncio.sleep(options.ramp * place / len(tabs))
            return await tab.chat()

        tasks = [asyncio.create_task(one(place, tab)) for place, tab in enumerate(tabs)]
        await asyncio.sleep(options.ramp + 2)
        before, began = process.cpu_times(), time.monotonic()
        await asyncio.sleep(max(3.0, options.seconds - options.ramp - 5))
        after, took = process.cpu_times(), time.monotonic() - began
        chats = await asyncio.gather(*tasks)
    shown = sum(began <= at <= began + took for chat in chats for at, _ in chat.seen)
    busy = (after.user + after.system - before.user - before.system) / took
    firsts = [chat.first - chat.sent for chat in chats if chat.first is not None]
    lags = [lag for chat in chats for lag in chat.lags(options.rate)]
    return {
        "answers complete": sum(chat.ended for chat in chats),
        "first update p50 ms": 1000 * statistics.median(firsts),
        "first update p95 ms": 1000 * quantile(firsts, 0.95),
        "update lag p50 ms": 1000 * statistics.median(lags),
        "update lag p95 ms": 1000 * quantile(lags, 0.95),
        "update lag p99 ms": 1000 * quantile(lags, 0.99),
        "updates per second": sum(chat.updates for chat in chats) / options.seconds,
        "bytes per update": sum(chat.bytes for chat in chats) / sum(chat.updates for chat in chats),
        "server CPU, cores": busy,
        "server CPU per update ms": 1000 * busy * took / max(1, shown),
    }


def quantile(values: list[float], share: float) -> float:
    """The value below which this share of the values lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chats", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20, help="length of one answer")
    parser.add_argument("--rate", type=float, default=20, help="tokens per second of one answer")
    parser.add_argument("--ramp", type=float, default=4, help="seconds in which all are sent")
    parser.add_argument("--earlier", type=int, default=0, help="messages in each conversation")
    options = parser.parse_args()
    found = {}
    for label, way, direct in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            data_dir = Path(folder) / "data"
            people = prepare(data_dir, options.chats, earlier=options.earlier)
            with serving(
                data_dir,
                LLM__SCRIPT__TOKENS=str(int(options.rate * options.seconds)),
                LLM__SCRIPT__TOKENS_PER_SECOND=str(options.rate),
                LLM__SCRIPT__FIRST_TOKEN_MS=str(1000 * FIRST_TOKEN_SECONDS),
                LLM__MAX_OUTPUT_TOKENS="8000",
                CHAT__DIRECT_UPDATES=direct,
            ) as server:
                looked_at = Page(server, Person(server, "looker"))
                name = sessions.cookie_name(False)
                wearing = [(f"{name}={cookie}", talk) for cookie, talk in people]
                found[label] = asyncio.run(run(way, server, wearing, looked_at, options))
    print(
        f"{options.chats} chats, {options.rate:g} tokens/s each, {options.seconds:g} s, "
        f"sent over {options.ramp:g} s"
    )
    print(f"{'':26}" + "".join(f"{label:>10}" for label in found) + f"{'ratios':>13}")
    page = found["page"]
    for label, value in page.items():
        others = [figures[label] for figures in found.values()]
        ratios = [value / other if other else float("nan") for other in others[1:]]
        print(
            f"{label:26}"
            + "".join(f"{other:10.2f}" for other in others)
            + "  "
            + " ".join(f"{ratio:5.2f}" for ratio in ratios)
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
