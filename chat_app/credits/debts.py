"""Debts: credits that were spent and whose payment was taken back afterwards.

A debt is booked on an account of its own, never as a balance below zero: what a user owes and
what a user has are two figures. It blocks new holds, and the next credits that cost money pay it
first. Knows nothing of payments.
"""

from collections.abc import Sequence

from sqlmodel import Session

from chat_app.credits import accounts, lots, operations, transfers
from chat_app.credits.accounts import Wallet
from chat_app.credits.lots import Lot
from chat_app.credits.sql import Books, Statement

_OPEN = Statement(
    """INSERT INTO account (ledger, code, kind, created_at)
    VALUES ('CREDIT', :code, 'system', :now) ON CONFLICT (code) DO NOTHING"""
)
_OWE = Statement(
    """UPDATE account SET owed = owed + :micro, last_at = :now
    WHERE id = :id AND owed + :micro >= 0"""
)
_OWING = Statement("SELECT user_id, owed FROM account WHERE owed > 0 ORDER BY id LIMIT :limit")


def code_of(wallet: Wallet) -> str:
    """The code of the account that a wallet's debt stands on."""
    return f"debt:{wallet.id}"


def incur(
    books: Books,
    wallet: Wallet,
    *,
    micro: int,
    now: int,
    cause_id: int | None,
    reference: str | None,
) -> int:
    """The wallet owes `micro` more; returns the transfer's id."""
    books.change(_OPEN, code=code_of(wallet), now=now)
    _owe(books, wallet, micro=micro, now=now)
    return transfers.between_system(
        books,
        code="debt",
        debit=code_of(wallet),
        credit="sys:refunded",
        amount=micro,
        now=now,
        cause_id=cause_id,
        reference=reference,
    )


def cancel(
    books: Books, wallet: Wallet, *, micro: int, now: int, cause_id: int, reference: str | None
) -> int:
    """The wallet owes `micro` less, because it should not have been owed."""
    _owe(books, wallet, micro=-micro, now=now)
    return transfers.between_system(
        books,
        code="debt_cancelled",
        debit="sys:refunded",
        credit=code_of(wallet),
        amount=micro,
        now=now,
        cause_id=cause_id,
        reference=reference,
    )


def repay_from(
    books: Books, wallet: Wallet, *, lot_id: int, now: int, cause_id: int | None = None
) -> tuple[int, int]:
    """Pay what is owed with the free credits of one lot; returns the microcredits and the
    transfer's id, both 0 when there was nothing to take.
    """
    lot = next((one for one in lots.free(books, wallet, now=now) if one.id == lot_id), None)
    micro = 0 if lot is None else min(wallet.owed, lot.remaining - lot.held)
    if lot is None or micro == 0:
        return 0, 0
    return micro, _repay(books, wallet, lot, micro=micro, now=now, cause_id=cause_id)


def collect(session: Session, *, user_id: int, grants: Sequence[int], now: int) -> int:
    """Pay what is owed with what answers in progress gave back of charged-back credits.

    `grants` are the transfers that brought those credits. Returns microcredits.
    """
    books = Books(session)
    wallet = accounts.lock(books, user_id=user_id, now=now)
    now = wallet.time(now)
    taken = 0
    for lot in lots.of_grants(books, wallet, grants):
        if not wallet.owed or lot.remaining == lot.held:
            continue
        # What remains only ever falls, so each turn has a key of its own.
        key = f"{lot.id}:{lot.remaining}"
        hashed = operations.digest({"collect": lot.id})
        assert operations.find(books, scope="collect", key=key, hashed=hashed) is None
        micro, transfer_id = repay_from(books, wallet, lot_id=lot.id, now=now)
        if micro:
            operations.keep(
                books,
                scope="collect",
                key=key,
                hashed=hashed,
                now=now,
                actor="schedule",
                outcome={"micro": micro},
                transfer_id=transfer_id,
            )
        taken += micro
    return taken


def owing(session: Session, *, limit: int = 500) -> list[tuple[int, int]]:
    """Users who owe, and how many microcredits; for operators."""
    return [(row[0], row[1]) for row in Books(session).rows(_OWING, limit=limit)]


def _repay(
    books: Books, wallet: Wallet, lot: Lot, *, micro: int, now: int, cause_id: int | None
) -> int:
    _owe(books, wallet, micro=-micro, now=now)
    assert accounts.post(books, wallet, micro=-micro, now=now), "free credits are not held"
    transfer_id = transfers.out(
        books,
        code="repayment",
        wallet_id=wallet.id,
        system=code_of(wallet),
        amount=micro,
        after=wallet.posted,
        now=now,
        cause_id=cause_id,
        description="Paid back what was owed",
    )
    # They pay for what was used before, so their price is earned now.
    lots.take(books, lot, micro=micro, transfer_id=transfer_id, kind="use")
    return transfer_id


def _owe(books: Books, wallet: Wallet, *, micro: int, now: int) -> None:
    changed = books.change(_OWE, id=wallet.id, micro=micro, now=now)
    assert changed == 1, "nobody pays back more than is owed"
    wallet.owed += micro
    wallet.last_at = now
