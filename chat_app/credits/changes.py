"""Changes: whose balance has changed, for jobs that look after the commit.

`accounts` marks a wallet in the transaction that changes it. A job takes the marked ones,
looks, and clears each mark if nothing was added to it meanwhile, so no change is missed.
"""

from dataclasses import dataclass

from sqlmodel import Session

from chat_app.credits.sql import Books, Statement

_CHANGED = Statement(
    """SELECT c.account_id, c.marks, a.user_id, a.posted, a.held FROM wallet_change c
    JOIN account a ON a.id = c.account_id
    WHERE c.account_id > :after ORDER BY c.account_id LIMIT :limit"""
)
_MARK = Statement(
    """INSERT INTO wallet_change (account_id, marks)
    SELECT id, 1 FROM account WHERE user_id = :user_id
    ON CONFLICT (account_id) DO UPDATE SET marks = wallet_change.marks + 1"""
)
_CLEAR = Statement("DELETE FROM wallet_change WHERE account_id = :account_id AND marks = :marks")


@dataclass(frozen=True)
class Change:
    """A wallet to look at; `total` and `held` are microcredits."""

    account_id: int
    marks: int
    user_id: int | None
    total: int
    held: int


def take(session: Session, *, after: int = 0, limit: int = 500) -> list[Change]:
    """Marked wallets behind account `after`, in the order of their ids."""
    rows = Books(session).rows(_CHANGED, after=after, limit=limit)
    return [Change(*row) for row in rows]


def mark(session: Session, *, user_id: int) -> None:
    """Have the user's wallet looked at again, although its balance is the same."""
    Books(session).change(_MARK, user_id=user_id)


def clear(session: Session, change: Change) -> bool:
    """The wallet was looked at; False if its balance has changed again since."""
    done = Books(session).change(_CLEAR, account_id=change.account_id, marks=change.marks)
    return bool(done)
