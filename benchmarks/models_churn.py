"""Churn beside the baselines: the telco set, its learning curve, and visits of the CDNOW set.

    python -m benchmarks.models_churn [--data ../shared/data] [--repeats 20]

Every figure of ours stands beside scikit-learn's and LightGBM's defaults, fitted in the same run to
the same rows. Exit code 1 when a goal is missed: telco AUC .848 to .87, ECE .03, AUC .79 at n = 40.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from chat_app.ml.churn import ChurnModel
from chat_app.ml.scores import auc, ece


def encoded(X: pd.DataFrame) -> Any:
    """What the baselines are given: numbers, and a column for each level of a text."""
    plain = X.drop(columns="customerID")
    plain["TotalCharges"] = pd.to_numeric(plain["TotalCharges"], errors="coerce").fillna(0)
    return pd.get_dummies(plain).to_numpy(float)


def baselines() -> dict[str, Any]:
    """The same algorithms as libraries give them."""
    from lightgbm import LGBMClassifier
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return {
        "logistic default": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        "random forest default": RandomForestClassifier(random_state=0),
        "lightgbm default": LGBMClassifier(verbosity=-1, num_threads=1, random_state=0),
    }


def compare(
    X: pd.DataFrame, y: Any, splits: list[tuple[Any, Any]], only: str = "auto"
) -> pd.DataFrame:
    """Mean AUC and ECE over the splits, ours and theirs."""
    numbers, rows = encoded(X), []
    for train, test in splits:
        ours = ChurnModel(only).fit(X.iloc[train], y[train])
        chance = ours.predict(X.iloc[test], reasons=False)["probability"]
        rows.append(("ours", auc(y[test], chance), ece(y[test], chance)))
        for name, model in baselines().items():
            model.fit(numbers[train], y[train])
            chance = model.predict_proba(numbers[test])[:, 1]
            rows.append((name, auc(y[test], chance), ece(y[test], chance)))
    return pd.DataFrame(rows, columns=["model", "auc", "ece"]).groupby("model").mean()


def telco(folder: Path, repeats: int) -> bool:
    """Five stratified folds, then growing samples against a fixed test set."""
    from sklearn.model_selection import StratifiedKFold

    data = pd.read_csv(folder / "telco_churn.csv")
    X, y = data.drop(columns="Churn"), (data["Churn"] == "Yes").to_numpy(int)
    folds = StratifiedKFold(5, shuffle=True, random_state=0).split(X, y)
    full = compare(X, y, list(folds))
    print(f"telco, 5 folds\n{full.round(4)}\n", flush=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(y))
    test, rest = order[:2000], order[2000:]
    means = {}
    for size in (40, 80, 160, 640):
        times = max(3, repeats * 40 // size)
        splits = [(rng.choice(rest, size, replace=False), test) for _ in range(times)]
        means[size] = compare(X, y, splits)["auc"]
    curve = pd.DataFrame(means)
    print(f"telco, AUC by rows\n{curve.round(3)}\n", flush=True)
    ours = full.loc["ours"]
    few = curve.loc["ours", 40]
    return bool(0.848 <= ours["auc"] <= 0.87 and ours["ece"] <= 0.03 and few >= 0.79)


def cdnow(folder: Path) -> None:
    """Who buys nothing in the next days, told at a moment from purchases up to it."""
    data = pd.read_csv(folder / "cdnow_master.txt", sep=r"\s+", dtype={"date": str})
    data = data.rename(columns={"customer_id": "user_id"})
    data["ts"] = pd.to_datetime(data["date"], format="%Y%m%d")
    for days in (28, 90, 180):
        as_of = pd.Timestamp("1998-06-30") - pd.Timedelta(days=days)
        found = ChurnModel().fit_events(data, days, as_of).predict_events(as_of, reasons=False)
        later = data.loc[data["ts"] > as_of, "user_id"]
        gone = ~found["user_id"].isin(later)
        last = data[data["ts"] <= as_of].groupby("user_id")["ts"].max()
        quiet = (as_of - last.reindex(found["user_id"])).dt.days
        print(
            f"cdnow, {days} days: AUC {auc(gone, found['probability']):.4f}, by recency "
            f"{auc(gone, quiet):.4f}; ECE {ece(gone, found['probability']):.4f}",
            flush=True,
        )


def main() -> int:
    """Print the tables; 1 if a goal was missed."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--data", type=Path, default=Path("../shared/data"))
    reader.add_argument("--repeats", type=int, default=20)
    options = reader.parse_args()
    met = telco(options.data, options.repeats)
    cdnow(options.data)
    print("goals met" if met else "a goal was missed")
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
