"""Accounts: a wallet for each user, and the system's accounts on the other side.

Balances are kept on wallets only: a shared balance would put all writers in one line.
"""

from dataclasses import dataclass

from chat_app.credits.sql import Books, Statement
from chat_app.errors import Conflict

# Where credits come from and where they go.
SYSTEM = ("issued", "promo", "adjusted", "consumed", "expired", "writeoff", "refunded")

_SELECT = "SELECT id, posted, held, floor, last_at, closed_at, owed FROM account "
_FIND = Statement(_SELECT + "WHERE code = :code")
_LOCK = Statement(_SELECT + "WHERE code = :code", lock=True)
_LOCK_ID = Statement(_SELECT + "WHERE id = :id", lock=True)
_OPEN_SYSTEM = Statement(
    """INSERT INTO account (ledger, code, kind, created_at)
    VALUES ('CREDIT', :code, 'system', :now) ON CONFLICT (code) DO NOTHING"""
)
_OPEN_WALLET = Statement(
    """INSERT INTO account (ledger, code, kind, user_id, floor, created_at)
    VALUES ('CREDIT', :code, 'wallet', :user_id, 0, :now) ON CONFLICT (code) DO NOTHING"""
)
_POST = Statement(
    """UPDATE account SET posted = posted + :micro, last_at = :now
    WHERE id = :id AND posted + :micro - held >= floor"""
)
_HOLD = Statement(
    """UPDATE account SET held = held + :micro, last_at = :now
    WHERE id = :id AND posted - held - :micro >= floor AND owed = 0"""
)
_RELEASE = Statement(
    """UPDATE account SET held = held - :held, posted = posted - :spent, last_at = :now
    WHERE id = :id AND held >= :held AND :spent <= :held"""
)
_CLOSE = Statement(
    "UPDATE account SET closed_at = :now, last_at = :now WHERE id = :id AND closed_at IS NULL"
)


class WalletClosed(Conflict):
    """The wallet takes no new credits and places no holds."""

    code = "wallet_closed"
    message = "This wallet is closed. Ask an administrator to open a new account."


@dataclass(slots=True)
class Wallet:
    """A wallet as it stands, in microcredits; locked until the transaction ends."""

    id: int
    posted: int
    held: int
    floor: int
    last_at: int
    closed_at: int | None
    owed: int = 0

    @property
    def available(self) -> int:
        """What can be spent or set aside."""
        return self.posted - self.held - self.floor

    def time(self, now: int) -> int:
        """The ledger's time: the clock's, but never before this wallet's newest change."""
        return max(now, self.last_at)


def code_of(user_id: int) -> str:
    """The code of the user's wallet."""
    return f"user:{user_id}"


def find(books: Books, *, user_id: int) -> Wallet | None:
    """The user's wallet for reading, or None if there is none yet."""
    row = books.one(_FIND, code=code_of(user_id))
    return Wallet(*row) if row else None


def lock(books: Books, *, user_id: int, now: int) -> Wallet:
    """The user's wallet for writing, opened when there is none."""
    row = books.one(_LOCK, code=code_of(user_id))
    if row is None:
        for name in SYSTEM:
            books.change(_OPEN_SYSTEM, code=f"sys:{name}", now=now)
        books.change(_OPEN_WALLET, code=code_of(user_id), user_id=user_id, now=now)
        row = books.one(_LOCK, code=code_of(user_id))
    assert row is not None
    return Wallet(*row)


def lock_id(books: Books, *, account_id: int) -> Wallet:
    """A wallet for writing, by its id."""
    row = books.one(_LOCK_ID, id=account_id)
    assert row is not None
    return Wallet(*row)


def refuse_closed(wallet: Wallet) -> None:
    """Raise WalletClosed for a closed wallet."""
    if wallet.closed_at is not None:
        raise WalletClosed


def post(books: Books, wallet: Wallet, *, micro: int, now: int) -> bool:
    """Add signed microcredits, if what is not held stays at or above the floor."""
    if books.change(_POST, id=wallet.id, micro=micro, now=now) != 1:
        return False
    wallet.posted += micro
    wallet.last_at = now
    return True


def hold(books: Books, wallet: Wallet, *, micro: int, now: int) -> bool:
    """Set microcredits aside, if they are there."""
    if books.change(_HOLD, id=wallet.id, micro=micro, now=now) != 1:
        return False
    wallet.held += micro
    wallet.last_at = now
    return True


def release(books: Books, wallet: Wallet, *, held: int, spent: int, now: int) -> None:
    """End a hold of `held` microcredits, of which `spent` leave the wallet."""
    changed = books.change(_RELEASE, id=wallet.id, held=held, spent=spent, now=now)
    assert changed == 1, "a hold is part of what its wallet holds"
    wallet.held -= held
    wallet.posted -= spent
    wallet.last_at = now


def close(books: Books, wallet: Wallet, *, now: int) -> bool:
    """Close the wallet; its credits stay where they are."""
    return books.change(_CLOSE, id=wallet.id, now=now) == 1
