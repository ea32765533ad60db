"""Spans of days: presets, month ends, and the equal span before."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_app.revenue import spans
from chat_app.revenue.spans import BadSpan, Span

DAYS = st.dates(date(2000, 1, 1), date(2100, 12, 31))


@pytest.mark.parametrize(
    ("name", "first", "last", "before"),
    [
        ("month", "2026-03-01", "2026-03-31", ("2026-02-01", "2026-02-28")),
        ("last_month", "2026-02-01", "2026-02-28", ("2026-01-01", "2026-01-31")),
        ("quarter", "2026-01-01", "2026-03-31", ("2025-10-01", "2025-12-31")),
        ("year", "2026-01-01", "2026-03-31", ("2025-10-01", "2025-12-31")),
        ("12_months", "2025-04-01", "2026-03-31", ("2024-04-01", "2025-03-31")),
    ],
)
def test_presets_on_the_last_day_of_a_month(
    name: str, first: str, last: str, before: tuple[str, str]
) -> None:
    found = spans.preset(name, date(2026, 3, 31))
    assert (str(found.first), str(found.last)) == (first, last)
    assert (str(found.before.first), str(found.before.last)) == before


def test_a_part_of_a_month_is_beside_the_same_part() -> None:
    """The 30th of a month is beside the last of February, not beside March."""
    found = Span(date(2024, 3, 1), date(2024, 3, 30)).before
    assert (found.first, found.last) == (date(2024, 2, 1), date(2024, 2, 29))
    odd = Span(date(2026, 3, 5), date(2026, 3, 11)).before
    assert (odd.first, odd.last) == (date(2026, 2, 26), date(2026, 3, 4))


@given(DAYS, st.integers(0, 800))
def test_the_span_before_ends_before_and_moments_meet(first: date, more: int) -> None:
    span = Span(first, first + timedelta(days=more))
    assert span.before.first <= span.before.last < span.first
    assert span.end - span.begin == timedelta(days=more + 1)
    for name in spans.PRESETS:
        found = spans.preset(name, first)
        assert found.first.day == 1
        assert found.last <= first


@pytest.mark.parametrize("days", [-1, spans.LONGEST_DAYS + 1])
def test_no_span(days: int) -> None:
    with pytest.raises(BadSpan):
        Span(date(2026, 1, 1), date(2026, 1, 1) + timedelta(days=days))
