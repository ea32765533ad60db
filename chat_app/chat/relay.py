"""The relay: replies followed and stopped in processes that do not write them.

Whoever writes a reply tells its pieces to the processes that ask for them, under the numbers
that they have there. What is told may be lost: it is asked for again by what is missing, and how
a reply ended is for the database to say. Nothing is kept in Redis.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

from chat_app.chat.live import Live, Piece, Replies, Status
from chat_app.shared.link import Link, Said

log = logging.getLogger(__name__)

# Pieces of so long are told together; nobody reads faster.
TOGETHER_SECONDS = 0.05
# Readers ask again this often, and who has not asked for so long is told no more.
ASK_SECONDS = 1.0
LISTENS_SECONDS = 5.0
# Without news for so long a reader looks into the database.
QUIET_SECONDS = 1.0
STOP_TRIES, STOP_SECONDS = 4, 0.5
OVER = object()


@dataclass
class Mirror:
    """A reply that another process writes, as far as it has told.

    `live` ends, with nothing in particular, when the reply has ended there: then the database
    knows how. `readers` follow it here.
    """

    live: Live[object]
    readers: int = 0


@dataclass
class _Listener:
    """A process that follows a reply: the pieces it was told, and until when it listens."""

    sent: int
    until: float
    shown: Status | None = None


class Relay:
    """What one process tells of its `replies`, and hears of those of others."""

    def __init__(self, link: Link, replies: Replies[object]) -> None:
        self._link = link
        self._replies = replies
        self._mirrors: dict[str, Mirror] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._listeners: dict[tuple[str, str], _Listener] = {}
        self._stops: dict[str, asyncio.Event] = {}
        self._asking: asyncio.Task[None] | None = None
        link.on("follow", self._asked)
        link.on("pieces", self._heard)
        link.on("stop", self._stop)
        link.on("stopping", self._stopping)

    @property
    def up(self) -> bool:
        """Whether the others can be heard at all."""
        return self._link.up

    def close(self) -> None:
        """Tell nothing any more."""
        for task in list(self._tasks):
            task.cancel()

    # Where it is written

    def _asked(self, said: Said) -> None:
        """A process wants a reply: tell it if it is one of ours."""
        item = self._replies.get(said["reply"])
        if item is None:
            return
        key = (item.reply_id, said["from"])
        until = time.monotonic() + LISTENS_SECONDS
        listener = self._listeners.get(key)
        if listener is None:
            listener = self._listeners[key] = _Listener(said["have"], until)
            self._go(self._tell(item, said["from"], listener))
            return
        listener.until = until
        if said["again"]:  # something was lost on the way
            listener.sent, listener.shown = min(listener.sent, said["have"]), None

    async def _tell(self, item: Live[object], to: str, listener: _Listener) -> None:
        try:
            while (left := listener.until - time.monotonic()) > 0:
                try:
                    async with asyncio.timeout(min(left, ASK_SECONDS)):
                        await item.news(listener.sent, listener.shown)
                except TimeoutError:
                    continue
                pieces = item.pieces[listener.sent :]
                begin, listener.shown = listener.sent, item.status
                listener.sent += len(pieces)
                ended = item.end is not None
                told = await self._link.tell(
                    "pieces",
                    to=to,
                    reply=item.reply_id,
                    begin=begin,
                    pieces=[[piece.text, piece.tokens] for piece in pieces],
                    status=_packed(listener.shown),
                    prompt_tokens=item.prompt_tokens,
                    ended=ended,
                )
                if ended or not told:
                    return
                await asyncio.sleep(TOGETHER_SECONDS)
        finally:
            self._listeners.pop((item.reply_id, to), None)

    def _stop(self, said: Said) -> None:
        item = self._replies.get(said["reply"])
        if item is not None and item.user_id == said["user"]:
            item.stop_wanted.set()
            self._go(self._link.tell("stopping", to=said["from"], reply=item.reply_id))

    # Where it is read

    @contextmanager
    def mirror(self, reply_id: str, user_id: int) -> Iterator[Mirror]:
        """A reply of another process, as long as somebody reads it here."""
        found = self._mirrors.get(reply_id)
        if found is None:
            found = self._mirrors[reply_id] = Mirror(Live(reply_id, user_id, ""))
            self._go(self._ask(reply_id, again=False))
        if self._asking is None or self._asking.done():
            self._asking = self._go(self._keep_asking())
        found.readers += 1
        try:
            yield found
        finally:
            found.readers -= 1
            if not found.readers:
                del self._mirrors[reply_id]

    def mirrored(self, reply_id: str) -> Live[object] | None:
        """What is known here of a reply of another process that is read here."""
        found = self._mirrors.get(reply_id)
        return None if found is None else found.live

    async def read(self, mirror: Mirror, after: int) -> AsyncGenerator[Piece | Status, None]:
        """What is heard of it after piece `after`; ends when it is over, or quiet, or Redis is
        lost: then the database knows more.
        """
        async with aclosing(mirror.live.follow(after)) as feed:
            while self._link.up:
                try:
                    async with asyncio.timeout(QUIET_SECONDS):
                        item = await anext(feed)
                except TimeoutError:
                    return
                if not isinstance(item, (Piece, Status)):
                    return
                yield item

    async def stop(self, reply_id: str, user_id: int) -> bool:
        """Have the process that writes it stop; whether one has answered that it does."""
        heard = self._stops.setdefault(reply_id, asyncio.Event())
        try:
            for _ in range(STOP_TRIES):
                if not await self._link.tell("stop", reply=reply_id, user=user_id):
                    return False
                try:
                    async with asyncio.timeout(STOP_SECONDS):
                        await heard.wait()
                except TimeoutError:
                    continue
                return True
            return False
        finally:
            self._stops.pop(reply_id, None)

    def _heard(self, said: Said) -> None:
        mirror = self._mirrors.get(said["reply"])
        if mirror is None or mirror.live.end is not None:
            return
        live, begin = mirror.live, said["begin"]
        if begin > len(live.pieces):
            self._go(self._ask(live.reply_id, again=True))
            return
        live.prompt_tokens = said["prompt_tokens"]
        for text, tokens in said["pieces"][len(live.pieces) - begin :]:
            live.add(text, tokens)
        if said["status"] is not None:
            sentence, position, seconds = said["status"]
            live.say(sentence, position=position, expected_seconds=seconds)
        if said["ended"]:
            live.finish(OVER)

    def _stopping(self, said: Said) -> None:
        heard = self._stops.get(said["reply"])
        if heard is not None:
            heard.set()

    async def _ask(self, reply_id: str, *, again: bool) -> None:
        mirror = self._mirrors.get(reply_id)
        if mirror is not None:
            have = len(mirror.live.pieces)
            await self._link.tell("follow", reply=reply_id, have=have, again=again)

    async def _keep_asking(self) -> None:
        before: dict[str, int] = {}
        while self._mirrors:
            await asyncio.sleep(ASK_SECONDS)
            have = {id: len(one.live.pieces) for id, one in self._mirrors.items()}
            for reply_id, count in have.items():
                await self._ask(reply_id, again=before.get(reply_id) == count)
            before = have

    def _go(self, story: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.create_task(story)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("another process could not be told", exc_info=error)


def _packed(status: Status | None) -> list[object] | None:
    if status is None:
        return None
    return [status.sentence, status.position, status.expected_seconds]
