"""The money ledger of some simulated months, proven by paths that share no line with it.

pandas computes every month again from raw rows of orders, invoices, lots and their uses, to the
cent; Beancount checks the export, whose balances come from the credits' own books.
"""

import csv
import resource
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from beancount import loader
from beancount.ops import validation
from sqlalchemy import text
from sqlmodel import Session

from chat_app import settings as settings_room
from chat_app.clock import ManualClock, from_micros, to_micros
from chat_app.credits.invoices import register
from chat_app.credits.payments import orders
from chat_app.credits.takings import PlanPeriod
from chat_app.db import Database, migrate
from chat_app.flows import (
    money_books,
    reconcile,
    revenue_costs,
    revenue_detail,
    revenue_figures,
    revenue_overview,
    revenue_rows,
    simulate,
)
from chat_app.flows.revenue_rows import Behind
from chat_app.revenue import journals, metrics, months, receivables
from chat_app.revenue.spans import Span
from chat_app.settings import Costs, Settings
from tests.credits.books import fresh
from tests.effort import effort
from tests.flows.test_revenue import on, sell, sums, tied, use, write

NOW = to_micros(datetime(2026, 3, 20, tzinfo=UTC))
DAY = 86_400_000_000


def german(folder: Path) -> Settings:
    """A seller with 19 % inside of every price, so that net and gross differ everywhere."""
    return settings_room.load(
        data_dir=folder,
        llm={"engine": "script"},
        business={"name": "Rechner GmbH", "country": "DE", "tax": "seller"},
    )


@dataclass
class Company:
    """A simulated company whose money ledger is written."""

    db: Database
    path: Path

    def frame(self, query: str) -> pd.DataFrame:
        """Rows, by themselves."""
        with self.db.engine.connect() as connection:
            found = connection.execute(text(query))
            return pd.DataFrame(found.fetchall(), columns=list(found.keys()), dtype=object)


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    folder = tmp_path_factory.mktemp("company")
    db = Database(f"sqlite:///{folder / 'books.db'}")
    migrate(db)
    simulate.run(
        db,
        german(folder),
        users=effort(200, 40),
        months=effort(12, 5),
        seed=44,
        now=NOW,
        fraud=True,
    )
    db.write(_send_invoices)
    write(db, NOW + 2 * DAY)
    yield Company(db, folder)
    db.close()


def _send_invoices(session: Session) -> None:
    """Invoices that are sent before they are paid: open, paid, and written off."""
    user, package = session.execute(
        text("""SELECT p.user_id, p.package_code FROM payment p
            WHERE p.package_code IS NOT NULL AND p.status = 'paid' ORDER BY p.id LIMIT 1""")
    ).one()
    for number in range(5):
        at = NOW - DAY + number
        order = orders.create(
            session, user_id=user, package_code=package, now=at, scope="t", key=fresh()
        )
        drafted = register.draft(session, payment_id=order.id, now=at)
        sent = register.open_draft(session, invoice_id=drafted.id, actor="user:1", now=at)
        if number == 2:
            register.write_off(session, invoice_id=sent.id, reason="gone", actor="user:1", now=at)
        if number == 4:
            orders.fulfil(session, payment_id=order.id, now=at + 1)


def half_up(share: Decimal) -> int:
    return int(share.quantize(Decimal(1), rounding=ROUND_HALF_UP))


def month_of(micros: int) -> str:
    return str(pd.Timestamp(int(micros), unit="us").strftime("%Y-%m"))


def test_pandas_says_the_same_to_the_cent(company: Company) -> None:
    """Every month's sales, earnings and deferred revenue from raw rows, and tax and open invoices.

    A lot's net price follows what left it, rounded once on the sum so far; what is handed to
    another wallet takes its share along; a plan's price is spread over its days.
    """
    sold = company.frame(
        """SELECT p.id, p.amount_minor, p.currency, p.source, o.transfer_id,
         t.created_at AS sold_at, i.net_minor AS net, s.starts_at, s.ends_at
        FROM payment p JOIN operation o ON o.id = p.fulfilled_op_id
        JOIN transfer t ON t.id = o.transfer_id
        JOIN invoice i ON i.payment_id = p.id AND i.kind = 'invoice' AND i.status <> 'void'
        LEFT JOIN subscription_period s
         ON s.subscription_id = p.subscription_id AND s.number = p.period"""
    ).set_index("transfer_id")
    lots = company.frame("SELECT id, transfer_id, parent_lot_id, granted FROM lot ORDER BY id")
    uses = company.frame(
        """SELECT u.lot_id, u.transfer_id, u.amount, u.kind, t.created_at AS at, t.code
        FROM lot_use u JOIN transfer t ON t.id = u.transfer_id ORDER BY u.transfer_id"""
    )
    by_lot = dict(iter(uses.groupby("lot_id")))
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    handed: dict[tuple[int, int], int] = {}
    for lot in lots.itertuples():
        sale = sold.loc[lot.transfer_id] if lot.transfer_id in sold.index else None
        parent = None if pd.isna(lot.parent_lot_id) else int(lot.parent_lot_id)
        net = handed.get((lot.transfer_id, parent), 0) if parent else 0
        if sale is not None:
            net = int(sale.net)
            found[month_of(sale.sold_at)]["billed"] += net
            if not pd.isna(sale.starts_at):
                _over_time(found, sale, net)
                continue
        mine = by_lot.get(lot.id)
        if mine is None or not net:
            continue
        shares = [half_up(Decimal(net) * out / lot.granted) for out in mine["amount"].cumsum()]
        for row, share in zip(
            mine.itertuples(), pd.Series([0, *shares]).diff().iloc[1:], strict=True
        ):
            kind = {"use": "usage", "expire": "breakage", "refund": "refunded"}.get(row.kind)
            if row.kind == "move":
                handed[row.transfer_id, lot.id] = int(share)
            elif row.code == "repayment":
                found[month_of(row.at)]["recovered"] += int(share)
            else:
                assert kind is not None
                found[month_of(row.at)][kind] += int(share)
    with company.db.read() as session:
        shown = months.roll_forward(session, until="2026-03-20")
        tax = journals.balances(session, until="2026-03-20")
    assert len(shown) >= 5
    closing = 0
    for row in shown:
        mine = found[row.period]
        assert row.opening == closing
        for name in ("billed", "usage", "breakage", "subscription", "refunded"):
            assert getattr(row, name) == mine[name], (row.period, name)
        gone = ("usage", "breakage", "subscription", "refunded", "recovered")
        closing += mine["billed"] - sum(mine[name] for name in gone)
        assert row.closing == closing
    assert {name for row in found.values() for name, minor in row.items() if minor} >= {
        "billed", "usage", "subscription", "refunded"
    }  # fmt: skip
    _tax_and_cash(company, {name: minor for (name, _), minor in tax.items()})


def _over_time(found: dict[str, dict[str, int]], sale: Any, net: int) -> None:
    """A plan: an equal part of its price for each day of it that is over."""
    first, end = (
        pd.Timestamp(int(at), unit="us").normalize() for at in (sale.starts_at, sale.ends_at)
    )
    last = pd.Timestamp(NOW, unit="us").normalize() + pd.Timedelta(1, "D")
    before = 0
    for day in pd.date_range(first, min(end, last) - pd.Timedelta(1, "D")):
        share = half_up(Decimal(net) * ((day - first).days + 1) / (end - first).days)
        found[f"{day:%Y-%m}"]["subscription"] += share - before
        before = share


def _tax_and_cash(company: Company, shown: dict[str, int]) -> None:
    """Tax is what documents in force say; cash what orders say, less what went back."""
    documents = company.frame(
        """SELECT i.kind, i.status, x.jurisdiction, x.tax_minor FROM invoice i
        JOIN invoice_tax x ON x.invoice_id = i.id WHERE i.number IS NOT NULL"""
    )
    standing = documents[~documents["status"].isin(["void", "uncollectible"])]
    sign = standing["kind"].map({"invoice": 1, "credit_note": -1})
    by_place = (standing["tax_minor"] * sign).groupby(standing["jurisdiction"]).sum()
    assert by_place["DE"] == -shown["tax:DE"] > 0
    paid = company.frame("SELECT amount_minor FROM payment WHERE status = 'paid'")
    back = company.frame("SELECT amount_minor FROM refund WHERE state = 'succeeded'")
    taken = company.frame("SELECT disputed_minor FROM dispute WHERE state = 'lost'")
    assert shown["cash:offline"] == (
        paid["amount_minor"].sum() - back["amount_minor"].sum() - taken["disputed_minor"].sum()
    )
    sent = company.frame("SELECT due_on, total_minor FROM invoice WHERE status = 'open'")
    assert shown["receivable"] == sent["total_minor"].sum() > 0
    names = receivables.buckets()
    frame = pd.DataFrame(
        {"invoice_id": range(len(sent)), "customer_id": "c", "due_date": sent["due_on"],
         "open_minor": sent["total_minor"].astype("int64")}
    )  # fmt: skip
    met = set()
    for later in (0, 12, 13, 42, 43, 72, 73, 102, 103, 400):
        at = pd.Timestamp(NOW, unit="us") + pd.Timedelta(later, "D")
        late = (at - pd.to_datetime(sent["due_on"])).dt.days
        bucket = pd.cut(late, [-10_000, 0, 30, 60, 90, 10_000], labels=names)
        expected = sent["total_minor"].groupby(bucket, observed=False).sum()
        aged = receivables.aging(frame, at.tz_localize("UTC")).loc["total"]
        assert {name: int(aged[name]) for name in names} == expected.astype(int).to_dict()
        met |= {name for name in names if expected[name]}
    assert met == set(names)


def test_recurring_revenue_is_what_the_periods_say(company: Company) -> None:
    """MRR, its movements and customers of every month end, from the raw periods of plans."""
    rows = company.frame(
        """SELECT s.user_id, e.starts_at, e.ends_at, i.net_minor
        FROM subscription_period e JOIN subscription s ON s.id = e.subscription_id
        JOIN invoice i ON i.payment_id = e.payment_id AND i.kind = 'invoice'
        WHERE e.state = 'paid'"""
    ).astype("int64")
    assert len(rows) >= 3

    def standing(at: pd.Timestamp) -> "pd.Series[int]":
        moment = at.value // 1000
        running = rows[(rows["starts_at"] <= moment) & (moment < rows["ends_at"])]
        return running.groupby("user_id")["net_minor"].last()

    def ever(at: pd.Timestamp) -> set[int]:
        return set(rows.loc[rows["starts_at"] <= at.value // 1000, "user_id"])

    with company.db.read() as session:
        periods = revenue_figures.takings.plan_periods(session, until=NOW)
    history = metrics.history(
        revenue_figures.movements(periods), datetime(2026, 3, 20, tzinfo=UTC), months=6
    )
    for period, shown in history.iterrows():
        begin = pd.Timestamp(f"{period}-01") - pd.Timedelta(1, "us")
        until = min(
            pd.Timestamp(f"{period}-01") + pd.DateOffset(months=1) - pd.Timedelta(1, "us"),
            pd.Timestamp(NOW, unit="us"),
        )
        before, after = standing(begin).align(standing(until), fill_value=0)
        came = after[(before == 0) & (after > 0)]
        known = came.index.isin(list(ever(begin)))
        assert shown["mrr_minor"] == after.sum(), period
        assert shown["customers"] == (after > 0).sum()
        assert shown["new_minor"] == came[~known].sum()
        assert shown["reactivation_minor"] == came[known].sum()
        assert shown["churned_minor"] == before[after == 0].sum()
        more = (after - before)[(before > 0) & (after > 0)]
        assert shown["expansion_minor"] == more.clip(lower=0).sum()
        assert shown["contraction_minor"] == (-more).clip(lower=0).sum()
    assert history["mrr_minor"].max() > 0


def bean_errors(path: Path) -> list[str]:
    found = loader.load_file(str(path), extra_validations=validation.HARDCORE_VALIDATIONS)[1]
    return [error.message for error in found]


def test_beancount_ties_the_two_ledgers(company: Company, tmp_path: Path) -> None:
    """bean-check of the money ledger, its balances from the credits' books; a cent is caught."""
    assert reconcile.compare(company.db, now=NOW) == []
    count = money_books.write(company.db, tmp_path / "money.beancount")
    words = (tmp_path / "money.beancount").read_text()
    assert count > 100
    ended = subprocess.run(
        [sys.executable, "-m", "beancount.scripts.check", tmp_path / "money.beancount"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    for account in (
        "Assets:Cash:Offline", "Assets:Receivable", "Liabilities:Deferred:Credits",
        "Liabilities:Deferred:Plans",
    ):  # fmt: skip
        assert f" balance {account} " in words
    lines = words.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("  Income:Usage"))
    account, amount, currency = lines[at].split()
    whole = Decimal(amount) - Decimal("0.01")
    (tmp_path / "less.beancount").write_text(
        "\n".join([*lines[:at], f"  {account}  {whole} {currency}", *lines[at + 1 :]])
    )
    assert bean_errors(tmp_path / "less.beancount")
    owed = next(line for line in lines if " balance Liabilities:Deferred:Credits" in line)
    day, _, account, amount, currency = owed.split()
    (tmp_path / "owed.beancount").write_text(
        words.replace(owed, f"{day} balance {account} {Decimal(amount) + 1} {currency}")
    )
    assert bean_errors(tmp_path / "owed.beancount")


def test_as_of_is_the_same_however_late_one_asks(company: Company) -> None:
    """Figures of a past moment do not change with what came later; a closed month stays."""
    with company.db.read() as session:
        whole = {row.period: row for row in months.roll_forward(session, until="2026-03-20")}
        early = {row.period: row for row in months.roll_forward(session, until="2026-01-31")}
    assert early == {period: whole[period] for period in early}
    assert set(whole) - set(early) == {"2026-02", "2026-03"}


def test_write_off_and_recovery_are_postings(database: Database) -> None:
    """A sent invoice is written off and paid after all; a lost payment is paid back in credits."""
    from chat_app.credits.invoices import sellers, tax
    from tests.flows.test_revenue import GERMANY

    def story(session: Session) -> tuple[str, str]:
        tax.seed(session, now=on(1))
        sellers.keep(session, seller=GERMANY, now=on(1))
        order = orders.create(
            session, user_id=1, micro=1_000_000_000, now=on(1, 5), scope="t", key=fresh()
        )
        drafted = register.draft(session, payment_id=order.id, now=on(1, 5))
        sent = register.open_draft(session, invoice_id=drafted.id, actor="user:9", now=on(1, 5))
        return order.id, sent.id

    order, invoice = database.write(story)
    write(database, on(1, 8))
    assert sums(database) == {"receivable": 1000, "billed": -840, "tax:DE": -160}
    database.write(
        lambda s: register.write_off(
            s, invoice_id=invoice, reason="gone", actor="user:9", now=on(2, 5)
        )
    )
    write(database, on(2, 8))
    assert sums(database) == {}
    with database.read() as session:
        kinds = [entry.key for entry in journals.of_payment(session, order)]
    assert kinds == [f"invoice:{invoice}:opened", f"invoice:{invoice}:ended"]
    database.write(lambda s: orders.fulfil(s, payment_id=order, now=on(3, 1)))
    write(database, on(3, 4))
    assert sums(database) == {"cash:offline": 1000, "deferred:credits": -840, "tax:DE": -160}
    tied(database)


def test_a_paid_debt_is_a_recovery(database: Database) -> None:
    """What a bank took after it was used is bad debt, until the next credits pay it back."""
    from chat_app.credits.payments import returns
    from chat_app.credits.payments.provider import DisputeStanding

    first, _ = database.write(lambda s: sell(s, 1000, 100, at=on(1, 5)))
    database.write(lambda s: use(s, 100, at=on(1, 6)))
    database.write(
        lambda s: returns.dispute(
            s, orders.find(s, first),
            DisputeStanding("dp1", "pi1", "lost", 1000, "USD", "fraudulent"), now=on(1, 8),
        )
    )  # fmt: skip
    write(database, on(1, 10))
    assert sums(database) == {"bad_debt": 1000, "revenue:usage": -1000}
    database.write(lambda s: sell(s, 3000, 300, at=on(1, 12)))
    write(database, on(1, 14))
    # 100 of the 300 new credits pay the debt: their price is a recovery and no second sale.
    assert sums(database) == {
        "cash:offline": 3000, "deferred:credits": -2000, "revenue:usage": -1000
    }  # fmt: skip
    tied(database)


def period(user: int, start: str, end: str, minor: int, plan: str = "a") -> PlanPeriod:
    first, last = (
        to_micros(datetime.fromisoformat(day).replace(tzinfo=UTC)) for day in (start, end)
    )
    return PlanPeriod(user, first, last, plan, "USD", minor)


@pytest.mark.parametrize(
    ("name", "periods", "expected"),
    [
        # (new, expansion, contraction, churned, reactivation, MRR, customers) of March 2026
        ("began in March", [period(1, "2026-03-10", "2026-04-10", 900)], (900, 0, 0, 0, 0, 900, 1)),
        ("began at its first instant", [period(1, "2026-03-01", "2026-04-01", 900)],
         (900, 0, 0, 0, 0, 900, 1)),
        ("ended with February", [period(1, "2026-02-01", "2026-03-01", 900)],
         (0, 0, 0, 900, 0, 0, 0)),
        ("came and went in March: nothing stays, nothing moved",
         [period(1, "2026-03-03", "2026-03-20", 900)], (0, 0, 0, 0, 0, 0, 0)),
        ("left and was back in March: he pays at both ends",
         [period(1, "2026-02-05", "2026-03-05", 900), period(1, "2026-03-15", "2026-04-15", 900)],
         (0, 0, 0, 0, 0, 900, 1)),
        ("back after a month without", [period(1, "2026-01-05", "2026-02-05", 900),
         period(1, "2026-03-15", "2026-04-15", 700)], (0, 0, 0, 0, 700, 700, 1)),
        ("a dearer plan in mid-month takes the place of the old one",
         [period(1, "2026-02-20", "2026-03-20", 900),
          period(1, "2026-03-10", "2026-04-10", 2900, "b")], (0, 2000, 0, 0, 0, 2900, 1)),
        ("a cheaper one from the next period on", [period(1, "2026-02-10", "2026-03-10", 2900, "b"),
         period(1, "2026-03-10", "2026-04-10", 900)], (0, 0, 2000, 0, 0, 900, 1)),
        ("up and down again within the month is no movement",
         [period(1, "2026-02-10", "2026-03-10", 900), period(1, "2026-03-10", "2026-03-20", 2900),
          period(1, "2026-03-20", "2026-04-20", 900)], (0, 0, 0, 0, 0, 900, 1)),
        ("a month of 31 days and one of 28 are one month of MRR each",
         [period(1, "2026-01-31", "2026-02-28", 900), period(1, "2026-02-28", "2026-03-31", 900),
          period(1, "2026-03-31", "2026-04-30", 900)], (0, 0, 0, 0, 0, 900, 1)),
        ("a new customer is never an expansion", [period(1, "2026-02-10", "2026-04-10", 900),
         period(2, "2026-03-10", "2026-04-10", 900)], (900, 0, 0, 0, 0, 1800, 2)),
    ],
)  # fmt: skip
def test_movements_by_hand(name: str, periods: list[PlanPeriod], expected: tuple[int, ...]) -> None:
    """Each kind of movement in March 2026, worked out by hand; they add up to the change."""
    found = metrics.history(
        revenue_figures.movements(periods), datetime(2026, 4, 1, tzinfo=UTC), months=2
    ).loc["2026-03"]
    fields = ("new_minor", "expansion_minor", "contraction_minor", "churned_minor",
              "reactivation_minor", "mrr_minor", "customers")  # fmt: skip
    assert tuple(int(found[field]) for field in fields) == expected, name
    moved = expected[0] + expected[1] - expected[2] - expected[3] + expected[4]
    assert found["mrr_minor"] - found["opening_mrr_minor"] == moved


STREAM = """
import resource, sys
from datetime import date
from chat_app.db import Database
from chat_app.flows import reports
db = Database(sys.argv[1])
today = date(2026, 3, 20)
def lines(kind, form, since):
    made = reports.make(db, kind=kind, today=today, since=since, until=today)
    return (reports.as_csv if form == "csv" else reports.as_json)(made)
list(lines("usage", "csv", today)); list(lines("financial", "json", today))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = 0
for kind in ("usage", "financial"):
    for form in ("csv", "json"):
        for line in lines(kind, form, date(2020, 1, 1)):
            rows += 1
print(rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def _many(session: Session, count: int) -> None:
    """So many postings, and as many rows of usage."""
    at = to_micros(datetime(2021, 1, 1, tzinfo=UTC))
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "
    for query in (
        f"""INSERT INTO journal (id, key, day, kind, memo, actor, created_at) {numbers}
        SELECT 1000000 + i, 'many:' || i, date('2021-01-01', '+' || (i % 1500) || ' days'), 'use',
         'Many', 'system', {at} FROM n WHERE i % 2 = 0""",
        f"""INSERT INTO posting (journal_id, line, account, currency, amount_minor) {numbers}
        SELECT 1000000 + i + i % 2, i % 2, CASE i % 2 WHEN 0 THEN 'cash:bank' ELSE 'cost:gpu' END,
         'USD', CASE i % 2 WHEN 0 THEN -5 ELSE 5 END FROM n""",
        f"""INSERT INTO usage_day (user_id, starts_at, model, messages, answers, prompt_tokens,
         completion_tokens, cost) {numbers}
        SELECT i % 100, {at // DAY * DAY} + (i / 100) * {DAY}, 'model', 1, 1, 10,
         100, 1000000 FROM n""",
    ):
        session.execute(text(query))


@pytest.mark.full
def test_a_hundred_thousand_rows_stream_in_little_memory(
    sqlite_database: Database,
) -> None:
    """Usage and postings as CSV and JSON: the peak of a process of its own grows by ≤ 50 MB."""
    sqlite_database.write(lambda s: _many(s, 100_000))
    ended = subprocess.run(
        [sys.executable, "-c", STREAM, str(sqlite_database.engine.url)],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    rows, grown = map(int, ended.stdout.split())
    print(f"{rows:,} rows, peak memory grew by {grown} MB")
    assert rows >= 400_000
    assert grown <= 50


@pytest.mark.full
def test_a_year_of_four_hundred_people_is_quick(tmp_path: Path) -> None:
    """400 people, 12 months: at most 30 seconds of a CPU, money ledger not counted."""
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "chat_app", "simulate", "--data-dir", str(tmp_path), "--users",
         "400", "--months", "12", "--seed", "1"],
        capture_output=True, check=True, timeout=600,
    )  # fmt: skip
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    print(f"{seconds:.1f} s of CPU")
    assert seconds <= 30


class Fake:
    """What the figures need of an app."""

    def __init__(self, company: Company) -> None:
        self.db = company.db
        self.settings = german(company.path)
        self.clock = ManualClock(from_micros(NOW))


def test_breakdowns_and_rows_add_up_to_their_figures(company: Company) -> None:
    """Every breakdown, and the orders behind each figure of each month, to the cent."""
    app: Any = Fake(company)
    with company.db.read() as session:
        shown = months.roll_forward(session, until="2026-03-20")
    for row in shown:
        first = date.fromisoformat(f"{row.period}-01")
        last = (first + timedelta(days=32)).replace(day=1) - timedelta(days=1)
        span: dict[str, Any] = {"since": first, "until": last, "currency": "USD"}
        for by in ("model", "channel", "organisation", "plan", "country"):
            found = revenue_detail.breakdown(app, by=by, **span)  # type: ignore[arg-type]
            assert sum(part.earned_minor for part in found) == row.recognized, (row.period, by)
        for figure in ("billed", "usage", "subscription", "breakage", "refunded", "closing"):
            behind = behind_of(app, figure, Span(first, last))
            assert sum(one.minor for one in behind) == getattr(row, figure), (row.period, figure)
            assert all(one.invoice and one.username for one in behind if one.payment_id)
    whole: dict[str, Any] = {
        "since": date(2025, 1, 1),
        "until": date(2026, 3, 20),
        "currency": "USD",
    }
    assert {part.name for part in revenue_detail.breakdown(app, by="plan", **whole)} >= {"Plus"}
    assert [part.name for part in revenue_detail.breakdown(app, by="country", **whole)] == ["DE"]
    (used,) = company.frame('SELECT COUNT(*) AS n, SUM(engine_ms) AS ms FROM "usage"').itertuples()
    margins = revenue_detail.margins(app, **whole)
    assert sum(one.answers for one in margins) == used.n
    assert sum(one.engine_ms for one in margins) == used.ms


def behind_of(app: Any, figure: Any, span: Span, part: str = "") -> list[revenue_rows.Row]:
    """All rows of a figure, seven at a time; they are as many as is said, and come to as much."""
    what, cursor = Behind(figure, span, "USD", part), ""
    rows: list[revenue_rows.Row] = []
    while True:
        page = revenue_rows.find(app, what, limit=7, cursor=cursor)
        rows += page.items
        if page.next_cursor is None:
            assert (len(rows), sum(row.minor for row in rows)) == (page.count, page.total_minor)
            return rows
        cursor = page.next_cursor


def test_rows_behind_everything_that_is_shown(company: Company) -> None:
    """Cells, buckets, rates, names, cohorts and cards: the rows add up to each of them."""
    app: Any = Fake(company)
    span = Span(date(2025, 12, 5), date(2026, 3, 20))
    shown = revenue_overview.overview(app, span=span, currency="USD")

    def total(figure: str, part: str = "") -> int:
        return sum(row.minor for row in behind_of(app, figure, span, part))

    for card, figure in (
        ("earned_minor", "earned"), ("billed_minor", "billed"), ("refunded_minor", "refunded"),
        ("deferred_minor", "closing"), ("mrr_minor", "mrr"), ("open_minor", "open"),
        ("cost_minor", "cost"),
    ):  # fmt: skip
        assert total(figure) == shown[card].value, card
    found = revenue_figures.recognition(app, since=span.first, until=span.last, currency="USD")
    assert sum(row.recognized for row in found.months) == shown["earned_minor"].value
    assert found.months[0].opening + sum(
        row.billed + row.other - row.recognized - row.refunded for row in found.months
    ) == found.months[-1].closing == shown["deferred_minor"].value  # fmt: skip
    for bought, line in found.waterfall.items():
        assert total("earned", bought) == sum(line.values())
    for by in ("model", "channel", "organisation", "plan", "country"):
        for one in revenue_detail.breakdown(
            app,
            by=by,
            since=span.first,
            until=span.last,
            currency="USD",  # type: ignore[arg-type]
        ):
            assert total(by, one.name) == one.earned_minor, (by, one.name)
    for rate in revenue_figures.tax(app, since=span.first, until=span.last):
        part = f"{rate.jurisdiction}|{rate.category}|{rate.treatment}|{rate.rate_bp}"
        rows = behind_of(app, "tax", span, part)
        assert (sum(row.minor for row in rows), len(rows)) == (rate.tax_minor, rate.documents)
    aged = revenue_figures.receivables(app, as_of=app.clock.now(), currency="USD").aged
    for bucket in receivables.buckets():
        assert total("open", bucket) == aged.loc["total", bucket]
    before = revenue_overview.overview(
        app, span=Span(date(2025, 11, 1), date(2025, 12, 4)), currency="USD"
    )
    assert total("moved") == shown["mrr_minor"].value - before["mrr_minor"].value  # type: ignore[operator]
    for cohort in revenue_figures.cohorts(app, as_of=app.clock.now(), currency="USD"):
        for age, minor in enumerate(cohort.mrr_minor):
            rows = behind_of(app, "cohort", span, f"{cohort.period}+{age}")
            assert (sum(row.minor for row in rows), len(rows)) == (minor, cohort.customers)
            assert sum(1 for row in rows if row.minor) == cohort.left[age]
    table = list(csv.reader(revenue_rows.as_csv(app, Behind("earned", span, "USD"))))
    assert sum(int(line[1]) for line in table[1:]) == shown["earned_minor"].value


def test_running_costs_are_posted_once_and_never_into_a_closed_month(
    database: Database, tmp_path: Path
) -> None:
    """A day costs its busy time; cents are rounded over a month; shares add up to the ledger."""
    busy = ((1, 6, 15_000), (1, 7, 15_000), (1, 7, 7_200_000), (2, 1, 15_000), (2, 2, 15_000),
            (3, 1, 3_600_000))  # fmt: skip

    def story(session: Session) -> None:
        sell(session, 10000, 1000, at=on(1, 5))
        for number, (month, day, ms) in enumerate(busy):
            use(session, 1, at=on(month, day))
            session.execute(
                text("""INSERT INTO "usage" (transfer_id, account_id, user_id, reply_id, model,
                  price_version, prompt_tokens, completion_tokens, cost, engine_ms, status, at)
                 SELECT MAX(t.id), MAX(h.account_id), 1, :id, :model, 1, 1, 1, 1000000, :ms, 'done',
                  :at FROM transfer t, hold h"""),
                {"id": f"r{number}", "model": f"m{number % 2}", "ms": ms, "at": on(month, day)},
            )

    def post(costs: Costs) -> int:
        return database.write(lambda s: revenue_costs.write(s, costs=costs, now=on(3, 10)))

    database.write(story)
    write(database, on(2, 20))
    # 9 cents of power and 91 of the machine in an hour. Two days of 0.38 cents are one cent.
    prices = Costs(watts=300, cents_per_kwh=30, cents_per_hour=91)
    assert post(Costs()) == 0
    assert (post(prices), post(prices), post(Costs(cents_per_hour=500))) == (2, 0, 0)
    assert sums(database, until="2025-01-31")["cost:gpu"] == 183
    february = sums(database, since="2025-02-01")
    assert (february["cost:gpu"], "cost:power" in february) == (1, False)
    write(database, on(4, 2))
    for month in ("2025-01", "2025-02", "2025-03"):
        database.write(lambda s, m=month: journals.close(s, period=m, actor="user:1", now=on(4, 2)))  # type: ignore[misc]
    assert post(prices) == 0  # March is closed without them
    booked = -sums(database)["payable:running"]
    assert booked == 183 + 18 + 1
    app: Any = Fake(Company(database, tmp_path))
    span: dict[str, Any] = {"since": date(2025, 1, 1), "until": date(2025, 3, 9)}
    margins = revenue_detail.margins(app, **span, currency="USD")
    assert sum(one.cost_minor for one in margins) == booked
    with database.read() as session:
        rolled = months.roll_forward(session, until="2025-03-31")
    assert [row.cost for row in rolled] == [201, 1, 0]
    revenue_costs.book(app, day="2025-04-01", kind="payout", minor=booked, currency="USD",
                       memo="power and rent", key="k", actor="user:1")  # fmt: skip
    assert "payable:running" not in sums(database)
    path = tmp_path / "money.beancount"
    money_books.write(database, path)
    assert loader.load_file(str(path), extra_validations=validation.HARDCORE_VALIDATIONS)[1] == []


def test_movements_name_their_customers(company: Company) -> None:
    """The customers behind each movement add up to the month's metrics."""
    app: Any = Fake(company)
    with company.db.read() as session:
        periods = revenue_figures.takings.plan_periods(session, until=NOW)
    history = metrics.history(
        revenue_figures.movements(periods), datetime(2026, 3, 20, tzinfo=UTC), months=4
    )
    kinds = set()
    for month, row in history.iterrows():
        first = datetime.fromisoformat(f"{month}-01").replace(tzinfo=UTC)
        end = min((first + timedelta(days=32)).replace(day=1), datetime(2026, 3, 20, tzinfo=UTC))
        tick = timedelta(microseconds=1)
        found = revenue_detail.moved(app, since=first - tick, until=end - tick, currency="USD")
        for kind in ("new", "expansion", "contraction", "churned", "reactivation"):
            change = sum(abs(o.after_minor - o.before_minor) for o in found if o.movement == kind)
            assert change == row[f"{kind}_minor"], (month, kind)
            kinds |= {kind} if change else set()
    assert "new" in kinds
