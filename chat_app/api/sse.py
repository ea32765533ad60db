"""Server-sent events of a reply: pieces, the end, a heartbeat, and the door.

Whoever listens may leave at any time: the reply is a job of the app and goes on. Whoever may
no longer listen is sent away within seconds.
"""

import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi.responses import StreamingResponse

from chat_app.accounts.sessions import SignedIn
from chat_app.api import errors
from chat_app.api.deps import user_id
from chat_app.api.views import ReplyOut
from chat_app.app import App
from chat_app.chat.live import Piece, Status
from chat_app.errors import AppError, Invalid, Unavailable
from chat_app.flows import reply, standing
from chat_app.flows.message import Started
from chat_app.flows.reply import ReplyView
from chat_app.money import format_credits

HEARTBEAT_SECONDS = 10.0
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
# Failures that are about the request and not about the moment.
_CALLERS_FAULT = {"context_overflow", "model_cannot_see"}


Item = Piece | Status | ReplyView | None


class ReplyFailed(Unavailable):
    """The answer broke off; `code` in the response is the engine's."""

    code = "reply_failed"


class ReplyRefused(Invalid):
    """The model cannot take the request; `code` in the response is the engine's."""

    code = "reply_refused"


async def listen(app: App, *, who: SignedIn, reply_id: str, after: int = 0) -> AsyncIterator[Item]:
    """The reply's items for somebody who stays signed in; None when nothing came for a while.

    Raises NotSignedIn when the sign-in ends meanwhile.
    """
    items = reply.follow(app, user_id=user_id(who), reply_id=reply_id, after=after)
    async with aclosing(standing.watch(app, who, items)) as allowed:
        async for item in allowed:
            yield item
            if isinstance(item, ReplyView):
                return


async def wait(app: App, *, who: SignedIn, reply_id: str) -> ReplyView:
    """The reply when it has ended."""
    async for item in listen(app, who=who, reply_id=reply_id):
        if isinstance(item, ReplyView):
            return item
    raise AssertionError("a reply has an end")


def stream(
    app: App, *, who: SignedIn, reply_id: str, started: Started | None = None, after: int = 0
) -> StreamingResponse:
    """The response that follows a reply; `started` gives the first event."""
    return StreamingResponse(
        _events(app, who=who, reply_id=reply_id, started=started, after=after),
        media_type="text/event-stream",
        headers=HEADERS,
    )


async def _events(
    app: App, *, who: SignedIn, reply_id: str, started: Started | None, after: int
) -> AsyncIterator[str]:
    if started is not None:
        yield _event(
            "start",
            {
                "reply_id": started.reply_id,
                "conversation_id": started.conversation_id,
                "message_id": started.message_id,
                "maximum": format_credits(started.maximum),
            },
        )
    spoke = time.monotonic()
    try:
        async for item in listen(app, who=who, reply_id=reply_id, after=after):
            text = _said(item)
            if item is None and time.monotonic() - spoke >= HEARTBEAT_SECONDS:
                text = ": still here\n\n"
            if text:
                spoke = time.monotonic()
                yield text
    except AppError as error:
        yield _event("error", errors.body_of(error))
    except Exception as error:
        yield _event("error", errors.crash_body(f"reply {reply_id}", error))


def _said(item: Item) -> str:
    if isinstance(item, Piece):
        return _event("delta", {"text": item.text, "index": item.index}, number=item.index)
    if isinstance(item, Status) and item.position:
        place = {"position": item.position, "expected_seconds": item.expected_seconds}
        return _event("queued", place)
    if isinstance(item, Status):
        # A comment: programs that know the four events are not disturbed.
        return ": " + item.sentence.replace("\n", " ").replace("\r", " ") + "\n\n"
    if isinstance(item, ReplyView):
        if item.state == "failed":
            return _event("error", failure(item))
        return _event("done", ReplyOut.of(item).model_dump(mode="json", exclude={"error"}))
    return ""


def failure(view: ReplyView) -> dict[str, Any]:
    """The error of a reply that broke off, with what was delivered and charged."""
    kind = ReplyRefused if view.error_code in _CALLERS_FAULT else ReplyFailed
    shown = ReplyOut.of(view).model_dump(mode="json", exclude={"error", "content", "model"})
    return errors.body(
        message=view.error_message or kind.message,
        type=errors.family(kind)[1],
        code=view.error_code or kind.code,
        facts=shown,
    )


def failure_status(view: ReplyView) -> int:
    """The status for a reply that broke off before its first token."""
    return 422 if view.error_code in _CALLERS_FAULT else 503


def _event(name: str, data: dict[str, Any], *, number: int | None = None) -> str:
    line = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    line = line.encode("utf-8", "replace").decode("utf-8")
    return (f"id: {number}\n" if number is not None else "") + f"event: {name}\ndata: {line}\n\n"
