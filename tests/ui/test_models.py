"""Admin, Predictions and Model versions: what a training left, and a change in two steps."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from chat_app.flows import learn, predictions, rollouts
from chat_app.ml import frames, training
from chat_app.ml.ltv import LTVModel
from chat_app.ml.training import Trained
from tests.ml import shops
from tests.ui.conftest import Site, Visitor


@pytest.fixture
def call(site: Site) -> Callable[..., str]:
    """Run a handler by its name; its outputs as one text, or the words of its refusal."""

    def run(who: Visitor, name: str, *data: Any) -> str:
        end, _ = who.call(site.number(name), list(data), None)
        if not end["success"]:
            return str(end["output"]["error"])
        return re.sub(r"<[^>]+>", " ", str(end["output"]["data"]))

    return run


def put(site: Site, monkeypatch: pytest.MonkeyPatch, user_id: int) -> None:
    """Two trainings of lifetime value and one of churn, with hostile words in a reason."""
    model = LTVModel(90).fit_summary(shops.cdnow_summary().head(12))
    row = {"subject": str(user_id), "value": 1234.0, "basis": "bgnbd", "lo": 0.0, "hi": 5000.0,
           "reasons": ["Bought <b>often</b>"],
           "facts": {"expected_purchases": 1.5, "p_active": 0.5, "horizon_days": 90}}  # fmt: skip
    scores = {"naive": {"mae_ltv": 500.0}, "bgnbd": {"mae_ltv": 400.0}}
    backtest = [{"candidate": name, "origin": "", "chosen": name == "bgnbd", "scores": score}
                for name, score in scores.items()]  # fmt: skip
    ltv = Trained("ltv", 12, "bgnbd", "bgnbd", model, scores, backtest, [row])
    gone = {"confidence": "high", "protective": ["comes daily"], "horizon_days": 30}
    churn = Trained("churn", 12, "blend", "model", model, predictions=[
        {**row, "value": 0.9, "facts": gone | {"seen_days_ago": 3}},
        {**row, "subject": "99", "value": 0.99, "facts": gone | {"seen_days_ago": 40}},
    ], drift=[{"column": "gap", "psi": 0.5, "threshold": 0.1, "alarm": True}])  # fmt: skip
    monkeypatch.setattr(frames, "people", lambda *_args, **_more: "real")
    for kind, found in (("ltv", ltv), ("ltv", ltv), ("churn", churn)):
        monkeypatch.setitem(training.TRAINERS, kind, lambda *_args, found=found: found)
        now = site.app.clock.micros()
        run = learn.train(site.app.db, rollouts.of(site.app), kind, now=now, actor="operator")
        assert run.error is None


def test_what_was_learnt_is_shown_and_changed_in_two_steps(
    site: Site, call: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """T46: with its baseline, its cut-off and its reasons; a change wants a reason."""
    admin = site.person(admin=True)
    user = site.person()
    assert "Nothing has been learnt yet" in call(admin, "predictions_show", "Who may leave")
    assert "No version yet" in call(admin, "models_show", "fraud", None)
    with site.app.db.read() as session:
        query = text('SELECT id FROM "user" WHERE username = :name')
        number = session.execute(query, {"name": user.username}).scalar_one()
    put(site, monkeypatch, number)
    shown = call(admin, "predictions_show", "What they will bring")
    for words in (user.username, "12.34 USD", "0.00 USD to 50.00 USD", "&lt;b&gt;often",
                  "plain baseline", "Known up to", "4.000", "BG/NBD on own orders"):  # fmt: skip
        assert words in shown, words
    leaving = call(admin, "predictions_show", "Who may leave")
    assert "90%" in leaving
    assert "1 more have stayed away" in leaving
    assert "99%" not in leaving
    versions = call(admin, "models_show", "ltv", None)
    assert re.search(r"1\.1\W+champion", versions)
    assert "moved" in call(admin, "models_show", "churn", None)

    form = ("ltv", "1.0", "promote")
    assert rollouts.NoReason.message in call(admin, "models_ask", *form, " a ")
    assert "1.0 will answer for everybody" in call(admin, "models_ask", *form, "a way back")
    assert rollouts.NotShared.message in call(admin, "models_change", "ltv", "1.0", "shadow", "why")
    assert "promote, canary" in call(admin, "models_change", "ltv", "1.0", "hand out", "why")
    assert "Nothing was labelled" in call(admin, "fraud_points", 80)
    assert rollouts.of(site.app).champion("ltv") == "1.1"
    assert re.search(r"1\.0\W+champion", call(admin, "models_change", *form, "a way back"))
    assert rollouts.of(site.app).champion("ltv") == "1.0"
    with site.app.db.read() as session:
        current = predictions.current(session, "ltv")
        assert current is not None
        assert current.version == "1.0"
    assert "does not include" in call(site.person(role="support"), "models_change", *form, "why")
