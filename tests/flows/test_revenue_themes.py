"""Eighteen themes of revenue, each by its name, on the books of one small company.

Five customers buy packages and plans, use them, get money back and owe invoices, at the tax of
the country they live in. Every expected figure is worked out by hand, in cents.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import text
from sqlmodel import Session

from chat_app import settings as settings_room
from chat_app.audit import log, seal
from chat_app.clock import ManualClock, from_micros
from chat_app.credits import holds, lots, packages, plans, renewals, takings
from chat_app.credits.invoices import details, register, sellers, tax
from chat_app.credits.invoices.details import BillingDetails
from chat_app.credits.invoices.sellers import Seller
from chat_app.credits.packages import Package
from chat_app.credits.payments import orders, returns
from chat_app.credits.payments.provider import RefundStanding
from chat_app.credits.plans import Plan
from chat_app.credits.renewals import Shop
from chat_app.db import Database
from chat_app.flows import (
    learn,
    predictions,
    reports,
    revenue,
    revenue_detail,
    revenue_figures,
    rollouts,
)
from chat_app.flows.revenue import Rules
from chat_app.ml import frames
from chat_app.ml.churn import ChurnModel
from chat_app.ml.ltv import LTVModel
from chat_app.money import MICRO, Money
from chat_app.revenue import journals, months, receivables, recognition
from chat_app.revenue import tax as tax_rules
from chat_app.revenue.journals import Line, PeriodClosed
from chat_app.settings import Credits as CreditRules
from tests.credits.books import facts, fresh
from tests.flows.test_revenue import on, sums, tied, write

ANNA, BEN, CARLA, DORA, EMIL = 1, 2, 3, 4, 5
HOMES = {ANNA: "DE", BEN: "EE", CARLA: "AT", DORA: "CH", EMIL: "FR"}
NOW = on(8, 28)
KEY = b"k" * 32
SHOP = Shop(CreditRules(), UTC)
DUE = datetime(2025, 8, 15, 12, tzinfo=UTC)  # of Emil's invoice


@dataclass
class Company:
    """The company, and what the figures need of an app."""

    path: Path
    db: Database
    settings: Any
    clock: ManualClock
    anna: str = ""
    ben: str = ""
    refund: str = ""


def sold(session: Session, user: int, code: str, at: int) -> str:
    """An order that is not paid yet."""
    return orders.create(
        session, user_id=user, package_code=code, now=at, scope="t", key=fresh()
    ).id


def bought(session: Session, user: int, code: str, at: int) -> str:
    order = sold(session, user, code, at)
    orders.fulfil(session, payment_id=order, now=at)
    return order


def sent(session: Session, user: int, code: str, at: int) -> str:
    """An order whose invoice is sent before it is paid, due in 14 days."""
    order = sold(session, user, code, at)
    drafted = register.draft(session, payment_id=order, now=at)
    register.open_draft(session, invoice_id=drafted.id, actor="user:9", now=at)
    return order


def use(session: Session, user: int, credits: int, model: str, at: int) -> None:
    hold = holds.place(
        session, user_id=user, micro=credits * MICRO, ttl_seconds=60, now=at, scope="t", key=fresh()
    )
    holds.settle(
        session, hold_id=hold.id, micro=credits * MICRO, now=at, usage=facts(fresh(), model=model)
    )


def begin(session: Session, user: int, at: int) -> None:
    """The small plan for one month."""
    renewals.subscribe(session, SHOP, user_id=user, plan_code="small", now=at)
    renewals.cancel(session, SHOP, user_id=user, now=at)


def renew(session: Session, user: int, at: int) -> None:
    held = plans.current(session, user_id=user, zone=UTC)
    assert held is not None
    renewals.renew(session, SHOP, subscription_id=held.id, now=at)


def offer(session: Session) -> None:
    at = on(1, 1, 0)
    tax.seed(session, now=at)
    sellers.keep(session, seller=Seller("Rechner GmbH", country="DE", tax="destination"), now=at)
    for user, country in HOMES.items():
        vat = "ATU13585627" if country == "AT" else ""
        given = BillingDetails(f"Buyer {user}", "Street 1", country, vat)
        details.put(session, user_id=user, given=given, now=at)
    for code, cents, credits, bonus, days in (
        ("golden", 11900, 1000, 100, 230), ("june", 1220, 100, 0, None),
        ("july", 1240, 100, 0, None), ("bulk", 12000, 100, 0, None),
        ("half", 6000, 50, 0, None), ("top", 1190, 100, 0, None),
    ):  # fmt: skip
        offered = Package(
            code, code.title(), Money(cents), credits * MICRO, bonus * MICRO, valid_days=days
        )
        packages.create(session, offered, now=at)
    plans.create(session, Plan("small", "Small", Money(930), 1000 * MICRO, 0), now=at)
    plans.create(session, Plan("large", "Large", Money(2900), 5000 * MICRO, 0), now=at)


def live(session: Session, company: Company) -> None:
    """The year, in the order in which it happened."""
    renewals.subscribe(session, SHOP, user_id=CARLA, plan_code="small", now=on(1, 1, 0))
    use(session, CARLA, 500, "c", on(1, 2))
    company.anna = bought(session, ANNA, "golden", on(1, 5))
    use(session, ANNA, 300, "a", on(1, 20))
    renew(session, CARLA, on(2, 1, 0))
    begin(session, DORA, on(2, 1, 0))
    renewals.change(session, SHOP, user_id=CARLA, plan_code="large", now=on(2, 15, 0))
    use(session, ANNA, 100, "a", on(2, 20))
    use(session, ANNA, 300, "b", on(2, 20))
    renewals.change(session, SHOP, user_id=CARLA, plan_code="small", now=on(2, 20))
    renew(session, DORA, on(3, 1, 0))
    renew(session, CARLA, on(3, 15, 0))
    renewals.cancel(session, SHOP, user_id=CARLA, now=on(3, 16))
    use(session, ANNA, 290, "b", on(3, 20))
    begin(session, DORA, on(4, 10, 0))
    bought(session, BEN, "june", on(6, 10))
    use(session, BEN, 50, "a", on(6, 12))
    company.ben = bought(session, BEN, "july", on(7, 10))
    use(session, BEN, 75, "a", on(7, 11))
    company.refund = returns.start(
        session, payment_id=company.ben, minor=None, reason="wish", now=on(7, 15), key=fresh(),
        actor="user:9",
    ).id  # fmt: skip
    back = RefundStanding("r1", company.refund, "succeeded")
    returns.stand(session, back, now=on(7, 17))
    sent(session, EMIL, "bulk", on(8, 1))
    half = sent(session, EMIL, "half", on(8, 1))
    orders.fulfil(session, payment_id=half, now=on(8, 20))
    use(session, EMIL, 50, "a", on(8, 21))
    sent(session, ANNA, "top", on(8, 24))
    lots.expire_due(session, now=on(8, 25))


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path) -> Iterator[Company]:
    folder = tmp_path_factory.mktemp("themes")
    path = folder / "books.db"
    shutil.copyfile(_sqlite_template, path)
    db = Database(f"sqlite:///{path}")
    made = Company(
        path, db, settings_room.load(data_dir=folder, llm={"engine": "script"}),
        ManualClock(from_micros(NOW)),
    )  # fmt: skip
    db.write(offer)
    db.write(lambda session: live(session, made))
    copied(path, folder / "unwritten.db")
    write(db, NOW)
    db.write(lambda session: seal.seal(session, key=KEY, now=NOW))
    yield made
    db.close()


def copied(path: Path, target: Path) -> Path:
    with sqlite3.connect(path) as connection:
        connection.execute("VACUUM INTO ?", (str(target),))
    connection.close()
    return target


@contextmanager
def aside(company: Company, target: Path, *, unwritten: bool = False) -> Iterator[Company]:
    """A copy of the books, for what changes them."""
    path = company.path.with_name("unwritten.db") if unwritten else company.path
    db = Database(f"sqlite:///{copied(path, target)}")
    yield Company(target, db, company.settings, company.clock, company.anna, company.ben)
    db.close()


def app_of(company: Company) -> Any:
    return company


def day(month: int, number: int, hour: int = 12) -> datetime:
    return from_micros(on(month, number, hour))


def rolled(company: Company, until: str = "2025-12-31") -> dict[str, months.Month]:
    with company.db.read() as session:
        return {row.period: row for row in months.roll_forward(session, until=until)}


def test_mrr(company: Company) -> None:
    """930 a month for Small, 2,900 for Large; packages and sent invoices are no MRR."""
    found = revenue_figures.recurring(app_of(company), as_of=day(5, 31)).months
    fields = ["mrr_minor", "new_minor", "expansion_minor", "contraction_minor", "churned_minor",
              "reactivation_minor", "customers"]  # fmt: skip
    shown = {month: tuple(int(row[name]) for name in fields) for month, row in found.iterrows()}
    assert {month: row for month, row in shown.items() if any(row)} == {
        "2025-01": (930, 930, 0, 0, 0, 0, 1),  # Carla comes
        "2025-02": (3830, 930, 1970, 0, 0, 0, 2),  # Dora comes, Carla takes Large
        "2025-03": (930, 0, 0, 1970, 930, 0, 1),  # Carla is back at Small, Dora leaves
        "2025-04": (930, 0, 0, 0, 930, 930, 1),  # Carla leaves, Dora is back
        "2025-05": (0, 0, 0, 0, 930, 0, 0),
    }


def test_arr(company: Company) -> None:
    """Twelve times MRR; usage of thirty days as a year (36.37 × 365 / 30) stands apart."""
    found = revenue_figures.recurring(app_of(company), as_of=day(2, 28))
    assert (found.now.mrr_minor, found.now.arr_minor) == (3830, 45960)
    assert found.run_rate_minor == 44250


def test_breakdown(company: Company) -> None:
    """February: 36.37 by Anna's answers and 33.10 by plans, by each way to look at it."""
    span: dict[str, Any] = {"since": date(2025, 2, 1), "until": date(2025, 2, 28)}

    def by(what: Any) -> dict[str, int]:
        found = revenue_detail.breakdown(app_of(company), by=what, currency="USD", **span)
        return {part.name: part.earned_minor for part in found}

    # 28 days of Small twice, and half of Large's 28 days.
    assert by("plan") == {"Golden": 3637, "Small": 1860, "Large": 1450}
    assert by("country") == {"DE": 3637, "AT": 2380, "CH": 930}
    assert by("model") == {"a": 909, "b": 2728, "Plans, unused": 3310}
    assert by("organisation") == {"Without organisation": 3637, "Plans, unused": 3310}
    assert revenue_figures.recurring(app_of(company), as_of=day(2, 28)).by_plan == {
        "Large": 2900, "Small": 930
    }  # fmt: skip


def test_saved_metrics(company: Company, tmp_path: Path) -> None:
    """What a closed month says is kept: later sales change nothing, nobody can post to it."""
    with aside(company, tmp_path / "books.db") as copy:
        app = app_of(copy)
        saved = {month: revenue.close(app, period=month, actor="user:9").digest
                 for month in ("2025-01", "2025-02")}  # fmt: skip
        before = rolled(copy)
        copy.db.write(lambda s: bought(s, ANNA, "top", NOW))
        assert write(copy.db, NOW + 2 * 86_400_000_000) == 2
        with pytest.raises(PeriodClosed):
            copy.db.write(
                lambda s: journals.post(
                    s, key="late", day="2025-02-28", kind="cost", memo="GPU", now=NOW,
                    lines=[Line("cost:gpu", "USD", 5), Line("cash:bank", "USD", -5)],
                )
            )  # fmt: skip
        after = rolled(copy)
        assert (before.pop("2025-08").billed, after.pop("2025-08").billed) == (5000, 6000)
        assert after == before
        assert before["2025-02"].recognized == 6947
        assert revenue_figures.recognition(app, until=date(2025, 12, 31)).closed == list(saved)
        with copy.db.read() as session:
            assert {row.id: row.digest for row in journals.closed(session)} == saved
            assert {month: journals.digest(session, period=month) for month in saved} == saved


def test_customer_ltv_hook(company: Company) -> None:
    """The purchases that LTV learns from are the cash of the money ledger, customer by customer."""
    with company.db.read() as session:
        paid = frames.purchases(session, as_of=NOW, whose="real")
    found = {int(user): rows.tolist() for user, rows in paid.groupby("user_id")["amount"]}
    assert found == {
        ANNA: [11900], BEN: [1220, 1240, -930], CARLA: [930, 930, 2900, 930], DORA: [930, 930],
        EMIL: [6000],
    }  # fmt: skip
    assert paid["amount"].sum() == sums(company.db)["cash:offline"] == 26980
    model = LTVModel(90).fit(paid, from_micros(NOW))
    assert model.basis == "insufficient"
    assert sorted(model.predict()["user_id"]) == list(HOMES)


def test_churn_hook(company: Company) -> None:
    """The visits that churn learns from are the hours of charged answers, as of any day."""
    with company.db.read() as session:
        came = frames.visits(session, as_of=NOW, whose="real")
        spring = frames.visits(session, as_of=on(3, 1), whose="real")
        used = sum(row.micro for row in takings.by_model(session, since=0, until=NOW))
    expected = [(ANNA, 1, 20), (ANNA, 2, 20), (ANNA, 3, 20), (BEN, 6, 12), (BEN, 7, 11),
                (CARLA, 1, 2), (EMIL, 8, 21)]  # fmt: skip
    assert [(row.user_id, row.ts.month, row.ts.day) for row in came.itertuples()] == expected
    assert [(row.user_id, row.ts.month) for row in spring.itertuples()] == [
        (ANNA, 1), (ANNA, 2), (CARLA, 1)
    ]  # fmt: skip
    assert used == (990 + 125 + 500 + 50) * MICRO
    model = ChurnModel().fit_events(came, 30, from_micros(NOW))
    assert sorted(model.predict_events(from_micros(NOW))["user_id"]) == [ANNA, BEN, CARLA, EMIL]


def test_model_training_hook(company: Company, tmp_path: Path) -> None:
    """A training reads these rows and leaves a version, and a prediction for each customer."""
    with aside(company, tmp_path / "books.db") as copy:
        models = rollouts.registry(tmp_path, KEY)
        run = learn.train(copy.db, models, "ltv", now=NOW, actor="operator")
        assert (run.state, run.error, run.rows, run.is_demo) == ("done", None, 11, False)
        assert run.version is not None
        assert models.champion("ltv") == run.version
        with copy.db.read() as session:
            rows, _ = predictions.page(session, kind="ltv")
            (event,), _ = log.find(session, type="model_trained")
        assert sorted(int(row.subject) for row in rows) == list(HOMES)
        (ben,) = (row for row in rows if row.subject == str(BEN))
        assert ben.reasons == [
            "Bought on 2 days", "The last time 49 days ago",
            "12.30 USD on such a day, 9.30 USD given back",
        ]  # fmt: skip
        assert event.facts["version"] == run.version


def bought_frame(session: Session, company: Company, kind: str) -> pd.DataFrame:
    """Anna's order as the rules of recognition take it, at its net price."""
    (one,) = (s for s in takings.sales(session, after=0, upto=10**9)
              if s.payment_id == company.anna)  # fmt: skip
    (ended,) = (u for u in takings.uses(session, after=0, upto=10**9)
                if u.kind == "expire" and u.lot_id == one.lot_id)  # fmt: skip
    return pd.DataFrame(
        {
            "purchase_id": [one.payment_id], "ts": [from_micros(one.at)],
            "price_minor": [one.net_minor], "credits": [one.granted / MICRO],
            "expires_at": [from_micros(ended.at)], "kind": [kind], "bonus_credits": [0],
        }
    )  # fmt: skip


def test_recognition_schedule(company: Company) -> None:
    """G1: 100.00 net over 1,100 credits; the schedule and the ledger agree month by month."""
    with company.db.read() as session:
        bought = bought_frame(session, company, "credits")
        (sale,) = (s for s in takings.sales(session, after=0, upto=10**9)
                   if s.payment_id == company.anna)  # fmt: skip
        uses = [u for u in takings.uses(session, after=0, upto=10**9)
                if u.lot_id == sale.lot_id and u.kind == "use"]  # fmt: skip
        ledger = months.waterfall(session, currency="USD", until="2025-12-31")
    used = pd.DataFrame(
        {
            "purchase_id": company.anna, "ts": [from_micros(u.at) for u in uses],
            "credits": [u.micro / MICRO for u in uses],
        }
    )  # fmt: skip
    found = recognition.schedule(bought, used, day(12, 31)).set_index("period")
    earned = found["recognized_minor"] + found["breakage_minor"]
    assert {str(month): int(minor) for month, minor in earned.items() if minor} == {
        "2025-01": 2727, "2025-02": 3637, "2025-03": 2636, "2025-08": 1000
    }  # fmt: skip
    assert list(found["deferred_minor"][:3]) == [7273, 3636, 1000]
    assert found["deferred_minor"].iloc[-1] == 0
    # What was bought in January: Anna's package and Carla's first month.
    assert ledger["2025-01"] == {
        "2025-01": 2727 + 930, "2025-02": 3637, "2025-03": 2636, "2025-08": 1000
    }  # fmt: skip


def test_recognise(company: Company) -> None:
    """Every month of the money ledger: (billed, usage, plans, breakage, given back, still owed)."""
    shown = {
        period: (row.billed, row.usage, row.subscription, row.breakage, row.refunded, row.closing)
        for period, row in rolled(company).items()
    }
    assert shown == {
        "2025-01": (10930, 2727, 930, 0, 0, 7273),
        "2025-02": (4760, 3637, 3310, 0, 0, 5086),
        "2025-03": (930, 2636, 1960, 0, 0, 1420),  # 14 days of Large, 17 of Small
        "2025-04": (930, 0, 420 + 651, 0, 0, 1279),  # 14 of 31 days, 21 of 30
        "2025-05": (0, 0, 279, 0, 0, 1000),
        "2025-06": (1000, 500, 0, 0, 0, 1500),
        "2025-07": (1000, 750, 0, 0, 750, 1000),
        "2025-08": (5000, 5000, 0, 1000, 0, 0),
    }
    before = sums(company.db)
    assert write(company.db, NOW) == 0
    assert sums(company.db) == before
    tied(company.db)


def test_point_in_time(company: Company, tmp_path: Path) -> None:
    """What is delivered at once is earned at once; a plan by use at the use, else by the day."""
    with company.db.read() as session:
        at_once = bought_frame(session, company, "point_in_time")
    found = recognition.schedule(at_once, None, day(2, 28))
    assert found[["recognized_minor", "deferred_minor"]].to_numpy().tolist() == [[10000, 0], [0, 0]]
    assert sums(company.db, until="2025-01-03") == {
        "cash:offline": 930, "deferred:plans": -840, "revenue:subscription": -90
    }  # fmt: skip
    with aside(company, tmp_path / "books.db", unwritten=True) as copy:
        write(copy.db, on(1, 4), Rules(plans_over_time=False))
        assert sums(copy.db) == {
            "cash:offline": 930, "deferred:credits": -465, "revenue:usage": -465
        }  # fmt: skip


def test_tax_liability(company: Company) -> None:
    """By country and rate, the credit note taken off; the report and the ledger say the same."""
    found = revenue_figures.taxes(company.db, since=date(2025, 1, 1), until=date(2025, 12, 31))
    assert {
        (row.jurisdiction, row.treatment, row.rate_bp): (row.base_minor, row.tax_minor)
        for row in found
    } == {
        ("DE", "standard", 1900): (11000, 2090),
        ("EE", "standard", 2200): (1000, 220),
        ("EE", "standard", 2400): (250, 60),  # 12.40, of which 9.30 went back
        ("FR", "standard", 2000): (15000, 3000),  # open and paid
        ("AT", "reverse_charge", 0): (5690, 0),
        ("CH", "outside", 0): (1860, 0),
    }
    owed = {name: -minor for name, minor in sums(company.db).items() if name.startswith("tax:")}
    assert owed == {"tax:DE": 2090, "tax:EE": 280, "tax:FR": 3000}
    # A filing period: the second quarter has Ben's first order alone.
    june = revenue_figures.taxes(company.db, since=date(2025, 4, 1), until=date(2025, 6, 30))
    assert [(row.jurisdiction, row.tax_minor) for row in june] == [("CH", 0), ("EE", 220)]
    lines = pd.DataFrame(
        [("i1", day(6, 10), 1220), ("i2", day(7, 10), 1240), ("c1", day(7, 17), -930)],
        columns=["invoice_id", "ts", "base_minor"],
    ).assign(jurisdiction="EE", inclusive=True)
    rates = [{"jurisdiction": "EE", "rate_bp": 2200, "valid_to": "2025-07-01"},
             {"jurisdiction": "EE", "rate_bp": 2400, "valid_from": "2025-07-01"}]  # fmt: skip
    table = tax_rules.liability(lines, rates, day(12, 31))
    assert table[["rate_bp", "tax_minor"]].to_numpy().tolist() == [[2200, 220], [2400, 60]]


def test_tax_of_what_is_given_up(company: Company, tmp_path: Path) -> None:
    """A write-off takes the tax out on its day, in the report as in the ledger; June stays."""
    with aside(company, tmp_path / "books.db") as copy:
        spring = (date(2025, 1, 1), date(2025, 8, 31))

        def french(since: date, until: date) -> list[tuple[int, int, int]]:
            found = revenue_figures.taxes(copy.db, since=since, until=until)
            return [
                (row.base_minor, row.tax_minor, row.documents)
                for row in found
                if row.jurisdiction == "FR"
            ]

        (before,) = french(*spring)
        with copy.db.read() as session:
            owing = takings.open_invoices(session, at=NOW)
        unpaid = next(one for one in owing if one.open_minor == 12_000)
        late = on(9, 20)
        copy.db.write(
            lambda s: register.write_off(
                s, invoice_id=unpaid.id, reason="gone", actor="user:9", now=late
            )
        )
        write(copy.db, on(9, 22))
        assert french(*spring) == [before], "a period that was filed does not change"
        assert french(date(2025, 9, 1), date(2025, 9, 30)) == [(-10_000, -2_000, 1)]
        (whole,) = french(date(2025, 1, 1), date(2025, 12, 31))
        assert whole == (before[0] - 10_000, before[1] - 2_000, before[2] - 1)
        assert -sums(copy.db)["tax:FR"] == whole[1]


def test_rate_determination(company: Company) -> None:
    """By the buyer's place, VAT id and day; Estonia's rate changes on the first of July."""
    with company.db.read() as session:

        def rate(country: str, when: str = "2025-06-30", vat: bool = False) -> tuple[str, str, int]:
            rule = tax.decide(
                session, mode="destination", seller_country="DE", buyer_country=country,
                buyer_has_vat_id=vat, day=when,
            )  # fmt: skip
            return rule.treatment, rule.jurisdiction, rule.rate_bp

        assert rate("EE") == ("standard", "EE", 2200)
        assert rate("EE", "2025-07-01") == ("standard", "EE", 2400)
        assert rate("AT") == ("standard", "AT", 2000)
        assert rate("AT", vat=True) == ("reverse_charge", "AT", 0)
        assert rate("DE", vat=True) == ("standard", "DE", 1900)
        assert rate("CH") == ("outside", "CH", 0)
        assert rate("") == ("standard", "DE", 1900)
        with pytest.raises(tax_rules.NoRate):
            tax_rules.rate_of(
                tax_rules.rate_table([{"jurisdiction": "DE", "rate_bp": 1900}]),
                jurisdiction="EE", category="standard", at=day(6, 30),
            )  # fmt: skip
        invoice = register.of_payment(session, payment_id=company.ben)
    assert invoice is not None
    assert (invoice.net_minor, invoice.tax_minor, invoice.total_minor) == (1000, 240, 1240)


def test_receivable_record(company: Company) -> None:
    """A sent invoice is owed from its day until it is paid; nothing is earned or deferred by it."""

    def owed(at: int) -> list[tuple[int, str, int]]:
        with company.db.read() as session:
            found = takings.open_invoices(session, at=at)
        return sorted((row.user_id, row.due_on, row.open_minor) for row in found)

    assert owed(on(8, 1, 11)) == []
    both = [(EMIL, "2025-08-15", 6000), (EMIL, "2025-08-15", 12000)]
    assert owed(on(8, 1)) == owed(on(8, 20, 11)) == both
    assert owed(on(8, 20)) == both[1:]
    assert owed(NOW) == [(ANNA, "2025-09-07", 1190), (EMIL, "2025-08-15", 12000)]
    august = {"since": "2025-08-01"}
    assert sums(company.db, until="2025-08-19", **august) == {
        "receivable": 18000, "billed": -15000, "tax:FR": -3000
    }  # fmt: skip
    assert sums(company.db, until="2025-08-20", **august) == {
        "receivable": 12000, "billed": -10000, "tax:FR": -3000, "cash:offline": 6000,
        "deferred:credits": -5000,
    }  # fmt: skip
    assert sums(company.db)["receivable"] == 13190


def test_aging_report(company: Company) -> None:
    """On 20 October Emil is 66 days late and Anna 43: by customer, in total, with allowance."""
    found = revenue_figures.receivables(app_of(company), as_of=day(10, 20))
    nothing = dict.fromkeys([*receivables.buckets(), "total"], 0)
    assert found.aged.to_dict("index") == {
        str(ANNA): nothing | {"31-60": 1190, "total": 1190},
        str(EMIL): nothing | {"61-90": 12000, "total": 12000},
        "total": nothing | {"31-60": 1190, "61-90": 12000, "total": 13190},
    }
    assert {name: minor for name, minor in found.allowance.items() if minor} == {
        "31-60": 119, "61-90": 3000, "total": 3119
    }  # fmt: skip
    table = reports.make(
        company.db, kind="receivables", today=date(2025, 10, 20), since=date(2025, 1, 1)
    )
    assert [row[1:] for row in table.rows()] == [
        (EMIL, "2025-08-15", 66, "61-90", "USD", 12000),
        (ANNA, "2025-09-07", 43, "31-60", "USD", 1190),
    ]


@pytest.mark.parametrize(
    ("late", "bucket"),
    [(-1, "current"), (0, "current"), (1, "1-30"), (30, "1-30"), (31, "31-60"), (60, "31-60"),
     (61, "61-90"), (90, "61-90"), (91, "90+")],
)  # fmt: skip
def test_aging_buckets(company: Company, late: int, bucket: str) -> None:
    """Emil's invoice so many days after it was due, at the first and last moment of the day."""
    for moment in (DUE.replace(hour=0), DUE.replace(hour=23, minute=59)):
        found = revenue_figures.receivables(
            app_of(company), as_of=moment + timedelta(late), currency="USD"
        )
        mine = found.aged.loc[str(EMIL)]
        owed = 18000 if late < 5 else 12000  # another is paid on the fifth day
        assert {name: minor for name, minor in mine.items() if minor} == {
            bucket: owed, "total": owed
        }  # fmt: skip


def test_financial_event(company: Company) -> None:
    """Ben's refund: 7.50 of what is owed and 1.80 tax become 9.30 that is due, and are paid."""
    with company.db.read() as session:
        taken, paid = (journals.find(session, f"refund:{company.refund}:{what}")
                       for what in ("taken", "paid"))  # fmt: skip
        (note,), _ = log.find(session, type="credit_note_issued")
        (posted,), _ = log.find(session, type="journals_posted", limit=1)
    assert taken is not None
    assert paid is not None
    assert (taken.day, {line.account: line.minor for line in taken.lines}) == (
        "2025-07-15", {"deferred:credits": 750, "tax:EE": 180, "refunds_due": -930}
    )  # fmt: skip
    assert (paid.day, {line.account: line.minor for line in paid.lines}) == (
        "2025-07-17", {"refunds_due": 930, "cash:offline": -930}
    )  # fmt: skip
    assert (note.facts["total_minor"], note.at) == (930, on(7, 17))
    assert (posted.facts["day"], posted.facts["entries"]) == ("2025-08-25", 1)
    table = reports.make(
        company.db, kind="financial", today=date(2025, 7, 17), since=date(2025, 7, 15)
    )
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows()]
    assert {row["payment_id"] for row in rows} == {company.ben}
    assert sum(row["debit_minor"] for row in rows) == 1860
    assert sum(row["credit_minor"] for row in rows) == 1860


def test_chain_integrity(company: Company, tmp_path: Path) -> None:
    """A cent less on the record of an invoice is found by its row, on a posting by its month."""
    with aside(company, tmp_path / "books.db") as copy:
        with copy.db.read() as session:
            assert seal.verify(session, key=KEY) == []
            event = log.find(session, type="invoice_issued")[0][-1]
        kept = revenue.close(app_of(copy), period="2025-01", actor="user:9").digest
        with copy.db.engine.begin() as connection:
            for table in ("event_log", "posting"):
                connection.execute(text(f"DROP TRIGGER {table}_no_update"))
            connection.execute(
                text(
                    "UPDATE event_log SET payload = REPLACE(payload, :was, :now) WHERE seq = :seq"
                ),
                {"was": '"total_minor":930', "now": '"total_minor":929', "seq": event.seq},
            )
            connection.execute(
                text("UPDATE posting SET amount_minor = amount_minor - 1 WHERE journal_id IN"
                     " (SELECT id FROM journal WHERE day = '2025-01-20')")
            )  # fmt: skip
        with copy.db.read() as session:
            (bad,) = seal.verify(session, key=KEY)
            assert (bad.invariant, bad.facts["stream"], bad.facts["row"]) == (
                "I13", "event", event.seq
            )  # fmt: skip
            assert journals.digest(session, period="2025-01") != kept


def test_end_to_end(company: Company) -> None:
    """Anna's 119.00 from the payment to the last cent; of the whole company nothing is owed."""
    found = revenue.trace(app_of(company), payment_id=company.anna)
    owed, course = 0, []
    for entry in found.entries:
        owed -= sum(line.minor for line in entry.lines if line.account == "deferred:credits")
        course.append((entry.day, entry.kind, owed))
    assert course == [
        ("2025-01-05", "sale", 10000), ("2025-01-20", "use", 7273), ("2025-02-20", "use", 3636),
        ("2025-03-20", "use", 1000), ("2025-08-25", "expire", 0),
    ]  # fmt: skip
    assert {account: minor for (account, _), minor in found.balances.items()} == {
        "cash:offline": 11900, "tax:DE": -1900, "deferred:credits": 0, "revenue:usage": -9000,
        "revenue:breakage": -1000,
    }  # fmt: skip
    # 269.80 came in: 75.50 of plans, 152.50 of use, 10.00 that ended, 31.80 of tax on what is paid.
    assert sums(company.db) == {
        "cash:offline": 26980, "receivable": 13190, "billed": -11000, "tax:DE": -2090,
        "tax:EE": -280, "tax:FR": -3000, "revenue:usage": -15250, "revenue:subscription": -7550,
        "revenue:breakage": -1000,
    }  # fmt: skip
    tied(company.db)
