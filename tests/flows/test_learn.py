"""Learning from the books: as of a moment, from one kind of people, promoted when good enough."""

import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import text

from chat_app import app as app_room
from chat_app.app import App
from chat_app.clock import Clock, ManualClock, from_micros
from chat_app.credits.ledger import BadCursor
from chat_app.flows import learn, predictions, rollouts, simulate
from chat_app.flows.learn import TrainingRuns
from chat_app.flows.predictions import Run
from chat_app.flows.rollouts import UnknownKind
from chat_app.ml import forecast, frames, training
from chat_app.ml.registry import BadModel, UnknownModelVersion
from chat_app.ml.rollout import BadRollout, Rollout
from chat_app.ml.training import Trained
from tests import apps
from tests.ml import shops

NOW = 1_795_000_000_000_000
MONTH = 30 * 86_400_000_000


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An app with a made-up history; the tests leave its books as they are."""
    folder = tmp_path_factory.mktemp("learn")
    made = app_room.build(apps.script_settings(folder), clock=ManualClock(from_micros(NOW)))
    simulate.run(made.db, made.settings, users=32, months=3, seed=5, now=NOW)
    yield made
    made.db.close()


def trained(**more: Any) -> Trained:
    """What a trainer might give."""
    from chat_app.ml.ltv import LTVModel

    model = LTVModel(90).fit_summary(shops.cdnow_summary().head(12))
    row = {"subject": "1", "basis": "bgnbd", "lo": 0.0, "hi": 9.0, "reasons": [],
           "facts": {"expected_purchases": 1.0, "p_active": 0.5, "horizon_days": 90}}  # fmt: skip
    rows = [{**row, "subject": str(n), "value": float(n % 3)} for n in range(1, 8)]
    return replace(Trained("ltv", 12, "bgnbd", "bgnbd", model, predictions=rows), **more)


def put(app: App, monkeypatch: pytest.MonkeyPatch, found: Trained, whose: str = "demo") -> Run:
    """A training of LTV that comes to this."""
    monkeypatch.setitem(training.TRAINERS, "ltv", lambda *_: found)
    monkeypatch.setattr(frames, "people", lambda *_args, **_more: whose)
    return learn.train(app.db, rollouts.of(app), "ltv", now=NOW, actor="operator")


def test_frames_know_nothing_later(app: App) -> None:
    """What comes after `as_of` changes no bit, and the parts add up to the books."""
    early = NOW - MONTH
    with app.db.read() as session:
        paid = frames.purchases(session, as_of=NOW, whose="demo")
        came = frames.visits(session, as_of=NOW, whose="demo")
        days = frames.daily(session, as_of=NOW, whose="demo")
        for frame, make in (
            (paid, frames.purchases), (came, frames.visits), (days, frames.daily)
        ):  # fmt: skip
            past = make(session, as_of=early, whose="demo")
            column = "ds" if "ds" in frame.columns else "ts"
            cut = pd.Timestamp(early, unit="us", tz="UTC")
            cut = cut.floor("D") - pd.Timedelta(1, "us") if column == "ds" else cut
            expected = frame[frame[column] <= cut]
            keys = list(frame.columns)
            pd.testing.assert_frame_equal(
                past.sort_values(keys, ignore_index=True),
                expected.sort_values(keys, ignore_index=True),
            )
        assert frames.purchases(session, as_of=NOW, whose="real").empty
        assert frames.people(session, as_of=NOW) == "demo"
        spent = session.execute(text("SELECT SUM(cost) FROM usage")).scalar_one()
        used = days[days["unique_id"] == "credits"]["y"].sum()
        assert used == pytest.approx(spent / 1_000_000)
        money = session.execute(
            text("SELECT SUM(amount_minor) FROM payment WHERE status = 'paid'")
        ).scalar_one()
        back = session.execute(
            text("SELECT COALESCE(SUM(amount_minor), 0) FROM refund")
        ).scalar_one()
        assert paid["amount"].sum() == money - back


def test_the_real_models_learn_from_the_books(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """All three, with the baselines beside them; nothing of a person is in the files."""
    monkeypatch.setattr(forecast, "BASIC", ("naive", "theta", "holt_winters"))
    models = rollouts.of(app)
    for kind in ("ltv", "churn", "forecast"):
        run = learn.train(app.db, models, kind, now=NOW, actor="operator")
        assert (run.state, run.error, run.champion, run.is_demo) == ("done", None, True, True)
        assert models.champion(kind) == run.version
        with app.db.read() as session:
            rows, _ = predictions.page(session, kind=kind, limit=500)
            assert rows
            assert predictions.current(session, kind) == run
    assert not list((app.settings.data_dir / "models").glob("*/*/rows.json"))
    with app.db.read() as session:
        money = predictions.path(session, kind="forecast", subject="revenue")
        tried = {row["candidate"] for row in predictions.backtest(session, run.id)}
    assert len(money) == training.FORECAST_DAYS
    assert [one.ds for one in money] == sorted(one.ds for one in money)
    assert all(one.lo <= one.value <= one.hi for one in money if one.lo and one.hi)
    assert "naive" in tried


def test_a_worse_model_is_kept_and_not_promoted(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """The champion's predictions stay on show; the newcomer is there to be looked at."""
    first = put(app, monkeypatch, trained())
    assert first.champion
    worse = put(app, monkeypatch, trained(good=False))
    assert (worse.state, worse.champion) == ("done", False)
    with app.db.read() as session:
        shown = predictions.current(session, "ltv")
        assert shown is not None
        assert shown.id == first.id
        rows, following = predictions.page(session, kind="ltv", limit=3)
        rest, end = predictions.page(session, kind="ltv", limit=10, cursor=following)
        values = [one.value for one in rows + rest]
        assert values == sorted(values, reverse=True)
        assert (len(values), end) == (7, None)
        with pytest.raises(BadCursor):
            predictions.page(session, kind="ltv", cursor="x")
    app.db.write(lambda session: predictions.forget(session, user_id=4))
    with app.db.read() as session:
        rows, _ = predictions.page(session, kind="ltv", limit=10)
    assert {one.subject for one in rows} == {"1", "2", "3", "5", "6", "7"}
    # What was learnt from made-up people gives way to the real, whatever its backtest says.
    real = put(app, monkeypatch, trained(good=False), whose="real")
    assert (real.champion, real.is_demo) == (True, False)
    assert rollouts.of(app).champion("ltv") == real.version


def test_a_failed_training_is_recorded(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Trained:
        raise ValueError("nothing fits")

    before = rollouts.of(app).champion("ltv")
    monkeypatch.setitem(training.TRAINERS, "ltv", broken)
    run = learn.train(app.db, rollouts.of(app), "ltv", now=NOW, actor="operator")
    assert (run.state, run.error, run.version) == ("failed", "ValueError: nothing fits", None)
    assert rollouts.of(app).champion("ltv") == before
    none = put(app, monkeypatch, Trained("ltv", 0, "", "insufficient"))
    assert (none.state, none.version) == ("done", None)
    with pytest.raises(UnknownKind):
        learn.train(app.db, rollouts.of(app), "weather", now=NOW, actor="operator")


def test_one_training_of_a_kind_at_a_time(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, begun once; one that died makes way after hours."""
    begun: list[dict[str, Any]] = []

    class Context:
        def Process(self, **given: Any) -> "Context":
            begun.append(given)
            return self

        def start(self) -> None: ...

    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: Context())
    clock = app.clock
    assert isinstance(clock, ManualClock)
    runs = learn.begin(app, kinds=["churn"], actor="user:1")
    assert [(run.kind, run.state) for run in runs] == [("churn", "running")]
    with pytest.raises(TrainingRuns):
        learn.begin(app, kinds=["ltv", "churn"], actor="user:1")
    assert len(begun) == 1
    assert begun[0]["kwargs"]["url"] == app.settings.database_url
    clock.advance(hours=4)
    [again] = learn.begin(app, kinds=["churn"], actor="user:1")
    with app.db.read() as session:
        dead = next(run for run in predictions.runs(session, kind="churn") if run.id == runs[0].id)
    assert (dead.state, dead.error) == ("failed", "The training's process is gone.")
    monkeypatch.setitem(training.TRAINERS, "churn", lambda *_: Trained("churn", 0, "", "none"))
    learn.apart(**{**begun[1]["kwargs"], "runs": [("churn", again.id)]})
    with app.db.read() as session:
        assert predictions.runs(session, kind="churn")[0].state == "done"
    # At night what is due is begun, once.
    clock.advance(days=8)
    assert learn.nightly(app) == 4
    assert learn.nightly(app) == 0
    app.db.write(lambda s: s.execute(text("UPDATE ml_training_run SET state = 'done', ended_at = 1"
                                          " WHERE state = 'running'")))  # fmt: skip


def test_a_rollout_names_versions_that_can_be_used(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of the weights becomes champion; a changed file is given to nobody."""
    old, new = put(app, monkeypatch, trained()).version, put(app, monkeypatch, trained()).version
    assert old is not None
    assert new is not None
    more = {"pins": {"acme": old}, "shadow": None, "killed": [], "reason": "a try", "actor": "me"}
    state = rollouts.set_rollout(app, kind="ltv", weights={new: 0.05, old: 0.95}, **more)
    assert rollouts.of(app).champion("ltv") == old
    with app.db.read() as session:
        assert rollouts.rollout(session, rollouts.of(app), "ltv") == state
        assert rollouts.rollout(session, rollouts.of(app), "fraud") is None
    with pytest.raises(BadRollout):
        rollouts.set_rollout(app, kind="ltv", weights={new: 0.5}, **more)
    with pytest.raises(UnknownModelVersion):
        rollouts.set_rollout(app, kind="ltv", weights={"9.9": 1.0}, **more)
    file = app.settings.data_dir / "models" / "ltv" / new / "params.json"
    good = file.read_bytes()
    file.write_bytes(good.replace(b"1", b"2", 1))
    with pytest.raises(BadModel):
        rollouts.set_rollout(app, kind="ltv", weights={new: 1.0}, **more)
    file.write_bytes(good)
    done = rollouts.set_rollout(app, kind="ltv", weights={new: 1.0}, **{**more, "pins": {}})
    assert done == Rollout("ltv", {new: 1.0}, reason="a try")
    assert rollouts.of(app).champion("ltv") == new


def test_the_models_folder_is_the_owners(app: App, tmp_path: Path) -> None:
    """Another installation's key reads none of it."""
    folder = app.settings.data_dir / "models"
    assert folder.stat().st_mode & 0o077 == 0
    stranger = rollouts.registry(app.settings.data_dir, b"another key of 32 bytes, at least")
    assert all(one.problem for one in stranger.list())
    assert Clock().micros() > 0
