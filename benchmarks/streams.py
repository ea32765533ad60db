"""How many people can chat at once: streaming answers through the page's own protocol.

    python -m benchmarks.streams [--chats 100] [--seconds 20] [--rate 20] [--history 0]

Starts the real program with the script engine, opens one page for each person and sends one
message from each, spread over `--ramp` seconds. Printed are, over all chats:

- first update: from sending until the first text of the answer is there
- update lag: how much later a piece of text is on the page than the engine made it, beyond the
  quickest piece of the same answer; at 8 updates a second up to 125 ms of it is intended
- CPU of the server process, in shares of one core, while all answers stream

and, as the baseline of the same run, the same figures for plain server-sent events over REST.
"""

import argparse
import asyncio
import json
import re
import secrets
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from chat_app import db as database_room
from chat_app import settings as settings_room
from chat_app.accounts import sessions, users
from chat_app.clock import Clock
from chat_app.credits import ledger
from chat_app.db import Database
from chat_app.money import MICRO
from tests.page import Page
from tests.servers import MODEL, Person, Server, serving

WORD = re.compile(rb"w(\d+) ")
FIRST_TOKEN_SECONDS = 0.05


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


def prepare(data_dir: Path, count: int) -> list[str]:
    """People with credits and a browser session each; returns their cookies."""
    database = Database(f"sqlite:///{data_dir / 'chat.db'}")
    database_room.migrate(database)
    settings = settings_room.load()
    now = Clock().micros()
    cookies = []
    for number in range(count):

        def story(session: object, number: int = number) -> str:
            user = users.create(
                session,  # type: ignore[arg-type]
                username=f"chatter{number}",
                email=f"chatter{number}@example.org",
                password_hash="unused",
                now=now,
            )
            assert user.id is not None
            ledger.grant(
                session,  # type: ignore[arg-type]
                user_id=user.id,
                micro=1000 * MICRO,
                source="promo",
                now=now,
                scope="benchmark",
                key=str(number),
                actor="benchmark",
            )
            return sessions.create(
                session,  # type: ignore[arg-type]
                user=user,
                now=now,
                settings=settings.accounts,
                ip="127.0.0.1",
                agent="benchmark",
            )

        cookies.append(database.write(story))
    database.close()
    return cookies


async def page_stream(client: httpx.AsyncClient, cookie: str, fn: int, trigger: int) -> Chat:
    """One answer over Gradio's queue."""
    chat, tab = Chat(), secrets.token_hex(6)
    headers = {"Cookie": cookie}
    chat.sent = time.monotonic()
    joined = await client.post(
        "/gradio_api/queue/join",
        headers=headers,
        json={
            "data": ["hello there", MODEL, None, secrets.token_hex(8)],
            "fn_index": fn,
            "session_hash": tab,
            "event_data": None,
            "trigger_id": trigger,
        },
    )
    joined.raise_for_status()
    async with client.stream(
        "GET", "/gradio_api/queue/data", params={"session_hash": tab}, headers=headers
    ) as events:
        async for line in events.aiter_lines():
            if "process_completed" in line:
                chat.ended = '"success":true' in line.replace(" ", "")
                break
            chat.take(line.encode())
    return chat


async def rest_stream(client: httpx.AsyncClient, cookie: str, _fn: int, _trigger: int) -> Chat:
    """One answer over REST, an event for each token."""
    chat = Chat()
    chat.sent = time.monotonic()
    async with client.stream(
        "POST",
        "/api/chat/message",
        headers={"Cookie": cookie},
        json={"model": MODEL, "message": "hello there", "stream": True},
    ) as events:
        async for line in events.aiter_lines():
            if line == "event: done":
                chat.ended = True
                break
            chat.take(line.encode())
    return chat


async def run(
    way: object, server: Server, cookies: list[str], handler: dict[str, object], options: argparse.Namespace
) -> dict[str, float]:
    """All chats once; returns the figures."""
    assert callable(way)
    process = psutil.Process(server.process.pid)
    targets = handler["targets"]
    assert isinstance(targets, list)
    async with httpx.AsyncClient(
        base_url=server.url,
        timeout=120,
        headers={"Origin": server.url},
        limits=httpx.Limits(max_connections=None),
    ) as client:

        async def one(place: int, cookie: str) -> Chat:
            await asyncio.sleep(options.ramp * place / len(cookies))
            chat = await way(client, cookie, handler["id"], targets[0][0])
            assert isinstance(chat, Chat)
            return chat

        tasks = [asyncio.create_task(one(place, cookie)) for place, cookie in enumerate(cookies)]
        await asyncio.sleep(options.ramp + 2)
        before, began = process.cpu_times(), time.monotonic()
        await asyncio.sleep(max(3.0, options.seconds - options.ramp - 5))
        after, took = process.cpu_times(), time.monotonic() - began
        chats = await asyncio.gather(*tasks)
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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        cookies = prepare(data_dir, options.chats)
        with serving(
            data_dir,
            LLM__SCRIPT__TOKENS=str(int(options.rate * options.seconds)),
            LLM__SCRIPT__TOKENS_PER_SECOND=str(options.rate),
            LLM__SCRIPT__FIRST_TOKEN_MS=str(1000 * FIRST_TOKEN_SECONDS),
            LLM__MAX_OUTPUT_TOKENS="8000",
        ) as server:
            person = Person(server, "looker")
            handler = Page(server, person).handler("send")
            name = sessions.cookie_name(False)
            wearing = [f"{name}={cookie}" for cookie in cookies]
            page = asyncio.run(run(page_stream, server, wearing, handler, options))
            rest = asyncio.run(run(rest_stream, server, wearing, handler, options))
    print(
        f"{options.chats} chats, {options.rate:g} tokens/s each, {options.seconds:g} s, "
        f"sent over {options.ramp:g} s"
    )
    print(f"{'':24}{'page':>10}{'REST':>10}{'ratio':>8}")
    for label, value in page.items():
        ratio = value / rest[label] if rest[label] else float("nan")
        print(f"{label:24}{value:10.2f}{rest[label]:10.2f}{ratio:8.2f}")
    print(json.dumps({"page": page, "rest": rest}))


if __name__ == "__main__":
    main()
