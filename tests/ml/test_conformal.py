"""Bands cover what they promise, in every group."""

import numpy as np
import pytest

from chat_app.ml import conformal


def test_quantile_is_that_of_the_next_one() -> None:
    assert conformal.quantile(np.arange(1.0, 10.0), 0.8) == 8.0
    assert conformal.quantile(np.array([3.0]), 0.8) == 3.0


def shop(seed: int, share_of_nothing: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    predicted = rng.lognormal(2, 1, 6000)
    actual = predicted * rng.gamma(3, 1 / 3, 6000)
    return predicted, np.where(rng.random(6000) < share_of_nothing, 0.0, actual)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.5])
def test_groups_are_covered(share: float) -> None:
    bands = conformal.bands(*shop(0, share))
    predicted, actual = shop(1, share)
    low, high = bands.about(predicted)
    assert (low <= predicted).all()
    assert (predicted <= high).all()
    inside = (low <= actual) & (actual <= high)
    for part in np.array_split(np.argsort(predicted), 5):
        assert inside[part].mean() == pytest.approx(0.8, abs=0.04)


def test_mostly_nothing_begins_at_zero() -> None:
    """A lower end just above zero would miss all who bought nothing."""
    predicted, actual = shop(2, 0.9)
    low, high = conformal.bands(predicted, actual).about(predicted * 1.3)
    assert (low == 0).all()
    assert (high >= predicted).all()


def test_order_json_and_ties() -> None:
    predicted, actual = shop(3, 0.3)
    turn = np.random.default_rng(0).permutation(len(predicted))
    bands = conformal.bands(predicted, actual)
    assert bands == conformal.bands(predicted[turn], actual[turn])
    assert conformal.Bands.from_params(bands.to_params()) == bands
    same = conformal.bands(np.zeros(1000), np.append(np.zeros(900), np.ones(100)))
    assert same.about(np.zeros(1)) == (0.0, 0.0)
    low, high = conformal.bands(np.ones(1), np.array([4.0])).about(np.array([1.0]))
    assert (low[0], high[0]) == pytest.approx((0.0, 4.0))
