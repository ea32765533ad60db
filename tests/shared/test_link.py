"""The link: what is told arrives, Redis may be lost and come back, and nothing waits for it."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chat_app.shared.link import Link, Lost, Said
from chat_app.shared.windows import Windows
from tests.apps import in_loop
from tests.redis_server import RedisServer, running_redis


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A server for this file."""
    with running_redis() as server:
        yield server


@asynccontextmanager
async def links(redis: RedisServer, *prefixes: str) -> AsyncIterator[list[Link]]:
    """Connected ends."""
    made = [Link(redis.url, prefix=prefix) for prefix in prefixes]
    for link in made:
        await link.start()
    try:
        yield made
    finally:
        for link in made:
            await link.close()


async def until(link: Link, *, up: bool) -> None:
    """Wait for the link to notice."""
    async with asyncio.timeout(20):
        while link.up != up:
            await asyncio.sleep(0.02)


@in_loop
async def test_what_is_told_reaches_all_or_one_of_an_installation(redis: RedisServer) -> None:
    async with links(redis, "a", "a", "b") as (one, two, stranger):
        heard: list[tuple[str, Said]] = []
        for name, link in (("one", one), ("two", two), ("stranger", stranger)):
            link.on("news", lambda said, name=name: heard.append((name, said)))
        assert await one.tell("news", text="lone \ud800 surrogate")
        assert await one.tell("news", to=two.name, text="for two")
        assert await one.tell("nobody knows this", text="")
        one.tell_soon("news", text="soon")
        async with asyncio.timeout(20):
            while len(heard) < 5:
                await asyncio.sleep(0.01)
    told = sorted((name, said["text"]) for name, said in heard)
    assert told == [
        ("one", "lone \ud800 surrogate"),
        ("one", "soon"),
        ("two", "for two"),
        ("two", "lone \ud800 surrogate"),
        ("two", "soon"),
    ]
    assert {said["from"] for _, said in heard} == {one.name}


@in_loop
async def test_a_handler_that_fails_ends_nothing(redis: RedisServer) -> None:
    async with links(redis, "a") as (link,):
        heard = asyncio.Event()
        link.on("bad", lambda said: said["missing"])
        link.on("good", lambda _said: heard.set())
        await link.tell("bad")
        await link.tell("good")
        async with asyncio.timeout(20):
            await heard.wait()


def test_lost_redis_is_said_once_and_comes_back(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed, hung, and not there at the start: calls fail instead of waiting, then work again."""

    @in_loop
    async def story() -> None:
        async with links(redis, "a") as (link,):
            heard = asyncio.Event()
            link.on("news", lambda _said: heard.set())
            windows = Windows(link)
            redis.kill()
            await until(link, up=False)
            with pytest.raises(Lost):
                await link.call("PING")
            assert not await link.tell("news")
            assert await windows.take("k", limit=1, seconds=60) == 0.0
            assert await windows.take("k", limit=1, seconds=60) == 0.0, "nothing is refused here"
            late = Link(redis.url, prefix="a")
            await late.start()
            assert not late.up
            redis.start()
            await until(link, up=True)
            await until(late, up=True)
            assert await late.tell("news")
            async with asyncio.timeout(20):
                await heard.wait()
            await late.close()
            assert redis.process is not None
            os.kill(redis.process.pid, signal.SIGSTOP)
            with pytest.raises(Lost):
                await link.call("PING")
            os.kill(redis.process.pid, signal.SIGCONT)
            await until(link, up=True)

    with caplog.at_level(logging.WARNING, logger="chat_app.shared.link"):
        story()
    said = [record.getMessage().split(",")[0].split(":")[0] for record in caplog.records]
    assert said == [
        "Redis is lost",  # killed
        "Redis is lost",  # the late one, at its start
        "Redis is back",
        "Redis is back",
        "Redis is lost",  # hung
        "Redis is back",
    ]


@in_loop
async def test_a_window_is_exact_over_processes(redis: RedisServer) -> None:
    """T1: parallel events of two processes, room for 20: exactly 20 pass."""
    async with links(redis, "w", "w", "other") as (one, two, stranger):
        both = [Windows(one), Windows(two)]
        waits = await asyncio.gather(
            *(both[n % 2].take("k", limit=20, seconds=60) for n in range(60))
        )
        assert sum(wait == 0 for wait in waits) == 20
        assert all(0 < wait <= 60 for wait in waits if wait)
        assert (both[0].left("k") or (9, 9))[0] == 0
        await both[0].give_back("k")
        assert (both[0].left("k") or (9, 9))[0] == 1
        assert await both[1].take("k", limit=20, seconds=60) == 0
        assert await both[1].take("k", limit=20, seconds=60) > 0
        assert await both[1].take("another", limit=20, seconds=60) == 0
        assert await Windows(stranger).take("k", limit=20, seconds=60) == 0
        assert both[0].left("never asked") is None
        assert 0 < await one.call("PTTL", "w:window:k") <= 60_000, "nothing stays for ever"


@in_loop
async def test_a_window_slides(redis: RedisServer) -> None:
    async with links(redis, "slide") as (link,):
        windows = Windows(link)
        assert [await windows.take("k", limit=2, seconds=0.2) for _ in range(2)] == [0, 0]
        wait = await windows.take("k", limit=2, seconds=0.2)
        assert 0 < wait <= 0.2
        await asyncio.sleep(wait)
        assert await windows.take("k", limit=2, seconds=0.2) == 0


@in_loop
async def test_a_lost_cancellation_does_not_keep_the_end_waiting(redis: RedisServer) -> None:
    """The client's library may take one for the end of its own time limit."""
    from redis.asyncio.client import PubSub

    heard = PubSub.get_message

    async def deaf(ear: PubSub, **how: Any) -> Any:
        try:
            return await heard(ear, **how)
        except asyncio.CancelledError:
            return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PubSub, "get_message", deaf)
        async with asyncio.timeout(20), links(redis, "a"):
            await asyncio.sleep(0.1)
