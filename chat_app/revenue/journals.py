"""Journals of the money ledger: lines that add up to nothing, written once, never into a closed
month.

Debits are above zero. The chart of accounts is `ACCOUNTS`; what follows a colon is a provider, a
jurisdiction or a kind of cost. Knows nothing of credits.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import insert, text
from sqlmodel import Session, col, select

from chat_app.audit import log
from chat_app.errors import Conflict, Invalid
from chat_app.revenue.tables import BookPeriodRow, JournalRow, PostingRow

ACCOUNTS = {
    "cash": "Money at a payment provider, or at the bank",
    "receivable": "Invoices that are sent and not paid",
    "disputes": "What banks took back and may still return",
    "billed": "Sent invoices whose credits are not granted before they are paid",
    "deferred": "Revenue that is paid for and not earned: credits, or plans",
    "refunds_due": "Refunds on their way to the buyer",
    "tax": "Tax that is owed, by jurisdiction",
    "revenue": "Earned: usage, breakage, subscription, adjustment",
    "bad_debt": "Used, and then taken back by the buyer's bank",
    "cost": "What running the service costs, by kind",
    "payable": "Running costs that are booked by the day and not paid yet",
    "rounding": "Cents between a credit note's tax and what was booked with the refund",
    "opening": "Credits with a price that no order of this installation paid",
}


class PeriodClosed(Conflict):
    """The month is closed: its figures are final."""

    code = "period_closed"
    message = "This month is closed and its figures are final. Use a day of an open month."


class Unbalanced(Invalid):
    """The lines do not add up to zero in each currency, or name an unknown account."""

    code = "unbalanced_journal"
    message = "Debits and credits of this entry are not equal. Correct its lines."


@dataclass(frozen=True)
class Line:
    """A posting: minor units, a debit above zero."""

    account: str
    currency: str
    minor: int
    lot_id: int | None = None
    payment_id: str | None = None


@dataclass(frozen=True)
class Journal:
    """An entry with its lines, in their order."""

    id: int
    key: str
    day: str
    kind: str
    memo: str
    actor: str
    lines: tuple[Line, ...]


def post(
    session: Session,
    *,
    key: str,
    day: str,
    kind: str,
    memo: str,
    lines: Iterable[Line],
    now: int,
    actor: str = "system",
) -> int | None:
    """Write an entry once; returns its id, None when there is nothing to write or it is there.

    Lines of nothing are left out. Raises Unbalanced and PeriodClosed.
    """
    kept = [line for line in lines if line.minor]
    if not kept or exists(session, key):
        return None
    if session.get(BookPeriodRow, day[:7]) is not None:
        raise PeriodClosed(period=day[:7])
    sums: dict[str, int] = {}
    for line in kept:
        if line.account.partition(":")[0] not in ACCOUNTS:
            raise Unbalanced(f"There is no account {line.account}.", account=line.account)
        sums[line.currency] = sums.get(line.currency, 0) + line.minor
    if any(sums.values()):
        raise Unbalanced(sums=sums)
    row = JournalRow(key=key, day=day, kind=kind, memo=memo, actor=actor, created_at=now)
    session.add(row)
    session.flush()
    assert row.id is not None
    session.execute(
        insert(PostingRow),
        [
            {
                "journal_id": row.id,
                "line": number,
                "account": line.account,
                "currency": line.currency,
                "amount_minor": line.minor,
                "lot_id": line.lot_id,
                "payment_id": line.payment_id,
            }
            for number, line in enumerate(kept, start=1)
        ],
    )
    return row.id


def exists(session: Session, key: str) -> bool:
    """Whether the entry is written."""
    return session.exec(select(JournalRow.id).where(JournalRow.key == key)).first() is not None


def find(session: Session, key: str) -> Journal | None:
    """An entry by its key."""
    row = session.exec(select(JournalRow).where(JournalRow.key == key)).first()
    return None if row is None else _journals(session, [row])[0]


def listed(
    session: Session,
    *,
    since: str = "",
    until: str = "9999-12-31",
    account: str = "",
    limit: int = 50,
    before: int | None = None,
) -> list[Journal]:
    """Entries of these days, newest first; `account` keeps those that touch it."""
    query = select(JournalRow).where(JournalRow.day >= since, JournalRow.day <= until)
    if before is not None:
        query = query.where(col(JournalRow.id) < before)
    if account:
        touching = select(PostingRow.journal_id).where(
            (col(PostingRow.account) == account) | col(PostingRow.account).startswith(f"{account}:")
        )
        query = query.where(col(JournalRow.id).in_(touching))
    rows = session.exec(query.order_by(col(JournalRow.id).desc()).limit(limit)).all()
    return _journals(session, rows)


def of_payment(session: Session, payment_id: str) -> list[Journal]:
    """All entries with a line for this order, oldest first, with those lines alone."""
    rows = session.exec(
        select(JournalRow)
        .where(
            col(JournalRow.id).in_(
                select(PostingRow.journal_id).where(PostingRow.payment_id == payment_id)
            )
        )
        .order_by(col(JournalRow.day), col(JournalRow.id))
    ).all()
    return _journals(session, rows, payment_id=payment_id)


def balances(session: Session, *, until: str, since: str = "") -> dict[tuple[str, str], int]:
    """The sum of each account and currency over the days from `since` to `until` (included)."""
    rows = session.execute(
        text(
            """SELECT p.account, p.currency, SUM(p.amount_minor) FROM posting p
            JOIN journal j ON j.id = p.journal_id WHERE j.day >= :since AND j.day <= :until
            GROUP BY p.account, p.currency ORDER BY p.account, p.currency"""
        ),
        {"since": since, "until": until},
    )
    return {(account, currency): int(minor) for account, currency, minor in rows}


def closed(session: Session) -> list[BookPeriodRow]:
    """The closed months, oldest first."""
    return list(session.exec(select(BookPeriodRow).order_by(BookPeriodRow.id)).all())


def close(session: Session, *, period: str, actor: str, now: int) -> BookPeriodRow:
    """Close a month: from now on nothing is posted to it. Once; the caller knows it is complete."""
    there = session.get(BookPeriodRow, period)
    if there is not None:
        return there
    row = BookPeriodRow(
        id=period, digest=digest(session, period=period), closed_at=now, closed_by=actor
    )
    session.add(row)
    log.record(
        session, type="period_closed", actor=actor, now=now, period=period, digest=row.digest
    )
    session.flush()
    return row


def digest(session: Session, *, period: str) -> str:
    """SHA-256 over the postings of a month, in their order."""
    found = hashlib.sha256()
    for row in session.execute(
        text(
            """SELECT j.key, j.day, p.line, p.account, p.currency, p.amount_minor
            FROM journal j JOIN posting p ON p.journal_id = j.id
            WHERE j.day >= :first AND j.day <= :last ORDER BY j.key, p.line"""
        ),
        {"first": f"{period}-01", "last": f"{period}-31"},
    ):
        found.update(repr(tuple(row)).encode())
    return found.hexdigest()


def _journals(
    session: Session, rows: Sequence[JournalRow], *, payment_id: str | None = None
) -> list[Journal]:
    query = select(PostingRow).where(col(PostingRow.journal_id).in_([row.id for row in rows]))
    if payment_id is not None:
        query = query.where(PostingRow.payment_id == payment_id)
    lines: dict[int, list[Line]] = {}
    for one in session.exec(query.order_by(col(PostingRow.journal_id), col(PostingRow.line))):
        lines.setdefault(one.journal_id, []).append(
            Line(one.account, one.currency, one.amount_minor, one.lot_id, one.payment_id)
        )
    return [
        Journal(row.id or 0, row.key, row.day, row.kind, row.memo, row.actor,
                tuple(lines.get(row.id or 0, ())))
        for row in rows
    ]  # fmt: skip
