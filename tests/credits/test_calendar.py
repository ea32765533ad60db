"""The calendar of plans: month ends, leap days, clocks that are set, and offers that make sense."""

import itertools
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from chat_app.clock import to_micros
from chat_app.credits import packages, plans
from chat_app.credits.plans import Plan
from chat_app.db import Database
from chat_app.money import MICRO, Money
from tests.credits.books import HOUR

BERLIN = ZoneInfo("Europe/Berlin")
DAY = 24 * HOUR


def on(year: int, month: int, day: int, hour: int = 10, minute: int = 0) -> int:
    return to_micros(datetime(year, month, day, hour, minute, tzinfo=UTC))


START = on(2026, 1, 31)


def local(anchor: datetime, months: int) -> str:
    zone = anchor.tzinfo
    assert isinstance(zone, ZoneInfo)
    found = plans.edge(to_micros(anchor), months, zone)
    return datetime.fromtimestamp(found / 1e6, zone).isoformat()


def test_the_31st_is_the_last_day_of_shorter_months_and_comes_back() -> None:
    """T32: counted from the anchor, so February does not move all later months."""
    days = [plans.edge(START, months, UTC) for months in range(6)]
    assert days == [
        START, on(2026, 2, 28), on(2026, 3, 31), on(2026, 4, 30), on(2026, 5, 31), on(2026, 6, 30)
    ]  # fmt: skip


def test_a_leap_day_comes_back_every_fourth_year() -> None:
    anchor = on(2024, 2, 29)
    assert plans.edge(anchor, 12, UTC) == on(2025, 2, 28)
    assert plans.edge(anchor, 48, UTC) == on(2028, 2, 29)
    assert plans.edge(on(2027, 12, 31), 2, UTC) == on(2028, 2, 29)


def test_periods_turn_by_the_clocks_of_the_seller() -> None:
    """The same hour on the wall in summer and winter, also where the wall skips or repeats it."""
    noon = datetime(2026, 2, 28, 12, tzinfo=BERLIN)
    assert local(noon, 1) == "2026-03-28T12:00:00+01:00"
    assert local(noon, 2) == "2026-04-28T12:00:00+02:00"
    skipped = datetime(2026, 1, 29, 2, 30, tzinfo=BERLIN)
    assert local(skipped, 2) == "2026-03-29T03:30:00+02:00"
    twice = datetime(2026, 9, 25, 2, 30, tzinfo=BERLIN)
    assert local(twice, 1) == "2026-10-25T02:30:00+02:00"
    # Midnight of the first in Berlin is still the month before in UTC.
    first = datetime(2026, 6, 1, 0, tzinfo=BERLIN)
    assert plans.edge(to_micros(first), 1, BERLIN) == on(2026, 6, 30, 22)


def test_edges_are_in_order_for_every_day_and_hour() -> None:
    for day in range(365):
        anchor = on(2026, 1, 1, 0, 30) + day * DAY + (day % 24) * HOUR
        edges = [plans.edge(anchor, months, BERLIN) for months in range(30)]
        assert all(a < b for a, b in itertools.pairwise(edges))


@pytest.mark.parametrize(
    "wrong",
    [
        {"price": Money(-1)},
        {"price": Money(1, "dollars")},
        {"credits": 0},
        {"name": " "},
        {"keep_periods": -1},
        {"code": "Not A Code"},
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(
    sqlite_database: Database, wrong: dict[str, object]
) -> None:
    """T20."""
    values: dict[str, object] = {"code": "x", "name": "X", "price": Money(1), "credits": MICRO}
    with pytest.raises(packages.BadPackage):
        sqlite_database.write(
            lambda s: plans.create(s, Plan(**{**values, **wrong}), now=START)  # type: ignore[arg-type]
        )
