"""Two processes of one installation, joined by Redis: replies, limits and what is kept in memory.

Both are apps of this test, which tells them apart by nothing but their memory.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from chat_app.accounts.limits import RateLimited, TooManyAnswers, TooManyQuotes
from chat_app.app import App
from chat_app.chat import relay
from chat_app.chat.live import Piece, Status
from chat_app.flows import erase, message, reply, sweep
from chat_app.flows.reply import ReplyNotFound, ReplyView, StopUnheard
from tests.apps import MODEL, PASSWORD, answer, ask, follow, in_loop, person, running_app
from tests.redis_server import RedisServer, running_redis

SLOW = {"tokens": 30, "tokens_per_second": 30}


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A server for this file."""
    with running_redis() as server:
        yield server


@asynccontextmanager
async def two(folder: Path, redis: RedisServer, **over: Any) -> AsyncIterator[tuple[App, App]]:
    """Two apps of one installation."""
    over = {"redis": {"url": redis.url}, "script": SLOW, **over}
    async with running_app(folder, **over) as one, running_app(folder, **over) as other:
        yield one, other


async def up(app: App, *, up: bool = True) -> None:
    """Wait until the app knows how Redis is."""
    assert app.link is not None
    async with asyncio.timeout(20):
        while app.link.up != up:
            await asyncio.sleep(0.02)


@in_loop
async def test_a_reply_is_followed_where_it_is_not_written(
    tmp_path: Path, redis: RedisServer
) -> None:
    """The same numbers and texts, while they are written, to several readers, from any place."""
    async with two(tmp_path, redis) as (here, there):
        alice = await person(here)
        started = await ask(here, alice)
        assert reply.running(there, user_id=alice) == [started.reply_id]
        seen: list[Piece | Status | ReplyView] = []
        running = 0
        async for item in reply.follow(there, user_id=alice, reply_id=started.reply_id):
            seen.append(item)
            running += here.replies.get(started.reply_id) is not None
            if len(seen) == 3:
                tokens = [reply.prompt_tokens(app, started.reply_id) for app in (here, there)]
                assert tokens[0] == tokens[1] > 0
                second = asyncio.create_task(follow(there, alice, started.reply_id, after=5))
        assert running > 15, "it came while it was written"
        pieces = [item for item in seen if isinstance(item, Piece)]
        end = seen[-1]
        assert isinstance(end, ReplyView)
        assert [piece.index for piece in pieces] == list(range(1, 31))
        assert "".join(piece.text for piece in pieces) == end.content
        late, same = await second
        assert ([piece.index for piece in late], same.reply_id) == (
            list(range(6, 31)), end.reply_id
        )  # fmt: skip
        assert [one.text for one in late] == [one.text for one in pieces[5:]]
        assert reply.running(there, user_id=alice) == []
        assert there.relay is not None
        async with asyncio.timeout(20):  # nothing is left of it
            while there.relay.mirrored(started.reply_id) is not None:
                await asyncio.sleep(0.01)


@in_loop
async def test_what_is_lost_on_the_way_is_asked_for_again(
    tmp_path: Path, redis: RedisServer
) -> None:
    async with two(tmp_path, redis) as (here, there):
        alice = await person(here)
        assert there.link is not None
        deliver, count = there.link._handlers["pieces"], 0

        def losing(said: dict[str, Any]) -> None:
            nonlocal count
            count += 1
            if count % 3:
                deliver(said)

        there.link.on("pieces", losing)
        started = await ask(here, alice)
        pieces, end = await follow(there, alice, started.reply_id)
        assert [piece.index for piece in pieces] == list(range(1, 31))
        assert "".join(piece.text for piece in pieces) == end.content
        assert count > 3


@in_loop
async def test_a_reply_is_stopped_where_it_is_not_written(
    tmp_path: Path, redis: RedisServer
) -> None:
    """The writer answers that it does; who is not the owner is not answered."""
    async with two(tmp_path, redis) as (here, there):
        alice, bob = await person(here), await person(here, "bob")
        started = await ask(here, alice)
        with pytest.raises(ReplyNotFound):
            await reply.stop(there, user_id=bob, reply_id=started.reply_id)
        assert there.relay is not None
        await asyncio.sleep(0.1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(relay, "STOP_SECONDS", 0.05)
            assert not await there.relay.stop(started.reply_id, bob)
        await reply.stop(there, user_id=alice, reply_id=started.reply_id)
        end = await answer(there, alice, started)
        assert end.finish_reason == "cancelled"
        assert end.completion_tokens < 30


@in_loop
async def test_without_redis_the_database_carries_on(tmp_path: Path) -> None:
    """Lost in the middle of an answer and started again: nothing is lost, doubled or refused."""
    with running_redis() as redis:
        async with two(tmp_path, redis, chat={"progress_seconds": 0.1}) as (here, there):
            alice = await person(here)
            started = await ask(here, alice)
            keeping = asyncio.create_task(_keep(here))
            pieces: list[Piece] = []
            async for item in reply.follow(there, user_id=alice, reply_id=started.reply_id):
                if isinstance(item, Piece):
                    pieces.append(item)
                    if item.index == 5:
                        redis.kill()
                        await up(there, up=False)
                        with pytest.raises(StopUnheard):
                            await reply.stop(there, user_id=alice, reply_id=started.reply_id)
                elif isinstance(item, ReplyView):
                    end = item
            assert [piece.index for piece in pieces] == list(range(1, 31))
            assert "".join(piece.text for piece in pieces) == end.content
            assert (end.state, end.finish_reason) == ("done", "stop")
            redis.start()
            await up(here)
            await up(there)
            started = await ask(here, alice)
            await reply.stop(there, user_id=alice, reply_id=started.reply_id)
            assert (await answer(there, alice, started)).finish_reason == "cancelled"
            keeping.cancel()


async def _keep(app: App) -> None:
    while True:
        await sweep.save_progress(app)
        await asyncio.sleep(0.1)


@in_loop
async def test_a_reply_whose_process_died_ends_for_its_readers_elsewhere(
    tmp_path: Path, redis: RedisServer
) -> None:
    """T5: it is settled by the other process once the lease is over, and says why it broke off."""
    async with two(tmp_path, redis, chat={"lease_seconds": 0.5}) as (here, there):
        alice = await person(here)
        started = await ask(here, alice)
        reading = asyncio.create_task(follow(there, alice, started.reply_id))
        live = here.replies.get(started.reply_id)
        assert live is not None
        assert live.task is not None
        async with asyncio.timeout(20):
            while len(live.pieces) < 5:
                await asyncio.sleep(0.01)
        await sweep.save_progress(here)
        saved = live.saved_pieces
        live.task.cancel()  # as if its process were gone
        here.replies.remove(started.reply_id)
        await asyncio.sleep(0.6)
        assert reply.running(there, user_id=alice) == [], "the dead do not run"
        assert await asyncio.to_thread(sweep.settle_abandoned, there) == 1
        _, end = await reading
        assert (end.state, end.error_code) == ("failed", "interrupted")
        assert end.completion_tokens == saved
        assert await asyncio.to_thread(sweep.settle_abandoned, here) == 0


@in_loop
async def test_limits_count_in_all_processes(tmp_path: Path) -> None:
    """T1: five messages in a minute are five, wherever they are sent; alone each counts its own."""
    limits = {"requests_per_minute": 5}
    with running_redis() as redis:
        async with two(tmp_path, redis, limits=limits, script={"tokens": 1}) as (here, there):
            alice = await person(here)
            for app in (here, there, here, there, here):
                await answer(app, alice, await ask(app, alice))
            for app in (here, there):
                with pytest.raises(RateLimited) as refused:
                    await ask(app, alice)
                assert 0 < refused.value.retry_after_seconds <= 60
                rate = app.limits.rate(alice)
                assert rate is not None
                assert rate.left == 0
            again = await ask_twice(here, await person(here, "bob"))
            assert again.replayed
            for app in [here, there] * 10:
                await message.quote(app, user_id=alice, text="hello", model=MODEL)
            with pytest.raises(TooManyQuotes):
                await message.quote(there, user_id=alice, text="hello", model=MODEL)
            redis.kill()
            await up(here, up=False)
            await up(there, up=False)
            carol = await person(here, "carol")
            for app in (here, there):
                for _ in range(5):
                    await answer(app, carol, await ask(app, carol))
                with pytest.raises(RateLimited):
                    await ask(app, carol)
            redis.start()
            await up(here)
            await up(there)
            with pytest.raises(RateLimited):
                await ask(here, carol)


async def ask_twice(app: App, user_id: int) -> message.Started:
    """The same message again: it counts once."""
    first = await ask(app, user_id, idempotency_key="k")
    await answer(app, user_id, first)
    again = await ask(app, user_id, idempotency_key="k")
    rate = app.limits.rate(user_id)
    assert rate is not None
    assert rate.left == 4
    return again


@in_loop
async def test_answers_at_once_are_bounded_over_processes(
    tmp_path: Path, redis: RedisServer
) -> None:
    limits = {"running_per_user": 1, "waiting_per_user": 1}
    async with two(tmp_path, redis, limits=limits) as (here, there):
        alice = await person(here)
        started = [await ask(here, alice), await ask(there, alice)]
        for app in (here, there):
            with pytest.raises(TooManyAnswers):
                await ask(app, alice)
        for one in started:
            await reply.stop(there, user_id=alice, reply_id=one.reply_id)
            await answer(here, alice, one)
        await ask(here, alice)


@in_loop
async def test_what_is_deleted_is_forgotten_by_all(tmp_path: Path, redis: RedisServer) -> None:
    """An answer that is kept in memory elsewhere goes with its conversation."""
    async with two(tmp_path, redis, script={"tokens": 3}) as (here, there):
        alice = await person(here)
        started = await ask(there, alice, temperature=0)
        await answer(there, alice, started)
        assert there.cache.stats()["entries"] == 1
        await erase.conversation(here, user_id=alice, conversation_id=started.conversation_id)
        async with asyncio.timeout(20):
            while there.cache.stats()["entries"]:
                await asyncio.sleep(0.02)


@in_loop
async def test_an_account_is_erased_while_another_process_answers_it(
    tmp_path: Path, redis: RedisServer
) -> None:
    async with two(tmp_path, redis) as (here, there):
        alice = await person(here)
        await ask(there, alice)
        await erase.account(here, user_id=alice, password=PASSWORD, forfeit=True, ip="")
        with here.db.read() as session:
            left = session.execute(text("SELECT state, charged FROM reply")).all()
        assert [state for state, _ in left] == ["done"]
