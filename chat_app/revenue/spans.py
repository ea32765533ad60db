"""Spans of days (UTC) that figures are asked for, and the equal span before. Knows no figures."""

import calendar
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from chat_app.errors import Invalid

LONGEST_DAYS = 3660
PRESETS = ("month", "last_month", "quarter", "year", "12_months")
_TICK = timedelta(microseconds=1)


class BadSpan(Invalid):
    """The span ends before it begins, or is longer than ten years."""

    code = "invalid_span"
    message = "A span ends on the day it begins or later, at most ten years on. Correct its days."


@dataclass(frozen=True)
class Span:
    """The days from `first` to `last`, both included."""

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.first > self.last or (self.last - self.first).days > LONGEST_DAYS:
            raise BadSpan(param="from")

    @property
    def begin(self) -> datetime:
        """The moment just before it begins: what stands then is what it opens with."""
        return midnight(self.first) - _TICK

    @property
    def end(self) -> datetime:
        """Its last moment."""
        return midnight(self.last + timedelta(days=1)) - _TICK

    @property
    def before(self) -> "Span":
        """The equal span just before.

        What begins with a month goes back by whole months, to the same day of the month or its
        end; anything else by as many days.
        """
        if self.first.day == 1:
            count = (self.last.year - self.first.year) * 12 + self.last.month - self.first.month + 1
            if self.last.day == days_of(self.last):
                return Span(back(self.first, count), self.first - timedelta(days=1))
            return Span(back(self.first, count), back(self.last, count))
        length = self.last - self.first + timedelta(days=1)
        return Span(self.first - length, self.last - length)


def preset(name: str, today: date) -> Span:
    """One of PRESETS; all but the last month end today."""
    month = today.replace(day=1)
    if name == "last_month":
        return Span(back(month, 1), month - timedelta(days=1))
    if name == "quarter":
        return Span(back(month, (today.month - 1) % 3), today)
    if name == "year":
        return Span(month.replace(month=1), today)
    if name == "12_months":
        return Span(back(month, 11), today)
    return Span(month, today)


def of(first: date | None, last: date | None, *, today: date) -> Span:
    """A span as it was asked for; this month up to today where nothing is said."""
    end = last or today
    return Span(first or end.replace(day=1), end)


def back(day: date, months: int) -> date:
    """The same day so many months ago, or that month's last."""
    year, month = divmod(day.year * 12 + day.month - 1 - months, 12)
    first = date(year, month + 1, 1)
    return first.replace(day=min(day.day, days_of(first)))


def days_of(day: date) -> int:
    """How many days its month has."""
    return calendar.monthrange(day.year, day.month)[1]


def month(period: str) -> Span:
    """The days of a month such as 2026-03."""
    first = date.fromisoformat(f"{period}-01")
    return Span(first, first.replace(day=days_of(first)))


def midnight(day: date) -> datetime:
    """The moment a day begins."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
