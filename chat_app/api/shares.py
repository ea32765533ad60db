"""REST: links to shared conversations, and the page behind them."""

import asyncio
import math
import threading
import time
from typing import Annotated, Any, Literal

from cachetools import LRUCache
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import Field, StrictBool

from chat_app.accounts import throttles
from chat_app.accounts.pace import Window
from chat_app.api import deps, errors
from chat_app.api.deps import Body, errors_in
from chat_app.api.views import Page, Shown
from chat_app.app import App
from chat_app.chat import share_page
from chat_app.chat.share_tables import Share
from chat_app.chat.shares import said_in
from chat_app.clock import rfc3339
from chat_app.errors import AppError, NotSignedIn, TooMany
from chat_app.flows import shares
from chat_app.flows.shares import Link

router = APIRouter(prefix="/chat", tags=["chat"])
page = APIRouter(tags=["chat"])

Access = Literal["signed_in", "open"]
CACHED_CHARACTERS = 8_000_000


class TooManySharedPages(TooMany):
    """The address opens shared conversations faster than a person reads."""

    code = "too_many_shared_pages"
    message = "Too many shared conversations were opened from here. Wait a moment and try again."


class ShareIn(Body):
    """How a conversation is shared. Without `access` it stays as it is, at first `signed_in`."""

    access: Access | None = None
    update: Annotated[
        StrictBool, Field(description="Show what has been said since it was shared, too.")
    ] = False


class ShareOut(Shown):
    """A link: whoever has the `url` may read the snapshot of `updated_at`."""

    id: str
    conversation_id: str
    title: str
    access: Access
    messages: int
    url: Annotated[str, Field(json_schema_extra={"example": "https://chat.example.org/share/…"})]
    created_at: str
    updated_at: str

    @classmethod
    def of(cls, link: Link, base: str) -> "ShareOut":
        shown: dict[str, Any] = vars(link) | {
            "url": f"{base.rstrip('/')}{link.path}",
            "created_at": rfc3339(link.created_at),
            "updated_at": rfc3339(link.updated_at),
        }
        shown.pop("path")
        return cls(**shown)


class Pages:
    """What the pages of one process remember: who opened how many, and the last ones as HTML."""

    def __init__(self, app: App) -> None:
        limit = app.settings.limits.share_pages_per_minute_per_ip
        self._window = Window(limit, 60, time.monotonic)
        self._made: LRUCache[tuple[str, int], str] = LRUCache(CACHED_CHARACTERS, getsizeof=len)
        self._lock = threading.Lock()

    def count(self, ip: str) -> None:
        """Raises TooManySharedPages."""
        if wait := self._window.take(throttles.block(ip)):
            raise TooManySharedPages(retry_after_seconds=math.ceil(wait))

    def made(self, share: Share) -> str:
        """The page of a share. Takes time the first time: call it in a thread."""
        key = (share.id, share.updated_at)
        with self._lock:  # one at a time: many that are slow to make leave room for others
            html = self._made.get(key)
            if html is None:
                html = share_page.render(
                    title=share.title, said=said_in(share), at=share.updated_at
                )
                if len(html) <= CACHED_CHARACTERS:
                    self._made[key] = html
            return html


@router.post("/conversations/{id}/share", responses=errors_in(401, 403, 404, 409, 413, 422))
async def share(app: deps.App, who: deps.CurrentUser, id: deps.Id, body: ShareIn) -> ShareOut:
    """Share a conversation by a link, or change who may open it.

    What others see is a snapshot of what is shown when it is shared. It changes with `update`
    alone; the link stays the same until it is taken back.
    """
    link = await shares.publish(
        app,
        user_id=deps.user_id(who),
        conversation_id=id,
        access=body.access,
        update=body.update,
    )
    return ShareOut.of(link, app.settings.server.public_url)


@router.delete("/conversations/{id}/share", status_code=204, responses=errors_in(401, 403, 404))
async def take_back(app: deps.App, who: deps.CurrentUser, id: deps.Id) -> None:
    """Take the link back: from now on it leads nowhere. Sharing again makes another one."""
    await shares.take_back(app, user_id=deps.user_id(who), conversation_id=id)


@router.get("/shares", responses=errors_in(401))
def list_shares(app: deps.App, who: deps.CurrentUser) -> Page[ShareOut]:
    """The caller's links, newest first, all of them."""
    links = shares.mine(app, user_id=deps.user_id(who))
    return Page(items=[ShareOut.of(link, app.settings.server.public_url) for link in links])


@page.get("/share/{id}", response_class=HTMLResponse, responses=errors_in(401, 404, 429))
async def shared_page(
    request: Request, app: deps.App, id: deps.Id, cookie: deps.Cookie, ip: deps.ClientIp
) -> Response:
    """A shared conversation, to read. The id is the secret of its link."""
    pages: Pages = request.app.state.pages
    try:
        pages.count(ip)
        found = await shares.opened(app, token=id, cookie=cookie)
    except AppError as error:
        return _refused(request, error)
    return _html(await asyncio.to_thread(pages.made, found))


def _refused(request: Request, error: AppError) -> Response:
    """For a person a page that says why, for a program the usual shape."""
    usual = errors.answer(error)
    if "text/html" not in request.headers.get("accept", ""):
        return usual
    shown = share_page.refusal(str(error), sign_in=isinstance(error, NotSignedIn))
    made = _html(shown, status=usual.status_code)
    if "retry-after" in usual.headers:
        made.headers["Retry-After"] = usual.headers["retry-after"]
    return made


def _html(text: str, *, status: int = 200) -> HTMLResponse:
    headers = {
        "Content-Security-Policy": share_page.policy(),
        "X-Robots-Tag": "noindex, nofollow",
        "Cache-Control": "no-store",
    }
    return HTMLResponse(text, status_code=status, headers=headers)
