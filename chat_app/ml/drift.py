"""Has the world moved since training? PSI on the quantiles of training, scaled to the rows.

PSI of a few hundred rows exceeds the customary 0.1 by chance alone, so the alarm stands at
max(0.1, χ²(0.99) · (1/n + 1/m)) for n rows of training and m of now.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

BINS = 10
FLOOR = 0.1
# The 99th percentile of chi-squared with 1 to 40 degrees of freedom.
CHI2_99 = (
    6.635, 9.210, 11.345, 13.277, 15.086, 16.812, 18.475, 20.090, 21.666, 23.209,
    24.725, 26.217, 27.688, 29.141, 30.578, 32.000, 33.409, 34.805, 36.191, 37.566,
    38.932, 40.289, 41.638, 42.980, 44.314, 45.642, 46.963, 48.278, 49.588, 50.892,
    52.191, 53.486, 54.776, 56.061, 57.342, 58.619, 59.893, 61.162, 62.428, 63.691,
)  # fmt: skip


@dataclass(frozen=True)
class Drift:
    """PSI of one column with the level above which it is more than chance."""

    psi: float
    threshold: float
    rows_then: int
    rows_now: int
    bins: int
    basis: str  # "psi" or "insufficient"

    @property
    def alarm(self) -> bool:
        """Whether the column moved by more than chance and more than a little."""
        return self.basis == "psi" and self.psi > self.threshold


def psi(then: Any, now: Any, bins: int = BINS) -> Drift:
    """Population stability index of numbers or text; missing values are a bin of their own.

    Infinite numbers count as missing. With fewer than 2 rows on a side, or nothing that varies
    in either, `basis` is "insufficient" and the index 0.
    """
    before, after = pd.Series(then).reset_index(drop=True), pd.Series(now).reset_index(drop=True)
    if len(before) < 2 or len(after) < 2:
        return Drift(0.0, FLOOR, len(before), len(after), 0, "insufficient")
    numeric = _numeric(before) and (_numeric(after) or after.isna().all())
    places = _number_places(before, after, bins) if numeric else _text_places(before, after, bins)
    first, second = places
    count = int(max(first.max(), second.max())) + 1
    share_then = np.bincount(first, minlength=count).astype(np.float64)
    share_now = np.bincount(second, minlength=count).astype(np.float64)
    used = (share_then + share_now) > 0
    kinds = int(used.sum())
    if kinds < 2:
        return Drift(0.0, FLOOR, len(before), len(after), kinds, "insufficient")
    # Half a row in each bin keeps an empty one finite.
    p = (share_then[used] + 0.5) / (len(before) + 0.5 * kinds)
    q = (share_now[used] + 0.5) / (len(after) + 0.5 * kinds)
    index = float(((q - p) * np.log(q / p)).sum())
    chance = CHI2_99[min(kinds - 1, len(CHI2_99)) - 1] * (1 / len(before) + 1 / len(after))
    return Drift(index, max(FLOOR, chance), len(before), len(after), kinds, "psi")


def table(then: pd.DataFrame, now: pd.DataFrame) -> pd.DataFrame:
    """PSI of every column of `then`: `column, psi, threshold, alarm, basis`, the worst first.

    A column that `now` lacks is `basis` "missing" and an alarm.
    """
    rows = []
    for column in then.columns:
        if column not in now.columns:
            rows.append((str(column), float("nan"), FLOOR, True, "missing"))
            continue
        found = psi(then[column], now[column])
        rows.append((str(column), found.psi, found.threshold, found.alarm, found.basis))
    frame = pd.DataFrame(rows, columns=["column", "psi", "threshold", "alarm", "basis"])
    order = ["alarm", "psi", "column"]
    return frame.sort_values(order, ascending=[False, False, True], ignore_index=True)


def calibration_ratio(truth: Any, probability: Any) -> float:
    """What came over what was promised: 1 is right, 2 is twice as many as predicted."""
    promised = float(np.asarray(probability, dtype=np.float64).sum())
    came = float(np.asarray(truth, dtype=np.float64).sum())
    return came / promised if promised > 0 else float("nan")


def _numeric(values: "pd.Series[Any]") -> bool:
    kind = values.dtype
    return bool(pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind))


def _number_places(before: Any, after: Any, bins: int) -> tuple[Any, Any]:
    first = before.to_numpy(dtype=np.float64, na_value=np.nan)
    second = after.to_numpy(dtype=np.float64, na_value=np.nan)
    known = first[np.isfinite(first)]
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    edges = np.unique(np.quantile(known, inner, method="lower")) if len(known) else np.array([])
    places = []
    for values in (first, second):
        place = np.searchsorted(edges, values, side="left") + 1
        places.append(np.where(np.isfinite(values), place, 0))
    return places[0], places[1]


def _text_places(before: Any, after: Any, bins: int) -> tuple[Any, Any]:
    words = [side.astype("object").where(side.notna(), "").map(str) for side in (before, after)]
    counts = words[0].value_counts()
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    levels = {name: place for place, (name, _) in enumerate(ranked[: bins * 3])}
    other = len(levels)
    first, second = (side.map(lambda word: levels.get(word, other)).to_numpy(int) for side in words)
    return first, second
