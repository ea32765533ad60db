"""Automatic top-ups: one order for one trigger, bounded by the day, the burst and a decline."""

from datetime import UTC

import pytest
from sqlalchemy import text
from sqlmodel import Session

from chat_app.credits import holds, packages, topups
from chat_app.credits.payments import orders
from chat_app.credits.payments.orders import Payment
from chat_app.credits.renewals import Shop
from chat_app.db import Database
from chat_app.money import MICRO, Money
from chat_app.settings import Credits as Rules
from tests.credits.books import ALICE, BOB, HOUR, NOON, balance, credits, grant, place
from tests.credits.test_races import assert_sound, at_once

SHOP = Shop(Rules(), UTC)
MINUTE = HOUR // 60


@pytest.fixture(autouse=True)
def _shop(database: Database) -> None:
    database.write(lambda session: packages.seed(session, now=NOON))


def rule(
    database: Database, threshold: float = 20, package: str = "starter", per_day: int = 9
) -> None:
    database.write(
        lambda s: topups.put(
            s, user_id=ALICE, threshold=credits(threshold), package_code=package,
            per_day=per_day, now=NOON,
        )
    )  # fmt: skip


def fire(database: Database, now: int = NOON, shop: Shop = SHOP) -> Payment | None:
    return database.write(lambda s: topups.fire(s, shop, user_id=ALICE, now=now))


def spend(database: Database, amount: float, now: int = NOON) -> None:
    hold = database.write(lambda s: place(s, amount, now=now))
    database.write(lambda s: holds.settle(s, hold_id=hold.id, micro=credits(amount), now=now))


def declines(session: Session, payment: Payment, now: int) -> Payment:
    orders.fail(session, payment_id=payment.id, now=now)
    return orders.get(session, user_id=payment.user_id, payment_id=payment.id)


def test_it_buys_below_the_threshold_and_not_at_it(database: Database) -> None:
    database.write(lambda session: grant(session, 20))
    rule(database)
    assert fire(database) is None
    spend(database, 0.000001)
    bought = fire(database)
    assert bought is not None
    assert (bought.status, bought.package_code) == ("paid", "starter")
    assert fire(database) is None
    assert balance(database)[0] == pytest.approx(519.999999)
    with database.read() as session:
        assert topups.low(session, now=NOON) == []


def test_however_many_see_it_there_is_one_order(database: Database) -> None:
    """Held credits count: what an answer may use is not there any more."""
    database.write(lambda session: grant(session, 100))
    rule(database)
    database.write(lambda s: place(s, 90))
    with database.read() as session:
        assert topups.low(session, now=NOON) == [ALICE]
    results = at_once(16, lambda _: fire(database))
    assert sum(isinstance(result, Payment) for result in results) == 1
    assert balance(database) == (600, 90, 510)
    assert_sound(database)


def test_at_most_so_often_in_a_day_and_in_ten_minutes(database: Database) -> None:
    """A threshold above the package would buy for ever."""
    rule(database, threshold=100_000, per_day=5)
    assert [fire(database, NOON) is not None for _ in range(5)] == [True, True, True, False, False]
    assert fire(database, NOON + 10 * MINUTE - 1) is None
    assert fire(database, NOON - HOUR) is None  # a clock that is set back buys nothing
    later = NOON + 10 * MINUTE
    assert [fire(database, later) is not None for _ in range(4)] == [True, True, False, False]
    assert fire(database, NOON + 24 * HOUR - 1) is None
    assert fire(database, NOON + 24 * HOUR) is not None
    assert balance(database)[0] == 6 * 500


def test_an_hour_of_rest_after_a_decline(database: Database) -> None:
    rule(database)
    declined = fire(database, shop=Shop(Rules(), UTC, charge=declines))
    assert declined is not None
    assert declined.status == "failed"
    assert balance(database)[0] == 0
    assert fire(database, NOON + HOUR - 1) is None
    with database.read() as session:
        assert topups.low(session, now=NOON + HOUR - 1) == []
        assert topups.low(session, now=NOON + HOUR) == [ALICE]
    assert fire(database, NOON + HOUR) is not None


def test_an_open_order_stands_in_the_way_of_the_next(database: Database) -> None:
    later = Shop(Rules(), UTC, provider="later", charge=lambda _session, payment, _now: payment)
    rule(database)
    first = fire(database, shop=later)
    assert first is not None
    assert first.status == "pending"
    assert fire(database, NOON + 30 * MINUTE, shop=later) is None
    database.write(lambda s: orders.fulfil(s, payment_id=first.id, now=NOON + 31 * MINUTE))
    spend(database, 490, NOON + 32 * MINUTE)
    assert fire(database, NOON + 33 * MINUTE, shop=later) is not None


def test_a_rule_is_switched_off(database: Database) -> None:
    assert fire(database) is None
    rule(database)
    assert database.write(lambda s: topups.stop(s, user_id=ALICE, now=NOON))
    assert not database.write(lambda s: topups.stop(s, user_id=BOB, now=NOON))
    assert fire(database) is None
    rule(database)
    database.write(lambda s: packages.change(s, "starter", active=False))
    assert fire(database) is None
    with database.read() as session:
        found = topups.get(session, user_id=ALICE)
    assert found is not None
    assert not found.active


def test_the_shelf_can_be_changed(sqlite_database: Database) -> None:
    """T20: and makes no sense in no way. Orders keep what they were made with."""
    database = sqlite_database
    new = packages.Package("tiny", "  Tiny  pack ", Money(100), 90 * MICRO, 10 * MICRO, 30, 9)
    made = database.write(lambda s: packages.create(s, new, now=NOON))
    assert made.name == "Tiny pack"
    with pytest.raises(packages.PackageExists):
        database.write(lambda s: packages.create(s, new, now=NOON))
    order = database.write(
        lambda s: orders.create(
            s, user_id=ALICE, package_code="tiny", now=NOON, scope="o", key="1", rules=Rules()
        )
    )
    database.write(lambda s: packages.change(s, "tiny", price=Money(1), credits=MICRO))
    database.write(lambda s: packages.change(s, "tiny", active=False))
    paid = database.write(lambda s: orders.fulfil(s, payment_id=order.id, now=NOON + HOUR))
    assert (paid.amount_minor, paid.credits) == (100, 90 * MICRO)
    with database.read() as session:
        lot = session.execute(text("SELECT granted, price_minor, expires_at FROM lot")).one()
        assert "tiny" not in [one.code for one in packages.list_packages(session)]
        assert "tiny" in [one.code for one in packages.list_packages(session, all=True)]
    assert tuple(lot) == (credits(100), 100, NOON + HOUR + 30 * 24 * HOUR)
    wrongs: list[dict[str, object]] = [
        {"price": Money(-1)}, {"credits": 0}, {"bonus_credits": -1}, {"valid_days": 0},
        {"name": ""}, {"position": -1},
    ]  # fmt: skip
    for wrong in wrongs:
        with pytest.raises(packages.BadPackage):
            database.write(lambda s, wrong=wrong: packages.change(s, "tiny", **wrong))
    with pytest.raises(packages.UnknownPackage):
        database.write(lambda s: packages.change(s, "gold", active=True))


def test_custom_amounts_follow_the_settings(sqlite_database: Database) -> None:
    rules = Rules(custom_min=10, custom_max=20, custom_cents_per_100=250)
    assert packages.custom_price(11 * MICRO, rules) == Money(28)  # 27.5, rounded up
    for amount in (9, 21):
        with pytest.raises(packages.BadAmount, match="between 10 and 20"):
            packages.custom_price(amount * MICRO, rules)
    rules = Rules(priorities={"paid": 5}, lifetimes_days={"paid": 2})
    made = sqlite_database.write(
        lambda s: orders.create(
            s, user_id=ALICE, micro=100 * MICRO, now=NOON, scope="o", key="1", rules=rules
        )
    )
    sqlite_database.write(lambda s: orders.fulfil(s, payment_id=made.id, now=NOON))
    with sqlite_database.read() as session:
        lot = session.execute(text("SELECT priority, expires_at FROM lot")).one()
    assert tuple(lot) == (5, NOON + 48 * HOUR)
