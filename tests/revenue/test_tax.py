"""Tax liability: dated rates, both kinds of prices, who owes nothing, one rounding a rate."""

# ruff: noqa: DTZ001 - callers may give naive times, which are taken as UTC

from datetime import datetime

import pandas as pd
import pytest

from chat_app.revenue import tax
from chat_app.revenue.frames import BadFrame

RATES = pd.DataFrame(
    [
        ("DE", "standard", 1900, None, "2020-07-01"),
        ("DE", "standard", 1600, "2020-07-01", "2021-01-01"),
        ("DE", "standard", 1900, "2021-01-01", None),
        ("DE", "books", 700, None, None),
        ("EE", "standard", 2400, None, None),
    ],
    columns=["jurisdiction", "category", "rate_bp", "valid_from", "valid_to"],
)


def lines(*rows: tuple[str, str, str, int], **flags: object) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["invoice_id", "ts", "jurisdiction", "base_minor"])
    return frame.assign(
        category="standard",
        **{"inclusive": False, "exempt": False, "reverse_charge": False, **flags},
    )


def owed(frame: pd.DataFrame, as_of: str = "2026-12-31") -> list[tuple[object, ...]]:
    return [tuple(row) for row in tax.liability(frame, RATES, as_of).itertuples(index=False)]


def test_a_rate_holds_between_its_dates() -> None:
    """Germany lowered its standard rate to 16 % for the second half of 2020."""
    table = tax.rate_table(RATES)
    for at, rate in (
        ("2020-06-30T23:59:59", 1900),
        ("2020-07-01", 1600),
        ("2020-12-31T23:59:59.999999", 1600),
        ("2021-01-01", 1900),
    ):
        assert tax.rate_of(table, jurisdiction="DE", category="standard", at=at) == rate
    assert tax.rate_of(table, jurisdiction="DE", category="books", at="2026-01-01") == 700
    assert tax.rate_of(table, jurisdiction="EE", category="books", at="2026-01-01") == 2400
    with pytest.raises(tax.NoRate):
        tax.rate_of(table, jurisdiction="FR", category="standard", at="2026-01-01")


def test_one_rounding_for_each_rate_of_an_invoice() -> None:
    """Three lines of 0.13: 19 % of each is 0.02, of their sum 0.07 and not 0.06."""
    frame = lines(*[("i1", "2026-01-05", "DE", 13)] * 3)
    assert owed(frame) == [("DE", "standard", 1900, 39, 7, 0, 0)]
    apart = lines(*[(f"i{number}", "2026-01-05", "DE", 13) for number in range(3)])
    assert owed(apart) == [("DE", "standard", 1900, 39, 6, 0, 0)]


def test_inclusive_prices_contain_their_tax() -> None:
    frame = lines(
        ("i1", "2026-01-05", "DE", 119_00), ("i2", "2026-01-05", "EE", 100_00), inclusive=True
    )
    assert owed(frame) == [
        ("DE", "standard", 1900, 100_00, 19_00, 0, 0),
        ("EE", "standard", 2400, 80_65, 19_35, 0, 0),
    ]


def test_exempt_and_reverse_charged_lines_bear_no_tax() -> None:
    frame = pd.concat(
        [
            lines(("i1", "2026-01-05", "EE", 100_00)),
            lines(("i2", "2026-01-05", "EE", 40_00), exempt=True),
            lines(("i3", "2026-01-05", "FR", 30_00), reverse_charge=True),  # needs no rate here
        ]
    )
    assert owed(frame) == [
        ("EE", "standard", 0, 0, 0, 40_00, 0),
        ("EE", "standard", 2400, 100_00, 24_00, 0, 0),
        ("FR", "standard", 0, 0, 0, 0, 30_00),
    ]


def test_a_credit_note_takes_its_tax_back() -> None:
    frame = lines(("i1", "2026-01-05", "DE", 100_00), ("c1", "2026-02-05", "DE", -100_00))
    assert owed(frame) == [("DE", "standard", 1900, 0, 0, 0, 0)]
    assert owed(frame, "2026-01-31") == [("DE", "standard", 1900, 100_00, 19_00, 0, 0)]


def test_flags_and_category_may_be_missing() -> None:
    bare = lines(("i1", "2026-01-05", "DE", 100_00))[
        ["invoice_id", "ts", "jurisdiction", "base_minor"]
    ]
    assert owed(bare) == [("DE", "standard", 1900, 100_00, 19_00, 0, 0)]
    shares = [{"jurisdiction": "DE", "rate": 0.19}]
    assert tax.liability(bare, shares, "2026-12-31")["tax_minor"].sum() == 19_00
    assert tax.liability(bare[:0], shares, "2026-12-31").empty


@pytest.mark.parametrize(
    "broken",
    [
        RATES.assign(rate_bp=-1),
        RATES.assign(rate_bp=10_001),
        RATES.assign(rate_bp=float("nan")),
        RATES.assign(valid_to=None),
        pd.concat([RATES, RATES[-1:]]),
    ],
)
def test_bad_rates_are_refused(broken: pd.DataFrame) -> None:
    with pytest.raises(BadFrame):
        tax.liability(lines(("i1", str(datetime(2026, 1, 5)), "DE", 1)), broken, "2026-12-31")
