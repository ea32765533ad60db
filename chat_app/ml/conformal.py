"""Split-conformal bands: how far forecasts were off on data that they had not seen.

Distances are relative to the size of the prediction, and each group of predictions of like size
has a width of its own, so that small customers do not get the bands of big ones.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
PER_GROUP = 100  # seen predictions that a width of its own needs
GROUPS = 10


def quantile(distances: Floats, level: float) -> float:
    """The smallest seen distance that covers a new one with at least this probability.

    With too few for the level it is the largest one seen.
    """
    ordered = np.sort(distances)
    place = math.ceil((len(ordered) + 1) * level)
    return float(ordered[min(place, len(ordered)) - 1])


@dataclass(frozen=True)
class Bands:
    """Widths by size of the prediction: `edges` part the groups, `widths` are relative."""

    edges: tuple[float, ...]
    widths: tuple[float, ...]
    from_zero: tuple[bool, ...]
    floor: float
    level: float

    def about(self, predicted: Floats) -> tuple[Floats, Floats]:
        """The lower (at least zero) and upper ends about predictions."""
        group = np.searchsorted(np.array(self.edges), predicted, side="right")
        reach = np.array(self.widths)[group] * (np.maximum(predicted, 0) + self.floor)
        low = np.where(np.array(self.from_zero)[group], 0.0, np.maximum(predicted - reach, 0.0))
        return low, np.maximum(predicted + reach, 0.0)

    def to_params(self) -> dict[str, Any]:
        """The numbers as plain JSON."""
        return asdict(self)

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> "Bands":
        """What `to_params` gave."""
        return cls(
            edges=tuple(params["edges"]),
            widths=tuple(params["widths"]),
            from_zero=tuple(params["from_zero"]),
            floor=float(params["floor"]),
            level=float(params["level"]),
        )


def bands(predicted: Floats, actual: Floats, *, level: float = 0.8) -> Bands:
    """Bands that cover `level` of what was seen, from predictions and what came true.

    Wants at least one pair; the order of the pairs changes nothing.
    """
    size = float(np.mean(np.abs(predicted))) or float(np.mean(np.abs(actual)))
    floor = 0.05 * size or 1e-9
    above = (actual - predicted) / (np.maximum(predicted, 0) + floor)
    count = max(1, min(GROUPS, len(predicted) // PER_GROUP))
    inner = np.unique(np.quantile(predicted, np.arange(1, count) / count))
    group = np.searchsorted(inner, predicted, side="right")
    full = [k for k in range(len(inner) + 1) if (group == k).any()]
    # A group that ties left empty is joined to the one above it.
    edges = [float(inner[k]) for k in full[:-1]]
    from_zero = [bool(np.mean(actual[group == k] <= 0) > (1 - level) / 2) for k in full]
    widths = [
        quantile(np.maximum(above[group == k], 0) if zero else np.abs(above[group == k]), level)
        for k, zero in zip(full, from_zero, strict=True)
    ]
    return Bands(tuple(edges), tuple(widths), tuple(from_zero), floor, level)
