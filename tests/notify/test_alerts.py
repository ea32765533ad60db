"""Edges and hysteresis of the alerts: once for each edge, again only after it rose well above."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_app.db import Database
from chat_app.money import MICRO
from chat_app.notify import alerts
from chat_app.notify.alerts import BadThreshold, Level, Rule, judge, rearm

RULE = Rule(low=20 * MICRO, critical=5 * MICRO, runout_days=3)


def told(balances: list[float], rule: Rule = RULE, days: float | None = None) -> list[str]:
    """What is told along a way of balances, in credits."""
    levels: dict[str, Level] = {}
    out = []
    for balance in balances:
        levels, fresh = judge(rule, levels, total=round(balance * MICRO), days=days)
        out += fresh
    return out


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ([100, 50, 21], []),
        ([100, 20.000001], []),
        ([100, 20], ["low"]),
        ([100, 19, 18, 12], ["low"]),
        ([100, 19, 21, 19, 22, 19, 24, 19], ["low"]),
        ([100, 19, 24.000001, 19], ["low", "low"]),
        ([100, 19, 5, 4, 0], ["low", "critical"]),
        ([100, 3], ["critical"]),
        ([100, 3, 6, 4], ["critical"]),
        ([100, 3, 6.000001, 4], ["critical", "critical"]),
        ([100, 3, 15, 19], ["critical"]),
        ([100, 3, 100, 3], ["critical", "critical"]),
        ([0], ["critical"]),
        ([-5], ["critical"]),
    ],
)
def test_the_table_of_edges(way: list[float], expected: list[str]) -> None:
    assert told(way) == expected


def test_switched_off_levels_are_silent() -> None:
    assert told([100, 0], Rule(None, None, None)) == []
    assert told([100, 0], Rule(20 * MICRO, None, None)) == ["low"]
    assert told([100, 0.5, 0, 1, 0], Rule(None, 0, None)) == ["critical"]
    assert told([100, 0, 1.000001, 0], Rule(None, 0, None)) == ["critical", "critical"]


def test_running_out_is_told_unless_something_graver_is() -> None:
    assert told([100], days=3.0) == ["runout"]
    assert told([100], days=3.01) == []
    assert told([100], days=None) == []
    assert told([19], days=1.0) == ["low"]
    levels, _ = judge(RULE, {}, total=100 * MICRO, days=2.0)
    for days, fresh in ((3.5, []), (4.5, []), (None, []), (4.6, []), (3.0, ["runout"])):
        levels, now = judge(RULE, levels, total=100 * MICRO, days=days)
        assert now == fresh, days


@given(
    st.lists(st.integers(0, 40_000_000), min_size=1, max_size=60),
    st.integers(0, 30_000_000),
)
def test_each_edge_is_told_once_whatever_the_way(balances: list[int], low: int) -> None:
    """Against a model that looks at the whole way: between two alerts it rose above `rearm`."""
    rule = Rule(low=low, critical=None, runout_days=None)
    levels: dict[str, Level] = {}
    told_at = []
    for at, balance in enumerate(balances):
        levels, fresh = judge(rule, levels, total=balance, days=None)
        if fresh:
            assert balance <= low
            told_at.append(at)
    for one, two in itertools.pairwise(told_at):
        assert max(balances[one:two]) > rearm(low)
    # None is missed: after the first fall, and after each rise above `rearm` and fall.
    expected, armed = [], True
    for at, balance in enumerate(balances):
        if armed and balance <= low:
            expected.append(at)
            armed = False
        elif balance > rearm(low):
            armed = True
    assert told_at == expected
    assert levels["low"].edge == len(expected)


def test_rules_are_kept_and_wrong_ones_refused(database: Database) -> None:
    usual = Rule(20 * MICRO, 5 * MICRO, 3)
    with database.read() as session:
        assert alerts.rule_of(session, user_id=1, usual=usual) == usual
    off = Rule(None, 0, None)
    for rule in (Rule(1, 1, 90), off):
        database.write(lambda s, rule=rule: alerts.set_rule(s, user_id=1, rule=rule, now=1))
    with database.read() as session:
        assert alerts.rule_of(session, user_id=1, usual=usual) == off
    for bad in (Rule(-1, None, None), Rule(1, 2, None), Rule(None, None, 0), Rule(2**62, None, 1)):
        with pytest.raises(BadThreshold):
            database.write(lambda s, bad=bad: alerts.set_rule(s, user_id=1, rule=bad, now=1))


def test_two_who_saw_the_same_edge_do_not_both_tell(database: Database) -> None:
    before: dict[str, Level] = {"low": Level(False, 1)}
    after = {"low": Level(True, 2)}
    database.write(lambda s: alerts.keep(s, user_id=1, before={}, after=before, now=1))
    wins = [
        database.write(lambda s: alerts.keep(s, user_id=1, before=before, after=after, now=2))
        for _ in range(2)
    ]
    assert wins == [True, False]
    with database.read() as session:
        assert alerts.levels_of(session, user_id=1) == after
