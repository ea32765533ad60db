"""One battery over every predictor: what must change no bit, and what must not break it.

Each predictor answers a table of its kind with numbers; later rows, the order of the rows, another
unit, a column of ids, other kinds of times and a second run are tried on all of them alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest

from chat_app.errors import AppError
from chat_app.ml import anomaly, runway
from chat_app.ml.churn import ChurnModel
from chat_app.ml.forecast import Forecaster
from chat_app.ml.fraud import FraudModel
from chat_app.ml.ltv import LTVModel
from tests.effort import effort

AS_OF = pd.Timestamp("2026-03-01")
DICE = np.random.default_rng(7)


@dataclass(frozen=True)
class Predictor:
    """`answer` gives numbers for a table; `time` and `amount` name its columns, if it has them."""

    name: str
    table: pd.DataFrame
    answer: Callable[[pd.DataFrame], Any]
    time: str | None = None
    amount: str | None = None
    ids: bool = False  # takes any column, so an id may be among them
    unit: bool = False  # its answer is in the unit of the amount


def _events() -> pd.DataFrame:
    users = np.repeat(np.arange(24), 6)
    days = DICE.integers(0, 150, len(users))
    ts = (
        AS_OF - pd.to_timedelta(days, "D") - pd.to_timedelta(DICE.integers(1, 900, len(users)), "m")
    )
    table = pd.DataFrame({"user_id": users, "ts": ts})
    table["amount"] = np.round(DICE.lognormal(2, 0.5, len(users)), 2)
    return table.drop_duplicates(["user_id", "ts"]).reset_index(drop=True)


def _days() -> pd.DataFrame:
    ds = pd.date_range(end=AS_OF - pd.Timedelta(days=1), periods=70, freq="D")
    y = 40 + 10 * np.sin(np.arange(70) / 7 * 2 * np.pi) + DICE.normal(0, 3, 70)
    return pd.DataFrame({"ds": ds, "y": np.round(y, 3)})


def _rows() -> pd.DataFrame:
    x = DICE.normal(size=(90, 3))
    table = pd.DataFrame(np.round(x, 4), columns=["a", "b", "c"])
    table["y"] = (x[:, 0] + 0.5 * x[:, 1] + DICE.normal(0, 0.5, 90) > 0.6).astype(int)
    return table


def _ltv(table: pd.DataFrame) -> Any:
    found = LTVModel(30, "bgnbd").fit(table, _like(table["ts"])).predict()
    return found.sort_values("user_id")[["ltv", "lo80", "hi80", "expected_purchases"]]


def _churn_events(table: pd.DataFrame) -> Any:
    at = _like(table["ts"])
    model = ChurnModel("logistic").fit_events(table[["user_id", "ts"]], 30, at)
    return model.predict_events(at, reasons=False).sort_values("user_id")["probability"]


def _churn(table: pd.DataFrame) -> Any:
    model = ChurnModel("logistic").fit(table.drop(columns="y"), table["y"])
    return model.predict(_asked(table))["probability"]


def _fraud(table: pd.DataFrame) -> Any:
    model = FraudModel().fit(table.drop(columns="y"), table["y"])
    return model.score(_asked(table))


def _asked(table: pd.DataFrame) -> pd.DataFrame:
    """The same rows are scored, in whatever order they were learnt."""
    return table.drop(columns="y").sort_values(["a", "b"]).head(20)


def _forecast(table: pd.DataFrame) -> Any:
    model = Forecaster("D", 7, "theta").fit(table, as_of=_like(table["ds"]))
    return model.predict(5)[["yhat", "lo80", "hi80"]]


def _runway(table: pd.DataFrame) -> Any:
    return runway.project(table, 3000.0, as_of=_like(table["ds"]), horizon_days=40).fan[
        ["p10", "p50", "p90"]
    ]


def _anomaly(table: pd.DataFrame) -> Any:
    known = table[table["ds"] < _like(table["ds"])]
    return anomaly.detect(known).sort_values("ds")[["expected", "lo", "hi"]]


def _like(times: "pd.Series[Any]") -> pd.Timestamp:
    """The moment in the kind of the times."""
    return AS_OF.tz_localize("UTC") if getattr(times.dt, "tz", None) is not None else AS_OF


PREDICTORS = [
    Predictor("ltv", _events(), _ltv, "ts", "amount", unit=True),
    Predictor("churn of visits", _events(), _churn_events, "ts"),
    Predictor("churn of rows", _rows(), _churn, ids=True),
    Predictor("fraud", _rows(), _fraud, ids=True),
    Predictor("forecast", _days(), _forecast, "ds", "y", unit=True),
    Predictor("runway", _days().tail(24), _runway, "ds", "y"),
    Predictor("anomaly", _days(), _anomaly, "ds", "y", unit=True),
]


def numbers(one: Predictor, table: pd.DataFrame) -> Any:
    return np.asarray(one.answer(table), dtype=np.float64)


@pytest.fixture(params=PREDICTORS, ids=lambda one: one.name)
def one(request: pytest.FixtureRequest) -> Predictor:
    return request.param  # type: ignore[no-any-return]


USUAL: dict[str, Any] = {}


@pytest.fixture
def usual(one: Predictor) -> Any:
    """Its answer to its table, made once."""
    if one.name not in USUAL:
        USUAL[one.name] = numbers(one, one.table)
    return USUAL[one.name]


def same(first: Any, second: Any) -> bool:
    return first.tobytes() == second.tobytes()


def test_a_second_time_and_any_order_give_the_same_bytes(one: Predictor, usual: Any) -> None:
    assert np.isfinite(usual).all()
    assert same(usual, numbers(one, one.table))
    shuffled = one.table.sample(frac=1, random_state=3).reset_index(drop=True)
    if one.name in ("forecast", "runway", "anomaly", "ltv", "churn of visits") or one.ids:
        assert same(usual, numbers(one, shuffled))


def test_what_comes_later_changes_no_bit(one: Predictor, usual: Any) -> None:
    if one.time is None:
        pytest.skip("it has no times")
    later = one.table.head(9).copy()
    later[one.time] = AS_OF + pd.to_timedelta(np.arange(1, 10), "D")
    if one.amount:
        later[one.amount] = 1e6
    assert same(usual, numbers(one, pd.concat([one.table, later], ignore_index=True)))


def test_times_with_a_zone_give_the_same(one: Predictor, usual: Any) -> None:
    if one.time is None:
        pytest.skip("it has no times")
    aware = one.table.assign(**{one.time: one.table[one.time].dt.tz_localize("UTC")})
    assert same(usual, numbers(one, aware))


def test_another_unit_scales_the_answer(one: Predictor, usual: Any) -> None:
    if not one.unit:
        pytest.skip("its answer is in no unit")
    scaled = numbers(one, one.table.assign(**{one.amount: one.table[one.amount] * 64}))
    # The fourth column of lifetime value counts orders, which have no unit.
    unit = np.array([64, 64, 64, 1.0])[: usual.shape[1]]
    assert np.allclose(scaled, usual * unit, rtol=2e-3)


def test_an_id_gains_nothing(one: Predictor, usual: Any) -> None:
    if not one.ids:
        pytest.skip("it takes no other columns")
    named = one.table.assign(id=[f"row {number:04}" for number in range(len(one.table))])
    assert same(usual, numbers(one, named))


def broken(one: Predictor, how: str) -> pd.DataFrame:
    """A table with something odd in it."""
    table = one.table.copy()
    column = one.amount or ("a" if one.ids else None)
    if how == "one row":
        return table.head(1)
    if how == "none":
        return table.head(0)
    if how == "twice":
        return pd.concat([table, table.head(5)], ignore_index=True)
    if how == "one class" and one.ids:
        return table.assign(y=0)
    if column is not None:
        table[column] = table[column].astype(float)
        values = {"constant": 5.0, "zero": 0.0, "nan": np.nan, "inf": np.inf}
        places = slice(None) if how in ("constant", "zero") else slice(3, 6)
        if how in values:
            table.loc[table.index[places], column] = values[how]
    return table


ODD = ("one row", "inf", "none", "twice", "one class", "constant", "zero", "nan")


@pytest.mark.parametrize("how", effort(ODD, ODD[:2]))
def test_odd_tables_give_numbers_or_a_clear_refusal(one: Predictor, how: str) -> None:
    """Never a traceback of somebody else's library, never NaN or infinity."""
    try:
        found = numbers(one, broken(one, how))
    except AppError as refused:
        said = str(refused)
    else:
        said = "It answers." if np.isfinite(found).all() else "nan"
    assert said.endswith(".")
