"""What the pandas calls of this room share: columns that are there, times in UTC, whole cents."""

from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Any

import pandas as pd

from chat_app.errors import Invalid


class BadFrame(Invalid):
    """A column is missing or holds what it cannot hold; `column` and `rows` say where."""

    code = "bad_frame"
    message = "The table cannot be read. Correct the named column and call again."


def checked(frame: Any, columns: Iterable[str], *, name: str) -> pd.DataFrame:
    """A copy of the frame with these columns; raises BadFrame when one is missing."""
    if not isinstance(frame, pd.DataFrame):
        raise BadFrame(f"{name} must be a pandas DataFrame.", param=name)
    for column in columns:
        if column not in frame.columns:
            raise BadFrame(f"{name} lacks the column {column}.", param=name, column=column)
    return frame.reset_index(drop=True).copy()


def times(frame: pd.DataFrame, column: str, *, name: str, optional: bool = False) -> None:
    """Make the column moments in UTC, in place. Naive times are taken as UTC; days begin at 0:00.

    Raises BadFrame for what is no time, and for missing ones unless `optional`.
    """
    try:
        frame[column] = pd.to_datetime(frame[column], utc=True).astype("datetime64[us, UTC]")
    except (ValueError, TypeError, OverflowError) as error:
        raise BadFrame(
            f"{name}.{column} holds something that is no time.", column=column
        ) from error
    if not optional:
        refuse(frame, frame[column].isna(), column, name, "is missing a time")


def whole(
    frame: pd.DataFrame, column: str, *, name: str, low: int | None = 0, default: int | None = None
) -> None:
    """Make the column exact integers, in place: minor units or credits.

    A missing value becomes `default`; raises BadFrame where there is none, for NaN, infinity,
    fractions, and what is below `low` (None: any).
    """
    numbers = _numbers(frame[column])
    if default is not None:
        numbers = numbers.where(frame[column].notna(), default)
    bad = numbers.isna() | ~numbers.abs().lt(2**63)
    refuse(frame, bad, column, name, "holds what is no finite number")
    refuse(frame, numbers % 1 != 0, column, name, "holds a fraction: give whole minor units")
    if low is not None:
        refuse(frame, numbers < low, column, name, f"holds a number below {low}")
    frame[column] = numbers.astype("int64")


def amounts(frame: pd.DataFrame, column: str, *, name: str, default: float | None = None) -> None:
    """Make the column finite numbers of at least zero, in place; credits may have fractions."""
    numbers = _numbers(frame[column]).astype("float64")
    if default is not None:
        numbers = numbers.where(frame[column].notna(), default)
    bad = numbers.isna() | ~numbers.abs().lt(1e15) | (numbers < 0)
    refuse(frame, bad, column, name, "holds what is no finite number of at least zero")
    frame[column] = numbers


def unique(frame: pd.DataFrame, column: str, *, name: str) -> None:
    """Raise BadFrame when a key is missing or comes twice."""
    refuse(frame, frame[column].isna(), column, name, "is missing a key")
    refuse(frame, frame[column].duplicated(), column, name, "holds a key twice")


def moment(value: Any, *, name: str = "as_of") -> pd.Timestamp:
    """A time in UTC from a datetime, a date or text; naive ones are taken as UTC."""
    try:
        at = pd.Timestamp(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadFrame(f"{name} is no time.", param=name) from error
    if at is pd.NaT:
        raise BadFrame(f"{name} is missing.", param=name)
    return (at.tz_localize(UTC) if at.tzinfo is None else at.tz_convert(UTC)).as_unit("us")


def day(value: Any, *, name: str = "as_of") -> date:
    """The calendar day of a time in UTC, or the day itself."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    found: date = moment(value, name=name).date()
    return found


def month_start(at: pd.Timestamp) -> pd.Timestamp:
    """The beginning of the calendar month in UTC."""
    return at.normalize().replace(day=1)


def next_month(at: pd.Timestamp) -> pd.Timestamp:
    """The beginning of the month after, in UTC."""
    return month_start(at) + pd.DateOffset(months=1)


def _numbers(values: "pd.Series[Any]") -> "pd.Series[Any]":
    if values.empty:  # an empty column may be of any kind
        return pd.Series([], dtype="float64", index=values.index)
    return pd.to_numeric(values, errors="coerce")


def refuse(frame: pd.DataFrame, bad: Any, column: str, name: str, what: str) -> None:
    """Raise BadFrame naming the column and the first rows where `bad` holds."""
    if bad.any():
        rows = [int(row) for row in frame.index[bad][:5]]
        raise BadFrame(f"{name}.{column} {what} (row {rows[0]}).", column=column, rows=rows)
