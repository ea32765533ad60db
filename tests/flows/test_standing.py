"""Standing: a shared look at the database, and what it decides."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from chat_app.accounts import sessions, standing
from chat_app.accounts.sessions import SignedIn
from chat_app.app import App
from chat_app.errors import NotSignedIn
from chat_app.flows import signin
from chat_app.flows import standing as open_streams
from tests.apps import in_loop, person, running_app


async def here(app: App, user_id: int) -> SignedIn:
    """A sign-in of the user, as a request would find it."""

    def story(session: Any) -> str:
        user = signin.users.get(session, user_id)
        now, settings = app.clock.micros(), app.settings.accounts
        return sessions.open_session(session, user=user, now=now, settings=settings)[1]

    cookie = await app.db.awrite(story)
    return await signin.identify(app, cookie=cookie)


async def ticks(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number
        await asyncio.sleep(0)


async def listening(app: App, who: SignedIn) -> None:
    """A stream that only a refusal ends."""
    while True:
        await open_streams.require(app, who)
        await asyncio.sleep(0.01)


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """Whom each look at the database asked about."""
    asked: list[set[int]] = []
    original = standing.of

    def counted(session: Any, user_ids: set[int], *, now: int) -> Any:
        asked.append(set(user_ids))
        return original(session, user_ids, now=now)

    monkeypatch.setattr(standing, "of", counted)
    return asked


@in_loop
async def test_many_streams_and_pieces_share_one_look(
    tmp_path: Path, rounds: list[set[int]]
) -> None:
    async with running_app(tmp_path) as app:
        who = await here(app, await person(app))

        async def listen() -> int:
            return len([item async for item in open_streams.watch(app, who, ticks(100))])

        assert await asyncio.gather(*(listen() for _ in range(10))) == [100] * 10
        # One, and another for each two seconds that this took on a slow machine.
        assert len(rounds) < 20


@in_loop
async def test_all_who_listen_are_looked_up_at_once(
    tmp_path: Path, rounds: list[set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_streams, "LOOK_SECONDS", 0.2)
    async with running_app(tmp_path) as app:
        people = [await person(app, f"reader{number}") for number in range(5)]
        here_now = [await here(app, user_id) for user_id in people]
        for who in here_now:
            await open_streams.require(app, who)
        first = len(rounds)
        while len(rounds) < first + 3:
            await asyncio.gather(*(open_streams.require(app, who) for who in here_now))
            await asyncio.sleep(0.01)
        assert [len(asked) for asked in rounds[first:]] == [5, 5, 5]
        await signin.logout(app, session_id=here_now[0].session_id)
        with pytest.raises(NotSignedIn):
            await listening(app, here_now[0])
        await asyncio.sleep(1)
        assert app.looks == {}, "nobody asks any more"


@in_loop
async def test_a_database_that_fails_is_heard_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_streams, "LOOK_SECONDS", 0.2)
    async with running_app(tmp_path) as app:
        who = await here(app, await person(app))
        await open_streams.require(app, who)

        def lost(*_: Any, **__: Any) -> Any:
            raise OSError("the database is gone")

        with monkeypatch.context() as patched:
            patched.setattr(standing, "of", lost)
            with pytest.raises(OSError, match="gone"):
                await listening(app, who)
        await asyncio.sleep(0.5)
        await open_streams.require(app, who)


@in_loop
async def test_a_look_from_before_the_sign_in_refuses_nobody(tmp_path: Path) -> None:
    async with running_app(tmp_path) as app:
        user_id = await person(app)
        await open_streams.require(app, await here(app, user_id))
        assert user_id in app.looks
        later = await here(app, user_id)
        await open_streams.require(app, later)
        await signin.logout(app, session_id=later.session_id)
        app.looks.clear()
        with pytest.raises(NotSignedIn):
            await open_streams.require(app, later)


@in_loop
async def test_a_listener_who_leaves_takes_nothing_from_the_others(tmp_path: Path) -> None:
    async with running_app(tmp_path) as app:
        who = await here(app, await person(app))
        first = asyncio.create_task(open_streams.require(app, who))
        second = asyncio.create_task(open_streams.require(app, who))
        await asyncio.sleep(0)
        first.cancel()
        await second


@in_loop
async def test_what_is_watched_is_closed_with_its_watcher(tmp_path: Path) -> None:
    async with running_app(tmp_path) as app:
        who = await here(app, await person(app))
        closed = asyncio.Event()

        async def endless() -> AsyncIterator[int]:
            try:
                yield 1
                await asyncio.Event().wait()
            finally:
                closed.set()

        watched = open_streams.watch(app, who, endless())
        assert await anext(watched) == 1
        assert await anext(watched) is None, "a silent stream wakes by itself"
        await watched.aclose()
        assert closed.is_set()
