"""The fraud model in service: what it learns from, who judges, and what a crash leaves behind."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlmodel import col, select

from benchmarks.fraud_stream import stream
from chat_app.accounts import users
from chat_app.app import App, build
from chat_app.clock import ManualClock, from_micros
from chat_app.flows import drift, fraud, learn, predictions, purchase, rollouts, transfer
from chat_app.flows.fraud import HeldForReview
from chat_app.flows.predictions import Run
from chat_app.ml import frames, training
from chat_app.ml.fraud import Costs, FraudModel, replay, watch
from chat_app.ml.fraud import training as fraud_training
from chat_app.ml.fraud.engine import Engine
from chat_app.ml.fraud.tables import FraudAssessment, FraudLabel
from chat_app.ml.fraud.watch import Judged
from chat_app.ml.rollout import Health
from chat_app.ml.tables import RolloutRow
from chat_app.ml.training import Trained
from chat_app.money import MICRO
from chat_app.notify.tables import InboxRow
from tests.apps import in_loop, person, running_app, script_settings
from tests.house import tree

NOW = 1_795_000_000_000_000
DAY = 86_400_000_000


@pytest.fixture(scope="module")
def events() -> list[dict[str, Any]]:
    return stream(users=16, days=30, seed=3, cases=2)


@pytest.fixture(scope="module")
def model(events: list[dict[str, Any]]) -> FraudModel:
    labels = [row["label"] for row in events]
    return FraudModel().fit(replay(events), labels, [row["ts"] for row in events])


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    made = build(script_settings(tmp_path), clock=ManualClock(from_micros(NOW)))
    made.fraud.engine.budget_us = 10**9  # a busy machine is not what is tried here
    yield made
    made.db.close()


@in_loop
async def test_what_is_learnt_from_is_what_was_seen(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T46: refusals, looks ahead and labels included, to the last bit of every figure."""
    seen: dict[str, tuple[float, ...]] = {}
    record = watch.record

    def noted(session: Any, judged: Judged, **more: Any) -> None:
        seen[judged.event["event_id"]] = judged.decision.features
        record(session, judged, **more)

    monkeypatch.setattr(watch, "record", noted)
    async with running_app(tmp_path, url=database_url) as app:
        alice, _ = await person(app), await person(app, "bob")

        async def sent(credits: int, key: str) -> None:
            await transfer.send(
                app, user_id=alice, to_username="bob", micro=credits * MICRO, key=key
            )

        order = await purchase.buy(app, user_id=alice, micro=1000 * MICRO, key="o")
        await purchase.confirm(app, user_id=alice, payment_id=order.id)
        with pytest.raises(HeldForReview):
            await sent(950, "large")
        held = (await fraud.queue(app))[0]
        await fraud.label(app, id=held.id, label="fraud", by=1)
        await sent(5, "small")
        for number in range(3):
            lost = await purchase.buy(app, user_id=alice, micro=500 * MICRO, key=f"{number}")
            app.db.write(
                lambda session, lost=lost: fraud.failed(app, session, lost, now=app.clock.micros())
            )
        with pytest.raises(HeldForReview):
            await purchase.buy(app, user_id=alice, micro=500 * MICRO, key="again")
        await sent(6, "last")
        with app.db.read() as session:
            rows = list(session.exec(select(FraudAssessment).order_by(col(FraudAssessment.id))))
            found = fraud_training.learnt(session, as_of=app.clock.micros(), whose="real")
            nothing = fraud_training.learnt(session, as_of=app.clock.micros(), whose="demo")
        online = np.array([seen[row.event_id] for row in rows])
        assert len(rows) == len(seen) > 8
        assert np.array_equal(found.figures.to_numpy(), online, equal_nan=True)
        by_id = dict(zip([row.event_id for row in rows], found.truth, strict=True))
        said = [by_id[row.event_id] for row in rows if row.id == held.id]
        assert said == [1.0]
        # Flagged and not looked at is neither fraud nor honest.
        assert np.isnan(found.truth).sum() == sum(row.action != "allow" for row in rows) - 1
        assert len(nothing.truth) == 0


def fill(app: App, events: list[dict[str, Any]]) -> int:
    """The stream as if it had been judged here, with labels a day later; the moment after it."""
    engine = Engine()
    names: dict[str, int] = {}

    def story(session: Any) -> None:
        for row in events:
            at = int(row["ts"].timestamp() * 1e6)
            user = names.setdefault(row["user_id"], len(names) + 1)
            event = {**row, "ts": at, "user_id": str(user)}
            event["account_created_at"] = int(row["account_created_at"].timestamp() * 1e6)
            label = event.pop("label")
            event.pop("scenario")
            watch.record(session, Judged(event, engine.score(event)), now=at)
            if label:
                newest = session.exec(
                    select(FraudAssessment.id).order_by(col(FraudAssessment.id).desc()).limit(1)
                ).one()
                session.add(
                    FraudLabel(
                        assessment_id=newest, label="fraud", labelled_by=1, created_at=at + DAY
                    )
                )

    app.db.write(story)
    return int(events[-1]["ts"].timestamp() * 1e6) + 2 * DAY


def test_it_learns_from_judgements_and_judges_from_then_on(
    app: App, events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From labels to a champion that the engine asks, with a backtest beside rate and rules."""
    now = fill(app, events)
    monkeypatch.setattr(frames, "people", lambda *_args, **_more: "real")
    run = learn.train(app.db, rollouts.of(app), "fraud", now=now, actor="operator")
    assert (run.state, run.error, run.version, run.champion) == ("done", None, "1.0", True)
    assert run.report["good"], run.report["why"]
    with app.db.read() as session:
        tried = {row["candidate"] for row in predictions.backtest(session, run.id)}
        early = fraud_training.learnt(session, as_of=now - 10 * DAY, whose="real")
        late = fraud_training.learnt(session, as_of=now, whose="real")
        lines = watch.thresholds(session, points=[0, 50, 101], costs=Costs(1, 20, 30), since=0)
    assert tried == {"model", "rate", "rules"}
    cases = sum(row["label"] for row in events)
    none, some, never = lines
    assert (none.caught, none.missed, none.cost) == (cases, 0, 0.0)
    assert (never.caught, never.missed, never.cost) == (0, cases, 20.0 * cases)
    assert 0 < some.caught < cases
    assert some.cost == 20.0 * some.missed + 30.0 * some.blocked
    # As of a moment: what came later changes no bit.
    cut = len(early.truth)
    assert 0 < cut < len(late.truth)
    assert np.array_equal(early.figures.to_numpy(), late.figures.to_numpy()[:cut], equal_nan=True)
    assert app.fraud.engine.version == "rules"
    assert rollouts.follow(app)
    assert app.fraud.engine.version == "1.0"
    assert not rollouts.follow(app)
    judged = app.fraud.engine.score(events[0] | {"event_id": "new"})
    assert (judged.model_version, judged.fallback_reason) == ("1.0", None)
    assert judged.bucket is not None
    # One byte of another file: the rules judge, and nothing is executed.
    file = app.settings.data_dir / "models" / "fraud" / "1.0" / "params.json"
    file.write_bytes(file.read_bytes().replace(b"1", b"2", 1))
    again = build(app.settings, clock=app.clock)
    try:
        rollouts.follow(again)
        found = again.fraud.engine.score(events[0])
        assert (found.model_version, found.fallback_reason) == ("rules", "model_refused")
    finally:
        again.db.close()


def trained(app: App, monkeypatch: pytest.MonkeyPatch, model: FraudModel, **more: Any) -> Run:
    """A training of fraud that comes to this model."""
    found = replace(Trained("fraud", 900, "lightgbm", "model", model, why="So."), **more)
    monkeypatch.setattr(fraud_training, "train", lambda *_: found)
    monkeypatch.setattr(frames, "people", lambda *_args, **_more: "real")
    return learn.train(app.db, rollouts.of(app), "fraud", now=NOW, actor="operator")


def state(app: App) -> Any:
    with app.db.read() as session:
        return rollouts.rollout(session, rollouts.of(app), "fraud")


def test_a_newcomer_gets_a_share_and_all_or_nothing_by_how_it_does(
    app: App, model: FraudModel, monkeypatch: pytest.MonkeyPatch, events: list[dict[str, Any]]
) -> None:
    """Shadow, canary, promotion and rollback by itself, each with word to the staff."""
    app.db.write(
        lambda session: users.create(
            session, username="root", email="r@example.org", password_hash="x", role="admin", now=1
        )
    )
    assert trained(app, monkeypatch, model).champion
    rollouts.follow(app)
    worse = trained(app, monkeypatch, model, good=False)
    rollouts.follow(app)
    assert (worse.champion, state(app).shadow) == (False, "1.1")
    engine = app.fraud.engine
    rows = [row | {"event_id": f"x{place}"} for place, row in enumerate(events[:40])]
    judged = [engine.score(row) for row in rows]
    assert {one.model_version for one in judged} == {"1.0"}
    assert {one.shadow_version for one in judged} == {"1.1"}
    assert all(one.shadow_score == one.score for one in judged)  # the same model in both places
    with app.db.read() as session:
        app.fraud.restore(session)
    app.db.write(lambda s: watch.record(s, Judged(_plain(rows[0]), judged[0]), now=NOW))
    with app.db.read() as session:
        kept = session.exec(select(FraudAssessment)).one()
    assert (kept.shadow_version, kept.shadow_score) == ("1.1", round(judged[0].score * 10))
    assert int(kept.bucket) == int((judged[0].bucket or 0) * 1e6)

    better = trained(app, monkeypatch, model)
    rollouts.follow(app)
    assert dict(state(app).weights) == {better.version: 0.1, "1.0": 0.9}
    assert rollouts.of(app).champion("fraud") == "1.0"
    crowd = [
        engine.score(rows[0] | {"event_id": f"c{n}", "user_id": str(n)}).model_version
        for n in range(400)
    ]
    assert 20 < crowd.count("1.2") < 65
    engine.health["1.2"].errors += 9
    engine.health["1.2"].calls += 300
    assert rollouts.follow(app)
    assert state(app).killed == {"1.2"}
    assert engine.score(rows[0] | {"event_id": "d"}).model_version == "1.0"

    trained(app, monkeypatch, model)
    rollouts.follow(app)
    engine.health["1.3"].__dict__.update(Health(calls=1000, micros=[40] * 99).__dict__)
    assert rollouts.follow(app)
    assert (dict(state(app).weights), engine.version) == ({"1.3": 1.0}, "1.3")
    assert rollouts.of(app).champion("fraud") == "1.3"
    with app.db.read() as session:
        told = [row.title for row in session.exec(select(InboxRow).order_by(col(InboxRow.id)))]
    assert told == ["A fraud model was taken out", "A fraud model judges everybody now"]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {"event_id": row["event_id"], "type": row["type"], "user_id": "1", "ts": NOW}


def test_what_was_learnt_from_made_up_people_stops_nobody_real(
    app: App, model: FraudModel, monkeypatch: pytest.MonkeyPatch, events: list[dict[str, Any]]
) -> None:
    found = Trained("fraud", 900, "lightgbm", "model", model, why="So.")
    monkeypatch.setattr(fraud_training, "train", lambda *_: found)
    monkeypatch.setattr(frames, "people", lambda *_args, **_more: "demo")
    learn.train(app.db, rollouts.of(app), "fraud", now=NOW, actor="operator")
    rollouts.follow(app)
    judged = app.fraud.engine.score(events[0])
    assert (judged.model_version, judged.fallback_reason) == ("rules", "killed")
    assert judged.shadow_version == "1.0"
    monkeypatch.setattr(frames, "people", lambda *_args, **_more: "real")
    learn.train(app.db, rollouts.of(app), "fraud", now=NOW, actor="operator")
    rollouts.follow(app)
    assert app.fraud.engine.version == "1.1"


def test_drift_is_told_once_a_week_and_asks_for_a_training(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.db.write(
        lambda session: users.create(
            session, username="root", email="r@example.org", password_hash="x", role="admin", now=1
        )
    )
    alarm = {"column": "tokens_z", "psi": 0.4, "threshold": 0.1, "alarm": True}
    calm = {**alarm, "column": "gap", "alarm": False}
    moved = [[calm], [alarm, calm], [alarm]]
    monkeypatch.setattr(training, "moved", lambda *_: moved.pop(0))
    monkeypatch.setattr(type(rollouts.of(app)), "champion", lambda *_: "1.0")
    for count, due in ((0, False), (1, True), (1, True)):
        assert drift.look(app.db, rollouts.of(app), "churn", now=NOW) == count
        with app.db.read() as session:
            assert drift.moved_since(session, "churn") is due
    with app.db.read() as session:
        told = session.exec(select(InboxRow)).all()
    assert [row.title for row in told] == ["The churn model's world has moved"]
    assert "tokens z" in told[0].body


KILLED = """
import json, os, signal, sys
from dataclasses import replace
from pathlib import Path
import pandas as pd
from chat_app.clock import Clock
from chat_app.db import Database
from chat_app.flows import learn, rollouts
from chat_app.ml import frames, training
from chat_app.ml.ltv import LTVModel
from chat_app.ml.registry import Registry
from chat_app.ml.training import Trained

url, folder = sys.argv[1], Path(sys.argv[2])
shop = pd.DataFrame({"frequency": [2.0, 0, 1] * 9, "recency": [20.0, 0, 5] * 9, "T": [30.0] * 27})
model = LTVModel(90).fit_summary(shop)
good = Trained("ltv", 27, "bgnbd", "bgnbd", model)
frames.people = lambda *_a, **_k: "real"
registry = rollouts.registry(folder, b"a key of thirty-two bytes or more")

def die(*_args, **_more):
    os.kill(os.getpid(), signal.SIGKILL)

def forked(work):
    child = os.fork()
    if not child:
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1]

def train(point):
    training.TRAINERS["ltv"] = die if point == "learning" else lambda *_: good
    if point == "saving":
        Registry._place = staticmethod(die)
    if point == "keeping":
        learn._keep = die
    if point == "committing":
        learn._tidy = die
    if point == "committed":
        Registry.promote = die
    db = Database(url)
    db.write(lambda s: s.execute(learn.text("DELETE FROM ml_training_run WHERE state='running'")))
    learn.train(db, registry, "ltv", now=Clock().micros(), actor="operator")

def look(settled):
    db = Database(url)
    if settled:
        rollouts.settle(db, registry)
    with db.read() as session:
        decided = rollouts.rollout(session, registry, "ltv").incumbent
    print(json.dumps([decided, registry.champion("ltv"), len(registry.verify())]), flush=True)

for point in ("", "learning", "saving", "keeping", "committing", "committed"):
    status = forked(lambda: train(point))
    assert (status == 9) == bool(point), (point, status)
    forked(lambda: look(False))
forked(lambda: look(True))
"""


def test_a_training_that_is_killed_leaves_the_old_champion(app: App) -> None:
    """SIGKILL at every step; after the commit the next look finishes what it decided."""
    done = tree.run_python(
        "-c", KILLED, app.settings.database_url, str(app.settings.data_dir / "apart")
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    old = ["1.0", "1.0", 0]
    assert found[:5] == [old] * 5
    decided, pointed, problems = found[5]
    assert (decided != "1.0", pointed, problems) == (True, "1.0", 0)
    assert found[6] == [decided, decided, 0]
    with app.db.read() as session:
        row = session.get(RolloutRow, "ltv")
    assert row is not None
    assert json.loads(row.state)["weights"] == [[decided, 1.0]]
