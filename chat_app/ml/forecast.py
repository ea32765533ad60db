"""Forecasts of regular series with intervals, beside the seasonal-naive line.

The default is the median of Holt-Winters, ARIMA and LightGBM on the naive forecast's misses; a
backtest inside the known past may choose one of them, Theta or the naive forecast. Bands are
conformal: quantiles of the misses that the same method made at earlier moments of the series.
Knows no database.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import pandas as pd

from chat_app.ml import candidates, keeping, series
from chat_app.ml.candidates import BASIC, MEMBERS
from chat_app.ml.series import BadForecast, Floats, Panel, Series

COMBINED = "median"
ALGORITHMS = ("auto", COMBINED, "naive", "theta", "holt_winters", "arima", "lightgbm", "prophet")
LONGEST = 5_000  # periods ahead
TOP = 5.0  # a forecast stays within this multiple of the largest value seen
WINDOWS = 24  # earlier moments that a series is judged at
CLEARLY = 0.9  # a single method takes the median's place below this share of its error
ENOUGH = 12  # … over at least so many moments
MANY = 64  # series from which ARIMA is left out and Theta takes its place in the median
HISTORY = 3_000  # newest values that are used
PRIOR = 6.0  # weight of the other series in a band, in moments
NORMAL_RATIO = 1.53  # of a 95 % to an 80 % half-width


@dataclass
class _Judged:
    """What the methods would have said at earlier moments of one series, and what was."""

    cuts: list[int]
    actual: Floats  # cuts × steps
    said: dict[str, Floats]
    scale: float  # mean seasonal-naive miss inside the first past


@dataclass
class _Answer:
    champion: str
    paths: list[Floats]  # by series, h values each
    judged: list[_Judged | None]


class Forecaster:
    """Continues one series, or many that teach each other.

    `freq`: D, B, W, MS, ME, QS, YS, h, min, also with a number; `season`: periods after which the
    series repeats itself (7 for days, 12 for months, 1 for none); `algorithm`: one of `ALGORITHMS`.
    Answers depend on rows up to `as_of` alone, not on their order, and are the same at each call.
    """

    def __init__(
        self, freq: str, season: int | None = None, algorithm: str = "auto", seed: int = 0
    ) -> None:
        if algorithm not in ALGORITHMS:
            raise BadForecast(
                f"There is no algorithm {algorithm!r}. Give one of {', '.join(ALGORITHMS)}.",
                param="algorithm",
            )
        if algorithm == "prophet" and not candidates.has_prophet():
            raise BadForecast(
                "Prophet is not installed. Install the extra 'prophet' or choose another.",
                param="algorithm",
            )
        self.freq = str(getattr(freq, "freqstr", freq))
        self.season = _count(1 if season is None else season, "season", 10_000)
        self.algorithm = algorithm
        self.seed = seed
        self._panel: Panel | None = None
        self._answers: dict[int, _Answer] = {}
        series.grid_of(self.freq, np.empty(0, dtype=np.int64), np.empty(0))  # refuses a bad freq

    def fit(self, df: pd.DataFrame, as_of: Any = None) -> "Forecaster":
        """Take the past: `ds, y` and `unique_id` if there are several series.

        A period that was not over at `as_of` is left out (see `series.read`). Raises BadFrame and
        BadForecast.
        """
        self._panel = series.read(df, self.freq, self.season, as_of)
        for one in self._panel.series:
            one.first += max(len(one.values) - HISTORY, 0)
            one.values = one.values[-HISTORY:]
        self._answers = {}
        return self

    @property
    def basis(self) -> dict[Any, str]:
        """Of each series: `history`, or `insufficient` for one too short to learn from."""
        return {one.key: self._basis(one) for one in self._known().series}

    def champion(self, h: int) -> str:
        """The method whose forecasts `predict(h)` gives."""
        return self._answer(_count(h, "h", LONGEST)).champion

    def predict(self, h: int, levels: Sequence[float] = (80, 95)) -> pd.DataFrame:
        """The next `h` periods: `ds, yhat, lo80, hi80, lo95, hi95`, `unique_id` if it was given.

        The column `basis` is `insufficient` where a series is too short: yhat is then its mean,
        between 0 and a multiple of it. Forecasts stay in [0, 5 × the largest value]; a series
        with negative values, within 5 × its largest size on both sides. Raises BadForecast.
        """
        h = _count(h, "h", LONGEST)
        wanted = _levels(levels)
        panel, answer = self._known(), self._answer(h)
        shapes = _bands(answer, h, wanted)
        parts = []
        for one, path, widths in zip(panel.series, answer.paths, shapes, strict=True):
            low, high = _limits(one.values)
            yhat = np.clip(path, low, high)
            numbers = one.end + np.arange(h)
            columns: dict[str, Any] = {
                "ds": panel.clock.write(panel.grid.label(numbers)),
                "yhat": yhat,
            }
            if panel.keyed:
                columns["unique_id"] = [one.key] * h
            for level in wanted:
                name, half = f"{level:g}", widths.get(level)
                if half is None:
                    half = _guessed(one.values, h, level)
                columns[f"lo{name}"] = np.clip(yhat - half, low, high)
                columns[f"hi{name}"] = np.clip(yhat + half, low, high)
            columns["basis"] = self._basis(one)
            parts.append(pd.DataFrame(columns))
        names = ["ds", "yhat", *(f"{side}{level:g}" for level in wanted for side in ("lo", "hi"))]
        names += [*(["unique_id"] if panel.keyed else []), "basis"]
        if not parts:
            nothing = panel.clock.write(np.empty(0, dtype=np.int64))
            found = pd.DataFrame({"ds": nothing}).reindex(columns=names)
            return found.astype(
                {name: "float64" for name in names if name[:2] in {"yh", "lo", "hi"}}
            )
        return pd.concat(parts, ignore_index=True)[names]

    def backtest(self, h: int, origins: int = 3) -> pd.DataFrame:
        """Every method at `origins` earlier moments, `h` apart: `MAE, RMSE, MASE, sMAPE`.

        One row for each of `candidate`, the mean over series; MASE is in units of the
        seasonal-naive miss inside the past, sMAPE in percent (0–200); `windows` counts
        what was compared. Every method learns from the past of each moment alone. Series too
        short for it are left out; the columns are NaN where none is left.
        """
        h, origins = _count(h, "h", LONGEST), _count(origins, "origins", 1_000)
        names = [*BASIC, COMBINED, *(["prophet"] if candidates.has_prophet() else [])]
        least = max(2 * self.season, candidates.FEW)
        scores: dict[str, list[list[float]]] = {name: [] for name in names}
        usable = [one for one in self._known().series if len(one.values) >= least + h]
        scaled = [_scaled(one.values) for one in usable]
        said: list[dict[str, list[Floats]]] = [{name: [] for name in names} for _ in usable]
        cuts: list[list[int]] = [[] for _ in usable]
        for back in range(origins, 0, -1):
            here = [n for n, y in enumerate(scaled) if len(y[0]) - back * h >= least]
            if not here:
                continue
            past = [scaled[n][0][: len(scaled[n][0]) - back * h] for n in here]
            pooled = candidates.Residual(self.season, h, self.seed).fit(past)
            for n, y in zip(here, past, strict=True):
                cuts[n].append(len(y))
                for name, path in self._all(y, [len(y)], h, names, pooled).items():
                    said[n][name].append(path[0])
        for n, (y, unit) in enumerate(scaled):
            if cuts[n]:
                actual = np.stack([y[cut : cut + h] for cut in cuts[n]])
                scale = _naive_miss(y[: cuts[n][0]], self.season)
                for name in names:
                    path = np.stack(said[n][name])
                    path = np.stack([np.clip(one, *_limits(y[:cut])) for one, cut
                                     in zip(path, cuts[n], strict=True)])  # fmt: skip
                    scores[name].append(_scores(path, actual, unit, scale))
        rows = [np.mean(scores[name], axis=0) if scores[name] else [np.nan] * 4 for name in names]
        found = pd.DataFrame(rows, columns=["MAE", "RMSE", "MASE", "sMAPE"])
        found.insert(0, "candidate", names)
        found["windows"] = sum(len(one) for one in cuts)
        return found

    def to_params(self) -> dict[str, Any]:
        """All that is known as plain JSON; `from_params` takes it back."""
        panel = self._known()
        return {
            "freq": self.freq, "season": self.season, "algorithm": self.algorithm,
            "seed": self.seed, "keyed": panel.keyed,
            "zone": None if panel.clock.zone is None else str(panel.clock.zone),
            "wall": panel.clock.wall, "grid": dict(vars(panel.grid)),
            "series": [
                {"key": one.key if isinstance(one.key, str) else int(one.key), "first": one.first,
                 "values": one.values.tolist()}
                for one in panel.series
            ],
        }  # fmt: skip

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> "Forecaster":
        """The forecaster that `to_params` described."""
        made = cls(params["freq"], params["season"], params["algorithm"], params["seed"])
        panel = Panel(
            series.Grid(**params["grid"]),
            series.Clock(params["zone"], params["wall"]),
            params["keyed"],
        )
        for one in params["series"]:
            values = np.array(one["values"], dtype=np.float64)
            panel.series.append(Series(one["key"], one["first"], values))
        made._panel = panel
        return made

    def to_files(self) -> dict[str, bytes]:
        """The forecaster for the registry; its series are part of it."""
        return keeping.pack(self.to_params())

    @classmethod
    def from_files(cls, files: keeping.Files) -> "Forecaster":
        """The forecaster that `to_files` wrote."""
        return cls.from_params(keeping.unpack(files))

    def misses(self, h: int) -> list[tuple[Floats, Floats]]:
        """Of each series: what was, and what would have been said, at earlier moments × h steps."""
        answer = self._answer(_count(h, "h", LONGEST))
        nothing = np.empty((0, h))
        return [
            (nothing, nothing) if one is None else (one.actual, one.said[answer.champion])
            for one in answer.judged
        ]

    def _known(self) -> Panel:
        if self._panel is None:
            raise BadForecast("Nothing is fitted yet. Call fit with a table first.", param="df")
        return self._panel

    def _basis(self, one: Series) -> Literal["history", "insufficient"]:
        return "history" if len(one.values) >= candidates.FEW else "insufficient"

    def _names(self) -> list[str]:
        """The methods that are asked; many series are spared ARIMA, which takes a second each."""
        if self.algorithm not in {"auto", COMBINED}:
            return [self.algorithm]
        many = len(self._known().series) > MANY
        return [*(name for name in BASIC if name != "arima" or not many), COMBINED]

    def _all(
        self, y: Floats, cuts: Sequence[int], h: int, names: Sequence[str], pooled: Any
    ) -> dict[str, Floats]:
        """What each named method says after each cut."""
        found: dict[str, Floats] = {}
        for name in names:
            if name == "lightgbm":
                found[name] = pooled.forecast(y, cuts)
            elif name != COMBINED:
                found[name] = candidates.SINGLE[name](y, cuts, self.season, h)
        if COMBINED in names:
            lacking = {"lightgbm"} if pooled.model is None else set()
            members = [found[name] for name in MEMBERS if name in found and name not in lacking]
            members += [found["theta"]] * (len(members) < len(MEMBERS))
            found[COMBINED] = np.median(np.stack(members), axis=0)
        return found

    def _answer(self, h: int) -> _Answer:
        if h in self._answers:
            return self._answers[h]
        panel, names = self._known(), self._names()
        scaled = [_scaled(one.values) for one in panel.series]
        cuts = [self._cuts(len(y), h) for y, _ in scaled]
        far = [self._reach(len(y), h) for y, _ in scaled]
        learnt = any(name in {"lightgbm", COMBINED} for name in names)
        early = candidates.Residual(self.season, h, self.seed)
        late = candidates.Residual(self.season, h, self.seed)
        if learnt:
            early.fit([y[: at[0]] for (y, _), at in zip(scaled, cuts, strict=True) if at])
            late.fit([y for y, _ in scaled])
        judged: list[_Judged | None] = []
        paths: list[dict[str, Floats]] = []
        for (y, _), at, reach in zip(scaled, cuts, far, strict=True):
            judged.append(self._judge(y, at, reach, names, early))
            if len(y) < candidates.FEW:
                paths.append({name: np.full((1, h), y.mean()) for name in names})
            else:
                paths.append(self._all(y, [len(y)], h, names, late))
        champion = self._choose(names, judged)
        units = [unit for _, unit in scaled]
        for one, unit in zip(judged, units, strict=True):
            if one is not None:
                one.actual *= unit
                one.said = {name: path * unit for name, path in one.said.items()}
        found = [path[champion][0] * unit for path, unit in zip(paths, units, strict=True)]
        self._answers[h] = _Answer(champion, found, judged)
        return self._answers[h]

    def _reach(self, n: int, h: int) -> int:
        """Steps ahead that the past is long enough to judge."""
        return max(min(h, (n - self._least(n)) // 2), 0)

    def _least(self, n: int) -> int:
        """The shortest past to judge from: two seasons, or half of what there is."""
        return max(min(2 * self.season + 2, n // 2), n // 3, candidates.FEW)

    def _cuts(self, n: int, h: int) -> list[int]:
        reach = self._reach(n, h)
        if not reach:
            return []
        return sorted(set(np.linspace(self._least(n), n - reach, WINDOWS).astype(int).tolist()))

    def _judge(
        self, y: Floats, cuts: list[int], reach: int, names: Sequence[str], pooled: Any
    ) -> _Judged | None:
        if not cuts:
            return None
        if self.algorithm in {"arima", "prophet"}:
            cuts = cuts[:: max(1, len(cuts) // 8)]
        said = self._all(y, cuts, pooled.h, names, pooled)
        actual = np.stack([y[cut : cut + reach] for cut in cuts])
        said = {name: path[:, :reach] for name, path in said.items()}
        return _Judged(cuts, actual, said, _naive_miss(y[: cuts[0]], self.season))

    def _choose(self, names: Sequence[str], judged: Sequence[_Judged | None]) -> str:
        """The median, unless a single method was clearly better at enough earlier moments."""
        if COMBINED not in names:
            return names[0]
        if self.algorithm == COMBINED:
            return COMBINED
        known = [one for one in judged if one is not None]
        if sum(len(one.cuts) for one in known) < ENOUGH:
            return COMBINED
        misses = {
            name: float(np.mean([np.abs(one.said[name] - one.actual).mean() / one.scale
                                 for one in known]))
            for name in names
        }  # fmt: skip
        best = min(names, key=lambda name: (misses[name], name != COMBINED))
        return best if misses[best] < CLEARLY * misses[COMBINED] else COMBINED


def _count(value: Any, name: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 < value <= most:
        raise BadForecast(f"{name} must be a whole number from 1 to {most}.", param=name)
    return int(value)


def _levels(levels: Sequence[float]) -> list[float]:
    try:
        found = [float(level) for level in levels]
    except (TypeError, ValueError) as error:
        raise BadForecast("levels must be percentages.", param="levels") from error
    if not found or not all(0 < level < 100 for level in found):
        raise BadForecast("levels must lie between 0 and 100, such as (80, 95).", param="levels")
    return found


def _scaled(values: Floats) -> tuple[Floats, float]:
    """The values in units of their mean size, and the unit."""
    unit = float(np.abs(values).mean())
    unit = unit if unit > 0 else 1.0
    return values / unit, unit


def _limits(values: Floats) -> tuple[float, float]:
    most = TOP * float(np.abs(values).max()) if len(values) else 0.0
    return (0.0 if not len(values) or values.min() >= 0 else -most), most


def _naive_miss(y: Floats, season: int) -> float:
    """The unit of MASE; the mean size where the naive forecast never missed."""
    season = season if len(y) > season else 1
    miss = float(np.abs(y[season:] - y[:-season]).mean()) if len(y) > season else 0.0
    return miss if miss > 1e-12 else max(float(np.abs(y).mean()), 1e-12)


def _scores(path: Floats, actual: Floats, unit: float, scale: float) -> list[float]:
    miss = np.abs(path - actual)
    size = np.abs(path) + np.abs(actual)
    share = np.divide(2 * miss, size, out=np.zeros_like(miss), where=size > 0)
    mae = float(miss.mean())
    rmse = float(np.sqrt((miss**2).mean()))
    return [mae * unit, rmse * unit, mae / scale, 100 * float(share.mean())]


def _bands(answer: _Answer, h: int, levels: Sequence[float]) -> list[dict[float, Floats]]:
    """Half-widths by level for each series.

    Misses grow with the step: their shape is smoothed over steps, and the quantile of the misses
    in units of the shape sets the level. A series with few moments leans on the others.
    """
    shapes: list[Floats | None] = []
    pool: list[Floats] = []
    for one in answer.judged:
        if one is None:
            shapes.append(None)
            continue
        miss = np.abs(one.actual - one.said[answer.champion])
        shape = _rising(miss.mean(axis=0))
        shapes.append(shape)
        pool.append((miss / np.maximum(shape, 1e-12)).ravel() if shape.any() else np.zeros(1))
    shared = np.sort(np.concatenate(pool)) if pool else np.zeros(0)
    found: list[dict[float, Floats]] = []
    for one, curve in zip(answer.judged, shapes, strict=True):
        shape = curve if curve is not None else np.zeros(1)
        if one is None:
            found.append({})
            continue
        miss = np.abs(one.actual - one.said[answer.champion]) / np.maximum(shape, 1e-12)
        grown = np.concatenate(
            [shape, shape[-1] * np.sqrt(np.arange(len(shape) + 1, h + 1) / len(shape))]
        )
        weight = len(one.cuts) / (len(one.cuts) + (PRIOR if len(pool) > 1 else 0.0))
        widths = {}
        for level in sorted(levels):
            n = len(one.cuts)
            rank = min(level / 100 * (1 + 1 / n), 1.0)  # the finite-sample step of conformal bands
            own = float(np.quantile(miss, rank))
            other = float(np.quantile(shared, level / 100))
            widths[level] = weight * own + (1 - weight) * other
        if 80.0 in widths:  # tails of few moments are shorter than they should be
            floor = NORMAL_RATIO * widths[80.0]
            widths = {at: max(wide, floor) if at >= 95 else wide for at, wide in widths.items()}
        ordered = np.maximum.accumulate([widths[level] for level in sorted(levels)])
        found.append({level: grown * width for level, width
                      in zip(sorted(levels), ordered, strict=True)})  # fmt: skip
    return found


def _guessed(values: Floats, h: int, level: float) -> Floats:
    """Half-widths without a past to measure them in: from the steps of the series, or its size."""
    if len(values) < candidates.FEW:
        return np.full(h, np.abs(values).max() * (1 if level <= 80 else 2))
    normal = NormalDist().inv_cdf(0.5 + level / 200)
    return 1.25 * normal * float(np.diff(values).std()) * np.sqrt(np.arange(1, h + 1))


def _rising(shape: Floats) -> Floats:
    """The nearest curve that never falls, by pooling neighbours."""
    blocks: list[list[float]] = []
    for value in shape:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, count = blocks.pop()
            before, many = blocks[-1]
            total = count + many
            blocks[-1] = [(mean * count + before * many) / total, total]
    return np.concatenate([np.full(int(count), mean) for mean, count in blocks])
