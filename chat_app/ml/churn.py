"""Who is about to leave: a calibrated probability, how sure it is, and why in plain words.

The candidates (rule, ridge logistic, random forest, small LightGBM, and their blends) are judged on
rows that they have not seen, newer ones when times are given; the best by log-loss is fitted
again to everything and calibrated by its unseen scores. The backtest stays beside it.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from chat_app.errors import Invalid
from chat_app.ml import cadence, calibrate, columns, explain, keeping, learners
from chat_app.ml.columns import Table
from chat_app.ml.learners import Blend, Boosted, Forest, Logistic, Rule
from chat_app.ml.scores import Floats, auc, brier, ece, log_loss, logit, sigmoid
from chat_app.revenue import frames
from chat_app.revenue.frames import BadFrame

ALGORITHMS = ("auto", "rule", "logistic", "random_forest", "lightgbm", "blend")
LEAST_ROWS, LEAST_CLASS = 20, 3
SMALL_ROWS, SMALL_CLASS = 100, 30  # below, a contest would pick by luck: ridge logistic it is
DEEP_ROWS = 1500
MOST_CONTEST_ROWS = 20_000
FEW_ROWS = 250  # below, folds are drawn twice
BAGS, BAG_ROWS = 20, 4000
HIGH_WIDTH, MEDIUM_WIDTH = 0.10, 0.25
MIXES: tuple[tuple[float, float, float], ...] = (  # logistic, lightgbm, random forest
    (0.5, 0.5, 0.0), (0.25, 0.75, 0.0), (0.5, 0.0, 0.5), (0.0, 0.6, 0.4), (0.4, 0.4, 0.2),
)  # fmt: skip
YES = {"1", "yes", "y", "true", "t", "churn", "churned", "left", "lost", "attrited", "cancelled"}
NO = {"0", "no", "n", "false", "f", "stayed", "retained", "active", "kept", "existing", "current"}

Fit = Callable[[Table, Floats], Any]
Split = tuple[Any, Any]


class BadLabels(Invalid):
    """The target of a churn model is no yes or no, is missing, or has another length."""

    code = "bad_labels"
    message = "The target cannot be read. Give 1 or 0 for each row and call again."


class UnknownChurnAlgorithm(Invalid):
    """A churn model was asked for by a name that there is not; `known` lists them."""

    code = "unknown_churn_algorithm"
    message = "There is no such churn model. Choose one of those listed."


class ChurnNotFitted(Invalid):
    """A churn model was asked for predictions before it had seen any rows."""

    code = "churn_not_fitted"
    message = "The churn model has learnt nothing yet. Call fit or fit_events first."


class ChurnModel:
    """Churn from a table of customers (`fit`) or from their visits (`fit_events`).

    `basis` is `insufficient` (fewer than 20 rows or 3 of a class: everyone gets the shrunken
    rate), `small` (ridge logistic without a contest) or `model`. `champion` names what predicts,
    `backtest` holds every candidate's scores on unseen rows, `dropped` the columns that say
    nothing and why. Same seed and rows, in any order: the same predictions to the last bit.
    """

    def __init__(self, algorithm: str = "auto", seed: int = 0) -> None:
        algorithm = "rule" if algorithm == "naive" else algorithm
        if algorithm not in ALGORITHMS:
            raise UnknownChurnAlgorithm(
                f"There is no churn model {algorithm!r}. Choose one of {', '.join(ALGORITHMS)}.",
                known=list(ALGORITHMS),
            )
        self.algorithm, self.seed = algorithm, seed
        self._clear()

    def _clear(self) -> None:
        self.basis = ""
        self.champion = ""
        self.rows = self.positives = 0
        self.rate = 0.5
        self.dropped: dict[str, str] = {}
        self.backtest = pd.DataFrame()
        self.horizon_days: float | None = None
        self.as_of: pd.Timestamp | None = None
        self._columns: tuple[columns.Column, ...] = ()
        self._learner: Any = None
        self._calibrator: calibrate.Calibrator = calibrate.Platt(1.0, 0.0)
        self._facts = explain.Facts(0.5)
        self._witness: Logistic | None = None
        self._bags = np.empty((0, 0))
        self._bag_scale = 1.0
        self._range: dict[str, list[float]] = {}
        self._events: cadence.Events | None = None
        self._named = Naming()

    # Learning

    def fit(self, X: Any, y: Any, time: Any = None) -> "ChurnModel":
        """Learn from a table and who left (1, true, "yes") or stayed (0, false, "no").

        X may hold numbers, times, truth values, text and missing values; infinite numbers count
        as missing, columns with one value or that only name rows are dropped. `time`, a column's
        name or one moment for each row, makes the contest one of newer rows by older ones. Rows
        and labels are matched by place. Raises BadFrame and BadLabels.
        """
        frame = columns.known(X)
        target = labels(y, len(frame))
        moments = None
        if time is not None:
            if isinstance(time, str):
                if time not in frame.columns:
                    raise BadFrame(f"X lacks the column {time}.", param="X", column=time)
                moments = _moments(frame.pop(time), len(frame))
            else:
                moments = _moments(time, len(frame))
        self._clear()
        used, self.dropped = columns.learn(frame)
        table = columns.read(frame, used)
        keys = [target] if moments is None else [moments, target]
        order = learners.order(table, *keys)
        table, target = table.take(order), target[order]
        if moments is not None:
            moments = moments[order]
        self._learn(table, target, lambda some: _splits(target, moments, some, self.seed))
        return self

    def fit_events(self, events: Any, horizon_days: float, as_of: Any) -> "ChurnModel":
        """Learn from `user_id, ts` who will have no event in the `horizon_days` after a moment.

        Several origins up to `as_of` − horizon are learnt from, each with what was known then;
        the newest judge. Events after `as_of` are kept for later predictions and change nothing
        here. Raises BadFrame.
        """
        if not (isinstance(horizon_days, int | float) and 0 < horizon_days < 1e5):
            raise BadFrame("horizon_days must be above 0.", param="horizon_days")
        end = frames.moment(as_of)
        every = cadence.read(events)
        self._clear()
        self.horizon_days, self.as_of, self._events = float(horizon_days), end, every
        self._named = Naming.of(events["user_id"])
        past = every.until(cadence.micros(end))
        parts, targets, where, people = [], [], [], []
        for origin in cadence.origins(past, horizon_days, cadence.micros(end)):
            users, frame = cadence.features(past, origin, horizon_days)
            parts.append(frame)
            targets.append(~cadence.came(past, users, origin, horizon_days))
            where.append(np.full(len(users), origin))
            people.append(users)
        if not parts:
            return self._insufficient(np.empty(0))
        frame = columns.known(pd.concat(parts, ignore_index=True))
        target = np.concatenate(targets).astype(np.float64)
        at, who = np.concatenate(where), np.concatenate(people)
        used = tuple(
            columns.Column(name, "number")
            for name in frame.columns
            if name not in cadence.GROWING and frame[name].nunique(dropna=False) > 1
        )
        table = columns.read(frame, used)
        horizon = int(horizon_days * cadence.DAY)
        self._learn(
            table, target,
            lambda some: _origin_splits(
                target, at, who, some, horizon=horizon, seed=self.seed
            ),
            phrases=cadence.phrases(horizon_days), column="late", people=len(np.unique(who)),
        )  # fmt: skip
        return self

    def _insufficient(self, target: Floats) -> "ChurnModel":
        self.basis, self.champion = "insufficient", "rate"
        self.rows, self.positives = len(target), int(target.sum())
        self.rate = (self.positives + 0.5) / (self.rows + 1)
        return self

    def _learn(
        self,
        table: Table,
        target: Floats,
        split: Callable[[Any], Iterable[Split]],
        *,
        phrases: Mapping[str, str] | None = None,
        column: str | None = None,
        people: int | None = None,
    ) -> None:
        self._insufficient(target)
        rarer = min(self.positives, self.rows - self.positives)
        subjects = self.rows if people is None else people
        if subjects < LEAST_ROWS or rarer < LEAST_CLASS or not table.columns:
            return
        self._columns = table.columns
        self.basis = "small" if subjects < SMALL_ROWS or rarer < SMALL_CLASS else "model"
        some = np.arange(table.rows)
        if table.rows > MOST_CONTEST_ROWS:
            rng = np.random.default_rng(self.seed)
            some = np.sort(rng.permutation(table.rows)[:MOST_CONTEST_ROWS])
        pool = self._pool(table, column)
        unseen = _unseen(table, target, pool, list(split(some)))
        self.champion, recipe, score = self._choose(pool, unseen, target)
        judged = ~np.isnan(score)
        self._calibrator = calibrate.fit(score[judged], target[judged])
        self._learner = _cook(recipe, pool, table, target)
        self._facts = explain.Facts.fit(table, target, phrases)
        self._range = {
            one.name: [float(np.nanmin(values)), float(np.nanmax(values))]
            for one in table.columns
            if one.kind != "text"
            for values in [table.values[one.name]]
            if not np.isnan(values).all()
        }
        self._bag(table, target)

    def _pool(self, table: Table, column: str | None) -> dict[str, Fit]:
        """The candidates by name, the simplest first; which there are hangs on the rows."""
        seed = self.seed
        width = max(2, len(columns_of(table)))
        pool: dict[str, Fit] = {"rule": partial(Rule.fit, column=column)}
        shares: tuple[float, ...] = (0.5,)
        if self.basis != "small":
            shares = (0.5, 0.125) if table.rows < 1000 else (0.5, 0.125, 0.03)
        for share in shares:
            pool[f"logistic:{share}"] = partial(Logistic.fit, penalty=share * width)
        wanted = self.algorithm
        if self.basis == "small" and wanted in {"auto", "blend", "logistic"}:
            return pool
        small = learners.SMALL | ({"leaves": 4} if table.rows < 1000 else {})
        if wanted in {"auto", "blend", "lightgbm"}:
            pool["lightgbm:small"] = partial(Boosted.fit, seed=seed, **small)  # type: ignore[arg-type]
            if table.rows >= DEEP_ROWS:
                pool["lightgbm:deep"] = partial(Boosted.fit, seed=seed, **learners.DEEP)  # type: ignore[arg-type]
        if wanted in {"auto", "blend", "random_forest"}:
            pool["random_forest"] = partial(Forest.fit, seed=seed)
        return pool

    def _choose(
        self, pool: Mapping[str, Fit], unseen: Mapping[str, Floats], target: Floats
    ) -> tuple[str, list[tuple[float, str]], Floats]:
        """The candidate with the least log-loss on unseen rows, after a Platt line of its own."""
        best: dict[str, tuple[float, list[tuple[float, str]], Floats]] = {}

        def enter(name: str, recipe: list[tuple[float, str]]) -> None:
            score = np.zeros(len(target))
            for weight, part in recipe:
                score = score + weight * unseen[part]
            judged = ~np.isnan(score)
            line = calibrate.platt(score[judged], target[judged])
            loss = log_loss(target[judged], line.apply(score[judged])) if judged.any() else 0.0
            if name not in best or loss < best[name][0]:
                best[name] = (loss, recipe, score)

        for part in pool:
            enter(part.split(":")[0], [(1.0, part)])
        if self.basis == "model" and self.algorithm in {"auto", "blend"}:
            family = [best[name][1][0][1] for name in ("logistic", "lightgbm", "random_forest")]
            for mix in MIXES:
                enter("blend", [(w, part) for w, part in zip(mix, family, strict=True) if w])
        self.backtest = pd.DataFrame(
            [_row(name, score, target) for name, (_, _, score) in best.items()]
        )
        fixed = self.algorithm if self.algorithm in best else ""
        if fixed:
            champion = fixed
        elif self.basis == "small":
            champion = "logistic"
        else:
            champion = min(best, key=lambda name: best[name][0])
        self.backtest["chosen"] = self.backtest["candidate"] == champion
        return champion, best[champion][1], best[champion][2]

    def _bag(self, table: Table, target: Floats) -> None:
        """Twenty ridge logistic fits to rows drawn with repeats: how far the data could mislead."""
        rng = np.random.default_rng(self.seed + 1)
        rows = np.arange(table.rows)
        if table.rows > BAG_ROWS:
            rows = np.sort(rng.permutation(table.rows)[:BAG_ROWS])
        some, truth = table.take(rows), target[rows]
        penalty = 0.25 * max(2, len(columns_of(table)))
        self._witness = Logistic.fit(some, truth, penalty=penalty)
        design = self._witness.design(some)
        fits = []
        for _ in range(BAGS):
            counts = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows))).astype(float)
            fits.append(
                learners.newton(design, truth, penalty, weights=counts, start=self._witness.beta)
            )
        self._bags = np.array(fits)
        self._bag_scale = float(np.sqrt(len(rows) / table.rows))

    # Predicting

    def predict(self, X: Any, *, reasons: bool = True) -> pd.DataFrame:
        """`probability, confidence, risk_factors, protective_factors, basis` for each row of X.

        `confidence` is high, medium or low; the factors are lists of sentences, the strongest
        first (empty without `reasons`, which is faster). Columns that were not learnt from are
        ignored. Raises BadFrame and ChurnNotFitted.
        """
        frame = columns.known(X)
        if not self.basis:
            raise ChurnNotFitted
        index = X.index if isinstance(X, pd.DataFrame) else None
        if self.basis == "insufficient":
            return _answer(np.full(len(frame), self.rate), "low", None, self.basis, index)
        table = columns.read(frame, self._columns)
        return self._predict(table, index, reasons)

    def predict_events(
        self, as_of: Any, events: Any = None, *, reasons: bool = True
    ) -> pd.DataFrame:
        """`user_id` and the columns of `predict` for everyone with an event up to `as_of`.

        The events are those of `fit_events`, or `events` when given. In order of user.
        """
        if not self.basis or self.horizon_days is None:
            raise ChurnNotFitted
        end = cadence.micros(frames.moment(as_of))
        named = self._named if events is None else Naming.of(events["user_id"])
        known = self._events if events is None else cadence.read(events)
        if known is None:
            raise ChurnNotFitted("The events are not kept with a stored model. Give them as well.")
        users, frame = cadence.features(known, end, self.horizon_days)
        if self.basis == "insufficient":
            chance = cadence.guess(frame, self.horizon_days) if len(frame) else np.empty(0)
            found = _answer(chance, "low", None, self.basis, None)
        else:
            found = self._predict(columns.read(frame, self._columns), None, reasons)
        found.insert(0, "user_id", named.column([known.users[code] for code in users]))
        return found

    def _predict(self, table: Table, index: Any, reasons: bool) -> pd.DataFrame:
        raw = self._learner.raw(table)
        chance = self._calibrator.apply(raw)
        sure = self._confidence(table, logit(chance))
        factors = None
        if reasons and table.rows:
            steepness = logit(self._calibrator.apply(raw + 0.25))
            steepness = (steepness - logit(self._calibrator.apply(raw - 0.25))) / 0.5
            parts = self._learner.contributions(table) * steepness[:, None]
            factors = explain.reasons(self._facts, table, logit(chance), parts)
        return _answer(chance, sure, factors, self.basis, index)

    def _confidence(self, table: Table, logits: Floats) -> Any:
        """From the width in which 80 % of refits and other methods would put the probability."""
        assert self._witness is not None
        design = self._witness.design(table)
        scores = np.array([Logistic.score(design, beta) for beta in self._bags])
        spread = scores.std(axis=0) * self._bag_scale
        apart = logits - Logistic.score(design, self._witness.beta)
        half = 1.28 * np.sqrt(spread**2 + (0.25 * apart) ** 2)
        width = sigmoid(logits + half) - sigmoid(logits - half)
        rarer = min(self.positives, self.rows - self.positives)
        level = np.where(width <= HIGH_WIDTH, 2, np.where(width <= MEDIUM_WIDTH, 1, 0))
        if self.basis == "small" or rarer < SMALL_CLASS:
            level = np.zeros_like(level)
        elif rarer < 100:
            level = np.minimum(level, 1)
        level = np.maximum(0, level - self._strange(table))
        return np.array(["low", "medium", "high"], dtype=object)[level]

    def _strange(self, table: Table) -> Any:
        """1 where a number is beyond all that was learnt from, or half of the row is missing."""
        beyond = np.zeros(table.rows, dtype=bool)
        missing = np.zeros(table.rows)
        for column in table.columns:
            values = table.values[column.name]
            if column.kind == "text":
                missing += values == columns.MISSING
                continue
            missing += np.isnan(values)
            low, high = self._range.get(column.name, [-np.inf, np.inf])
            reach = 0.1 * (high - low)
            beyond |= (values < low - reach) | (values > high + reach)
        return (beyond | (missing > 0.5 * len(table.columns))).astype(int)

    # Keeping

    def to_params(self) -> dict[str, Any]:
        """The fitted model as plain JSON data; the events of people are not in it."""
        if not self.basis:
            raise ChurnNotFitted
        return {
            "kind": "churn", "format": 1, "algorithm": self.algorithm, "seed": self.seed,
            "basis": self.basis, "champion": self.champion, "rows": self.rows,
            "positives": self.positives, "rate": self.rate, "dropped": self.dropped,
            "horizon_days": self.horizon_days,
            "as_of": None if self.as_of is None else self.as_of.isoformat(),
            "backtest": self.backtest.to_dict("records"),
            "columns": [[column.name, column.kind] for column in self._columns],
            "learner": None if self._learner is None else self._learner.to_params(),
            "calibrator": self._calibrator.to_params(),
            "facts": self._facts.to_params(),
            "witness": None if self._witness is None else self._witness.to_params(),
            "bags": self._bags.tolist(), "bag_scale": self._bag_scale, "range": self._range,
        }  # fmt: skip

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "ChurnModel":
        """What `to_params` wrote; predicts the same to the last bit."""
        made = cls(params["algorithm"], params["seed"])
        made.basis, made.champion = params["basis"], params["champion"]
        made.rows, made.positives, made.rate = params["rows"], params["positives"], params["rate"]
        made.dropped = dict(params["dropped"])
        made.horizon_days = params["horizon_days"]
        made.as_of = None if params["as_of"] is None else pd.Timestamp(params["as_of"])
        made.backtest = pd.DataFrame(params["backtest"])
        made._columns = tuple(columns.Column(name, kind) for name, kind in params["columns"])
        if params["learner"] is not None:
            made._learner = learners.from_params(params["learner"])
            made._witness = Logistic.from_params(params["witness"])
        made._calibrator = calibrate.from_params(params["calibrator"])
        made._facts = explain.Facts.from_params(params["facts"])
        made._bags = np.array(params["bags"])
        made._bag_scale = params["bag_scale"]
        made._range = {name: list(ends) for name, ends in params["range"].items()}
        return made

    def to_files(self) -> dict[str, bytes]:
        """The model for the registry, with the events it knows unless it was told to `forget`."""
        rows = None
        if self._events is not None:
            users = self._named.column(self._events.users)
            named = keeping.keys(users)
            if named is not None:
                events = {"code": self._events.code.tolist(), "at": self._events.at.tolist()}
                rows = {"users": named, **events}
        return keeping.pack(self.to_params(), rows)

    @classmethod
    def from_files(cls, files: keeping.Files) -> "ChurnModel":
        """The model that `to_files` wrote; where events were kept, none need be given."""
        made = cls.from_params(keeping.unpack(files))
        rows = keeping.rows(files)
        if rows is not None:
            users = pd.Series(rows["users"]["values"], dtype=rows["users"]["kind"])
            made._named = Naming.of(users)
            made._events = cadence.Events(
                users.tolist(),
                np.array(rows["code"], dtype=np.int64),
                np.array(rows["at"], dtype=np.int64),
            )
        return made

    def forget(self) -> "ChurnModel":
        """Drop people's events; from then on `predict_events` wants them."""
        self._events = None
        return self


class Naming:
    """Gives user ids back in the kind in which they came in."""

    def __init__(self, kind: Any = None) -> None:
        self.kind = kind

    @classmethod
    def of(cls, values: "pd.Series[Any]") -> "Naming":
        return cls(None if isinstance(values.dtype, pd.CategoricalDtype) else values.dtype)

    def column(self, users: list[Any]) -> "pd.Series[Any]":
        """The users as a column."""
        return pd.Series(users, dtype=self.kind)


def labels(y: Any, rows: int) -> Floats:
    """The target as 0.0 and 1.0; raises BadLabels for what is neither, or too few."""
    if isinstance(y, pd.DataFrame) and y.shape[1] == 1:
        y = y.iloc[:, 0]
    try:
        values = pd.Series(np.asarray(y, dtype=object).reshape(-1))
    except (TypeError, ValueError) as error:
        raise BadLabels from error
    if len(values) != rows:
        raise BadLabels(
            f"y has {len(values)} labels for {rows} rows. Give one for each row.", rows=rows
        )
    missing = values.isna().to_numpy()
    if missing.any():
        place = int(np.flatnonzero(missing)[0])
        raise BadLabels(f"y is missing in row {place}. Leave such rows out.", row=place)
    found = np.full(len(values), np.nan)
    for place, value in enumerate(values):
        if isinstance(value, str):
            word = value.strip().lower().split(" ")[0].rstrip(".")
            found[place] = 1.0 if word in YES else 0.0 if word in NO else np.nan
        else:
            found[place] = float(value) if value in (0, 1) else np.nan
    if np.isnan(found).any():
        place = int(np.flatnonzero(np.isnan(found))[0])
        raise BadLabels(
            f"y holds {values[place]!r} in row {place}. Give 1 for who left and 0 for who stayed.",
            row=place,
        )
    return found


def columns_of(table: Table) -> list[str]:
    """The columns of the matrix that the table becomes."""
    return columns.Encoder.fit(table).names


def _moments(time: Any, rows: int) -> Any:
    values = pd.Series(np.asarray(time, dtype=object).reshape(-1)) if np.ndim(time) else None
    if values is None or len(values) != rows:
        raise BadFrame(f"time must have one moment for each of the {rows} rows.", param="time")
    if all(isinstance(value, int | float | np.number) for value in values):
        found = values.astype("float64")
        if not np.isfinite(found).all():
            raise BadFrame("time is missing in some rows.", param="time")
        return found.to_numpy()
    frame = pd.DataFrame({"time": values})
    frames.times(frame, "time", name="X")
    return frame["time"].astype("int64").to_numpy()


def _splits(target: Floats, moments: Any, some: Any, seed: int) -> list[Split]:
    """Folds: by time when there are moments that can be told apart, else drawn and stratified."""
    if moments is not None:
        found = _later(target, moments, some)
        if found:
            return found
    rng = np.random.default_rng(seed)
    truth = target[some]
    rarer = int(min(truth.sum(), len(truth) - truth.sum()))
    folds = max(2, min(5 if len(some) < 2000 else 3, rarer))
    splits = []
    for _ in range(2 if len(some) < FEW_ROWS else 1):
        place = np.zeros(len(some), dtype=int)
        for value in (0.0, 1.0):
            rows = np.flatnonzero(truth == value)
            place[rng.permutation(rows)] = np.arange(len(rows)) % folds
        splits += [(some[place != k], some[place == k]) for k in range(folds)]
    return splits


def _later(target: Floats, moments: Any, some: Any) -> list[Split]:
    """Three newer blocks, each judged by what was learnt from all that is older."""
    at = moments[some]
    cuts = np.unique(np.quantile(at, (0.4, 0.6, 0.8, 1.0), method="lower"))
    splits = []
    for begin, end in pairwise(cuts):
        train, test = some[at <= begin], some[(at > begin) & (at <= end)]
        if _learnable(target[train]) and len(test):
            splits.append((train, test))
    if not splits or not _learnable(target[np.concatenate([test for _, test in splits])]):
        return []
    return splits


def _origin_splits(
    target: Floats, at: Any, who: Any, some: Any, *, horizon: int, seed: int
) -> list[Split]:
    """The newest three origins, judged by origins whose horizon was over; else folds of users."""
    splits = []
    when = at[some]
    for origin in np.unique(when)[::-1][:3]:
        train, test = some[when + horizon <= origin], some[when == origin]
        if _learnable(target[train]):
            splits.append((train, test))
    if splits and _learnable(target[np.concatenate([test for _, test in splits])]):
        return splits
    people = np.unique(who[some])
    fold = np.random.default_rng(seed).permutation(len(people)) % 5
    place = fold[np.searchsorted(people, who[some])]
    found = [(some[place != k], some[place == k]) for k in range(5)]
    return [(train, test) for train, test in found if _learnable(target[train]) and len(test)]


def _learnable(truth: Floats) -> bool:
    return len(truth) >= LEAST_ROWS and min(truth.sum(), len(truth) - truth.sum()) >= LEAST_CLASS


def _unseen(
    table: Table, target: Floats, pool: Mapping[str, Fit], splits: list[Split]
) -> dict[str, Floats]:
    """Each candidate's mean score for rows it did not learn from; NaN for rows never judged."""
    found = {}
    parts = [
        (table.take(train), target[train], table.take(test), test)
        for train, test in splits
        if 0 < target[train].sum() < len(train)
    ]
    for name, fit in pool.items():
        total, times = np.zeros(table.rows), np.zeros(table.rows)
        for train, truth, test, rows in parts:
            total[rows] += fit(train, truth).raw(test)
            times[rows] += 1
        found[name] = np.where(times > 0, total / np.maximum(times, 1), np.nan)
    return found


def _cook(
    recipe: list[tuple[float, str]], pool: Mapping[str, Fit], table: Table, target: Floats
) -> Any:
    parts = [(weight, pool[name](table, target)) for weight, name in recipe]
    return parts[0][1] if len(parts) == 1 else Blend(parts)


def _row(name: str, score: Floats, target: Floats) -> dict[str, Any]:
    judged = ~np.isnan(score)
    truth = target[judged]
    if not judged.any():
        nothing = dict.fromkeys(("auc", "log_loss", "brier", "ece"), float("nan"))
        return {"candidate": name, **nothing, "rows": 0, "positives": 0}
    chance = calibrate.platt(score[judged], truth).apply(score[judged])
    return {
        "candidate": name,
        "auc": auc(truth, score[judged]),
        "log_loss": log_loss(truth, chance),
        "brier": brier(truth, chance),
        "ece": ece(truth, chance),
        "rows": int(judged.sum()),
        "positives": int(truth.sum()),
    }


def _answer(chance: Floats, confidence: Any, factors: Any, basis: str, index: Any) -> pd.DataFrame:
    rows = len(chance)
    risk, protective = factors or ([[] for _ in range(rows)], [[] for _ in range(rows)])
    found = pd.DataFrame({"probability": np.asarray(chance, dtype=np.float64)}, index=index)
    found["confidence"] = confidence
    found["risk_factors"] = pd.Series(risk, index=found.index, dtype=object)
    found["protective_factors"] = pd.Series(protective, index=found.index, dtype=object)
    found["basis"] = basis
    return found
