"""REST: announcements: made by staff, shown on everybody's page until they dismiss them."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import Field, StrictBool

from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps
from chat_app.api.deps import Body, Name, Text, errors_in
from chat_app.api.views import Page, Shown
from chat_app.clock import MICROS_PER_SECOND, rfc3339
from chat_app.flows import notices
from chat_app.notify import announcements
from chat_app.notify.announcements import Announcement, Bar

router = APIRouter(prefix="/announcements", tags=["notifications"])
admin = APIRouter(prefix="/admin/announcements", tags=["admin"])

Reading = Annotated[SignedIn, Depends(deps.allowed("messages.read"))]
Telling = Annotated[SignedIn, Depends(deps.allowed("messages.write"))]

WEEK = 7 * 24 * 3600 * MICROS_PER_SECOND
Time = Annotated[str, Field(max_length=64)]


class ShownOut(Shown):
    """Something that stands on the page; a `warning` before an `info`."""

    id: str
    level: str
    title: str
    text: str
    ends_at: str


class AnnouncementOut(Shown):
    """Words for everybody; `done` once everybody has them.

    With `level`, `starts_at` and `ends_at` they stand on the page for that time.
    """

    id: str
    kind: str
    title: str
    text: str
    created_at: str
    done: bool
    level: str | None
    starts_at: str | None
    ends_at: str | None

    @classmethod
    def of(cls, one: Announcement) -> "AnnouncementOut":
        bar = one.bar
        return cls(
            id=one.id,
            kind=one.kind,
            title=one.title,
            text=one.text,
            created_at=rfc3339(one.created_at),
            done=one.done_at is not None,
            level=bar.level if bar else None,
            starts_at=rfc3339(bar.starts_at) if bar else None,
            ends_at=rfc3339(bar.ends_at) if bar else None,
        )


class NewAnnouncement(Body):
    title: Name
    text: Annotated[Text, Field(max_length=6000)]
    kind: Literal["announcement", "price_notice"] = "announcement"
    level: Literal["info", "warning"] = "info"
    starts_at: Annotated[Time, Field(description="When it comes; now without it.")] | None = None
    ends_at: Annotated[Time, Field(description="When it goes; a week later without it.")] | None = (
        None
    )
    on_page: Annotated[StrictBool, Field(description="Whether it stands on the page.")] = True
    notify: Annotated[StrictBool, Field(description="Whether it goes to inboxes and by mail.")] = (
        True
    )


@router.get("", responses=errors_in(401))
def show_announcements(app: deps.App, who: deps.CurrentUser) -> Page[ShownOut]:
    """What stands on the caller's page now: at most three, without those they dismissed."""
    with app.db.read() as session:
        found = announcements.shown_to(session, user_id=deps.user_id(who), now=app.clock.micros())
    return Page(
        items=[
            ShownOut(
                id=one.id,
                level=one.bar.level,
                title=one.title,
                text=one.text,
                ends_at=rfc3339(one.bar.ends_at),
            )
            for one in found
            if one.bar is not None
        ]
    )


@router.post("/{id}/dismiss", status_code=204, responses=errors_in(401, 403, 404))
async def dismiss(app: deps.App, who: deps.CurrentUser, id: deps.Id) -> None:
    """Show an announcement to the caller no more."""
    owner, now = deps.user_id(who), app.clock.micros()
    await app.db.awrite(lambda s: announcements.dismiss(s, user_id=owner, public_id=id, now=now))


@admin.get("", responses=errors_in(401, 403))
def list_announcements(app: deps.App, who: Reading) -> Page[AnnouncementOut]:
    """The latest announcements."""
    with app.db.read() as session:
        return Page(items=[AnnouncementOut.of(one) for one in announcements.newest(session)])


@admin.post("", status_code=201, responses=errors_in(401, 403, 422))
async def announce(app: deps.App, who: Telling, body: NewAnnouncement) -> AnnouncementOut:
    """Tell everybody, on the page and by mail and in the inbox as each of them prefers."""
    bar = None
    if body.on_page:
        starts = deps.read_time(body.starts_at, "starts_at") or app.clock.micros()
        ends = deps.read_time(body.ends_at, "ends_at") or starts + WEEK
        bar = Bar(level=body.level, starts_at=starts, ends_at=ends)
    made = await notices.announce(
        app,
        admin_id=deps.user_id(who),
        title=body.title,
        text=body.text,
        kind=body.kind,
        bar=bar,
        notify=body.notify,
    )
    return AnnouncementOut.of(made)


@admin.delete("/{id}", status_code=204, responses=errors_in(401, 403, 404))
async def take_down(app: deps.App, who: Telling, id: deps.Id) -> None:
    """Take an announcement off all pages; whoever was not told of it yet is not told."""
    await notices.take_down(app, admin_id=deps.user_id(who), announcement_id=id)
