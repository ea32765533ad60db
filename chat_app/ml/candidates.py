"""Ways to continue a series. Each takes the past as numbers and gives the next `h`.

A candidate is asked for several cuts at once: `cuts` are lengths of the past, and what follows
a cut changes nothing in its answer. Values are scaled by the caller. Knows no times.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chat_app.ml.series import Floats, Ints

FEW = 6  # values below which only the naive candidate answers
BASIC = ("naive", "theta", "holt_winters", "lightgbm", "arima")  # what is tried by default
MEMBERS = ("holt_winters", "lightgbm", "arima")  # of the median
ALPHAS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.65, 0.9)
BETAS = (0.02, 0.08, 0.2)
GAMMAS = (0.02, 0.08, 0.2, 0.4)
DAMPINGS = (0.98, 0.9)
ORDERS = ((0, 1, 1), (1, 1, 1), (2, 1, 2), (1, 0, 1))
ARIMA_TAIL = 400


def naive(values: Floats, cuts: Sequence[int], season: int, h: int) -> Floats:
    """The last season again; with less than one season, the last value."""
    found = np.empty((len(cuts), h))
    for row, cut in enumerate(cuts):
        length = season if cut >= season else 1
        found[row] = np.resize(values[cut - length : cut], h)
    return found


def theta(values: Floats, cuts: Sequence[int], season: int, h: int) -> Floats:
    """The Theta method: half the trend line, half simple smoothing, of the deseasonalised past."""
    return np.stack([_theta(values[:cut], season, h) for cut in cuts])


def _theta(y: Floats, season: int, h: int) -> Floats:
    n = len(y)
    if n < FEW:
        again: Floats = naive(y, [n], season, h)[0]
        return again
    factors, ratio = np.zeros(1), False
    if _seasonal(y, season):
        factors, ratio = seasonal_indices(y, season)
    slots = np.arange(n + h) % len(factors)
    flat = y / factors[slots[:n]] if ratio else y - factors[slots[:n]]
    level, alpha = _smooth(flat)
    times = np.arange(n)
    slope = float(np.polyfit(times, flat, 1)[0])
    ahead = np.arange(h) + (1 - (1 - alpha) ** n) / alpha
    line = level + slope / 2 * ahead
    return line * factors[slots[n:]] if ratio else line + factors[slots[n:]]


def _smooth(y: Floats) -> tuple[float, float]:
    """The last level of simple smoothing and its parameter, by the least squared error."""
    alphas = np.array([*ALPHAS, 0.99])
    level = np.full(len(alphas), y[: min(len(y), 4)].mean())
    errors = np.zeros(len(alphas))
    for value in y:
        error = value - level
        errors += error * error
        level = level + alphas * error
    best = int(np.argmin(errors))
    return float(level[best]), float(alphas[best])


def _seasonal(y: Floats, season: int) -> bool:
    """Whether the past repeats itself at the season, by its autocorrelation at 90 %."""
    n = len(y)
    if season < 2 or n < 2 * season + 2:
        return False
    trendless = y - np.polyval(np.polyfit(np.arange(n), y, 1), np.arange(n))
    power = float(trendless @ trendless)
    if power <= 1e-12 * max(1.0, float(y @ y)):
        return False
    lags = np.array([trendless[k:] @ trendless[: n - k] / power for k in range(1, season + 1)])
    bound = 1.645 * np.sqrt((1 + 2 * float(lags[:-1] @ lags[:-1])) / n)
    return bool(lags[-1] > bound)


def seasonal_indices(y: Floats, season: int) -> tuple[Floats, bool]:
    """The season by classical decomposition: factors around 1 (True), or summands around 0."""
    n = len(y)
    kernel = np.ones(season) / season
    if season % 2 == 0:
        kernel = np.convolve(kernel, [0.5, 0.5])
    half = len(kernel) // 2
    trend = np.convolve(y, kernel, mode="valid")
    inner = y[half : half + len(trend)]
    slots = np.arange(half, half + len(trend)) % season
    ratio = bool(y.min() > 0.02 * y.mean() and trend.min() > 0)
    raw = inner / trend if ratio else inner - trend
    found = np.array([np.mean(raw[slots == slot]) if (slots == slot).any() else np.nan
                      for slot in range(season)])  # fmt: skip
    found = np.where(np.isnan(found), 1.0 if ratio else 0.0, found)
    if ratio:
        return np.maximum(found / found.mean(), 1e-3), n > 0
    return found - found.mean(), False


@dataclass(frozen=True)
class _Forms:
    """All members of the family that are tried, one column each."""

    alpha: Floats
    beta: Floats
    phi: Floats
    gamma: Floats
    trend: Floats  # 1 where there is one
    extra: Floats  # parameters and first states


def _forms(seasonal: int, *, only_seasonal: bool) -> _Forms:
    trends = [(0.0, 1.0, 0.0)] + [(b, p, 1.0) for b in BETAS for p in (*DAMPINGS, 1.0)]
    gammas = ([] if only_seasonal else [0.0]) + (list(GAMMAS) if seasonal > 1 else [])
    rows = [(a, b, p, g, t) for a in ALPHAS for b, p, t in trends for g in gammas]
    alpha, beta, phi, gamma, trend = np.array(rows).T
    extra = 3 + 2 * trend + (phi < 1) + np.where(gamma > 0, 1.0 + (seasonal - 1), 0.0)
    return _Forms(alpha, beta, phi, gamma, trend, extra)


def holt_winters(values: Floats, cuts: Sequence[int], season: int, h: int) -> Floats:
    """Exponential smoothing with level, trend (damped or not) and season (added or multiplied).

    Of all forms and parameters on a grid, the mean weighted by AICc; one pass serves all cuts.
    """
    first, found = min(cuts), np.empty((len(cuts), h))
    if first < FEW:
        for row, cut in enumerate(cuts):
            few = cut < FEW
            found[row] = (naive if few else holt_winters)(values, [cut], season, h)[0]
        return found
    seasonal = season if season > 1 and first >= 2 * season + 2 else 1
    paths: list[list[Floats]] = []
    scores: list[list[Floats]] = []
    runs = [False, True] if seasonal > 1 and values[: max(cuts)].min() > 0 else [False]
    for ratio in runs:
        run = _run(values, cuts, seasonal, h, ratio=ratio)
        paths.append(run[0])
        scores.append(run[1])
    for row in range(len(cuts)):
        path = np.concatenate([one[row] for one in paths])
        score = np.concatenate([one[row] for one in scores])
        weights = np.exp(-0.5 * (score - score.min()))
        weights[(weights < 1e-3) | ~np.isfinite(path).all(axis=1)] = 0.0
        found[row] = weights @ np.where(np.isfinite(path), path, 0.0) / weights.sum()
    return found


def _run(
    values: Floats, cuts: Sequence[int], season: int, h: int, *, ratio: bool
) -> tuple[list[Floats], list[Floats]]:
    """Forecasts and AICc of all forms at each cut."""
    forms = _forms(season, only_seasonal=ratio)
    begin = min(*cuts, max(4 * season, 12))
    head = values[:begin]
    slope = float(np.polyfit(np.arange(begin), head, 1)[0])
    start = float(head.mean()) - slope * (begin - 1) / 2
    level = np.where(forms.trend > 0, start - slope, head[: max(season, 4)].mean())
    trend = np.where(forms.trend > 0, slope, 0.0)
    state = np.full((season, len(forms.alpha)), 1.0 if ratio else 0.0)
    if season > 1:
        factors, proper = seasonal_indices(head, season)
        if ratio and not proper:
            factors = np.maximum(1 + factors / max(head.mean(), 1e-9), 0.05)
        elif proper and not ratio:
            factors = (factors - 1) * head.mean()
        state[:] = np.where(forms.gamma > 0, factors[:, None], state)
    errors = np.zeros(len(forms.alpha))
    places = {cut: row for row, cut in enumerate(cuts)}
    paths: list[Floats] = [np.empty(0)] * len(cuts)
    scores: list[Floats] = [np.empty(0)] * len(cuts)
    seasoned = forms.gamma * (1 - forms.alpha)
    alpha_beta = forms.alpha * forms.beta
    with np.errstate(all="ignore"):
        for time in range(max(cuts)):
            slot = time % season
            moved = forms.phi * trend
            base = level + moved
            factor = state[slot]
            error = values[time] - (base * factor if ratio else base + factor)
            errors += error * error
            part = error / factor if ratio else error
            level = base + forms.alpha * part
            trend = moved + alpha_beta * part
            state[slot] = factor + seasoned * (error / base if ratio else error)
            if time + 1 in places:
                row = places[time + 1]
                paths[row] = _ahead(forms, level, trend, state, time=time + 1, h=h, ratio=ratio)
                scores[row] = _aicc(errors, time + 1, forms.extra)
    return paths, scores


def _ahead(
    forms: _Forms, level: Floats, trend: Floats, state: Floats, *, time: int, h: int, ratio: bool
) -> Floats:
    steps = np.arange(1, h + 1)
    powers = np.cumsum(forms.phi[:, None] ** steps, axis=1)
    base = level[:, None] + trend[:, None] * powers
    factors = state[(time + steps - 1) % len(state)].T
    return base * factors if ratio else base + factors


def _aicc(errors: Floats, n: int, extra: Floats) -> Floats:
    room = np.maximum(n - extra - 1, 0.5)
    score = n * np.log(errors / n + 1e-12) + 2 * extra + 2 * extra * (extra + 1) / room
    return np.where(np.isfinite(score), score, np.inf)


def arima(values: Floats, cuts: Sequence[int], season: int, h: int) -> Floats:
    """ARIMA of the deseasonalised past, its order out of a few by AICc; statsmodels fits it.

    Order and parameters are those of the first cut; at later ones only what happened is taken in.
    """
    import warnings

    import statsmodels.tsa.statespace.sarimax  # noqa: F401 - sets filters of its own

    found, known = np.empty((len(cuts), h)), None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in np.argsort(cuts):
            y = values[max(cuts[row] - ARIMA_TAIL, 0) : cuts[row]]
            if len(y) < 2 * FEW or np.ptp(y) <= 1e-12 * max(1.0, np.abs(y).max()):
                found[row] = naive(y, [len(y)], season, h)[0]
                continue
            factors, ratio = np.zeros(1), False
            if _seasonal(y, season):
                factors, ratio = seasonal_indices(y, season)
            slots = np.arange(len(y) + h) % len(factors)
            past, ahead = factors[slots[: len(y)]], factors[slots[len(y) :]]
            flat = y / past if ratio else y - past
            known = known or _order(flat)
            path = _continued(flat, known, h)
            found[row] = path * ahead if ratio else path + ahead
    return found


_Order = tuple[tuple[int, int, int], Floats]


def _model(y: Floats, order: tuple[int, int, int]) -> Any:
    from statsmodels.tsa.statespace.sarimax import SARIMAX

    return SARIMAX(y, order=order, trend="n" if order[1] else "c", concentrate_scale=True)


def _order(y: Floats) -> _Order | None:
    """The order and parameters with the least AICc."""
    best: tuple[float, _Order | None] = (np.inf, None)
    for order in ORDERS:
        try:
            fitted = _model(y, order).fit(disp=0, maxiter=30)
        except (ValueError, IndexError, np.linalg.LinAlgError):
            continue
        score, params = float(fitted.aicc), np.asarray(fitted.params, dtype=np.float64)
        if np.isfinite(score) and np.isfinite(params).all() and score < best[0]:
            best = (score, (order, params))
    return best[1]


def _continued(y: Floats, known: _Order | None, h: int) -> Floats:
    if known is not None:
        try:
            path = np.asarray(_model(y, known[0]).filter(known[1]).forecast(h), dtype=np.float64)
        except (ValueError, IndexError, np.linalg.LinAlgError):
            path = np.full(h, np.nan)
        if np.isfinite(path).all():
            return path
    return np.full(h, y[-1])


class Residual:
    """LightGBM on what the seasonal-naive forecast misses, pooled over all series.

    Every pair of a past moment and a step ahead is one row; its target is the miss in units of
    the recent level, so that series of any size teach each other. `None` trees: too few rows.
    """

    ROWS = 24_000
    LEAST = 60

    def __init__(self, season: int, h: int, seed: int = 0) -> None:
        self.season, self.h, self.seed = season, h, seed
        self.model: Any = None

    def fit(self, past: Sequence[Floats]) -> "Residual":
        """Learn from whole pasts."""
        import lightgbm

        budget = max(self.ROWS // max(len(past), 1), 40)
        parts = [self._rows(y, budget) for y in past]
        rows = [part for part in parts if part is not None]
        if not rows or sum(len(target) for _, target in rows) < self.LEAST:
            return self
        features = np.concatenate([one for one, _ in rows])
        targets = np.clip(np.concatenate([one for _, one in rows]), -5, 5)
        params = {
            "objective": "regression_l1", "learning_rate": 0.06, "num_leaves": 8,
            "min_data_in_leaf": int(np.clip(len(targets) // 40, 10, 80)), "lambda_l2": 5.0,
            "feature_fraction": 0.7, "bagging_fraction": 0.8, "bagging_freq": 1,
            "seed": self.seed, "deterministic": True, "force_row_wise": True,
            "num_threads": 1, "verbosity": -1,
        }  # fmt: skip
        data = lightgbm.Dataset(features, targets, params={"verbosity": -1}, free_raw_data=True)
        self.model = lightgbm.train(params, data, num_boost_round=120)
        return self

    def forecast(self, values: Floats, cuts: Sequence[int]) -> Floats:
        """The next values after each cut."""
        base = naive(values, cuts, self.season, self.h)
        usable = [row for row, cut in enumerate(cuts) if cut >= self._least()]
        if self.model is None or not usable:
            return base
        steps = np.tile(np.arange(1, self.h + 1), len(usable))
        origins = np.repeat(np.array([cuts[row] for row in usable]), self.h)
        features, expected, scale = self._features(values, origins, steps)
        moved = expected + scale * np.asarray(self.model.predict(features, num_threads=1))
        base[usable] = moved.reshape(len(usable), self.h)
        return base

    def _least(self) -> int:
        return max(2 * self.season, FEW)

    def _rows(self, y: Floats, budget: int) -> tuple[Floats, Floats] | None:
        begin = self._least()
        if len(y) <= begin:
            return None
        steps = np.unique(np.linspace(1, self.h, min(self.h, 14)).astype(np.int64))
        origins = np.arange(begin, len(y))
        stride = max(1, -(-len(origins) * len(steps) // budget))
        origins = origins[::-1][::stride]
        origins, steps = (grid.ravel() for grid in np.meshgrid(origins, steps, indexing="ij"))
        known = origins + steps <= len(y)
        origins, steps = origins[known], steps[known]
        features, base, scale = self._features(y, origins, steps)
        return features, (y[origins + steps - 1] - base) / scale

    def _features(self, y: Floats, cut: Ints, step: Ints) -> tuple[Floats, Floats, Floats]:
        """What is known at each cut about the value `step` later, the naive answer, the unit."""
        m = self.season
        window = max(m, 4)
        sums = np.concatenate([[0.0], np.cumsum(y)])
        sizes = np.concatenate([[0.0], np.cumsum(np.abs(y))])

        def mean(end: Ints, length: int) -> Floats:
            start = np.maximum(end - length, 0)
            found: Floats = (sums[end] - sums[start]) / np.maximum(end - start, 1)
            return found

        target = cut + step - 1
        at = target - m * -(-step // m)
        base = y[at]
        start = np.maximum(cut - 4 * window, 0)
        scale = (sizes[cut] - sizes[start]) / (cut - start) + 1e-9
        before = y[np.maximum(at - m, at % m)]
        twice = y[np.maximum(at - 2 * m, at % m)]
        level, longer = mean(cut, window), mean(cut, 4 * window)
        earlier = mean(np.maximum(cut - window, 1), window)
        year = 52 * m if m == 7 else 12 * m
        ago, old = target - year, np.maximum(cut - year, 1)
        yearly = np.where(ago >= 0, y[np.maximum(ago, 0)] - mean(old, window), np.nan)
        columns = [
            (level - base), (longer - base), (before - base), (twice - base),
            (y[cut - 1] - y[np.maximum(cut - 1 - m, 0)]), (level - earlier), (level - longer),
            (y[cut - 1] - level), np.where(old > window, yearly, np.nan),
        ]  # fmt: skip
        features = np.stack([*(column / scale for column in columns), step, target % m], axis=1)
        return np.nan_to_num(features, nan=np.nan, posinf=1e6, neginf=-1e6), base, scale


def prophet(values: Floats, cuts: Sequence[int], season: int, h: int) -> Floats:
    """Prophet, when its package is there; a season is one of its own with its length in days."""
    import logging

    import pandas as pd
    from prophet import Prophet

    for noisy in ("prophet", "cmdstanpy"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    days = pd.date_range("2000-01-03", periods=max(cuts) + h, freq="D")
    found = np.empty((len(cuts), h))
    for row, cut in enumerate(cuts):
        if cut < 2 * FEW:
            found[row] = naive(values, [cut], season, h)[0]
            continue
        model = Prophet(
            weekly_seasonality=False, yearly_seasonality=False, daily_seasonality=False,
            uncertainty_samples=0,
        )  # fmt: skip
        if season > 1 and cut >= 2 * season:
            order = max(1, min(season // 2, 10))
            model.add_seasonality("season", period=season, fourier_order=order)
        model.fit(pd.DataFrame({"ds": days[:cut], "y": values[:cut]}), seed=0)
        found[row] = model.predict(pd.DataFrame({"ds": days[cut : cut + h]}))["yhat"].to_numpy()
    return found


def has_prophet() -> bool:
    """Whether the optional package is installed."""
    from importlib.util import find_spec

    return find_spec("prophet") is not None


Single = Callable[[Floats, Sequence[int], int, int], Floats]
SINGLE: dict[str, Single] = {
    "naive": naive, "theta": theta, "holt_winters": holt_winters, "arima": arima,
    "prophet": prophet,
}  # fmt: skip
