"""Attempts: at one time an order is paid in one place only, on a page or by a kept card.

An attempt is claimed in the books before the provider hears of it and released when its outcome
is known. One whose outcome never came keeps its number, and is asked for again before anything
else is tried.
"""

from dataclasses import dataclass

from sqlmodel import Session, col, or_, select, update

from chat_app.clock import MICROS_PER_SECOND
from chat_app.credits.payments import orders
from chat_app.credits.payments.orders import Payment
from chat_app.credits.shop_tables import TopupRow
from chat_app.credits.tables import PaymentRow
from chat_app.errors import Conflict

BUSY = 180 * MICROS_PER_SECOND


class BeingCharged(Conflict):
    """Another attempt at the order is under way."""

    code = "being_charged"
    message = "This payment is being made right now. Look again in a few minutes."


@dataclass(frozen=True)
class Attempt:
    """The right to try an order at its provider; `again` if the outcome of this number is open."""

    order: Payment
    number: int
    again: bool


def claim(session: Session, *, payment_id: str, now: int) -> Attempt | None:
    """Begin an attempt; None when the order is not open any more. Raises BeingCharged.

    Also while a checkout or a payment that takes days is open there.
    """
    row = session.exec(
        select(PaymentRow)
        .where(PaymentRow.id == payment_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one()
    if row.status != "pending":
        return None
    if (row.busy_until or 0) > now or row.provider_ref != row.id:
        raise BeingCharged
    again = row.busy_until is not None
    row.tries += not again
    row.busy_until = now + BUSY
    session.flush()
    return Attempt(orders.find(session, payment_id), row.tries, again)


def release(session: Session, *, payment_id: str, retry_at: int | None = None) -> None:
    """The outcome is known; the next attempt by itself comes at `retry_at`, in µs."""
    session.execute(
        update(PaymentRow)
        .where(col(PaymentRow.id) == payment_id)
        .values(busy_until=None, retry_at=retry_at)
    )


def due(session: Session, *, provider: str, most: int, now: int, limit: int = 50) -> list[str]:
    """Orders of plans and top-ups to be charged now, tried less than `most` times so far."""
    topups = select(TopupRow.payment_id)
    rows = session.exec(
        select(PaymentRow.id)
        .where(
            PaymentRow.status == "pending",
            PaymentRow.provider == provider,
            PaymentRow.provider_ref == PaymentRow.id,
            or_(col(PaymentRow.subscription_id).is_not(None), col(PaymentRow.id).in_(topups)),
            or_(PaymentRow.tries < most, col(PaymentRow.busy_until).is_not(None)),
            or_(col(PaymentRow.retry_at).is_(None), col(PaymentRow.retry_at) <= now),
            or_(col(PaymentRow.busy_until).is_(None), col(PaymentRow.busy_until) <= now),
        )
        .order_by(col(PaymentRow.created_at))
        .limit(limit)
    )
    return list(rows)
