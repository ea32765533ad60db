"""MRR and its movements, against sums that a person can follow and an independent loop."""

# ruff: noqa: DTZ001 - callers may give naive times, which are taken as UTC

from datetime import datetime

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_app.revenue import metrics
from chat_app.revenue.frames import BadFrame

FEB = datetime(2026, 2, 1)
MAR = datetime(2026, 3, 1)


def movements(*rows: tuple[str, str, int]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["customer_id", "ts", "mrr_minor"])


HISTORY = movements(
    ("stays", "2025-06-01", 10_00),
    ("grows", "2025-06-01", 20_00),
    ("grows", "2026-02-10", 35_00),
    ("shrinks", "2025-06-01", 30_00),
    ("shrinks", "2026-02-11", 5_00),
    ("leaves", "2025-06-01", 40_00),
    ("leaves", "2026-02-28", 0),
    ("returns", "2025-06-01", 15_00),
    ("returns", "2025-12-01", 0),
    ("returns", "2026-02-05", 12_00),
    ("comes", "2026-02-20", 50_00),
    ("later", "2026-03-02", 99_00),
)


def test_every_kind_of_movement() -> None:
    found = metrics.compute(HISTORY, MAR)
    assert (found.opening_mrr_minor, found.mrr_minor) == (100_00, 112_00)
    assert (found.new_minor, found.expansion_minor, found.reactivation_minor) == (
        50_00,
        15_00,
        12_00,
    )
    assert (found.contraction_minor, found.churned_minor) == (25_00, 40_00)
    assert found.net_change_minor == 12_00
    assert found.arr_minor == 12 * 112_00
    assert found.nrr == pytest.approx(0.5)  # 100 + 15 - 25 - 40 of 100
    assert found.grr == pytest.approx(0.35)
    assert found.gross_revenue_churn == pytest.approx(0.65)
    assert found.net_revenue_churn == pytest.approx(0.5)
    assert found.logo_churn == pytest.approx(1 / 4)
    assert found.quick_ratio == pytest.approx(77 / 65)
    assert (found.customers, found.arpu_minor) == (5, 22_40)


def test_without_plans_mrr_is_zero_and_shares_are_unknown() -> None:
    """Prepaid top-ups are no MRR: a shop without plans shows 0, not what was invoiced."""
    found = metrics.compute(HISTORY[:0], MAR)
    assert (found.mrr_minor, found.arr_minor, found.customers) == (0, 0, 0)
    assert (found.nrr, found.grr, found.logo_churn, found.arpu_minor) == (None,) * 4


def test_the_window_may_be_longer() -> None:
    year = metrics.compute(HISTORY, MAR, since="2025-05-01")
    assert year.opening_mrr_minor == 0
    assert year.new_minor == year.mrr_minor == 112_00
    assert year.reactivation_minor == 0


def test_months_in_a_row_join() -> None:
    table = metrics.history(HISTORY, datetime(2026, 3, 15), months=12)
    assert list(table.index)[-2:] == ["2026-02", "2026-03"]
    assert (table["opening_mrr_minor"].iloc[1:] == table["mrr_minor"].iloc[:-1].to_numpy()).all()
    assert table.loc["2026-02", "churned_minor"] == 40_00
    assert table.loc["2026-03", "mrr_minor"] == 211_00


def test_cohorts_follow_those_who_came_together() -> None:
    table = metrics.cohorts(HISTORY, MAR)
    assert table.loc["2025-06", 0] == 115_00
    assert table.loc["2025-06", 8] == 62_00  # at the end of February
    assert table.loc["2026-02", 0] == 50_00
    assert pd.isna(table.loc["2026-02", 2])


def test_breakdown_by_a_column() -> None:
    plans = HISTORY.assign(plan=["small", "small", "big"] + ["big"] * 9)
    found = metrics.breakdown(plans, MAR, "plan")
    assert found.sum() == 112_00
    assert found["small"] == 10_00


def test_currencies_are_never_added_up() -> None:
    both = pd.concat([HISTORY.assign(currency="EUR"), HISTORY.assign(currency="USD")])
    with pytest.raises(BadFrame, match="EUR, USD"):
        metrics.compute(both, MAR)
    assert metrics.compute(both, MAR, "EUR").mrr_minor == 112_00


ROWS = st.lists(
    st.tuples(
        st.sampled_from("abcde"),
        st.datetimes(datetime(2025, 11, 1), datetime(2026, 5, 1)),
        st.sampled_from([0, 0, 5_00, 10_00, 10_01]),
    ),
    max_size=25,
    unique_by=lambda row: (row[0], row[1]),
)


@settings(deadline=None, max_examples=40)
@given(ROWS, st.datetimes(datetime(2025, 12, 1), datetime(2026, 4, 1)))
def test_movements_add_up_and_the_future_is_unknown(
    rows: list[tuple[str, datetime, int]], as_of: datetime
) -> None:
    """The same figures by plain loops; rows after as_of and the order of rows change nothing."""
    frame = movements(*rows)  # type: ignore[arg-type]
    found = metrics.compute(frame, as_of, since=as_of - pd.Timedelta(30, "D"))

    def standing(at: datetime) -> dict[str, int]:
        seen: dict[str, int] = {}
        for who, when, amount in sorted(rows, key=lambda row: row[1]):
            if when <= at:
                seen[who] = amount
        return {who: amount for who, amount in seen.items() if amount}

    before, after = standing(as_of - pd.Timedelta(30, "D")), standing(as_of)
    assert found.mrr_minor == sum(after.values())
    assert found.net_change_minor == sum(after.values()) - sum(before.values())
    assert found.churned_minor == sum(before[who] for who in before.keys() - after.keys())
    assert found.churned_customers == len(before.keys() - after.keys())
    known = frame[pd.to_datetime(frame["ts"]) <= as_of] if rows else frame
    again = metrics.compute(known[::-1], as_of, since=as_of - pd.Timedelta(30, "D"))
    assert again == found
