"""Fraud: the short way to one row's score says what the long one says, and turns are fair."""

import gc
import threading
import time
from array import array
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.fraud_stream import START
from chat_app.ml.fraud import Engine, FraudModel, single
from chat_app.ml.fraud.turn import Turn

ROWS = 400


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    draw = np.random.default_rng(5)
    found = pd.DataFrame(draw.normal(size=(ROWS, 6)), columns=list("abcdef"))
    return found.mask(draw.random(found.shape) < 0.1)


@pytest.fixture(scope="module")
def model(table: pd.DataFrame) -> FraudModel:
    target = (table["a"].fillna(0) + table["b"].fillna(2) > 2.2).astype(int)
    return FraudModel().fit(table, target)


def test_a_row_scores_alone_as_in_the_table(model: FraudModel, table: pd.DataFrame) -> None:
    """Gaps included, which are columns of their own."""
    assert model.basis == "model"
    assert model.share
    reader = model.reader(["unused", *table.columns])
    found = [reader((9.0, *row)) for row in table.itertuples(index=False)]
    assert np.allclose([one[0] for one in found], model.score(table), rtol=0, atol=1e-12)
    assert np.allclose([one[1] for one in found], model.novelty(table), rtol=0, atol=1e-12)


def test_the_trees_live_as_long_as_the_short_way_to_them(
    model: FraudModel, table: pd.DataFrame
) -> None:
    again = FraudModel.from_files(model.to_files())
    row = tuple(table.iloc[3])
    expected = again.score(table[3:4])[0]
    reader = again.reader(list(table.columns))
    del again
    gc.collect()
    assert reader(row)[0] == pytest.approx(expected, abs=1e-12)


def test_without_the_call_of_its_interface_lightgbm_is_asked_as_usual(
    model: FraudModel, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking() -> Any:
        raise AttributeError("LGBM_BoosterPredictForMatSingleRowFastInit")

    row = tuple(table.iloc[7])
    short = model.reader(list(table.columns))(row)
    monkeypatch.setattr(single, "_library", lacking)
    assert model.reader(list(table.columns))(row) == short


def test_a_row_of_another_width_cannot_be_asked_for(model: FraudModel) -> None:
    """What LightGBM refuses at the beginning is refused then, and never read beyond its end."""
    score = single.scorer(model._trees, 2)
    with pytest.raises(Exception, match="number of features"):
        score(array("d", [1.0, 2.0]))


def test_many_threads_get_what_one_gets(model: FraudModel, table: pd.DataFrame) -> None:
    reader = model.reader(list(table.columns))
    rows = [tuple(row) for row in table.itertuples(index=False)]
    expected = [reader(row) for row in rows]
    found: list[Any] = [None] * 4

    def work(place: int) -> None:
        found[place] = [reader(row) for row in rows]

    crowd = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert found == [expected] * 4


def test_turns_are_taken_in_the_order_of_arrival() -> None:
    """Nobody who has just been in gets in again before those who wait."""
    turn, order = Turn(), []
    arrived = [threading.Event() for _ in range(4)]

    def work(place: int) -> None:
        arrived[place].set()
        with turn:
            order.append(place)
        with turn:
            order.append(place)

    with turn:
        crowd = [threading.Thread(target=work, args=(place,)) for place in range(4)]
        for place, thread in enumerate(crowd):
            thread.start()
            arrived[place].wait(10)
            while len(turn._line) <= place:
                time.sleep(0.001)
    for thread in crowd:
        thread.join()
    assert order[:4] == [0, 1, 2, 3]
    assert sorted(order) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert not turn._taken


def test_a_turn_ends_also_by_an_error() -> None:
    turn = Turn()
    with pytest.raises(ZeroDivisionError), turn:
        raise ZeroDivisionError
    with turn:
        assert turn._taken


class Slow:
    """A model that is slow by itself, or only because others have the processor."""

    report: dict[str, Any] = {"rows": 9}  # noqa: RUF012

    def __init__(self, *, busy: bool) -> None:
        self.busy = busy

    def reader(self, _names: Any) -> Any:
        return self

    def __call__(self, _figures: Any) -> tuple[float, float]:
        if not self.busy:
            time.sleep(0.03)
        began = time.thread_time_ns()
        while self.busy and time.thread_time_ns() - began < 20_000_000:
            pass
        return 0.9, 1.0


@pytest.mark.parametrize(("busy", "why"), [(True, "model_late"), (False, None)])
def test_only_the_models_own_time_makes_it_late(busy: bool, why: str | None) -> None:
    """On a busy machine the rules would decide otherwise, though the model had answered."""
    engine = Engine(budget_us=15_000)
    engine.use(Slow(busy=busy), "1.0")
    event = {"event_id": "e", "ts": START, "type": "topup", "user_id": "ann", "credits": 5}
    assert engine.score(event).fallback_reason == why
