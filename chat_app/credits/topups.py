"""Automatic top-ups: a user's rule to buy a package when the available credits run low.

One trigger, one order: it is looked at again with the wallet locked. A rule buys at most
`per_day` times in 24 hours and three times in ten minutes, and rests an hour after a decline.
"""

from dataclasses import dataclass

from sqlalchemy import text
from sqlmodel import Session, col, func, select, update

from chat_app.clock import MICROS_PER_SECOND
from chat_app.credits import ledger, packages
from chat_app.credits.payments import orders
from chat_app.credits.payments.orders import Payment
from chat_app.credits.renewals import Shop
from chat_app.credits.shop_tables import AutoTopupRow, TopupRow
from chat_app.errors import Invalid
from chat_app.money import MAX_MICROCREDITS

MINUTE = 60 * MICROS_PER_SECOND
BURST, BURST_MINUTES = 3, 10
BACK_OFF_MINUTES = 60
# An order that nobody has paid after this time no longer stands in the way of the next.
OPEN_MINUTES = 60
MAX_PER_DAY = 24

_LOW = text(
    """SELECT r.user_id FROM auto_topup r JOIN account a ON a.user_id = r.user_id
    WHERE r.active AND a.closed_at IS NULL AND a.posted - a.held < r.threshold
     AND (r.blocked_until IS NULL OR r.blocked_until <= :now)
    ORDER BY r.user_id LIMIT :limit"""
)


class BadTopup(Invalid):
    """A rule that cannot be followed."""

    code = "bad_auto_topup"
    message = "This rule cannot be followed. Give a threshold above zero and 1 to 24 times a day."


@dataclass(frozen=True)
class Rule:
    """When and what to buy; microcredits and microseconds."""

    threshold: int
    package_code: str
    per_day: int
    active: bool = True
    blocked_until: int | None = None


def get(session: Session, *, user_id: int) -> Rule | None:
    """The user's rule, or None."""
    row = session.get(AutoTopupRow, user_id)
    return None if row is None else _rule(row)


def put(
    session: Session, *, user_id: int, threshold: int, package_code: str, per_day: int, now: int
) -> Rule:
    """Set the user's rule and switch it on; raises BadTopup or UnknownPackage."""
    if not (0 < threshold <= MAX_MICROCREDITS // 10**6 and 1 <= per_day <= MAX_PER_DAY):
        raise BadTopup
    packages.get(session, package_code)
    ledger.wallet(session, user_id=user_id, now=now)
    row = session.get(AutoTopupRow, user_id) or AutoTopupRow(
        user_id=user_id, threshold=1, package_code=package_code, per_day=1, updated_at=now
    )
    row.threshold, row.package_code, row.per_day = threshold, package_code, per_day
    row.active, row.updated_at = True, now
    session.add(row)
    session.flush()
    return _rule(row)


def stop(session: Session, *, user_id: int, now: int) -> bool:
    """Switch the rule off; False when none was on."""
    changed = session.execute(
        update(AutoTopupRow)
        .where(col(AutoTopupRow.user_id) == user_id, col(AutoTopupRow.active).is_(True))
        .values(active=False, updated_at=now)
    )
    return bool(changed.rowcount)  # type: ignore[attr-defined]


def low(session: Session, *, now: int, limit: int = 200) -> list[int]:
    """The users whose rule would buy now; without the limits by time."""
    return [row[0] for row in session.execute(_LOW, {"now": now, "limit": limit})]


def fire(session: Session, shop: Shop, *, user_id: int, now: int) -> Payment | None:
    """Buy what the rule says if less than its threshold is available; None when not.

    However many see it run low at once, one order comes of it.
    """
    ledger.wallet(session, user_id=user_id, now=now)  # locked: the others wait, and see the order
    row = session.get(AutoTopupRow, user_id, populate_existing=True)
    if row is None or not row.active or (row.blocked_until or 0) > now:
        return None
    if ledger.balance(session, user_id=user_id).available >= row.threshold:
        return None
    if not _allowed(session, user_id, row.per_day, now=now):
        return None
    try:
        packages.get(session, row.package_code)
    except packages.UnknownPackage:
        row.active = False
        session.add(row)
        return None
    number = session.exec(
        select(func.coalesce(func.max(TopupRow.number), 0) + 1).where(TopupRow.user_id == user_id)
    ).one()
    order = orders.create(
        session,
        user_id=user_id,
        package_code=row.package_code,
        now=now,
        scope="auto_topup",
        key=f"{user_id}:{number}",
        provider=shop.provider,
        rules=shop.rules,
    )
    done = shop.charge(session, order, now)
    state = {"paid": "paid", "failed": "declined"}.get(done.status, "pending")
    session.add(TopupRow(user_id=user_id, number=number, payment_id=done.id, state=state, at=now))
    if state == "declined":
        row.blocked_until = now + BACK_OFF_MINUTES * MINUTE
        session.add(row)
    session.flush()
    return done


def declined(session: Session, *, payment_id: str, now: int) -> None:
    """The order of a rule could not be paid: the rule rests for an hour. Nothing for others."""
    row = session.exec(select(TopupRow).where(TopupRow.payment_id == payment_id)).first()
    if row is None:
        return
    row.state = "declined"
    session.execute(
        update(AutoTopupRow)
        .where(col(AutoTopupRow.user_id) == row.user_id)
        .values(blocked_until=now + BACK_OFF_MINUTES * MINUTE)
    )
    session.flush()


def _allowed(session: Session, user_id: int, per_day: int, *, now: int) -> bool:
    """Whether the limits by time leave room. A clock that was set back leaves none."""

    def since(minutes: int, *more: object) -> int:
        return session.exec(
            select(func.count())
            .select_from(TopupRow)
            .where(
                TopupRow.user_id == user_id,
                col(TopupRow.at) > now - minutes * MINUTE,
                *more,  # type: ignore[arg-type]
            )
        ).one()

    if since(24 * 60) >= per_day or since(BURST_MINUTES) >= BURST:
        return False
    open_ = [
        orders.get(session, user_id=user_id, payment_id=payment_id).status == "pending"
        for payment_id in session.exec(
            select(TopupRow.payment_id).where(
                TopupRow.user_id == user_id,
                TopupRow.state == "pending",
                col(TopupRow.at) > now - OPEN_MINUTES * MINUTE,
            )
        )
    ]
    return not any(open_)


def _rule(row: AutoTopupRow) -> Rule:
    return Rule(row.threshold, row.package_code, row.per_day, row.active, row.blocked_until)
