"""Credits that go from wallet to wallet: nothing is lost, doubled or made, not even a cent."""

from collections.abc import Callable

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlmodel import Session

from chat_app import migrations
from chat_app.credits import budgets, holds, ledger, lots, moves, operations, verify
from chat_app.credits.accounts import Owner, WalletClosed
from chat_app.db import Database
from chat_app.errors import AppError, OutOfCredits
from tests.credits.books import (
    ALICE,
    BOB,
    HOUR,
    NOON,
    SECOND,
    balance,
    credits,
    facts,
    fresh,
    grant,
    place,
)
from tests.credits.test_races import assert_sound, at_once

PAID = ("paid", "transfer")


def send(session: Session, amount: float, **more: object) -> moves.Moved:
    """From Alice to Bob, with a key of its own."""
    values: dict[str, object] = {
        "source": Owner("user", ALICE),
        "target": Owner("user", BOB),
        "code": moves.SENT,
        "now": NOON + 1,
        "scope": "test",
        "key": fresh(),
        "actor": "test",
        **more,
    }
    return moves.move(session, micro=credits(amount), **values)  # type: ignore[arg-type]


def rows(database: Database, query: str) -> list[tuple[object, ...]]:
    with database.read() as session:
        return [tuple(row) for row in session.execute(text(query))]


def test_price_and_end_go_along(database: Database) -> None:
    """Two lots give, the one that ends first in full; each part keeps its end and its price."""
    end = NOON + HOUR
    database.write(lambda s: grant(s, 10, price_minor=1000))
    database.write(lambda s: grant(s, 3, price_minor=100, expires_at=end))
    moved = database.write(lambda s: send(s, 7, description="a note"))
    assert (moved.micro, moved.balance_after, moved.replayed) == (credits(7), credits(6), False)
    assert (balance(database), balance(database, BOB)) == ((6, 0, 6), (7, 0, 7))
    came = rows(
        database,
        "SELECT granted, price_minor, expires_at, source, parent_lot_id FROM lot"
        " WHERE parent_lot_id IS NOT NULL ORDER BY id",
    )
    assert came == [
        (credits(3), 100, end, "transfer", 2),
        (credits(4), 400, None, "transfer", 1),
    ]
    for user, sign in ((ALICE, -1), (BOB, 1)):
        with database.read() as session:
            (row,), _ = ledger.transactions(session, user_id=user, type="transfer")
        assert (row.credits, row.description) == (sign * credits(7), "a note")
    database.write(lambda s: lots.expire_due(s, now=end))
    assert balance(database, BOB) == (4, 0, 4)
    assert_sound(database)


@pytest.mark.parametrize("price", [1, 7, 100, 9_999])
def test_no_minor_unit_is_lost_however_often_a_lot_is_split(
    sqlite_database: Database, price: int
) -> None:
    """G1 for moves: 37 parts go around among three people; all prices together stay the price."""
    database, people = sqlite_database, (1, 2, 3)
    database.write(lambda s: grant(s, 10, price_minor=price))
    for step in range(37):
        giver = max(people, key=lambda user: balance(database, user)[2])
        taker = people[(people.index(giver) + 1 + step % 2) % 3]
        amount = 0.000001 * (1 + (step * 77_777) % credits(balance(database, giver)[2]))
        database.write(
            lambda s, a=amount, g=giver, t=taker: send(
                s, a, source=Owner("user", g), target=Owner("user", t)
            )
        )
    whole = rows(database, "SELECT SUM(price_minor - recognized_minor), SUM(remaining) FROM lot")
    assert whole == [(price, credits(10))]
    assert_sound(database)
    for user in people:
        has = balance(database, user)[2]
        hold = database.write(lambda s, u=user, h=has: place(s, h, user=u, now=NOON + 2))
        database.write(lambda s, h=hold: holds.settle(s, hold_id=h.id, micro=h.micro, now=NOON + 3))
    earned = rows(database, "SELECT SUM(revenue_minor) FROM lot_use WHERE kind = 'use'")
    assert earned == [(price,)]
    assert_sound(database)


def test_held_credits_stay(database: Database) -> None:
    """And what they do not fill is all that can go."""
    database.write(lambda s: grant(s, 10))
    hold = database.write(lambda s: place(s, 6, now=NOON))
    with pytest.raises(OutOfCredits) as refused:
        database.write(lambda s: send(s, 5))
    assert refused.value.facts["available"] == "4"
    database.write(lambda s: send(s, 4))
    database.write(lambda s: holds.settle(s, hold_id=hold.id, micro=credits(6), now=NOON + 2))
    assert (balance(database), balance(database, BOB)) == ((0, 0, 0), (4, 0, 4))
    assert_sound(database)


def test_only_chosen_kinds_go(database: Database) -> None:
    """T34: welcome credits of a hundred accounts cannot be collected in one."""
    database.write(lambda s: grant(s, 100, source="welcome"))
    database.write(lambda s: grant(s, 5))
    with pytest.raises(moves.NotTransferable) as refused:
        database.write(lambda s: send(s, 6, kinds=PAID))
    assert (refused.value.facts["needed"], refused.value.facts["available"]) == ("6", "5")
    database.write(lambda s: send(s, 5, kinds=PAID))
    assert balance(database) == (100, 0, 100)
    with database.read() as session:
        assert moves.movable(session, user_id=ALICE, kinds=PAID, now=NOON) == 0
        assert moves.movable(session, user_id=BOB, kinds=PAID, now=NOON) == credits(5)
        assert moves.movable(session, user_id=BOB, kinds=None, now=NOON) == credits(5)
    assert_sound(database)


@pytest.mark.parametrize("step", [-1, 0, 1])
def test_what_has_ended_does_not_go(database: Database, step: int) -> None:
    """Exact to the microsecond."""
    database.write(lambda s: grant(s, 5, expires_at=NOON + SECOND))
    if step < 0:
        database.write(lambda s: send(s, 5, now=NOON + SECOND + step))
    else:
        with pytest.raises(OutOfCredits):
            database.write(lambda s: send(s, 5, now=NOON + SECOND + step))
    assert_sound(database)


def test_a_day_has_its_limit(database: Database) -> None:
    """The edge of the day, exact; a refusal counts nothing and is remembered under its key."""
    database.write(lambda s: grant(s, 100))
    day = budgets.day_of(NOON)
    database.write(lambda s: send(s, 6, day_limit=credits(10)))
    for _ in range(2):
        with pytest.raises(moves.DayLimit) as refused:
            database.write(lambda s: send(s, 5, day_limit=credits(10), key="too-much"))
        assert refused.value.facts["available"] == "4"
    database.write(lambda s: send(s, 4, day_limit=credits(10), now=day.ends_at - 1))
    with pytest.raises(moves.DayLimit):
        database.write(lambda s: send(s, 1, day_limit=credits(10), now=day.ends_at - 1))
    database.write(lambda s: send(s, 10, day_limit=credits(10), now=day.ends_at))
    assert balance(database, BOB) == (20, 0, 20)
    assert_sound(database)


def test_a_key_moves_once_and_belongs_to_one_move(database: Database) -> None:
    database.write(lambda s: grant(s, 10))
    first = database.write(lambda s: send(s, 3, key="k"))
    again = database.write(lambda s: send(s, 3, key="k", now=NOON + HOUR))
    assert (again.replayed, again.transfer_id) == (True, first.transfer_id)
    with pytest.raises(operations.IdempotencyConflict):
        database.write(lambda s: send(s, 4, key="k"))
    with pytest.raises(operations.IdempotencyConflict):
        database.write(lambda s: send(s, 3, key="k", target=Owner("user", 3)))
    assert balance(database, BOB) == (3, 0, 3)
    assert_sound(database)


def test_impossible_moves_change_nothing(database: Database) -> None:
    database.write(lambda s: grant(s, 10))
    with pytest.raises(moves.OwnWallet):
        database.write(lambda s: send(s, 1, target=Owner("user", ALICE)))
    for amount in (0, -1):
        with pytest.raises(moves.BadMove):
            database.write(lambda s, a=amount: send(s, a))
    database.write(lambda s: ledger.close(s, user_id=BOB, now=NOON))
    with pytest.raises(WalletClosed):
        database.write(lambda s: send(s, 1))
    assert balance(database) == (10, 0, 10)
    assert_sound(database)


def test_64_transfers_in_both_directions(database: Database) -> None:
    """Both wallets locked in one order: no deadlock, no overdraft, and the sum stays."""
    for user in (ALICE, BOB):
        database.write(lambda s, u=user: grant(s, 20, user=u, price_minor=333))

    def work(number: int) -> object:
        pair = (Owner("user", ALICE), Owner("user", BOB))
        source, target = pair if number % 2 else pair[::-1]
        return database.write(
            lambda s: send(s, 1 + number % 3, source=source, target=target, key=f"n{number}")
        )

    results = at_once(64, work)
    done = [result for result in results if isinstance(result, moves.Moved)]
    refused = [result for result in results if not isinstance(result, moves.Moved)]
    assert all(type(error) is OutOfCredits for error in refused), refused
    assert len(done) >= 40
    assert balance(database)[0] + balance(database, BOB)[0] == 40
    prices = rows(database, "SELECT SUM(price_minor - recognized_minor) FROM lot")
    assert prices == [(666,)]
    assert_sound(database)


def test_the_first_credits_of_both_come_at_once(database: Database) -> None:
    """Wallets that do not exist yet are opened in one order, too."""
    database.write(lambda s: grant(s, 50, user=9))

    def work(number: int) -> object:
        source, target = Owner("user", 9), Owner("user", 20 + number % 4)
        if number % 2:
            source, target = target, source
        return database.write(lambda s: send(s, 1, source=source, target=target, key=f"n{number}"))

    results = at_once(32, work)
    assert all(isinstance(result, (moves.Moved, OutOfCredits)) for result in results), results
    assert sum(balance(database, user)[0] for user in (9, 20, 21, 22, 23)) == 50
    assert_sound(database)


def test_verify_finds_a_lot_that_grew_on_its_way(sqlite_database: Database) -> None:
    database = sqlite_database
    database.write(lambda s: grant(s, 10, price_minor=1000))
    database.write(lambda s: send(s, 4, day_limit=credits(10)))
    for planted, rule in (
        ("UPDATE lot SET price_minor = price_minor + 1 WHERE parent_lot_id IS NOT NULL", "I6"),
        ("UPDATE lot SET expires_at = 1 WHERE parent_lot_id IS NULL", "I6"),
        ("UPDATE lot SET parent_lot_id = NULL WHERE parent_lot_id IS NOT NULL", "I6"),
        ("UPDATE budget SET used = used + 1", "I24"),
        ("UPDATE lot SET account_id = 1 WHERE parent_lot_id IS NOT NULL", "I10"),
    ):

        class Undo(AppError):
            pass

        def look(session: Session, planted: str = planted, rule: str = rule) -> None:
            session.execute(text(planted))
            assert rule in {problem.invariant for problem in verify.run(session)}, planted
            raise Undo

        with pytest.raises(Undo):
            database.write(look)
    assert_sound(database)


def test_usage_of_moved_credits_earns_their_price(database: Database) -> None:
    database.write(lambda s: grant(s, 10, price_minor=1000))
    database.write(lambda s: send(s, 4))
    hold = database.write(lambda s: place(s, 3, user=BOB, now=NOON + 2))
    database.write(
        lambda s: holds.settle(s, hold_id=hold.id, micro=credits(1), now=NOON + 3, usage=facts("r"))
    )
    assert rows(database, "SELECT SUM(revenue_minor) FROM lot_use WHERE kind = 'use'") == [(100,)]
    assert_sound(database)


def test_the_schema_goes_back_only_while_nothing_was_moved(database: Database) -> None:
    """Old data survives the way down and up; moved lots would not, so that is refused by name."""

    def travel(deed: Callable[[Config, str], None], revision: str) -> None:
        with database.engine.connect() as connection:
            if database.sqlite:
                connection.connection.driver_connection.execute("PRAGMA foreign_keys=OFF")  # type: ignore[union-attr]
            with connection.begin():
                deed(migrations.config(connection), revision)

    here = ScriptDirectory.from_config(migrations.config()).get_revision("0006")
    assert isinstance(here.down_revision, str)
    database.write(lambda s: grant(s, 10, price_minor=1000))
    hold = database.write(lambda s: place(s, 6))
    travel(command.downgrade, here.down_revision)
    travel(command.upgrade, "head")
    database.write(lambda s: holds.settle(s, hold_id=hold.id, micro=credits(2), now=NOON + 1))
    assert balance(database) == (8, 0, 8)
    assert_sound(database)
    database.write(lambda s: send(s, 4, now=NOON + 2))
    with pytest.raises(RuntimeError, match="1 moved lots and 0 wallets"):
        travel(command.downgrade, here.down_revision)
    assert balance(database, BOB) == (4, 0, 4)
    assert_sound(database)
