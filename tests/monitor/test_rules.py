"""Rules: a fault begins once and ends once, whatever its figure does around the threshold."""

import random

import pytest

from chat_app.monitor import rules
from chat_app.monitor.rules import BadRule, Change, Judge, Rule, State, step

QUEUE = Rule("q", "Queue", "queue", threshold=100, for_seconds=60, unit="ms", advice="-")
DISK = Rule("d", "Disk", "disk", threshold=100, for_seconds=30, unit="GB", advice="-",
            above=False, clear=1.2)  # fmt: skip


def played(rule: Rule, values: list[float | None], every: int = 10) -> list[tuple[int, bool]]:
    """When a fault began or ended, by seconds."""
    state, found = State(), []
    for place, value in enumerate(values):
        edge = step(rule, state, value, now=1000.0 + place * every)
        if edge is not None:
            found.append((place * every, edge))
    return found


def test_a_fault_must_last() -> None:
    assert played(QUEUE, [150] * 6) == []
    assert played(QUEUE, [150] * 30) == [(60, True)]
    assert played(QUEUE, [150] * 5 + [50] + [150] * 5) == []


def test_between_the_edges_nothing_changes() -> None:
    """95 is below the threshold and above 90, where it is well again."""
    assert played(QUEUE, [150] * 7 + [95, 101] * 50) == [(60, True)]
    assert played(QUEUE, [150] * 7 + [95] * 5 + [90] * 20) == [(60, True), (180, False)]
    assert played(DISK, [99] * 4 + [110] * 50) == [(30, True)]
    assert played(DISK, [99] * 4 + [120] * 50) == [(30, True), (70, False)]


def test_what_is_unknown_begins_and_ends_nothing() -> None:
    assert played(QUEUE, [150] * 6 + [None] + [150] * 6) == []
    assert played(QUEUE, [150] * 7 + [None] * 50) == [(60, True)]


def test_a_threshold_of_zero_is_at_once_when_it_says_so() -> None:
    wrong = rules.USUAL["ledger_wrong"]
    assert played(wrong, [0, 0, 2, 2, 0]) == [(20, True), (40, False)]


def test_a_trembling_figure_is_few_faults() -> None:
    dice = random.Random(3)
    values: list[float | None] = [100 + dice.uniform(-4, 4) for _ in range(5000)]
    assert played(QUEUE, [150] * 7 + values) == [(60, True)]


def test_edges_alternate() -> None:
    dice = random.Random(11)
    values: list[float | None] = [dice.choice([50, 95, 150, None]) for _ in range(20_000)]
    edges = [edge for _, edge in played(QUEUE, values, every=30)]
    assert len(edges) > 50
    assert all(edges[at] != edges[at + 1] for at in range(len(edges) - 1))


def test_a_rule_that_is_switched_off_ends_its_fault() -> None:
    judge = Judge("here", rules={"q": QUEUE})
    for now in range(0, 70, 10):
        edges = judge.look({"queue": 150}, now=now)
    assert [edge for _, edge, _ in edges] == [True]
    judge.rules = {"q": rules.changed(QUEUE, Change(enabled=False))}
    assert [edge for _, edge, _ in judge.look({"queue": 150}, now=80)] == [False]
    assert judge.look({"queue": 150}, now=90) == []


@pytest.mark.parametrize(
    "change",
    [
        Change(threshold=-1),
        Change(threshold=float("nan")),
        Change(for_seconds=-1),
        Change(for_seconds=90_000),
        Change(channels=("pigeon",)),
    ],
)
def test_what_cannot_be_meant_is_refused(change: Change) -> None:
    with pytest.raises(BadRule):
        rules.changed(QUEUE, change)


def test_every_rule_says_what_to_do() -> None:
    for name, rule in rules.USUAL.items():
        assert rule.name == name
        assert len(rule.advice.split()) >= 6
        assert rule.advice.endswith(".")
        assert rule.sentence(3.0).endswith(".")
        # What is well is never at fault as well.
        for value in (0.0, rule.threshold, rule.threshold * rule.clear, rule.threshold * 2):
            assert not (rule.beyond(value) and rule.well(value)), name
    assert rules.USUAL["queue_wait"].sentence(12_300) == (
        "People wait in line: 12.3 s (above 10.0 s for 2 min)."
    )
    assert rules.USUAL["disk_low"].sentence(0.5e9) == (
        "Little room on the disk: 0.50 GB (below 1.00 GB for 1 min)."
    )
