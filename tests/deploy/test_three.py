"""Three processes, PostgreSQL, Redis and nginx: one is killed and one drains under 200 answers.

The shipped `three.conf` runs in a real nginx. Afterwards nothing is lost, doubled or overdrawn.
"""

import asyncio
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from sqlmodel import col, func, select

from chat_app.app import App, build
from chat_app.chat.tables import Message, Reply
from chat_app.credits import ledger, verify
from chat_app.credits.tables import Hold
from chat_app.flows import keys
from chat_app.money import MICRO
from tests import nginx, servers
from tests.apps import person, script_settings
from tests.postgres import running_server
from tests.redis_server import running_redis

PEOPLE = 25
# Everybody can pay for eight answers and sends nine messages: 200 are answered at once.
WELCOME, SENDS = 8, 9
CHATS = PEOPLE * WELCOME
TOKENS, TOKENS_PER_SECOND = 100, 10
PATIENCE_SECONDS = 600


@dataclass
class Stand:
    """What a test has: the public address, the processes, and an App that looks into the books."""

    url: str
    servers: list[servers.Server]
    app: App
    keys: dict[int, str]
    settings: dict[str, str]


@dataclass
class Chat:
    """One message as its sender sees it."""

    user_id: int
    reply_id: str = ""
    pieces: list[str] = field(default_factory=list)
    end: str = ""
    breaks: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    silent_seconds: float = 0.0


@contextmanager
def standing(folder: Path) -> Iterator[Stand]:
    """Everything started, the three processes at once on an empty database."""
    with ExitStack() as running:
        postgres = running.enter_context(running_server())
        url = running.enter_context(postgres.database("three"))
        redis = running.enter_context(running_redis())
        tls, plain, *ports = nginx.free_ports(5)
        public = f"https://localhost:{tls}"
        shared = {
            "DATABASE__URL": url,
            "REDIS__URL": redis.url,
            "SERVER__PUBLIC_URL": public,
            "LLM__SCRIPT__TOKENS": str(TOKENS),
            "LLM__SCRIPT__TOKENS_PER_SECOND": str(TOKENS_PER_SECOND),
            "CHAT__LEASE_SECONDS": "20",
            "CHAT__AUTO_TITLES": "false",
            "ACCOUNTS__WELCOME_CREDITS": str(WELCOME),
        }
        with ThreadPoolExecutor(3) as starting:
            made = list(
                starting.map(
                    lambda port: servers.launch(folder / "data", SERVER__PORT=str(port), **shared),
                    ports,
                )
            )
        for server in made:
            running.callback(server.process.wait)
            running.callback(server.process.kill)
        running.enter_context(nginx.running(folder, "three.conf", tls=tls, plain=plain, apps=ports))
        app = build(
            script_settings(folder / "data", url=url, accounts={"welcome_credits": WELCOME})
        )
        running.callback(app.db.close)
        yield Stand(public, made, app, asyncio.run(_people(app)), shared)


async def _people(app: App) -> dict[int, str]:
    """People with API keys."""
    made = {}
    for number in range(PEOPLE):
        user_id = await person(app, f"user{number}")
        made[user_id] = (await keys.make(app, user_id=user_id, name="load"))[1]
    return made


async def _talk(client: httpx.AsyncClient, stand: Stand, chat: Chat, until: float) -> None:
    """Send one message and follow it to its end, through whatever happens to the processes."""
    head = {"Authorization": f"Bearer {stand.keys[chat.user_id]}"}
    again = {**head, "Idempotency-Key": uuid.uuid4().hex}
    body = {"model": servers.MODEL, "message": "hello there", "stream": True}
    quiet = 0.0
    while not chat.end:
        assert time.monotonic() < until, f"no end: {chat}"
        try:
            if chat.reply_id:
                path = f"/api/chat/replies/{chat.reply_id}/events?after={len(chat.pieces)}"
                asking = client.stream("GET", path, headers=head)
            else:
                asking = client.stream("POST", "/api/chat/message", json=body, headers=again)
            async with asking as answer:
                if answer.status_code != 200:
                    text = await answer.aread()
                    refused = json.loads(text)["error"] if text.startswith(b"{") else {"code": ""}
                    chat.seen[refused["code"]] += 1
                    if answer.status_code == 402:
                        chat.end = "refused"
                    elif refused["code"] == "in_progress":
                        chat.reply_id = refused["reply_id"]
                    else:
                        assert answer.status_code == 503, refused
                        await asyncio.sleep(random.uniform(0.2, 0.6))
                    continue
                if quiet:
                    chat.silent_seconds = max(chat.silent_seconds, time.monotonic() - quiet)
                    quiet = 0.0
                await _read(answer, chat)
        except httpx.TransportError as error:
            chat.seen[type(error).__name__] += 1
        if not chat.end:
            chat.breaks += 1
            quiet = quiet or time.monotonic()
            await asyncio.sleep(random.uniform(0.1, 0.4))


async def _read(answer: httpx.Response, chat: Chat) -> None:
    kind = ""
    async for line in answer.aiter_lines():
        name, _, rest = line.partition(":")
        if name == "event":
            kind = rest.strip()
        elif name == "data":
            said = json.loads(rest)
            if kind == "start":
                chat.reply_id = said["reply_id"]
            elif kind == "delta":
                if said["index"] == len(chat.pieces) + 1:
                    chat.pieces.append(said["text"])
                else:
                    assert said["index"] <= len(chat.pieces), "a gap"
            elif kind == "done":
                chat.reply_id, chat.end = said["reply_id"], "done"
            elif kind == "error":
                chat.reply_id, chat.end = said["error"]["reply_id"], said["error"]["code"]


async def _storm(stand: Stand, chats: list[Chat]) -> dict[str, float]:
    """All chats at once; in the middle one process is killed and another drains."""
    until = time.monotonic() + PATIENCE_SECONDS
    limits = httpx.Limits(max_connections=len(chats), max_keepalive_connections=20)
    async with httpx.AsyncClient(
        base_url=stand.url, verify=False, timeout=30, limits=limits
    ) as client:
        began = time.monotonic()
        talking = [asyncio.create_task(_talk(client, stand, chat, until)) for chat in chats]
        while sum(bool(chat.pieces) for chat in chats) < CHATS * 0.6:
            await asyncio.sleep(0.05)
            assert time.monotonic() < until
        first = time.monotonic() - began
        stand.servers[0].process.kill()
        stand.servers[1].process.terminate()
        running = sum(not chat.end for chat in chats)
        await asyncio.gather(*talking)
        ended = time.monotonic() - began
    code = await asyncio.to_thread(stand.servers[1].process.wait, 60)
    assert code == 0, "the drained process ends in order"
    return {"under way at the kill": running, "kill after s": first, "all ended after s": ended}


@pytest.mark.full
@pytest.mark.timeout(900)
def test_one_process_is_killed_and_one_drains_under_200_chats(tmp_path: Path) -> None:
    """T1, T5, T9, T11: every message has one reply in an end state, and the books are right."""
    tmp_path.chmod(0o755)
    with standing(tmp_path) as stand:
        owners = list(stand.keys)
        chats = [Chat(owner) for _ in range(SENDS) for owner in owners]
        figures = asyncio.run(_storm(stand, chats))
        app = stand.app
        with app.db.read() as session:
            replies = {row.id: row for row in session.exec(select(Reply))}
            texts = dict(session.exec(select(Message.id, Message.content)).all())
            questions = session.exec(
                select(func.count()).select_from(Message).where(Message.role == "user")
            ).one()
            open_holds = session.exec(
                select(func.count()).select_from(Hold).where(col(Hold.state) == "open")
            ).one()
            balances = {id: ledger.balance(session, user_id=id) for id in owners}
            assert verify.run(session) == []
        _judge(chats, replies, texts)
        answered = [chat for chat in chats if chat.end != "refused"]
        assert questions == len(replies) == len(answered), "each message once, with one reply"
        assert open_holds == 0
        for id, balance in balances.items():
            spent = sum(row.charged or 0 for row in replies.values() if row.user_id == id)
            assert balance.total == balance.available == WELCOME * MICRO - spent
            assert balance.available >= 0
            refused = sum(chat.end == "refused" for chat in chats if chat.user_id == id)
            paid = sum(bool(row.charged) for row in replies.values() if row.user_id == id)
            assert paid <= WELCOME
            assert refused + paid <= SENDS
        done = servers.verify(stand.servers[2].data_dir, **stand.settings)
        assert done.returncode == 0, done.stdout + done.stderr
        with httpx.Client(base_url=stand.url, verify=False) as client:
            assert client.get("/readyz").json()["redis"] == "ok"
    ends = Counter(chat.end for chat in chats)
    seen: Counter[str] = sum((chat.seen for chat in chats), Counter())
    cut = [chat for chat in chats if chat.breaks]
    print("\n" + ", ".join(f"{name}: {value:.1f}" for name, value in figures.items()))
    print(f"ends: {dict(ends)}; seen on the way: {dict(seen)}")
    print(
        f"cut off: {len(cut)} of {len(chats)}, longest without a word "
        f"{max((chat.silent_seconds for chat in chats), default=0):.1f} s; "
        f"verify: {done.stdout.strip().splitlines()[-1]}"
    )


def _judge(chats: list[Chat], replies: dict[str, Reply], texts: dict[str, str]) -> None:
    """What each sender saw is what is stored, or, where a process died, begins with it."""
    ids = [chat.reply_id for chat in chats if chat.end != "refused"]
    assert len(ids) == len(set(ids)), "no reply was given for two messages"
    for chat in chats:
        if chat.end == "refused":
            continue
        row, seen = replies[chat.reply_id], "".join(chat.pieces)
        text = texts[row.message_id]
        if chat.end == "done":
            assert (row.state, seen) == ("done", text)
        else:
            assert (chat.end, row.state) == ("interrupted", "failed"), chat
            assert text.startswith(seen) or seen.startswith(text)
        assert row.ended_at is not None
