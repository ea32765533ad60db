"""Calibration: believed by the data, kept as numbers, never at the cost of a rank."""

import json

import numpy as np
import pytest

from chat_app.ml import calibrate
from chat_app.ml.scores import auc, brier, ece, log_loss, logit, sigmoid


def drawn(rows: int, *, slope: float = 2.0, offset: float = -1.0, seed: int = 0):
    """Scores whose true probability is sigmoid(slope · score + offset)."""
    rng = np.random.default_rng(seed)
    score = rng.normal(size=rows)
    return score, (rng.uniform(size=rows) < sigmoid(slope * score + offset)).astype(float)


def test_the_number_of_rows_decides() -> None:
    score, truth = drawn(1200)
    assert isinstance(calibrate.fit(score, truth), calibrate.Isotonic)
    assert isinstance(calibrate.fit(score[:999], truth[:999]), calibrate.Platt)
    rare = np.where(np.cumsum(truth) <= 99, truth, 0.0)
    assert isinstance(calibrate.fit(score, rare), calibrate.Platt)


def test_platt_finds_the_line() -> None:
    line = calibrate.platt(*drawn(20_000))
    assert line.slope == pytest.approx(2.0, abs=0.1)
    assert line.offset == pytest.approx(-1.0, abs=0.1)


@pytest.mark.parametrize("slope", [-3.0, 0.0])
def test_order_survives_scores_that_are_wrong(slope: float) -> None:
    score, truth = drawn(500, slope=slope)
    line = calibrate.platt(score, truth)
    assert line.slope > 0
    assert abs(line.apply(score).mean() - truth.mean()) < 0.03


@pytest.mark.parametrize("truth", [[1.0] * 5, [0.0] * 5, [0.0, 0, 0, 1, 1], []])
def test_few_rows_and_perfect_splits_stay_finite(truth: list[float]) -> None:
    score = np.arange(len(truth), dtype=float)
    found = calibrate.fit(score, truth).apply(np.array([-1e9, 0.0, 1e9]))
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()


def test_isotonic_mends_a_bend_and_keeps_every_rank() -> None:
    rng = np.random.default_rng(1)
    score = rng.normal(size=6000)
    true = np.where(score > 0, 0.7, 0.1) + 0.05 * np.tanh(score)
    truth = (rng.uniform(size=6000) < true).astype(float)
    bent = calibrate.fit(score[:3000], truth[:3000])
    line = calibrate.platt(score[:3000], truth[:3000])
    rest, came = score[3000:], truth[3000:]
    assert ece(came, bent.apply(rest)) < min(0.03, ece(came, line.apply(rest)))
    assert brier(came, bent.apply(rest)) < brier(came, line.apply(rest))
    assert len(np.unique(bent.apply(rest))) == len(np.unique(rest))
    assert auc(came, bent.apply(rest)) == pytest.approx(auc(came, rest), abs=1e-9)


def test_kept_as_json() -> None:
    for rows in (200, 3000):
        score, truth = drawn(rows)
        made = calibrate.fit(score, truth)
        kept = calibrate.from_params(json.loads(json.dumps(made.to_params())))
        assert (kept.apply(score) == made.apply(score)).all()


def test_order_of_rows_changes_no_bit() -> None:
    score, truth = drawn(3000)
    turned = np.random.default_rng(5).permutation(3000)
    assert calibrate.isotonic(score, truth) == calibrate.isotonic(score[turned], truth[turned])


def test_scores_by_hand() -> None:
    assert auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75
    assert auc([0, 1], [0.5, 0.5]) == 0.5
    assert np.isnan(auc([1, 1], [0.1, 0.2]))
    assert log_loss([1, 0], [0.5, 0.5]) == pytest.approx(np.log(2))
    assert brier([1, 0], [0.8, 0.4]) == pytest.approx((0.04 + 0.16) / 2)
    assert ece([1, 0, 1, 1], [0.95, 0.95, 0.95, 0.15]) == pytest.approx((0.85 + 0.85) / 4)
    assert sigmoid(logit(0.3)) == pytest.approx(0.3)
    assert np.isfinite(sigmoid([-1e9, 1e9])).all()
