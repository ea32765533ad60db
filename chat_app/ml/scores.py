"""How good a probability is: rank, calibration, loss. Plain numpy; knows no model."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TINY = 1e-6


def sigmoid(logits: Any) -> Floats:
    """Logits to probabilities, without overflow."""
    clipped = np.clip(np.asarray(logits, dtype=np.float64), -35.0, 35.0)
    found: Floats = 1.0 / (1.0 + np.exp(-clipped))
    return found


def logit(probabilities: Any) -> Floats:
    """Probabilities to logits; 0 and 1 are taken as a millionth away from themselves."""
    clipped = np.clip(np.asarray(probabilities, dtype=np.float64), TINY, 1 - TINY)
    found: Floats = np.log(clipped) - np.log1p(-clipped)
    return found


def auc(truth: Any, score: Any) -> float:
    """Area under the ROC curve, ties by half; NaN when there is one class only."""
    truth = np.asarray(truth, dtype=bool)
    score = np.asarray(score, dtype=np.float64)
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return float("nan")
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[place]
    wins = ranks[truth].sum() - positives * (positives + 1) / 2.0
    return float(wins / (positives * negatives))


def log_loss(truth: Any, probability: Any) -> float:
    """Mean negative log-likelihood."""
    truth = np.asarray(truth, dtype=np.float64)
    sure = np.clip(np.asarray(probability, dtype=np.float64), TINY, 1 - TINY)
    return float(-(truth * np.log(sure) + (1 - truth) * np.log(1 - sure)).mean())


def brier(truth: Any, probability: Any) -> float:
    """Mean squared error of the probability."""
    gap = np.asarray(probability, dtype=np.float64) - np.asarray(truth, dtype=np.float64)
    return float((gap * gap).mean())


def ece(truth: Any, probability: Any, bins: int = 10) -> float:
    """Expected calibration error over bins of equal width."""
    truth = np.asarray(truth, dtype=np.float64)
    probability = np.asarray(probability, dtype=np.float64)
    place = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = np.bincount(place, weights=probability - truth, minlength=bins)
    return float(np.abs(gaps).sum() / len(truth))
