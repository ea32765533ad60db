"""Regular series out of a table of times and numbers: which periods there are, and which are whole.

Periods are counted in the clock that came in: days of Berlin for times of Berlin, so that the
days on which clocks change are days like others. Knows no model.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from chat_app.errors import Invalid
from chat_app.revenue import frames

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SECOND = 1_000_000  # all moments are microseconds
DAY = 86_400 * SECOND
MONDAY = 4 * DAY  # 1970-01-05
WEEKDAYS = ["MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"]
MONTHS = {"M": 1, "ME": 1, "MS": 1, "Q": 3, "QE": 3, "QS": 3, "Y": 12, "YE": 12, "YS": 12, "A": 12}
FIXED = {
    "D": DAY, "H": DAY // 24, "T": 60 * SECOND, "MIN": 60 * SECOND, "S": SECOND,
}  # fmt: skip
MOST = 200_000  # periods in one series; more is a wrong freq or a wrong date
CLOSED_SHARE = 0.5
SPARSE_SHARE = 0.3


class BadForecast(Invalid):
    """An argument of a forecast, a projection or a detection is not acceptable."""

    code = "bad_forecast"
    message = "This cannot be forecast. Correct the named argument and call again."


@dataclass(frozen=True)
class Clock:
    """How times came in: naive (`zone` None) or in a zone; `wall` says in which periods count."""

    zone: Any = None
    wall: bool = True

    def read(self, times: "pd.Series[Any]") -> Ints:
        """Microseconds of the clock in which periods are counted."""
        if self.zone is not None:
            times = times.dt.tz_convert(self.zone if self.wall else UTC).dt.tz_localize(None)
        else:
            times = times.dt.tz_localize(None)
        found: Ints = times.astype("datetime64[us]").astype("int64").to_numpy()
        return found

    def write(self, moments: Ints) -> pd.DatetimeIndex:
        """The times in the kind that came in."""
        index = pd.DatetimeIndex(moments.astype("datetime64[us]"))
        if self.zone is None:
            return index
        if not self.wall:
            return index.tz_localize(UTC).tz_convert(self.zone)
        first = np.ones(len(index), dtype=bool)
        return index.tz_localize(self.zone, ambiguous=first, nonexistent="shift_forward")


@dataclass(frozen=True)
class Grid:
    """The periods of a freq: number ↔ beginning, and where in a period its label stands."""

    kind: str  # fixed | month | business
    step: int  # microseconds, or months
    anchor: int = 0
    offset: int = 0  # of the label, microseconds; for months see `label_day`
    label_day: int = 1  # of a month, 0 for its last

    def number(self, moments: Ints) -> Ints:
        """The period in which each moment lies."""
        if self.kind == "fixed":
            return np.floor_divide(moments - self.anchor, self.step)
        if self.kind == "business":
            days = np.floor_divide(moments, DAY).astype("datetime64[D]")
            rolled = np.busday_offset(days, 0, roll="backward")
            return np.busday_count(np.datetime64("1970-01-01"), rolled).astype(np.int64)
        months = moments.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)
        return np.floor_divide(months - self.anchor, self.step)

    def start(self, numbers: Ints) -> Ints:
        """The beginning of each period."""
        if self.kind == "fixed":
            return numbers * self.step + self.anchor
        if self.kind == "business":
            days = np.busday_offset(np.datetime64("1970-01-01"), numbers)
            return days.astype(np.int64) * DAY
        months = (numbers * self.step + self.anchor).astype("datetime64[M]")
        return months.astype("datetime64[us]").astype(np.int64)

    def label(self, numbers: Ints) -> Ints:
        """The time that names each period in a table."""
        if self.kind != "month" or self.label_day == 1:
            return self.start(numbers) + self.offset
        last = self.start(numbers + 1) - DAY
        if self.label_day == 0:
            return last + self.offset
        named = self.start(numbers) + (self.label_day - 1) * DAY
        return np.minimum(named, last) + self.offset


@dataclass
class Series:
    """One regular series: `values[i]` belongs to period `first + i`."""

    key: Any
    first: int
    values: Floats
    filled: int = 0  # periods without a row

    @property
    def end(self) -> int:
        """The first period of the future."""
        return self.first + len(self.values)


@dataclass
class Panel:
    """Series over one grid, in the order of their keys."""

    grid: Grid
    clock: Clock
    keyed: bool
    series: list[Series] = field(default_factory=list)
    as_of: int | None = None  # microseconds of the clock


def read(
    frame: Any, freq: str, season: int, as_of: Any = None, *, name: str = "df", fill: str = "auto"
) -> Panel:
    """The whole periods up to `as_of` (default: the last row) as regular series.

    A table with one row for each period is taken as it is, its rows named by their labels;
    several rows in a period are events and are added up. A period in which `as_of` lies is not
    whole and is dropped, except when `as_of` is exactly the row's label. Periods without a row
    are 0 among events, where the same place of the season is mostly missing, and where much is
    missing; else they are the mean of the same place one season before and after. `fill="zero"`
    makes all of them 0. Raises BadFrame (columns, times, NaN, infinity, a key twice) and
    BadForecast (`freq`).
    """
    table = frames.checked(frame, ["ds", "y"], name=name)
    keyed = "unique_id" in table.columns
    clock = clock_of(table["ds"])
    frames.times(table, "ds", name=name)
    end = None if as_of is None else frames.moment(as_of)
    if end is not None:
        table = table[table["ds"] <= end]
    _numbers(table, name)
    keys = ["unique_id", "ds"] if keyed else ["ds"]
    if keyed:
        frames.refuse(table, table["unique_id"].isna(), "unique_id", name, "is missing a key")
    frames.refuse(table, table.duplicated(keys), "ds", name, "holds a time twice")
    clock = _steady(clock, table["ds"], freq)
    moments = clock.read(table["ds"])
    ids = table["unique_id"].to_numpy() if keyed else np.zeros(len(table), dtype=np.int64)
    grid, events = grid_of(freq, moments, ids)
    panel = Panel(grid, clock, keyed)
    if end is not None:
        panel.as_of = int(clock.read(pd.Series([end]))[0])
    if not len(table):
        return panel
    numbers, known = grid.number(moments), panel.as_of
    if known is None:
        known = int(moments.max()) + (_spacing(moments) if events else 0)
    whole = _whole(grid, numbers, moments, known, events)
    last = int(numbers[whole].max()) if whole.any() else 0
    if events and as_of is not None:
        last = max(last, _last_whole(grid, known))
    values = table["y"].to_numpy(dtype=np.float64)
    for key in _sorted(pd.unique(pd.Series(ids))):
        mine = (ids == key) & whole
        if not mine.any():
            continue
        found = _series(key, numbers[mine], values[mine], last if events else None, name)
        _fill(found, season, zero=events or fill == "zero")
        panel.series.append(found)
    return panel


def clock_of(times: "pd.Series[Any]") -> Clock:
    """The kind of times of a column as it came in."""
    zone = getattr(times.dtype, "tz", None)
    if zone is None and times.dtype == object and len(times):
        zone = getattr(times.iloc[0], "tzinfo", None)
    return Clock(zone)


def grid_of(freq: Any, moments: Ints, ids: Any) -> tuple[Grid, bool]:
    """The grid of a freq with the labels that the rows carry, and whether rows are events."""
    match = re.fullmatch(r"(\d{0,4})([A-Z]+)(?:-([A-Z]{3}))?", str(freq).strip().upper())
    if match is None:
        raise _bad_freq(freq)
    times, alias, day = int(match[1] or 1), match[2], match[3]
    if times < 1:
        raise _bad_freq(freq)
    if alias == "W":
        return _weeks(times, WEEKDAYS.index(day) if day in WEEKDAYS else 6, moments, ids)
    if alias in MONTHS:
        return _months(times * MONTHS[alias], alias, moments, ids)
    if alias == "B" and times == 1:
        grid = Grid("business", 1)
    elif alias in FIXED:
        grid = Grid("fixed", times * FIXED[alias])
    else:
        raise _bad_freq(freq)
    events = _several(grid, moments, ids)
    if not events and len(moments):
        inside = moments - grid.start(grid.number(moments))
        if (inside == inside[0]).all():
            grid = Grid(grid.kind, grid.step, 0, int(inside[0]))
    return grid, events


def _bad_freq(freq: Any) -> BadForecast:
    return BadForecast(
        f"The freq {freq!r} is not known. Give D, B, W, MS, ME, QS, YS, h or min, with a number"
        " before it if needed.",
        param="freq",
    )


def _weeks(times: int, day: int, moments: Ints, ids: Any) -> tuple[Grid, bool]:
    """Weeks that end on the named day, or begin on it when that is Monday."""

    def weeks(weekday: int, inside: int) -> Grid:
        begins, offset = (0, 0) if weekday == 0 else (weekday + 1, 6 * DAY)
        return Grid("fixed", times * 7 * DAY, MONDAY + (begins % 7) * DAY, offset + inside)

    events = _several(weeks(day, 0), moments, ids)
    if not events and len(moments):
        weekdays = np.floor_divide(moments - MONDAY, DAY) % 7
        inside = moments % DAY
        if (weekdays == weekdays[0]).all() and (inside == inside[0]).all():
            grid = weeks(int(weekdays[0]), 0)
            if times > 1:  # the phase of longer steps is that of the rows
                shift = int(moments.min()) - int(inside[0]) - grid.offset
                grid = Grid("fixed", grid.step, shift, grid.offset)
            return Grid("fixed", grid.step, grid.anchor, grid.offset + int(inside[0])), False
    return weeks(day, 0), events


def _months(step: int, alias: str, moments: Ints, ids: Any) -> tuple[Grid, bool]:
    days = moments.astype("datetime64[us]").astype("datetime64[D]")
    months = days.astype("datetime64[M]")
    phases = np.unique(months.astype(np.int64) % step)
    anchor = int(phases[0]) if len(phases) == 1 else 0
    ends = alias.endswith("E") or alias in {"M", "Q", "Y", "A"}
    if ends and len(phases) == 1:
        anchor += 1 - step  # a quarter is named by its last month
    grid = Grid("month", step, anchor, 0, 0 if ends else 1)
    events = _several(grid, moments, ids)
    if events or not len(moments):
        return grid, events
    day = (days - months.astype("datetime64[D]")).astype(np.int64) + 1
    last = (days + 1).astype("datetime64[M]") != months
    inside = moments % DAY
    offset = int(inside[0]) if (inside == inside[0]).all() else 0
    if last.all():
        return Grid("month", step, anchor, offset, 0), False
    if (day == day[0]).all():
        if ends and day[0] == 1:
            anchor += step - 1
        return Grid("month", step, anchor, offset, int(day[0])), False
    return grid, False


def _several(grid: Grid, moments: Ints, ids: Any) -> bool:
    rows = pd.DataFrame({"id": ids, "number": grid.number(moments)})
    return bool(rows.duplicated().any())


def _steady(clock: Clock, times: "pd.Series[Any]", freq: str) -> Clock:
    """Hours are counted in UTC, days in the zone's own clock, unless they are steps of 24 hours."""
    if clock.zone is None or len(times) < 2:
        return clock
    if re.fullmatch(r"\d*(H|T|MIN|S)", str(freq).strip().upper()):
        return Clock(clock.zone, wall=False)
    fixed = Clock(clock.zone, wall=False).read(times)
    alike = len(np.unique(fixed % DAY)) == 1 and len(np.unique(clock.read(times) % DAY)) > 1
    return Clock(clock.zone, wall=not alike)


def _spacing(moments: Ints) -> int:
    gaps = np.diff(np.unique(moments))
    return int(gaps.min()) if len(gaps) else 0


def _whole(grid: Grid, numbers: Ints, moments: Ints, known: int, events: bool) -> Any:
    """Which rows lie in periods that were over, or are named, at `known`."""
    over = grid.start(numbers + 1) - SECOND <= known
    return over if events else over | (moments == known)


def _last_whole(grid: Grid, known: int) -> int:
    number = grid.number(np.array([known], dtype=np.int64))
    over = int(grid.start(number + 1)[0]) - SECOND <= known
    return int(number[0]) - (0 if over else 1)


def _numbers(table: pd.DataFrame, name: str) -> None:
    numbers = pd.to_numeric(table["y"], errors="coerce").astype("float64")
    frames.refuse(
        table, ~numbers.abs().lt(1e15).to_numpy(), "y", name, "holds what is no finite number"
    )
    table["y"] = numbers


def _sorted(keys: Iterable[Any]) -> list[Any]:
    found = list(keys)
    try:
        return sorted(found)
    except TypeError:
        return sorted(found, key=str)


def _series(key: Any, numbers: Ints, values: Floats, last: int | None, name: str) -> Series:
    order = np.lexsort((values, numbers))  # sums do not depend on the order of rows
    numbers, values = numbers[order], values[order]
    first, end = int(numbers[0]), max(int(numbers[-1]), -(2**62) if last is None else last) + 1
    if end - first > MOST:
        raise frames.BadFrame(
            f"{name} spans {end - first} periods; give a longer freq or correct its times.",
            column="ds",
        )
    dense = np.full(end - first, np.nan)
    places = numbers - first
    dense[np.unique(places)] = 0.0
    np.add.at(dense, places, values)
    return Series(key, first, dense)


def _fill(series: Series, season: int, *, zero: bool) -> None:
    """Give a value to the periods without a row."""
    values = series.values
    missing = np.isnan(values)
    series.filled = int(missing.sum())
    if not series.filled:
        return
    if zero or missing.mean() > SPARSE_SHARE:
        values[missing] = 0.0
        return
    slots = np.arange(len(values)) % max(season, 1)
    for slot in range(max(season, 1)):
        mine = slots == slot
        if season > 1 and missing[mine].mean() >= CLOSED_SHARE:
            values[mine & missing] = 0.0
    around = np.full((2, len(values)), np.nan)
    around[0, season:] = values[:-season] if season < len(values) else []
    around[1, :-season] = values[season:] if season < len(values) else []
    known = ~np.isnan(values)
    straight = np.interp(np.arange(len(values)), np.flatnonzero(known), values[known])
    for place in np.flatnonzero(~known):
        near = around[:, place][~np.isnan(around[:, place])]
        values[place] = near.mean() if len(near) else straight[place]
