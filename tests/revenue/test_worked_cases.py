"""Worked cases of public accounting guides, with their own figures."""

# ruff: noqa: DTZ001 - callers may give naive times, which are taken as UTC

from datetime import datetime

import pandas as pd

from chat_app.revenue.recognition import schedule


def bought(price: int, credits: int, *, at: datetime, until: datetime) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "purchase_id": ["W"],
            "ts": [at],
            "price_minor": [price],
            "credits": [credits],
            "expires_at": [until],
            "kind": ["credits"],
        }
    )


def used(*rows: tuple[datetime, float]) -> pd.DataFrame:
    return pd.DataFrame(
        {"purchase_id": ["W"] * len(rows), "ts": [at for at, _ in rows],
         "credits": [credits for _, credits in rows]}
    )  # fmt: skip


def by_year(table: pd.DataFrame) -> dict[str, int]:
    both = table["recognized_minor"] + table["breakage_minor"]
    return {
        str(year): int(sum_) for year, sum_ in both.groupby(table["period"].str[:4]).sum().items()
    }


def test_loyalty_points_with_a_changed_estimate() -> None:
    """ASC 606-10-55-353 to 55-356 and IFRS 15 IE267 to IE270, Example 52 (loyalty programme).

    8,676 are allocated to 10,000 points. 9,500 are expected to be used and 4,500 are in the first
    year; then 9,700 are expected, and 8,500 are used in all.
    """
    table = schedule(
        bought(8_676, 10_000, at=datetime(2026, 1, 1), until=datetime(2030, 1, 1)),
        used((datetime(2026, 7, 1), 4_500), (datetime(2027, 7, 1), 4_000)),
        datetime(2027, 12, 31),
        {
            "breakage": "proportional",
            "expected_breakage": [(None, 0.05), (datetime(2027, 7, 1), 0.03)],
        },
    )
    assert by_year(table) == {"2026": 4_110, "2027": 3_493}
    assert table["deferred_minor"].iloc[-1] == 8_676 - 4_110 - 3_493


def test_prepaid_rights_with_and_without_expected_breakage() -> None:
    """ASC 606-10-55-48: expected breakage follows the rights that are used; else it waits.

    A card of 50.00 of which 10 % is expected to stay unused: half of the other 45.00 is half of
    the price. Where none is expected, the rest is earned only when the card ends.
    """
    card = bought(5_000, 50, at=datetime(2026, 1, 1), until=datetime(2026, 12, 31))
    half = used((datetime(2026, 3, 1), 22.5))
    likely = schedule(card, half, datetime(2026, 6, 30),
                      {"breakage": "proportional", "expected_breakage": 0.1})  # fmt: skip
    assert by_year(likely) == {"2026": 2_500}
    remote = schedule(card, half, datetime(2026, 6, 30), {"breakage": "remote"})
    assert by_year(remote) == {"2026": 2_250}
    ended = schedule(card, half, datetime(2027, 1, 31), {"breakage": "remote"})
    assert ended["breakage_minor"].sum() == 2_750
    assert ended["deferred_minor"].iloc[-1] == 0
