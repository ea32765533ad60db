"""Models on disk come back as they were, and nothing that was changed is ever made into one."""

import json
import logging
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from chat_app.errors import Conflict, Invalid
from chat_app.ml import churn, ltv, ltv_trees
from chat_app.ml import registry as room
from chat_app.ml.churn import ChurnModel
from chat_app.ml.forecast import Forecaster
from chat_app.ml.ltv import LTVModel
from chat_app.ml.registry import BadModel, BadModelName, Registry, UnknownModelVersion
from tests.effort import effort
from tests.ml import shops

SECRET = b"s" * 32


class Figure:
    """The smallest thing that can be kept."""

    def __init__(self, value: float) -> None:
        self.value = value

    def to_files(self) -> dict[str, bytes]:
        return {"params.json": json.dumps(self.value).encode()}

    @classmethod
    def from_files(cls, files: dict[str, bytes]) -> "Figure":
        return cls(json.loads(files["params.json"]))


class Bomb:
    """A pickle of it writes a file when it is loaded."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models", SECRET, classes={"figure": (__name__, "Figure")})


def customers(rows: int = 90) -> tuple[pd.DataFrame, Any]:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "tenure": rng.integers(1, 60, rows).astype(float),
            "spend": rng.gamma(2.0, 20.0, rows),
            "plan": rng.choice(["basic", "pro", "team"], rows),
        }
    )
    frame.loc[::17, "spend"] = np.nan
    left = rng.random(rows) < 1 / (1 + np.exp(0.08 * frame["tenure"] - 1))
    return frame, left.to_numpy().astype(int)


def daily(days: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    y = 50 + 10 * np.sin(np.arange(days) * 2 * np.pi / 7) + rng.normal(0, 3, days)
    return pd.DataFrame({"ds": pd.date_range("2026-01-01", periods=days), "y": y})


@pytest.mark.parametrize("algorithm", effort(("bgnbd", "gbr", "lightgbm"), ("bgnbd", "gbr")))
def test_lifetime_values_come_back(
    registry: Registry, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the orders, and without them: then the table is given again. The very same bytes."""
    few = {"JUDGING_ORIGINS": 2, "GROWING_ORIGINS": 1, "ENOUGH_CUSTOMERS": 40}
    for name, value in {
        **few,
        "ENOUGH_REPEATERS": 9,
        "ROWS_TO_GROW": 40,
        "BUYERS_TO_GROW": 5,
    }.items():
        monkeypatch.setattr(ltv, name, value)
    monkeypatch.setitem(ltv_trees.BOOSTING, "n_estimators", 20)
    tx = shops.dying(110, seed=4)
    as_of = pd.Timestamp("2026-01-20")
    model = LTVModel(60, algorithm).fit(tx, as_of)
    assert model.champion == algorithm
    version = registry.save("ltv", model, as_of=as_of, meta={"mae": np.float64(0.5)})
    loaded = registry.load("ltv", version)
    pd.testing.assert_frame_equal(model.predict(), loaded.predict(), check_exact=True)
    assert loaded.parameters == model.parameters
    expected = model.predict()
    bare = registry.load("ltv", registry.save("ltv", model.forget()))
    with pytest.raises(Invalid):
        bare.predict()
    pd.testing.assert_frame_equal(expected, bare.predict(tx=tx), check_exact=True)
    assert algorithm != "lightgbm" or list(registry.path.glob("ltv/*/model-*.txt"))


def test_a_summary_comes_back(registry: Registry) -> None:
    model = LTVModel(90).fit_summary(shops.cdnow_summary().head(300))
    loaded = registry.load("ltv", registry.save("ltv", model))
    pd.testing.assert_frame_equal(model.predict(), loaded.predict(), check_exact=True)


@pytest.mark.parametrize(
    "algorithm",
    effort(
        ("rule", "logistic", "random_forest", "lightgbm", "blend"), ("random_forest", "lightgbm")
    ),
)
def test_churn_comes_back(
    registry: Registry, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LightGBM is kept as its own text, beside the parameters."""
    monkeypatch.setattr(churn, "FEW_ROWS", 0)
    x, y = customers()
    model = ChurnModel(algorithm).fit(x, y)
    loaded = registry.load("churn", registry.save("churn", model))
    pd.testing.assert_frame_equal(model.predict(x), loaded.predict(x), check_exact=True)
    assert (algorithm == "lightgbm") == bool(list(registry.path.glob("churn/*/model-*.txt")))


@pytest.mark.parametrize("kind", ["str", "int64"])
def test_churn_of_events_comes_back(registry: Registry, kind: str) -> None:
    tx = shops.dying(60, seed=2)
    events = tx.assign(user_id=tx["user_id"].astype(kind))
    as_of = pd.Timestamp("2026-01-20")
    model = ChurnModel().fit_events(events, 30, as_of)
    loaded = registry.load("churn", registry.save("churn", model))
    expected = model.predict_events(as_of)
    pd.testing.assert_frame_equal(expected, loaded.predict_events(as_of), check_exact=True)
    bare = registry.load("churn", registry.save("churn", model.forget()))
    found = bare.predict_events(as_of, events)
    pd.testing.assert_frame_equal(expected, found, check_exact=True)


def test_a_forecast_comes_back(registry: Registry) -> None:
    model = Forecaster("D", 7, "theta").fit(daily())
    loaded = registry.load("forecast", registry.save("forecast", model))
    pd.testing.assert_frame_equal(model.predict(5), loaded.predict(5), check_exact=True)


def test_versions_count_up_and_the_first_is_champion(registry: Registry) -> None:
    """A later version answers nobody before it is promoted."""
    assert registry.champion("fig") is None
    assert registry.list() == []
    assert [registry.save("fig", Figure(n)) for n in (1.0, 2.0, 3.0)] == ["1.0", "1.1", "1.2"]
    assert registry.load("fig").value == 1.0
    registry.promote("fig", "1.1")
    assert registry.load("fig").value == 2.0
    assert registry.load("fig", "1.2").value == 3.0
    registry.save("fig", Figure(4.0), version="next", meta={"auc": 0.8}, as_of="2026-01-01")
    newest = registry.list("fig")[0]
    assert (newest.version, newest.meta, newest.as_of) == ("next", {"auc": 0.8}, "2026-01-01")
    assert [row.version for row in registry.list() if row.champion] == ["1.1"]
    assert registry.verify() == []
    with pytest.raises(Conflict):
        registry.save("fig", Figure(5.0), version="1.0")
    with pytest.raises(Conflict):
        registry.remove("fig", "1.1")
    registry.remove("fig", "next")
    assert [row.version for row in registry.list("fig")] == ["1.2", "1.1", "1.0"]


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "A", "x" * 40, ".hidden", None])
def test_names_stay_in_the_folder(registry: Registry, name: Any) -> None:
    with pytest.raises(BadModelName):
        registry.save(name, Figure(1.0))
    with pytest.raises(BadModelName):
        registry.load(name)
    if name is not None and name != "A" and len(name) < 40:
        with pytest.raises(BadModelName):
            registry.load("fig", name)


def test_what_is_no_model_is_not_kept(registry: Registry) -> None:
    from sklearn.ensemble import RandomForestClassifier

    for thing in (object(), {"a": 1}, RandomForestClassifier()):
        with pytest.raises(BadModelName):
            registry.save("fig", thing)
    with pytest.raises(Invalid):
        registry.save("churn", ChurnModel())  # it has learnt nothing
    assert registry.list() == []
    with pytest.raises(UnknownModelVersion):
        registry.load("fig")
    with pytest.raises(UnknownModelVersion):
        registry.load("fig", "9.9")


def test_one_flipped_bit_is_refused_and_logged(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """Every byte of every file: the parameters, the facts about them, the choice of champion."""
    registry.save("fig", Figure(12.5))
    paths = [path for path in registry.path.rglob("*") if path.is_file()]
    assert {path.name for path in paths} == {"params.json", "meta.json", "champion.json"}
    for path in paths:
        good = path.read_bytes()
        for place in range(len(good)):
            path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
            caplog.clear()
            with caplog.at_level(logging.ERROR), pytest.raises(BadModel):
                registry.load("fig")
            assert "is refused" in caplog.text
        assert registry.verify()
        path.write_bytes(good)
    assert registry.verify() == []
    assert registry.load("fig").value == 12.5


def test_a_foreign_pickle_is_refused_and_never_run(registry: Registry, tmp_path: Path) -> None:
    """In the place of each file, beside them, and as a whole folder of somebody else's."""
    registry.save("fig", Figure(1.0))
    hole = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(str(hole)))
    folder = registry.path / "fig" / "1.0"
    for path in (folder / "params.json", folder / "meta.json", folder / "model.pkl"):
        before = path.read_bytes() if path.exists() else None
        path.write_bytes(bomb)
        with pytest.raises(Invalid):
            registry.load("fig")
        assert [problem.version for problem in registry.verify()] == ["1.0"]
        assert registry.list("fig")[0].problem
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)
    other = registry.path / "fig" / "2.0"
    other.mkdir()
    (other / "model.pkl").write_bytes(bomb)
    with pytest.raises(Invalid):
        registry.load("fig", "2.0")
    assert not hole.exists()
    assert registry.load("fig").value == 1.0
    source = Path(room.__file__).parent
    for path in source.rglob("*.py"):
        assert "import pickle" not in path.read_text(), path
        assert "joblib" not in path.read_text() or path.name == "registry.py", path


def test_what_was_signed_elsewhere_or_for_another_place_is_refused(
    registry: Registry, tmp_path: Path
) -> None:
    """Another installation's folder, a renamed version, a link, a missing file."""
    registry.save("fig", Figure(1.0))
    registry.save("fig", Figure(2.0))
    fig = registry.path / "fig"
    stranger = Registry(tmp_path / "theirs", b"t" * 32, classes={"figure": (__name__, "Figure")})
    stranger.save("fig", Figure(666.0))
    shutil.copytree(tmp_path / "theirs" / "fig" / "1.0", fig / "3.0")
    shutil.copytree(fig / "1.0", fig / "4.0")
    shutil.copytree(fig / "1.0", fig / "5.0")
    (fig / "5.0" / "params.json").unlink()
    (fig / "1.1" / "params.json").rename(tmp_path / "params.json")
    (fig / "1.1" / "params.json").symlink_to(tmp_path / "params.json")
    for version in ("1.1", "3.0", "4.0", "5.0"):
        with pytest.raises(BadModel):
            registry.load("fig", version)
    assert {problem.version for problem in registry.verify()} == {"1.1", "3.0", "4.0", "5.0"}
    # The champion of one kind is no champion of another.
    registry.save("other", Figure(1.0))
    shutil.copy(fig / "champion.json", registry.path / "other" / "champion.json")
    with pytest.raises(BadModel):
        registry.load("other")
    assert any(problem.kind == "other" for problem in registry.verify())


def test_a_half_written_version_is_not_seen(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the last file: no version, no rest of one."""
    real = room._write

    def full(path: Path, data: bytes) -> None:
        if path.name == "meta.json":
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(room, "_write", full)
    with pytest.raises(OSError, match="No space"):
        registry.save("fig", Figure(1.0))
    assert list((registry.path / "fig").iterdir()) == []
    monkeypatch.setattr(room, "_write", real)
    assert registry.save("fig", Figure(1.0)) == "1.0"
