"""Verify finds what was planted: one corruption for each rule, and names them all."""

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text

from chat_app.audit import log, seal
from chat_app.credits import checkpoints, holds, lots, verify
from chat_app.credits.payments import orders
from chat_app.db import Database
from chat_app.money import MICRO
from tests.credits.books import HOUR, NOON, SECOND, credits, facts, grant, place

KEY = b"k" * 32


def history(database: Database) -> None:
    """A bit of everything: ids are known because the database is fresh."""
    write = database.write
    write(lambda s: grant(s, 10, price_minor=1000))
    write(lambda s: grant(s, 10, source="promo", expires_at=NOON + 2 * HOUR))
    hold = write(lambda s: place(s, 12, now=NOON + 1, reference="rep_1"))
    write(
        lambda s: holds.settle(
            s, hold_id=hold.id, micro=credits(11), now=NOON + 2, usage=facts("rep_1")
        )
    )
    write(lambda s: place(s, 3, now=NOON + 3, ttl_seconds=86400))
    void = write(lambda s: place(s, 1, now=NOON + 4))
    write(lambda s: holds.release(s, hold_id=void.id, now=NOON + 5))
    late = write(lambda s: place(s, 4, now=NOON + 6, reference="rep_2"))
    write(lambda s: holds.sweep(s, now=NOON + HOUR))
    write(
        lambda s: holds.settle(
            s, hold_id=late.id, micro=credits(2), now=NOON + HOUR, usage=facts("rep_2")
        )
    )
    write(lambda s: grant(s, 5, user=2, source="promo", now=NOON, expires_at=NOON + SECOND))
    write(lambda s: lots.expire_due(s, now=NOON + SECOND))
    made = write(
        lambda s: orders.create(s, user_id=3, micro=100 * MICRO, now=NOON, scope="o", key="k")
    )
    write(lambda s: orders.fulfil(s, payment_id=made.id, now=NOON))
    write(lambda s: checkpoints.take(s, now=NOON))
    write(lambda s: log.record(s, type="test", actor="test", now=NOON, what="seal me"))


def plant(path: Path, script: str) -> None:
    """Write around every rule, as somebody with the file could."""
    connection = sqlite3.connect(path, isolation_level=None)
    triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    kept = triggers.fetchall()
    connection.execute("PRAGMA ignore_check_constraints = ON")
    connection.execute("PRAGMA foreign_keys = OFF")
    for name, _ in kept:
        connection.execute(f"DROP TRIGGER {name}")
    assert connection.executescript(script).rowcount != 0
    for _, sql in kept:
        connection.execute(sql)
    connection.close()


def rules(database: Database, **more: object) -> set[str]:
    with database.read() as session:
        found = verify.run(session, **more)  # type: ignore[arg-type]
    return {problem.invariant for problem in found}


def test_an_honest_history_has_no_problem(database: Database) -> None:
    history(database)
    database.write(lambda session: seal.seal(session, key=KEY, now=NOON))
    assert rules(database, audit_key=KEY) == set()


CORRUPTIONS = {
    "I1: a transfer to nowhere": "UPDATE transfer SET credit_id = 999 WHERE id = 4",
    "I1: two ledgers": "UPDATE account SET ledger = 'EUR' WHERE user_id = 1",
    "I2: a wallet is richer": "UPDATE account SET posted = posted + 1 WHERE user_id = 1",
    "I2: a wallet holds more": "UPDATE account SET held = held + 1 WHERE user_id = 1",
    "I2: a running balance": "UPDATE transfer SET debit_after = debit_after + 1 WHERE id = 4",
    "I2: a checkpoint": "UPDATE balance_checkpoint SET debits = debits + 1",
    "I3: below the floor": "UPDATE account SET posted = -1 WHERE user_id = 2",
    "I3: no floor": "UPDATE account SET floor = NULL WHERE user_id = 2",
    "I4: charged more than held": "UPDATE transfer SET amount = 12000001 WHERE id = 4",
    "I4: another amount on the hold": "UPDATE hold SET amount = amount + 1 WHERE id = 3",
    "I4: open although settled": "UPDATE hold SET state = 'open' WHERE id = 3",
    "I4: resolves a direct one": "UPDATE transfer SET pending_id = 1 WHERE id = 4",
    "I5: a lot has more": "UPDATE lot SET remaining = remaining + 1 WHERE id = 1",
    "I5: a lot holds more": "UPDATE lot SET held = held + 1 WHERE id = 1",
    "I5: a pin is smaller": "UPDATE hold_lot SET amount = amount - 1 WHERE hold_id = 5",
    "I6: a use is gone": "DELETE FROM lot_use WHERE transfer_id = 4 AND lot_id = 1",
    "I6: a use is smaller": "UPDATE lot_use SET amount = amount - 1 WHERE transfer_id = 4",
    "I7: earned too much": "UPDATE lot SET recognized_minor = price_minor + 1 WHERE id = 1",
    "I7: used up, not earned": "UPDATE lot SET remaining = 0, granted = 1 WHERE id = 1",
    "I9: a key is forgotten": "DELETE FROM operation WHERE transfer_id = 1",
    "I10: refused, but moved": "UPDATE operation SET status = 'refused' WHERE transfer_id = 1",
    "I10: half a grant": "DELETE FROM lot WHERE id = 2",
    "I10: half a hold": "DELETE FROM hold WHERE id = 5",
    "I11: settled after the end": f"UPDATE hold SET expires_at = {NOON} WHERE id = 3",
    "I11: used after the end": f"UPDATE lot SET expires_at = {NOON} WHERE id = 2",
    "I12: time goes back": f"UPDATE transfer SET created_at = {NOON} - 1 WHERE id = 4",
    "I12: wallet behind": f"UPDATE account SET last_at = {NOON} WHERE user_id = 1",
    "I13: the tail is cut off": "DELETE FROM transfer WHERE id = (SELECT MAX(id) FROM transfer)",
    "I13: an event is gone": "DELETE FROM event_log",
    "I13: another description": "UPDATE transfer SET description = 'nothing' WHERE id = 1",
    "I13: another actor": "UPDATE event_log SET actor = 'me'",
    "I14: a seal is gone": "DELETE FROM event_seal WHERE stream = 'event'",
    "I15: a cost is smaller": "UPDATE usage SET cost = cost - 1 WHERE reply_id = 'rep_1'",
    "I15: another's usage": "UPDATE usage SET account_id = 999 WHERE reply_id = 'rep_1'",
    "I17: paid for more": "UPDATE payment SET credits = credits + 1",
}


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_a_planted_corruption_is_found(sqlite_database: Database, name: str) -> None:
    history(sqlite_database)
    sqlite_database.write(lambda session: seal.seal(session, key=KEY, now=NOON))
    with sqlite_database.read() as session:
        published = [seal.head(session)]
    plant(Path(str(sqlite_database.engine.url.database)), CORRUPTIONS[name])
    assert name.partition(":")[0] in rules(sqlite_database, audit_key=KEY, published=published)


def test_an_overdue_hold_is_a_problem_only_after_the_sweep(sqlite_database: Database) -> None:
    """I11: what the sweeper must have ended."""
    sqlite_database.write(lambda session: grant(session, 10))
    hold = sqlite_database.write(lambda session: place(session, 1))
    last = hold.expires_at + verify.SWEEP_GRACE
    assert rules(sqlite_database, now=last) == set()
    assert rules(sqlite_database, now=last + 1) == {"I11"}


def test_a_missing_trigger_is_a_problem(database: Database) -> None:
    """I13."""
    place_ = "" if database.sqlite else " ON lot_use"
    with database.engine.begin() as connection:
        connection.execute(text(f"DROP TRIGGER lot_use_no_delete{place_}"))
    assert rules(database) == {"I13"}


def test_every_discrepancy_is_named(sqlite_database: Database) -> None:
    """Not the first alone: all of them, with where they are."""
    history(sqlite_database)
    path = Path(str(sqlite_database.engine.url.database))
    plant(path, "UPDATE account SET posted = posted + 1 WHERE kind = 'wallet'")
    plant(path, "UPDATE usage SET cost = cost + 1")
    with sqlite_database.read() as session:
        found = verify.run(session)
    wallets = [p.facts["account"] for p in found if "wallet's balance" in p.sentence]
    assert len(wallets) == 3
    assert sorted(p.facts["reply"] for p in found if "cost is not" in p.sentence) == [
        "rep_1",
        "rep_2",
    ]


def test_the_queries_find_it_on_both_databases(database: Database) -> None:
    history(database)
    database.write(
        lambda session: session.execute(
            text("UPDATE lot SET remaining = remaining - 1 WHERE id = 1")
        )
    )
    assert rules(database) == {"I5", "I6"}
