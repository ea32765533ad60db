"""Apps, people and messages for tests: the real parts, the script engine, a real file."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from chat_app import settings as settings_room
from chat_app.app import App, build
from chat_app.chat.live import Piece
from chat_app.clock import Clock
from chat_app.credits import verify
from chat_app.flows import message, reply, signup
from chat_app.flows.reply import ReplyView
from chat_app.money import MICRO

MODEL = "smollm2-135m-instruct"
PASSWORD = "correct horse battery staple"
UNLIMITED = {
    "running_per_user": 0,
    "waiting_per_user": 0,
    "queue_total": 0,
    "requests_per_minute": 0,
    "registrations_per_hour_per_ip": 0,
    "login_failures_per_15_minutes": 0,
}


def script_settings(data_dir: Path, *, url: str = "", **over: Any) -> settings_room.Settings:
    """Settings for the script engine at full speed; `over` are sections of settings."""
    script = {"tokens": 8, "tokens_per_second": 0, "first_token_ms": 0, **over.pop("script", {})}
    return settings_room.load(
        data_dir=data_dir,
        database={"url": url},
        llm={"engine": "script", "script": script, **over.pop("llm", {})},
        limits={**UNLIMITED, **over.pop("limits", {})},
        **over,
    )


@asynccontextmanager
async def running_app(
    data_dir: Path, *, url: str = "", clock: Clock | None = None, **over: Any
) -> AsyncIterator[App]:
    """A started app; at the end it is stopped and its books must verify."""
    app = build(script_settings(data_dir, url=url, **over), clock=clock)
    await app.start()
    try:
        yield app
        await app.drain()
        with app.db.read() as session:
            assert verify.run(session) == []
    finally:
        await app.stop()


async def person(app: App, name: str = "alice") -> int:
    """A registered user's id; the balance is the welcome credits."""
    user = await signup.register(
        app, username=name, email=f"{name}@example.org", password=PASSWORD, ip="127.0.0.1"
    )
    assert user.id is not None
    return user.id


async def ask(app: App, user_id: int, text: str = "hello there", **more: Any) -> message.Started:
    """Send a message to the demo model."""
    return await message.start(app, user_id=user_id, text=text, **{"model": MODEL, **more})


async def answer(app: App, user_id: int, started: message.Started) -> ReplyView:
    """Follow a reply to its end."""
    return (await follow(app, user_id, started.reply_id))[1]


async def follow(
    app: App, user_id: int, reply_id: str, after: int = 0
) -> tuple[list[Piece], ReplyView]:
    """All pieces after number `after`, and the end."""
    pieces: list[Piece] = []
    async for item in reply.follow(app, user_id=user_id, reply_id=reply_id, after=after):
        if isinstance(item, Piece):
            pieces.append(item)
        elif isinstance(item, ReplyView):
            return pieces, item
    raise AssertionError("a reply has an end")


def credits(micro: int) -> float:
    """Microcredits as credits, for readable assertions on whole numbers."""
    return micro / MICRO


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine, run in an event loop of its own."""

    @wraps(test)
    def run(*given: Any, **named: Any) -> None:
        asyncio.run(test(*given, **named))

    return run
