"""The proof of the books: the ledger against itself, and the seals over ledger and events.

It reads one snapshot, so it may run while others write. It repairs nothing.
"""

from chat_app.audit.seal import Problem
from chat_app.credits import verify
from chat_app.db import Database


def prove(db: Database, *, key: bytes) -> list[Problem]:
    """Every discrepancy there is, not only the first; empty when the books are right.

    `key` is the installation's audit key.
    """
    with db.read() as session:
        if not db.sqlite:
            # By default PostgreSQL looks anew with every statement; all checks see one moment.
            session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        return verify.run(session, audit_key=key)
