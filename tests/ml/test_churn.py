"""Churn: ranks and probabilities on a slice of open data, and what must not change an answer.

`telco_slice.csv` is a thousand rows of the telco set that comes with evalml (BSD-3).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from chat_app.ml import cadence
from chat_app.ml.churn import (
    BadLabels,
    ChurnModel,
    ChurnNotFitted,
    UnknownChurnAlgorithm,
    labels,
)
from chat_app.ml.scores import auc, ece
from chat_app.revenue.frames import BadFrame
from tests.house import tree

TELCO = Path(__file__).with_name("telco_slice.csv")
NOW = pd.Timestamp("2026-03-01")
HORIZON = 30


@pytest.fixture(scope="module")
def telco() -> pd.DataFrame:
    return pd.read_csv(TELCO)


@pytest.fixture(scope="module")
def halves(telco: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    place = np.random.default_rng(3).permutation(len(telco))
    return telco.iloc[place[:700]], telco.iloc[place[700:]]


@pytest.fixture(scope="module")
def model(halves: tuple[pd.DataFrame, pd.DataFrame]) -> ChurnModel:
    train, _ = halves
    return ChurnModel().fit(train.drop(columns="Churn"), train["Churn"])


@pytest.fixture(scope="module")
def small(telco: pd.DataFrame) -> tuple[pd.DataFrame, Any]:
    rows = telco.iloc[:120]
    return rows.drop(columns="Churn"), (rows["Churn"] == "Yes").to_numpy()


def visits(people: int = 150, seed: int = 0) -> pd.DataFrame:
    """Visits at own rates over half a year; each day some stop for good."""
    rng = np.random.default_rng(seed)
    rows = []
    for person in range(people):
        at, gap = rng.uniform(0, 60), rng.gamma(2.0, 4.0) + 1
        until = at + rng.exponential(90)
        while at < min(until, 230):
            rows.append((f"u{person}", pd.Timestamp("2025-08-20") + pd.Timedelta(days=at)))
            at += rng.exponential(gap)
    return pd.DataFrame(rows, columns=["user_id", "ts"])


@pytest.fixture(scope="module")
def stream() -> pd.DataFrame:
    return visits()


@pytest.fixture(scope="module")
def watcher(stream: pd.DataFrame) -> ChurnModel:
    return ChurnModel("logistic").fit_events(stream, HORIZON, NOW)


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """To the last bit."""
    pd.testing.assert_frame_equal(one, other, check_exact=True)


# Quality


def test_rank_and_calibration_on_open_data(
    model: ChurnModel, halves: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    """The full set has .850; above .90 on a slice of 300 something has leaked."""
    _, test = halves
    found = model.predict(test.drop(columns="Churn"))
    truth = test["Churn"] == "Yes"
    assert 0.80 <= auc(truth, found["probability"]) <= 0.90
    assert ece(truth, found["probability"]) <= 0.08
    assert abs(found["probability"].mean() - truth.mean()) < 0.07
    assert model.basis == "model"
    assert model.dropped == {"customerID": "id"}
    assert list(found.columns[:3]) == ["probability", "confidence", "risk_factors"]
    assert (found.index == test.index).all()


def test_backtest_shows_every_candidate_beside_the_rule(model: ChurnModel) -> None:
    table = model.backtest.set_index("candidate")
    assert set(table.index) == {"rule", "logistic", "lightgbm", "random_forest", "blend"}
    assert table["chosen"].sum() == 1
    assert table.loc[model.champion, "log_loss"] == table["log_loss"].min()
    assert table.loc[model.champion, "auc"] > table.loc["rule", "auc"] + 0.03


def test_forty_rows_are_enough_for_a_rank(telco: pd.DataFrame) -> None:
    """The learning curve at n = 40: what is fitted is simple, so that luck does not choose."""
    scores = []
    test = telco.iloc[500:]
    for seed in range(6):
        train = telco.iloc[:500].sample(40, random_state=seed)
        found = ChurnModel().fit(train.drop(columns="Churn"), train["Churn"])
        assert found.basis == "small"
        chance = found.predict(test.drop(columns="Churn"), reasons=False)["probability"]
        scores.append(auc(test["Churn"] == "Yes", chance))
    assert np.mean(scores) >= 0.76


def test_interactions_are_found() -> None:
    """A logistic line sees nothing in an exclusive or; the contest must leave it behind."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(700, 3)), columns=["a", "b", "c"])
    y = (X["a"] * X["b"] > 0) ^ (rng.uniform(size=700) < 0.1)
    made = ChurnModel().fit(X[:500], y[:500])
    assert made.champion in {"lightgbm", "random_forest", "blend"}
    assert auc(y[500:], made.predict(X[500:])["probability"]) > 0.8


def test_confidence_means_something(
    model: ChurnModel, halves: tuple[pd.DataFrame, pd.DataFrame], small: tuple[pd.DataFrame, Any]
) -> None:
    """Sure rows are further from the middle of the road; few rows or odd ones are never sure."""
    _, test = halves
    X = test.drop(columns="Churn")
    found = model.predict(X, reasons=False)
    brier = (found["probability"] - (test["Churn"] == "Yes")) ** 2
    means = brier.groupby(found["confidence"]).mean()
    assert len(means) >= 2
    assert means.iloc[means.index.get_loc("high")] < means.drop("high").min()
    few = ChurnModel().fit(small[0].iloc[:40], small[1][:40])
    assert set(few.predict(X, reasons=False)["confidence"]) == {"low"}
    odd = model.predict(X.assign(tenure=4000), reasons=False)
    assert "high" not in set(odd["confidence"])


def test_reasons_are_sentences_with_numbers(
    model: ChurnModel, halves: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    _, test = halves
    found = model.predict(test.drop(columns="Churn"))
    worst = found["probability"].idxmax()
    risk, better = found.loc[worst, "risk_factors"], found.loc[worst, "protective_factors"]
    assert 1 <= len(risk) <= 3
    assert all(any(sign.isdigit() for sign in words) and "+" in words for words in risk)
    assert all("−" in words for words in better)
    assert any("Contract is Month-to-month" in words for words in risk)
    assert not any("customerID" in words for words in risk)


# What must change nothing


def test_order_of_rows_and_columns_changes_no_bit(small: tuple[pd.DataFrame, Any]) -> None:
    X, y = small
    shuffled = np.random.default_rng(1).permutation(len(X))
    turned = X.iloc[shuffled][X.columns[::-1]]
    one = ChurnModel().fit(X, y)
    other = ChurnModel().fit(turned, y[shuffled])
    assert one.backtest.equals(other.backtest)
    same(one.predict(X), other.predict(X))
    same(one.predict(X).iloc[shuffled], one.predict(turned))


@pytest.mark.parametrize("algorithm", ["rule", "logistic", "random_forest", "lightgbm"])
def test_same_seed_same_bytes_and_plain_numbers(
    algorithm: str, small: tuple[pd.DataFrame, Any]
) -> None:
    """No pickle: a model is JSON, and read back it predicts to the last bit as before."""
    X, y = small
    first, again = (ChurnModel(algorithm, seed=4).fit(X, y) for _ in range(2))
    text = json.dumps(first.to_params(), allow_nan=False)
    assert text == json.dumps(again.to_params(), allow_nan=False)
    assert first.champion == algorithm
    same(first.predict(X), ChurnModel.from_params(json.loads(text)).predict(X))


def test_a_blend_is_kept_too(model: ChurnModel, small: tuple[pd.DataFrame, Any]) -> None:
    kept = ChurnModel.from_params(json.loads(json.dumps(model.to_params())))
    same(model.predict(small[0]), kept.predict(small[0]))


def test_a_row_is_scored_alone_as_among_others(
    model: ChurnModel, small: tuple[pd.DataFrame, Any]
) -> None:
    X, _ = small
    many = model.predict(X)
    for place in (0, 7, 119):
        same(many.iloc[[place]], model.predict(X.iloc[[place]]))


@pytest.mark.parametrize("kind", ["text", "number in order", "random number", "uuid"])
def test_an_id_gains_nothing(kind: str, small: tuple[pd.DataFrame, Any]) -> None:
    """Rows sorted by the answer make a row number the perfect feature; it must not be one."""
    X, y = small
    order = np.argsort(y, kind="stable")
    X, y = X.iloc[order].reset_index(drop=True), y[order]
    rng = np.random.default_rng(0)
    ids: Any = {
        "text": [f"C-{place:05}" for place in range(len(X))],
        "number in order": np.arange(len(X)),
        "random number": rng.integers(10**8, size=len(X)),
        "uuid": [rng.bytes(8).hex() for _ in range(len(X))],
    }[kind]
    name = "customer_id" if kind == "random number" else "subject"
    plain = ChurnModel("logistic").fit(X, y)
    named = ChurnModel("logistic").fit(X.assign(**{name: ids}), y)
    assert named.dropped[name] == "id"
    same(plain.predict(X), named.predict(X.assign(**{name: ids})))


def test_a_scale_changes_no_rank(small: tuple[pd.DataFrame, Any]) -> None:
    """Amounts in cents or in euros: the same probabilities."""
    X, y = small
    X = X.assign(TotalCharges=pd.to_numeric(X["TotalCharges"], errors="coerce"))
    other = X.assign(TotalCharges=X["TotalCharges"] * 64, MonthlyCharges=X["MonthlyCharges"] * 64)
    one = ChurnModel().fit(X, y).predict(X, reasons=False)
    two = ChurnModel().fit(other, y).predict(other, reasons=False)
    np.testing.assert_allclose(one["probability"], two["probability"], atol=1e-9)


# Times


def test_newer_rows_judge_when_times_are_given() -> None:
    """A cause that has turned round since: the folds of a lottery would not see it."""
    rng = np.random.default_rng(2)
    n = 600
    X = pd.DataFrame({"x": rng.normal(size=n), "when": pd.date_range("2025-01-01", periods=n)})
    flips = np.arange(n) > 0.7 * n
    y = rng.uniform(size=n) < 1 / (1 + np.exp(-2 * X["x"] * np.where(flips, -1, 1)))
    drawn = ChurnModel("logistic").fit(X.drop(columns="when"), y)
    timed = ChurnModel("logistic").fit(X, y, time="when")
    aware = X["when"].dt.tz_localize("UTC")
    assert drawn.backtest["auc"].max() > timed.backtest["auc"].max() + 0.1
    assert "when" not in timed.predict(X)["risk_factors"].map(str).str.cat()
    listed = ChurnModel("logistic").fit(X.drop(columns="when"), y, time=aware)
    same(timed.predict(X), listed.predict(X))


def test_one_moment_for_all_falls_back_to_folds(small: tuple[pd.DataFrame, Any]) -> None:
    X, y = small
    plain = ChurnModel("logistic").fit(X, y)
    same(plain.predict(X), ChurnModel("logistic").fit(X, y, time=[NOW] * len(X)).predict(X))


@pytest.mark.parametrize("time", ["nowhere", [1, 2], ["soon"] * 120, [None] * 120, 7])
def test_bad_times(time: Any, small: tuple[pd.DataFrame, Any]) -> None:
    with pytest.raises(BadFrame):
        ChurnModel().fit(*small, time=time)


# Odd tables


@pytest.mark.parametrize("rows", [0, 1, 19])
def test_too_little_is_said(rows: int, small: tuple[pd.DataFrame, Any]) -> None:
    X, y = small
    made = ChurnModel().fit(X.iloc[:rows], y[:rows])
    found = made.predict(X)
    assert made.basis == "insufficient"
    assert set(found["basis"]) == {"insufficient"}
    assert set(found["confidence"]) == {"low"}
    assert found["probability"].nunique() == 1
    assert found["probability"].iloc[0] == (y[:rows].sum() + 0.5) / (rows + 1)
    assert found["risk_factors"].map(len).max() == 0
    kept = ChurnModel.from_params(json.loads(json.dumps(made.to_params())))
    same(found, kept.predict(X))


@pytest.mark.parametrize("answer", [0, 1])
def test_one_class_is_too_little(answer: int, small: tuple[pd.DataFrame, Any]) -> None:
    X, _ = small
    made = ChurnModel().fit(X, np.full(len(X), answer))
    assert made.basis == "insufficient"
    assert abs(made.predict(X)["probability"].iloc[0] - answer) < 0.01


def test_constant_columns_say_nothing() -> None:
    X = pd.DataFrame({"a": [1.0] * 60, "b": ["x"] * 60, "c": [None] * 60, "d": [np.inf] * 60})
    made = ChurnModel().fit(X, [0, 1, 1] * 20)
    assert made.basis == "insufficient"
    assert set(made.dropped.values()) == {"constant"}
    assert made.predict(X)["probability"].iloc[0] == 40.5 / 61


@pytest.mark.filterwarnings("error")
def test_every_kind_of_column() -> None:
    """Numbers, text, truth, times, spans, mixtures, gaps and infinities in one table."""
    rng = np.random.default_rng(5)
    n = 240
    hidden = rng.normal(size=n)
    start = pd.Timestamp("2024-01-01", tz="Europe/Berlin")
    days = (100 * (hidden + 4)).astype(int)
    X = pd.DataFrame({
        "number": np.where(rng.uniform(size=n) < 0.2, np.nan, hidden),
        "infinite": np.where(rng.uniform(size=n) < 0.1, np.inf, rng.normal(size=n)),
        "words": np.where(hidden > 0, "much", "little"),
        "category": pd.Categorical(rng.choice(["a", "b", "c"], n)),
        "truth": hidden > 0.5,
        "maybe": pd.array(np.where(rng.uniform(size=n) < 0.1, None, hidden > 0), dtype="boolean"),
        "whole": pd.array([None, *range(1, n)], dtype="Int64"),
        "when": [start + pd.Timedelta(days=int(day)) for day in days],
        "span": pd.to_timedelta(days, unit="D"),
        "text day": [f"2024-01-{1 + day % 28:02}" for day in days],
        "text number": [" " if place % 30 == 0 else str(v) for place, v in enumerate(hidden)],
        "mixed": [place if place % 2 else "text" for place in range(n)],
        "lists": [[place % 3] for place in range(n)],
        7: rng.normal(size=n),
    })  # fmt: skip
    y = rng.uniform(size=n) < 1 / (1 + np.exp(-2 * hidden))
    made = ChurnModel().fit(X, y)
    found = made.predict(X)
    assert found["probability"].between(0, 1, inclusive="neither").all()
    assert auc(y, found["probability"]) > 0.75
    empty = pd.DataFrame({name: [None] * 3 for name in X.columns})
    assert made.predict(empty)["probability"].between(0, 1).all()
    assert len(made.predict(X.iloc[:0])) == 0
    unseen = X.assign(words="never seen", number="not a number", when="yesterday", truth="?")
    assert made.predict(unseen)["probability"].notna().all()


def test_twice_the_same_rows_are_counted_twice(small: tuple[pd.DataFrame, Any]) -> None:
    X, y = small
    made = ChurnModel("logistic").fit(pd.concat([X, X]), np.concatenate([y, y]))
    assert made.rows == 240
    assert made.predict(X)["probability"].between(0, 1).all()


def test_tables_that_cannot_be_read(model: ChurnModel, small: tuple[pd.DataFrame, Any]) -> None:
    X, y = small
    with pytest.raises(BadFrame, match="lacks the column Contract"):
        model.predict(X.drop(columns="Contract"))
    with pytest.raises(BadFrame, match="twice"):
        ChurnModel().fit(pd.concat([X, X], axis=1), y)
    with pytest.raises(BadFrame):
        ChurnModel().fit("table", y)
    with pytest.raises(ChurnNotFitted):
        ChurnModel().predict(X)
    with pytest.raises(ChurnNotFitted):
        model.predict_events(NOW)
    with pytest.raises(UnknownChurnAlgorithm):
        ChurnModel("magic")


@pytest.mark.parametrize(
    "y", [[0, 1], [0, 1, 2], [0, None, 1], [0, float("nan"), 1], ["a", "b", "a"], [0.5, 1, 0], 3]
)
def test_labels_that_are_none(y: Any) -> None:
    with pytest.raises(BadLabels):
        labels(y, 3)


@pytest.mark.parametrize("y", [[1, 0, 1], [True, False, True], ["Yes", "No", "yes"], [1.0, 0, 1]])
def test_labels_in_every_spelling(y: Any) -> None:
    assert labels(y, 3).tolist() == [1, 0, 1]
    assert labels(pd.DataFrame({"y": y}), 3).tolist() == [1, 0, 1]


# Visits


def test_visits_tell_who_stays_away(watcher: ChurnModel, stream: pd.DataFrame) -> None:
    found = watcher.predict_events(NOW)
    later = stream[(stream["ts"] > NOW) & (stream["ts"] <= NOW + pd.Timedelta(days=HORIZON))]
    gone = ~found["user_id"].isin(later["user_id"])
    assert watcher.basis == "model"
    assert auc(gone, found["probability"]) > 0.85
    assert abs(found["probability"].mean() - gone.mean()) < 0.1
    assert found["user_id"].is_unique
    worst = found.loc[found["probability"].idxmax(), "risk_factors"]
    assert any("last seen" in words or "silent for" in words for words in worst)


def test_what_comes_later_changes_no_bit(watcher: ChurnModel, stream: pd.DataFrame) -> None:
    known = stream[stream["ts"] <= NOW]
    extra = pd.DataFrame({"user_id": ["u1", "new"], "ts": [NOW + pd.Timedelta(1, "us")] * 2})
    for events in (known, pd.concat([known, extra])):
        made = ChurnModel("logistic").fit_events(events, HORIZON, NOW)
        same(watcher.predict_events(NOW), made.predict_events(NOW))


def test_order_zone_and_duplicates_of_visits_change_no_bit(
    watcher: ChurnModel, stream: pd.DataFrame
) -> None:
    turned = pd.concat([stream, stream.iloc[:50]]).sample(frac=1, random_state=1)
    turned["ts"] = turned["ts"].dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")
    aware = NOW.tz_localize("UTC")
    made = ChurnModel("logistic").fit_events(turned, HORIZON, aware)
    same(watcher.predict_events(NOW), made.predict_events(aware))


def test_a_kept_model_needs_the_visits_again(watcher: ChurnModel, stream: pd.DataFrame) -> None:
    text = json.dumps(watcher.to_params(), allow_nan=False)
    kept = ChurnModel.from_params(json.loads(text))
    assert "u17" not in text
    with pytest.raises(ChurnNotFitted):
        kept.predict_events(NOW)
    same(watcher.predict_events(NOW), kept.predict_events(NOW, stream))


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_few_visits_are_a_guess_that_says_so(rows: int, stream: pd.DataFrame) -> None:
    events = stream.iloc[:rows]
    made = ChurnModel().fit_events(events, HORIZON, NOW)
    found = made.predict_events(NOW)
    assert made.basis == "insufficient"
    assert len(found) == events["user_id"].nunique()
    assert found["probability"].between(0, 1).all()
    assert (found["basis"] == "insufficient").all()


def test_visits_that_cannot_be_read(stream: pd.DataFrame) -> None:
    bad = [
        (stream.drop(columns="ts"), HORIZON),
        (stream.assign(ts="soon"), HORIZON),
        (stream.assign(user_id=None), HORIZON),
        (stream, 0),
        (stream, float("nan")),
    ]
    for events, days in bad:
        with pytest.raises(BadFrame):
            ChurnModel().fit_events(events, days, NOW)


def test_origins_have_their_horizon_behind_them(stream: pd.DataFrame) -> None:
    events = cadence.read(stream)
    end = cadence.micros(NOW.tz_localize("UTC"))
    found = cadence.origins(events, HORIZON, end)
    assert len(found) >= 3
    assert max(found) == end - HORIZON * cadence.DAY
    assert cadence.origins(events, 4000, end) == []


def test_features_by_hand() -> None:
    """Visits on days 0, 10 and 20, seen from day 26 with a horizon of 10 days."""
    start = pd.Timestamp("2026-01-01")
    events = cadence.read(
        pd.DataFrame({"user_id": 7, "ts": [start + pd.Timedelta(days=d) for d in (0, 10, 20)]})
    )
    origin = cadence.micros(start.tz_localize("UTC")) + 26 * cadence.DAY
    users, frame = cadence.features(events, origin, 10)
    assert [events.users[code] for code in users] == [7]
    row = frame.iloc[0]
    assert (row["quiet_days"], row["age_days"], row["events"]) == (6, 26, 3)
    assert (row["gap_days"], row["gap_spread"], row["longest"]) == (10, 0, 0.6)
    assert row["late"] == 6 / 10
    assert (row["events_half"], row["events_1"], row["events_2"]) == (0, 1, 2)
    assert not cadence.came(events, users, origin, 10).any()
    assert cadence.came(events, users, origin - 7 * cadence.DAY, 10).all()


def test_reading_the_room_loads_no_library() -> None:
    heavy = ("lightgbm", "sklearn", "scipy", "statsmodels")
    code = f"import sys, chat_app.ml.churn; print([n for n in {heavy} if n in sys.modules])"
    done = tree.run_python("-c", code)
    assert done.stdout.strip() == "[]", done.stderr
