"""What learns a yes or no from a table: ridge logistic, random forest, small boosting, a rule.

Each gives scores in logits and says how much each column moved them, and is kept as plain numbers
or LightGBM's own text. No class weights anywhere: they buy no rank and destroy probabilities.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chat_app.ml.columns import Encoder, Table
from chat_app.ml.scores import Floats, logit, sigmoid

THREADS, THREAD_ROWS = 2, 5000  # below, waiting for each other costs more than it gains
MANY = 12  # a number with more values than this is a line; with fewer it is a step or two
MOST_FOREST_ROWS = 15_000
SMALL = {"rounds": 300, "rate": 0.02, "leaves": 8}
DEEP = {"rounds": 500, "rate": 0.03, "leaves": 24}
TREES = 120
LEAF = 8
PIECE = 4096


class Learner(Protocol):
    """Fitted to rows; scores and contributions are in logits."""

    encoder: Encoder

    def raw(self, table: Table) -> Floats:
        """A score in logits for each row; a row's score does not depend on its neighbours."""
        ...

    def contributions(self, table: Table) -> Floats:
        """Rows × columns of the table: how far each moved the score from that of a usual row."""
        ...

    def to_params(self) -> dict[str, Any]:
        """Plain data for `from_params`."""
        ...


def _threads(rows: int) -> int:
    return THREADS if rows >= THREAD_ROWS else 1


def _by_column(encoder: Encoder, parts: Floats) -> Floats:
    found = np.zeros((len(parts), len(encoder.columns)))
    for j, place in enumerate(encoder.source):
        found[:, place] += parts[:, j]
    return found


# Ridge logistic


def newton(
    design: Floats,
    target: Floats,
    penalty: float,
    *,
    weights: Floats | None = None,
    start: Floats | None = None,
) -> Floats:
    """Ridge logistic coefficients, the first for the constant, which is not penalised."""
    rows, width = design.shape
    full = np.column_stack([np.ones(rows), design])
    counts = np.ones(rows) if weights is None else weights
    share = float(np.clip((counts * target).sum() / counts.sum(), 1e-6, 1 - 1e-6))
    beta = np.zeros(width + 1)
    beta[0] = float(logit(share))
    if start is not None:
        beta = start.copy()
    ridge = np.full(width + 1, penalty)
    ridge[0] = 1e-6
    for _ in range(40):
        p = sigmoid(full @ beta)
        gradient = full.T @ (counts * (p - target)) + ridge * (beta - [beta[0], *[0.0] * width])
        curve = counts * np.maximum(p * (1 - p), 1e-9)
        hessian = (full * curve[:, None]).T @ full + np.diag(ridge)
        step = np.linalg.solve(hessian, gradient)
        beta = beta - step * min(1.0, 4.0 / max(1e-12, float(np.abs(step).max())))
        if float(np.abs(step).max()) < 1e-8:
            break
    return beta


@dataclass
class Logistic:
    """Ridge logistic on standardised columns; a number is a line and its rank among quantiles."""

    encoder: Encoder
    mean: Floats
    spread: Floats
    knots: dict[int, list[float]]
    beta: Floats
    centre: Floats

    @classmethod
    def fit(cls, table: Table, target: Floats, *, penalty: float = 10.0) -> "Logistic":
        """Fit to these rows; `penalty` is λ/2·|β|² against the sum of the log-loss."""
        encoder = Encoder.fit(table)
        filled = encoder.filled(encoder.matrix(table))
        spread = filled.std(axis=0)
        # A level keeps its own scale, so that rare ones are held back more than common ones.
        level = ((filled == 0) | (filled == 1)).all(axis=0)
        spread = np.where(level & (spread > 1e-12), 1.0, spread)
        made = cls(encoder, filled.mean(axis=0), np.where(spread > 1e-12, spread, np.inf), {},
                   np.empty(0), np.empty(0))  # fmt: skip
        if table.rows >= 200:
            for j in range(filled.shape[1]):
                if len(np.unique(filled[:, j])) > MANY:
                    inner = np.linspace(0, 1, 21)
                    made.knots[j] = np.unique(np.quantile(filled[:, j], inner)).tolist()
        design = made.design(table)
        made.beta = newton(design, target, penalty)
        made.centre = design.mean(axis=0)
        return made

    def design(self, table: Table) -> Floats:
        """What the coefficients stand for, without the constant."""
        filled = self.encoder.filled(self.encoder.matrix(table))
        parts = [np.clip((filled - self.mean) / self.spread, -4.0, 4.0)]
        for j, knots in self.knots.items():
            rank = np.interp(filled[:, j], knots, np.linspace(-1.7, 1.7, len(knots)))
            parts.append(rank[:, None])
        found: Floats = np.ascontiguousarray(np.column_stack(parts))
        return found

    def raw(self, table: Table) -> Floats:
        return self.score(self.design(table), self.beta)

    @staticmethod
    def score(design: Floats, beta: Floats) -> Floats:
        """Row by row, so that a row's last bit does not hang on how many come with it."""
        found: Floats = (design * beta[1:]).sum(axis=1) + beta[0]
        return found

    def contributions(self, table: Table) -> Floats:
        parts = (self.design(table) - self.centre) * self.beta[1:]
        width = len(self.encoder.source)
        whole = parts[:, :width].copy()
        for place, j in enumerate(self.knots):
            whole[:, j] += parts[:, width + place]
        return _by_column(self.encoder, whole)

    def to_params(self) -> dict[str, Any]:
        return {
            "kind": "logistic",
            "encoder": self.encoder.to_params(),
            "mean": self.mean.tolist(),
            "spread": [value if np.isfinite(value) else None for value in self.spread.tolist()],
            "knots": {str(j): knots for j, knots in self.knots.items()},
            "beta": self.beta.tolist(),
            "centre": self.centre.tolist(),
        }

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Logistic":
        spread = [np.inf if value is None else value for value in params["spread"]]
        return cls(
            Encoder.from_params(params["encoder"]),
            np.array(params["mean"]),
            np.array(spread),
            {int(j): knots for j, knots in params["knots"].items()},
            np.array(params["beta"]),
            np.array(params["centre"]),
        )


# Random forest


@dataclass
class Forest:
    """scikit-learn's RandomForestClassifier, leaves of at least 8, read out as plain arrays.

    A tree is five arrays: left, right, feature (−1 at a leaf), threshold, share of positives.
    """

    encoder: Encoder
    trees: list[tuple[Any, Any, Any, Any, Any]]

    @classmethod
    def fit(cls, table: Table, target: Floats, *, seed: int = 0, trees: int = TREES) -> "Forest":
        """Fit to these rows; same seed, same trees."""
        from sklearn.ensemble import RandomForestClassifier

        if table.rows > MOST_FOREST_ROWS:
            some = np.random.default_rng(seed).permutation(table.rows)[:MOST_FOREST_ROWS]
            table, target = table.take(np.sort(some)), target[np.sort(some)]
        encoder = Encoder.fit(table)
        filled = encoder.filled(encoder.matrix(table)).astype(np.float32)
        model = RandomForestClassifier(
            n_estimators=trees, min_samples_leaf=min(LEAF, max(1, table.rows // 20)),
            random_state=seed, n_jobs=_threads(table.rows),
        )  # fmt: skip
        model.fit(filled, target.astype(int))
        found = []
        for member in model.estimators_:
            tree = member.tree_
            value = tree.value[:, 0, :]
            share = value[:, 1] / value.sum(axis=1)
            feature = np.where(tree.children_left < 0, -1, tree.feature)
            found.append((tree.children_left, tree.children_right, feature, tree.threshold, share))
        return cls(encoder, found)

    def _inputs(self, table: Table) -> NDArray[np.float32]:
        return self.encoder.filled(self.encoder.matrix(table)).astype(np.float32)

    def raw(self, table: Table) -> Floats:
        inputs = self._inputs(table)
        total = np.zeros(len(inputs))
        if not len(inputs):
            return total
        rows = np.arange(len(inputs))
        for left, right, feature, threshold, share in self.trees:
            node = np.zeros(len(inputs), dtype=np.int64)
            while True:
                at = feature[node]
                if (at < 0).all():
                    break
                smaller = inputs[rows, np.maximum(at, 0)] <= threshold[node]
                node = np.where(at < 0, node, np.where(smaller, left[node], right[node]))
            total += share[node]
        return self._logit(total / len(self.trees))

    def contributions(self, table: Table) -> Floats:
        """The steps of the share along each path, brought to the scale of the logit."""
        inputs = self._inputs(table)
        parts = np.zeros(inputs.shape)
        total, start = np.zeros(len(inputs)), 0.0
        rows = np.arange(len(inputs))
        for left, right, feature, threshold, share in self.trees:
            node = np.zeros(len(inputs), dtype=np.int64)
            start += float(share[0])
            while True:
                at = feature[node]
                if (at < 0).all():
                    break
                smaller = inputs[rows, np.maximum(at, 0)] <= threshold[node]
                then = np.where(at < 0, node, np.where(smaller, left[node], right[node]))
                parts[rows, np.maximum(at, 0)] += share[then] - share[node]
                node = then
            total += share[node]
        count = len(self.trees)
        moved = self._logit(total / count) - self._logit(np.full(len(inputs), start / count))
        whole = (total - start) / count
        scale = np.where(np.abs(whole) > 1e-9, moved / np.where(whole == 0, 1, whole), 4.0)
        return _by_column(self.encoder, parts / count * scale[:, None])

    @staticmethod
    def _logit(share: Floats) -> Floats:
        return logit(np.clip(share, 1e-3, 1 - 1e-3))

    def to_params(self) -> dict[str, Any]:
        return {
            "kind": "random_forest",
            "encoder": self.encoder.to_params(),
            "trees": [[part.tolist() for part in tree] for tree in self.trees],
        }

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Forest":
        trees = []
        for left, right, feature, threshold, share in params["trees"]:
            whole = [np.array(part, dtype=np.int64) for part in (left, right, feature)]
            trees.append((*whole, np.array(threshold), np.array(share)))
        return cls(Encoder.from_params(params["encoder"]), trees)  # type: ignore[arg-type]


# LightGBM


@dataclass
class Boosted:
    """LightGBM kept small, kept as its own text."""

    encoder: Encoder
    text: str

    def __post_init__(self) -> None:
        import lightgbm

        self._booster = lightgbm.Booster(model_str=self.text)

    @classmethod
    def fit(
        cls, table: Table, target: Floats, *, seed: int = 0, rounds: int, rate: float, leaves: int
    ) -> "Boosted":
        """Fit to these rows; same seed, same trees on any number of threads."""
        import lightgbm

        encoder = Encoder.fit(table)
        params = {
            "objective": "binary", "learning_rate": rate, "num_leaves": leaves,
            "lambda_l2": 5.0, "feature_fraction": 0.5,
            "min_data_in_leaf": int(np.clip(table.rows // 20, 3, 20)),
            "seed": seed, "deterministic": True, "force_row_wise": True,
            "num_threads": _threads(table.rows), "verbosity": -1,
        }  # fmt: skip
        data = lightgbm.Dataset(encoder.matrix(table), target, params=params, free_raw_data=True)
        booster = lightgbm.train(params, data, num_boost_round=rounds)
        return cls(encoder, booster.model_to_string())

    def raw(self, table: Table) -> Floats:
        inputs = self.encoder.matrix(table)
        if not len(inputs):
            return np.empty(0)
        found = self._booster.predict(inputs, raw_score=True, num_threads=1)
        return np.asarray(found, dtype=np.float64)

    def contributions(self, table: Table) -> Floats:
        inputs = self.encoder.matrix(table)
        if not len(inputs):
            return np.zeros((0, len(self.encoder.columns)))
        found = np.asarray(
            self._booster.predict(inputs, pred_contrib=True, num_threads=_threads(len(inputs)))
        )
        return _by_column(self.encoder, found[:, :-1])

    def to_params(self) -> dict[str, Any]:
        return {"kind": "lightgbm", "encoder": self.encoder.to_params(), "text": self.text}

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Boosted":
        return cls(Encoder.from_params(params["encoder"]), params["text"])


# The rule


@dataclass
class Rule:
    """One column, the share of positives in each of its groups: the naive baseline.

    The column is the one asked for, or the one that tells the classes apart best.
    """

    encoder: Encoder
    column: int
    edges: list[float]
    levels: list[str]
    logits: list[float]  # one for each group; the last for missing and unseen
    base: float

    @classmethod
    def fit(cls, table: Table, target: Floats, *, column: str | None = None) -> "Rule":
        """Fit to these rows."""
        best: tuple[float, Rule] | None = None
        encoder = Encoder(table.columns)
        base = float(target.mean())
        for place, name in enumerate(one.name for one in table.columns):
            if column is not None and name != column:
                continue
            made = cls(encoder, place, [], [], [], float(logit(base)))
            made._groups(table, target, base)
            gain = float(np.abs(sigmoid(made.raw(table)) - base).mean())
            if best is None or gain > best[0] + 1e-12:
                best = (gain, made)
        if best is None:
            return cls(encoder, 0, [], [], [float(logit(base))], float(logit(base)))
        return best[1]

    def _groups(self, table: Table, target: Floats, base: float) -> None:
        values = table.values[table.columns[self.column].name]
        if table.columns[self.column].kind == "text":
            words, counts = np.unique(values.astype(str), return_counts=True)
            self.levels = words[counts >= 5].tolist()[:200]
        else:
            there = values[~np.isnan(values)]
            inner = np.linspace(0, 1, 11)[1:-1]
            self.edges = np.unique(np.quantile(there, inner, method="lower")).tolist()
        place, groups = self._place(table)
        rows = np.bincount(place, minlength=groups)
        hits = np.bincount(place, weights=target, minlength=groups)
        self.logits = logit((hits + 20 * base) / (rows + 20)).tolist()

    def _place(self, table: Table) -> tuple[Any, int]:
        if not table.columns:
            return np.zeros(table.rows, dtype=int), 1
        values = table.values[table.columns[self.column].name]
        if table.columns[self.column].kind == "text":
            groups = {word: place for place, word in enumerate(self.levels)}
            found = [groups.get(word, len(groups)) for word in values]
            return np.array(found, dtype=int), len(groups) + 1
        place = np.searchsorted(self.edges, values, side="left")
        last = len(self.edges) + 1
        return np.where(np.isnan(values), last, place), last + 1

    def raw(self, table: Table) -> Floats:
        place, _ = self._place(table)
        found: Floats = np.array(self.logits, dtype=np.float64)[place]
        return found

    def contributions(self, table: Table) -> Floats:
        found = np.zeros((table.rows, len(table.columns)))
        if table.columns:
            found[:, self.column] = self.raw(table) - self.base
        return found

    def to_params(self) -> dict[str, Any]:
        return {
            "kind": "rule",
            "encoder": self.encoder.to_params(),
            "column": self.column,
            "edges": self.edges,
            "levels": self.levels,
            "logits": self.logits,
            "base": self.base,
        }

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Rule":
        return cls(
            Encoder.from_params(params["encoder"]), params["column"], params["edges"],
            params["levels"], params["logits"], params["base"],
        )  # fmt: skip


@dataclass
class Blend:
    """The weighted mean of other learners' logits."""

    parts: list[tuple[float, Any]]

    @property
    def encoder(self) -> Encoder:
        found: Encoder = self.parts[0][1].encoder
        return found

    def raw(self, table: Table) -> Floats:
        found = np.zeros(table.rows)
        for weight, part in self.parts:
            found = found + weight * part.raw(table)
        return found

    def contributions(self, table: Table) -> Floats:
        found = np.zeros((table.rows, len(table.columns)))
        for weight, part in self.parts:
            found = found + weight * part.contributions(table)
        return found

    def to_params(self) -> dict[str, Any]:
        parts = [[weight, part.to_params()] for weight, part in self.parts]
        return {"kind": "blend", "parts": parts}

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Blend":
        return cls([(float(weight), from_params(part)) for weight, part in params["parts"]])


def from_params(params: Mapping[str, Any]) -> Any:
    """The learner that `to_params` wrote."""
    kinds: dict[str, Any] = {
        "logistic": Logistic, "random_forest": Forest, "lightgbm": Boosted, "rule": Rule,
        "blend": Blend,
    }  # fmt: skip
    return kinds[params["kind"]].from_params(params)


def order(table: Table, *keys: Any) -> Any:
    """Places of the rows in an order that only their contents decide; `keys` come first."""
    columns = []
    for column in reversed(table.columns):
        values = table.values[column.name]
        if column.kind == "text":
            _, values = np.unique(values.astype(str), return_inverse=True)
        columns.append(values)
    columns += [np.asarray(key) for key in reversed(keys)]
    return np.lexsort(columns) if columns else np.arange(table.rows)
