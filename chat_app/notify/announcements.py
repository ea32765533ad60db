"""Announcements: words for everybody, and how far they have been handed out."""

from dataclasses import dataclass

from sqlmodel import Session, col, select, update

from chat_app.ids import new_id
from chat_app.notify.tables import AnnouncementRow


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


def add(
    session: Session, *, kind: str, title: str, text: str, actor: str, now: int
) -> Announcement:
    """Store the words; nobody has them yet."""
    row = AnnouncementRow(
        public_id=new_id("ann"), kind=kind, title=title, body=text, actor=actor, upto=0,
        created_at=now,
    )  # fmt: skip
    session.add(row)
    session.flush()
    return _shown(row)


def newest(session: Session, *, limit: int = 20) -> list[Announcement]:
    """The latest announcements, newest first."""
    rows = session.exec(
        select(AnnouncementRow).order_by(col(AnnouncementRow.id).desc()).limit(limit)
    )
    return [_shown(row) for row in rows]


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
    return None if row is None else _shown(row)


def advance(session: Session, one: Announcement, *, upto: int, done_at: int | None) -> None:
    """Users up to this number have it now; with `done_at` everybody has."""
    session.execute(
        update(AnnouncementRow)
        .where(col(AnnouncementRow.public_id) == one.id)
        .values(upto=upto, done_at=done_at)
        .execution_options(synchronize_session=False)
    )


def _shown(row: AnnouncementRow) -> Announcement:
    return Announcement(
        id=row.public_id,
        kind=row.kind,
        title=row.title,
        text=row.body,
        upto=row.upto,
        created_at=row.created_at,
        done_at=row.done_at,
    )
