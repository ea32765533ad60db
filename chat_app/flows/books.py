"""The proof of the books: the ledger against itself, and the seals over ledger and events.

It reads one snapshot, so it may run while others write. It repairs nothing.
"""

from dataclasses import dataclass
from typing import Any

from sqlmodel import Session

from chat_app.audit import seal
from chat_app.credits import verify
from chat_app.db import Database


@dataclass(frozen=True)
class Discrepancy:
    """Something in the books that cannot be. `invariant` is its name in docs/money.md."""

    invariant: str
    sentence: str
    facts: dict[str, Any]


def prove(db: Database, *, key: bytes) -> list[Discrepancy]:
    """Every discrepancy there is, not only the first; empty when the books are right.

    `key` is the installation's audit key.
    """
    with db.read() as session:
        if not db.sqlite:
            # The default of PostgreSQL looks anew with every statement and sees half a payment.
            session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        return _problems(session, key)


def _problems(session: Session, key: bytes) -> list[Discrepancy]:
    found = [*verify.run(session), *seal.verify(session, key=key)]
    return [
        Discrepancy(problem.invariant, problem.sentence, dict(problem.facts)) for problem in found
    ]
