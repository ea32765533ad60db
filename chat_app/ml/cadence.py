"""How often and how lately people came, as of a moment: what their next visits hang on.

Everything is counted from events up to the origin, in days; windows are multiples of the horizon,
so that hourly and yearly habits are read alike. Knows no label beyond "came again in time".
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chat_app.ml.scores import Floats
from chat_app.revenue import frames

DAY = 86_400_000_000  # microseconds
STEP_DAYS = 28
MOST_ORIGINS = 13
MOST_ROWS = 60_000
WINDOWS = {"events_quarter": 0.25, "events_half": 0.5, "events_1": 1.0, "events_2": 2.0,
           "events_4": 4.0}  # fmt: skip
HEATS = {"heat_half": 0.5, "heat_2": 2.0, "heat_8": 8.0}

NAMES = (
    "quiet_days", "late", "age_days", "events", "active_days", "gap_days", "gap_spread", "longest",
    "quiet_share", *WINDOWS, *HEATS, "trend",
)  # fmt: skip
# Grows with the calendar, so that tomorrow lies beyond all that was learnt from: never learnt from.
GROWING = ("age_days",)


def phrases(horizon_days: float) -> dict[str, str]:
    """How a column reads in a sentence; {} is the figure."""
    windows = {
        name: "{} visits in the last " + f"{max(1, round(part * horizon_days))} days"
        for name, part in WINDOWS.items()
    }
    return windows | {
        "quiet_days": "last seen {} days ago",
        "late": "silent for {} times the usual gap",
        "age_days": "first seen {} days ago",
        "events": "{} visits in all",
        "active_days": "active on {} days",
        "gap_days": "usually {} days between visits",
        "quiet_share": "silent for {} of the whole time",
        "gap_spread": "gaps vary by {} times their mean",
        "longest": "silent for {} times the longest gap so far",
        "heat_half": "{} visits' worth of activity lately",
        "heat_2": "{} visits' worth of activity in recent times",
        "heat_8": "{} visits' worth of activity over a long time",
        "trend": "lately at {} times the earlier activity",
    }


@dataclass(frozen=True)
class Events:
    """Distinct (user, time) pairs in order of user and time; `users[code]` is the name."""

    users: list[Any]
    code: NDArray[np.int64]
    at: NDArray[np.int64]  # µs

    def until(self, moment: int) -> "Events":
        """Only what happened up to then."""
        keep = self.at <= moment
        return Events(self.users, self.code[keep], self.at[keep])


def read(events: Any) -> Events:
    """Events from a frame `user_id, ts`; the same event twice counts once. Raises BadFrame."""
    name = "events"
    frame = frames.checked(events, ("user_id", "ts"), name=name)
    frames.times(frame, "ts", name=name)
    frames.refuse(frame, frame["user_id"].isna(), "user_id", name, "is missing")
    found = frame["user_id"].unique().tolist()
    users = sorted(found, key=lambda user: (isinstance(user, str), type(user).__name__, user))
    places = {user: place for place, user in enumerate(users)}
    code = frame["user_id"].map(places).to_numpy(np.int64)
    at = frame["ts"].astype("int64").to_numpy()
    pairs = np.unique(np.column_stack([code, at]), axis=0) if len(frame) else np.empty((0, 2), int)
    return Events(users, pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64))


def micros(moment: pd.Timestamp) -> int:
    """A moment as µs since 1970."""
    return int(moment.value) // 1000  # `value` is in nanoseconds whatever the unit


def origins(events: Events, horizon_days: float, as_of: int) -> list[int]:
    """Moments to learn from, newest first: each has its horizon behind it at `as_of`.

    Four weeks apart, closer where the history is short; the oldest has some history before it.
    """
    if not len(events.at):
        return []
    horizon = int(horizon_days * DAY)
    first, newest = int(events.at.min()), as_of - horizon
    oldest = first + min(horizon, (as_of - first) // 4)
    if newest < oldest or newest <= first:
        return []
    step = max(DAY // 24, min(STEP_DAYS * DAY, (newest - oldest) // 6))
    found = [at for k in range(MOST_ORIGINS) if (at := newest - k * step) >= oldest]
    most = max(3, MOST_ROWS // max(1, len(np.unique(events.code))))
    if len(found) <= most:
        return found
    # Spread over the whole time, so that the newest still has judges a horizon before it.
    places = np.unique(np.linspace(0, len(found) - 1, most).round().astype(int))
    return [found[place] for place in places]


def came(events: Events, users: NDArray[np.int64], origin: int, horizon_days: float) -> Any:
    """Whether each user has an event in (origin, origin + horizon]."""
    inside = (events.at > origin) & (events.at <= origin + int(horizon_days * DAY))
    return np.isin(users, events.code[inside])


def features(events: Events, origin: int, horizon_days: float) -> tuple[Any, pd.DataFrame]:
    """Codes of the users seen up to the origin, and a row about each."""
    past = events.until(origin)
    users, begin, counts = np.unique(past.code, return_index=True, return_counts=True)
    if not len(users):
        return users, pd.DataFrame(columns=list(NAMES), dtype=np.float64)
    row = np.repeat(np.arange(len(users)), counts)
    ago = (origin - past.at) / DAY
    last, first = ago[begin + counts - 1], ago[begin]
    gaps = np.diff(past.at) / DAY
    own = row[1:] == row[:-1]
    gaps, of = gaps[own], row[1:][own]
    typical = float(np.median(gaps)) if len(gaps) else horizon_days
    typical = max(typical, 1e-6)
    usual = (first - last + typical) / counts  # one gap of the crowd beside one's own
    longest = np.full(len(users), typical)
    np.maximum.at(longest, of, gaps)
    squares = _sum(gaps * gaps, of, len(users))
    spread = np.full(len(users), np.nan)
    many = counts > 2
    mean = (first - last)[many] / (counts[many] - 1)
    spread[many] = np.sqrt(np.maximum(0, squares[many] / (counts[many] - 1) - mean**2)) / mean
    days = np.unique(np.column_stack([row, past.at // DAY]), axis=0)[:, 0]
    found: dict[str, Floats] = {
        "quiet_days": last,
        "late": last / usual,
        "age_days": first,
        "events": counts.astype(np.float64),
        "active_days": np.bincount(days, minlength=len(users)).astype(np.float64),
        "gap_days": np.where(counts > 1, (first - last) / np.maximum(1, counts - 1), np.nan),
        "gap_spread": spread,
        "longest": last / longest,
        "quiet_share": last / np.maximum(first, 1e-9),
    }
    for name, part in WINDOWS.items():
        found[name] = _sum((ago < part * horizon_days).astype(float), row, len(users))
    for name, part in HEATS.items():
        found[name] = _sum(np.exp(-ago / (part * horizon_days)), row, len(users))
    found["trend"] = (found["heat_half"] * 4 + 0.5) / (found["heat_2"] + 0.5)
    return users, pd.DataFrame(found)


def guess(frame: pd.DataFrame, horizon_days: float) -> Floats:
    """The chance of staying away when nothing can be learnt: a steady rate that fades when late."""
    quiet, age, count = (
        frame[name].to_numpy(float) for name in ("quiet_days", "age_days", "events")
    )
    expected = count / (age + quiet + horizon_days) * horizon_days
    found: Floats = np.exp(-expected)
    return found


def _sum(values: Any, row: Any, rows: int) -> Floats:
    return np.bincount(row, weights=values, minlength=rows).astype(np.float64)
