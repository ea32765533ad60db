"""When a balance runs out, and how sure that is."""

import numpy as np
import pandas as pd
import pytest

from chat_app.ml import runway
from chat_app.ml.series import BadForecast
from chat_app.revenue.frames import BadFrame


def usage(days: int = 90, level: float = 10.0, noise: float = 2.0) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    ds = pd.date_range("2026-01-05", periods=days)
    week = np.where(ds.day_of_week < 5, 1.2, 0.5)
    return pd.DataFrame({"ds": ds, "y": np.maximum(level * week + rng.normal(0, noise, days), 0)})


def test_steady_use_runs_out_when_arithmetic_says() -> None:
    frame = usage()
    found = runway.project(frame, 300.0)
    assert list(found.fan.columns) == ["ds", "p10", "p50", "p90"]
    assert found.fan["ds"].iloc[0] == pd.Timestamp("2026-04-05")
    assert (found.fan["p10"] <= found.fan["p50"]).all()
    assert (found.fan["p50"] <= found.fan["p90"]).all()
    assert found.fan["p10"].min() >= 0
    early, middle, late = (found.runout[name] for name in ("p10", "p50", "p90"))
    assert early is not None
    assert middle is not None
    assert late is not None
    assert early <= middle <= late
    assert abs((middle - pd.Timestamp("2026-05-04")).days) <= 2
    assert (found.basis, found.alert) == ("history", False)
    assert runway.project(frame, 40.0).alert


@pytest.mark.full
def test_the_balance_falls_by_what_is_used() -> None:
    plain = usage(noise=0.0)
    left = runway.project(plain, 1000.0).fan["p50"].to_numpy()
    assert left[0] == pytest.approx(995.0, abs=0.5)  # a Sunday
    assert left[1] == pytest.approx(983.0, abs=0.5)


@pytest.mark.full
def test_same_answer_whatever_the_order_and_the_future() -> None:
    frame = usage()
    more = pd.concat(
        [frame, pd.DataFrame({"ds": pd.date_range("2026-05-01", periods=9), "y": 1e6})]
    )
    mixed = more.sample(frac=1, random_state=1)
    first = runway.project(frame, 200.0, as_of=frame["ds"].iloc[-1])
    second = runway.project(mixed, 200.0, as_of=frame["ds"].iloc[-1])
    pd.testing.assert_frame_equal(first.fan, second.fan, check_exact=True)
    assert first.runout == second.runout


def test_beyond_the_horizon_is_none() -> None:
    found = runway.project(usage(27), 1e6, horizon_days=30)
    assert found.runout == {"p10": None, "p50": None, "p90": None}
    assert len(found.fan) == 30


def test_coming_topups_hold_it_up_and_old_ones_do_not() -> None:
    frame = usage(27)
    topups = pd.DataFrame({"ds": ["2026-01-20", "2026-02-16"], "y": [1e5, 1e4]})
    found = runway.project(frame, 300.0, topups)
    assert found.runout["p50"] is None
    assert found.fan["p50"].iloc[14] < 300
    assert found.fan["p50"].iloc[15] > 9_000
    old = runway.project(frame, 300.0, topups.iloc[:1])
    assert old.runout == runway.project(frame, 300.0).runout


def test_today_counts_with_what_is_left_of_it() -> None:
    frame = usage(noise=0.0)
    found = runway.project(frame, 100.0, as_of="2026-04-03 18:00")  # a Friday
    assert found.fan["ds"].iloc[0] == pd.Timestamp("2026-04-03")
    assert found.fan["p50"].iloc[0] == pytest.approx(100 - 12 / 4, abs=0.5)


@pytest.mark.parametrize(
    ("days", "basis"),
    [(0, "insufficient"), (1, "insufficient"), (3, "profile"), (20, "profile"), (28, "history")],
)
def test_little_use(days: int, basis: str) -> None:
    found = runway.project(usage(days), 100.0)
    assert found.basis == basis
    assert found.fan.notna().all().all()
    assert (found.runout["p50"] is None) == (days == 0)


def test_no_use_never_ends_and_no_balance_is_over_today() -> None:
    idle = usage(40).assign(y=0.0)
    assert runway.project(idle, 5.0).runout["p10"] is None
    for balance in (0.0, -3.0):
        over = runway.project(usage(27), balance)
        assert set(over.runout.values()) == {pd.Timestamp("2026-02-01")}


def test_silence_is_no_use_and_events_count() -> None:
    """Someone who stopped ten days ago does not run out as if nothing had happened."""
    frame = usage()
    going = runway.project(frame, 200.0).runout["p50"]
    stopped = runway.project(frame, 200.0, as_of="2026-04-30").runout["p50"]
    assert going is not None
    assert stopped is None or (stopped - pd.Timestamp("2026-04-30")) > 1.5 * (
        going - pd.Timestamp("2026-04-04")
    )
    half = frame.assign(y=frame["y"] / 2)
    events = pd.concat([half, half.assign(ds=half["ds"] + pd.Timedelta("9h"))])
    assert runway.project(events, 200.0, as_of="2026-04-05").runout["p50"] == going


def test_times_come_back_in_their_kind() -> None:
    frame = usage(27)
    frame["ds"] = frame["ds"].dt.tz_localize("Europe/Berlin")
    found = runway.project(frame, 100.0)
    assert str(found.fan["ds"].dt.tz) == "Europe/Berlin"
    assert found.runout["p50"] is not None
    assert found.runout["p50"].tz is not None


def test_bad_input_is_named() -> None:
    for balance in (np.nan, np.inf, "much", None):
        with pytest.raises(BadForecast, match="balance"):
            runway.project(usage(9), balance)  # type: ignore[arg-type]
    with pytest.raises(BadForecast, match="negative"):
        runway.project(usage(9).assign(y=-1.0), 5.0)
    with pytest.raises(BadForecast, match="horizon"):
        runway.project(usage(9), 5.0, horizon_days=0)
    with pytest.raises(BadFrame, match="usage"):
        runway.project(usage(9).drop(columns="y"), 5.0)
    with pytest.raises(BadFrame, match="topups"):
        runway.project(usage(9), 5.0, pd.DataFrame({"ds": ["2026-05-05"]}))
