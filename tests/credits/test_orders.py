"""Packages and orders: priced once, paid once, granted once."""

import threading

import pytest
from sqlalchemy import text

from chat_app.credits import ledger, operations, packages, verify
from chat_app.credits.payments import offline, orders
from chat_app.credits.payments.orders import Payment
from chat_app.db import Database
from chat_app.money import MICRO, Money
from tests.credits.books import ALICE, BOB, NOON, balance, credits


@pytest.fixture(autouse=True)
def _shop(database: Database) -> None:
    for _ in range(2):
        database.write(lambda session: packages.seed(session, now=NOON))


def order(database: Database, key: str = "k", **what: object) -> Payment:
    return database.write(
        lambda session: orders.create(
            session,
            user_id=ALICE,
            now=NOON,
            scope="order:1",
            key=key,
            **what,  # type: ignore[arg-type]
        )
    )


def test_the_shop_has_three_packages(database: Database) -> None:
    with database.read() as session:
        found = packages.list_packages(session)
    assert [package.code for package in found] == ["starter", "standard", "pro"]
    assert found[1].price == Money(2000)
    assert (found[1].credits, found[1].bonus_credits) == (2000 * MICRO, 200 * MICRO)


def test_a_package_is_one_lot_and_its_price_covers_the_bonus(database: Database) -> None:
    made = order(database, package_code="standard")
    assert (made.status, made.amount_minor) == ("pending", 2000)
    assert balance(database) == (0, 0, 0)
    paid = database.write(
        lambda session: offline.confirm(session, user_id=ALICE, payment_id=made.id, now=NOON)
    )
    assert (paid.status, paid.replayed) == ("paid", False)
    assert balance(database) == (2200, 0, 2200)
    with database.read() as session:
        moves, _ = ledger.transactions(session, user_id=ALICE)
        lots = session.execute(text("SELECT granted, price_minor FROM lot")).all()
        assert verify.run(session) == []
        assert orders.list_for(session, user_id=ALICE)[0].id == made.id
        assert orders.list_for(session, user_id=BOB) == []
    assert [tuple(lot) for lot in lots] == [(credits(2200), 2000)]
    assert [(move.type, move.reference, move.description) for move in moves] == [
        ("purchase", made.id, "2,000 + 200 bonus credits for 20.00 USD")
    ]


def test_the_same_key_orders_once(database: Database) -> None:
    first = order(database, package_code="starter")
    assert order(database, package_code="starter").id == first.id
    assert order(database, package_code="starter").replayed
    with pytest.raises(operations.IdempotencyConflict):
        order(database, package_code="pro")


def test_ten_announcements_of_one_payment_grant_once(database: Database) -> None:
    """T28: the grant and the order's status are one transaction, whoever comes first."""
    made = order(database, package_code="starter")
    results: list[Payment] = []

    def announce() -> None:
        results.append(
            database.write(lambda session: orders.fulfil(session, payment_id=made.id, now=NOON + 1))
        )

    crowd = [threading.Thread(target=announce) for _ in range(10)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert sorted(result.replayed for result in results) == [False] + [True] * 9
    assert balance(database) == (500, 0, 500)


def test_orders_belong_to_a_user_and_a_provider(database: Database) -> None:
    """T27: another user or another provider finds nothing."""
    made = order(database, package_code="starter", provider="other")
    for user in (ALICE, BOB):
        with pytest.raises(orders.UnknownPayment):
            database.write(
                lambda session, who=user: offline.confirm(
                    session, user_id=who, payment_id=made.id, now=NOON
                )
            )
    with pytest.raises(orders.UnknownPayment):
        database.write(lambda session: orders.fulfil(session, payment_id="pay_x", now=NOON))


@pytest.mark.parametrize(
    ("micro", "cents"), [(100 * MICRO, 100), (101 * MICRO, 101), (1_000_000 * MICRO, 1_000_000)]
)
def test_a_custom_amount_has_the_list_price(database: Database, micro: int, cents: int) -> None:
    assert order(database, micro=micro).amount_minor == cents


@pytest.mark.parametrize("micro", [0, -100 * MICRO, 99 * MICRO, 100 * MICRO + 1, 10**13])
def test_amounts_out_of_range_are_refused(database: Database, micro: int) -> None:
    with pytest.raises(packages.BadAmount):
        order(database, micro=micro)


def test_an_order_is_for_one_thing_that_is_sold(database: Database) -> None:
    with pytest.raises(orders.BadOrder):
        order(database)
    with pytest.raises(orders.BadOrder):
        order(database, package_code="starter", micro=100 * MICRO)
    with pytest.raises(packages.UnknownPackage):
        order(database, package_code="gold")
