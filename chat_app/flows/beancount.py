"""The books as a Beancount ledger, for `bean-check` and for whoever keeps accounts in it.

Credits are a commodity beside the money that was paid for them. The two sides of a transaction
come from different tables: what moved from `transfer`, what a wallet gained or lost from its
lots, what was paid from `payment`. The balances come from the wallets. A program that shares no
line with ours so proves that all of them tell one story. Users appear by number alone.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlmodel import Session

from chat_app.clock import from_micros
from chat_app.db import Database
from chat_app.money import MICRO

CHUNK = 5_000
_TRANSFERS = """SELECT t.id, t.code, t.debit_id, t.credit_id, t.amount, t.debit_after,
  t.credit_after, t.description, t.created_at, p.provider, p.amount_minor, p.currency
 FROM transfer t LEFT JOIN operation o ON o.transfer_id = t.id
 LEFT JOIN payment p ON p.fulfilled_op_id = o.id
 WHERE t.id > :after AND t.kind IN ('direct', 'post') AND t.amount > 0
 ORDER BY t.id LIMIT :limit"""
_USES = """SELECT u.transfer_id, u.lot_id, u.amount, u.kind, u.revenue_minor, l.currency
 FROM lot_use u JOIN lot l ON l.id = u.lot_id
 WHERE u.transfer_id > :after AND u.transfer_id <= :last ORDER BY u.transfer_id, u.lot_id"""
_LOTS = """SELECT transfer_id, id, granted, price_minor, currency FROM lot
 WHERE transfer_id > :after AND transfer_id <= :last ORDER BY transfer_id, id"""
# Money that went back with the transfer, or stayed after all: with its price, and beyond it.
_BACK = """SELECT r.transfer_id, p.provider, r.currency, 0 AS beyond
 FROM refund r JOIN payment p ON p.id = r.payment_id
 WHERE r.transfer_id > :after AND r.transfer_id <= :last
 UNION ALL SELECT r.returned_id, p.provider, r.currency, 0
 FROM refund r JOIN payment p ON p.id = r.payment_id
 WHERE r.returned_id > :after AND r.returned_id <= :last
 UNION ALL SELECT d.transfer_id, p.provider, p.currency,
  CASE WHEN d.debt_id IS NULL THEN d.disputed_minor - d.amount_minor ELSE 0 END
 FROM dispute d JOIN payment p ON p.id = d.payment_id
 WHERE d.transfer_id > :after AND d.transfer_id <= :last
 UNION ALL SELECT d.debt_id, p.provider, p.currency, d.disputed_minor - d.amount_minor
 FROM dispute d JOIN payment p ON p.id = d.payment_id
 WHERE d.debt_id > :after AND d.debt_id <= :last
 UNION ALL SELECT d.returned_id, p.provider, p.currency, d.amount_minor - d.disputed_minor
 FROM dispute d JOIN payment p ON p.id = d.payment_id
 WHERE d.returned_id > :after AND d.returned_id <= :last
 UNION ALL SELECT t.id, p.provider, p.currency, d.amount_minor - d.disputed_minor
 FROM dispute d JOIN payment p ON p.id = d.payment_id
 JOIN transfer t ON t.id = (SELECT MIN(c.id) FROM transfer c WHERE c.cause_id = d.debt_id
  AND c.code IN ('debt_cancelled', 'writeoff_undone'))
 WHERE d.returned_id IS NULL AND t.id > :after AND t.id <= :last
 ORDER BY 1"""
_DEFERRED = """SELECT currency, SUM(price_minor - recognized_minor) FROM lot
 WHERE price_minor > 0 GROUP BY currency ORDER BY currency"""
_SYSTEM = {
    "sys:consumed": "Income:Credits:Consumed",
    "sys:expired": "Income:Credits:Expired",
    "sys:writeoff": "Expenses:Credits:Writeoff",
}
_EARNED = {
    "use": "Income:Usage",
    "expire": "Income:Breakage",
    "move": "Equity:Moved",
}
DEFERRED = "Liabilities:Deferred"
_HEADER = """option "title" "Credits and what was paid for them"
option "tolerance_multiplier" "0.1"
"""


@dataclass
class _Names:
    """Account ids and their names in the export."""

    name: dict[int, str]
    wallets: set[int]


@dataclass
class _Move:
    """A transfer with the uses of lots, the new lots and the money back that belong to it."""

    row: Any
    uses: list[Any]
    made: list[Any]
    back: Any


@dataclass
class _Seen:
    """What the end of the export needs to know of all before it."""

    used: set[str] = field(default_factory=set)
    first: date | None = None
    last: date | None = None
    after: dict[int, tuple[str, int]] = field(default_factory=dict)


def write(db: Database, path: Path) -> int:
    """Write the export to a new file for its owner alone; returns how many transactions."""
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
        names = _names(session)
        seen = _Seen()
        yield _HEADER
        for move in _moves(session):
            yield from _month_ends(move.row, names, seen)
            yield _transaction(move, names, seen)
        if seen.first is None or seen.last is None:
            return
        closing = seen.last + timedelta(days=1)
        yield from (f"{seen.first} open {name}" for name in sorted(seen.used))
        yield from _wallet_balances(session, closing, names, seen)
        for currency, minor in session.execute(text(_DEFERRED)):
            yield f"{closing} balance {DEFERRED} {_money(-int(minor), currency)}"


def _names(session: Session) -> _Names:
    names: dict[int, str] = {}
    wallets = set()
    for id, code, kind in session.execute(text("SELECT id, code, kind FROM account ORDER BY id")):
        group, _, rest = str(code).partition(":")
        own = f"{_word(group)}-{_word(rest)}" if rest.isalnum() else f"{_word(group)}-{id}"
        if kind == "wallet":
            wallets.add(id)
            names[id] = f"Liabilities:Wallets:{own}"
        elif group == "sys":
            names[id] = _SYSTEM.get(code, f"Equity:Credits:{_word(rest)}")
        else:
            names[id] = f"Equity:Credits:{own}"
    return _Names(names, wallets)


def _word(text: str) -> str:
    """A part of an account's name: letters, digits and dashes, begun by a capital or a digit."""
    kept = "".join(mark if mark.isascii() and mark.isalnum() else "-" for mark in text)
    return (kept[:1].upper() + kept[1:]) if kept[:1].isalnum() else f"X{kept}"


def _moves(session: Session) -> Iterator[_Move]:
    """Each transfer with what belongs to it, the oldest first."""
    after = 0
    while True:
        rows = list(session.execute(text(_TRANSFERS), {"after": after, "limit": CHUNK}))
        if not rows:
            return
        span = {"after": after, "last": rows[-1].id}
        uses = _by_transfer(session, _USES, span)
        made = _by_transfer(session, _LOTS, span)
        back = _by_transfer(session, _BACK, span)
        for row in rows:
            money = back.get(row.id, [None])[0]
            yield _Move(row, uses.get(row.id, []), made.get(row.id, []), money)
        after = rows[-1].id


def _by_transfer(session: Session, query: str, span: dict[str, int]) -> dict[int, list[Any]]:
    found = session.execute(text(query), span)
    return {id: list(rows) for id, rows in groupby(found, key=lambda row: row.transfer_id)}


def _transaction(move: _Move, names: _Names, seen: _Seen) -> str:
    row, uses, made = move.row, move.uses, move.made
    day = _day(row.created_at)
    seen.first = min(seen.first or day, day)
    seen.last = max(seen.last or day, day)
    debit, credit = names.name[row.debit_id], names.name[row.credit_id]
    legs = [(debit, _credits(row.amount), "")]
    if row.debit_id in names.wallets:
        legs = [(debit, _credits(use.amount), f'    lot: "{use.lot_id}"') for use in uses]
    if row.credit_id in names.wallets:
        legs += [(credit, _credits(-lot.granted), f'    lot: "{lot.id}"') for lot in made]
    else:
        legs.append((credit, _credits(-row.amount), ""))
    legs += _money_legs(move)
    seen.used.update(name for name, _, _ in legs)
    entry = [f'{day} * "{_quoted(row.code)}" "{_quoted(row.description or "")}"']
    entry.append(f'  transfer: "{row.id}"')
    for name, amount, note in legs:
        entry.append(f"  {name}  {amount}")
        if note:
            entry.append(note)
    return "\n".join(entry) + "\n"


def _money_legs(move: _Move) -> list[tuple[str, str, str]]:
    """What was paid is owed as credits until they are used or the money goes back.

    What a bank takes beyond the price of unused credits is lost, as long as nobody pays the debt.
    """
    row, uses, made, back = move.row, move.uses, move.made, move.back
    legs = []
    till = None if back is None else f"Assets:Payments:{_word(back.provider)}"
    if till is not None and back.beyond:
        legs.append(("Expenses:Chargebacks", _money(back.beyond, back.currency), ""))
        legs.append((till, _money(-back.beyond, back.currency), ""))
    # Credits that go to another wallet take their price along.
    moved = any(use.kind == "move" for use in uses)
    for lot in made:
        if lot.price_minor:
            legs.append((DEFERRED, _money(-lot.price_minor, lot.currency), ""))
            if row.provider is None:
                origin = till or ("Equity:Moved" if moved else "Equity:Granted")
                legs.append((origin, _money(lot.price_minor, lot.currency), ""))
    if row.provider is not None and row.amount_minor:
        paid = f"Assets:Payments:{_word(row.provider)}"
        legs.append((paid, _money(row.amount_minor, row.currency), ""))
    for use in uses:
        if use.revenue_minor:
            earned = _EARNED.get(use.kind, f"Equity:{_word(use.kind)}")
            if use.kind == "refund" and till is not None:
                earned = till
            legs.append((DEFERRED, _money(use.revenue_minor, use.currency), ""))
            legs.append((earned, _money(-use.revenue_minor, use.currency), ""))
    return legs


def _month_ends(row: Any, names: _Names, seen: _Seen) -> Iterator[str]:
    """The balance with which a wallet entered a new month, as its newest transfer says."""
    month = f"{_day(row.created_at):%Y-%m}"
    for id, after in ((row.debit_id, row.debit_after), (row.credit_id, row.credit_after)):
        if id not in names.wallets or after is None:
            continue
        before = seen.after.get(id)
        if before and before[0] < month:
            yield f"{month}-01 balance {names.name[id]} {_credits(-before[1])}"
        seen.after[id] = (month, after)


def _wallet_balances(session: Session, closing: date, names: _Names, seen: _Seen) -> Iterator[str]:
    query = "SELECT id, posted FROM account WHERE kind = 'wallet' ORDER BY id"
    for id, posted in session.execute(text(query)):
        if names.name[id] in seen.used:
            yield f"{closing} balance {names.name[id]} {_credits(-posted)}"
        elif posted:
            # Nothing moved, yet there is a balance: the check must see it.
            yield f"{closing} open {names.name[id]}"
            yield f"{closing + timedelta(days=1)} balance {names.name[id]} {_credits(-posted)}"


def _day(micros: int) -> date:
    return from_micros(micros).date()


def _credits(micro: int) -> str:
    whole, part = divmod(abs(micro), MICRO)
    return f"{'-' if micro < 0 else ''}{whole}.{part:06d} CREDIT"


def _money(minor: int, currency: str) -> str:
    whole, part = divmod(abs(minor), 100)
    return f"{'-' if minor < 0 else ''}{whole}.{part:02d} {currency}"


def _quoted(text: str) -> str:
    """Text for a string of Beancount, on one line."""
    return " ".join(text.split())[:120].replace("\\", "\\\\").replace('"', '\\"')
