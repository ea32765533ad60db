"""Refunds, chargebacks and debts on the side of the credits; the model plays them at random."""

import pytest
from alembic import command
from sqlalchemy import text
from sqlmodel import Session

from chat_app import db as database_room
from chat_app import migrations
from chat_app.credits import debts, holds, ledger, moves, refunds, verify
from chat_app.credits.accounts import Owner
from chat_app.credits.debts import Forgiven
from chat_app.credits.refunds import Taken
from chat_app.db import Database
from chat_app.errors import OutOfCredits
from tests.credits.books import ALICE, BOB, HOUR, NOON, balance, credits, fresh, grant, place

BACK = {"actor": "test", "reference": "pay_1", "description": "test"}


def refund(session: Session, *grants: int, minor: int | None = None, now: int = NOON) -> Taken:
    return refunds.refund(
        session, user_id=ALICE, grants=grants, minor=minor, now=now, scope="r", key=fresh(), **BACK
    )


def charge_back(session: Session, *grants: int, now: int = NOON) -> Taken:
    return refunds.charge_back(
        session, user_id=ALICE, grants=grants, now=now, scope="c", key=fresh(), **BACK
    )


def owed(database: Database) -> float:
    with database.read() as session:
        assert verify.run(session) == []
        return ledger.balance(session, user_id=ALICE).debt / credits(1)


def spend(session: Session, amount: float) -> None:
    hold = place(session, amount)
    holds.settle(session, hold_id=hold.id, micro=credits(amount), now=NOON)


@pytest.mark.parametrize("parts", [[333, 333, 334], [1] * 7 + [993], [999, 1], [500, 500]])
def test_parts_of_a_refund_add_up_to_the_cent(database: Database, parts: list[int]) -> None:
    """Three credits for 10.00: whatever the parts, all of the money and all credits, no more."""

    def story(session: Session) -> tuple[int, int]:
        bought = grant(session, 3, price_minor=1000).transfer_id
        taken = [refund(session, bought, minor=part) for part in parts]
        return sum(one.minor for one in taken), sum(one.micro for one in taken)

    assert database.write(story) == (1000, credits(3))
    assert balance(database) == (0, 0, 0)
    assert owed(database) == 0


def test_held_spent_free_and_other_credits_are_not_refunded(database: Database) -> None:
    """T29: only what is unused of this order; gifts and other orders stay."""

    def story(session: Session) -> Taken:
        bought = grant(session, 100, price_minor=1000).transfer_id
        spend(session, 30)
        place(session, 20)
        grant(session, 7, source="bonus")
        grant(session, 100, price_minor=500)
        return refund(session, bought)

    taken = database.write(story)
    assert (taken.micro, taken.minor) == (credits(50), 500)
    assert balance(database) == (127, 20, 107)
    assert owed(database) == 0


def test_what_has_ended_is_not_refunded(database: Database) -> None:
    """Exact at the microsecond: at its end a lot is worth nothing any more."""

    def story(session: Session, now: int) -> Taken:
        bought = grant(session, 10, price_minor=1000, expires_at=NOON + HOUR).transfer_id
        return refund(session, bought, now=now)

    assert database.write(lambda session: story(session, NOON + HOUR - 1)).minor == 1000
    with pytest.raises(refunds.NothingToRefund):
        database.write(lambda session: story(session, NOON + HOUR))
    assert owed(database) == 0


def test_expired_and_adjusted_credits_are_owed_by_nobody(database: Database) -> None:
    """A chargeback makes a debt of what was used, not of what the buyer never had."""

    def story(session: Session) -> Taken:
        bought = grant(session, 100, price_minor=1000, expires_at=NOON + HOUR).transfer_id
        spend(session, 10)
        ledger.adjust(
            session, user_id=ALICE, micro=-credits(5), reason="test", actor="t", now=NOON,
            scope="t", key="t",
        )  # fmt: skip
        return charge_back(session, bought, now=NOON + HOUR)

    taken = database.write(story)
    assert (taken.micro, taken.owed) == (0, credits(10))
    assert balance(database) == (0, 0, 0)
    assert owed(database) == 10


def test_a_debt_blocks_until_it_is_paid_and_gifts_do_not_pay_it(database: Database) -> None:
    """T29: not one credit of a hold, not even a hold of nothing."""

    def story(session: Session) -> None:
        bought = grant(session, 100, price_minor=1000).transfer_id
        spend(session, 60)
        charge_back(session, bought)
        grant(session, 500, source="bonus")

    database.write(story)
    assert owed(database) == 60
    for amount in (1, 0):
        with pytest.raises(holds.DebtUnpaid) as blocked:
            database.write(lambda session, amount=amount: place(session, amount))
        assert blocked.value.facts["reason"] == "debt"
        assert (blocked.value.facts["needed"], blocked.value.facts["debt"]) == ("60", "60")
    assert isinstance(blocked.value, OutOfCredits)
    database.write(lambda session: grant(session, 20, price_minor=100))
    assert (owed(database), balance(database)[0]) == (40, 500)
    database.write(lambda session: grant(session, 50, price_minor=100))
    assert (owed(database), balance(database)[0]) == (0, 510)
    database.write(lambda session: place(session, 1))
    with database.read() as session:
        moves, _ = ledger.transactions(session, user_id=ALICE)
    assert [move.type for move in moves][:2] == ["repayment", "purchase"]


def test_what_was_moved_is_owed_and_not_refunded(database: Database) -> None:
    """T29: it is somebody else's now. A refund takes what is left in the order's own lot, also
    when some of it came back; a chargeback makes a debt of the rest, and the receiver keeps his.
    """

    def story(session: Session) -> int:
        bought = grant(session, 100, price_minor=1000).transfer_id
        hand_on(session, ALICE, BOB, 60)
        hand_on(session, BOB, ALICE, 10)
        assert refunds.refundable(session, user_id=ALICE, grants=[bought]) == (credits(40), 400)
        return bought

    bought = database.write(story)
    part = database.write(lambda session: refund(session, bought, minor=100))
    assert (part.micro, balance(database)[0]) == (credits(10), 40)
    taken = database.write(lambda session: charge_back(session, bought))
    assert (taken.micro, taken.minor, taken.owed) == (credits(30), 300, credits(60))
    assert (balance(database), balance(database, BOB)) == ((10, 0, 10), (50, 0, 50))
    assert owed(database) == 60


def test_who_owes_gives_nothing_away_and_a_pool_pays_all_the_same(database: Database) -> None:
    """A debt is the user's: it stops the user's own payments, and nobody else's."""
    pool = Owner("org", 7)

    def story(session: Session) -> None:
        hand_on(session, BOB, pool, 50)
        bought = grant(session, 100, price_minor=1000).transfer_id
        spend(session, 60)
        charge_back(session, bought)
        grant(session, 500, source="bonus")

    database.write(lambda session: grant(session, 50, user=BOB, price_minor=500))
    database.write(story)
    for target in (BOB, pool):
        with pytest.raises(holds.DebtUnpaid) as refused:
            database.write(lambda session, target=target: hand_on(session, ALICE, target, 1))
        assert (refused.value.facts["available"], refused.value.facts["debt"]) == ("500", "60")
    with pytest.raises(holds.DebtUnpaid):
        database.write(lambda session: place(session, 1))
    hold = database.write(
        lambda session: place(session, 5, org_id=7, limit_micro=credits(20), now=NOON + 1)
    )
    database.write(
        lambda session: holds.settle(session, hold_id=hold.id, micro=credits(4), now=NOON + 2)
    )
    assert (owed(database), balance(database)[0]) == (60, 500)


def test_a_forgiven_debt_lets_go_on_and_stands_in_the_statement(database: Database) -> None:
    """T4: no clamp. A part, then the rest; the credits come in as a loss and pay at once."""

    def story(session: Session) -> None:
        bought = grant(session, 100, price_minor=1000).transfer_id
        spend(session, 60)
        charge_back(session, bought)
        grant(session, 5, source="bonus")

    database.write(story)
    key = fresh()
    for replayed in (False, True):
        done = database.write(lambda session: forgive(session, 25, key=key))
        assert done == Forgiven(credits(25), credits(35), replayed)
    for wrong in (0, -1, 36):
        with pytest.raises(debts.BadForgiveness) as refused:
            database.write(lambda session, wrong=wrong: forgive(session, wrong))
        assert refused.value.facts["owed"] == "35"
    assert owed(database) == 35
    with pytest.raises(holds.DebtUnpaid):
        database.write(lambda session: place(session, 1))
    assert database.write(lambda session: forgive(session, None)) == Forgiven(credits(35), 0)
    assert (owed(database), balance(database)) == (0, (5, 0, 5))
    database.write(lambda session: place(session, 1))
    with pytest.raises(debts.NothingOwed):
        database.write(lambda session: forgive(session, None))
    with database.read() as session:
        shown, _ = ledger.transactions(session, user_id=ALICE)
    assert [(move.type, move.credits / credits(1)) for move in shown][:4] == [
        ("repayment", -35), ("forgiveness", 35), ("repayment", -25), ("forgiveness", 25),
    ]  # fmt: skip
    assert (shown[1].description, shown[1].reference) == ("Debt forgiven: mercy", "pay_1")


def test_what_was_forgiven_never_comes_back(database: Database) -> None:
    """T29: of 60 spent, 20 were paid and 30 forgiven: who wins gets the 20 and what was taken."""

    def story(session: Session) -> refunds.Returned:
        bought = grant(session, 100, price_minor=1000).transfer_id
        spend(session, 60)
        taken = charge_back(session, bought)
        grant(session, 20, price_minor=200)
        forgive(session, 30)
        return give_back(session, taken)

    found = database.write(story)
    assert (found.micro, found.cancelled, found.forgiven) == (credits(60), credits(10), credits(30))
    assert (owed(database), balance(database)) == (0, (60, 0, 60))


@pytest.mark.parametrize("first", [0, 1])
def test_forgiving_takes_the_debt_that_nobody_paid(database: Database, first: int) -> None:
    """Two disputes: what paid the older one comes back with it, whichever is won first."""

    def story(session: Session) -> list[float]:
        older = grant(session, 60, price_minor=600).transfer_id
        spend(session, 60)
        taken = [charge_back(session, older)]
        grant(session, 60, price_minor=600)
        newer = grant(session, 40, price_minor=400).transfer_id
        spend(session, 40)
        taken.append(charge_back(session, newer))
        forgive(session, None)
        won = [give_back(session, taken[at]).micro / credits(1) for at in (first, 1 - first)]
        return won if first == 0 else won[::-1]

    assert database.write(story) == [60, 0]
    assert (owed(database), balance(database)[0]) == (0, 60)


def test_the_books_notice_a_gift_that_calls_itself_forgiveness(database: Database) -> None:
    """What is forgiven pays a debt, and never more than there was."""

    def story(session: Session) -> None:
        bought = grant(session, 10, price_minor=100).transfer_id
        spend(session, 4)
        charge_back(session, bought)
        session.execute(
            text(
                """INSERT INTO transfer (kind, code, debit_id, credit_id, amount, cause_id,
                 created_at) SELECT 'direct', 'forgiveness', d.id, c.id, 4000001, t.id, :now
                FROM account d, account c, transfer t
                WHERE d.code = 'sys:writeoff' AND c.code = 'sys:promo' AND t.code = 'debt'"""
            ),
            {"now": NOON},
        )

    database.write(story)
    with database.read() as session:
        sentences = {problem.sentence for problem in verify.run(session)}
    assert sentences == {
        "Somebody was let off more of a debt than it was.",
        "What was forgiven did not pay a debt.",
    }


def forgive(session: Session, amount: float | None, *, key: str = "") -> Forgiven:
    return debts.forgive(
        session, user_id=ALICE, micro=None if amount is None else credits(amount), reason="mercy",
        now=NOON, scope="f", key=key or fresh(), actor="test",
    )  # fmt: skip


def give_back(session: Session, taken: Taken) -> refunds.Returned:
    return refunds.give_back(
        session, user_id=ALICE, taken=taken, currency="USD", expires_at=None, now=NOON, scope="g",
        key=fresh(), **BACK,
    )  # fmt: skip


def hand_on(session: Session, source: int, target: int | Owner, amount: float) -> None:
    """To another wallet."""
    moves.move(
        session,
        source=Owner("user", source),
        target=target if isinstance(target, Owner) else Owner("user", target),
        micro=credits(amount),
        code="transfer",
        now=NOON,
        scope="test",
        key=fresh(),
        actor="test",
    )


def test_the_books_notice_a_debt_that_nobody_booked(database: Database) -> None:
    database.write(lambda session: grant(session, 1))
    database.write(
        lambda session: session.execute(text("UPDATE account SET owed = 5 WHERE kind = 'wallet'"))
    )
    with database.read() as session:
        (problem,) = verify.run(session)
    assert (problem.invariant, problem.facts["stored"], problem.facts["rebuilt"]) == ("I2", 5, 0)


def test_nobody_pays_back_what_is_not_owed(database: Database) -> None:
    def story(session: Session) -> int:
        bought = grant(session, 5, price_minor=10).transfer_id
        return debts.collect(session, user_id=ALICE, grants=[bought], now=NOON)

    assert database.write(story) == 0
    assert balance(database) == (5, 0, 5)


@pytest.mark.parametrize(
    "backend", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
)
def test_the_migration_goes_down_and_up_with_refunds_in_it(
    backend: str, request: pytest.FixtureRequest
) -> None:
    """Rows of the kinds that are new live on in the older schema, and nothing is lost."""
    if backend == "sqlite":
        database = request.getfixturevalue("sqlite_database")
    else:
        database = Database(request.getfixturevalue("postgres_url"))

    def story(session: Session) -> None:
        bought = grant(session, 10, price_minor=100).transfer_id
        refund(session, bought, minor=50)
        spend(session, 1)
        charge_back(session, bought)

    database.write(story)
    with database.engine.connect() as connection:
        if database.sqlite:
            connection.connection.driver_connection.execute("PRAGMA foreign_keys=OFF")
        with connection.begin():
            command.downgrade(migrations.config(connection), "0002")
    with database.engine.connect() as connection:
        kinds = connection.execute(text("SELECT kind FROM lot_use ORDER BY transfer_id")).scalars()
        assert list(kinds) == ["adjust", "use", "adjust"]
    database_room.migrate(database)
    assert database_room.schema_is_current(database)
    assert balance(database) == (0, 0, 0)
    assert owed(database) == 1
    if backend == "postgres":
        database.close()
