"""Checkpoints: what the system's accounts have taken and given, without adding up all of time.

Their balances are not kept with each transfer, because all writers would wait for one row. A
checkpoint is a cache: it can be deleted, and `verify` compares it with the transfers.
"""

from dataclasses import dataclass

from sqlmodel import Session

from chat_app.credits.sql import Books, Statement

_LOCK = Statement("LOCK TABLE transfer IN SHARE ROW EXCLUSIVE MODE")
_NEWEST = Statement("SELECT COALESCE(MAX(id), 0) FROM transfer")
_SYSTEM = Statement("SELECT id, code FROM account WHERE kind = 'system' ORDER BY id")
_LAST = Statement(
    """SELECT upto_transfer_id, debits, credits FROM balance_checkpoint
    WHERE account_id = :account_id ORDER BY upto_transfer_id DESC LIMIT 1"""
)
_SINCE = Statement(
    """SELECT COALESCE(SUM(debit), 0), COALESCE(SUM(credit), 0) FROM (
      SELECT amount AS debit, 0 AS credit FROM transfer
      WHERE debit_id = :account_id AND id > :after AND kind IN ('direct', 'post')
      UNION ALL
      SELECT 0, amount FROM transfer
      WHERE credit_id = :account_id AND id > :after AND kind IN ('direct', 'post')
    ) sides"""
)
_KEEP = Statement(
    """INSERT INTO balance_checkpoint (account_id, upto_transfer_id, debits, credits, created_at)
    VALUES (:account_id, :upto, :debits, :credits, :now) ON CONFLICT DO NOTHING"""
)


@dataclass(frozen=True)
class Turnover:
    """What left and what entered a system account since the beginning, in microcredits."""

    debits: int
    credits: int

    @property
    def balance(self) -> int:
        """What it has; below zero for the accounts that credits come from."""
        return self.credits - self.debits


def turnover(session: Session) -> dict[str, Turnover]:
    """The turnover of each system account, by its name: issued, promo, consumed, …"""
    books = Books(session)
    return {
        code.removeprefix("sys:"): _turnover(books, account_id)
        for account_id, code in books.rows(_SYSTEM)
    }


def take(session: Session, *, now: int) -> None:
    """Keep the turnovers up to now, so that the next sums are short."""
    books = Books(session)
    if not books.sqlite:
        # Ids are given out before the commit: no open transaction may still hold a lower one.
        books.change(_LOCK)
    newest = books.one(_NEWEST)
    assert newest is not None
    for account_id, _ in books.rows(_SYSTEM):
        found = _turnover(books, account_id)
        if newest[0]:
            books.change(
                _KEEP,
                account_id=account_id,
                upto=newest[0],
                debits=found.debits,
                credits=found.credits,
                now=now,
            )


def _turnover(books: Books, account_id: int) -> Turnover:
    after, debits, credits = books.one(_LAST, account_id=account_id) or (0, 0, 0)
    more = books.one(_SINCE, account_id=account_id, after=after)
    assert more is not None
    # Sums are decimals on PostgreSQL.
    return Turnover(int(debits + more[0]), int(credits + more[1]))
