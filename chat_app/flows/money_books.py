"""The money ledger as a Beancount ledger, for `bean-check` and for whoever keeps accounts in it.

Entries and lines come from the journals alone; the balances that are asserted come from the
credits' own books: what orders, refunds and disputes say of the money, what lots still owe, and
what invoices are open. So a check by another program ties the two ledgers together.
"""

import os
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlmodel import Session

from chat_app.clock import to_micros
from chat_app.db import Database

CHUNK = 5_000
_POSTINGS = """SELECT j.day, j.id, j.key, j.kind, j.memo, p.account, p.currency, p.amount_minor,
  p.lot_id, p.payment_id
 FROM journal j JOIN posting p ON p.journal_id = j.id
 WHERE j.id > :after AND j.id <= :last ORDER BY j.id, p.line"""
_NEXT = """SELECT MAX(id) FROM (
 SELECT id FROM journal WHERE id > :after ORDER BY id LIMIT :limit) page"""
# What providers hold by the orders, refunds and disputes up to the mark.
_CASH = """SELECT provider, currency, SUM(minor) FROM (
 SELECT p.provider, p.currency, p.amount_minor AS minor
 FROM payment p JOIN operation o ON o.id = p.fulfilled_op_id WHERE o.transfer_id <= :upto
 UNION ALL SELECT p.provider, r.currency, -r.amount_minor
 FROM refund r JOIN payment p ON p.id = r.payment_id
 WHERE r.state = 'succeeded' AND r.ended_at < :before
 UNION ALL SELECT d.provider, p.currency, -d.disputed_minor
 FROM dispute d JOIN payment p ON p.id = d.payment_id
 WHERE d.operation_id IS NOT NULL AND d.opened_at < :before
  AND NOT (d.state = 'won' AND d.closed_at IS NOT NULL AND d.closed_at < :before)
) money GROUP BY provider, currency ORDER BY provider, currency"""
_DEFERRED = """SELECT CASE WHEN starts_at IS NULL THEN 'credits' ELSE 'plans' END, currency,
  SUM(net_minor - earned - broken - handed)
 FROM lot_revenue GROUP BY 1, 2 ORDER BY 1, 2"""
_OPEN = """SELECT i.currency, SUM(i.total_minor) FROM invoice i
 LEFT JOIN payment p ON p.id = i.payment_id
 WHERE i.kind = 'invoice' AND i.number IS NOT NULL AND i.issued_at < :before
  AND (p.paid_at IS NULL OR p.paid_at >= :before)
  AND (i.closed_at IS NULL OR i.closed_at >= :before) GROUP BY i.currency ORDER BY i.currency"""
_NAMES = {
    "cash": "Assets:Cash",
    "receivable": "Assets:Receivable",
    "disputes": "Assets:Disputes",
    "billed": "Liabilities:Billed",
    "deferred": "Liabilities:Deferred",
    "refunds_due": "Liabilities:RefundsDue",
    "tax": "Liabilities:Tax",
    "revenue": "Income",
    "bad_debt": "Expenses:BadDebt",
    "cost": "Expenses:Running",
    "payable": "Liabilities:Payable",
    "rounding": "Expenses:Rounding",
    "opening": "Equity:Opening",
}
_HEADER = """option "title" "The money ledger"
option "tolerance_multiplier" "0.1"
"""


def write(db: Database, path: Path) -> int:
    """Write the export to a new file for its owner alone; returns how many entries."""
    count = 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        for line in lines(db):
            count += line.count(" * ")
            file.write(line + "\n")
    return count


def lines(db: Database) -> Iterator[str]:
    """The export, entry by entry, from one snapshot."""
    with db.read() as session:
        if not db.sqlite:
            session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        yield _HEADER
        used: set[str] = set()
        days: list[str] = []
        yield from _entries(session, used, days)
        mark = session.execute(text("SELECT day, transfer_id FROM book_mark")).first()
        if not days or mark is None:
            return
        first = min(days)
        closing = max(*days, mark.day)
        balances = list(_balances(session, mark.day, mark.transfer_id))
        used.update(name for name, _ in balances)
        yield from (f"{first} open {name}" for name in sorted(used))
        day = date.fromisoformat(closing) + timedelta(days=1)
        yield from (f"{day} balance {name} {amount}" for name, amount in balances)


def name(account: str) -> str:
    """An account's name in Beancount: `tax:DE` is `Liabilities:Tax:DE`."""
    group, _, rest = account.partition(":")
    return _NAMES[group] + (f":{_word(rest)}" if rest else "")


def _entries(session: Session, used: set[str], days: list[str]) -> Iterator[str]:
    after = 0
    while last := session.execute(text(_NEXT), {"after": after, "limit": CHUNK}).scalar():
        found = session.execute(text(_POSTINGS), {"after": after, "last": last})
        for _, rows in groupby(found, key=lambda row: row.id):
            yield _entry(list(rows), used, days)
        after = int(last)


def _entry(rows: list[Any], used: set[str], days: list[str]) -> str:
    head = rows[0]
    days[:] = [min(head.day, *days), max(head.day, *days)] if days else [head.day, head.day]
    written = [f'{head.day} * "{_quoted(head.kind)}" "{_quoted(head.memo)}"']
    written.append(f'  entry: "{_quoted(head.key)}"')
    # Uses of one lot on one day are one line here.
    sums: dict[tuple[Any, ...], int] = {}
    for row in rows:
        key = (name(row.account), row.currency, row.lot_id, row.payment_id)
        sums[key] = sums.get(key, 0) + row.amount_minor
    for (account, currency, lot, payment), minor in sums.items():
        used.add(account)
        written.append(f"  {account}  {_money(minor, currency)}")
        if payment is not None:
            written.append(f'    order: "{payment}"')
        if lot is not None:
            written.append(f'    lot: "{lot}"')
    return "\n".join(written) + "\n"


def _balances(session: Session, day: str, upto: int) -> Iterator[tuple[str, str]]:
    """What the credits' own books say that accounts of money must have."""
    end = datetime.combine(date.fromisoformat(day) + timedelta(days=1), datetime.min.time(), UTC)
    span = {"upto": upto, "before": to_micros(end)}
    for provider, currency, minor in session.execute(text(_CASH), span):
        yield name(f"cash:{provider}"), _money(int(minor), currency)
    for kind, currency, minor in session.execute(text(_DEFERRED)):
        yield name(f"deferred:{kind}"), _money(-int(minor), currency)
    owed = {currency: int(minor) for currency, minor in session.execute(text(_OPEN), span)}
    billed = "SELECT DISTINCT currency FROM posting WHERE account = 'receivable' ORDER BY currency"
    for currency in session.execute(text(billed)).scalars():
        yield name("receivable"), _money(owed.get(currency, 0), currency)


def _word(word: str) -> str:
    kept = "".join(mark if mark.isascii() and mark.isalnum() else "-" for mark in word)
    return (kept[:1].upper() + kept[1:]) if kept[:1].isalnum() else f"X{kept}"


def _money(minor: int, currency: str) -> str:
    whole, part = divmod(abs(minor), 100)
    return f"{'-' if minor < 0 else ''}{whole}.{part:02d} {currency}"


def _quoted(words: str) -> str:
    return " ".join(words.split())[:160].replace("\\", "\\\\").replace('"', '\\"')
