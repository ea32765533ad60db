"""The link to Redis: what one process tells the others, and whether Redis is there at all.

What is told may be lost, so whoever relies on it asks again or looks into the database. While
Redis is away nothing waits for it: `up` is false and every call fails at once. It is tried
again each second. Everything here happens on one event loop.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from chat_app.ids import new_id

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger(__name__)

# No request waits longer for Redis than this, and only the first one after it was lost.
PATIENCE_SECONDS = 2.0
RETRY_SECONDS = 1.0
CONNECTIONS = 16

Said = dict[str, Any]
Handler = Callable[[Said], None]


class Lost(Exception):
    """Redis cannot be reached now. Never leaves the program: callers go on without it."""


class Link:
    """One process's end. `name` is what the others know it by; `prefix` begins every key.

    Handlers are called on the event loop with what was told, and must not block.
    """

    def __init__(self, url: str, *, prefix: str) -> None:
        self.url = url
        self.prefix = prefix
        self.name = new_id("proc")
        self.up = False
        self._client: Redis | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listening: asyncio.Task[None] | None = None
        self._telling: set[asyncio.Task[bool]] = set()
        self._handlers: dict[str, Handler] = {}
        self._told = False
        self._ending = False

    def on(self, kind: str, handler: Handler) -> None:
        """Have what is told under `kind` given to `handler`."""
        self._handlers[kind] = handler

    async def start(self) -> None:
        """Connect; returns when it is known whether Redis is there."""
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        self._client = Redis(
            connection_pool=BlockingConnectionPool.from_url(
                self.url,
                max_connections=CONNECTIONS,
                timeout=PATIENCE_SECONDS,
                socket_timeout=PATIENCE_SECONDS,
                socket_connect_timeout=PATIENCE_SECONDS,
                retry=Retry(NoBackoff(), 0),
                decode_responses=True,
            )
        )
        self._loop = asyncio.get_running_loop()
        first = asyncio.Event()
        self._listening = asyncio.create_task(self._listen(first))
        await first.wait()

    async def close(self) -> None:
        """Disconnect."""
        self.up, self._ending = False, True
        if self._listening is not None:
            self._listening.cancel()
            with suppress(asyncio.CancelledError):
                await self._listening
        if self._client is not None:
            with suppress(Exception):
                await self._client.aclose()

    async def tell(self, kind: str, to: str | None = None, **facts: object) -> bool:
        """Tell all processes, this one too, or one by its name; False when Redis is away."""
        said = json.dumps({"kind": kind, "from": self.name, **facts}, ensure_ascii=True)
        try:
            await self.call("PUBLISH", self._channel(to), said)
        except Lost:
            return False
        return True

    def tell_soon(self, kind: str, **facts: object) -> None:
        """Tell all processes, from any thread and without waiting."""

        def go() -> None:
            task = asyncio.ensure_future(self.tell(kind, None, **facts))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(go)

    async def call(self, *command: "str | int | float") -> Any:
        """Run one command of Redis; raises Lost."""
        if not self.up or self._client is None:
            raise Lost
        try:
            return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except _failures() as error:
            self._down(error)
            raise Lost from error

    def _channel(self, to: str | None) -> str:
        return f"{self.prefix}:to:{to or 'all'}"

    async def _listen(self, first: asyncio.Event) -> None:
        assert self._client is not None
        # A cancellation that meets the end of a time limit may be lost in the client's library.
        while not self._ending:
            try:
                async with self._client.pubsub() as ear:
                    await ear.subscribe(self._channel(None), self._channel(self.name))
                    while not self._ending:
                        if not self.up:
                            await self._client.ping()
                            self._back()
                            first.set()
                        said = await ear.get_message(
                            ignore_subscribe_messages=True, timeout=RETRY_SECONDS
                        )
                        if said is not None:
                            self._hear(said["data"])
                        else:
                            await self._client.ping()  # a silent line may be a dead one
            except _failures() as error:
                self._down(error)
                first.set()
            await asyncio.sleep(RETRY_SECONDS)

    def _hear(self, text: str) -> None:
        try:
            said = json.loads(text)
            handler = self._handlers.get(said["kind"])
            if handler is not None:
                handler(said)
        except Exception:
            log.exception("what another process said was not understood")

    def _back(self) -> None:
        self.up = True
        if self._told:
            log.warning("Redis is back: the processes share limits and running answers again")
        self._told = False

    def _down(self, error: Exception) -> None:
        self.up = False
        if not self._told:
            log.error("Redis is lost, each process goes on by itself: %s", error)
        self._told = True


def _failures() -> tuple[type[Exception], ...]:
    from redis.exceptions import RedisError

    return RedisError, OSError, TimeoutError
