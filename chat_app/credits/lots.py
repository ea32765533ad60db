"""Lots: which credits are used first, and which end unused.

Credits are used in this order: priority, then the earlier end, then free before paid, then the
older lot. What an open hold has pinned does not expire before the hold has ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import Session

from chat_app.credits import accounts, transfers
from chat_app.credits.accounts import Wallet
from chat_app.credits.sql import Books, Statement

_FREE = Statement(
    """SELECT id, granted, remaining, held, price_minor, recognized_minor, expires_at FROM lot
    WHERE account_id = :account_id AND remaining > 0 AND remaining > held
    ORDER BY priority, expires_at NULLS LAST, price_minor > 0, id"""
)
_OPEN = Statement(
    """SELECT l.id, l.source, l.granted, l.remaining, l.held, l.expires_at, l.created_at
    FROM lot l JOIN account a ON a.id = l.account_id
    WHERE a.user_id = :user_id AND l.remaining > 0
     AND (l.expires_at IS NULL OR l.expires_at > :now OR l.held > 0)
    ORDER BY l.priority, l.expires_at NULLS LAST, l.price_minor > 0, l.id LIMIT :limit"""
)
_NEXT_END = Statement(
    """SELECT l.expires_at, SUM(l.remaining - l.held) FROM lot l
    JOIN account a ON a.id = l.account_id
    WHERE a.user_id = :user_id AND l.remaining > l.held AND l.expires_at > :now
    GROUP BY l.expires_at ORDER BY l.expires_at LIMIT 1"""
)
_PINNED = Statement(
    """SELECT l.id, l.granted, l.remaining, l.held, l.price_minor, l.recognized_minor,
     l.expires_at, h.amount
    FROM hold_lot h JOIN lot l ON l.id = h.lot_id WHERE h.hold_id = :hold_id ORDER BY h.pos"""
)
_OF_GRANT = Statement(
    """SELECT id, granted, remaining, held, price_minor, recognized_minor, expires_at FROM lot
    WHERE account_id = :account_id AND transfer_id = :transfer_id"""
)
_SPENT = Statement(
    """SELECT COALESCE(SUM(amount), 0) FROM lot_use
    WHERE lot_id = :lot_id AND kind IN ('use', 'move')"""
)
_ADD = Statement(
    """INSERT INTO lot (account_id, transfer_id, source, priority, granted, remaining, currency,
     price_minor, expires_at, created_at)
    VALUES (:account_id, :transfer_id, :source, :priority, :micro, :micro, :currency,
     :price_minor, :expires_at, :now)""",
    returning="id",
)
_PIN = Statement(
    "UPDATE lot SET held = held + :micro WHERE id = :id AND remaining - held >= :micro"
)
_UNPIN = Statement(
    """UPDATE lot SET held = held - :pinned, remaining = remaining - :used,
     recognized_minor = recognized_minor + :revenue
    WHERE id = :id AND held >= :pinned AND remaining - held >= :used - :pinned"""
)
_PINNED_BY = Statement(
    """INSERT INTO hold_lot (hold_id, lot_id, pos, amount)
    VALUES (:hold_id, :lot_id, :pos, :micro)"""
)
_USE = Statement(
    """INSERT INTO lot_use (transfer_id, lot_id, amount, kind, revenue_minor)
    VALUES (:transfer_id, :lot_id, :micro, :kind, :revenue)"""
)
_DUE = Statement(
    """SELECT DISTINCT account_id FROM lot
    WHERE remaining > 0 AND remaining > held AND expires_at <= :now
    ORDER BY account_id LIMIT :limit"""
)


@dataclass(slots=True)
class Lot:
    """A lot as it stands, in microcredits."""

    id: int
    granted: int
    remaining: int
    held: int
    price_minor: int
    recognized_minor: int
    expires_at: int | None

    def ended(self, now: int) -> bool:
        """Whether it ended at or before `now`."""
        return self.expires_at is not None and self.expires_at <= now

    def revenue_of(self, micro: int) -> int:
        """What using `micro` more earns, in minor units: the rounded whole less what is booked.

        Parts never drift: a lot that is used up has earned exactly its price.
        """
        used = self.granted - self.remaining + micro
        earned = (2 * self.price_minor * used + self.granted) // (2 * self.granted)
        return earned - self.recognized_minor


@dataclass(frozen=True)
class LotView:
    """A lot as its owner sees it: microcredits and microseconds."""

    id: int
    source: str
    granted: int
    remaining: int
    held: int
    expires_at: int | None
    created_at: int


@dataclass(frozen=True)
class Ending:
    """How many free microcredits end next, and when."""

    micro: int
    at: int


def list_open(session: Session, *, user_id: int, now: int, limit: int = 100) -> list[LotView]:
    """The user's lots with something left, in the order of use."""
    found = Books(session).rows(_OPEN, user_id=user_id, now=now, limit=limit)
    return [LotView(*row) for row in found]


def next_end(session: Session, *, user_id: int, now: int) -> Ending | None:
    """What ends next of the user's free credits; None when nothing has an end."""
    row = Books(session).one(_NEXT_END, user_id=user_id, now=now)
    return Ending(micro=int(row[1]), at=row[0]) if row else None


def add(
    books: Books,
    *,
    account_id: int,
    transfer_id: int,
    source: str,
    priority: int,
    micro: int,
    currency: str,
    price_minor: int,
    expires_at: int | None,
    now: int,
) -> int:
    """A new lot; returns its id."""
    return books.insert(
        _ADD,
        account_id=account_id,
        transfer_id=transfer_id,
        source=source,
        priority=priority,
        micro=micro,
        currency=currency,
        price_minor=price_minor,
        expires_at=expires_at,
        now=now,
    )


def free(books: Books, wallet: Wallet, *, now: int) -> list[Lot]:
    """The lots with unpinned credits in the order of use; ended ones are expired first."""
    found = [Lot(*row) for row in books.rows(_FREE, account_id=wallet.id)]
    for lot in found:
        if lot.ended(now):
            expire(books, wallet, lot, micro=lot.remaining - lot.held, now=now)
    return [lot for lot in found if not lot.ended(now)]


def of_grants(books: Books, wallet: Wallet, grants: Sequence[int]) -> list[Lot]:
    """The wallet's lots that these transfers brought, in the order of use."""
    found = [
        Lot(*row)
        for grant in grants
        for row in books.rows(_OF_GRANT, account_id=wallet.id, transfer_id=grant)
    ]
    never = 2**63
    return sorted(found, key=lambda lot: (lot.expires_at or never, lot.id))


def spent(books: Books, lot: Lot) -> int:
    """What was used of a lot or handed on; not what expired, was taken or refunded."""
    row = books.one(_SPENT, lot_id=lot.id)
    assert row is not None
    return int(row[0])


def choose(found: Sequence[Lot], micro: int) -> list[tuple[Lot, int]]:
    """Which lots give `micro`, first to last; the caller knows that they have enough."""
    chosen = []
    for lot in found:
        if micro == 0:
            break
        part = min(micro, lot.remaining - lot.held)
        chosen.append((lot, part))
        micro -= part
    assert micro == 0, "a wallet's balance is the sum of its lots"
    return chosen


def pin(books: Books, *, hold_id: int, chosen: Sequence[tuple[Lot, int]]) -> None:
    """Set the chosen credits aside for a hold."""
    for pos, (lot, micro) in enumerate(chosen):
        assert books.change(_PIN, id=lot.id, micro=micro) == 1, "a lot has what was chosen of it"
        books.change(_PINNED_BY, hold_id=hold_id, lot_id=lot.id, pos=pos, micro=micro)


def unpin(
    books: Books, wallet: Wallet, *, hold_id: int, spent: int, transfer_id: int, now: int
) -> None:
    """End the pins of a hold: `spent` is used, first to last, and the rest is free again.

    What is freed of a lot that has ended expires at once. The wallet's own balance was changed
    by the caller.
    """
    ended = []
    for *columns, pinned in books.rows(_PINNED, hold_id=hold_id):
        lot = Lot(*columns)
        used = min(spent, pinned)
        spent -= used
        take(books, lot, micro=used, pinned=pinned, transfer_id=transfer_id, kind="use")
        if used < pinned and lot.ended(now):
            ended.append((lot, pinned - used))
    assert spent == 0, "a hold's pins are worth its amount"
    for lot, rest in ended:
        expire(books, wallet, lot, micro=rest, now=now)


def take(
    books: Books, lot: Lot, *, micro: int, pinned: int = 0, transfer_id: int, kind: str
) -> None:
    """Take `micro` out of a lot and unpin `pinned`; the transfer says why."""
    revenue = lot.revenue_of(micro) if micro else 0
    changed = books.change(_UNPIN, id=lot.id, pinned=pinned, used=micro, revenue=revenue)
    assert changed == 1, "a lot has what is taken from it"
    lot.held -= pinned
    lot.remaining -= micro
    lot.recognized_minor += revenue
    if micro:
        books.change(
            _USE, transfer_id=transfer_id, lot_id=lot.id, micro=micro, kind=kind, revenue=revenue
        )


def expire(books: Books, wallet: Wallet, lot: Lot, *, micro: int, now: int) -> None:
    """Let `micro` unpinned credits of an ended lot expire."""
    assert accounts.post(books, wallet, micro=-micro, now=now), "free credits are not held"
    transfer_id = transfers.out(
        books,
        code="expiry",
        wallet_id=wallet.id,
        system="expired",
        amount=micro,
        after=wallet.posted,
        now=now,
    )
    take(books, lot, micro=micro, transfer_id=transfer_id, kind="expire")


def expire_due(session: Session, *, now: int, limit: int = 500) -> int:
    """Expire what is free in ended lots, in at most `limit` wallets; returns how many had some."""
    books = Books(session)
    due = books.rows(_DUE, now=now, limit=limit)
    for (account_id,) in due:
        wallet = accounts.lock_id(books, account_id=account_id)
        free(books, wallet, now=wallet.time(now))
    return len(due)
