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


@in_loop
async def test_many_streams_and_pieces_share_one_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_app(tmp_path) as app:
        who = await here(app, await person(app))
        looks: list[int] = []
        original = standing.of

        def counted(session: Any, *, user_id: int, now: int) -> Any:
            looks.append(user_id)
            return original(session, user_id=user_id, now=now)

        monkeypatch.setattr(standing, "of", counted)

        async def listen() -> int:
            return len([item async for item in open_streams.watch(app, who, ticks(100))])

        assert await asyncio.gather(*(listen() for _ in range(10))) == [100] * 10
        # One, and another for each two seconds that this took on a slow machine.
        assert len(looks) < 20


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
