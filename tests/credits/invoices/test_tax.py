"""Tax: rates by day, who pays where, and amounts that add up to the minor unit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_app.credits.invoices import tax
from chat_app.credits.invoices.tax import Rule
from chat_app.db import Database
from tests.credits.books import NOON


@pytest.fixture
def rates(sqlite_database: Database) -> Database:
    sqlite_database.write(lambda session: tax.seed(session, now=NOON))
    sqlite_database.write(lambda session: tax.seed(session, now=NOON))  # again changes nothing
    return sqlite_database


@pytest.mark.parametrize(
    ("place", "day", "rate_bp"),
    [
        ("EE", "2025-06-30", 2200),
        ("EE", "2025-07-01", 2400),
        ("EE", "2026-06-01", 2400),
        ("FI", "2024-08-31", 2400),
        ("FI", "2024-09-01", 2550),
        ("SK", "2024-12-31", 2000),
        ("SK", "2026-01-01", 2300),
        ("RO", "2025-07-31", 1900),
        ("RO", "2025-08-01", 2100),
        ("EE", "1990-01-01", None),
        ("XX", "2026-01-01", None),
    ],
)
def test_the_rate_of_a_day(rates: Database, place: str, day: str, rate_bp: int | None) -> None:
    """A stale rate is worse than none: EE 24, FI 25.5, SK 23, RO 21 in 2026."""
    with rates.read() as session:
        assert tax.rate(session, jurisdiction=place, day=day) == rate_bp


@pytest.mark.parametrize(
    ("mode", "seller", "buyer", "vat_id", "expected"),
    [
        ("off", "EE", "DE", False, ("none", "EE", 0)),
        ("seller", "EE", "", False, ("standard", "EE", 2400)),
        ("seller", "EE", "EE", True, ("standard", "EE", 2400)),
        ("seller", "EE", "FI", False, ("standard", "EE", 2400)),
        ("seller", "EE", "FI", True, ("reverse_charge", "FI", 0)),
        ("seller", "EE", "US", False, ("outside", "US", 0)),
        ("destination", "EE", "FI", False, ("standard", "FI", 2550)),
        ("destination", "EE", "FI", True, ("reverse_charge", "FI", 0)),
        ("destination", "EE", "EE", False, ("standard", "EE", 2400)),
        ("destination", "EE", "GB", True, ("outside", "GB", 0)),
        ("seller", "CH", "DE", True, ("outside", "DE", 0)),
        ("seller", "CH", "CH", False, ("standard", "CH", 810)),
    ],
)
def test_who_pays_tax_where(
    rates: Database,
    mode: tax.Mode,
    seller: str,
    buyer: str,
    vat_id: bool,
    expected: tuple[str, str, int],
) -> None:
    with rates.read() as session:
        rule = tax.decide(
            session,
            mode=mode,
            seller_country=seller,
            buyer_country=buyer,
            buyer_has_vat_id=vat_id,
            day="2026-01-01",
        )
    assert (rule.treatment, rule.jurisdiction, rule.rate_bp) == expected


@pytest.mark.parametrize(
    ("gross", "rate_bp", "duty"),
    [
        (2000, 2400, 387),  # 387.096…
        (500, 2400, 97),  # 96.77…
        (1, 2400, 0),  # 0.19…
        (3, 2400, 1),  # 0.58…
        (31, 2400, 6),
        (5000, 2550, 1016),  # 1015.93…
        (251, 2550, 51),  # 51.0
        (11, 1000, 1),
        (6, 2000, 1),
        (1, 10000, 1),  # exactly a half: up
        (3, 10000, 2),  # 1.5: up
        (0, 2400, 0),
        (9_999_999_999_999_999, 2550, 2031872509960159),  # no binary fraction could say this
    ],
)
def test_tax_inside_a_gross_amount_is_rounded_half_up(gross: int, rate_bp: int, duty: int) -> None:
    assert tax.inside(gross, rate_bp) == duty


def test_tax_is_computed_on_the_sum_of_a_rate() -> None:
    """Three lines of 0.33 at 24 % hold 0.19 of tax together; line by line it were 0.18."""
    rule, other = Rule("standard", "EE", 2400), Rule("standard", "FI", 2550)
    found = tax.lines([(33, rule), (33, rule), (33, rule), (100, other)])
    assert [(line.rule.jurisdiction, line.base_minor, line.tax_minor) for line in found] == [
        ("EE", 80, 19),
        ("FI", 80, 20),
    ]
    assert 3 * tax.inside(33, 2400) == 18
    net = tax.lines([(33, rule), (33, rule), (33, rule)], inclusive=False)
    assert [(line.base_minor, line.tax_minor) for line in net] == [(99, 24)]


@given(
    whole=st.integers(0, 10**12),
    cuts=st.lists(st.integers(1, 10**6), min_size=1, max_size=12),
)
def test_shares_add_up_however_they_are_cut(whole: int, cuts: list[int]) -> None:
    total, done, shares = sum(cuts), 0, []
    for cut in cuts:
        shares.append(tax.part(whole, done=done, more=cut, of=total))
        done += cut
    assert sum(shares) == whole
    assert min(shares) >= 0


def test_rates_are_shown_as_people_write_them() -> None:
    assert [tax.show_rate(bp) for bp in (2400, 2550, 810, 0, 5)] == [
        "24 %", "25.5 %", "8.1 %", "0 %", "0.05 %",
    ]  # fmt: skip
