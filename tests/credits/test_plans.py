"""Plans: the calendar of periods, and one charge and one grant for each of them."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlmodel import Session

from chat_app.clock import to_micros
from chat_app.credits import ledger, plans, renewals, verify
from chat_app.credits.payments import orders
from chat_app.credits.payments.orders import Payment
from chat_app.credits.plans import Plan, Subscription
from chat_app.credits.renewals import Shop
from chat_app.db import Database
from chat_app.money import MICRO, Money
from chat_app.settings import Credits as Rules
from tests.credits.books import ALICE, BOB, HOUR, balance, credits, place
from tests.credits.test_races import at_once

DAY = 24 * HOUR
START = to_micros(datetime(2026, 1, 31, 10, tzinfo=UTC))
SHOP = Shop(Rules(), UTC)


def on(year: int, month: int, day: int, hour: int = 10, minute: int = 0) -> int:
    return to_micros(datetime(year, month, day, hour, minute, tzinfo=UTC))


@pytest.fixture(autouse=True)
def _offers(database: Database) -> None:
    def story(session: Session) -> None:
        for code, cents, amount, keep in (
            ("small", 900, 1000, 0),
            ("big", 2900, 4000, 0),
            ("rolling", 1900, 2000, 1),
            ("endless", 1900, 2000, None),
        ):
            plan = Plan(code, code.title(), Money(cents), amount * MICRO, keep)
            plans.create(session, plan, now=START)

    database.write(story)


def begin(
    database: Database, plan: str = "small", now: int = START, shop: Shop = SHOP, user: int = ALICE
) -> Subscription:
    return database.write(
        lambda s: renewals.subscribe(s, shop, user_id=user, plan_code=plan, now=now)
    )


def change(database: Database, plan: str, now: int, shop: Shop = SHOP) -> Subscription:
    return database.write(
        lambda s: renewals.change(s, shop, user_id=ALICE, plan_code=plan, now=now)
    )


def renew(database: Database, now: int, shop: Shop = SHOP) -> list[int]:
    """The numbers of the periods that were paid by what was due."""
    with database.read() as session:
        due = plans.due(session, now=now)
    paid: list[int] = []
    for id in due:
        found = database.write(
            lambda s, id=id: renewals.renew(s, shop, subscription_id=id, now=now)
        )
        paid += [period.number for period in found]
    return paid


def held(database: Database, user: int = ALICE) -> Subscription:
    with database.read() as session:
        found = plans.current(session, user_id=user, zone=UTC)
    assert found is not None
    return found


def granted(database: Database) -> list[tuple[float, int | None]]:
    """What each lot of a plan was worth and when it ends, in the order they came."""
    with database.read() as session:
        assert verify.run(session) == []
        rows = session.execute(
            text("SELECT granted, expires_at FROM lot WHERE source = 'plan' ORDER BY id")
        )
        return [(row[0] / MICRO, row[1]) for row in rows]


def declines(session: Session, payment: Payment, now: int) -> Payment:
    orders.fail(session, payment_id=payment.id, now=now)
    return orders.get(session, user_id=payment.user_id, payment_id=payment.id)


def decides_later(_session: Session, payment: Payment, _now: int) -> Payment:
    return payment


# Periods


def test_a_plan_grants_its_credits_for_each_period_once(database: Database) -> None:
    """T32: what is left ends with the period; the next lot comes with it, to the microsecond."""
    first = begin(database)
    assert (first.status, first.period.state, first.renews_at) == (
        "active",
        "paid",
        on(2026, 2, 28),
    )
    assert renew(database, on(2026, 2, 28) - 1) == []
    assert balance(database) == (1000, 0, 1000)
    assert renew(database, on(2026, 2, 28)) == [1]
    assert renew(database, on(2026, 2, 28)) == []
    database.write(lambda session: place(session, 5, now=on(2026, 2, 28)))
    assert balance(database) == (1000, 5, 995)
    assert granted(database) == [(1000, on(2026, 2, 28)), (1000, on(2026, 3, 31))]
    with database.read() as session:
        moves, _ = ledger.transactions(session, user_id=ALICE)
    assert [(move.type, move.credits) for move in moves if move.type != "message"] == [
        ("expiry", credits(-1000)), ("plan", credits(1000)), ("plan", credits(1000))
    ]  # fmt: skip
    assert moves[-1].description == "1,000 credits for 9.00 USD, plan period 1"


def test_credits_are_kept_as_long_as_the_plan_says(database: Database) -> None:
    begin(database, "rolling")
    begin(database, "endless", user=BOB)
    renew(database, on(2026, 2, 28))
    assert sorted(granted(database), key=str) == [
        (2000, on(2026, 3, 31)), (2000, on(2026, 4, 30)), (2000, None), (2000, None)
    ]  # fmt: skip


def test_two_processes_renew_once(tmp_path: Path, database: Database) -> None:
    """T32: the same database opened twice, twelve threads, one grant for each period."""
    begin(database)
    begin(database, "endless", user=BOB)
    other = Database(database.url)
    now = on(2026, 2, 28)
    try:
        at_once(12, lambda number: renew(other if number % 2 else database, now))
    finally:
        other.close()
    assert len(granted(database)) == 4
    with database.read() as session:
        paid = session.execute(text("SELECT COUNT(*) FROM payment WHERE status = 'paid'"))
        assert paid.scalar_one() == 4


def test_a_long_downtime_charges_only_what_is_still_good(database: Database) -> None:
    """T32: over periods are skipped, not charged; kept credits are made up for."""
    begin(database)
    begin(database, "endless", user=BOB)
    now = on(2026, 5, 15)  # February to April are over
    assert sorted(renew(database, now)) == [1, 2, 3, 3]
    assert renew(database, now) == []
    states = "SELECT number, state FROM subscription_period WHERE subscription_id = :id"
    with database.read() as session:
        rows = session.execute(text(states + " ORDER BY number"), {"id": held(database).id}).all()
    assert [tuple(row) for row in rows] == [
        (0, "paid"), (1, "skipped"), (2, "skipped"), (3, "paid")
    ]  # fmt: skip
    assert held(database).renews_at == on(2026, 5, 31)
    assert len(granted(database)) == 2 + 4


def test_a_clock_that_is_set_back_repeats_nothing(database: Database) -> None:
    begin(database)
    assert renew(database, on(2026, 2, 28)) == [1]
    for now in (on(2026, 2, 27), on(2026, 2, 28) - 1, on(2026, 2, 28), on(2026, 3, 30)):
        assert renew(database, now) == []
    assert len(granted(database)) == 2


def test_a_running_answer_keeps_its_credits_over_the_edge(database: Database) -> None:
    begin(database)
    edge = on(2026, 2, 28)
    database.write(lambda session: place(session, 400, now=edge - 1, ttl_seconds=60))
    renew(database, edge)
    database.write(lambda session: place(session, 1, now=edge))
    assert balance(database) == (1400, 401, 999)
    granted(database)


# Payment


def test_a_payment_that_fails_grants_nothing_and_is_tried_again(database: Database) -> None:
    begin(database)
    edge = on(2026, 2, 28)
    broke = Shop(Rules(plan_retries=2), UTC, charge=declines)
    assert renew(database, edge, broke) == []
    found = held(database)
    assert (found.status, found.tries, found.due_at) == ("past_due", 1, edge + DAY)
    assert renew(database, edge + DAY - 1) == []
    assert renew(database, edge + DAY) == [1]
    found = held(database)
    assert (found.status, found.tries, found.renews_at) == ("active", 0, on(2026, 3, 31))
    assert granted(database)[-1] == (1000, on(2026, 3, 31))
    with database.read() as session:
        rows = session.execute(text("SELECT status FROM payment ORDER BY created_at")).scalars()
        assert list(rows) == ["paid", "failed", "paid"]


def test_after_the_last_try_the_plan_pauses(database: Database) -> None:
    """Nothing more is charged or granted, and resuming it is a new period that has to be paid."""
    begin(database)
    broke = Shop(Rules(plan_retries=2), UTC, charge=declines)
    edge = on(2026, 2, 28)
    for days in range(4):
        assert renew(database, edge + days * DAY, broke) == []
    found = held(database)
    assert (found.status, found.tries, found.period.state) == ("paused", 0, "skipped")
    with database.read() as session:
        assert plans.in_force(session, user_id=ALICE) is None
    assert renew(database, edge + 90 * DAY) == []
    before = len(granted(database))
    later = edge + 5 * DAY  # in the middle of the period that nobody paid
    with pytest.raises(renewals.NotPaid):
        database.write(lambda s: renewals.resume(s, broke, user_id=ALICE, now=later))
    again = database.write(lambda s: renewals.resume(s, SHOP, user_id=ALICE, now=later))
    assert (again.status, again.period.state, again.period.starts_at) == ("active", "paid", later)
    assert len(granted(database)) == before + 1


def test_after_the_last_try_the_plan_ends(database: Database) -> None:
    id = begin(database).id
    broke = Shop(Rules(plan_retries=2, plan_unpaid="end"), UTC, charge=declines)
    edge = on(2026, 2, 28)
    for days in range(4):
        assert renew(database, edge + days * DAY, broke) == []
    with database.read() as session:
        assert plans.current(session, user_id=ALICE, zone=UTC) is None
        assert plans.load(session, id, zone=UTC).status == "cancelled"
        count = session.execute(text("SELECT COUNT(*) FROM payment WHERE status = 'failed'"))
        assert count.scalar_one() == 3
    assert begin(database, now=edge + 9 * DAY).status == "active"


def test_an_order_that_is_paid_later_renews_by_itself(database: Database) -> None:
    """The provider announces it after days: the seam is `orders.fulfil`, as for any order."""
    waiting = Shop(Rules(), UTC, provider="later", charge=decides_later)
    first = begin(database, shop=waiting)
    assert (first.status, balance(database)[0]) == ("pending", 0)

    def pay() -> None:
        period = held(database).period.number + (held(database).status == "past_due")
        with database.read() as session:
            found = plans.period(session, held(database).id, period, zone=UTC)
        assert found is not None
        assert found.payment_id is not None
        at_once(
            5,
            lambda _: database.write(
                lambda s: orders.fulfil(s, payment_id=str(found.payment_id), now=START + 40 * DAY)
            ),
        )

    pay()
    assert (held(database).status, balance(database)[0]) == ("active", 1000)
    for days in range(3):  # the open order is asked for again, never doubled
        renew(database, on(2026, 2, 28) + days * DAY, waiting)
    assert held(database).status == "past_due"
    pay()
    assert held(database).status == "active"
    assert len(granted(database)) == 2


def test_a_first_payment_that_fails_leaves_nothing(database: Database) -> None:
    with pytest.raises(renewals.NotPaid):
        begin(database, shop=Shop(Rules(), UTC, charge=declines))
    with database.read() as session:
        assert plans.current(session, user_id=ALICE, zone=UTC) is None
        assert session.execute(text("SELECT COUNT(*) FROM payment")).scalar_one() == 0


# Changing one's mind


def test_a_dearer_plan_begins_at_once_and_the_old_credits_stay(database: Database) -> None:
    begin(database)
    now = on(2026, 2, 10)
    found = change(database, "big", now)
    assert (found.period.plan_code, found.renews_at) == ("big", on(2026, 3, 10))
    assert balance(database) == (5000, 0, 5000)
    assert granted(database) == [(1000, on(2026, 2, 28)), (4000, on(2026, 3, 10))]
    assert renew(database, on(2026, 2, 28)) == []
    assert renew(database, on(2026, 3, 10)) == [2]
    begin(database, "endless", user=BOB)
    broke = Shop(Rules(), UTC, charge=declines)
    with pytest.raises(renewals.NotPaid):
        database.write(lambda s: renewals.change(s, broke, user_id=BOB, plan_code="big", now=now))
    assert held(database, BOB).period.plan_code == "endless"


def test_a_cheaper_plan_begins_with_the_next_period(database: Database) -> None:
    begin(database, "big")
    assert change(database, "small", on(2026, 2, 1)).next_plan == "small"
    assert balance(database) == (4000, 0, 4000)
    renew(database, on(2026, 2, 28))
    found = held(database)
    assert (found.period.plan_code, found.next_plan) == ("small", None)
    assert granted(database)[-1] == (1000, on(2026, 3, 31))
    change(database, "big", on(2026, 3, 1))
    change(database, "small", on(2026, 3, 2))
    assert change(database, "big", on(2026, 3, 3)).next_plan is None


def test_the_price_of_the_start_is_kept(database: Database) -> None:
    """T25: a new price is for those who choose the plan from then on."""
    begin(database)
    database.write(lambda s: plans.change(s, "small", price=Money(9900), credits=MICRO))
    renew(database, on(2026, 2, 28))
    assert granted(database)[-1][0] == 1000
    with database.read() as session:
        cents = session.execute(text("SELECT MAX(amount_minor) FROM payment")).scalar_one()
    assert cents == 900
    database.write(lambda s: plans.change(s, "small", active=False))
    assert renew(database, on(2026, 3, 31)) == [2]
    with pytest.raises(plans.UnknownPlan):
        begin(database, user=BOB)


def test_a_cancelled_plan_runs_to_its_end(database: Database) -> None:
    begin(database)
    found = database.write(lambda s: renewals.cancel(s, SHOP, user_id=ALICE, now=START + 1))
    assert (found.status, found.cancel_at_end, found.renews_at) == ("active", True, None)
    database.write(lambda s: renewals.resume(s, SHOP, user_id=ALICE, now=START + 2))
    assert held(database).renews_at == on(2026, 2, 28)
    database.write(lambda s: renewals.cancel(s, SHOP, user_id=ALICE, now=START + 3))
    assert renew(database, on(2026, 2, 28)) == []
    with database.read() as session:
        assert plans.current(session, user_id=ALICE, zone=UTC) is None
    with pytest.raises(plans.NoSubscription):
        database.write(lambda s: renewals.cancel(s, SHOP, user_id=ALICE, now=START + 3))
    assert len(granted(database)) == 1


def test_a_paused_plan_takes_nothing_and_starts_anew(database: Database) -> None:
    begin(database)
    database.write(lambda s: renewals.pause(s, SHOP, user_id=ALICE, now=START + DAY))
    with pytest.raises(renewals.PlanBusy):
        database.write(lambda s: renewals.pause(s, SHOP, user_id=ALICE, now=START))
    assert renew(database, on(2026, 4, 15)) == []
    found = database.write(lambda s: renewals.resume(s, SHOP, user_id=ALICE, now=on(2026, 4, 15)))
    assert (found.status, found.renews_at) == ("active", on(2026, 5, 15))
    assert [lot[1] for lot in granted(database)] == [on(2026, 2, 28), on(2026, 5, 15)]
    database.write(lambda s: renewals.pause(s, SHOP, user_id=ALICE, now=on(2026, 4, 16)))
    found = database.write(lambda s: renewals.resume(s, SHOP, user_id=ALICE, now=on(2026, 4, 17)))
    assert (found.renews_at, len(granted(database))) == (on(2026, 5, 15), 2)


def test_one_plan_for_each_user(database: Database) -> None:
    results = at_once(8, lambda _: begin(database))
    assert sum(isinstance(result, Subscription) for result in results) == 1
    assert sum(isinstance(result, renewals.HasPlan) for result in results) == 7
    assert len(granted(database)) == 1
