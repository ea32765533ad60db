"""Drift: PSI that does not cry wolf on a few rows and does not sleep through a change."""

import numpy as np
import pandas as pd
import pytest

from chat_app.ml import drift


@pytest.mark.parametrize(("rows", "customary"), [(100, 0.2), (300, 0.0)])
def test_no_false_alarm_at_any_size(rows: int, customary: float) -> None:
    """At 100 rows chance often exceeds the customary 0.1, but not the scaled level."""
    rng = np.random.default_rng(0)
    then = rng.normal(size=5000)
    found = [drift.psi(then, rng.normal(size=rows)) for _ in range(200)]
    assert np.mean([one.psi > 0.1 for one in found]) >= customary
    assert np.mean([one.alarm for one in found]) <= 0.03


@pytest.mark.parametrize("moved", [0.8, -0.8])
def test_a_shift_is_seen(moved: float) -> None:
    rng = np.random.default_rng(1)
    then = rng.normal(size=2000)
    assert drift.psi(then, rng.normal(size=400) + moved).alarm
    assert drift.psi(then, then[:1500]).alarm is False


def test_text_gaps_and_new_words() -> None:
    then = pd.Series(["a", "b", "b", None] * 200)
    assert drift.psi(then, then.sample(frac=0.5, random_state=0)).alarm is False
    assert drift.psi(then, pd.Series(["c"] * 300)).alarm
    assert drift.psi(pd.Series([1.0, 2.0] * 300), pd.Series([np.nan, 1.0, 2.0] * 200)).alarm


@pytest.mark.parametrize("now", [[], [1.0], [1.0, 1.0]])
def test_too_little_is_said(now: list[float]) -> None:
    found = drift.psi([1.0] * 10, now)
    assert (found.basis, found.alarm, found.psi) == ("insufficient", False, 0.0)


def test_order_and_table() -> None:
    rng = np.random.default_rng(2)
    then = pd.DataFrame({"calm": rng.normal(size=900), "moved": rng.normal(size=900), "gone": 1})
    now = pd.DataFrame({"calm": rng.normal(size=900), "moved": rng.normal(2, 1, size=900)})
    found = drift.table(then, now)
    assert set(found["column"][:2]) == {"moved", "gone"}
    assert found.set_index("column")["alarm"].to_dict() == {
        "moved": True,
        "gone": True,
        "calm": False,
    }
    shuffled = drift.table(then.sample(frac=1, random_state=1), now.sample(frac=1, random_state=2))
    pd.testing.assert_frame_equal(found, shuffled, check_exact=True)


def test_calibration_ratio() -> None:
    assert drift.calibration_ratio([1, 1, 0, 0], [0.25] * 4) == 2.0
    assert np.isnan(drift.calibration_ratio([0, 1], [0.0, 0.0]))
