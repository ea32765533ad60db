"""The money ledger: what orders, uses and refunds post, day by day, to the cent."""

from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, select

from chat_app.clock import to_micros
from chat_app.credits import holds, ledger, lots, moves, packages, plans, renewals
from chat_app.credits.accounts import Owner
from chat_app.credits.invoices import register, sellers, tax
from chat_app.credits.invoices.documents import Seller
from chat_app.credits.packages import Package
from chat_app.credits.payments import orders, returns
from chat_app.credits.payments.provider import DisputeStanding, RefundStanding
from chat_app.credits.plans import Plan
from chat_app.credits.renewals import Shop
from chat_app.credits.takings import PlanPeriod
from chat_app.db import Database
from chat_app.flows import revenue, revenue_figures
from chat_app.flows.revenue import NotWritten, Rules
from chat_app.money import MICRO, Money
from chat_app.revenue import journals, metrics
from chat_app.revenue.journals import Line, PeriodClosed, Unbalanced
from chat_app.revenue.tables import LotRevenueRow
from chat_app.settings import Credits as CreditRules
from tests.credits.books import ALICE, BOB, fresh, grant
from tests.effort import effort

_keys = count(1)
GERMANY = Seller(name="Rechner GmbH", country="DE", tax="seller")
REMOTE = Rules()


def on(month: int, day: int = 10, hour: int = 12, year: int = 2025) -> int:
    return to_micros(datetime(year, month, day, hour, tzinfo=UTC))


def sell(
    session: Session, cents: int, credits: int, bonus: int = 0, *, at: int, user: int = ALICE,
    days: int | None = None,
) -> tuple[str, int]:  # fmt: skip
    """A paid package; returns the order and its grant."""
    code = f"p{next(_keys)}"
    packages.create(
        session,
        Package(code, code, Money(cents), credits * MICRO, bonus * MICRO, valid_days=days),
        now=at,
    )
    made = orders.create(session, user_id=user, package_code=code, now=at, scope="t", key=fresh())
    orders.fulfil(session, payment_id=made.id, now=at)
    return made.id, orders.grants(session, payment_id=made.id)[0]


def use(session: Session, credits: float, *, at: int, user: int = ALICE) -> None:
    micro = round(credits * MICRO)
    hold = holds.place(
        session, user_id=user, micro=micro, ttl_seconds=60, now=at, scope="t", key=fresh()
    )
    holds.settle(session, hold_id=hold.id, micro=micro, now=at)


def write(database: Database, upto: int, rules: Rules = REMOTE) -> int:
    """Write every day that is over at this time; returns how many."""
    days = 0
    while database.write(lambda s: revenue.write_next(s, rules=rules, now=upto)):
        days += 1
    return days


def sums(database: Database, until: str = "9999-12-31", since: str = "") -> dict[str, int]:
    """Balances by account, without those that are zero."""
    with database.read() as session:
        found = journals.balances(session, until=until, since=since)
    return {account: minor for (account, _), minor in found.items() if minor}


def earned(database: Database, month: str) -> int:
    """What a month earned in all."""
    found = sums(database, since=f"{month}-01", until=f"{month}-31")
    return -sum(minor for account, minor in found.items() if account.startswith("revenue"))


def tied(database: Database) -> None:
    """The deferred account is what the lots still owe, lot by lot, and the ledger adds up."""
    with database.read() as session:
        by_lot: dict[int, int] = defaultdict(int)
        for lot_id, minor in session.execute(
            text(
                """SELECT lot_id, SUM(amount_minor) FROM posting
                WHERE account LIKE 'deferred%' GROUP BY lot_id"""
            )
        ):
            by_lot[lot_id] = -int(minor)
        rows = session.exec(select(LotRevenueRow)).all()
        assert {row.lot_id: revenue.deferred.left(row) for row in rows} == dict(by_lot)
        unbalanced = session.execute(
            text("SELECT journal_id FROM posting GROUP BY journal_id, currency"
                 " HAVING SUM(amount_minor) <> 0")
        ).all()  # fmt: skip
        assert unbalanced == []


@pytest.mark.parametrize(
    ("rules", "changed", "uses", "months"),
    [
        (REMOTE, None, (300, 400, 290), (2727, 3637, 2636, 1000)),
        (Rules(expected_bp=1000), None, (300, 400, 290), (3030, 4041, 2929, 0)),
        (Rules(expected_bp=1000), 2000, (300, 400, 290), (3030, 4925, 2045, 0)),
        (Rules(expected_bp=1000), None, (300, 400, 100), (3030, 4041, 1010, 1919)),
    ],
)
def test_the_golden_case(
    database: Database, rules: Rules, changed: int | None, uses: tuple[int, ...],
    months: tuple[int, ...],
) -> None:  # fmt: skip
    """G1: 100.00 net for 1,000 + 100 credits, used in three months, the rest ends in the twelfth.

    Sold at 119.00 with 19 % German tax inside, so nothing of the tax may reach revenue.
    """

    def story(session: Session) -> None:
        tax.seed(session, now=on(1))
        sellers.keep(session, seller=GERMANY, now=on(1))
        sell(session, 11900, 1000, 100, at=on(1, 5), days=340)
        for month, credits in enumerate(uses, start=1):
            use(session, credits, at=on(month, 20))
        lots.expire_due(session, now=on(12, 20))

    database.write(story)
    if changed is None:
        write(database, on(1, 2, year=2026), rules)
    else:
        write(database, on(2, 28, 23), rules)
        write(database, on(1, 2, year=2026), Rules(expected_bp=changed))
    shown = tuple(earned(database, f"2025-{month:02}") for month in (1, 2, 3, 12))
    assert shown == months
    assert sums(database)["tax:DE"] == -1900
    assert "deferred:credits" not in sums(database)
    assert sums(database)["cash:offline"] == 11900
    tied(database)


def test_written_once_however_often_it_is_run(database: Database) -> None:
    """The mark and the keys: a second run finds nothing, a lost mark doubles nothing."""

    def story(session: Session) -> None:
        sell(session, 1000, 100, at=on(1, 5))
        use(session, 10, at=on(1, 6))

    database.write(story)
    assert write(database, on(1, 10)) == 5
    before = sums(database)
    assert write(database, on(1, 10)) == 0
    with pytest.raises(DBAPIError), database.engine.begin() as connection:
        connection.execute(text("UPDATE posting SET amount_minor = 1"))
    assert sums(database) == before == {
        "cash:offline": 1000, "deferred:credits": -900, "revenue:usage": -100
    }  # fmt: skip
    # A day is not written while something of it may still be under way.
    assert write(database, on(1, 11, 0)) == 0


def test_refunds_and_failed_refunds(database: Database) -> None:
    """Half used, the rest refunded: tax goes back as the credit note says; a failed one returns."""

    def buy(session: Session) -> str:
        tax.seed(session, now=on(1))
        sellers.keep(session, seller=GERMANY, now=on(1))
        payment, _ = sell(session, 11900, 1000, at=on(1, 5))
        use(session, 400, at=on(1, 6))
        return payment

    payment = database.write(buy)

    def refund(session: Session) -> str:
        return returns.start(
            session, payment_id=payment, minor=2380, reason="wish", now=on(1, 7), key=fresh(),
            actor="user:9",
        ).id  # fmt: skip

    first = database.write(refund)
    write(database, on(1, 9))
    assert sums(database) == {
        "cash:offline": 11900, "deferred:credits": -4000, "refunds_due": -2380,
        "revenue:usage": -4000, "tax:DE": -1520,
    }  # fmt: skip
    database.write(
        lambda s: returns.stand(s, RefundStanding("r1", first, "succeeded"), now=on(1, 10))
    )
    second = database.write(refund)
    database.write(
        lambda s: returns.stand(s, RefundStanding("r2", second, "failed"), now=on(1, 12))
    )
    write(database, on(1, 14))
    after = sums(database)
    assert (after["cash:offline"], after["deferred:credits"]) == (9520, -4000)
    assert after["tax:DE"] == -1520
    assert "refunds_due" not in after
    with database.read() as session:
        found = register.of_payment(session, payment_id=payment)
    assert found is not None
    assert found.credited_minor == 2380
    tied(database)


@pytest.mark.parametrize("end", ["won", "lost"])
def test_disputes(database: Database, end: str) -> None:
    """What was used of a payment that the bank takes is bad debt when it stays away."""
    payment, _ = database.write(lambda s: sell(s, 1000, 100, at=on(1, 5)))
    database.write(lambda s: use(s, 30, at=on(1, 6)))

    def stand(state: str, at: int) -> None:
        def story(session: Session) -> None:
            returns.dispute(
                session,
                orders.find(session, payment),
                DisputeStanding("dp1", "pi1", state, 1000, "USD", "fraudulent"),  # type: ignore[arg-type]
                now=at,
            )

        database.write(story)

    stand("open", on(1, 8))
    write(database, on(1, 10))
    assert sums(database) == {"disputes": 300, "revenue:usage": -300}
    stand(end, on(1, 20))
    write(database, on(1, 22))
    if end == "lost":
        assert sums(database) == {"bad_debt": 300, "revenue:usage": -300}
    else:
        assert sums(database) == {
            "cash:offline": 1000, "deferred:credits": -700, "revenue:usage": -300
        }  # fmt: skip
    tied(database)


def test_moved_credits_keep_their_price(database: Database) -> None:
    """Alice gives Bob some of what she paid for: their price is earned when Bob uses them."""

    def story(session: Session) -> None:
        sell(session, 1000, 300, at=on(1, 5))
        use(session, 100, at=on(1, 6))
        grant(session, 1, user=BOB, source="promo", now=on(1, 6))
        moves.move(
            session, source=Owner("user", ALICE), target=Owner("user", BOB), micro=150 * MICRO,
            code=moves.SENT, now=on(1, 7), scope="t", key=fresh(), actor="user:1",
        )  # fmt: skip
        use(session, 151, at=on(1, 8), user=BOB)

    database.write(story)
    write(database, on(1, 10))
    assert sums(database) == {
        "cash:offline": 1000, "deferred:credits": -167, "revenue:usage": -833
    }  # fmt: skip
    tied(database)


def test_a_plan_is_earned_by_the_day(database: Database) -> None:
    """31 days for 9.30: 30 cents a day, whatever is used of its credits."""

    def story(session: Session) -> str:
        plans.create(session, Plan("small", "Small", Money(930), 1000 * MICRO, 0), now=on(1))
        renewals.subscribe(
            session, Shop(CreditRules(), UTC), user_id=ALICE, plan_code="small", now=on(1, 1, 0)
        )
        payment = session.execute(text("SELECT id FROM payment")).scalar_one()
        orders.fulfil(session, payment_id=payment, now=on(1, 1, 0))
        use(session, 700, at=on(1, 2))
        return str(payment)

    payment = database.write(story)
    write(database, on(1, 11, 2))
    assert sums(database) == {
        "cash:offline": 930, "deferred:plans": -630, "revenue:subscription": -300
    }  # fmt: skip
    # The unused 300 go back: less than the time has not earned yet is left.
    database.write(
        lambda s: returns.start(
            s, payment_id=payment, minor=None, reason="wish", now=on(1, 11), key=fresh(),
            actor="user:9",
        )
    )  # fmt: skip
    write(database, on(2, 3))
    assert sums(database)["revenue:subscription"] == -(930 - 279)
    assert "deferred:plans" not in sums(database)
    tied(database)


def test_a_closed_month_stays(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only complete months close, the oldest first; nothing is posted to one afterwards."""
    database.write(lambda s: sell(s, 1000, 100, at=on(1, 5)))
    write(database, on(2, 10))

    class Fake:
        db = database

        class clock:
            micros = staticmethod(lambda: on(2, 10))

    app = Fake()
    with pytest.raises(NotWritten):
        revenue.close(app, period="2025-02", actor="user:1")  # type: ignore[arg-type]
    closed = revenue.close(app, period="2025-01", actor="user:1")  # type: ignore[arg-type]
    assert closed == revenue.close(app, period="2025-01", actor="user:2")  # type: ignore[arg-type]
    cost = [Line("cost:gpu", "USD", 100), Line("cash:bank", "USD", -100)]

    def post(day: str, lines: list[Line]) -> None:
        database.write(
            lambda s: journals.post(
                s, key=f"cost:{day}", day=day, kind="cost", memo="GPU", lines=lines, now=on(2, 10)
            )
        )

    with pytest.raises(PeriodClosed):
        post("2025-01-31", cost)
    with pytest.raises(Unbalanced):
        post("2025-02-01", cost[:1])
    post("2025-02-01", cost)
    with database.read() as session:
        assert journals.digest(session, period="2025-01") == closed.digest
    # What comes to light late counts for the day that is written.
    database.write(lambda s: use(s, 5, at=on(1, 31)))
    write(database, on(2, 12))
    assert earned(database, "2025-01") == 0
    assert earned(database, "2025-02") == 50


@settings(max_examples=effort(60, 8), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    sales=st.lists(
        st.tuples(st.integers(1, 5000), st.integers(1, 400), st.integers(0, 60)), min_size=1,
        max_size=3,
    ),
    steps=st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from(["nothing", "use", "adjust"]),
                  st.integers(1, 90)), max_size=14,
    ),
)  # fmt: skip
def test_deferred_is_what_open_lots_have_not_earned(
    sqlite_database: Database, sales: list[tuple[int, int, int]], steps: list[tuple[int, str, int]]
) -> None:
    """At the end of every day, without tax: deferred = Σ unrecognised price, never over a price."""
    user = next(_keys) + 100
    with sqlite_database.read() as session:
        before = revenue.written_to(session)
    day = date.fromisoformat(before or "2025-01-01") + timedelta(days=3)

    def at(hour: int = 12) -> int:
        return to_micros(datetime(day.year, day.month, day.day, hour, tzinfo=UTC))

    def check() -> None:
        write(sqlite_database, at() + 2 * 86_400_000_000)
        with sqlite_database.read() as session:
            owed = session.execute(
                text("SELECT COALESCE(SUM(price_minor - recognized_minor), 0) FROM lot")
            ).scalar_one()
        assert -sums(sqlite_database).get("deferred:credits", 0) == owed
        tied(sqlite_database)

    for cents, credits, bonus in sales:
        sqlite_database.write(
            lambda s, c=cents, n=credits, b=bonus: sell(s, c, n, b, at=at(), user=user, days=9)
        )
    for forward, what, credits in steps:
        day += timedelta(days=forward)

        def step(session: Session, what: str = what, credits: int = credits) -> None:
            lots.expire_due(session, now=at())
            have = ledger.balance(session, user_id=user).available
            micro = min(have, credits * MICRO)
            if micro and what == "use":
                use(session, micro / MICRO, at=at(), user=user)
            elif micro and what == "adjust":
                ledger.adjust(
                    session, user_id=user, micro=-micro, reason="r", actor="user:9", now=at(),
                    scope="t", key=fresh(),
                )  # fmt: skip

        sqlite_database.write(step)
    check()


def test_periods_of_plans_become_movements() -> None:
    """One who stays and grows, one who leaves, one who comes back after a month."""

    def period(user: int, month: int, minor: int) -> PlanPeriod:
        return PlanPeriod(user, on(month, 1, 0), on(month + 1, 1, 0), "small", "USD", minor)

    frame = revenue_figures.movements(
        [
            *(period(1, month, 900 if month < 3 else 2900) for month in range(1, 5)),
            period(2, 1, 900),
            period(3, 1, 900),
            period(3, 3, 900),
        ]
    )

    def at(month: int) -> metrics.Metrics:
        return metrics.compute(frame, datetime(2025, month, 20, tzinfo=UTC))

    january, february, march = at(1), at(2), at(3)
    assert (january.mrr_minor, january.new_minor, january.customers) == (2700, 2700, 3)
    assert (february.churned_minor, february.mrr_minor, february.nrr) == (1800, 900, 1 / 3)
    assert (march.reactivation_minor, march.expansion_minor, march.mrr_minor) == (900, 2000, 3800)
