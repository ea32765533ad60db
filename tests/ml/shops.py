"""Shops for the tests of lifetime value: a real one, and ones whose laws are known."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd

DATA = Path(__file__).resolve().parent.parent / "data"
CUT = pd.Timestamp("1997-09-30")
WEEKS_39 = 273


def cdnow_summary() -> pd.DataFrame:
    """The published 2,357 customers: frequency, recency and T in weeks."""
    with gzip.open(DATA / "cdnow_summary.csv.gz", "rt", encoding="utf-8") as source:
        return pd.read_csv(source)


def cdnow() -> pd.DataFrame:
    """Every tenth customer of the full file: 78 weeks of purchases."""
    with gzip.open(DATA / "cdnow_tenth.csv.gz", "rt", encoding="utf-8") as source:
        frame = pd.read_csv(source)
    ts = pd.Timestamp("1997-01-01") + pd.to_timedelta(frame["day"], unit="D")
    return pd.DataFrame({"user_id": frame["user_id"], "ts": ts, "amount": frame["cents"] / 100})


def dying(customers: int, *, days: int = 400, seed: int = 0) -> pd.DataFrame:
    """A shop in which BG/NBD and Gamma-Gamma are the truth."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(customers):
        rate, stop = rng.gamma(0.8, 1 / 8) / 7, rng.beta(0.8, 4)
        mean, day = 40 / rng.gamma(4, 1 / 3), float(rng.integers(0, days - 60))
        while day < days:
            rows.append((user, day, rng.gamma(5, mean / 5)))
            if rng.random() < stop:
                break
            day += 1 + rng.exponential(1 / rate)
    return _table(rows)


def subscribers(customers: int, *, days: int = 500, seed: int = 0) -> pd.DataFrame:
    """A shop in which everybody pays every thirty days until they leave: not BG/NBD's world."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(customers):
        day, price = int(rng.integers(0, days - 60)), float(rng.choice([10.0, 20.0, 50.0]))
        while day < days:
            rows.append((user, day, price))
            if rng.random() < 0.06:
                break
            day += 30
    return _table(rows)


def _table(rows: list[tuple[int, float, float]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["user_id", "day", "amount"])
    frame["ts"] = pd.Timestamp("2025-01-01") + pd.to_timedelta(frame["day"].round(3), unit="D")
    frame["amount"] = frame["amount"].round(2)
    return frame[["user_id", "ts", "amount"]]


def truth(
    tx: pd.DataFrame, users: "pd.Series[object]", as_of: pd.Timestamp, days: float
) -> tuple["pd.Series[float]", "pd.Series[float]"]:
    """Order days and money of these users in the days after `as_of`."""
    later = tx[(tx["ts"] > as_of) & (tx["ts"] <= as_of + pd.Timedelta(days=days))]
    money = later.groupby("user_id")["amount"].sum()
    bought = later[later["amount"] >= 0]
    count = bought.assign(day=bought["ts"].dt.floor("D")).groupby("user_id")["day"].nunique()
    return tuple(part.reindex(users).fillna(0.0).reset_index(drop=True) for part in (count, money))
