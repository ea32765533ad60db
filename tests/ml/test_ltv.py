"""Lifetime value: real purchases, as-of discipline, little data, bad input."""

import json
from datetime import UTC

import numpy as np
import pandas as pd
import pytest

from chat_app.errors import Invalid
from chat_app.ml import ltv
from chat_app.ml.ltv import COLUMNS, LTVModel
from chat_app.ml.orders import Orders
from chat_app.revenue.frames import BadFrame
from tests.ml import shops

NOW = pd.Timestamp("2025-10-01")


@pytest.fixture(scope="module")
def small() -> pd.DataFrame:
    return shops.dying(260)


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """The same bits."""
    pd.testing.assert_frame_equal(one, other, check_exact=True)


# -- how good -------------------------------------------------------------------------------


def test_cdnow_holdout() -> None:
    """39 weeks after 39 weeks, on every tenth customer; the whole file is in the benchmark."""
    tx = shops.cdnow()
    model = LTVModel(shops.WEEKS_39).fit(tx, shops.CUT)
    found = model.predict(shops.CUT)
    assert list(found.columns) == COLUMNS
    count, money = shops.truth(tx, found["user_id"], shops.CUT, shops.WEEKS_39)
    mae = (found["expected_purchases"] - count).abs().mean()
    naive = LTVModel(shops.WEEKS_39, "naive").fit(tx, shops.CUT).predict(shops.CUT)
    assert mae <= 0.84
    assert mae < 0.95 * (naive["expected_purchases"] - count).abs().mean()
    assert (found["ltv"] - money).abs().mean() < 0.95 * (naive["ltv"] - money).abs().mean()
    inside = (found["lo80"] <= money) & (money <= found["hi80"])
    assert 0.75 <= inside.mean() <= 0.92
    assert found["p_active"].mean() == pytest.approx((count > 0).mean(), abs=0.05)
    assert set(found["basis"]) == {"bgnbd"}
    assert model.parameters["r"] == pytest.approx(0.25, abs=0.05)
    assert set(model.backtest["algorithm"]) >= {"naive", "bgnbd"}


def test_fit_summary_gives_the_published_parameters() -> None:
    frame = shops.cdnow_summary()
    model = LTVModel(shops.WEEKS_39).fit_summary(frame)
    published = {"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426, "log_likelihood": -9582.4}
    assert model.parameters == pytest.approx(published, rel=0.01)
    found = model.predict()
    assert list(found.columns) == COLUMNS
    assert len(found) == len(frame)
    assert found["expected_purchases"].sum() == pytest.approx(1653, rel=0.01)
    assert found["ltv"].isna().all()
    shuffled = frame.sample(frac=1, random_state=1)
    assert LTVModel(30).fit_summary(shuffled).parameters == pytest.approx(model.parameters)


def test_totals_where_the_model_is_true() -> None:
    tx = shops.dying(1500, seed=3)
    found = LTVModel(90, "bgnbd").fit(tx, NOW).predict(NOW)
    count, money = shops.truth(tx, found["user_id"], NOW, 90)
    assert found["expected_purchases"].sum() == pytest.approx(count.sum(), rel=0.1)
    assert found["ltv"].sum() == pytest.approx(money.sum(), rel=0.15)
    assert ((found["lo80"] <= money) & (money <= found["hi80"])).mean() > 0.76


@pytest.mark.full
def test_another_wins_where_it_is_better() -> None:
    """Who pays every thirty days: BG/NBD does not know the beat, and the table says so."""
    tx = shops.subscribers(700)
    model = LTVModel(60).fit(tx, NOW)
    assert model.champion != "bgnbd"
    found = model.predict(NOW)
    plain = LTVModel(60, "bgnbd").fit(tx, NOW).predict(NOW)
    _, money = shops.truth(tx, found["user_id"], NOW, 60)
    assert (found["ltv"] - money).abs().mean() < 0.9 * (plain["ltv"] - money).abs().mean()
    table = model.backtest
    assert set(table["algorithm"]) == {"naive", "bgnbd", "gbr", "lightgbm"}
    assert table["origin"].nunique() == 3


# -- what changes nothing -------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ltv.ALGORITHMS)
def test_what_changes_no_bit(small: pd.DataFrame, algorithm: str) -> None:
    """Rows after `as_of`, the order of rows, further columns, the time zone, a second run."""
    model = LTVModel(60, algorithm).fit(small, NOW)
    found = model.predict(NOW)
    assert set(found["basis"]) == {algorithm}
    assert np.isfinite(found.drop(columns=["user_id", "basis"])).all(axis=None)
    assert (found["lo80"] <= found["ltv"]).all()
    assert (found["ltv"] <= found["hi80"] * (1 + 1e-12)).all()
    assert found["p_active"].between(0, 1).all()
    future = small[small["ts"] > NOW].assign(amount=9e9)
    odd = pd.concat([small[small["ts"] <= NOW], future, future.assign(user_id=10**6)])
    odd = odd.sample(frac=1, random_state=5).assign(id=range(len(odd)), note="x")
    odd["ts"] = odd["ts"].dt.tz_localize(UTC).dt.tz_convert("Asia/Tokyo")
    other = LTVModel(60, algorithm).fit(odd, NOW.tz_localize(UTC))
    same(found, other.predict(NOW))
    assert json.dumps(model.to_params()) == json.dumps(other.to_params())
    kept = LTVModel.from_params(json.loads(json.dumps(model.to_params())))
    same(found, kept.predict(NOW, small))


@pytest.mark.parametrize("algorithm", ltv.ALGORITHMS)
def test_another_unit_of_money(small: pd.DataFrame, algorithm: str) -> None:
    found = LTVModel(60, algorithm).fit(small, NOW).predict(NOW)
    cents = LTVModel(60, algorithm).fit(small.assign(amount=small["amount"] * 100), NOW)
    other = cents.predict(NOW)
    np.testing.assert_allclose(other["expected_purchases"], found["expected_purchases"], rtol=1e-4)
    for column in ("ltv", "lo80", "hi80"):
        np.testing.assert_allclose(other[column], 100 * found[column], rtol=1e-3, atol=1e-6)


def test_the_kept_model_holds_no_customer(small: pd.DataFrame) -> None:
    tx = small.assign(user_id="customer-" + small["user_id"].astype(str))
    assert "customer-" not in json.dumps(LTVModel(30, "gbr").fit(tx, NOW).to_params())


# -- what changes what it should ------------------------------------------------------------


def test_later_moments_know_more_and_earlier_ones_are_refused(small: pd.DataFrame) -> None:
    model = LTVModel(30, "bgnbd").fit(small, NOW)
    later = NOW + pd.Timedelta(days=60)
    assert len(model.predict(later)) > len(model.predict(NOW))
    with pytest.raises(Invalid, match="before that of fit"):
        model.predict(NOW - pd.Timedelta(days=1))


def test_horizons_and_discount(small: pd.DataFrame) -> None:
    values = [LTVModel(days, "bgnbd").fit(small, NOW).predict(NOW)["ltv"] for days in (30, 90, 365)]
    assert (values[0] < values[1]).all()
    assert (values[1] < values[2]).all()
    less = LTVModel(365, "bgnbd", discount_annual=0.1).fit(small, NOW).predict(NOW)["ltv"]
    np.testing.assert_allclose(less / values[2], 0.9538, atol=1e-4)


def test_orders_of_a_day_and_refunds() -> None:
    """A refund is booked when it happens, lowers the mean order and is no purchase."""
    tx = pd.DataFrame(
        [("a", "2026-01-01 09:00", 10.0), ("a", "2026-01-01 21:00", 20.0),
         ("a", "2026-01-15", 30.0), ("a", "2026-01-20", -12.0), ("a", "2026-01-20", -8.0),
         ("b", "2026-01-08", 5.0), ("b", "2026-01-08", 5.0), ("c", "2026-01-02", -4.0)],
        columns=["user_id", "ts", "amount"],
    )  # fmt: skip
    tx["ts"] = tx["ts"].map(pd.Timestamp)
    orders = Orders(tx)
    cut = ltv._micros("2026-01-22")
    known = orders.known(cut)
    assert list(orders.users[known.who]) == ["a", "b"]  # who only had money back is no customer
    assert known.frequency.tolist() == [1, 0]
    assert known.recency.tolist() == [2, 0]
    assert known.age.tolist() == [3, 2]
    assert known.mean_order.tolist() == [20, 10]
    assert known.last_order.tolist() == [30, 10]
    before = orders.known(ltv._micros("2026-01-15"))
    assert before.mean_order.tolist() == [30, 10]
    count, money = orders.repeats(known, ltv._micros("2025-12-31"))
    assert count.tolist() == [1, 0]
    assert money.tolist() == [10, 0]
    count, money = orders.between(ltv._micros("2026-01-01 10:00"), cut, known.who)
    assert count.tolist() == [2, 1]
    assert money.tolist() == [30, 10]


# -- little, strange and bad ----------------------------------------------------------------


def table(rows: list[tuple[object, object, object]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["user_id", "ts", "amount"])


@pytest.mark.parametrize("algorithm", ["auto", *ltv.ALGORITHMS])
@pytest.mark.parametrize(
    ("rows", "customers"),
    [
        ([], 0),
        ([("a", "2025-09-01", 5.0)], 1),
        ([("a", "2025-09-01", -5.0)], 0),
        ([("a", "2025-12-01", 5.0)], 0),
        ([("a", "2025-09-01", 0.0)] * 40, 1),
        ([(n, "2025-10-01", 5.0) for n in range(500)], 500),
        ([(n, f"2025-0{1 + n % 9}-03", 5.0) for n in range(9)], 9),
    ],
    ids=["empty", "one", "refund", "later", "zero", "all today", "nine"],
)
def test_too_little(
    algorithm: str, rows: list[tuple[object, object, object]], customers: int
) -> None:
    model = LTVModel(90, algorithm).fit(table(rows), NOW)
    found = model.predict(NOW)
    assert list(found.columns) == COLUMNS
    assert len(found) == customers
    assert (found["basis"] == "insufficient").all()
    assert model.basis == "insufficient"
    numbers = found.drop(columns=["user_id", "basis"])
    assert np.isfinite(numbers.astype(float)).all(axis=None)
    assert np.isfinite(list(model.parameters.values())).all()
    assert model.backtest.empty


@pytest.mark.parametrize("customers", [12, 40, 99])
def test_few_are_shrunken_and_sane(customers: int) -> None:
    tx = shops.dying(customers, days=365, seed=customers)
    found = LTVModel(90).fit(tx, "2026-01-01").predict("2026-01-01")
    assert set(found["basis"]) == {"shrunken"}
    assert found["expected_purchases"].between(0, 90).all()
    assert (found["hi80"] >= found["ltv"]).all()


def test_constant_and_zero_shops() -> None:
    """Everybody alike; nobody ever came back; nobody ever paid anything."""
    days = pd.date_range("2025-01-01", periods=30, freq="7D")
    alike = table([(user, day, 10.0) for user in range(120) for day in days])
    found = LTVModel(28).fit(alike, "2025-07-25").predict()
    assert found["expected_purchases"].nunique() == 1
    assert found["expected_purchases"].iloc[0] == pytest.approx(4, rel=0.2)
    once = table([(n, f"2025-0{1 + n % 8}-03", 7.0) for n in range(300)])
    found = LTVModel(30).fit(once, NOW).predict(NOW)
    assert set(found["basis"]) == {"shrunken"}
    assert found["expected_purchases"].max() < 0.2
    free = shops.dying(260).assign(amount=0.0)
    found = LTVModel(30).fit(free, NOW).predict(NOW)
    assert found["ltv"].max() < 1e-3
    assert np.isfinite(found["hi80"]).all()


def test_keys_of_any_kind() -> None:
    mixed = table([("a", "2025-09-01", 5), (7, "2025-09-02", 6), (("t", 1), "2025-09-03", 7)])
    found = LTVModel(30).fit(mixed, NOW).predict(NOW)
    turned = LTVModel(30).fit(mixed.iloc[::-1], NOW).predict(NOW)
    assert found["user_id"].to_list() == turned["user_id"].to_list()


@pytest.mark.parametrize(
    ("rows", "column"),
    [
        ([("a", "2025-09-01", float("nan"))], "amount"),
        ([("a", "2025-09-01", float("inf"))], "amount"),
        ([("a", "2025-09-01", "ten")], "amount"),
        ([("a", "no time", 1.0)], "ts"),
        ([("a", None, 1.0)], "ts"),
        ([(None, "2025-09-01", 1.0)], "user_id"),
    ],
)
def test_bad_rows_are_named(rows: list[tuple[object, object, object]], column: str) -> None:
    with pytest.raises(BadFrame) as caught:
        LTVModel(30).fit(table([("b", "2025-09-01", 1.0), *rows]), NOW)
    assert caught.value.facts["column"] == column


def test_bad_calls_are_clear() -> None:
    good = table([("a", "2025-09-01", 1.0)])
    with pytest.raises(Invalid, match="Choose one of"):
        LTVModel(30, "oracle")
    for days in (0, -1, float("nan"), float("inf")):
        with pytest.raises(Invalid, match="horizon_days"):
            LTVModel(days)
    with pytest.raises(Invalid, match="Call fit first"):
        LTVModel(30).predict(NOW)
    with pytest.raises(Invalid, match="Call fit first"):
        _ = LTVModel(30).parameters
    with pytest.raises(BadFrame, match="lacks the column amount"):
        LTVModel(30).fit(good.drop(columns="amount"), NOW)
    with pytest.raises(BadFrame, match="as_of"):
        LTVModel(30).fit(good, "never")
    summary = pd.DataFrame({"frequency": [1, 2], "recency": [3.0, 9.0], "T": [4.0, 8.0]})
    with pytest.raises(BadFrame) as caught:
        LTVModel(30).fit_summary(summary)
    assert caught.value.facts["rows"] == [1]
    few = LTVModel(30).fit_summary(summary.head(1))
    json.dumps(few.to_params(), allow_nan=False)
    kept = LTVModel.from_params(few.to_params())
    with pytest.raises(Invalid, match="as_of"):
        kept.predict(tx=good)
    assert kept.predict(NOW, good)["ltv"].isna().all()
    assert set(few.predict()["basis"]) == {"insufficient"}
