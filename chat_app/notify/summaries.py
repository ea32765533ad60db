"""Summaries: who was given which period's, so that nobody gets one twice."""

from collections.abc import Sequence

from sqlalchemy import text
from sqlmodel import Session, col, select

from chat_app.notify.tables import SummaryRow

_TAKE = text(
    """INSERT INTO usage_summary (user_id, period, created_at) VALUES (:user_id, :period, :now)
    ON CONFLICT (user_id, period) DO NOTHING"""
)


def without(session: Session, *, user_ids: Sequence[int], period: str) -> list[int]:
    """Those of the people who were not given this period's yet."""
    have = set(session.exec(select(col(SummaryRow.user_id)).where(SummaryRow.period == period)))
    return [user_id for user_id in user_ids if user_id not in have]


def take(session: Session, *, user_id: int, period: str, now: int) -> bool:
    """This transaction gives the person the period's; False if it was given before."""
    done = session.execute(_TAKE, {"user_id": user_id, "period": period, "now": now})
    return bool(done.rowcount)  # type: ignore[attr-defined]
