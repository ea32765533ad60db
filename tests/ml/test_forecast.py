"""Forecasts: beside the naive line, the same at each call, and honest about little data."""

import json
from functools import cache

import numpy as np
import pandas as pd
import pytest

from chat_app.ml import candidates
from chat_app.ml.forecast import Forecaster
from chat_app.ml.series import BadForecast, Floats
from chat_app.revenue.frames import BadFrame

COLUMNS = ["ds", "yhat", "lo80", "hi80", "lo95", "hi95"]


def shop(days: int = 120, seed: int = 0, tz: str | None = None) -> pd.DataFrame:
    """Daily takings with weekdays, a slow rise and noise."""
    rng = np.random.default_rng(seed)
    ds = pd.date_range("2026-01-05", periods=days, tz=tz)
    week = np.array([10, 11, 12, 12, 15, 6, 3.0])
    y = week[np.arange(days) % 7] * (10 + np.arange(days) / 40) + rng.normal(0, 5, days)
    return pd.DataFrame({"ds": ds, "y": np.maximum(y, 0)})


@cache
def usual() -> pd.DataFrame:
    return Forecaster("D", 7).fit(shop()).predict(14)


def test_shape_and_order_of_the_answer() -> None:
    found = usual()
    assert list(found.columns) == [*COLUMNS, "basis"]
    assert found["ds"].tolist() == pd.date_range("2026-05-05", periods=14).tolist()
    assert (found["lo95"] <= found["lo80"]).all()
    assert (found["lo80"] <= found["yhat"]).all()
    assert (found["yhat"] <= found["hi80"]).all()
    assert (found["hi80"] <= found["hi95"]).all()
    assert set(found["basis"]) == {"history"}
    other = Forecaster("D", 7, "theta").fit(shop()).predict(2, levels=(50, 99.5))
    assert list(other.columns) == ["ds", "yhat", "lo50", "hi50", "lo99.5", "hi99.5", "basis"]


def test_same_bytes_whatever_the_order_and_the_future() -> None:
    """Rows after `as_of` change no bit, nor does the order of rows or a second run."""
    known = shop()
    later = shop(150)
    later.loc[120:, "y"] = [1e9, np.nan, -5.0] * 10
    mixed = pd.concat([known, later[120:]]).sample(frac=1, random_state=3)
    found = Forecaster("D", 7).fit(mixed, as_of=known["ds"].iloc[-1]).predict(14)
    pd.testing.assert_frame_equal(found, usual(), check_exact=True)


@pytest.mark.parametrize("algorithm", ["naive", "theta", "holt_winters", "lightgbm", "arima"])
def test_every_method_follows_the_week_and_the_amount(algorithm: str) -> None:
    frame = shop(84)
    found = Forecaster("D", 7, algorithm).fit(frame).predict(7)["yhat"].to_numpy()
    assert found[:5].min() > 1.5 * found[6]
    double = frame.assign(y=frame["y"] * 1000)
    scaled = Forecaster("D", 7, algorithm).fit(double).predict(7)["yhat"].to_numpy()
    assert scaled == pytest.approx(1000 * found, rel=1e-3)


def test_many_series_come_back_by_their_keys() -> None:
    parts = [shop(60, n).assign(unique_id=name) for n, name in enumerate(["b", "a", "c"])]
    parts[1] = parts[1].iloc[:3]
    model = Forecaster("D", 7).fit(pd.concat(parts))
    found = model.predict(3)
    assert list(found.columns) == [*COLUMNS, "unique_id", "basis"]
    assert found["unique_id"].tolist() == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    assert model.basis == {"a": "insufficient", "b": "history", "c": "history"}
    assert found.notna().all().all()


def test_times_come_back_in_their_kind() -> None:
    """DST days: naive stays naive, days of Berlin stay days of Berlin."""
    frame = shop(80, tz="Europe/Berlin")
    found = Forecaster("D", 7, "naive").fit(frame).predict(3)
    assert str(found["ds"].dtype) == str(frame["ds"].dtype)
    assert (
        found["ds"].tolist() == pd.date_range("2026-03-26", periods=3, tz="Europe/Berlin").tolist()
    )
    assert usual()["ds"].dt.tz is None


@pytest.mark.parametrize("rows", [0, 1, 2, 5, 6, 9, 15, 16])
def test_too_little_gives_a_plain_answer(rows: int) -> None:
    found = Forecaster("D", 7).fit(shop(rows)).predict(3)
    assert list(found.columns) == [*COLUMNS, "basis"]
    assert len(found) == (3 if rows else 0)
    assert found[COLUMNS].notna().all().all()
    if rows:
        assert (found["hi80"] > found["lo80"]).all()
        assert found["basis"][0] == ("insufficient" if rows < candidates.FEW else "history")


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_constant_stays_what_it_is(value: float) -> None:
    found = Forecaster("D", 7).fit(shop(60).assign(y=value)).predict(5)
    for column in COLUMNS[1:]:
        assert found[column].to_numpy() == pytest.approx(value, abs=1e-6)


def test_forecasts_stay_in_bounds() -> None:
    """Means explode with one bad member; zero days break multiplicative models."""
    frame = shop(90)
    frame["y"] = np.exp(np.arange(90) / 6)
    frame.loc[frame["ds"].dt.day_of_week == 5, "y"] = 0.0
    for algorithm in ["auto", "theta"]:
        found = Forecaster("D", 7, algorithm).fit(frame).predict(120)
        values = found[COLUMNS[1:]].to_numpy()
        assert values.min() >= 0
        assert values.max() <= 5 * frame["y"].max()
        assert np.isfinite(values).all()
    below = Forecaster("D", 7).fit(shop().assign(y=-shop()["y"])).predict(5)
    assert (below["yhat"] < 0).all()


def test_backtest_shows_every_method_beside_the_naive_one() -> None:
    found = Forecaster("D", 7).fit(shop()).backtest(7, 3)
    assert list(found.columns) == ["candidate", "MAE", "RMSE", "MASE", "sMAPE", "windows"]
    assert set(found["candidate"]) >= {*candidates.BASIC, "median"}
    assert set(found["windows"]) == {3}
    scores = found.set_index("candidate")
    assert scores.loc["median", "MASE"] < scores.loc["naive", "MASE"]
    y = shop()["y"].to_numpy()
    misses = [np.abs(y[cut : cut + 7] - y[cut - 7 : cut]).mean() for cut in (99, 106, 113)]
    unit = np.abs(y[7:99] - y[:92]).mean()
    assert scores.loc["naive", "MAE"] == pytest.approx(np.mean(misses))
    assert scores.loc["naive", "MASE"] == pytest.approx(np.mean(misses) / unit)
    short = Forecaster("D", 7).fit(shop(10)).backtest(7, 3)
    assert short["MASE"].isna().all()


def test_a_cut_does_not_see_what_follows() -> None:
    """What follows a cut changes nothing in any method's answer at the cut."""
    y = shop(80)["y"].to_numpy() / 100
    other = y.copy()
    other[60:] = 1e3
    pooled = candidates.Residual(7, 5).fit([y[:50]])
    for name in candidates.BASIC:

        def said(values: Floats, method: str = name) -> Floats:
            if method == "lightgbm":
                return pooled.forecast(values, [50, 60])
            return candidates.SINGLE[method](values, [50, 60], 7, 5)

        assert said(y).tolist() == said(other).tolist(), name
        alone = pooled.forecast(y, [60]) if name == "lightgbm" else said(y)[1:]
        assert said(y)[1].tolist() == alone[0].tolist()


def test_the_default_beats_naive_on_real_months() -> None:
    """CO2 at Mauna Loa and the sea's temperature, from statsmodels: a year ahead, twice."""
    import statsmodels.datasets as real

    air = real.co2.load_pandas().data["co2"].resample("MS").mean().interpolate()[-132:]
    sea = real.elnino.load_pandas().data.iloc[-11:, 1:].to_numpy().ravel()
    frame = pd.concat(
        pd.DataFrame({"unique_id": name, "ds": air.index, "y": y})
        for name, y in [("air", air.to_numpy()), ("sea", sea)]
    )
    ratios, inside = [], []
    for back in (12, 36):
        past = frame[frame["ds"] < air.index[-back]]
        coming = frame[frame["ds"] >= air.index[-back]]
        found = Forecaster("MS", 12).fit(past).predict(12).merge(coming, on=["unique_id", "ds"])
        naive = Forecaster("MS", 12, "naive").fit(past).predict(12)
        naive = naive.merge(coming, on=["unique_id", "ds"])
        missed = (found["y"] - found["yhat"]).abs().groupby(found["unique_id"]).mean()
        plain = (naive["y"] - naive["yhat"]).abs().groupby(naive["unique_id"]).mean()
        ratios.append(missed / plain)
        inside.append(found["y"].between(found["lo80"], found["hi80"]).mean())
    assert np.mean(ratios) < 0.75
    assert 0.6 <= np.mean(inside) <= 0.98


def test_plain_parameters_give_the_same_forecaster() -> None:
    model = Forecaster("D", 7, "theta").fit(shop(60, tz="Europe/Berlin").assign(unique_id="x"))
    again = Forecaster.from_params(json.loads(json.dumps(model.to_params())))
    pd.testing.assert_frame_equal(again.predict(9), model.predict(9), check_exact=True)


def test_arguments_are_refused_with_their_name() -> None:
    with pytest.raises(BadForecast, match="algorithm"):
        Forecaster("D", 7, "oracle")
    with pytest.raises(BadForecast, match="season"):
        Forecaster("D", 0)
    with pytest.raises(BadForecast, match="fit"):
        Forecaster("D", 7).predict(3)
    model = Forecaster("D", 7, "naive").fit(shop(30))
    for h in (0, -1, 2.5, True, 10**9):
        with pytest.raises(BadForecast, match="h must"):
            model.predict(h)  # type: ignore[arg-type]
    for levels in [(), (0,), (100,), ("x",)]:
        with pytest.raises(BadForecast, match="levels"):
            model.predict(3, levels=levels)  # type: ignore[arg-type]
    if not candidates.has_prophet():
        with pytest.raises(BadForecast, match="prophet"):
            Forecaster("D", 7, "prophet")
    with pytest.raises(BadFrame, match="y"):
        Forecaster("D", 7).fit(shop(9).assign(y=np.nan))
