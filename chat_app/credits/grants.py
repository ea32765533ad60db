"""Periodic grants: free credits for each week or month, once for each user and period.

They end with their period, so nobody gathers them. Knows not who is entitled; the flow does.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from sqlmodel import Session, col, select

from chat_app.clock import from_micros, to_micros
from chat_app.credits import ledger
from chat_app.credits.shop_tables import PeriodicGrantRow
from chat_app.money import MICRO
from chat_app.settings import Credits as Rules


@dataclass(frozen=True)
class Window:
    """A week or a month of the seller's calendar: its name, and where it ends in microseconds."""

    name: str
    ends_at: int


def window(now: int, every: str, zone: tzinfo) -> Window:
    """The period that `now` is in: `2026-W47` or `2026-11`."""
    today = from_micros(now).astimezone(zone)
    midnight = datetime(today.year, today.month, today.day, tzinfo=zone)
    if every == "week":
        year, week, weekday = today.isocalendar()
        end = midnight + timedelta(days=8 - weekday)
        return Window(f"{year}-W{week:02d}", to_micros(end))
    first = midnight.replace(day=1)
    end = (first + timedelta(days=32)).replace(day=1)
    return Window(f"{today:%Y-%m}", to_micros(end))


def without(session: Session, user_ids: list[int], *, period: str) -> list[int]:
    """Who of these has not been given the credits of the period yet."""
    had = set(
        session.exec(
            select(PeriodicGrantRow.user_id).where(
                col(PeriodicGrantRow.user_id).in_(user_ids), PeriodicGrantRow.period == period
            )
        )
    )
    return [user_id for user_id in user_ids if user_id not in had]


def give(session: Session, *, user_id: int, period: Window, now: int, rules: Rules) -> bool:
    """The period's credits for a user; False when they came before. Raises WalletClosed."""
    ledger.wallet(session, user_id=user_id, now=now)  # locked: one gift at a time
    if not without(session, [user_id], period=period.name):
        return False
    micro = rules.periodic_credits * MICRO
    granted = ledger.grant(
        session,
        user_id=user_id,
        micro=micro,
        source="promo",
        now=now,
        scope="periodic",
        key=f"{period.name}:{user_id}",
        actor="system",
        description=f"Free credits for {period.name}",
        priority=rules.priorities.get("promo", 0),
        expires_at=period.ends_at,
    )
    session.add(
        PeriodicGrantRow(
            user_id=user_id, period=period.name, transfer_id=granted.transfer_id, at=now
        )
    )
    session.flush()
    return True
