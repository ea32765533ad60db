"""Announcements: words for everybody, how far they have been handed out, and who read them.

One may stand on every page for a while, until each person dismisses it (its bar).
"""

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import text
from sqlmodel import Session, col, delete, select, update

from chat_app.errors import NotFound
from chat_app.ids import new_id
from chat_app.notify.tables import AnnouncementRow, BarRow, DismissalRow

# More at once would cover the page.
MOST_SHOWN = 3

_DISMISS = text(
    """INSERT INTO announcement_dismissal (user_id, announcement_id, at)
    VALUES (:user_id, :announcement_id, :now)
    ON CONFLICT (user_id, announcement_id) DO NOTHING"""
)


class UnknownAnnouncement(NotFound):
    """There is no such announcement."""

    code = "unknown_announcement"
    message = "There is no such announcement. Reload the list."


@dataclass(frozen=True)
class Bar:
    """From when until when it stands on the page, in µs, and how loud."""

    level: Literal["info", "warning"]
    starts_at: int
    ends_at: int


@dataclass(frozen=True)
class Announcement:
    """An announcement; times in µs. `upto` is the number of the last user who has it."""

    id: str
    kind: str
    title: str
    text: str
    upto: int
    created_at: int
    done_at: int | None
    bar: Bar | None = None


def add(
    session: Session,
    *,
    kind: str,
    title: str,
    text: str,
    actor: str,
    now: int,
    bar: Bar | None = None,
    tell: bool = True,
) -> Announcement:
    """Store the words; nobody has them yet. Without `tell` they are handed out to nobody."""
    row = AnnouncementRow(
        public_id=new_id("ann"), kind=kind, title=title, body=text, actor=actor, upto=0,
        created_at=now, done_at=None if tell else now,
    )  # fmt: skip
    session.add(row)
    session.flush()
    stands = None
    if bar is not None:
        assert row.id is not None
        stands = BarRow(announcement_id=row.id, **vars(bar))
        session.add(stands)
        session.flush()
    return _shown(row, stands)


def newest(session: Session, *, limit: int = 20) -> list[Announcement]:
    """The latest announcements, newest first."""
    query = _with_bars().order_by(col(AnnouncementRow.id).desc()).limit(limit)
    return [_shown(row, bar) for row, bar in session.execute(query)]


def shown_to(session: Session, *, user_id: int, now: int) -> list[Announcement]:
    """What stands on the person's page now: warnings first, then the newest."""
    dismissed = select(DismissalRow.announcement_id).where(DismissalRow.user_id == user_id)
    query = (
        _with_bars()
        .where(col(BarRow.starts_at) <= now, col(BarRow.ends_at) > now)
        .where(col(AnnouncementRow.id).not_in(dismissed))
        .order_by(col(BarRow.level).desc(), col(AnnouncementRow.id).desc())
        .limit(MOST_SHOWN)
    )
    return [_shown(row, bar) for row, bar in session.execute(query)]


def dismiss(session: Session, *, user_id: int, public_id: str, now: int) -> None:
    """Show it to this person no more. Raises UnknownAnnouncement if it never stood on the page."""
    row, bar = _found(session, public_id)
    if bar is None or bar.starts_at > now:
        raise UnknownAnnouncement
    session.execute(_DISMISS, {"user_id": user_id, "announcement_id": row.id, "now": now})


def end(session: Session, *, public_id: str, now: int) -> None:
    """Take it off the page and tell nobody else. Raises UnknownAnnouncement."""
    row, bar = _found(session, public_id)
    if bar is not None and bar.starts_at >= now:
        session.delete(bar)
    elif bar is not None:
        bar.ends_at = min(bar.ends_at, now)
        session.add(bar)
    if row.done_at is None:
        row.done_at = now
        session.add(row)
    session.flush()


def forget(session: Session, *, before: int) -> int:
    """Forget who dismissed what left the page before then; returns how many rows went."""
    over = select(BarRow.announcement_id).where(col(BarRow.ends_at) < before)
    done = session.execute(delete(DismissalRow).where(col(DismissalRow.announcement_id).in_(over)))
    return int(done.rowcount)  # type: ignore[attr-defined]


def unfinished(session: Session) -> Announcement | None:
    """The oldest one that not everybody has, locked until the transaction ends."""
    row = session.exec(
        select(AnnouncementRow)
        .where(col(AnnouncementRow.done_at).is_(None))
        .order_by(col(AnnouncementRow.id))
        .limit(1)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).first()
    return None if row is None else _shown(row, None)


def advance(session: Session, one: Announcement, *, upto: int, done_at: int | None) -> None:
    """Users up to this number have it now; with `done_at` everybody has."""
    session.execute(
        update(AnnouncementRow)
        .where(col(AnnouncementRow.public_id) == one.id)
        .values(upto=upto, done_at=done_at)
        .execution_options(synchronize_session=False)
    )


def _with_bars() -> Any:  # a query of both tables
    return select(AnnouncementRow, BarRow).outerjoin(
        BarRow, col(BarRow.announcement_id) == AnnouncementRow.id
    )


def _found(session: Session, public_id: str) -> tuple[AnnouncementRow, BarRow | None]:
    query = _with_bars().where(col(AnnouncementRow.public_id) == public_id)
    found = session.execute(query).first()
    if found is None:
        raise UnknownAnnouncement
    return found[0], found[1]


def _shown(row: AnnouncementRow, bar: BarRow | None) -> Announcement:
    return Announcement(
        id=row.public_id,
        kind=row.kind,
        title=row.title,
        text=row.body,
        upto=row.upto,
        created_at=row.created_at,
        done_at=row.done_at,
        bar=None
        if bar is None
        else Bar(
            level="warning" if bar.level == "warning" else "info",
            starts_at=bar.starts_at,
            ends_at=bar.ends_at,
        ),
    )
