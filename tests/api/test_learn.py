"""Predictions, versions and rollouts over REST, as the last training left them."""

import pytest

from chat_app.flows import learn, rollouts
from chat_app.ml import frames, training
from chat_app.ml.training import Trained
from tests.api.conftest import Person, Server
from tests.ml import shops


def test_before_the_first_training_there_is_nothing(server: Server, root: Person) -> None:
    for path in ("predictions/ltv", "predictions/churn", "revenue/forecast"):
        found = root.client.get(f"/api/admin/{path}").json()
        assert (found["items"], found["based_on"]) == ([], None)
    assert root.client.get("/api/admin/ml/versions", params={"kind": "fraud"}).json()["items"] == []


def test_what_was_learnt_is_shown(
    server: Server, root: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Money in whole minor units, the cut-off, the basis and the version beside it."""
    from chat_app.ml.ltv import LTVModel

    person = server.person()
    model = LTVModel(90).fit_summary(shops.cdnow_summary().head(12))
    value = {
        "subject": person.id, "value": 1234.4, "lo": 0.2, "hi": 5000.0, "basis": "bgnbd",
        "reasons": [], "facts": {"expected_purchases": 1.5, "p_active": 0.5, "horizon_days": 90},
    }  # fmt: skip
    risk = {
        "subject": person.id, "value": 0.75, "basis": "model", "reasons": ["late: +9 points"],
        "facts": {"confidence": "high", "protective": [], "horizon_days": 30},
    }  # fmt: skip
    day = {
        "subject": "revenue", "ds": "2026-11-22", "value": 10.0, "lo": 5.0, "hi": 15.0,
        "basis": "history", "reasons": [], "facts": {"lo95": 1.0, "hi95": 20.0, "naive": 9.0},
    }  # fmt: skip
    tried = [{"candidate": "naive", "origin": "", "chosen": False, "scores": {"MASE": None}}]
    monkeypatch.setattr(frames, "people", lambda *_args, **_more: "real")
    for kind, row in (("ltv", value), ("churn", risk), ("forecast", day)):
        found = Trained(kind, 9, "bgnbd", "bgnbd", model, {}, tried, [row])
        monkeypatch.setitem(training.TRAINERS, kind, lambda *_, found=found: found)
        app = server.app
        run = learn.train(app.db, rollouts.of(app), kind, now=app.clock.micros(), actor="operator")
        assert run.error is None
    ltv = root.client.get("/api/admin/predictions/ltv").json()
    [row] = ltv["items"]
    assert (row["username"], row["ltv"]) == (person.username, {"amount": 1234, "currency": "USD"})
    assert ltv["based_on"]["version"] == "1.0"
    assert ltv["based_on"]["is_demo"] is False
    [row] = root.client.get("/api/admin/predictions/churn").json()["items"]
    assert (row["probability"], row["risk_factors"]) == (0.75, ["late: +9 points"])
    shown = root.client.get("/api/admin/revenue/forecast").json()
    assert shown["items"][0]["naive"] == 9.0
    assert shown["backtest"] == tried
    listed = root.client.get("/api/admin/ml/versions").json()
    assert {(one["kind"], one["champion"]) for one in listed["items"]} >= {("ltv", True)}
    assert {one["kind"] for one in listed["rollouts"]} >= {"ltv", "churn", "forecast"}
    # A rollout in the order it was given, the newcomer first.
    again = learn.train(app.db, rollouts.of(app), "ltv", now=app.clock.micros(), actor="operator")
    body = {"kind": "ltv", "weights": {again.version: 0.05, "1.0": 0.95}, "reason": "a try"}
    put = root.client.put("/api/admin/ml/rollout", json=body)
    assert put.status_code == 200, put.text
    assert list(put.json()["weights"].items()) == [(again.version, 0.05), ("1.0", 0.95)]
    assert rollouts.of(app).champion("ltv") == "1.0"
    bad = root.client.put("/api/admin/ml/rollout", json={**body, "weights": {"1.0": 0.5}})
    assert (bad.status_code, bad.json()["error"]["code"]) == (422, "bad_rollout")
    events = root.client.get("/api/admin/audit", params={"type": "rollout_changed"}).json()["items"]
    assert events[0]["actor"] == f"user:{root.id}"
