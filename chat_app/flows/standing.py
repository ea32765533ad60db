"""Open streams: whoever may no longer be here is sent away within five seconds.

Streams of every transport pass through here. One look at the database each two seconds serves all
streams of all users in this process, however many pieces they carry.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import Any, TypeVar

from chat_app.accounts import keys, standing
from chat_app.accounts.sessions import SignedIn
from chat_app.accounts.standing import Standing
from chat_app.app import App
from chat_app.errors import AppError, NotAllowed, NotSignedIn

T = TypeVar("T")

# A look counts for this long, and a silent stream asks again this often: together below five.
LOOK_SECONDS = 2.0
WAKE_SECONDS = 1.0


class RoleEnded(NotAllowed):
    """The user's role changed while a page or a stream for that role was open."""

    code = "role_ended"
    message = "Your role has changed. Reload the page to go on."


async def require(app: App, who: SignedIn, *, staff: bool = False) -> None:
    """Whether an open stream may go on; cheap enough to ask for each piece.

    Raises NotSignedIn once the sign-in ended or the user was suspended. With `staff` what is
    shown belongs to the role, and RoleEnded is raised when that is another now.
    """
    assert who.user.id is not None
    found = await _look(app, who.user.id)
    if not _good(found, who, staff=staff):
        # The look may be older than the sign-in; a refusal is worth another one.
        app.looks.pop(who.user.id, None)
        found = await _look(app, who.user.id)
    if found is None or who.ground not in found.grounds:
        raise NotSignedIn
    if not _good(found, who, staff=staff):
        raise RoleEnded


async def watch(
    app: App, who: SignedIn, items: AsyncIterator[T], *, staff: bool = False
) -> AsyncGenerator[T | None, None]:
    """What `items` gives while `who` may have it; None when nothing came for a while.

    Raises what `require` does. Leaving early closes `items`.
    """
    coming: asyncio.Future[Any] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(items))
            await asyncio.wait({coming}, timeout=WAKE_SECONDS)
            await require(app, who, staff=staff)
            if not coming.done():
                yield None
                continue
            try:
                item = coming.result()
            except StopAsyncIteration:
                return
            finally:
                coming = None
            yield item
    finally:
        if coming is not None:
            coming.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration, AppError):
                await coming


async def stop_barred(app: App) -> int:
    """Stop the running answers of users who were suspended and of keys that were revoked.

    What was written is settled. A sign-in that ended stops no answer: its owner finds it in the
    history.
    """
    running = {item.user_id for item in app.replies}
    used = {item.key_id for item in app.replies if item.key_id is not None}
    if not running:
        return 0
    now = app.clock.micros()

    def ask() -> tuple[set[int], set[str]]:
        with app.db.read() as session:
            fallen = {key for key in used if not keys.standing(session, key, now=now)}
            return standing.barred(session, running), fallen

    barred, fallen = await asyncio.to_thread(ask)
    ended = [item for item in app.replies if item.user_id in barred or item.key_id in fallen]
    for item in ended:
        item.stop_wanted.set()
    return len(ended)


def _good(found: Standing | None, who: SignedIn, *, staff: bool) -> bool:
    return (
        found is not None
        and who.ground in found.grounds
        and not (staff and found.role != who.user.role)
    )


async def _look(app: App, user_id: int) -> Standing | None:
    """How the user stands, at most two seconds ago, or three while the database is slow."""
    looks = app.looks
    looks.asked.add(user_id)
    look = looks.get(user_id)
    # A look that failed says nothing of now: the database may be back.
    if look is None or (look.done() and (look.cancelled() or look.exception() is not None)):
        if not looks:
            _in_a_while(app)
        look = looks[user_id] = asyncio.ensure_future(_one(app, user_id))
    # Shielded: a listener who leaves must not take the others' answer away.
    return await asyncio.shield(look)


async def _one(app: App, user_id: int) -> Standing | None:
    return (await asyncio.to_thread(_ask, app, {user_id})).get(user_id)


def _in_a_while(app: App) -> None:
    """Renew all looks later, until nobody asks any more."""

    def begin() -> None:
        app.looks.round = asyncio.ensure_future(_renew(app))

    if app.looks.timer is not None:
        app.looks.timer.cancel()
    app.looks.timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, begin)


async def _renew(app: App) -> None:
    """Look at everybody at once who is still asked about; nobody waits for it."""
    looks = app.looks
    for user_id in looks.keys() - looks.asked:
        del looks[user_id]
    looks.asked.clear()
    before = dict(looks)
    if not before:
        return
    try:
        async with asyncio.timeout(WAKE_SECONDS):
            found = await asyncio.to_thread(_ask, app, set(before))
    except Exception:
        looks.clear()  # whoever asks now looks alone, and hears what is wrong
        return
    for user_id, look in before.items():
        if looks.get(user_id) is look:
            looks[user_id] = asyncio.get_running_loop().create_future()
            looks[user_id].set_result(found.get(user_id))
    _in_a_while(app)


def _ask(app: App, user_ids: set[int]) -> dict[int, Standing]:
    with app.db.read() as session:
        return standing.of(session, user_ids, now=app.clock.micros())
