"""When a balance runs out: many possible futures of the daily use, and what they leave.

A future is the forecast of daily use, its level and its days moved by misses that the same
method made at earlier moments. Knows no ledger; credits and money are both just numbers.
"""

from dataclasses import dataclass
from datetime import UTC
from typing import Any

import numpy as np
import pandas as pd

from chat_app.ml import series
from chat_app.ml.forecast import Forecaster
from chat_app.ml.series import DAY, BadForecast, Floats, Panel
from chat_app.revenue import frames

WEEK = 7
NEW = 28  # days below which use is its mean, by weekday from two weeks on
LEAST = 3
AHEAD = 14  # days that one miss is measured over
PATHS = 2_000
QUANTILES = (("p10", 0.1), ("p50", 0.5), ("p90", 0.9))
GUESS = 0.5  # spread of the level of daily use when there is no past to measure it in


@dataclass(frozen=True)
class Runway:
    """`fan`: `ds, p10, p50, p90`, the balance at each day's end, lowest first.

    `runout`: the days by which one in ten, half and nine in ten futures have no balance left,
    None where that is beyond the horizon. `basis`: `history` (four weeks or more), `profile`
    (less: the mean use), `insufficient` (under three days: the mean with a wide spread, or no use
    at all). `p_week`: the share of futures that run out in the next seven days.
    """

    fan: pd.DataFrame
    runout: dict[str, pd.Timestamp | None]
    basis: str
    p_week: float

    @property
    def alert(self) -> bool:
        """Whether running out within a week is more likely than not."""
        return self.p_week > 0.5


def project(
    usage: pd.DataFrame,
    balance: float,
    topups: pd.DataFrame | None = None,
    as_of: Any = None,
    *,
    horizon_days: int = 180,
    seed: int = 0,
) -> Runway:
    """The fan of balances and the run-out of `balance`, which is what is left at `as_of`.

    `usage`: `ds, y`, one row a day or one for each use; days without a row are days without use,
    rows after `as_of` (default: the last row) change nothing, and a day that is not over at
    `as_of` counts with the part that is left of it. `topups`: `ds, y`, credits already known to
    come after `as_of`, such as a plan's renewal; earlier ones are in the balance and are passed
    over. Days are those of the zone of `usage`. Raises BadFrame and BadForecast.
    """
    start_balance = _finite(balance)
    if isinstance(horizon_days, bool) or not 1 <= int(horizon_days) <= 3_660:
        raise BadForecast("horizon_days must be from 1 to 3660.", param="horizon_days")
    days = int(horizon_days)
    as_of = _last(usage) if as_of is None else as_of
    panel = series.read(usage, "D", WEEK, as_of, name="usage", fill="zero")
    if "unique_id" in usage.columns:
        raise BadForecast("Give the use of one account, without unique_id.", param="usage")
    past = panel.series[0].values if panel.series else np.zeros(0)
    if past.min(initial=0.0) < 0:
        raise BadForecast("Use cannot be negative. Net refunds before this call.", param="usage")
    first, share, past = _today(panel, past)
    added = _topups(topups, panel, first, days)
    use, basis = _futures(panel, past, first, days, seed)
    use[:, 0] *= share
    left = _left(start_balance, use, added)
    gone = (left <= 0) & (np.cumsum(use, axis=1) > 0)
    if start_balance <= 0:
        gone[:, 0] = True
    when = np.where(gone.any(axis=1), gone.argmax(axis=1), days)
    stamps = panel.clock.write(panel.grid.start(first + np.arange(days)))
    fan: dict[str, Any] = {"ds": stamps}
    runout: dict[str, pd.Timestamp | None] = {}
    for name, share_of in QUANTILES:
        fan[name] = np.quantile(left, share_of, axis=0)
        day = int(np.quantile(when, share_of, method="inverted_cdf"))
        runout[name] = stamps[day] if day < days else None
    return Runway(pd.DataFrame(fan), runout, basis, float((when < WEEK).mean()))


def _last(usage: Any) -> pd.Timestamp | None:
    """The moment of the last row."""
    table = frames.checked(usage, ["ds", "y"], name="usage")
    frames.times(table, "ds", name="usage")
    return table["ds"].max() if len(table) else None


def _finite(balance: Any) -> float:
    try:
        found = float(balance)
    except (TypeError, ValueError) as error:
        raise BadForecast("balance must be a number.", param="balance") from error
    if not abs(found) < 1e15:
        raise BadForecast("balance must be a finite number.", param="balance")
    return found


def _today(panel: Panel, past: Floats) -> tuple[int, float, Floats]:
    """The first day of the future, the part of it that is left, and the past up to it."""
    known = panel.as_of
    if known is None:
        return (panel.series[0].end if panel.series else 0), 1.0, past
    day = int(panel.grid.number(np.array([known]))[0])
    inside = (known - int(panel.grid.start(np.array([day]))[0])) / DAY
    if not panel.series:
        return day, 1.0 - inside, past
    end = panel.series[0].end
    if end > day or inside > 1 - 2 / 86_400:  # the day of `as_of` has a whole row, or is over
        return max(end, day + 1), 1.0, _stretched(past, max(end, day + 1) - end)
    return day, 1.0 - inside, _stretched(past, day - end)


def _stretched(past: Floats, days: int) -> Floats:
    """Days without a row at the end of the past are days without use."""
    return np.concatenate([past, np.zeros(max(days, 0))])


def _topups(topups: Any, panel: Panel, first: int, days: int) -> Floats:
    added = np.zeros(days)
    if topups is None:
        return added
    table = frames.checked(topups, ["ds", "y"], name="topups")
    frames.times(table, "ds", name="topups")
    frames.amounts(table, "y", name="topups")
    moments = panel.clock.read(table["ds"])
    numbers = panel.grid.number(moments) - first
    coming = (numbers >= 0) & (numbers < days)
    if panel.as_of is not None:
        coming &= moments > panel.as_of
    np.add.at(added, numbers[coming], table["y"].to_numpy()[coming])
    return added


def _futures(panel: Panel, past: Floats, first: int, days: int, seed: int) -> tuple[Floats, str]:
    """Paths × days of use."""
    draw = np.random.default_rng(seed)
    used = np.flatnonzero(past)
    if not len(used):
        return np.zeros((PATHS, days)), "insufficient"
    if len(past) < LEAST:
        level = np.exp(draw.normal(0, GUESS, (PATHS, 1)))
        return past.mean() * level * np.ones((1, days)), "insufficient"
    if len(past) < NEW:
        mean, noise = _profile(past, first, days)
        spread = past.std(ddof=1) / np.sqrt(len(past)) / past.mean()
        level = 1 + (spread + 0.1) * draw.standard_normal((PATHS, 1))
        basis = "profile"
    else:
        mean, noise, levels = _learnt(past, days)
        level = 1 + draw.choice(levels, (PATHS, 1)) * _drift(days)
        basis = "history"
    days_noise = draw.choice(noise, (PATHS, days))
    return np.maximum(mean * np.maximum(level, 0) + days_noise, 0), basis


def _drift(days: int) -> Floats:
    """A miss of the level grows with the days, slowly: use comes back to what it was."""
    return np.minimum(np.sqrt(np.maximum(np.arange(days) + 1, AHEAD) / AHEAD), 2.0)


def _profile(past: Floats, first: int, days: int) -> tuple[Floats, Floats]:
    """The mean use, by weekday from two weeks on, and what the past days were off it."""
    factors = np.ones(WEEK)
    slots = np.arange(len(past)) % WEEK
    if len(past) >= 2 * WEEK:
        means = np.array([past[slots == slot].mean() for slot in range(WEEK)])
        factors = 0.5 + 0.5 * means / past.mean()
    ahead = (len(past) + np.arange(days)) % WEEK
    said = past.mean() * factors[slots]
    return past.mean() * factors[ahead], past - said


def _learnt(past: Floats, days: int) -> tuple[Floats, Floats, Floats]:
    """The forecast, what days were off it, and what its level was off over two weeks."""
    table = pd.DataFrame({"ds": pd.date_range("2000-01-03", periods=len(past), tz=UTC), "y": past})
    model = Forecaster("D", WEEK).fit(table)
    near = model.predict(NEW)["yhat"].to_numpy()
    week = near[-WEEK:]
    mean = np.concatenate([near, np.resize(week, max(days - len(near), 0))])[:days]
    actual, said = (part[:, :AHEAD] for part in model.misses(NEW)[0])
    if not len(actual):
        return mean, past - past.mean(), np.array([-0.2, 0.0, 0.2])
    unit = np.maximum(said.mean(axis=1), 0.1 * past.mean())
    levels = (actual.mean(axis=1) - said.mean(axis=1)) / unit
    noise = actual - said - (actual - said).mean(axis=1, keepdims=True)
    return mean, noise.ravel(), np.concatenate([levels, -levels])


def _left(balance: float, use: Floats, added: Floats) -> Floats:
    """The balance at the end of each day; it stops at zero, and top-ups come before use."""
    left = np.empty_like(use)
    now = np.full(len(use), max(balance, 0.0))
    for day in range(use.shape[1]):
        now = np.maximum(now + added[day] - use[:, day], 0.0)
        left[:, day] = now
    return left
