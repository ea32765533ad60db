"""The fraud model on tables of any kind: rank and calibration, and what must change nothing."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from chat_app.errors import Invalid
from chat_app.ml.fraud import FraudModel, forest
from chat_app.ml.fraud.model import BadFraudLabels, FraudNotFitted
from chat_app.ml.scores import auc, brier
from chat_app.revenue.frames import BadFrame

ROWS = 600


def table(rows: int = ROWS, seed: int = 0) -> tuple[pd.DataFrame, Any, pd.Series]:
    """Rare positives that hang on two numbers and a word, with noise and gaps."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame({
        "amount": rng.lognormal(3, 1, rows), "gap": rng.exponential(5, rows),
        "noise": rng.normal(size=rows), "place": rng.choice(["a", "b", "c"], rows),
        "id": [f"row {place}" for place in range(rows)], "same": 1,
    })  # fmt: skip
    risk = -5.0 + 0.03 * X["amount"] + 2.0 * (X["place"] == "c") - 0.2 * X["gap"]
    y = (rng.random(rows) < 1 / (1 + np.exp(-risk))).astype(int)
    X.loc[::17, "gap"] = np.nan
    X.loc[::41, "amount"] = np.inf
    return X, y.to_numpy(), pd.Series(pd.date_range("2026-01-01", periods=rows, freq="h"))


@pytest.fixture(scope="module")
def fitted() -> FraudModel:
    return FraudModel().fit(*table(), label_delay="0D")


def test_it_ranks_and_its_probabilities_can_be_believed(fitted: FraudModel) -> None:
    X, y, _ = table(4000, seed=1)
    chance = fitted.score(X)
    assert fitted.basis == "model"
    assert fitted.dropped == {"id": "id", "same": "constant"}
    assert auc(y, chance) > 0.8
    assert brier(y, chance) < 0.95 * brier(y, np.full(len(y), y.mean()))
    assert abs(chance.mean() / y.mean() - 1) < 0.35


def test_order_of_rows_and_seed_and_files_give_the_same_bytes(fitted: FraudModel) -> None:
    X, y, ts = table()
    mixed = np.random.default_rng(5).permutation(ROWS)
    again = FraudModel().fit(X.iloc[mixed], y[mixed], ts.iloc[mixed], label_delay="0D")
    assert again.to_files() == fitted.to_files()
    kept = FraudModel.from_files(fitted.to_files())
    assert kept.to_files() == fitted.to_files()
    assert np.array_equal(kept.score(X), fitted.score(X))
    assert np.array_equal(kept.novelty(X), fitted.novelty(X))
    pd.testing.assert_frame_equal(kept.contributions(X[:3]), fitted.contributions(X[:3]))


def test_a_row_scores_the_same_alone_and_in_company(fitted: FraudModel) -> None:
    X, _, _ = table()
    alone = [fitted.score(X.iloc[[place]])[0] for place in range(20)]
    assert alone == fitted.score(X)[:20].tolist()
    assert fitted.score(X[:0]).tolist() == []


def test_labels_that_had_no_time_to_arrive_change_nothing() -> None:
    X, y, ts = table(400)
    young = (ts > ts.max() - pd.Timedelta("5D")).to_numpy()
    flipped = np.where(young, 1 - y, y)
    first = FraudModel().fit(X, y, ts, label_delay="5D")
    assert first.label_delay_used == 5 * 86400
    assert first.report["rows"] == int((~young).sum())
    assert FraudModel().fit(X, flipped, ts, label_delay="5D").to_files() == first.to_files()


def test_a_delay_beyond_the_history_is_not_meant_for_it() -> None:
    X, y, ts = table(100)  # four days
    made = FraudModel().fit(X, y, ts)
    assert (made.label_delay_used, made.report["rows"]) == (0, 100)


def test_an_id_gains_nothing_and_scale_hardly_matters() -> None:
    X, y, ts = table(300)
    plain = FraudModel().fit(X.drop(columns=["id", "same"]), y, ts, label_delay="0D")
    named = FraudModel().fit(X, y, ts, label_delay="0D")
    assert np.array_equal(plain.score(X), named.score(X))
    scaled = FraudModel().fit(X.assign(amount=X["amount"] * 1000), y, ts, label_delay="0D")
    again = scaled.score(X.assign(amount=X["amount"] * 1000))
    assert np.corrcoef(plain.score(X), again)[0, 1] > 0.99


@pytest.mark.parametrize("rows", [0, 1, 5, 19])
def test_tiny_tables_give_the_rate(rows: int) -> None:
    X, y, ts = table(ROWS)
    made = FraudModel().fit(X[:rows], y[:rows], ts[:rows])
    assert made.basis == "insufficient"
    assert made.score(X[:7]).tolist() == [(y[:rows].sum() + 0.5) / (rows + 1)] * 7
    kept = FraudModel.from_files(made.to_files())
    assert kept.score(X[:7]).tolist() == made.score(X[:7]).tolist()


@pytest.mark.parametrize("value", [0, 1])
def test_one_class_gives_the_rate(value: int) -> None:
    X, _, ts = table(200)
    made = FraudModel().fit(X, np.full(200, value), ts)
    assert made.basis == "insufficient"
    assert set((made.score(X) > 0.9).tolist()) == {bool(value)}


def test_few_positives_are_left_to_the_line() -> None:
    X, _, ts = table(300)
    y = np.zeros(300, dtype=int)
    y[[10, 100, 200, 290]] = 1
    X.loc[y == 1, "gap"] = 200.0
    made = FraudModel().fit(X, y, ts, label_delay="0D")
    assert made.basis == "line"
    assert auc(y, made.score(X)) > 0.9
    assert 0 < made.score(X).min() <= made.score(X).max() < 1


@pytest.mark.parametrize("spoil", [
    lambda X: X.assign(noise=np.nan), lambda X: X.assign(noise=np.inf),
    lambda X: X.assign(noise=0.0), lambda X: pd.concat([X, X]).reset_index(drop=True),
    lambda X: X.assign(day=pd.Timestamp("2026-01-01")), lambda X: X.assign(noise=None),
    lambda X: X.assign(place=X["place"].astype("category")), lambda X: X[["same"]],
])  # fmt: skip
def test_odd_columns_are_taken_as_they_are(spoil: Any) -> None:
    X, y, ts = table(120)
    X = spoil(X)
    y, ts = np.resize(y, len(X)), pd.Series(np.resize(ts.to_numpy(), len(X)))
    made = FraudModel().fit(X, y, ts)
    chance = made.score(X)
    assert np.isfinite(chance).all()
    assert ((chance > 0) & (chance < 1)).all()


def test_unknown_words_and_broken_numbers_are_scored_as_missing(fitted: FraudModel) -> None:
    X, _, _ = table(5)
    odd = X.assign(place="nowhere", amount="abc", gap=-np.inf)
    assert np.isfinite(fitted.score(odd)).all()


def test_times_of_any_kind_are_the_same() -> None:
    X, y, ts = table(120)
    made = FraudModel().fit(X, y, ts).to_files()
    assert FraudModel().fit(X, y, ts.dt.tz_localize("UTC")).to_files() == made
    assert (
        FraudModel().fit(X, y, ts.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")).to_files()
        == made
    )
    assert FraudModel().fit(X, y, list(ts)).to_files() == made


@pytest.mark.parametrize(("y", "ts", "delay", "error"), [
    ([0.5] * 30, None, "0D", BadFraudLabels), ([None] * 30, None, "0D", BadFraudLabels),
    ([0, 1], None, "0D", BadFraudLabels), (["fraud"] * 30, None, "0D", BadFraudLabels),
    (None, None, "0D", BadFraudLabels),
    ([0, 1] * 15, ["x"] * 30, "0D", BadFrame), ([0, 1] * 15, [1.0] * 29, "0D", BadFrame),
    ([0, 1] * 15, [float("nan")] * 30, "0D", BadFrame), ([0, 1] * 15, None, "soon", BadFrame),
    ([0, 1] * 15, None, "-1D", BadFrame),
])  # fmt: skip
def test_what_cannot_be_read_is_refused_in_words(
    y: Any, ts: Any, delay: str, error: type[Invalid]
) -> None:
    with pytest.raises(error) as refused:
        FraudModel().fit(table(30)[0], y, ts, label_delay=delay)
    assert len(str(refused.value)) > 20


def test_nothing_is_scored_before_it_is_fitted_and_no_column_may_lack(fitted: FraudModel) -> None:
    X, _, _ = table(5)
    with pytest.raises(FraudNotFitted):
        FraudModel().score(X)
    with pytest.raises(BadFrame, match="amount"):
        fitted.score(X.drop(columns="amount"))
    with pytest.raises(BadFrame, match="place"):
        fitted.reader(["amount", "gap", "noise", "place"])


def test_the_forest_in_our_text_is_that_of_the_library() -> None:
    """Its order of oddness is scikit-learn's own, and rows far away are the oddest."""
    import lightgbm
    from sklearn.ensemble import IsolationForest

    rows = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32).astype(np.float64)
    rows[:3] += 9
    library = IsolationForest(
        n_estimators=forest.TREES, max_samples=forest.ROWS, random_state=0
    ).fit(rows)
    depths = lightgbm.Booster(model_str=forest.fit(rows, seed=0)).predict(rows)
    ours = 2.0 ** (-depths / forest.TREES / forest.usual_depth(forest.ROWS))
    assert np.allclose(ours, -library.score_samples(rows), atol=1e-6)
    frame = pd.DataFrame(rows)
    novelty = FraudModel().fit(frame, np.zeros(600)).novelty(frame)
    assert set(np.argsort(novelty)[:3].tolist()) == {0, 1, 2}
    assert np.quantile(novelty, 0.5) == pytest.approx(0.5, abs=0.05)
