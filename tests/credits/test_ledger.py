"""The ledger's face: grants, adjustments, balance and history; and what the database refuses."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError, IntegrityError

from chat_app.credits import holds, ledger, operations, verify
from chat_app.db import Database
from chat_app.errors import OutOfCredits
from chat_app.money import MAX_MICROCREDITS
from tests.credits.books import ALICE, BOB, NOON, SECOND, balance, credits, facts, grant, place


def test_a_grant_happens_once_for_its_key(database: Database) -> None:
    first = database.write(lambda session: grant(session, 10, key="k"))
    again = database.write(lambda session: grant(session, 10, key="k", now=NOON + SECOND))
    assert not first.replayed
    assert again.replayed
    assert (again.transfer_id, again.operation_id) == (first.transfer_id, first.operation_id)
    assert balance(database) == (10, 0, 10)
    with pytest.raises(operations.IdempotencyConflict):
        database.write(lambda session: grant(session, 11, key="k"))
    with pytest.raises(operations.IdempotencyConflict):
        database.write(lambda session: grant(session, 10, key="k", user=BOB))


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount": 0},
        {"amount": -1},
        {"amount": 10**13},
        {"source": "nowhere"},
        {"price_minor": -1},
        {"expires_at": NOON},
    ],
)
def test_impossible_grants_are_refused(sqlite_database: Database, wrong: dict[str, object]) -> None:
    values: dict[str, object] = {"amount": 1, **wrong}
    with pytest.raises(ledger.BadGrant):
        sqlite_database.write(lambda session: grant(session, **values))  # type: ignore[arg-type]
    assert balance(sqlite_database) == (0, 0, 0)


def test_a_wallet_never_overflows(database: Database) -> None:
    most = MAX_MICROCREDITS // 10**6
    database.write(lambda session: grant(session, most))
    with pytest.raises(ledger.BadGrant):
        database.write(lambda session: grant(session, most))


def test_an_adjustment_takes_only_what_is_not_held(database: Database) -> None:
    database.write(lambda session: grant(session, 10))
    database.write(lambda session: place(session, 6))

    def adjust(amount: float, key: str) -> ledger.Outcome:
        return database.write(
            lambda session: ledger.adjust(
                session,
                user_id=ALICE,
                micro=credits(amount),
                reason="a mistake",
                actor="user:9",
                now=NOON,
                scope="adjust",
                key=key,
            )
        )

    with pytest.raises(OutOfCredits) as refused:
        adjust(-4.000001, "a")
    assert refused.value.facts["available"] == "4"
    assert adjust(-4, "b").balance_after == credits(6)
    assert adjust(-4, "b").replayed
    assert adjust(2, "c").balance_after == credits(8)
    assert balance(database) == (8, 6, 2)
    with database.read() as session:
        assert verify.run(session) == []
        moves, _ = ledger.transactions(session, user_id=ALICE, type="adjustment")
    assert [(move.credits, move.description) for move in moves] == [
        (credits(2), "a mistake"),
        (credits(-4), "a mistake"),
    ]


def test_history_shows_movements_not_holds(database: Database) -> None:
    database.write(lambda session: grant(session, 10, source="welcome", description="Hello"))
    one = database.write(lambda session: place(session, 5, now=NOON + 1, reference="rep_1"))
    database.write(lambda session: place(session, 1, now=NOON + 2))
    gone = database.write(lambda session: place(session, 1, now=NOON + 3))
    database.write(lambda session: holds.release(session, hold_id=gone.id, now=NOON + 4))
    database.write(
        lambda session: holds.settle(
            session,
            hold_id=one.id,
            micro=credits(2.5),
            now=NOON + 5,
            usage=facts("rep_1", model="tiny"),
        )
    )
    database.write(lambda session: grant(session, 99, user=BOB))
    with database.read() as session:
        moves, cursor = ledger.transactions(session, user_id=ALICE)
    assert cursor is None
    shown = [
        (move.type, move.credits, move.balance_after, move.model, move.reply_id, move.created_at)
        for move in moves
    ]
    assert shown == [
        ("message", credits(-2.5), credits(7.5), "tiny", "rep_1", NOON + 5),
        ("welcome", credits(10), credits(10), None, None, NOON),
    ]


def test_history_in_pages_is_whole_and_in_order(database: Database) -> None:
    for step in range(7):
        database.write(lambda session, at=NOON + step: grant(session, 1, now=at))
    seen: list[int] = []
    cursor = None
    with database.read() as session:
        for _ in range(10):
            page, cursor = ledger.transactions(session, user_id=ALICE, limit=3, cursor=cursor)
            seen += [move.created_at - NOON for move in page]
            if cursor is None:
                break
        assert seen == [6, 5, 4, 3, 2, 1, 0]
        part, _ = ledger.transactions(session, user_id=ALICE, since=NOON + 2, until=NOON + 4)
        assert [move.created_at - NOON for move in part] == [3, 2]
        for wrong in ({"cursor": "x"}, {"cursor": "²"}, {"cursor": "9" * 30}, {"type": "hold"}):
            with pytest.raises(ledger.BadCursor):
                ledger.transactions(session, user_id=ALICE, **wrong)  # type: ignore[arg-type]
        assert ledger.transactions(session, user_id=77) == ([], None)


def test_ledger_time_never_goes_back(database: Database) -> None:
    """I12: a clock that is set back does not reorder the books."""
    database.write(lambda session: grant(session, 1, now=NOON))
    database.write(lambda session: grant(session, 1, now=NOON - 3600 * SECOND))
    with database.read() as session:
        moves, _ = ledger.transactions(session, user_id=ALICE)
        assert [move.created_at for move in moves] == [NOON, NOON]
        assert verify.run(session) == []


def test_credits_are_used_in_their_order_and_earn_their_price(database: Database) -> None:
    """Priority, then the earlier end, then free before paid, then the older lot."""
    end = NOON + 3600 * SECOND
    database.write(lambda session: grant(session, 1, price_minor=100))
    database.write(lambda session: grant(session, 1, source="promo"))
    database.write(lambda session: grant(session, 1, price_minor=100, expires_at=end))
    database.write(lambda session: grant(session, 1, source="promo", expires_at=end))
    database.write(lambda session: grant(session, 1, source="promo", expires_at=end - 1))
    database.write(lambda session: grant(session, 1, source="promo", priority=-1))
    for expected in (6, 5, 4, 3, 2, 1):
        hold = database.write(lambda session: place(session, 1))
        database.write(
            lambda session, name=hold.id: holds.settle(
                session, hold_id=name, micro=credits(1), now=NOON
            )
        )
        with database.read() as session:
            last = session.execute(
                text("SELECT lot_id FROM lot_use ORDER BY transfer_id DESC LIMIT 1")
            ).scalar_one()
        assert last == expected
    with database.read() as session:
        assert session.execute(text("SELECT SUM(recognized_minor) FROM lot")).scalar_one() == 200


def test_revenue_of_parts_never_drifts(database: Database) -> None:
    """1,100 credits for 100.00: 300, 400, 290 and 110 earn 27.27, 36.37, 26.36 and 10.00."""
    database.write(lambda session: grant(session, 1100, price_minor=10_000))
    for amount in (300, 400, 290, 110):
        hold = database.write(lambda session, some=amount: place(session, some))
        database.write(
            lambda session, name=hold.id, some=amount: holds.settle(
                session, hold_id=name, micro=credits(some), now=NOON
            )
        )
    with database.read() as session:
        earned = session.execute(text("SELECT revenue_minor FROM lot_use ORDER BY transfer_id"))
        assert list(earned.scalars()) == [2727, 3637, 2636, 1000]


@pytest.mark.parametrize("table", ["transfer", "operation", "lot_use", "usage"])
def test_the_books_cannot_be_changed(database: Database, table: str) -> None:
    """I13: UPDATE and DELETE are refused by triggers, on both databases."""
    database.write(lambda session: grant(session, 10))
    hold = database.write(lambda session: place(session, 5))
    database.write(
        lambda session: holds.settle(session, hold_id=hold.id, micro=1, now=NOON, usage=facts("r"))
    )
    column = "amount" if table in ("transfer", "lot_use") else "id"
    for statement in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}"):
        with pytest.raises(DatabaseError, match="append-only"):
            database.write(lambda session, text_=statement: session.execute(text(text_)))
    with database.read() as session:
        assert verify.run(session) == []


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("UPDATE account SET posted = -1 WHERE kind = 'wallet'", "ck_account_floor"),
        ("UPDATE account SET held = held + 20000000 WHERE kind = 'wallet'", "ck_account_floor"),
        ("UPDATE account SET held = -1 WHERE kind = 'wallet'", "ck_account_held"),
        ("UPDATE lot SET remaining = remaining + 1", "ck_lot_remaining"),
        ("UPDATE lot SET held = remaining + 1", "ck_lot_remaining"),
        ("UPDATE lot SET recognized_minor = price_minor + 1", "ck_lot_recognized_minor"),
        ("UPDATE hold SET settled = amount + 1", "ck_hold_settled"),
        ("UPDATE hold SET state = 'gone', resolved_at = 1", "ck_hold_state"),
    ],
)
def test_the_database_keeps_the_rules_itself(database: Database, statement: str, rule: str) -> None:
    database.write(lambda session: grant(session, 10))
    database.write(lambda session: place(session, 5))
    with pytest.raises(IntegrityError, match=rule):
        database.write(lambda session: session.execute(text(statement)))


@pytest.mark.parametrize("value", ["0.5", "'ten'", "1e300"])
def test_sqlite_stores_no_fractions(sqlite_database: Database, value: str) -> None:
    """A BIGINT column of SQLite would take any of these without a CHECK."""
    sqlite_database.write(lambda session: grant(session, 10))
    with pytest.raises(IntegrityError, match="CHECK"):
        sqlite_database.write(
            lambda session: session.execute(
                text(f"UPDATE account SET posted = {value} WHERE kind = 'wallet'")
            )
        )
