"""Who gets which version: exact shares, nobody thrown back, pins, the kill switch, the way back."""

from collections import Counter
from typing import Any

import pytest

from chat_app.ml import rollout
from chat_app.ml.rollout import BadRollout, Health, Rollout, assign

IDS = range(20_000)


def taken(share: float) -> set[int]:
    weights = {"1.1": share, "1.0": 1 - share}
    return {id for id in IDS if assign("fraud", "main", id, weights) == "1.1"}


def test_five_twenty_five_and_none_of_twenty_thousand() -> None:
    """Shares within a point; raising moves nobody back, ending moves everybody back."""
    five, many, none = taken(0.05), taken(0.25), taken(0.0)
    assert abs(len(five) / 20_000 - 0.05) < 0.01
    assert abs(len(many) / 20_000 - 0.25) < 0.01
    assert five < many
    assert none == set()
    assert taken(0.05) == five
    assert taken(1.0) == set(IDS)


def test_experiments_and_tenants_draw_apart() -> None:
    weights = {"b": 0.5, "a": 0.5}
    same = sum(assign("one", "t", id, weights) == assign("two", "t", id, weights) for id in IDS)
    assert abs(same / 20_000 - 0.5) < 0.02
    tenants = Counter(assign("one", f"t{n}", 1, weights) for n in range(2000))
    assert abs(tenants["a"] / 2000 - 0.5) < 0.05


def test_three_versions_have_their_shares() -> None:
    counts = Counter(assign("x", "t", id, {"3": 0.1, "2": 0.2, "1": 0.7}) for id in IDS)
    assert all(
        abs(counts[v] / 20_000 - w) < 0.01 for v, w in {"3": 0.1, "2": 0.2, "1": 0.7}.items()
    )
    # A sum that is a hair below 1 leaves nobody out.
    assert assign("x", "t", 1, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}) in "abc"


def test_a_pin_beats_the_weights() -> None:
    assert assign("x", "acme", 7, {"2": 1.0}, {"acme": "1"}) == "1"
    assert assign("x", "other", 7, {"2": 1.0}, {"acme": "1"}) == "2"


@pytest.mark.parametrize(
    "weights",
    [
        {}, None, {"a": 0.5}, {"a": 0.6, "b": 0.6}, {"a": -0.1, "b": 1.1}, {"a": float("nan")},
        {"a": float("inf")}, {"a": True}, {"a": "1"}, {"": 1.0}, {1: 1.0}, [("a", 1.0)],
    ],
)  # fmt: skip
def test_weights_that_are_none_are_refused(weights: Any) -> None:
    with pytest.raises(BadRollout, match=r"\.$"):
        assign("x", "t", 1, weights)


def test_pins_that_are_none_are_refused() -> None:
    for pins in ({"t": ""}, {"t": None}, ["t"]):
        with pytest.raises(BadRollout):
            assign("x", "t", 1, {"a": 1.0}, pins)  # type: ignore[arg-type]


def test_a_killed_version_answers_nobody() -> None:
    """Not even who is pinned to it; with all killed there is no model, and the rules decide."""
    state = Rollout("x", {"2": 0.5, "1": 0.5}, {"acme": "2"}, shadow="3")
    assert state.choose("acme", 1).why == "pin"
    killed = state.kill("2", "wrong")
    assert {killed.choose("t", id).version for id in range(100)} == {"1"}
    assert killed.choose("acme", 1).version == "1"
    assert killed.choose("acme", 1).why == "killed"
    assert killed.kill("1").choose("t", 1).version is None
    # The bucket is what it was, whatever was decided.
    assert killed.choose("t", 5).bucket == state.choose("t", 5).bucket


def test_the_life_of_a_newcomer() -> None:
    state = Rollout("x", {"1": 1.0}).introduce("2", 0.05)
    assert (state.newcomer, state.incumbent) == ("2", "1")
    state = state.ramp(0.25)
    assert dict(state.weights) == {"2": 0.25, "1": 0.75}
    assert Rollout.from_params(state.to_params()) == state
    done = state.promote()
    assert (done.newcomer, done.incumbent) == (None, "2")
    for wrong in (done.promote, lambda: done.ramp(0.5), lambda: done.introduce("2")):
        with pytest.raises(BadRollout):
            wrong()
    with pytest.raises(BadRollout):
        state.ramp(1.5)


def health(calls: int = 1000, **more: Any) -> Health:
    made = Health()
    for n in range(calls):
        score = more.get("score", lambda n: (n * 7919 % 1000) / 1000)(n)
        slow = n % 50 == 0 and more.get("slow", False)
        failed = n < more.get("errors", 0)
        made.saw(
            None if failed else score,
            micros=9_000 if slow else 40,
            blocked=n < more.get("blocked", 5),
        )
    return made


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"errors": 11}, "failed"),
        ({"slow": True}, "ms"),
        ({"blocked": 11}, "stops"),
        ({"score": lambda n: 0.9}, "PSI"),
    ],
)
def test_a_newcomer_that_does_harm_is_rolled_back(wrong: dict[str, Any], word: str) -> None:
    state = Rollout("x", {"2": 0.5, "1": 0.5})
    after = rollout.watched(state, {"2": health(**wrong), "1": health()})
    assert after.killed == {"2"}
    assert word in after.reason
    assert {after.choose("t", id).version for id in range(50)} == {"1"}
    # It stays out, and the incumbent never goes by itself.
    assert rollout.watched(after, {"2": health(), "1": health(**wrong)}) == after


def test_a_good_or_young_newcomer_stays() -> None:
    state = Rollout("x", {"2": 0.5, "1": 0.5})
    same = health(blocked=10)
    assert rollout.watched(state, {"2": same, "1": health()}) == state
    young = health(calls=199, errors=100)
    assert rollout.watched(state, {"2": young, "1": health()}) == state
    assert rollout.watched(state, {}) == state
    alone = Rollout("x", {"1": 1.0})
    assert rollout.watched(alone, {"1": health(errors=500)}) == alone
