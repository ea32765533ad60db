"""Which periods there are and which are whole, in the clock that came in."""

import numpy as np
import pandas as pd
import pytest

from chat_app.ml import series
from chat_app.ml.series import BadForecast
from chat_app.revenue.frames import BadFrame


def table(ds: object, y: object) -> pd.DataFrame:
    return pd.DataFrame({"ds": ds, "y": y})


def labels(panel: series.Panel, steps: int = 2) -> list[str]:
    """The next labels of the only series, as text."""
    numbers = panel.series[0].end + np.arange(steps)
    return [str(at) for at in panel.clock.write(panel.grid.label(numbers))]


@pytest.mark.parametrize(
    ("freq", "ds", "after"),
    [
        ("D", ["2026-01-01", "2026-01-02"], "2026-01-03 00:00:00"),
        ("D", ["2026-01-01 12:00", "2026-01-02 12:00"], "2026-01-03 12:00:00"),
        ("2D", ["2026-01-01", "2026-01-03"], "2026-01-05 00:00:00"),
        ("B", ["2026-01-01", "2026-01-02"], "2026-01-05 00:00:00"),
        ("W", ["2026-01-04", "2026-01-11"], "2026-01-18 00:00:00"),
        ("W", ["2026-01-05", "2026-01-12"], "2026-01-19 00:00:00"),  # weeks named by Monday
        ("W-FRI", ["2026-01-02", "2026-01-09"], "2026-01-16 00:00:00"),
        ("2W", ["2026-01-05", "2026-01-19"], "2026-02-02 00:00:00"),
        ("MS", ["2026-01-01", "2026-02-01"], "2026-03-01 00:00:00"),
        ("M", ["2026-01-31", "2026-02-28"], "2026-03-31 00:00:00"),
        ("ME", ["2026-01-01", "2026-02-01"], "2026-03-01 00:00:00"),
        ("MS", ["2026-01-15", "2026-02-15"], "2026-03-15 00:00:00"),
        ("QS", ["2025-10-01", "2026-01-01"], "2026-04-01 00:00:00"),
        ("QE", ["2025-12-31", "2026-03-31"], "2026-06-30 00:00:00"),
        ("QS", ["2025-11-01", "2026-02-01"], "2026-05-01 00:00:00"),
        ("YE", ["2024-12-31", "2025-12-31"], "2026-12-31 00:00:00"),
        ("h", ["2026-01-01 22:00", "2026-01-01 23:00"], "2026-01-02 00:00:00"),
        ("15min", ["2026-01-01 23:30", "2026-01-01 23:45"], "2026-01-02 00:00:00"),
    ],
)
def test_labels_go_on_as_they_came(freq: str, ds: list[str], after: str) -> None:
    panel = series.read(table(pd.to_datetime(ds), [1.0, 2.0]), freq, 1)
    assert labels(panel, 1) == [after]
    assert panel.series[0].values.tolist() == [1.0, 2.0]


def test_the_period_of_as_of_is_not_whole() -> None:
    """An incomplete current day or month must be dropped."""
    days = table(pd.date_range("2026-01-01", periods=5), np.arange(5.0))
    assert len(series.read(days, "D", 1, "2026-01-05 15:00").series[0].values) == 4
    assert len(series.read(days, "D", 1, "2026-01-05 23:59:59").series[0].values) == 5
    assert len(series.read(days, "D", 1, "2026-01-05").series[0].values) == 5  # its own label
    assert len(series.read(days, "D", 1, "2026-01-03").series[0].values) == 3
    months = table(pd.date_range("2026-01-01", periods=3, freq="MS"), np.arange(3.0))
    assert len(series.read(months, "MS", 1, "2026-03-20").series[0].values) == 2
    ends = table(pd.date_range("2026-01-31", periods=3, freq="ME"), np.arange(3.0))
    assert len(series.read(ends, "ME", 1, "2026-03-20").series[0].values) == 2


def test_events_are_added_up_and_silence_is_zero() -> None:
    ds = pd.to_datetime(["2026-01-01 08:00", "2026-01-01 20:00", "2026-01-03 09:00"])
    panel = series.read(table(ds, [1.0, 2.0, 4.0]), "D", 7, "2026-01-06 12:00")
    assert panel.series[0].values.tolist() == [3.0, 0.0, 4.0, 0.0, 0.0]
    assert labels(panel, 1) == ["2026-01-06 00:00:00"]
    # without as_of the last row is now, and its day is not over
    assert series.read(table(ds, [1.0, 2.0, 4.0]), "D", 7).series[0].values.tolist() == [3.0]


def test_days_on_which_clocks_change_are_days() -> None:
    """DST: days of Berlin stay days of Berlin, and steps of 24 hours stay so."""
    days = pd.date_range("2026-03-20", "2026-04-05", tz="Europe/Berlin")
    panel = series.read(table(days, np.arange(len(days), dtype=float)), "D", 7)
    assert len(panel.series[0].values) == len(days)
    assert labels(panel, 1) == ["2026-04-06 00:00:00+02:00"]
    steps = pd.date_range("2026-03-20", periods=15, freq="24h", tz="UTC").tz_convert(
        "Europe/Berlin"
    )
    panel = series.read(table(steps, np.arange(15.0)), "D", 7)
    assert len(panel.series[0].values) == 15
    assert labels(panel, 1) == ["2026-04-04 02:00:00+02:00"]
    hours = pd.date_range("2026-10-24 20:00", periods=12, freq="h", tz="Europe/Berlin")
    panel = series.read(table(hours, np.arange(12.0)), "h", 24)
    assert len(panel.series[0].values) == 12


def test_gaps() -> None:
    days = table(pd.date_range("2026-01-05", periods=56), np.tile(np.arange(1.0, 8.0), 8))
    holes = days.drop([10, 31]).reset_index(drop=True)
    assert series.read(holes, "D", 7).series[0].values.tolist() == days["y"].tolist()
    closed = days[days["ds"].dt.day_of_week != 6]
    values = series.read(closed, "D", 7).series[0].values
    assert set(values[6::7]) == {0.0}  # a shop that is closed on Sundays
    rare = days.iloc[::5]
    assert (series.read(rare, "D", 7).series[0].values == 0).sum() > 30


@pytest.mark.parametrize("freq", ["", "X", "D-", "fortnight", "0D", None, 3])
def test_a_wrong_freq_is_named(freq: object) -> None:
    with pytest.raises(BadForecast, match="freq"):
        series.read(table(["2026-01-01"], [1.0]), freq, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"ds": ["2026-01-01"]}),
        table(["2026-01-01", "2026-01-02"], [1.0, np.nan]),
        table(["2026-01-01", "2026-01-02"], [1.0, np.inf]),
        table(["2026-01-01", "2026-01-02"], [1.0, "x"]),
        table(["2026-01-01", "2026-01-01"], [1.0, 2.0]),
        table(["2026-01-01", None], [1.0, 2.0]),
        table(["1200-01-01", "2026-01-01"], [1.0, 2.0]),
        "no table",
    ],
)
def test_bad_tables_are_refused(frame: object) -> None:
    with pytest.raises(BadFrame):
        series.read(frame, "D", 7)


def test_what_is_wrong_after_as_of_does_not_matter() -> None:
    frame = table(["2026-01-01", "2026-01-02", "2026-01-09"], [1.0, 2.0, np.nan])
    assert series.read(frame, "D", 7, "2026-01-02").series[0].values.tolist() == [1.0, 2.0]
