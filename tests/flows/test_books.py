"""The proof reads one snapshot: it is true while others write, and it finds what is wrong."""

import threading
from functools import partial
from itertools import count

import pytest
from sqlalchemy import text
from sqlmodel import Session

from chat_app.audit import seal
from chat_app.credits import holds, ledger
from chat_app.db import Database
from chat_app.flows import books
from chat_app.money import MICRO

KEY = b"k" * 32
NOW = 1_760_000_000_000_000


def spend(session: Session, *, user_id: int, number: int) -> None:
    """A grant, a hold and its settlement: rows in six tables at once."""
    names = {"scope": "test", "now": NOW + number}
    key = f"{user_id}-{number}"
    ledger.grant(
        session, user_id=user_id, micro=5 * MICRO, source="promo", key=f"g{key}", actor="t", **names
    )
    hold = holds.place(
        session,
        user_id=user_id,
        micro=2 * MICRO,
        ttl_seconds=600,
        key=f"h{key}",
        reference=key,
        **names,
    )
    holds.settle(session, hold_id=hold.id, micro=MICRO, now=NOW + number, usage=None)


def test_the_proof_holds_while_others_write(database: Database) -> None:
    """An operator proves the books of a busy server: nothing half done is reported."""
    ended = threading.Event()

    def write(user_id: int) -> None:
        for number in count(1):
            if ended.is_set():
                return
            database.write(partial(spend, user_id=user_id, number=number))

    writers = [threading.Thread(target=write, args=(user,)) for user in (1, 2, 3)]
    for writer in writers:
        writer.start()
    try:
        found = [problem for _ in range(12) for problem in books.prove(database, key=KEY)]
    finally:
        ended.set()
        for writer in writers:
            writer.join()
    assert found == []
    assert books.prove(database, key=KEY) == []


def test_another_key_breaks_the_seals(database: Database) -> None:
    database.write(lambda session: spend(session, user_id=1, number=1))
    database.write(lambda session: seal.seal(session, key=KEY, now=NOW + 10))
    assert books.prove(database, key=KEY) == []
    assert {problem.invariant for problem in books.prove(database, key=b"x" * 32)} == {"I14"}


@pytest.mark.parametrize("change", ["posted = posted + 1", "held = held + 1"])
def test_a_changed_balance_is_found(database: Database, change: str) -> None:
    database.write(lambda session: spend(session, user_id=1, number=1))
    database.write(
        lambda session: session.execute(text(f"UPDATE account SET {change} WHERE kind = 'wallet'"))
    )
    assert "I2" in {problem.invariant for problem in books.prove(database, key=KEY)}
