"""Isolation forest as sums of leaves: how few cuts set a row apart from all others.

Trained by scikit-learn and written out in LightGBM's text, whose leaves are the depths, so that a
row is judged in microseconds and nothing has to be unpickled. Knows no label.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from chat_app.ml.scores import Floats

TREES, ROWS = 100, 256
EULER = 0.5772156649015329
# Shares of the training rows that are at least as odd, finest where it matters.
TAILS = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7,
    0.9, 1.0,
)  # fmt: skip


def fit(rows: Floats, *, seed: int) -> str:
    """The forest as LightGBM's text; `rows` has no missing values. Empty where nothing varies."""
    from sklearn.ensemble import IsolationForest

    if len(rows) < 2 or not rows.shape[1] or not np.ptp(rows, axis=0).any():
        return ""
    model = IsolationForest(
        n_estimators=TREES, max_samples=min(ROWS, len(rows)), random_state=seed, n_jobs=1
    )
    model.fit(rows.astype(np.float32))
    trees = zip(model.estimators_, model.estimators_features_, strict=True)
    return _text((_leaves(tree.tree_, features) for tree, features in trees), rows.shape[1])


def tails(depths: Floats) -> list[float]:
    """The depths that TAILS of these rows fall below or reach."""
    found: list[float] = np.quantile(depths, TAILS).tolist()
    return found


def tail(depth: Any, knots: Iterable[float]) -> Floats:
    """The share of usual rows that are at least as odd as rows of this depth."""
    found: Floats = np.interp(depth, list(knots), TAILS, left=TAILS[0] / 2)
    return found


def usual_depth(count: Any) -> Floats:
    """The mean depth at which a row of `count` is found in a tree of random cuts."""
    count = np.asarray(count, dtype=np.float64)
    inner = np.maximum(count, 3.0) - 1.0
    large = 2.0 * (np.log(inner) + EULER) - 2.0 * inner / (inner + 1.0)
    found: Floats = np.where(count <= 1, 0.0, np.where(count <= 2, 1.0, large))
    return found


def _leaves(tree: Any, features: Any) -> dict[str, list[Any]]:
    """One tree in LightGBM's order: inner nodes by number, leaves as ~number."""
    left, right = tree.children_left, tree.children_right
    inner = np.flatnonzero(left >= 0)
    leaves = np.flatnonzero(left < 0)
    depth = np.zeros(len(left))
    for node in inner:  # parents come before their children
        depth[left[node]] = depth[right[node]] = depth[node] + 1
    number = np.zeros(len(left), dtype=int)
    number[inner] = np.arange(len(inner))
    number[leaves] = ~np.arange(len(leaves))
    value = depth[leaves] + usual_depth(tree.n_node_samples[leaves])
    return {
        "split_feature": features[tree.feature[inner]].tolist(),
        "threshold": tree.threshold[inner].tolist(),
        "left_child": number[left[inner]].tolist(),
        "right_child": number[right[inner]].tolist(),
        "leaf_value": value.tolist(),
        "leaf_count": tree.n_node_samples[leaves].tolist(),
        "internal_count": tree.n_node_samples[inner].tolist(),
    }


def _text(trees: Iterable[dict[str, list[Any]]], width: int) -> str:
    names = " ".join(f"c{place}" for place in range(width))
    lines = [
        "tree", "version=v4", "num_class=1", "num_tree_per_iteration=1", "label_index=0",
        f"max_feature_idx={width - 1}", "objective=regression", f"feature_names={names}",
        "feature_infos=" + " ".join(["[-1e300:1e300]"] * width), "",
    ]  # fmt: skip
    for place, tree in enumerate(tree for tree in trees if tree["split_feature"]):
        cuts, leaves = len(tree["split_feature"]), len(tree["leaf_value"])
        lines += [
            f"Tree={place}", f"num_leaves={leaves}", "num_cat=0",
            _row("split_feature", tree), f"split_gain={' '.join(['0'] * cuts)}",
            _row("threshold", tree), f"decision_type={' '.join(['0'] * cuts)}",
            _row("left_child", tree), _row("right_child", tree), _row("leaf_value", tree),
            _row("leaf_weight", {"leaf_weight": tree["leaf_count"]}), _row("leaf_count", tree),
            f"internal_value={' '.join(['0'] * cuts)}",
            _row("internal_weight", {"internal_weight": tree["internal_count"]}),
            _row("internal_count", tree), "is_linear=0", "shrinkage=1", "", "",
        ]  # fmt: skip
    return "\n".join([*lines, "end of trees", ""])


def _row(name: str, tree: dict[str, list[Any]]) -> str:
    return f"{name}={' '.join(repr(value) for value in tree[name])}"
