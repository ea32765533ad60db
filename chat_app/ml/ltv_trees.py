"""Boosted trees for lifetime value, kept as plain JSON: nothing is ever unpickled.

Two candidates, each with one ensemble for orders and one for money: scikit-learn's
GradientBoostingRegressor on log(1 + y), smeared back so that its totals are right, and LightGBM
(Poisson, Tweedie) that starts from what BG/NBD expects and learns only what that misses.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BOOSTING = {
    "n_estimators": 100, "learning_rate": 0.06, "max_depth": 3, "subsample": 0.7,
    "min_samples_leaf": 20,
}  # fmt: skip
LIGHT = {
    "learning_rate": 0.03, "num_leaves": 8, "min_data_in_leaf": 40, "lambda_l2": 5.0,
    "feature_fraction": 0.6, "bagging_fraction": 0.7, "bagging_freq": 1, "deterministic": True,
    "force_row_wise": True, "num_threads": 1, "verbosity": -1,
}  # fmt: skip
LIGHT_ROUNDS = 120
DIGITS = 7  # of targets: noise in the last bit, from another currency, would break ties otherwise


def fit(kind: str, x: Floats, y: Floats, base: Floats, *, money: bool, seed: int) -> dict[str, Any]:
    """An ensemble as JSON. `base` is what BG/NBD expects of `y`, from which LightGBM starts."""
    if not y.any():
        return {"kind": "nothing"}
    if kind == "gbr":
        return _fit_gbr(x, y, seed)
    return _fit_lightgbm(x, y, base, money=money, seed=seed)


def predict(params: dict[str, Any], x: Floats, base: Floats) -> Floats:
    """What the ensemble expects, at least zero."""
    if params["kind"] == "gbr":
        return _predict_gbr(params, x)
    if params["kind"] == "nothing" or not len(x):
        return np.zeros(len(x))
    import lightgbm

    raw = lightgbm.Booster(model_str=params["text"]).predict(x, raw_score=True, num_threads=1)
    found: Floats = np.exp(np.asarray(raw) + np.log(base + params["floor"])) * params["smear"]
    return found


def _fit_gbr(x: Floats, y: Floats, seed: int) -> dict[str, Any]:
    from sklearn.ensemble import GradientBoostingRegressor

    unit = float(y.mean()) or 1.0  # the logarithm then does not depend on the currency
    model = GradientBoostingRegressor(random_state=seed, **BOOSTING)
    model.fit(x, np.round(np.log1p(y / unit), DIGITS))
    trees = []
    for (tree,) in model.estimators_:
        parts = tree.tree_
        trees.append(
            {
                "feature": parts.feature.tolist(),
                "threshold": parts.threshold.tolist(),
                "left": parts.children_left.tolist(),
                "right": parts.children_right.tolist(),
                "value": parts.value[:, 0, 0].tolist(),
            }
        )
    params: dict[str, Any] = {
        "kind": "gbr",
        "start": float(model.init_.constant_[0, 0]),
        "rate": float(BOOSTING["learning_rate"]),
        "unit": unit,
        "smear": 1.0,
        "trees": trees,
    }
    params["smear"] = _smear(y, _predict_gbr(params, x))
    return params


def _predict_gbr(params: dict[str, Any], x: Floats) -> Floats:
    x = x.astype("float32").astype("float64")  # the trees were grown on single precision
    total = np.full(len(x), params["start"])
    rows = np.arange(len(x))
    for tree in params["trees"]:
        feature, threshold = np.array(tree["feature"]), np.array(tree["threshold"])
        left, right = np.array(tree["left"]), np.array(tree["right"])
        node = np.zeros(len(x), dtype="int64")
        for _ in range(BOOSTING["max_depth"]):  # type: ignore[call-overload]
            inner = left[node] >= 0
            goes_left = x[rows, np.maximum(feature[node], 0)] <= threshold[node]
            node = np.where(inner, np.where(goes_left, left[node], right[node]), node)
        total += params["rate"] * np.array(tree["value"])[node]
    found: Floats = np.maximum(np.expm1(total), 0.0) * params["unit"] * params["smear"]
    return found


def _fit_lightgbm(x: Floats, y: Floats, base: Floats, *, money: bool, seed: int) -> dict[str, Any]:
    import lightgbm

    unit = float(y.mean()) or 1.0
    floor = 0.01 * (float(base.mean()) or unit)
    settings: dict[str, Any] = {
        **LIGHT,
        "objective": "tweedie" if money else "poisson",
        "boost_from_average": False,
        "seed": seed,
    }
    if money:
        settings["tweedie_variance_power"] = 1.4
    scale = unit if money else 1.0
    data = lightgbm.Dataset(
        x, np.round(y / scale, DIGITS), init_score=np.round(np.log((base + floor) / scale), DIGITS),
        params={"verbosity": -1}, free_raw_data=False,
    )  # fmt: skip
    booster = lightgbm.train(settings, data, num_boost_round=LIGHT_ROUNDS)
    params: dict[str, Any] = {
        "kind": "lightgbm",
        "text": booster.model_to_string(),
        "floor": floor,
        "smear": 1.0,
    }
    params["smear"] = _smear(y, predict(params, x, base))
    return params


def _smear(y: Floats, found: Floats) -> float:
    """What makes the totals right: a mean of logarithms lies far below the log of a mean."""
    total = float(found.sum())
    return float(np.clip(y.sum() / total, 0.2, 20.0)) if total > 0 else 1.0
