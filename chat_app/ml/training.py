"""Training: a frame, a model, its backtest beside the baselines, and what it predicts today.

Knows no transaction and no registry; `flows/learn.py` keeps what comes of it. A model is good
enough to be champion when on unseen data it was no worse than the naive baseline.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from sqlmodel import Session

from chat_app.ml import frames
from chat_app.ml.frames import People
from chat_app.money import Money

LTV_DAYS, CHURN_DAYS, FORECAST_DAYS = 90, 30, 28
BACKTEST_DAYS, BACKTEST_ORIGINS = 14, 3
WEEK = 7
DRIFT_DAYS = 28


@dataclass
class Trained:
    """What a training has come to. `model` is None where there was nothing to learn from.

    `backtest`: rows `candidate, origin, chosen` and scores; `predictions`: rows as the columns of
    `ml_prediction`; `drift`: rows of `drift.table`; `good`: may become champion, `why` says it.
    """

    kind: str
    rows: int
    algorithm: str
    basis: str
    model: Any = None
    metrics: dict[str, Any] = field(default_factory=dict)
    backtest: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[dict[str, Any]] = field(default_factory=list)
    drift: list[dict[str, Any]] = field(default_factory=list)
    good: bool = True
    currency: str = "USD"
    why: str = ""


Train = Callable[[Session, int, People], Trained]


def ltv(session: Session, as_of: int, whose: People) -> Trained:
    """What each customer will bring in the next 90 days."""
    from chat_app.ml.ltv import LTVModel

    tx = frames.purchases(session, as_of=as_of, whose=whose)
    model = LTVModel(LTV_DAYS).fit(tx, _at(as_of))
    table = model.backtest
    chosen = model.champion or ""
    rows = [
        _scores(row, "algorithm", "origin", chosen)
        for row in table.drop(columns=["horizon_days"]).to_dict("records")
    ]
    means = table.groupby("algorithm")[["mae_ltv", "mae_purchases", "total_ratio"]].mean()
    metrics = {str(name): _plain(scores) for name, scores in means.to_dict("index").items()}
    good = _no_worse(metrics, chosen, "naive", "mae_ltv")
    currency = frames.currency(session, as_of=as_of)
    drivers = _drivers(tx, as_of, currency)
    predictions = [
        {
            "subject": str(row["user_id"]), "value": row["ltv"], "lo": row["lo80"],
            "hi": row["hi80"], "basis": row["basis"], "reasons": drivers.get(row["user_id"], []),
            "facts": {
                "expected_purchases": row["expected_purchases"], "p_active": row["p_active"],
                "horizon_days": LTV_DAYS,
            },
        }
        for row in model.predict().to_dict("records")
    ]  # fmt: skip
    return Trained(
        "ltv", len(tx), chosen, model.basis or "", model.forget(), metrics, rows, predictions,
        good=good, currency=currency,
    )  # fmt: skip


def _drivers(tx: pd.DataFrame, as_of: int, currency: str) -> dict[Any, list[str]]:
    """What a customer's value rests on: how often, how lately and how much."""
    back = tx[tx["amount"] < 0].groupby("user_id")["amount"].sum()
    found = {}
    for user, rows in tx[tx["amount"] > 0].groupby("user_id"):
        days = rows["ts"].dt.floor("D").nunique()
        ago = (_at(as_of) - rows["ts"].max()).days
        each = Money(round(rows["amount"].sum() / days), currency)
        given = f", {Money(round(-back[user]), currency)} given back" if user in back else ""
        found[user] = [
            f"Bought on {days} day{'' if days == 1 else 's'}",
            f"The last time {ago} day{'' if ago == 1 else 's'} ago",
            f"{each} on such a day{given}",
        ]
    return found


def churn(session: Session, as_of: int, whose: People) -> Trained:
    """Who will use nothing in the next 30 days."""
    from chat_app.ml.churn import ChurnModel

    visits = frames.visits(session, as_of=as_of, whose=whose)
    model = ChurnModel().fit_events(visits, CHURN_DAYS, _at(as_of))
    rows = [
        _scores({**row, "origin": ""}, "candidate", "origin", model.champion)
        for row in model.backtest.drop(columns=["chosen"], errors="ignore").to_dict("records")
    ]
    metrics = {row["candidate"]: row["scores"] for row in rows}
    predictions = []
    if len(visits):
        seen = visits.groupby("user_id")["ts"].max()
        for row in model.predict_events(_at(as_of)).to_dict("records"):
            facts = {
                "confidence": row["confidence"], "protective": row["protective_factors"],
                "horizon_days": CHURN_DAYS,
                "seen_days_ago": (_at(as_of) - seen[row["user_id"]]).days,
            }  # fmt: skip
            predictions.append(
                {
                    "subject": str(row["user_id"]), "value": row["probability"],
                    "basis": row["basis"], "reasons": row["risk_factors"], "facts": facts,
                }
            )  # fmt: skip
    return Trained(
        "churn", len(visits), model.champion, model.basis, model.forget(), metrics, rows,
        predictions, moved(visits, as_of), _no_worse(metrics, model.champion, "rule", "log_loss"),
    )  # fmt: skip


def forecast(session: Session, as_of: int, whose: People) -> Trained:
    """Money and credits of the next 28 days, day by day, with the naive line beside them."""
    from chat_app.ml.forecast import Forecaster

    table = frames.daily(session, as_of=as_of, whose=whose)
    if table.empty:
        return Trained("forecast", 0, "", "insufficient")
    model = Forecaster("D", WEEK).fit(table, as_of=_at(as_of))
    found = model.backtest(BACKTEST_DAYS, BACKTEST_ORIGINS)
    chosen = model.champion(FORECAST_DAYS)
    rows = [
        _scores({**row, "origin": ""}, "candidate", "origin", chosen)
        for row in found.to_dict("records")
    ]
    metrics = {row["candidate"]: row["scores"] for row in rows}
    naive = Forecaster("D", WEEK, "naive").fit(table, as_of=_at(as_of)).predict(FORECAST_DAYS)
    predictions = [
        {
            "subject": row["unique_id"], "ds": row["ds"].date().isoformat(), "value": row["yhat"],
            "lo": row["lo80"], "hi": row["hi80"], "basis": row["basis"], "reasons": [],
            "facts": {"lo95": row["lo95"], "hi95": row["hi95"], "naive": float(simple)},
        }
        for row, simple in zip(
            model.predict(FORECAST_DAYS).to_dict("records"), naive["yhat"], strict=True
        )
    ]  # fmt: skip
    bases = set(model.basis.values())
    basis = bases.pop() if len(bases) == 1 else "history"
    return Trained(
        "forecast", len(table), chosen, basis, model, metrics, rows, predictions,
        good=_no_worse(metrics, chosen, "naive", "MASE"),
        currency=frames.currency(session, as_of=as_of),
    )  # fmt: skip


TRAINERS: dict[str, Train] = {"ltv": ltv, "churn": churn, "forecast": forecast}


def _at(as_of: int) -> pd.Timestamp:
    return pd.Timestamp(as_of, unit="us", tz="UTC")


def moved(visits: pd.DataFrame, as_of: int) -> list[dict[str, Any]]:
    """How far people's habits are from those of four weeks ago."""
    from chat_app.ml import cadence, drift

    events = cadence.read(visits)
    before, after = (
        cadence.features(events, at, CHURN_DAYS)[1].drop(columns=list(cadence.GROWING))
        for at in (as_of - DRIFT_DAYS * cadence.DAY, as_of)
    )
    if before.empty or after.empty:
        return []
    rows = drift.table(before, after).to_dict("records")
    return [_plain(row) for row in rows]


def _no_worse(metrics: dict[str, Any], chosen: str, baseline: str, score: str) -> bool:
    """Whether a score, where less is better, is at most the baseline's; unknown ones pass."""
    ours = metrics.get(chosen, {}).get(score)
    theirs = metrics.get(baseline, {}).get(score)
    return ours is None or theirs is None or ours <= theirs * 1.000001


def _scores(row: dict[str, Any], name: str, origin: str, chosen: str) -> dict[str, Any]:
    return {
        "candidate": str(row[name]),
        "origin": str(row[origin]),
        "chosen": row[name] == chosen,
        "scores": _plain({key: row[key] for key in row if key not in (name, origin)}),
    }


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    """Figures as JSON has them; what is not a number is null."""

    def value(one: Any) -> Any:
        one = one.item() if hasattr(one, "item") else one
        return None if isinstance(one, float) and not math.isfinite(one) else one

    return {str(key): value(one) for key, one in row.items()}
