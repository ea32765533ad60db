"""Why a score is what it is, in plain words, always with the number behind it.

Takes contributions in logits from a learner and facts about each column from the training rows;
knows no learner.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chat_app.ml.columns import MISSING, Table
from chat_app.ml.scores import Floats, sigmoid

GROUPS = 5
LEAST_ROWS = 10
TOP = 3
LEAST_POINTS = 0.005  # what moves the probability by less than half a point is not named
MOST_WORDS = 40


@dataclass
class Facts:
    """What the training rows say about each column: how often each group left."""

    base: float
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    phrases: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def fit(cls, table: Table, target: Floats, phrases: Mapping[str, str] | None = None) -> "Facts":
        """Count; `phrases` name columns in words, such as `last seen {} days ago`."""
        made = cls(float(target.mean()), {}, dict(phrases or {}))
        for column in table.columns:
            values = table.values[column.name]
            if column.kind == "text":
                words, place = np.unique(values.astype(str), return_inverse=True)
                counts = np.bincount(place)
                hits = np.bincount(place, weights=target)
                made.columns[column.name] = {
                    "rates": {
                        word: hits[j] / counts[j]
                        for j, word in enumerate(words.tolist())
                        if counts[j] >= LEAST_ROWS
                    }
                }
                continue
            there = ~np.isnan(values)
            edges = np.unique(np.quantile(values[there], np.linspace(0, 1, GROUPS + 1)[1:-1]))
            place = np.searchsorted(edges, values[there], side="left")
            counts = np.bincount(place, minlength=len(edges) + 1)
            hits = np.bincount(place, weights=target[there], minlength=len(edges) + 1)
            rates = [
                float(hit / count) if count >= LEAST_ROWS else None
                for hit, count in zip(hits, counts, strict=True)
            ]
            flag = bool(np.isin(values[there], (0.0, 1.0)).all())
            made.columns[column.name] = {
                "kind": "flag" if flag else column.kind,
                "median": float(np.median(values[there])),
                "edges": edges.tolist(),
                "rates": rates,
            }
        return made

    def say(self, name: str, kind: str, value: Any, points: float) -> str:
        """One sentence: the value, how many points it moves the estimate, who is like that."""
        facts = self.columns[name]
        moved = f"{abs(100 * points):.0f}" if abs(points) >= 0.0095 else f"{abs(100 * points):.1f}"
        plural = "point" if moved == "1" else "points"
        sign = "+" if points > 0 else "−"
        sentence = f"{self._value(name, kind, value, facts)}: {sign}{moved} {plural}"
        rate = self._rate(kind, value, facts)
        # A share that speaks against the sentence is another column's doing; it would confuse.
        if rate is None or (rate > self.base) != (points > 0):
            return sentence
        of_all = f"{100 * self.base:.0f} % of all"
        return f"{sentence} ({100 * rate:.0f} % of those like this left, {of_all})"

    def _value(self, name: str, kind: str, value: Any, facts: Mapping[str, Any]) -> str:
        label = name.replace("_", " ")
        if kind == "text":
            words = value if len(value) <= MOST_WORDS else f"{value[: MOST_WORDS - 1]}…"
            return f"{label} is {words}" if value != MISSING else f"{label} is missing"
        if np.isnan(value):
            return f"{label} is missing"
        if name in self.phrases:
            return self.phrases[name].format(_figure(value))
        if facts["kind"] == "flag":
            return f"{label} is {'yes' if value else 'no'}"
        if kind == "day":
            day = np.datetime64(0, "D") + np.timedelta64(int(np.floor(value)), "D")
            return f"{label} is {day}"
        return f"{label} is {_figure(value)} (median {_figure(facts['median'])})"

    @staticmethod
    def _rate(kind: str, value: Any, facts: Mapping[str, Any]) -> float | None:
        if kind == "text":
            found = facts["rates"].get(value)
            return None if found is None else float(found)
        if np.isnan(value):
            return None
        place = int(np.searchsorted(facts["edges"], value, side="left"))
        found = facts["rates"][place]
        return None if found is None else float(found)

    def to_params(self) -> dict[str, Any]:
        """Plain data for `from_params`."""
        return {"base": self.base, "columns": self.columns, "phrases": dict(self.phrases)}

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Facts":
        """What `to_params` wrote."""
        return cls(params["base"], params["columns"], params["phrases"])


def reasons(
    facts: Facts, table: Table, logits: Floats, contributions: Floats, top: int = TOP
) -> tuple[list[list[str]], list[list[str]]]:
    """For each row the strongest columns that raise its probability, and those that lower it.

    A column's points are the probability less what it would be without the column's part.
    """
    points = sigmoid(logits)[:, None] - sigmoid(logits[:, None] - contributions)
    ranked = np.argsort(-points, axis=1, kind="stable")
    risk: list[list[str]] = []
    protective: list[list[str]] = []
    for row in range(table.rows):
        places = ranked[row]
        up = [j for j in places[:top] if points[row, j] >= LEAST_POINTS]
        down = [j for j in places[::-1][:top] if points[row, j] <= -LEAST_POINTS]
        risk.append([_sentence(facts, table, row, j, points[row, j]) for j in up])
        protective.append([_sentence(facts, table, row, j, points[row, j]) for j in down])
    return risk, protective


def _sentence(facts: Facts, table: Table, row: int, j: Any, points: Any) -> str:
    column = table.columns[j]
    return facts.say(column.name, column.kind, table.values[column.name][row], float(points))


def _figure(value: float) -> str:
    """Three telling digits: 0.0123, 4.5, 1,234."""
    if value == 0 or not np.isfinite(value):
        return "0"
    if abs(value) >= 100 or float(value).is_integer():
        return f"{value:,.0f}"
    places = int(max(0, 2 - np.floor(np.log10(abs(value)))))
    return f"{value:.{min(places, 12)}f}".rstrip("0").rstrip(".")
