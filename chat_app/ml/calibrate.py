"""From a score to a probability that can be believed, kept as plain numbers.

Platt's line while there are few calibration rows, isotonic steps when there are many. The steps
are joined through their centres, so that no two scores become equal and no rank is lost.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from chat_app.ml.scores import TINY, Floats, logit, sigmoid

ISOTONIC_ROWS = 1000
ISOTONIC_POSITIVES = 100
STEP_ROWS = 30  # a step of the isotonic curve rests on at least so many rows
STEEP, FLAT = 10.0, 0.05  # what the slope of Platt's line may be
PRIOR_ROWS = 8.0  # how much a slope of one weighs against the data


@dataclass(frozen=True)
class Platt:
    """p = sigmoid(slope · score + offset), on scores in logits."""

    slope: float
    offset: float

    def apply(self, score: Any) -> Floats:
        return sigmoid(self.slope * np.asarray(score, dtype=np.float64) + self.offset)

    def to_params(self) -> dict[str, Any]:
        return {"kind": "platt", "slope": self.slope, "offset": self.offset}


@dataclass(frozen=True)
class Isotonic:
    """A rising line through knots (score, logit); beyond its ends it goes on with slope one."""

    scores: tuple[float, ...]
    logits: tuple[float, ...]

    def apply(self, score: Any) -> Floats:
        at = np.asarray(score, dtype=np.float64)
        inside = np.interp(at, self.scores, self.logits)
        beyond = np.minimum(at - self.scores[0], 0) + np.maximum(at - self.scores[-1], 0)
        return sigmoid(inside + beyond)

    def to_params(self) -> dict[str, Any]:
        return {"kind": "isotonic", "scores": list(self.scores), "logits": list(self.logits)}


Calibrator = Platt | Isotonic


def fit(score: Any, truth: Any) -> Calibrator:
    """The calibrator for so much data: Platt below 1,000 rows or 100 of either class."""
    score = np.asarray(score, dtype=np.float64)
    truth = np.asarray(truth, dtype=np.float64)
    rarer = min(truth.sum(), len(truth) - truth.sum())
    if len(truth) < ISOTONIC_ROWS or rarer < ISOTONIC_POSITIVES:
        return platt(score, truth)
    return isotonic(score, truth)


def platt(score: Any, truth: Any) -> Platt:
    """Platt's line by Newton steps; with little data the slope stays near one.

    Platt's smoothed targets keep a perfect split finite. The slope is always positive, so that
    the order of the scores stays. Without rows, or with one score, only the level is learnt.
    """
    score = np.asarray(score, dtype=np.float64)
    truth = np.asarray(truth, dtype=np.float64)
    if not len(truth):
        return Platt(1.0, 0.0)
    positives = float(truth.sum())
    high = (positives + 1) / (positives + 2)
    low = 1 / (len(truth) - positives + 2)
    target = np.where(truth > 0.5, high, low)
    centre = float(score.mean())
    shifted = score - centre
    slope, offset = 1.0, float(centre)
    for _ in range(50):
        p = sigmoid(slope * shifted + offset)
        weight = p * (1 - p)
        gradient = np.array(
            [((p - target) * shifted).sum() + PRIOR_ROWS * (slope - 1.0), (p - target).sum()]
        )
        mixed = (weight * shifted).sum()
        hessian = np.array(
            [
                [(weight * shifted * shifted).sum() + PRIOR_ROWS, mixed],
                [mixed, weight.sum() + TINY],
            ]
        )
        step = np.linalg.solve(hessian, gradient)
        step *= min(1.0, 2.0 / max(1e-12, float(np.abs(step).max())))
        slope, offset = slope - float(step[0]), offset - float(step[1])
        if float(np.abs(step).max()) < 1e-10:
            break
    bounded = float(np.clip(slope, FLAT, STEEP))
    if bounded != slope:  # the level has to be found again for the slope that it may have
        offset = float(logit(target.mean()))
        for _ in range(50):
            p = sigmoid(bounded * shifted + offset)
            move = float((p - target).sum() / ((p * (1 - p)).sum() + TINY))
            offset -= float(np.clip(move, -2.0, 2.0))
    return Platt(bounded, float(offset - bounded * centre))


def isotonic(score: Any, truth: Any) -> Calibrator:
    """Pooled adjacent violators, each step joined to the next through its centre."""
    order = np.lexsort((np.asarray(truth), np.asarray(score)))
    at = np.asarray(score, dtype=np.float64)[order]
    truth = np.asarray(truth, dtype=np.float64)[order]
    blocks: list[list[float]] = []  # rows, positives, sum of scores
    edges = _pieces(at)
    for begin, end in pairwise(edges):
        rows = float(end - begin)
        blocks.append([rows, float(truth[begin:end].sum()), float(at[begin:end].sum())])
        while len(blocks) > 1 and blocks[-2][1] * blocks[-1][0] >= blocks[-1][1] * blocks[-2][0]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    if len(blocks) < 3:
        return platt(at, truth)
    table = np.array(blocks)
    rates = (table[:, 1] + 0.5) / (table[:, 0] + 1.0)
    knots = table[:, 2] / table[:, 0]
    levels = np.maximum.accumulate(logit(rates) + 1e-9 * np.arange(len(rates)))
    return Isotonic(tuple(knots.tolist()), tuple(levels.tolist()))


def _pieces(at: Floats) -> list[int]:
    """Bounds of groups of at least STEP_ROWS rows, equal scores together."""
    edges = [0]
    for end in range(STEP_ROWS, len(at), STEP_ROWS):
        cut = int(np.searchsorted(at, at[end - 1], side="right"))
        if cut - edges[-1] >= STEP_ROWS and len(at) - cut >= STEP_ROWS:
            edges.append(cut)
    return [*edges, len(at)]


def from_params(params: dict[str, Any]) -> Calibrator:
    """What `to_params` wrote."""
    if params["kind"] == "platt":
        return Platt(float(params["slope"]), float(params["offset"]))
    return Isotonic(tuple(map(float, params["scores"])), tuple(map(float, params["logits"])))
