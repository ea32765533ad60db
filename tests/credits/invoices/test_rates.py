"""The operator's tax rates: dated, without overlap, never behind an issued invoice."""

import pytest
from sqlmodel import Session

from chat_app.credits.invoices import rates, register, tax
from chat_app.credits.invoices.rates import TaxRate
from chat_app.db import Database
from tests.credits.books import NOON
from tests.credits.invoices.test_register import DAY, order, problems, sell, seller

# NOON is on the first of January 2026.


def add(
    database: Database, place: str, rate_bp: int, first: str, last: str | None = None, **more: str
) -> TaxRate:
    values = {"source": "law", "actor": "user:1", **more}
    return database.write(
        lambda session: rates.add(
            session, jurisdiction=place, rate_bp=rate_bp, first=first, last=last, now=NOON,
            **values,
        )
    )  # fmt: skip


def days(database: Database, place: str) -> list[tuple[int, str, str | None]]:
    with database.read() as session:
        found = rates.listed(session, jurisdiction=place)
    return [(one.rate_bp, one.first, one.last) for one in found]


def test_a_new_rate_is_the_next_invoices_alone(database: Database) -> None:
    """What was issued stays; the one before ends on the eve; a draft takes its day's rate."""
    seller(database)
    before = sell(database)
    payment_id = database.write(lambda s: order(s))
    draft = database.write(lambda s: register.draft(s, payment_id=payment_id, now=NOON))
    add(database, "EE", 2600, "2026-01-02")
    assert days(database, "EE")[:2] == [
        (2600, "2026-01-02", None), (2400, "2025-07-01", "2026-01-01"),
    ]  # fmt: skip
    after = sell(database, now=NOON + DAY)
    opened = database.write(
        lambda s: register.open_draft(s, invoice_id=draft.id, actor="user:1", now=NOON + DAY)
    )
    printed = [one.document["taxes"][0]["rate_bp"] for one in (before, draft, after, opened)]
    assert printed == [2400, 2400, 2600, 2600]
    with database.read() as session:
        assert register.get(session, invoice_id=before.id) == before
    assert problems(database) == []


def test_no_rate_begins_behind_an_issued_invoice(database: Database) -> None:
    """Of its own country; others are free, and so is a country without invoices."""
    seller(database)
    sell(database, now=NOON + 3 * DAY)
    for day in ("2025-12-01", "2026-01-04"):
        with pytest.raises(rates.TaxRateTooEarly) as refused:
            add(database, "EE", 2600, day)
        assert refused.value.facts == {"earliest": "2026-01-05"}
    add(database, "EE", 2600, "2026-01-05")
    add(database, "XK", 1800, "2020-01-01")
    assert days(database, "XK") == [(1800, "2020-01-01", None)]


def test_days_never_overlap_and_a_rate_for_a_while_ends(database: Database) -> None:
    """Half a year of another rate: the usual one goes on after it."""
    seller(database)
    add(database, "DE", 1600, "2026-07-01", "2026-12-31")
    assert days(database, "DE") == [
        (1900, "2027-01-01", None), (1600, "2026-07-01", "2026-12-31"),
        (1900, "2021-01-01", "2026-06-30"),
    ]  # fmt: skip
    for first, last in (
        ("2026-07-01", None), ("2026-12-31", "2027-01-01"), ("2026-08-01", "2026-09-01"),
        ("2026-06-01", "2026-07-01"), ("2027-01-01", None),
    ):  # fmt: skip
        with pytest.raises(rates.TaxRateOverlap):
            add(database, "DE", 1700, first, last)
    with database.read() as session:
        found = [
            tax.rate(session, jurisdiction="DE", day=day)
            for day in ("2026-06-30", "2026-07-01", "2026-12-31", "2027-01-01")
        ]
    assert found == [1900, 1600, 1600, 1900]


@pytest.mark.parametrize(
    ("place", "rate_bp", "first", "last"),
    [
        ("EE", -1, "2026-02-01", None),
        ("EE", 10_001, "2026-02-01", None),
        ("ee", 2000, "2026-02-01", None),
        ("EST", 2000, "2026-02-01", None),
        ("EE", 2000, "2026-02-30", None),
        ("EE", 2000, "20260201", None),
        ("EE", 2000, "2026-02-01", "2026-01-31"),
        ("EE", 2000, "", None),
    ],
)
def test_what_is_no_rate_is_refused(
    sqlite_database: Database, place: str, rate_bp: int, first: str, last: str | None
) -> None:
    with pytest.raises(rates.BadTaxRate):
        add(sqlite_database, place, rate_bp, first, last)
    assert days(sqlite_database, "") == []


def test_a_planned_rate_can_be_taken_back_until_it_begins(database: Database) -> None:
    seller(database)
    planned = add(database, "EE", 2600, "2026-01-02")

    def remove(session: Session, now: int = NOON) -> None:
        rates.remove(session, rate_id=planned.id, actor="user:1", now=now)

    with pytest.raises(rates.TaxRateBegun):
        database.write(lambda session: remove(session, NOON + DAY))
    database.write(remove)
    assert days(database, "EE")[0] == (2400, "2025-07-01", None)
    with pytest.raises(rates.UnknownTaxRate):
        database.write(remove)


def test_the_built_in_list_leaves_the_operators_countries_alone(database: Database) -> None:
    """Also when the program starts again, and a newer list has other rates."""
    seller(database)
    add(database, "EE", 2600, "2026-01-02")
    before = days(database, "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tax, "SEED", [*tax.SEED, ("EE", 2700, "2026-03-01", None)])
        database.write(lambda session: tax.seed(session, now=NOON))
    assert days(database, "") == before
    with pytest.raises(rates.BadTaxRate):
        add(database, "EE", 2800, "2027-01-01", source=f"{tax.BUILT_IN}, or so")
