"""Fraud: each rule at its border, state and replay to the last bit, and what never stops a score.

One made-up stream (`benchmarks/fraud_stream.py`) and one small model serve the whole file.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.fraud_stream import stream
from chat_app.clock import ManualClock
from chat_app.errors import Invalid
from chat_app.ml.fraud import (
    BadEvent,
    Costs,
    Decision,
    Engine,
    FraudModel,
    Rules,
    State,
    events,
    features,
    replay,
)
from chat_app.ml.fraud.engine import BadCosts, points_of
from chat_app.ml.fraud.rules import Finding
from tests.house import tree

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return stream(users=16, days=30, seed=3, cases=2)


@pytest.fixture(scope="module")
def model(rows: Rows) -> FraudModel:
    figures = replay(rows)
    labels = [row["label"] for row in rows]
    return FraudModel().fit(figures, labels, [row["ts"] for row in rows])


def event(type: str, minutes: float = 0, user: str = "ann", **fields: Any) -> dict[str, Any]:
    at = NOON + timedelta(minutes=minutes)
    id = f"{type}-{user}-{minutes}-{sorted(fields.items())}"
    return {"event_id": id, "ts": at, "type": type, "user_id": user} | fields


def judged(*happened: dict[str, Any], rules: Rules | None = None) -> Decision:
    """The decision on the last of these events."""
    engine = Engine(rules=rules)
    return [engine.score(one) for one in happened][-1]


# The rules


def test_the_third_failed_top_up_in_ten_minutes_is_held() -> None:
    fails = [event("topup_failed", minutes, credits=500) for minutes in (0, 5, 9.9)]
    assert judged(*fails[:2]).action == "allow"
    third = judged(*fails)
    assert (third.action, third.reasons) == (
        "hold",
        ("card_testing: 3 failed top-ups in 10 minutes",),
    )
    assert judged(*fails, event("topup", 9.95, credits=500)).action == "hold"
    assert judged(*fails, event("topup", 25, credits=500)).action == "allow"


def test_failed_top_ups_are_counted_across_users_of_a_device() -> None:
    fails = [event("topup_failed", n, user=f"u{n}", device_id="d", credits=500) for n in range(3)]
    assert judged(*fails).action == "hold"


def test_four_small_amounts_in_an_hour_are_a_test_of_cards() -> None:
    tries = [event("topup", n * 10, credits=100 + n) for n in range(4)]
    assert judged(*tries[:3]).action == "allow"
    assert judged(*tries).action == "hold"
    same = [event("topup", n * 10, credits=100) for n in range(4)]
    assert judged(*same).action == "allow"


@pytest.mark.parametrize(("sent", "hours", "action"), [
    (800, 23.9, "hold"), (799, 23.9, "allow"), (800, 24.1, "allow"),
])  # fmt: skip
def test_most_of_a_top_up_sent_on_within_a_day_is_held(
    sent: int, hours: float, action: str
) -> None:
    found = judged(event("topup", credits=1000), event("transfer_out", hours * 60, credits=sent))
    assert found.action == action


def test_a_top_up_sent_on_in_parts_is_held_too() -> None:
    parts = [event("transfer_out", n, credits=300) for n in (1, 2, 3)]
    assert judged(event("topup", credits=1000), *parts[:2]).action == "allow"
    assert judged(event("topup", credits=1000), *parts).action == "hold"


def test_the_fifth_account_of_a_device_and_the_eighth_of_an_address_get_no_bonus() -> None:
    """T34: a farm of accounts."""
    device = [event("signup_bonus", n, user=f"u{n}", device_id="d") for n in range(5)]
    assert judged(*device[:4]).action == "allow"
    assert judged(*device).reasons[0].startswith("many_accounts")
    address = [event("signup_bonus", n, user=f"u{n}", ip="81.2.3.4") for n in range(8)]
    assert judged(*address[:7]).action == "allow"
    assert judged(*address).action == "hold"
    slow = [event("signup_bonus", n * 400, user=f"u{n}", ip="81.2.3.4") for n in range(8)]
    assert judged(*slow).action == "allow"


def test_an_old_office_of_many_is_no_farm() -> None:
    office = [event("message", n, user=f"u{n}", ip="81.2.3.4", credits=1) for n in range(20)]
    assert judged(*office, event("voucher", 1500, user="u1", ip="81.2.3.4")).action == "allow"


def test_codes_of_a_device_and_of_an_hour() -> None:
    device = [event("voucher", n, user=f"u{n}", device_id="d") for n in range(3)]
    assert judged(*device[:2]).action == "allow"
    assert judged(*device).action == "hold"
    code = [event("voucher", n, user=f"u{n}", voucher_code="spring") for n in range(10)]
    assert judged(*code[:9]).action == "allow"
    assert judged(*code).action == "hold"
    assert judged(*code, rules=Rules(redeems_per_code=0)).action == "allow"


def test_two_refunds_of_most_of_the_top_ups_are_looked_at() -> None:
    bought = [event("topup", n, credits=1000) for n in (0, 1)]
    back = [event("refund", 60 + n, credits=600) for n in (0, 1)]
    assert judged(*bought, back[0]).action == "allow"
    assert judged(*bought, *back).action == "review"
    small = [event("refund", 60 + n, credits=400) for n in (0, 1)]
    assert judged(*bought, *small).action == "allow"


def test_spending_far_beyond_the_own_peak_is_looked_at_and_never_held() -> None:
    usual = [event("message", n * 60, credits=5) for n in range(10)]
    burst = [event("message", 700 + n / 10, credits=10) for n in range(6)]
    assert judged(*usual, *burst[:3]).action == "allow"
    found = judged(*usual, *burst)
    assert found.action == "review"
    assert found.reasons[0].startswith("token_burn")


def test_a_new_place_and_device_with_an_odd_amount_is_looked_at() -> None:
    own = {"ip": "81.2.3.4", "device_id": "d"}
    usual = [event("topup", n * 2000, credits=1000 + n, **own) for n in range(6)]
    new = {"ip": "90.1.1.1", "device_id": "x"}
    at = 30000.0
    assert judged(*usual, event("topup", at, credits=90000, **own)).action == "allow"
    assert judged(*usual, event("topup", at, credits=1000, **new)).action == "allow"
    assert judged(*usual, event("topup", at, credits=90000, **new)).action == "review"


OWN = {"ip": "81.2.3.4", "device_id": "laptop"}
STRANGE = {"ip": "90.1.1.1", "device_id": "thief"}
DAY_MINUTES = 1440.0


def settled(user: str = "ann", days: int = 8) -> Rows:
    """A user of a week, each noon on the own device at home, with a transfer to a friend."""
    usual = [event("message", n * DAY_MINUTES, user=user, credits=4 + n % 3, **OWN)
             for n in range(days)]  # fmt: skip
    sent = event("transfer_out", 1, user=user, credits=40, counterparty_id="bob", **OWN)
    return [usual[0], sent, *usual[1:]]


def test_after_a_password_changed_by_a_stranger_nothing_leaves_the_account() -> None:
    """Sign-in, new password, transfer: each new to the account when it began."""
    at = 8 * DAY_MINUTES
    came = event("login", at, **STRANGE)
    changed = event("password_change", at + 2, **STRANGE)
    assert (found := judged(*settled(), came)).action == "allow"
    assert found.reasons[0].startswith("stranger: a sign-in from a device and a network")
    assert judged(*settled(), came, changed).action == "review"
    for minutes, action in ((5, "hold"), (23 * 60, "hold"), (25 * 60, "review")):
        sent = event("transfer_out", at + minutes, credits=30, counterparty_id="sink", **STRANGE)
        found = judged(*settled(), came, changed, sent)
        assert (found.action, found.reasons[0][:8]) == (action, "takeover"), minutes
    mine = event("transfer_out", at + 30, credits=30, counterparty_id="sink", **OWN)
    assert judged(*settled(), came, changed, mine).action == "allow"


@pytest.mark.parametrize(("place", "reason"), [
    ({"ip": "90.1.1.1", "device_id": "laptop"}, "the own device in another network"),
    ({"ip": "81.2.3.99", "device_id": "telephone"}, "a new device in the own network"),
    ({"device_id": "laptop"}, "no address at all"),
    ({}, "nothing known of the place"),
])  # fmt: skip
def test_one_familiar_thing_makes_nobody_a_stranger(place: dict[str, Any], reason: str) -> None:
    at = 8 * DAY_MINUTES
    happened = [*settled(), event("login", at, **place), event("password_change", at + 2, **place)]
    sent = event("transfer_out", at + 5, credits=30, counterparty_id="sink", **place)
    assert judged(*happened).score == 0, reason
    assert judged(*happened, sent).action == "allow", reason


def test_a_place_is_strange_for_three_days_and_never_on_the_first() -> None:
    def strange(*happened: dict[str, Any]) -> float:
        return judged(*happened).features[features.PLACE["foreign"]]

    at = 8 * DAY_MINUTES
    came = event("login", at, **STRANGE)
    assert strange(*settled(), came) == 1
    for days, left in ((1, 2 / 3), (2, 1 / 3), (3, 0), (9, 0)):
        later = event("message", at + days * DAY_MINUTES, credits=4, **STRANGE)
        assert strange(*settled(), came, later) == pytest.approx(left)
    young = [event("message", 60, credits=4, **OWN), event("login", 120, **STRANGE)]
    assert strange(*young) == 0
    assert strange(*young, event("message", 3 * DAY_MINUTES, credits=4, **STRANGE)) == 0


def test_the_own_places_are_not_forgotten_on_a_journey() -> None:
    """A new network each day pushes out what was not used, never the device that is."""
    away = [event("message", (8 + n) * DAY_MINUTES, credits=4, ip=f"92.40.{n}.1",
                  device_id="laptop") for n in range(60)]  # fmt: skip
    back = event("transfer_out", 70 * DAY_MINUTES, credits=30, counterparty_id="new", **OWN)
    assert judged(*settled(), *away, back).action == "allow"


def test_what_tells_an_owner_is_counted_as_it_says() -> None:
    def told(name: str, *more: dict[str, Any]) -> float:
        return judged(*settled(), *more).features[features.PLACE[name]]

    at = 20 * DAY_MINUTES
    sent = event("transfer_out", at, credits=79, counterparty_id="bob", **OWN)
    other = event("transfer_out", at, credits=79, counterparty_id="eve", **OWN)
    assert (told("new_payee", sent), told("new_payee", other)) == (0, 1)
    assert told("amount_to_most", sent) == pytest.approx(np.log(80 / 41))
    assert told("rest", sent) == pytest.approx(np.log1p(13 * 24))
    assert told("sitting", sent) == 0
    soon = event("message", at + 9, credits=1, **OWN)
    assert told("rest", sent, soon) == pytest.approx(np.log1p(13 * 24))
    assert told("sitting", sent, soon) == pytest.approx(np.log1p(9))
    night = event("message", at + 11 * 60, credits=1, **OWN)
    assert told("hour_near", sent) > 0.5 > 0.2 > told("hour_near", night)


def test_a_large_amount_of_an_account_of_minutes_is_looked_at() -> None:
    others = [event("topup", n, user=f"u{n}", credits=1000) for n in range(150)]
    made = NOON + timedelta(minutes=140)
    young = event("topup", 160, credits=50000, account_created_at=made)
    old = event("topup", 160, credits=50000, account_created_at=NOON - timedelta(days=9))
    assert judged(*others, young).reasons[0].startswith("new_account")
    assert judged(*others, old).action == "allow"


def test_an_odd_hour_alone_is_nothing_and_never_makes_a_hold() -> None:
    day = 24 * 60.0
    usual = [event("message", n * day, credits=1) for n in range(60)]
    night = 60 * day + 12 * 60
    assert judged(*usual, event("message", night, credits=1)).score == 0
    bought = [event("topup", 60 * day + n, credits=1000) for n in (0, 1)]
    back = [event("refund", at, credits=900) for at in (60 * day + 5, night)]
    found = judged(*usual, *bought, *back)
    assert (found.score, found.action) == (70.0, "review")
    assert found.reasons[1].startswith("odd_hour")


def test_every_rule_can_be_switched_off(rows: Rows) -> None:
    off = Rules(0, 0, 0, 0, 0, 0, 0, 0, 0.5, 0, 0, 0, 0, 0, 0)
    engine = Engine(rules=off)
    assert {engine.score(row).action for row in rows} == {"allow"}


def test_rules_alone_find_most_cases_and_trouble_hardly_anybody(rows: Rows) -> None:
    engine = Engine()
    found = [(row, engine.score(row)) for row in rows]
    honest = [decision.action == "allow" for row, decision in found if not row["label"]]
    assert np.mean(honest) > 0.995
    caught = {row["scenario"] for row, decision in found if row["label"]
              and decision.action != "allow"}  # fmt: skip
    assert {"card_testing", "mule", "sybil", "voucher", "refund"} <= caught


# The state


def test_online_and_replay_give_the_same_figures_to_the_last_bit(rows: Rows) -> None:
    engine = Engine()
    online = np.array([engine.score(row).features for row in rows])
    again = replay(rows)
    assert np.array_equal(online, again.to_numpy(), equal_nan=True)
    assert list(again.columns) == list(features.NAMES)
    assert list(again.index) == [row["event_id"] for row in rows]
    assert np.array_equal(online, replay(pd.DataFrame(rows)).to_numpy(), equal_nan=True)


def test_replay_goes_by_time_whatever_the_order_of_the_rows(rows: Rows) -> None:
    mixed = np.random.default_rng(0).permutation(len(rows)).tolist()
    found = replay([rows[place] for place in mixed])
    pd.testing.assert_frame_equal(found, replay(rows).iloc[mixed])


def test_what_comes_later_changes_no_figure(rows: Rows) -> None:
    half = len(rows) // 2
    pd.testing.assert_frame_equal(replay(rows[:half]), replay(rows).iloc[:half])


def test_a_state_that_was_saved_goes_on_to_the_last_bit(rows: Rows) -> None:
    half = len(rows) // 2
    state = State()
    replay(rows[:half], state=state)
    kept = State.of(json.loads(json.dumps(state.dump())))
    found = replay(rows[half:], state=kept)
    assert np.array_equal(found.to_numpy(), replay(rows).to_numpy()[half:], equal_nan=True)


def test_the_state_stays_small_for_each_user(rows: Rows) -> None:
    """A user with ten thousand events is no larger than one with a hundred."""
    state = State()
    for number in range(3000):
        one = event("message", number, ip=f"81.{number % 250}.{number % 7}.1", credits=1 + number,
                    device_id=f"d{number}", tokens=number)  # fmt: skip
        features.observe(state, events.read(one))
    assert len(json.dumps(state.find("user", "ann").dump())) < 8000


def test_an_id_that_comes_again_is_counted_once() -> None:
    clock = ManualClock(NOON)
    engine = Engine(None, clock)
    first = engine.score(event("topup_failed", 0, credits=5))
    again = engine.score(event("topup_failed", 0, credits=5))
    assert (first.cached, again.cached) == (False, True)
    assert again.features == first.features
    assert engine.state.find("user", "ann").n == 1
    twice = [event("topup_failed", 0, credits=5)] * 2
    assert replay(twice).iloc[1].equals(replay(twice).iloc[0])


def test_labels_that_arrive_later_move_the_risk_of_what_they_touched() -> None:
    happened = [event("topup", 0, ip="81.2.3.4", credits=50), event("topup", 8 * 1440, credits=5),
                event("topup", 9 * 1440, user="bob", ip="81.2.3.4", credits=50)]  # fmt: skip
    labels = {happened[0]["event_id"]: 1}
    found = replay(happened, labels=labels)["risk"].tolist()
    assert found == [0, 1 / 21, 1 / 21]
    assert replay(happened, labels=labels, label_delay="30D")["risk"].tolist() == [0, 0, 0]
    engine = Engine()
    engine.score(happened[0])
    engine.confirm(happened[0], fraud=True)
    assert engine.score(happened[2]).features[features.PLACE["risk"]] == 1 / 21
    engine.confirm(happened[0], fraud=False)
    assert engine.state.find("user", "ann").bad == 0


def test_who_is_forgotten_leaves_no_trace() -> None:
    engine = Engine()
    engine.score(event("topup", 0, user="ann", ip="81.2.3.4", device_id="d", credits=50))
    engine.score(event("transfer_in", 1, user="bob", counterparty_id="ann", credits=50))
    engine.score(event("transfer_out", 2, user="bob", counterparty_id="ann", credits=5))
    engine.state.forget("user", "ann")
    assert '"ann"' not in json.dumps(engine.state.dump())


def test_a_look_ahead_leaves_the_state_as_it_is() -> None:
    engine = Engine()
    fails = [event("topup_failed", n, credits=500, device_id="d") for n in range(2)]
    for one in fails:
        engine.score(one)
    before = json.dumps(engine.state.dump())
    ahead = engine.peek(event("topup_failed", 3, credits=500, device_id="d", ip="81.2.3.4"))
    assert ahead.action == "hold"
    assert json.dumps(engine.state.dump()) == before


def test_what_was_idle_for_months_begins_anew() -> None:
    engine = Engine()
    engine.score(event("topup", 0, credits=50))
    late = engine.score(event("topup", 91 * 1440, credits=50))
    assert late.features[features.PLACE["events"]] == 0
    assert engine.state.tidy((NOON + timedelta(days=400)).timestamp()) == 2  # the user, the tenant


# Events


@pytest.mark.parametrize(("broken", "field"), [
    ({"type": "gift"}, "type"), ({"event_id": None}, "event_id"), ({"user_id": ""}, "user_id"),
    ({"ts": None}, "ts"), ({"ts": "yesterday"}, "ts"), ({"ts": float("inf")}, "ts"),
    ({"ts": pd.NaT}, "ts"), ({"credits": "many"}, "credits"),
    ({"credits": float("inf")}, "credits"), ({"tokens": "x"}, "tokens"),
    ({"account_created_at": []}, "account_created_at"),
])  # fmt: skip
def test_what_is_no_event_is_refused_by_name(broken: dict[str, Any], field: str) -> None:
    with pytest.raises(BadEvent) as refused:
        Engine().score(event("topup") | broken)
    assert refused.value.facts["field"] == field


def test_times_of_any_kind_and_amounts_as_text_are_the_same() -> None:
    aware = events.read(event("topup", credits="12.5"))
    naive = event("topup", credits=12.5) | {"ts": NOON.replace(tzinfo=None)}
    micros = event("topup", credits=12.5) | {"ts": int(NOON.timestamp() * 1e6)}
    text = event("topup", credits=12.5) | {"ts": NOON.isoformat()}
    assert {events.read(one | {"event_id": "x"}) for one in (naive, micros, text)} == {
        aware._replace(id="x")
    }
    gaps = event("topup", credits=12.5) | dict.fromkeys(
        ("ip", "device_id", "tokens", "email_verified", "account_created_at"), float("nan")
    )
    assert events.read(gaps)[1:] == aware[1:]


def test_networks_are_a_24_and_a_48() -> None:
    assert events.network("81.2.3.4") == events.network("81.2.3.99") == "81.2.3.0/24"
    assert events.network("2a01:4f8:1:2::5") == "2a01:4f8:1::/48"
    assert events.network("a hash") == ""


# The engine


def test_without_a_model_the_rules_decide_and_say_so() -> None:
    found = Engine(None, ManualClock(NOON)).score(event("topup", credits=5))
    assert (found.action, found.model_version, found.fallback_reason) == (
        "allow", "rules", "no_model",
    )  # fmt: skip
    assert found.probability is None


class Shelf:
    """A registry of one model."""

    def __init__(self, model: Any, version: str | None = "1.0") -> None:
        self.model, self.version = model, version

    def champion(self, kind: str) -> str | None:
        assert kind == "fraud"
        return self.version

    def load(self, kind: str, version: str) -> Any:
        if isinstance(self.model, Exception):
            raise self.model
        return self.model


def test_a_champion_judges_and_its_figures_are_those_of_the_table(
    rows: Rows, model: FraudModel
) -> None:
    engine = Engine(Shelf(model), ManualClock(NOON), budget_us=10**9)
    assert engine.version == "1.0"
    online = [engine.score(row) for row in rows]
    table = replay(rows)
    chances = [one.probability for one in online]
    assert np.allclose(chances, model.score(table), rtol=0, atol=1e-12)
    assert np.allclose([one.novelty for one in online], model.novelty(table), rtol=0, atol=1e-12)


def test_a_refused_model_leaves_the_rules_in_charge(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(Shelf(Invalid("One byte is another.")), ManualClock(NOON))
    found = engine.score(event("topup", credits=5))
    assert (found.model_version, found.fallback_reason) == ("rules", "model_refused")
    assert "One byte is another" in caplog.text


class Broken:
    """A model that fails, or whose answer takes its time."""

    def __init__(self) -> None:
        self.report = {"rows": 9999}
        self.calls = 0
        self.fails = False

    def reader(self, _names: Any) -> Any:
        return self

    def __call__(self, _row: Any) -> tuple[float, float]:
        self.calls += 1
        if self.fails:
            raise ZeroDivisionError
        return 0.9, 1.0


def test_five_failures_in_a_minute_rest_the_model_for_a_minute() -> None:
    clock, broken = ManualClock(NOON), Broken()
    engine = Engine(Shelf(broken), clock)
    assert engine.score(event("topup", 0, credits=1)).action == "hold"
    broken.fails, calls = True, broken.calls
    why = [engine.score(event("topup", n, credits=n)).fallback_reason for n in range(1, 8)]
    assert why == ["model_failed"] * 5 + ["breaker_open"] * 2
    assert broken.calls == calls + 5
    broken.fails = False
    clock.advance(seconds=61)
    assert engine.score(event("topup", 9, credits=9)).model_version == "1.0"


def test_failures_far_apart_rest_nothing() -> None:
    clock, broken = ManualClock(NOON), Broken()
    engine = Engine(Shelf(broken), clock)
    broken.fails = True
    for n in range(9):
        clock.advance(seconds=16)
        assert engine.score(event("topup", n, credits=n)).fallback_reason == "model_failed"


def test_a_late_answer_is_not_used() -> None:
    engine = Engine(Shelf(Broken()), ManualClock(NOON), budget_us=-1)
    found = engine.score(event("topup", 0, credits=1))
    assert (found.action, found.fallback_reason) == ("allow", "model_late")


def test_the_cache_serves_five_minutes_and_never_skips_the_state() -> None:
    """The judgement is kept, the counters are not blinded by it."""
    clock = ManualClock(NOON)
    engine = Engine(Shelf(Broken()), clock)
    people = [engine.score(event("topup_failed", 0, user=f"u{n}", credits=5)) for n in range(3)]
    assert [one.cached for one in people] == [False, True, True]
    assert len({one.features_hash for one in people}) == 1
    assert (engine.cache.hits, engine.cache.misses) == (2, 1)
    assert [engine.state.find("user", f"u{n}").n for n in range(3)] == [1, 1, 1]
    for n in (1, 2):
        last = engine.score(event("topup_failed", n, user="u1", credits=5))
    assert any(reason.startswith("card_testing") for reason in last.reasons)
    clock.advance(seconds=300)
    assert not engine.score(event("topup_failed", 0, user="u9", credits=5)).cached


def test_another_version_is_never_served_from_the_cache() -> None:
    shelf = Shelf(Broken())
    engine = Engine(shelf, ManualClock(NOON))
    engine.score(event("topup", 0, user="a", credits=5))
    shelf.version = "1.1"
    assert engine.refresh() == "1.1"
    found = engine.score(event("topup", 0, user="b", credits=5))
    assert (found.cached, found.model_version) == (False, "1.1")
    shelf.version = None
    assert engine.refresh() == "rules"
    assert engine.score(event("topup", 0, user="c", credits=5)).fallback_reason == "no_model"


def test_costs_draw_the_lines() -> None:
    costs = Costs(review=1, loss=20, false_block=30)
    assert costs.thresholds == (0.05, 0.6)
    assert points_of(0.05, costs) == 50
    assert points_of(0.6, costs) == 80
    assert points_of(1.0, costs) == 100
    assert points_of(0.0, costs) == 0
    rising = [points_of(p, Costs(review=50, loss=20)) for p in np.linspace(0, 1, 50)]
    assert rising == sorted(rising)
    with pytest.raises(BadCosts):
        Costs(review=0)
    engine = Engine(Shelf(Broken()), ManualClock(NOON))
    assert engine.score(event("topup", 0, user="a", credits=5)).action == "hold"
    engine.costs = Costs(false_block=1000)
    assert engine.score(event("topup", 0, user="b", credits=5)).action == "review"


def test_what_is_only_new_is_looked_at_and_never_held() -> None:
    class New(Broken):
        def __call__(self, _row: Any) -> tuple[float, float]:
            return 0.0, 1e-9

    found = Engine(Shelf(New()), ManualClock(NOON)).score(event("topup", credits=5))
    assert found.action == "review"
    assert found.reasons[0].startswith("novelty")


def test_a_rule_that_fails_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> list[Finding]:
        raise ZeroDivisionError

    monkeypatch.setattr(features, "_failed", fails)
    found = Engine().score(event("topup", credits=5))
    assert (found.action, found.fallback_reason) == ("allow", "state_failed")
    assert "could not be taken" in caplog.text


def test_reading_the_room_loads_no_library() -> None:
    heavy = ("lightgbm", "sklearn", "scipy", "pandas", "numpy")
    code = f"import sys, chat_app.ml.fraud; print([n for n in {heavy} if n in sys.modules])"
    done = tree.run_python("-c", code)
    assert done.stdout.strip() == "[]", done.stderr
