"""Lifetime value: what each customer will buy and bring within a horizon, with an 80 % band.

Candidates are judged as they would be used: at several past moments each learns from what was
known then, and what came true decides. `naive` repeats the last period, `bgnbd` is BG/NBD with
Gamma-Gamma and stays champion unless another is clearly better; `gbr` and `lightgbm` are trees.

`basis` says what a figure rests on. `insufficient`: fewer than 10 customers, or all of today; the
usual shape of other shops. `shrunken`: fewer than 100 customers or 30 who came back; own data
drawn toward that shape. Else the name of the algorithm.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from chat_app.errors import Invalid
from chat_app.ml import btyd, conformal, keeping, ltv_trees
from chat_app.ml.orders import DAY, WEEK_DAYS, Floats, Known, Orders
from chat_app.revenue import frames

COLUMNS = ["user_id", "expected_purchases", "p_active", "ltv", "lo80", "hi80", "basis"]
ALGORITHMS = ("naive", "bgnbd", "gbr", "lightgbm")
TREES = ("gbr", "lightgbm")
LEVEL = 0.8
NORMAL_80 = 1.2816

FEW_CUSTOMERS, SOME_CUSTOMERS, ENOUGH_CUSTOMERS, ENOUGH_REPEATERS = 10, 30, 100, 30
PRIOR_WEIGHTS = {"insufficient": 20.0, "few": 4.0, "some": 1.0, "enough": btyd.WEAK_PRIOR}
ROWS_TO_GROW, BUYERS_TO_GROW = 300, 50  # trees need so many customers, so many who bought
ROWS_AT_MOST = {"gbr": 3_000, "lightgbm": 40_000}
GROWING_ORIGINS, JUDGING_ORIGINS = 3, 3
STEP = 28 * DAY
BETTER_BY = 0.05  # the share by which a challenger must beat bgnbd
TOTALS_WITHIN = 1.25  # and its totals may be off by this factor, unless bgnbd's are further off
UNKNOWN = btyd.Spending(*btyd.USUAL_SPENDING, scale=float("nan"))  # a summary without amounts


@dataclass(frozen=True)
class Learnt:
    """What one algorithm learnt up to a moment, for one horizon (microseconds)."""

    algorithm: str
    horizon: int
    buying: btyd.Buying
    spending: btyd.Spending
    inner: int = 0  # the horizon that the trees learnt
    trees: tuple[dict[str, Any], dict[str, Any]] | None = None  # of orders, of money
    anchors: tuple[float, float] = (1.0, 1.0)


class LTVModel:
    """Learn from purchases up to `as_of`, predict the `horizon_days` after it.

    `tx` has `user_id, ts, amount`; an amount below zero is a refund. Purchases of one user on one
    day (UTC) are one order. LTV is net of refunds, in the unit of the amounts, and discounted by
    `discount_annual`. The same table in any order and the same seed give the same bytes.
    """

    def __init__(
        self,
        horizon_days: float,
        algorithm: str = "auto",
        *,
        seed: int = 0,
        discount_annual: float = 0.0,
    ) -> None:
        if algorithm not in ("auto", *ALGORITHMS):
            names = ", ".join(("auto", *ALGORITHMS))
            raise Invalid(f"There is no algorithm {algorithm!r}. Choose one of {names}.")
        if not 0 < horizon_days <= 36_500:
            raise Invalid("horizon_days must be above 0 and at most 36500. Correct it.")
        if not 0 <= discount_annual < 10:
            raise Invalid("discount_annual must be a rate of at least 0, such as 0.1. Correct it.")
        self.horizon_days = float(horizon_days)
        self.algorithm = algorithm
        self.seed = seed
        self.discount_annual = discount_annual
        self.basis: str | None = None
        self.champion: str | None = None
        self._learnt: Learnt | None = None
        self._bands: conformal.Bands | None = None
        self._orders: Orders | None = None
        self._summary: tuple[Any, Known] | None = None
        self._as_of = 0
        self._table: list[dict[str, Any]] = []
        self._fits: dict[int, tuple[btyd.Buying, btyd.Spending]] = {}

    # -- learning ---------------------------------------------------------------------------

    def fit(self, tx: pd.DataFrame, as_of: Any) -> "LTVModel":
        """Learn from the rows up to and with `as_of`. Raises BadFrame for a table that is none."""
        self._orders, self._as_of = Orders(tx), _micros(as_of)
        self._summary, self._bands, self._table, self._fits = None, None, [], {}
        known = self._orders.known(self._as_of)
        self.basis = _stage(known)
        self.champion = "bgnbd"
        seen = self._judge() if self.basis != "insufficient" else {}
        if self.basis == "enough":
            self.champion = self._choose()
        self._learnt = self._learn(self.champion, self._as_of, self._horizon)
        if self._learnt is None:  # too little for the trees that were asked for
            self.champion = "bgnbd"
            self._learnt = self._learn("bgnbd", self._as_of, self._horizon)
        pairs = seen.get(self.champion, [])
        if sum(len(predicted) for predicted, _ in pairs) >= ENOUGH_REPEATERS:
            predicted, actual = (np.concatenate(part) for part in zip(*pairs, strict=True))
            self._bands = conformal.bands(predicted, actual, level=LEVEL)
        self.basis = {"enough": self.champion, "insufficient": "insufficient"}.get(
            self.basis, "shrunken"
        )
        self._fits = {}
        return self

    def fit_summary(self, df: pd.DataFrame) -> "LTVModel":
        """BG/NBD alone, from `frequency` (repeats), `recency` and `T` in weeks, a row a customer.

        `predict` then speaks of these customers (a column `user_id`, else the index) without money.
        """
        frame = frames.checked(df, ("frequency", "recency", "T"), name="df")
        for column in ("frequency", "recency", "T"):
            frames.amounts(frame, column, name="df")
        late = frame["recency"] > frame["T"] + 1e-9
        frames.refuse(frame, late, "recency", "df", "is after the end of the customer's age")
        x, last, age = (frame[c].to_numpy("float64") for c in ("frequency", "recency", "T"))
        zero = np.zeros(len(x))
        known = Known(0, np.arange(len(x)), x, last, age, zero, zero, zero)
        stage = _stage(known)
        self.basis = {"enough": "bgnbd", "insufficient": "insufficient"}.get(stage, "shrunken")
        self.champion = "bgnbd"
        buying = btyd.fit_buying(x, last, age, prior=PRIOR_WEIGHTS[stage])
        self._learnt = Learnt("bgnbd", self._horizon, buying, UNKNOWN)
        users = df["user_id"] if "user_id" in df.columns else df.index
        self._as_of = 0
        self._summary, self._orders, self._bands, self._table = (users, known), None, None, []
        return self

    @property
    def parameters(self) -> dict[str, float]:
        """`r, alpha, a, b, log_likelihood` of the BG/NBD part; the unit of time is a week."""
        return self._fitted().buying.to_params()

    @property
    def backtest(self) -> pd.DataFrame:
        """How each candidate did at each past moment: `origin, algorithm, horizon_days, customers,
        mae_ltv, mae_purchases, total_ratio`; empty with too short a history."""
        names = ["origin", "algorithm", "horizon_days", "customers"]
        return pd.DataFrame(
            self._table, columns=[*names, "mae_ltv", "mae_purchases", "total_ratio"]
        )

    # -- predicting -------------------------------------------------------------------------

    def predict(self, as_of: Any = None, tx: pd.DataFrame | None = None) -> pd.DataFrame:
        """One row for each customer with a purchase up to `as_of`, by `user_id`.

        `expected_purchases` and `ltv` are means over the horizon after `as_of`, `p_active` is the
        probability of at least one purchase in it. `as_of` may be later than that of `fit`, not
        earlier: rows up to it are then known, but nothing is learnt from them. `tx` stands in for
        the table of `fit`, as after `from_params`.
        """
        learnt = self._fitted()
        if self._summary is not None and tx is None:
            users, known = self._summary
            return self._answer(learnt, known, np.asarray(users), None)
        orders = self._orders if tx is None else Orders(tx)
        if orders is None:
            raise Invalid("There are no purchases to look at. Give them as tx.")
        if as_of is None and self._as_of == 0:
            raise Invalid("A summary has no moment of its own. Give as_of.")
        at = self._as_of if as_of is None else _micros(as_of)
        if at < self._as_of:
            raise Invalid("as_of lies before that of fit, which knew more. Fit as of then.")
        known = orders.known(at)
        return self._answer(learnt, known, orders.users.take(known.who), orders)

    def _answer(
        self, learnt: Learnt, known: Known, users: Any, orders: Orders | None
    ) -> pd.DataFrame:
        count, money = _expect(learnt, known, orders)
        weeks = learnt.horizon / DAY / WEEK_DAYS
        bought = learnt.buying.p_buys(weeks, known.frequency, known.recency, known.age)
        discount = self._discount()
        if self._bands is not None and orders is not None:
            low, high = self._bands.about(money)
        else:
            low, high = _model_band(learnt, known, count, money)
        columns = [users, count, bought, money * discount, low * discount, high * discount]
        table = dict(zip(COLUMNS, columns, strict=False))
        return pd.DataFrame({**table, "basis": pd.Series([self.basis] * len(known), dtype="str")})

    def _discount(self) -> float:
        """Purchases are spread evenly over the horizon."""
        rate = np.log1p(self.discount_annual) * self.horizon_days / 365.0
        return float(-np.expm1(-rate) / rate) if rate > 0 else 1.0

    # -- keeping ----------------------------------------------------------------------------

    def to_params(self) -> dict[str, Any]:
        """The whole model as plain JSON, without any customer's data."""
        learnt = self._fitted()
        return {
            "horizon_days": self.horizon_days,
            "algorithm": self.algorithm,
            "seed": self.seed,
            "discount_annual": self.discount_annual,
            "as_of": self._as_of,
            "basis": self.basis,
            "champion": self.champion,
            "buying": learnt.buying.to_params(),
            "spending": None if learnt.spending is UNKNOWN else learnt.spending.to_params(),
            "inner": learnt.inner,
            "trees": None if learnt.trees is None else list(learnt.trees),
            "anchors": list(learnt.anchors),
            "bands": None if self._bands is None else self._bands.to_params(),
            "backtest": self._table,
        }

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> "LTVModel":
        """The model that `to_params` described; its `predict` wants `tx`."""
        model = cls(
            params["horizon_days"],
            params["algorithm"],
            seed=params["seed"],
            discount_annual=params["discount_annual"],
        )
        model._as_of, model.basis, model.champion = (
            params["as_of"], params["basis"], params["champion"],
        )  # fmt: skip
        trees = params["trees"]
        model._learnt = Learnt(
            params["champion"],
            model._horizon,
            btyd.Buying(**params["buying"]),
            UNKNOWN if params["spending"] is None else btyd.Spending(**params["spending"]),
            params["inner"],
            None if trees is None else (trees[0], trees[1]),
            (params["anchors"][0], params["anchors"][1]),
        )
        bands = params["bands"]
        model._bands = None if bands is None else conformal.Bands.from_params(bands)
        model._table = list(params["backtest"])
        return model

    def to_files(self) -> dict[str, bytes]:
        """The model for the registry, with the orders it knows unless it was told to `forget`."""
        rows = None
        if self._summary is not None:
            users, known = self._summary
            named = keeping.keys(users)
            rows = None if named is None else {"users": named, "summary": _summary(known)}
        elif self._orders is not None:
            rows = self._orders.to_params()
        return keeping.pack(self.to_params(), rows)

    @classmethod
    def from_files(cls, files: keeping.Files) -> "LTVModel":
        """The model that `to_files` wrote; where orders were kept, `predict` needs no `tx`."""
        model = cls.from_params(keeping.unpack(files))
        rows = keeping.rows(files)
        if rows is not None and "summary" in rows:
            users = pd.Series(rows["users"]["values"], dtype=rows["users"]["kind"])
            model._summary = (users, _known(rows["summary"]))
        elif rows is not None:
            model._orders = Orders.from_params(rows)
        return model

    def forget(self) -> "LTVModel":
        """Drop the customers' orders; from then on `predict` wants `tx`."""
        self._orders, self._summary = None, None
        return self

    # -- the parts --------------------------------------------------------------------------

    @property
    def _horizon(self) -> int:
        return int(self.horizon_days * DAY)

    def _fitted(self) -> Learnt:
        if self._learnt is None:
            raise Invalid("The model has learnt nothing yet. Call fit first.")
        return self._learnt

    def _behaviour(self, known: Known) -> tuple[btyd.Buying, btyd.Spending]:
        """BG/NBD and Gamma-Gamma of what was known at a cut."""
        if known.at not in self._fits:
            prior = PRIOR_WEIGHTS[_stage(known)]
            self._fits[known.at] = (
                btyd.fit_buying(known.frequency, known.recency, known.age, prior=prior),
                btyd.fit_spending(known.mean_order, known.orders, prior=prior),
            )
        return self._fits[known.at]

    def _learn(self, algorithm: str, at: int, horizon: int) -> Learnt | None:
        """What the algorithm learns from the rows up to `at`; None where it has too few."""
        assert self._orders is not None
        buying, spending = self._behaviour(self._orders.known(at))
        if algorithm not in TREES:
            return Learnt(algorithm, horizon, buying, spending)
        first = self._orders.first
        inner = min(horizon, (at - first) // 2) if first is not None else 0
        if inner < 7 * DAY:
            return None
        rows = [
            self._lesson(at - inner - STEP * back, inner)
            for back in range(GROWING_ORIGINS)
            if at - inner - STEP * back > (first or 0)
        ]
        lessons = [row for row in rows if row is not None]
        if not lessons:
            return None
        x, count, money, base_count, base_money = (
            np.concatenate(part) for part in zip(*lessons, strict=True)
        )
        if len(x) < ROWS_TO_GROW or (count > 0).sum() < BUYERS_TO_GROW:
            return None
        some = slice(None, None, -(-len(x) // ROWS_AT_MOST[algorithm]))
        trees = (
            ltv_trees.fit(
                algorithm, x[some], count[some], base_count[some], money=False, seed=self.seed
            ),
            ltv_trees.fit(
                algorithm, x[some], np.maximum(money[some], 0.0), base_money[some],
                money=True, seed=self.seed,
            ),
        )  # fmt: skip
        learnt = Learnt(algorithm, horizon, buying, spending, inner, trees)
        return self._anchored(learnt, self._orders.known(at))

    def _anchored(self, learnt: Learnt, known: Known) -> Learnt:
        """With BG/NBD's totals: trees tell customers apart, but carry the season they learnt on."""
        plain = replace(learnt, algorithm="bgnbd", trees=None)
        whole, found = _expect(plain, known, self._orders), _expect(learnt, known, self._orders)
        count, money = (
            float(a.sum() / b.sum()) if b.sum() > 0 else 1.0
            for a, b in zip(whole, found, strict=True)
        )
        return replace(learnt, anchors=(count, money))

    def _lesson(
        self, cut: int, horizon: int
    ) -> tuple[Floats, Floats, Floats, Floats, Floats] | None:
        """What was known at a cut, what came in the horizon after it, what BG/NBD expected."""
        assert self._orders is not None
        known = self._orders.known(cut)
        if _stage(known) != "enough":
            return None
        buying, spending = self._behaviour(known)
        x, base_count, base_money = _features(known, self._orders, horizon, buying, spending)
        count, money = self._orders.between(cut, cut + horizon, known.who)
        return x, count, money, base_count, base_money

    def _judge(self) -> dict[str, list[tuple[Floats, Floats]]]:
        """Backtest; fills the table and returns predicted and actual money by candidate."""
        orders = self._orders
        if orders is None or orders.first is None:
            return {}
        span = self._as_of - orders.first
        horizon = min(self._horizon, span // 2)
        if horizon < 7 * DAY:
            return {}
        step = min(max(STEP, horizon // 2), (span * 3 // 4 - horizon) // (JUDGING_ORIGINS - 1))
        asked = {"auto": ALGORITHMS, "naive": ALGORITHMS[:2], "bgnbd": ALGORITHMS[:2]}
        names = asked.get(self.algorithm, ("naive", "bgnbd", self.algorithm))
        seen: dict[str, list[tuple[Floats, Floats]]] = {}
        for back in range(JUDGING_ORIGINS if step >= 7 * DAY else 1):
            cut = self._as_of - horizon - step * back
            known = orders.known(cut)
            if len(known) < (ENOUGH_CUSTOMERS if self.basis == "enough" else FEW_CUSTOMERS):
                continue
            count, money = orders.between(cut, cut + horizon, known.who)
            for name in names:
                learnt = self._learn(name, cut, horizon)
                if learnt is None:
                    continue
                guess_count, guess_money = _expect(learnt, known, orders)
                seen.setdefault(name, []).append((guess_money, money))
                total = float(money.sum())
                row = {
                    "origin": pd.Timestamp(cut, unit="us").isoformat(),
                    "algorithm": name,
                    "horizon_days": horizon / DAY,
                    "customers": len(known),
                    "mae_ltv": float(np.abs(guess_money - money).mean()),
                    "mae_purchases": float(np.abs(guess_count - count).mean()),
                    "total_ratio": float(guess_money.sum()) / total if total > 0 else None,
                }
                self._table.append(row)
        return seen

    def _choose(self) -> str:
        """The champion: bgnbd, unless another beats it clearly, mostly, and with sane totals."""
        if self.algorithm != "auto":
            return self.algorithm
        table = self.backtest
        if table.empty or table["horizon_days"].iloc[0] < self.horizon_days:
            return "bgnbd"  # others say nothing beyond the horizon on which they were judged
        newest = table["origin"].drop_duplicates().to_list()[:2]
        by = table[table["origin"].isin(newest)].set_index(["algorithm", "origin"])
        known = by.loc["bgnbd"]
        best, score = "bgnbd", 1.0 - BETTER_BY
        for name in ALGORITHMS:
            if name == "bgnbd" or name not in by.index or len(by.loc[name]) < len(newest):
                continue
            ratios = sum(
                by.loc[name][what] / known[what].clip(lower=1e-12) / 2
                for what in ("mae_ltv", "mae_purchases")
            )
            sane = _off(by.loc[name]["total_ratio"]) <= max(
                np.log(TOTALS_WITHIN), _off(known["total_ratio"])
            )
            if ratios.mean() < score and (ratios < 1).all() and sane:
                best, score = name, float(ratios.mean())
        return best


def _off(ratios: Iterable[float | None]) -> float:
    """How far totals were off on average, as a logarithm."""
    logs = [abs(np.log(max(ratio, 1e-3))) for ratio in ratios if ratio is not None]
    return float(np.mean(logs)) if logs else 0.0


def _summary(known: Known) -> dict[str, Any]:
    return {
        name: part.tolist() if isinstance(part, np.ndarray) else part
        for name, part in vars(known).items()
    }


def _known(params: dict[str, Any]) -> Known:
    kinds = {"at": int, "who": np.int64}
    return Known(
        **{
            name: part if name == "at" else np.array(part, dtype=kinds.get(name, np.float64))
            for name, part in params.items()
        }
    )


def _micros(as_of: Any) -> int:
    return int(frames.moment(as_of).asm8.astype("int64"))  # moments are in microseconds


def _stage(known: Known) -> str:
    """How much there is to learn from: insufficient, few, some, enough."""
    if len(known) < FEW_CUSTOMERS or not (known.age > 0).any():
        return "insufficient"
    if len(known) < SOME_CUSTOMERS:
        return "few"
    if len(known) < ENOUGH_CUSTOMERS or known.repeaters < ENOUGH_REPEATERS:
        return "some"
    return "enough"


def _expect(learnt: Learnt, known: Known, orders: Orders | None) -> tuple[Floats, Floats]:
    """Orders and money to expect of each customer in the horizon."""
    buying, spending = learnt.buying, learnt.spending
    if learnt.algorithm == "naive" and orders is not None:
        return _again(learnt, known, orders)
    if learnt.trees is None or orders is None:
        weeks = learnt.horizon / DAY / WEEK_DAYS
        count = buying.expected(weeks, known.frequency, known.recency, known.age)
        return count, count * spending.expected(known.mean_order, known.orders)
    x, base_count, base_money = _features(known, orders, learnt.inner, buying, spending)
    stretch = _stretch(learnt, known, base_count)
    count, money = (
        ltv_trees.predict(tree, x, base) * stretch * anchor
        for tree, base, anchor in zip(
            learnt.trees, (base_count, base_money), learnt.anchors, strict=True
        )
    )
    return count, money


def _again(learnt: Learnt, known: Known, orders: Orders) -> tuple[Floats, Floats]:
    """As many repeats as in the last period, for as much."""
    first = orders.first or known.at
    window = max(min(learnt.horizon, known.at - first), DAY)
    count, money = orders.repeats(known, known.at - window)
    factor = learnt.horizon / window
    return count * factor, money * factor


def _stretch(learnt: Learnt, known: Known, inner: Floats) -> Floats:
    """From the horizon that the trees learnt to the one asked, as BG/NBD would go on."""
    if learnt.inner == learnt.horizon:
        return np.ones(len(known))
    weeks = learnt.horizon / DAY / WEEK_DAYS
    whole = learnt.buying.expected(weeks, known.frequency, known.recency, known.age)
    found: Floats = np.clip(
        whole / np.maximum(inner, 1e-12), 1.0, learnt.horizon / max(learnt.inner, 1)
    )
    return found


def _features(
    known: Known, orders: Orders, horizon: int, buying: btyd.Buying, spending: btyd.Spending
) -> tuple[Floats, Floats, Floats]:
    """A row for each customer, and what BG/NBD expects of orders and money in the horizon."""
    weeks = horizon / DAY / WEEK_DAYS
    x, last, age = known.frequency, known.recency, known.age
    count = buying.expected(weeks, x, last, age)
    mean = spending.expected(known.mean_order, known.orders)
    silent = age - last
    columns = [x, last, age, silent, known.gap, silent / np.maximum(known.gap, 1 / WEEK_DAYS)]
    columns += [np.log(count + 1e-6), buying.p_alive(x, last, age)]
    columns += [np.log(amount / spending.scale + 1e-3) for amount in (mean, known.mean_order)]
    columns += [np.log(known.last_order / spending.scale + 1e-3)]
    for part in (0.25, 1.0, 2.0):
        times, money = orders.repeats(known, known.at - int(horizon * part))
        columns += [times, np.log(money / spending.scale + 1e-3)]
    # Rounded, so that another currency or another order of sums cannot tip a threshold.
    table: Floats = np.round(np.column_stack(columns).astype("float64"), 6)
    return table, count, count * mean


def _model_band(
    learnt: Learnt, known: Known, count: Floats, money: Floats
) -> tuple[Floats, Floats]:
    """Without a backtest: the spread of the model itself, counts and amounts taken together."""
    each = money / np.maximum(count, 1e-12)
    shape = learnt.buying.r + known.frequency
    spread = each * np.sqrt(count * (1 + 1 / learnt.spending.p) + count**2 / shape)
    return np.maximum(money - NORMAL_80 * spread, 0.0), money + NORMAL_80 * spread
