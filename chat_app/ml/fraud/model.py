"""How likely an event is to be fraud: learnt from rows whose labels had time to arrive.

LightGBM held back for rare positives, blended with a ridge line where positives are few, brought
to probabilities by Platt's line on later rows than it learnt from; beside it an isolation forest
that asks no labels. No class weights anywhere. Takes any table of numbers and categories.
"""

import json
import warnings
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import exp
from typing import Any, Self

import numpy as np
import pandas as pd

from chat_app.errors import Invalid
from chat_app.ml import calibrate, columns
from chat_app.ml.calibrate import Platt
from chat_app.ml.columns import Encoder
from chat_app.ml.fraud import forest, single
from chat_app.ml.learners import newton, order
from chat_app.ml.scores import Floats, brier, log_loss
from chat_app.revenue import frames
from chat_app.revenue.frames import BadFrame

FORMAT = 1
LEAST_ROWS, LEAST_POSITIVES = 20, 2
TREE_ROWS, TREE_POSITIVES = 100, 8  # below, the line alone
ROUNDS = (40, 90, 170, 300)
MIXES = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)  # of the trees; the rest is the line
LINE_COLUMNS = 400
ONE_FOLD_ROWS = 60_000
THREADS, THREAD_ROWS = 2, 20_000
CLIP = 4.0


class BadFraudLabels(Invalid):
    """The labels of a fraud model are no yes or no, are missing, or have another length."""

    code = "bad_fraud_labels"
    message = "The labels cannot be read. Give 1 for fraud and 0 for the rest, one for each row."


class FraudNotFitted(Invalid):
    """A fraud model was asked for scores before it had seen any rows."""

    code = "fraud_not_fitted"
    message = "The fraud model has learnt nothing yet. Call fit first."


class FraudModel:
    """Fit to a table X, labels y and times ts; gives probabilities.

    `basis` is `model`; `line` with few positives, where a ridge line stands alone; or
    `insufficient` with under 20 rows or 2 positives or with one class, where every score is the
    rate seen. `report` holds what was measured on later rows, `label_delay_used` the delay.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = int(seed)
        self.basis = ""
        self.report: dict[str, Any] = {}
        self.label_delay_used = 0.0
        self.dropped: dict[str, str] = {}
        self.rate = 0.0
        self.encoder: Encoder | None = None
        self.platt = Platt(1.0, 0.0)
        self.share = 0.0  # of the trees in the blend
        self.mean = self.spread = self.beta = np.empty(0)
        self.knots: list[float] = []
        self._trees_text = self._forest_text = ""
        self._trees: Any = None
        self._forest: Any = None

    def fit(self, X: Any, y: Any, ts: Any = None, label_delay: Any = "7D") -> Self:
        """Learn from rows older than the newest by `label_delay`, whose labels have arrived.

        A delay longer than half of the history cannot be meant for it: the labels are taken as
        final and `label_delay_used` is 0, as it is without `ts`. Missing, infinite and unknown
        values are fine. Raises BadFrame and BadFraudLabels. The order of the rows changes nothing.
        """
        frame = columns.known(X)
        target = _target(y, len(frame))
        times = _times(ts, len(frame))
        old = self._ripe(times, label_delay)
        frame, target, times = frame[old].reset_index(drop=True), target[old], times[old]
        used, self.dropped = columns.learn(frame)
        table = columns.read(frame, used)
        places = order(table, times, target)
        table, target, times = table.take(places), target[places], times[places]
        rows, positives = len(target), int(target.sum())
        self.rate = (positives + 0.5) / (rows + 1.0)
        self.report = {"rows": rows, "positives": positives}
        self.encoder = Encoder.fit(table)
        matrix = self.encoder.matrix(table)
        self._scale(matrix)
        self._forest_text = forest.fit(self.encoder.filled(matrix), seed=self.seed)
        self._open()
        self.knots = forest.tails(self._depths(matrix)) if self._forest_text else []
        few = min(positives, rows - positives)
        if rows < LEAST_ROWS or few < LEAST_POSITIVES or not matrix.shape[1]:
            self.basis = "insufficient"
            return self
        trees = rows >= TREE_ROWS and few >= TREE_POSITIVES
        self.basis = "model" if trees else "line"
        self._learn(matrix, target, times, trees=trees)
        return self

    def score(self, X: Any) -> Floats:
        """The probability of fraud for each row. Raises BadFrame for a missing column."""
        matrix = self._matrix(X)
        if self.basis == "insufficient":
            return np.full(len(matrix), self.rate)
        return self.platt.apply(self._raw(matrix))

    def novelty(self, X: Any) -> Floats:
        """For each row the share of training rows that were at least as odd: small is odd."""
        matrix = self._matrix(X)
        if not self._forest_text:
            return np.ones(len(matrix))
        return forest.tail(self._depths(matrix), self.knots)

    def contributions(self, X: Any) -> pd.DataFrame:
        """How far each column moved each row's score, in logits. About a millisecond a row."""
        encoder, matrix = self._encoder(), self._matrix(X)
        parts = np.zeros(matrix.shape)
        if self.basis != "insufficient" and len(matrix):
            if self.share:
                parts += (
                    self.share
                    * np.asarray(self._trees.predict(matrix, pred_contrib=True, num_threads=1))[
                        :, :-1
                    ]
                )
            if self.share < 1:
                parts += (1 - self.share) * self._design(matrix) * self.beta[1:]
        names = [encoder.columns[place].name for place in encoder.source]
        found = pd.DataFrame(0.0, index=range(len(matrix)), columns=dict.fromkeys(names))
        for place, name in enumerate(names):
            found[name] += parts[:, place]
        return found

    # -- one row, online ----------------------------------------------------------------------

    def reader(self, names: Sequence[str]) -> "RowReader":
        """Scores single rows of plain floats in this order of columns; raises BadFrame."""
        return RowReader(self, names)

    # -- files --------------------------------------------------------------------------------

    def to_files(self) -> dict[str, bytes]:
        """The fitted model as JSON and LightGBM's text; the same fit gives the same bytes."""
        params = {
            "format": FORMAT,
            "seed": self.seed,
            "basis": self.basis,
            "report": self.report,
            "label_delay_used": self.label_delay_used,
            "dropped": self.dropped,
            "rate": self.rate,
            "encoder": self._encoder().to_params(),
            "platt": self.platt.to_params(),
            "share": self.share,
            "mean": self.mean.tolist(),
            "spread": self.spread.tolist(),
            "beta": self.beta.tolist(),
            "knots": self.knots,
        }
        files = {"params.json": json.dumps(params, sort_keys=True).encode()}
        if self._trees_text:
            files["model.txt"] = self._trees_text.encode()
        if self._forest_text:
            files["novelty.txt"] = self._forest_text.encode()
        return files

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> "FraudModel":
        """The model that `to_files` wrote; scores the same."""
        params = json.loads(files["params.json"])
        if params["format"] != FORMAT:
            raise Invalid("This fraud model is of another format. Train it again.")
        made = cls(params["seed"])
        made.basis, made.report = params["basis"], params["report"]
        made.label_delay_used, made.dropped = params["label_delay_used"], params["dropped"]
        made.rate, made.share, made.knots = params["rate"], params["share"], params["knots"]
        made.encoder = Encoder.from_params(params["encoder"])
        made.platt = Platt(params["platt"]["slope"], params["platt"]["offset"])
        made.mean, made.spread, made.beta = (
            np.array(params[name], dtype=np.float64) for name in ("mean", "spread", "beta")
        )
        made._trees_text = files.get("model.txt", b"").decode()
        made._forest_text = files.get("novelty.txt", b"").decode()
        made._open()
        return made

    # -- inside -------------------------------------------------------------------------------

    def _ripe(self, times: Floats, label_delay: Any) -> Any:
        """Which rows are old enough for their labels to have arrived."""
        try:
            delay = pd.Timedelta(label_delay).total_seconds()
        except (ValueError, TypeError) as error:
            raise BadFrame(
                "label_delay is no time span, such as 7D.", param="label_delay"
            ) from error
        if not delay >= 0:
            raise BadFrame("label_delay must not be negative.", param="label_delay")
        self.label_delay_used = 0.0
        if not len(times) or not delay:
            return np.ones(len(times), dtype=bool)
        newest = float(times.max())
        if delay > (newest - float(times.min())) / 2:
            return np.ones(len(times), dtype=bool)
        self.label_delay_used = delay
        return times <= newest - delay

    def _scale(self, matrix: Floats) -> None:
        filled = self._encoder().filled(matrix)
        self.mean = filled.mean(axis=0) if len(filled) else np.zeros(filled.shape[1])
        spread = filled.std(axis=0) if len(filled) else np.ones(filled.shape[1])
        self.spread = np.where(spread > 1e-12, spread, 1.0)

    def _learn(self, matrix: Floats, target: Floats, times: Floats, *, trees: bool) -> None:
        line = matrix.shape[1] <= LINE_COLUMNS
        folds = _folds(target, times)
        seen = np.zeros(len(target), dtype=bool)
        staged = np.full((len(ROUNDS), len(target)), np.nan)
        lines = np.full(len(target), np.nan)
        for train, test in folds:
            seen[test] = True
            if trees:
                booster = _boost(matrix[train], target[train], self.seed)
                for place, rounds in enumerate(ROUNDS):
                    staged[place, test] = _predict(booster, matrix[test], rounds)
            if line:
                beta = _line(self._design(matrix[train]), target[train])
                lines[test] = _by_line(self._design(matrix[test]), beta)
        truth = target[seen]
        rounds, self.share, raw = _choose(staged[:, seen], lines[seen], truth, trees, line)
        self.platt = calibrate.platt(raw, truth)
        chance = self.platt.apply(raw)
        self.report |= {
            "later_rows": len(truth),
            "later_positives": int(truth.sum()),
            "rounds": rounds if self.share else 0,
            "share_of_trees": self.share,
            "log_loss": log_loss(truth, chance),
            "brier": brier(truth, chance),
            "brier_of_rate": brier(truth, np.full(len(truth), truth.mean())),
        }
        if self.share:
            booster = _boost(matrix, target, self.seed, rounds)
            self._trees_text = booster.model_to_string()
        if self.share < 1:
            self.beta = _line(self._design(matrix), target)
        self._open()

    def _open(self) -> None:
        import lightgbm

        if self._trees_text:
            self._trees = lightgbm.Booster(model_str=self._trees_text)
        if self._forest_text:
            self._forest = lightgbm.Booster(model_str=self._forest_text)

    def _encoder(self) -> Encoder:
        if self.encoder is None:
            raise FraudNotFitted
        return self.encoder

    def _matrix(self, X: Any) -> Floats:
        encoder = self._encoder()
        return encoder.matrix(columns.read(columns.known(X), encoder.columns))

    def _design(self, matrix: Floats) -> Floats:
        filled = self._encoder().filled(matrix)
        found: Floats = np.clip((filled - self.mean) / self.spread, -CLIP, CLIP)
        return found

    def _raw(self, matrix: Floats) -> Floats:
        found = np.zeros(len(matrix))
        if self.share and len(matrix):
            found += self.share * _predict(self._trees, matrix)
        if self.share < 1:
            found += (1 - self.share) * _by_line(self._design(matrix), self.beta)
        return found

    def _depths(self, matrix: Floats) -> Floats:
        if not len(matrix):
            return np.empty(0)
        filled = self._encoder().filled(matrix)
        return np.asarray(self._forest.predict(filled, num_threads=1), dtype=np.float64)


class RowReader:
    """Scores one row of floats at a time, without tables: for the online path."""

    def __init__(self, model: FraudModel, names: Sequence[str]) -> None:
        encoder = model._encoder()
        place = {name: number for number, name in enumerate(names)}
        for column in encoder.columns:
            if column.name not in place or column.kind not in ("number", "flag"):
                raise BadFrame(f"The model knows a column {column.name}.", column=column.name)
        self._take = [place[encoder.columns[source].name] for source in encoder.source]
        self._gaps = [
            number
            for number, source in enumerate(encoder.source)
            if encoder.names[number] != encoder.columns[source].name
        ]
        width = len(self._take)
        self._middle: list[float] = encoder.middle.tolist()
        self._knots = list(model.knots)
        self._forest = single.scorer(model._forest, width) if model._forest is not None else None
        self._rate = model.rate if model.basis == "insufficient" else None
        self._share, self._platt = model.share, model.platt
        self._trees = single.scorer(model._trees, width) if model.share else None
        self._mean, self._spread = model.mean, model.spread
        self._slope = model.beta[1:]
        self._level = float(model.beta[0]) if len(model.beta) else 0.0

    def __call__(self, figures: Sequence[float]) -> tuple[float, float]:
        """The probability of fraud, and the share of usual rows that are at least as odd."""
        values = [figures[place] for place in self._take]
        for gap in self._gaps:
            values[gap] = 1.0 if values[gap] != values[gap] else 0.0
        known = [
            middle if value != value else value  # noqa: PLR0124
            for value, middle in zip(values, self._middle, strict=True)
        ]
        filled = array("d", known)
        novelty = 1.0 if self._forest is None else self._tail(self._forest(filled))
        if self._rate is not None:
            return self._rate, novelty
        raw = 0.0
        if self._trees is not None:
            raw += self._share * self._trees(array("d", values))
        if self._share < 1:
            raw += (1 - self._share) * self._line(filled)
        platt = self._platt
        logit = max(-35.0, min(35.0, platt.slope * raw + platt.offset))
        return 1.0 / (1.0 + exp(-logit)), novelty

    def _line(self, filled: "array[float]") -> float:
        scaled = np.frombuffer(filled, dtype=np.float64) - self._mean
        scaled /= self._spread
        np.minimum(scaled, CLIP, out=scaled)
        np.maximum(scaled, -CLIP, out=scaled)
        return float(scaled.dot(self._slope)) + self._level

    def _tail(self, depth: float) -> float:
        """As `forest.tail`, for one row."""
        knots, tails = self._knots, forest.TAILS
        place = bisect_right(knots, depth) - 1
        if place < 0:
            return tails[0] / 2
        if place >= len(knots) - 1:
            return tails[-1]
        rise = (tails[place + 1] - tails[place]) / (knots[place + 1] - knots[place])
        return tails[place] + rise * (depth - knots[place])


def _target(y: Any, rows: int) -> Floats:
    """The labels as 0.0 and 1.0."""
    if isinstance(y, pd.DataFrame) and y.shape[1] == 1:
        y = y.iloc[:, 0]
    values = pd.Series(y).reset_index(drop=True) if np.ndim(y) == 1 else None
    if values is None or len(values) != rows:
        raise BadFraudLabels(f"y must have one label for each of the {rows} rows.", rows=rows)
    numbers = pd.to_numeric(values, errors="coerce")
    found: Floats = numbers.to_numpy(np.float64, na_value=np.nan)
    bad = np.flatnonzero((found != 0) & (found != 1))
    if len(bad):
        row = int(bad[0])
        raise BadFraudLabels(
            f"y holds {values[row]!r} in row {row}. Give 1 for fraud and 0 for the rest.", row=row
        )
    return found


def _times(ts: Any, rows: int) -> Floats:
    """Moments in seconds; numbers are taken as seconds, nothing as the order of the rows."""
    if ts is None:
        return np.zeros(rows)
    values = pd.Series(ts).reset_index(drop=True) if np.ndim(ts) == 1 else None
    if values is None or len(values) != rows:
        raise BadFrame(f"ts must have one moment for each of the {rows} rows.", param="ts")
    if pd.api.types.is_numeric_dtype(values.dtype):
        found: Floats = values.to_numpy(np.float64, na_value=np.nan)
    else:
        frame = pd.DataFrame({"ts": values})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that text of no known form is read one by one
            frames.times(frame, "ts", name="X")
        found = frame["ts"].astype("int64").to_numpy() / 1e6
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found))[0])
        raise BadFrame(f"ts is missing in row {row}.", param="ts", rows=[row])
    return found


def _folds(target: Floats, times: Floats) -> list[tuple[Any, Any]]:
    """Later rows to be told from earlier ones; drawn folds where time cannot part the positives."""
    rows = len(target)
    # Rows are in order of time; a moment is never parted.
    cuts = (0.75,) if rows >= ONE_FOLD_ROWS else (0.5, 0.75)
    edges = [int(np.searchsorted(times, times[int(rows * cut)], side="left")) for cut in cuts]
    edges.append(rows)
    found = []
    for start, end in pairwise(edges):
        early = target[:start]
        rarer = min(early.sum(), len(early) - early.sum())
        if rarer >= LEAST_POSITIVES and end > start:
            found.append((np.arange(start), np.arange(start, end)))
    held = np.concatenate([test for _, test in found]) if found else np.empty(0, dtype=int)
    positives = target[held].sum() if len(held) else 0
    if positives >= max(3, target.sum() / 8) and len(held) - positives >= 3:
        return found
    # Every k-th positive and every k-th other row.
    count = int(max(2, min(5, target.sum(), rows - target.sum())))
    number = np.zeros(rows, dtype=int)
    for kind in (0.0, 1.0):
        at = np.flatnonzero(target == kind)
        number[at] = np.arange(len(at)) % count
    return [(np.flatnonzero(number != k), np.flatnonzero(number == k)) for k in range(count)]


def _choose(
    staged: Floats, lines: Floats, truth: Floats, trees: bool, line: bool
) -> tuple[int, float, Floats]:
    """Rounds and share of the trees by the log-loss on rows not seen, and those rows' scores."""
    if not trees:
        return 0, 0.0, lines
    best: tuple[float, int, float, Floats] | None = None
    for place, rounds in enumerate(ROUNDS):
        for share in MIXES if line else (1.0,):
            raw = staged[place] if share == 1 else share * staged[place] + (1 - share) * lines
            loss = log_loss(truth, calibrate.platt(raw, truth).apply(raw))
            if best is None or loss < best[0] - 1e-12:
                best = (loss, rounds, share, raw)
    assert best is not None
    return best[1:]


def _boost(matrix: Floats, target: Floats, seed: int, rounds: int = ROUNDS[-1]) -> Any:
    import lightgbm

    rows = len(target)
    # Rare positives among many rows need holding back; few rows are held back by fewer leaves.
    params = {
        "objective": "binary", "learning_rate": 0.04, "num_leaves": 15,
        "min_data_in_leaf": int(np.clip(rows // 200, 5, 100)), "min_sum_hessian_in_leaf": 0.1,
        "lambda_l2": float(np.clip(target.sum() / 35, 1, 10)),
        "feature_fraction": 0.8, "bagging_fraction": 0.8, "bagging_freq": 1,
        "seed": seed, "deterministic": True, "force_row_wise": True,
        "num_threads": THREADS if rows >= THREAD_ROWS else 1, "verbosity": -1,
    }  # fmt: skip
    data = lightgbm.Dataset(matrix, target, params=params, free_raw_data=True)
    return lightgbm.train(params, data, num_boost_round=rounds)


def _predict(booster: Any, matrix: Floats, rounds: int | None = None) -> Floats:
    threads = THREADS if len(matrix) >= THREAD_ROWS else 1
    found = booster.predict(matrix, raw_score=True, num_threads=threads, num_iteration=rounds)
    return np.asarray(found, dtype=np.float64)


def _line(design: Floats, target: Floats) -> Floats:
    return newton(design, target, 10.0)


def _by_line(design: Floats, beta: Floats) -> Floats:
    """Row by row, so that a row's last bit does not hang on how many come with it."""
    found: Floats = (design * beta[1:]).sum(axis=1) + beta[0]
    return found
