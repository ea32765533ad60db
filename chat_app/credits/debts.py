"""Debts: credits that were spent and whose payment was taken back afterwards.

A debt is booked on an account of its own, never as a balance below zero: what a user owes and
what a user has are two figures. It blocks new holds, and the next credits that cost money pay it
first. An operator may forgive it: that is a loss, and it is never given back. Knows nothing of
payments.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import Session

from chat_app.credits import accounts, lots, operations, transfers
from chat_app.credits.accounts import Wallet
from chat_app.credits.lots import Lot
from chat_app.credits.sql import Books, Statement
from chat_app.errors import Conflict, Invalid
from chat_app.money import format_credits

_OPEN = Statement(
    """INSERT INTO account (ledger, code, kind, created_at)
    VALUES ('CREDIT', :code, 'system', :now) ON CONFLICT (code) DO NOTHING"""
)
_OWE = Statement(
    """UPDATE account SET owed = owed + :micro, last_at = :now
    WHERE id = :id AND owed + :micro >= 0"""
)
_OWING = Statement("SELECT user_id, owed FROM account WHERE owed > 0 ORDER BY id LIMIT :limit")
# The debts of a wallet with what nobody has let off of them yet, the newest first.
_STANDING = Statement(
    """SELECT t.id, t.reference, t.amount - COALESCE((
      SELECT SUM(c.amount) FROM transfer c
      WHERE c.cause_id = t.id AND c.code IN ('debt_cancelled', 'forgiveness')), 0) AS rest
    FROM account a JOIN transfer t ON t.debit_id = a.id AND t.code = 'debt'
    WHERE a.code = :code ORDER BY t.id DESC"""
)
_FORGIVEN = Statement(
    """SELECT COALESCE(SUM(amount), 0) FROM transfer
    WHERE cause_id = :debt_id AND code = 'forgiveness'"""
)


class NothingOwed(Conflict):
    """There is no debt to forgive."""

    code = "nothing_owed"
    message = "This account owes nothing. Reload to see how it stands."


class BadForgiveness(Invalid):
    """More than is owed, or nothing; `owed` says how much it is."""

    code = "bad_forgiveness"
    message = "Forgive more than nothing and at most what is owed. Choose another amount."


@dataclass(frozen=True)
class Forgiven:
    """What was forgiven and what is still owed after it, in microcredits."""

    micro: int
    owed: int
    replayed: bool = False


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


def forgive(
    session: Session,
    *,
    user_id: int,
    micro: int | None,
    reason: str,
    now: int,
    scope: str,
    key: str,
    actor: str,
) -> Forgiven:
    """Let somebody off `micro` of what they owe, or all of it, once for each (scope, key).

    The credits come into the wallet at the cost of the operator and pay the debt at once, so
    that a statement shows both. The newest debts go first: what was paid back paid the oldest.
    Raises NothingOwed, BadForgiveness, WalletClosed or IdempotencyConflict.
    """
    deed = operations.begin(
        session,
        scope=scope,
        key=key,
        actor=actor,
        request={"forgive": micro, "user": user_id, "reason": reason},
    )
    if deed.outcome is not None:
        return Forgiven(**deed.outcome, replayed=True)
    books = deed.books
    wallet = accounts.lock(books, user_id=user_id, now=now)
    accounts.refuse_closed(wallet)
    now = wallet.time(now)
    if not wallet.owed:
        raise NothingOwed
    micro = wallet.owed if micro is None else micro
    if not 0 < micro <= wallet.owed:
        raise BadForgiveness(owed=format_credits(wallet.owed))
    left, made = micro, []
    for debt_id, reference, rest in books.rows(_STANDING, code=code_of(wallet)):
        part = min(left, int(rest))
        if part:
            made.append(
                _forgive(
                    books,
                    wallet,
                    micro=part,
                    now=now,
                    cause_id=debt_id,
                    description=f"Debt forgiven: {reason}",
                    reference=reference,
                )
            )
        left -= part
    assert left == 0, "nobody owes more than the debts that stand"
    deed.keep({"micro": micro, "owed": wallet.owed}, now=now, transfer_id=made[0])
    return Forgiven(micro, wallet.owed)


def forgiven(books: Books, *, debt_id: int) -> int:
    """Microcredits of this debt that somebody was let off."""
    row = books.one(_FORGIVEN, debt_id=debt_id)
    assert row is not None
    return int(row[0])


def unforgive(
    books: Books, wallet: Wallet, *, micro: int, now: int, cause_id: int, reference: str | None
) -> int:
    """What was forgiven should never have been owed, so it was no loss; nothing is given back."""
    return transfers.between_system(
        books,
        code="writeoff_undone",
        debit="sys:refunded",
        credit="sys:writeoff",
        amount=micro,
        now=wallet.time(now),
        cause_id=cause_id,
        reference=reference,
    )


def owing(session: Session, *, limit: int = 500) -> list[tuple[int, int]]:
    """Users who owe, and how many microcredits; for operators."""
    return [(row[0], row[1]) for row in Books(session).rows(_OWING, limit=limit)]


def _forgive(
    books: Books,
    wallet: Wallet,
    *,
    micro: int,
    now: int,
    cause_id: int,
    description: str,
    reference: str | None,
) -> int:
    assert accounts.post(books, wallet, micro=micro, now=now), "adding never breaks the floor"
    transfer_id = transfers.into(
        books,
        code="forgiveness",
        wallet_id=wallet.id,
        system="writeoff",
        amount=micro,
        after=wallet.posted,
        now=now,
        cause_id=cause_id,
        description=description,
        reference=reference,
    )
    lot_id = lots.add(
        books,
        account_id=wallet.id,
        transfer_id=transfer_id,
        source="forgiven",
        priority=0,
        micro=micro,
        currency="USD",
        price_minor=0,
        expires_at=None,
        now=now,
    )
    repay_from(books, wallet, lot_id=lot_id, now=now, cause_id=transfer_id)
    return transfer_id


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
