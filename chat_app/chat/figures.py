"""Figures: how many of somebody's answers were given again from the cache."""

from sqlmodel import Session, col, func, select

from chat_app.chat.tables import Reply


def cached(session: Session, *, user_id: int, since: int, until: int) -> int:
    """Answers that were not written anew, of replies that began from `since` to `until` (µs)."""
    query = select(func.count()).where(
        Reply.user_id == user_id,
        col(Reply.cached).is_(True),
        Reply.state == "done",
        Reply.created_at >= since,
        Reply.created_at < until,
    )
    return int(session.exec(query).one())
