"""Days that look wrong: far from what their weekday and the weeks around them say.

A running median is the level, the median of each place of the season is its shape, and the
median absolute deviation is the unit; an isolation forest adds rows that are odd together with
their neighbours. It looks back over a finished series and uses both sides of a row. Knows no
cause.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from chat_app.ml.series import DAY, BadForecast, Floats, Ints
from chat_app.revenue import frames

LEAST = 8  # rows below which nothing is judged
FOREST = 50  # rows from which the forest is asked
WIDTH = 4.5  # robust standard deviations to each side of what is expected
NEAR = 2.5  # … that a row must be away at least for the forest to flag it
ODD = 0.65  # score of the forest (0.5 is ordinary, 1 is alone)
TO_SIGMA = 1.4826  # of a median absolute deviation
IN_SLOT = 3  # rows of one place of the season that give it a shape


def detect(df: pd.DataFrame, *, season: int | None = None, seed: int = 0) -> pd.DataFrame:
    """Each row of `ds, y` with `expected, lo, hi, is_anomaly, score`, in the order of time.

    `score` is the distance from what is expected in units of half the band: from 1 on a row is
    an anomaly. `season`, in rows, is found from their spacing when it is not given: weekday,
    hour of the day or month of the year. Under eight rows nothing is flagged and the column
    `basis` says `insufficient`. Raises BadFrame and BadForecast.
    """
    table = frames.checked(df, ["ds", "y"], name="df")
    if season is not None and not 1 <= int(season) <= 10_000:
        raise BadForecast("season must be from 1 to 10000.", param="season")
    given = table["ds"].copy()
    frames.times(table, "ds", name="df")
    numbers = pd.to_numeric(table["y"], errors="coerce").astype("float64")
    frames.refuse(
        table, ~numbers.abs().lt(1e15), "y", "df", "holds what is no finite number"
    )  # fmt: skip
    frames.refuse(table, table["ds"].duplicated(), "ds", "df", "holds a time twice")
    order = np.argsort(table["ds"].to_numpy(), kind="stable")
    found = pd.DataFrame({"ds": _as_given(given).iloc[order].reset_index(drop=True)})
    y = numbers.to_numpy()[order]
    found["y"] = y
    if len(y) < LEAST:
        middle = float(np.median(y)) if len(y) else 0.0
        found["expected"] = middle
        found["lo"], found["hi"] = np.minimum(y, middle), np.maximum(y, middle)
        found["is_anomaly"], found["score"] = np.zeros(len(y), dtype=bool), 0.0
        return found.assign(basis="insufficient")
    slots, length = _slots(found["ds"], season)
    expected, unit = _expected(y, slots, length)
    away = (y - expected) / unit
    score = np.abs(away) / WIDTH
    odd = _odd(away, seed) & (np.abs(away) >= NEAR)
    score = np.where(odd, np.maximum(score, 1.0), score)
    low = expected - WIDTH * unit
    found["expected"] = expected
    found["lo"] = np.maximum(low, 0.0) if y.min() >= 0 else low
    found["hi"] = expected + WIDTH * unit
    found["is_anomaly"] = score >= 1.0
    found["score"] = score
    return found.assign(basis="history")


def _as_given(given: "pd.Series[Any]") -> "pd.Series[Any]":
    """Times as they came; text becomes times."""
    if isinstance(given.dtype, pd.DatetimeTZDtype) or given.dtype.kind == "M":
        return given
    return pd.to_datetime(given)


def _slots(times: "pd.Series[Any]", season: int | None) -> tuple[Ints, int]:
    """The place of each row in the season, and the season's length in rows."""
    if season is not None:
        return np.arange(len(times)) % int(season), int(season)
    clock = times.dt.tz_localize(None)
    gap = float(np.median(np.diff(clock.astype("datetime64[us]").astype("int64"))))
    if DAY * 0.9 < gap < DAY * 1.9:
        return clock.dt.day_of_week.to_numpy().astype(np.int64), 7
    if DAY / 30 < gap < DAY / 10:
        return clock.dt.hour.to_numpy().astype(np.int64), max(round(DAY / gap), 1)
    if DAY * 27 < gap < DAY * 32:
        return clock.dt.month.to_numpy().astype(np.int64) - 1, 12
    return np.zeros(len(times), dtype=np.int64), 1


def _expected(y: Floats, slots: Ints, length: int) -> tuple[Floats, Floats]:
    """What is expected of each row, and one robust standard deviation there.

    The shape is added to the level or multiplied with it, whichever leaves less.
    """
    wide = _middle(y, 4 * length + 1 if length > 1 else 15)
    best: tuple[float, Floats, bool] | None = None
    for ratio in [False, True] if wide.min() > 0 and length > 1 else [False]:
        raw = y / wide if ratio else y - wide
        shape = _shape(raw, slots, 1.0 if ratio else 0.0)
        flat = y / np.maximum(shape, 0.01) if ratio else y - shape
        level = _middle(flat, 2 * length + 1 if length > 1 else 15)
        said = level * shape if ratio else level + shape
        left = float(np.median(np.abs(y - said)))
        if best is None or left < 0.97 * best[0]:
            best = (left, said, ratio)
    assert best is not None
    _, said, ratio = best
    size = np.maximum(said, 0.05 * said.mean()) if ratio else np.ones(len(y))
    # a season that multiplies makes the spread of its low places small too
    return said, size * _unit((y - said) / size, y / size, max(8 * length, 31))


def _middle(y: Floats, width: int) -> Floats:
    """The running median, over what there is at the ends."""
    rolled = pd.Series(y).rolling(width | 1, center=True, min_periods=1).median()
    found: Floats = rolled.to_numpy()
    return found


def _shape(raw: Floats, slots: Ints, neutral: float) -> Floats:
    found = np.full(len(raw), neutral)
    for slot in np.unique(slots):
        mine = slots == slot
        if mine.sum() >= IN_SLOT:
            found[mine] = np.median(raw[mine])
    return found


def _unit(missed: Floats, y: Floats, width: int) -> Floats:
    """The spread around each row, at least half that of all; never zero."""
    size = np.abs(missed)
    whole = TO_SIGMA * float(np.median(size))
    if whole <= 1e-9 * np.abs(y).max():  # most rows are exactly as expected
        whole = float(missed.std())
    near = TO_SIGMA * _middle(size, width)
    return np.maximum(np.maximum(near, 0.6 * whole), 1e-9 * max(float(np.abs(y).max()), 1.0))


def _odd(away: Floats, seed: int) -> npt.NDArray[np.bool_]:
    """Rows that stand alone together with their neighbours, by isolation forest."""
    if len(away) < FOREST or np.ptp(away) <= 0:
        return np.zeros(len(away), dtype=bool)
    from sklearn.ensemble import IsolationForest

    three = pd.Series(away).rolling(3, center=True, min_periods=1).mean().to_numpy()
    step = np.diff(away, prepend=away[0])
    features = np.clip(np.column_stack([away, three, step]), -50, 50)
    forest = IsolationForest(n_estimators=100, random_state=seed, n_jobs=1).fit(features)
    found: npt.NDArray[np.bool_] = -forest.score_samples(features) > ODD
    return found
