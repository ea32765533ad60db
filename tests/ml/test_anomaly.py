"""What looks wrong stands out, and what is only a weekend does not."""

import numpy as np
import pandas as pd
import pytest

from chat_app.ml import anomaly
from chat_app.ml.series import BadForecast
from chat_app.revenue.frames import BadFrame

COLUMNS = ["ds", "y", "expected", "lo", "hi", "is_anomaly", "score", "basis"]


def days(count: int = 180, seed: int = 2) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    ds = pd.date_range("2026-01-05", periods=count)
    week = np.where(ds.day_of_week < 5, 100.0, 20.0)
    level = 1 + np.sin(np.arange(count) / 40) / 4 + np.arange(count) / 300
    return pd.DataFrame({"ds": ds, "y": week * level * rng.normal(1, 0.05, count)})


def test_spikes_and_holes_are_found_and_little_else() -> None:
    wrong = {20: 2.0, 61: 0.2, 100: 3.0, 140: 0.0}
    flagged = np.zeros(180)
    for seed in range(3):
        frame = days(seed=seed)
        for row, factor in wrong.items():
            frame.loc[row, "y"] *= factor
        found = anomaly.detect(frame)
        assert found.loc[list(wrong), "is_anomaly"].all()
        flagged += found["is_anomaly"].to_numpy()
    flagged[list(wrong)] = 0
    assert flagged.sum() / (3 * 176) < 0.015


def test_a_busy_sunday_is_odd_although_a_monday_like_it_is_not() -> None:
    frame = days()
    sunday = int(np.flatnonzero(frame["ds"].dt.day_of_week == 6)[10])
    frame.loc[sunday, "y"] = frame.loc[sunday + 1, "y"]
    found = anomaly.detect(frame)
    assert found["is_anomaly"][sunday]
    assert not found["is_anomaly"][sunday + 1]


def test_the_answer_is_complete_and_holds_together() -> None:
    found = anomaly.detect(days())
    assert list(found.columns) == COLUMNS
    assert (found["lo"] <= found["expected"]).all()
    assert (found["expected"] <= found["hi"]).all()
    assert found["lo"].min() >= 0
    assert (found["is_anomaly"] == (found["score"] >= 1)).all()
    outside = (found["y"] > found["hi"]) | (found["y"] < found["lo"])
    assert found.loc[outside, "is_anomaly"].all()


def test_order_and_unit_change_nothing() -> None:
    frame = days()
    frame.loc[50, "y"] *= 3
    first = anomaly.detect(frame)
    mixed = anomaly.detect(frame.sample(frac=1, random_state=5))
    pd.testing.assert_frame_equal(first, mixed, check_exact=True)
    big = anomaly.detect(frame.assign(y=frame["y"] * 1024))
    assert big["is_anomaly"].tolist() == first["is_anomaly"].tolist()
    assert big["score"].to_numpy() == pytest.approx(first["score"].to_numpy())


def test_times_come_back_in_their_kind() -> None:
    frame = days()
    frame["ds"] = frame["ds"].dt.tz_localize("Europe/Berlin")
    found = anomaly.detect(frame)
    assert found["ds"].tolist() == frame["ds"].tolist()


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_a_constant_has_no_anomaly_but_its_one_break(value: float) -> None:
    frame = days(60).assign(y=value)
    assert not anomaly.detect(frame)["is_anomaly"].any()
    frame.loc[30, "y"] = value + 10
    assert np.flatnonzero(anomaly.detect(frame)["is_anomaly"]).tolist() == [30]


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 20])
def test_little(rows: int) -> None:
    found = anomaly.detect(days(rows))
    assert list(found.columns) == COLUMNS
    assert len(found) == rows
    assert found.notna().all().all()
    if 0 < rows < 8:
        assert found["basis"][0] == "insufficient"
        assert not found["is_anomaly"].any()


def test_bad_input_is_named() -> None:
    for y in (np.nan, np.inf, "x"):
        with pytest.raises(BadFrame, match="y"):
            anomaly.detect(days(20).assign(y=y))
    with pytest.raises(BadFrame, match="ds"):
        anomaly.detect(pd.concat([days(9), days(9)]))
    with pytest.raises(BadForecast, match="season"):
        anomaly.detect(days(9), season=0)
