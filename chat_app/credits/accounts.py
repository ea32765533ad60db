"""Accounts: a wallet for each user and organisation, and the system's on the other side.

Balances are kept on wallets only: a shared balance would put all writers in one line.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

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
_OPEN_POOL = Statement(
    """INSERT INTO account (ledger, code, kind, org_id, floor, created_at)
    VALUES ('CREDIT', :code, 'wallet', :org_id, 0, :now) ON CONFLICT (code) DO NOTHING"""
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


_MARK = Statement(
    """INSERT INTO wallet_change (account_id, marks) VALUES (:id, 1)
    ON CONFLICT (account_id) DO UPDATE SET marks = wallet_change.marks + 1"""
)


class WalletClosed(Conflict):
    """The wallet takes no new credits and places no holds."""

    code = "wallet_closed"
    message = "This wallet is closed. Ask an administrator to open a new account."


class Owner(NamedTuple):
    """Whom a wallet belongs to: a user, or an organisation and its members."""

    kind: Literal["user", "org"]
    id: int

    @property
    def code(self) -> str:
        """The code of the wallet."""
        return f"{self.kind}:{self.id}"


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


def find_pool(books: Books, *, org_id: int) -> Wallet | None:
    """The organisation's wallet for reading, or None if there is none yet."""
    row = books.one(_FIND, code=Owner("org", org_id).code)
    return Wallet(*row) if row else None


def lock(books: Books, *, user_id: int, now: int) -> Wallet:
    """The user's wallet for writing, opened when there is none."""
    return lock_of(books, Owner("user", user_id), now=now)


def lock_of(books: Books, owner: Owner, *, now: int) -> Wallet:
    """The owner's wallet for writing, opened when there is none."""
    row = books.one(_LOCK, code=owner.code)
    if row is None:
        _open(books, owner, now=now)
        row = books.one(_LOCK, code=owner.code)
    assert row is not None
    return Wallet(*row)


def lock_both(books: Books, one: Owner, other: Owner, *, now: int) -> tuple[Wallet, Wallet]:
    """Two wallets for writing, opened when there are none.

    They are opened by code and locked by id, so that two that want the same two never wait
    for each other.
    """
    ids = {}
    for owner in sorted((one, other)):
        row = books.one(_FIND, code=owner.code)
        if row is None:
            _open(books, owner, now=now)
            row = books.one(_FIND, code=owner.code)
        assert row is not None
        ids[owner] = row[0]
    locked = {id: lock_id(books, account_id=id) for id in sorted(ids.values())}
    return locked[ids[one]], locked[ids[other]]


def _open(books: Books, owner: Owner, *, now: int) -> None:
    for name in SYSTEM:
        books.change(_OPEN_SYSTEM, code=f"sys:{name}", now=now)
    if owner.kind == "org":
        books.change(_OPEN_POOL, code=owner.code, org_id=owner.id, now=now)
    else:
        books.change(_OPEN_WALLET, code=owner.code, user_id=owner.id, now=now)


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
    books.change(_MARK, id=wallet.id)
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
    if spent:
        books.change(_MARK, id=wallet.id)
    wallet.held -= held
    wallet.posted -= spent
    wallet.last_at = now


def close(books: Books, wallet: Wallet, *, now: int) -> bool:
    """Close the wallet; its credits stay where they are."""
    return books.change(_CLOSE, id=wallet.id, now=now) == 1
