"""Aging: every edge of every bucket, and the allowance."""

# ruff: noqa: DTZ001 - callers may give naive times, which are taken as UTC

from datetime import date, datetime, timedelta

import pandas as pd
import pytest

from chat_app.revenue import receivables
from chat_app.revenue.frames import BadFrame

TODAY = date(2026, 3, 31)


def owing(*rows: tuple[str, int, int]) -> pd.DataFrame:
    """Invoices of a customer, so many days past due."""
    return pd.DataFrame(
        {
            "invoice_id": range(len(rows)),
            "customer_id": [row[0] for row in rows],
            "due_date": [TODAY - timedelta(days=row[1]) for row in rows],
            "open_minor": [row[2] for row in rows],
        }
    )


@pytest.mark.parametrize(
    ("days", "bucket"),
    [(-400, "current"), (-1, "current"), (0, "current"), (1, "1-30"), (30, "1-30"), (31, "31-60"),
     (60, "31-60"), (61, "61-90"), (90, "61-90"), (91, "90+"), (4000, "90+")],
)  # fmt: skip
def test_every_edge(days: int, bucket: str) -> None:
    table = receivables.aging(owing(("a", days, 7_00)), TODAY)
    assert list(table.columns) == ["current", "1-30", "31-60", "61-90", "90+", "total"]
    assert table.loc["a", bucket] == 7_00
    assert table.loc["total", "total"] == 7_00
    assert receivables.bucket(days) == bucket


def test_customers_and_their_total() -> None:
    table = receivables.aging(
        owing(("a", 5, 1_00), ("b", 45, 2_00), ("a", 100, 4_00), ("a", 6, -50)), TODAY
    )
    assert table.loc["a"].to_dict() == {
        "current": 0, "1-30": 50, "31-60": 0, "61-90": 0, "90+": 4_00, "total": 4_50,
    }  # fmt: skip
    assert table.loc["total", "total"] == 6_50
    assert receivables.aging(owing(), TODAY).loc["total", "total"] == 0


def test_times_count_as_their_day() -> None:
    invoices = owing(("a", 0, 1_00)).assign(due_date=datetime(2026, 3, 31, 23, 59))
    assert receivables.aging(invoices, datetime(2026, 3, 31, 0, 1)).loc["a", "current"] == 1_00
    assert receivables.aging(invoices, datetime(2026, 4, 1)).loc["a", "1-30"] == 1_00


def test_other_edges() -> None:
    table = receivables.aging(owing(("a", 14, 1), ("a", 15, 2)), TODAY, edges=(7, 14))
    assert table.loc["a", ["8-14", "14+"]].to_list() == [1, 2]
    for edges in ((), (30, 30), (60, 30), (0, 30)):
        with pytest.raises(BadFrame):
            receivables.aging(owing(("a", 1, 1)), TODAY, edges=edges)


def test_what_was_issued_later_changes_nothing() -> None:
    invoices = owing(("a", 5, 1_00), ("a", 5, 9_00)).assign(
        issued_at=[datetime(2026, 3, 1), datetime(2026, 4, 1)]
    )
    assert receivables.aging(invoices, TODAY).loc["total", "total"] == 1_00


def test_allowance_by_bucket() -> None:
    table = receivables.aging(owing(("a", 0, 100_00), ("b", 1, 50_00), ("b", 91, 10_01)), TODAY)
    rates = {"current": 0.01, "1-30": 0.05, "31-60": 0.1, "61-90": 0.2, "90+": 0.5}
    assert receivables.allowance(table, rates) == {
        "current": 1_00, "1-30": 2_50, "31-60": 0, "61-90": 0, "90+": 5_01, "total": 8_51,
    }  # fmt: skip
    with pytest.raises(BadFrame):
        receivables.allowance(table, {"current": 0.01})


@pytest.mark.parametrize(
    "broken",
    [
        owing(("a", 1, 1)).drop(columns="due_date"),
        owing(("a", 1, 1)).assign(open_minor=float("nan")),
        owing(("a", 1, 1)).assign(due_date=None),
        owing(("a", 1, 1), ("b", 1, 1)).assign(invoice_id=7),
    ],
)
def test_bad_tables_are_refused(broken: pd.DataFrame) -> None:
    with pytest.raises(BadFrame):
        receivables.aging(broken, TODAY)
