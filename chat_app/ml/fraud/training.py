"""Trains the fraud model on what was judged: figures as they stood then, labels known by then.

The judged events are gone through once more in the order in which the state took them in, labels
at the moment they were given: the figures are those that were seen online. What people labelled
counts, and what the bank took back as fraud; what was let through counts as honest once a label
would have had time to come; what was flagged and nobody looked at counts as nothing.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sqlmodel import Session

from chat_app.ml import drift, frames, promotion
from chat_app.ml.drift import calibration_ratio
from chat_app.ml.frames import People
from chat_app.ml.fraud import events, features
from chat_app.ml.fraud.engine import Engine
from chat_app.ml.fraud.model import LEAST_POSITIVES, LEAST_ROWS, FraudModel
from chat_app.ml.promotion import Verdict, Window
from chat_app.ml.scores import Floats, auc, brier, log_loss
from chat_app.ml.training import Trained

DAY = 86_400_000_000
DELAY = 7 * DAY
WINDOW, WINDOWS = 28 * DAY, 3
LEAST_SPAN = 6  # windows that a history has to hold; shorter ones have shorter windows
MOST_ROWS = 150_000
FALSE_POSITIVES = 0.01
DRIFT_DAYS = 28 * DAY
# What only grows, or is a number that stands for a word, says nothing of a change.
GROWING = (
    "type", "events", "account_hours", "since_topup", "since_voucher", "since_password", "risk",
)  # fmt: skip


@dataclass
class Learnt:
    """What there is to learn from: figures, labels (NaN: unknown), points of the rules, times."""

    figures: pd.DataFrame
    truth: Floats
    points: Floats
    at: Any
    users: Any

    def known(self) -> "Learnt":
        """The rows with a label, the newest of very many."""
        places = np.flatnonzero(np.isfinite(self.truth))[-MOST_ROWS:]
        return self.take(places)

    def take(self, places: Any) -> "Learnt":
        """Some of the rows."""
        frame = self.figures.iloc[places].reset_index(drop=True)
        rest = (part[places] for part in (self.truth, self.points, self.at, self.users))
        return Learnt(frame, *rest)

    def newest(self, since: int, until: int) -> "Learnt":
        """The newest row of each user within a time."""
        within = np.flatnonzero((self.at >= since) & (self.at < until))
        last = dict(zip(self.users[within], within, strict=True))
        return self.take(np.array(sorted(last.values()), dtype=np.intp))


def train(
    session: Session, as_of: int, whose: People, champion: tuple[FraudModel, int] | None = None
) -> Trained:
    """A fraud model as of a moment; `champion` is who judges now, and up to when it knew (µs)."""
    every = learnt(session, as_of=as_of, whose=whose)
    rows = every.known()
    positives = int(rows.truth.sum())
    few = min(positives, len(rows.truth) - positives)
    if len(rows.truth) < LEAST_ROWS or few < LEAST_POSITIVES:
        return Trained("fraud", len(rows.truth), "", "insufficient", good=False)
    backtest, windows = look_back(rows, champion)
    verdict = promotion.weigh(windows)
    model = _fit(rows)
    algorithm = "lightgbm" if model.share else "logistic"
    return Trained(
        "fraud", len(rows.truth), algorithm, model.basis, model, _means(backtest, model), backtest,
        drift=moved(every, as_of, model), good=verdict.good, why=verdict.why,
    )  # fmt: skip


def learnt(session: Session, *, as_of: int, whose: People) -> Learnt:
    """The judged events up to a moment with the figures that the state then had."""
    judged = frames.judged(session, as_of=as_of, whose=whose)
    said = frames.said(session, as_of=as_of, whose=whose)
    taken_back = frames.taken_back(session, as_of=as_of)
    newest = {label.assessment: label.fraud for label in said}
    engine = Engine()
    # A label of the same moment is heard after the event, as it was online.
    steps: list[tuple[int, int, int, Any]] = [(row.at, 0, row.id, row) for row in judged]
    steps += [(label.at, 1, label.id, label) for label in said]
    steps.sort(key=lambda step: step[:3])
    figures, truth, points, at, users = [], [], [], [], []
    held: dict[int, events.Event] = {}
    bad: set[int] = set()
    for moment, kind, _, one in steps:
        if kind:
            if one.assessment in held and one.fraud != (one.assessment in bad):
                engine.confirm(held[one.assessment], fraud=one.fraud)
                (bad.add if one.fraud else bad.discard)(one.assessment)
            continue
        event = held[one.id] = events.read(one.event)
        if one.event.get("peek"):
            row = engine.peek(event).features
        else:
            row = engine.observe(event)
            if one.refused:
                engine.refuse(event)
        figures.append(row)
        at.append(moment)
        users.append(event.user)
        points.append(one.score / 10)
        known = newest.get(one.id)
        if known is None and event.id in taken_back:
            known = True
        unknown = float("nan") if one.action != "allow" else 0.0
        truth.append(unknown if known is None else float(known))
    frame = pd.DataFrame(figures, columns=list(features.NAMES), dtype="float64")
    return Learnt(
        frame, np.array(truth), np.array(points), np.array(at, dtype=np.int64),
        np.array(users, dtype=object),
    )  # fmt: skip


def look_back(
    rows: Learnt, champion: tuple[FraudModel, int] | None
) -> tuple[list[dict[str, Any]], list[Window]]:
    """How it would have done in the newest windows, beside the rate, the rules and the champion.

    Each window is scored by what was learnt before it, with the labels that were ripe by then.
    """
    backtest: list[dict[str, Any]] = []
    windows: list[Window] = []
    first, last = int(rows.at.min()), int(rows.at.max())
    ripe = last - DELAY if (last - first) / 2 >= DELAY else last
    width = min(WINDOW, (ripe - first) // LEAST_SPAN)
    if not width:
        return backtest, windows
    for place in range(WINDOWS, 0, -1):
        origin = ripe - place * width
        early = rows.take(np.flatnonzero(rows.at < origin))
        late = rows.take(np.flatnonzero((rows.at >= origin) & (rows.at < origin + width)))
        cases = late.truth.sum() if len(late.truth) else 0
        if len(early.truth) < LEAST_ROWS or early.truth.sum() < LEAST_POSITIVES or not cases:
            continue
        ours = _fit(early).score(late.figures)
        usual, against = (
            np.full(len(late.truth), (early.truth.sum() + 0.5) / (len(early.at) + 1)),
            ("the rate"),
        )
        scored = {"model": ours, "rate": usual}
        if champion is not None and champion[1] <= origin:
            usual, against = champion[0].score(late.figures), "the champion"
            scored["champion"] = usual
        when = pd.Timestamp(origin, unit="us", tz="UTC").isoformat()
        for name, chance in scored.items():
            backtest.append(
                {"candidate": name, "origin": when, "chosen": name == "model",
                 "scores": _scores(late.truth, chance)}
            )  # fmt: skip
        backtest.append(
            {"candidate": "rules", "origin": when, "chosen": False,
             "scores": _ranks(late.truth, late.points)}
        )  # fmt: skip
        windows.append(
            Window(
                log_loss(late.truth, ours), log_loss(late.truth, usual), float(ours.sum()),
                float(usual.sum()), float(cases), against,
            )
        )  # fmt: skip
    return backtest, windows


def moved(rows: Learnt, as_of: int, model: FraudModel | None) -> list[dict[str, Any]]:
    """How far the figures, and the model's scores, of four weeks are from those before.

    Of each user the newest event on either side: the events of one person are alike, and many of
    them would make an alarm of anybody's habits.
    """
    since = as_of - DRIFT_DAYS
    frames_of = []
    for part in (rows.newest(0, since), rows.newest(since, as_of + 1)):
        frame = part.figures.drop(columns=list(GROWING))
        if model is not None:
            frame = frame.assign(score=model.score(part.figures))
        frames_of.append(frame)
    found = drift.table(*frames_of)
    return [
        {"column": row["column"], "psi": float(row["psi"]), "threshold": float(row["threshold"]),
         "alarm": bool(row["alarm"])}
        for row in found.to_dict("records")
        if row["basis"] == "psi"
    ]  # fmt: skip


def average_precision(truth: Any, score: Any) -> float:
    """The area under the steps of precision over recall; ties stand together."""
    order = np.argsort(-np.asarray(score), kind="stable")
    found, ranked = np.asarray(truth)[order], np.asarray(score)[order]
    last = np.flatnonzero(np.append(np.diff(ranked) != 0, True))
    hits = np.cumsum(found)[last]
    if not hits[-1]:
        return float("nan")
    gained = np.diff(np.concatenate([[0.0], hits])) / hits[-1]
    return float((gained * hits / (last + 1)).sum())


def recall(truth: Any, score: Any, false_positives: float = FALSE_POSITIVES) -> float:
    """The share of positives above the score that so many negatives exceed."""
    honest = np.asarray(score)[np.asarray(truth) == 0]
    border = np.quantile(honest, 1 - false_positives) if len(honest) else -np.inf
    return float((np.asarray(score)[np.asarray(truth) == 1] > border).mean())


def _fit(rows: Learnt) -> FraudModel:
    return FraudModel(seed=0).fit(
        rows.figures, rows.truth, rows.at / 1e6, label_delay=pd.Timedelta(DELAY, "us")
    )


def _ranks(truth: Any, score: Any) -> dict[str, Any]:
    found = {
        "rows": len(truth), "positives": int(truth.sum()), "auc": auc(truth, score),
        "average_precision": average_precision(truth, score), "recall_at_1": recall(truth, score),
    }  # fmt: skip
    return {name: value if np.isfinite(value) else None for name, value in found.items()}


def _scores(truth: Any, chance: Any) -> dict[str, Any]:
    return _ranks(truth, chance) | {
        "log_loss": log_loss(truth, chance), "brier": brier(truth, chance),
        "calibration": calibration_ratio(truth, chance),
    }  # fmt: skip


def _means(backtest: list[dict[str, Any]], model: FraudModel) -> dict[str, Any]:
    """By candidate the mean over the windows; and what the fit itself saw on later rows."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(row["candidate"] for row in backtest):
        rows = [row["scores"] for row in backtest if row["candidate"] == name]
        found[name] = {
            key: float(np.mean([row[key] for row in rows if row[key] is not None] or [np.nan]))
            for key in rows[0]
        }
        found[name] = {key: None if np.isnan(v) else v for key, v in found[name].items()}
    return found | {"fit": dict(model.report)}


__all__ = ["Learnt", "Verdict", "learnt", "look_back", "moved", "train"]
