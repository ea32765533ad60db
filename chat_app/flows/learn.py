"""Learning from the books: trained apart, registered, promoted if good enough, predictions kept.

Nothing trains in a request or in the process that serves: `begin` starts a process of its own at
the lowest priority. What it leaves is read in `predictions.py`; who answers whom is `rollouts.py`,
and what is looked at between trainings `drift.py`.
"""

import json
import logging
import multiprocessing
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, text, update
from sqlmodel import Session, col, select

from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.clock import MICROS_PER_SECOND, Clock, rfc3339, to_micros
from chat_app.db import Database
from chat_app.errors import AppError, Conflict
from chat_app.flows import drift, predictions, rollouts
from chat_app.flows.predictions import Run
from chat_app.ml import promotion
from chat_app.ml.fraud.tables import FraudLabel
from chat_app.ml.registry import Registry
from chat_app.ml.rollout import Rollout
from chat_app.ml.tables import (
    BacktestRow,
    DriftRow,
    ModelVersionRow,
    PredictionRow,
    TrainingRunRow,
)

log = logging.getLogger(__name__)

HOUR = 3600 * MICROS_PER_SECOND
DAY = 24 * HOUR
STALE = 3 * HOUR  # a training that has run so long has died
EVERY = {"forecast": DAY, "ltv": 7 * DAY, "churn": 7 * DAY, "fraud": 7 * DAY}
NEW_LABELS = 50  # after which the fraud model is trained before its week is over
WATCHED = ("churn", "fraud")  # whose drift is looked at on days without a training
LEAST_CUSTOMERS = 10  # below, a nightly training would say nothing
KEPT_RUNS = 2
DRIFTS_KEPT = 90 * DAY


class TrainingRuns(Conflict):
    """A training of this kind is under way."""

    code = "training_runs"
    message = "This model is being trained right now. Wait until it is done."


# -- training ---------------------------------------------------------------------------------


def train(
    db: Database, models: Registry, kind: str, *, now: int, actor: str, run_id: int | None = None
) -> Run:
    """Train one kind on what is known at `now`, here and now, and keep what comes of it.

    A failure is recorded and returned as the run's `error`, never raised. Raises UnknownKind,
    TrainingRuns.
    """
    rollouts.check_kinds([kind])
    if run_id is None:
        run_id = db.write(partial(_begin, kind=kind, actor=actor, now=now))
    try:
        found, version, is_demo = _train(db, models, kind, now)
    except Exception as error:
        log.exception("the training of %s failed", kind)
        words = f"{type(error).__name__}: {error}"[:500]
        db.write(lambda session: _fail(session, run_id, words, now=Clock().micros()))
    else:
        db.write(
            lambda session: _keep(
                session, models, run_id, found=found, version=version, is_demo=is_demo, actor=actor
            )
        )
        rollouts.settle(db, models)
    with db.read() as session:
        return predictions.run_of(session.get_one(TrainingRunRow, run_id))


def _train(db: Database, models: Registry, kind: str, now: int) -> tuple[Any, str | None, bool]:
    from chat_app.ml import frames

    with db.read() as session:
        whose = frames.people(session, as_of=now)
        found = _trained(session, models, kind, now, whose)
    if found.model is None or not found.rows:
        return found, None, whose == "demo"
    meta = {
        "algorithm": found.algorithm, "basis": found.basis, "rows": found.rows,
        "metrics": found.metrics, "is_demo": whose == "demo", "why": found.why,
    }  # fmt: skip
    version = models.save(kind, found.model, meta=meta, as_of=rfc3339(now), first=False)
    return found, version, whose == "demo"


def _trained(session: Session, models: Registry, kind: str, now: int, whose: Any) -> Any:
    from chat_app.ml import training

    if kind != "fraud":
        return training.TRAINERS[kind](session, now, whose)
    from chat_app.ml.fraud import training as fraud_training

    return fraud_training.train(session, now, whose, _judging(models))


def _judging(models: Registry) -> tuple[Any, int] | None:
    """The fraud model that judges now, and up to when it knew."""
    current = rollouts.champion(models, "fraud")
    if current is None or current.problem is not None or current.as_of is None:
        return None
    knew = to_micros(datetime.fromisoformat(current.as_of))
    return models.load("fraud", current.version), knew


def _begin(session: Session, *, kind: str, actor: str, now: int) -> int:
    _bury(session, now=now)
    running = select(TrainingRunRow.id).where(
        TrainingRunRow.kind == kind, TrainingRunRow.state == "running"
    )
    if session.exec(running.limit(1)).first() is not None:
        raise TrainingRuns(kind=kind)
    row = TrainingRunRow(kind=kind, state="running", actor=actor, as_of=now, started_at=now)
    session.add(row)
    session.flush()
    assert row.id is not None
    return row.id


def _bury(session: Session, *, now: int) -> None:
    """Trainings whose process is gone."""
    session.execute(
        update(TrainingRunRow)
        .where(col(TrainingRunRow.state) == "running", col(TrainingRunRow.started_at) < now - STALE)
        .values(state="failed", ended_at=now, error="The training's process is gone.")
    )


def _fail(session: Session, run_id: int, words: str, *, now: int) -> None:
    session.execute(
        update(TrainingRunRow)
        .where(col(TrainingRunRow.id) == run_id, col(TrainingRunRow.state) == "running")
        .values(state="failed", ended_at=now, error=words)
    )


def _keep(
    session: Session,
    models: Registry,
    run_id: int,
    *,
    found: Any,
    version: str | None,
    is_demo: bool,
    actor: str,
) -> None:
    """The run's rows; the version becomes champion if it is good enough."""
    row = session.get_one(TrainingRunRow, run_id)
    now = Clock().micros()
    champion = False
    if version is not None:
        before = rollouts.rollout(session, models, found.kind)
        after = _after(models, before, found, version, is_demo)
        champion = after.incumbent == version
        if after != before:
            rollouts.put(session, after, actor=actor, now=now)
    row.state, row.ended_at, row.rows, row.is_demo = "done", now, found.rows, is_demo
    row.version, row.champion = version, champion
    report = {
        "algorithm": found.algorithm, "basis": found.basis, "metrics": found.metrics,
        "good": found.good, "predictions": len(found.predictions), "currency": found.currency,
        "why": found.why,
    }  # fmt: skip
    row.report = json.dumps(report)
    if version is not None:
        session.add(
            ModelVersionRow(
                kind=found.kind, version=version, algorithm=found.algorithm, as_of=row.as_of,
                metrics=json.dumps(found.metrics), is_demo=is_demo, created_at=now,
            )
        )  # fmt: skip
    for one in found.backtest:
        session.add(
            BacktestRow(
                run_id=run_id, kind=found.kind, candidate=one["candidate"], origin=one["origin"],
                chosen=one["chosen"], scores=json.dumps(one["scores"]),
            )
        )  # fmt: skip
    drift.keep(session, found.kind, version or "", found.drift, now=now)
    if champion:
        predictions.keep(session, run_id, found, version or "", row.as_of)
    _tidy(session, found.kind, now=now)
    audit.record(
        session, type="model_trained", actor=actor, now=now, kind=found.kind, version=version,
        champion=champion,
    )  # fmt: skip


def _after(
    models: Registry, before: Rollout | None, found: Any, version: str, is_demo: bool
) -> Rollout:
    """Who judges or predicts after a training.

    A kind whose predictions are only read changes at once when the new version is no worse than
    the baseline, and what was learnt from demo data gives way to the real. Fraud stops people, so
    it goes by `promotion.step`.
    """
    current = rollouts.champion(models, found.kind)
    sound = current is not None and current.problem is None
    sound = sound and (is_demo or not (current and current.meta.get("is_demo")))
    if found.kind == "fraud":
        verdict = promotion.Verdict(found.good, found.why)
        return promotion.step(before, version, verdict=verdict, trusted=not is_demo, sound=sound)
    if before is None or not sound or found.good:
        return Rollout(found.kind, {version: 1.0})
    return before


def _tidy(session: Session, kind: str, *, now: int) -> None:
    """Keep the predictions of the newest runs, and the drift of the last months."""
    newest = session.exec(
        select(PredictionRow.run_id)
        .where(PredictionRow.kind == kind)
        .distinct()
        .order_by(col(PredictionRow.run_id).desc())
        .limit(KEPT_RUNS)
    ).all()
    session.execute(
        delete(PredictionRow).where(
            col(PredictionRow.kind) == kind, col(PredictionRow.run_id).not_in(newest)
        )
    )
    session.execute(delete(DriftRow).where(col(DriftRow.looked_at) < now - DRIFTS_KEPT))


# -- a process of its own -----------------------------------------------------------------------


def begin(app: App, *, kinds: Sequence[str], actor: str, watched: Sequence[str] = ()) -> list[Run]:
    """Start a training in a process of its own and return at once, with a run for each kind.

    Raises UnknownKind or TrainingRuns.
    """
    wanted = rollouts.check_kinds(kinds)
    now = app.clock.micros()

    def story(session: Session) -> list[int]:
        return [_begin(session, kind=kind, actor=actor, now=now) for kind in wanted]

    ids = app.db.write(story)
    child = multiprocessing.get_context("spawn").Process(
        target=apart,
        kwargs={
            "url": app.settings.database_url,
            "data_dir": app.settings.data_dir.absolute(),
            "link_key": app.secrets.link_key,
            "runs": list(zip(wanted, ids, strict=True)),
            "now": now,
            "actor": actor,
            "watched": list(watched),
        },
        name="training",
        daemon=True,
    )
    child.start()
    with app.db.read() as session:
        return [predictions.run_of(session.get_one(TrainingRunRow, id)) for id in ids]


def apart(
    *,
    url: str,
    data_dir: Path,
    link_key: bytes,
    runs: Sequence[tuple[str, int]],
    now: int,
    actor: str,
    watched: Sequence[str] = (),
) -> None:
    """What the process does: one kind after the other, behind everybody else; then drift."""
    import psutil

    with suppress(psutil.Error, OSError):
        psutil.Process().nice(19)
    db = Database(url)
    try:
        for kind, id in runs:
            train(db, rollouts.registry(data_dir, link_key), kind, now=now, actor=actor, run_id=id)
        for kind in watched:
            with suppress(AppError):  # a model that cannot be read is told of elsewhere
                drift.look(db, rollouts.registry(data_dir, link_key), kind, now=now)
    finally:
        db.close()


def nightly(app: App) -> int:
    """Train what is due, if there is anybody to learn from; returns how many were begun."""
    now = app.clock.micros()
    with app.db.read() as session:
        due = [kind for kind in EVERY if _due(session, kind, now)]
        if not due or _customers(session) < LEAST_CUSTOMERS:
            return 0
    with suppress(TrainingRuns):
        watched = [kind for kind in WATCHED if kind not in due]
        return len(begin(app, kinds=due, actor="schedule", watched=watched))
    return 0


def _due(session: Session, kind: str, now: int) -> bool:
    """By the calendar; sooner where its world has moved, or many labels have come since."""
    newest = select(func.max(TrainingRunRow.started_at)).where(TrainingRunRow.kind == kind)
    last = session.exec(newest).one() or 0
    if last <= now - EVERY[kind] + HOUR:
        return True
    if kind == "fraud":
        fresh = select(func.count()).where(col(FraudLabel.created_at) > last)
        if session.exec(fresh).one() >= NEW_LABELS:
            return True
    return drift.moved_since(session, kind)


def _customers(session: Session) -> int:
    """How many have used anything, whoever they are; without pandas."""
    found = session.execute(text("SELECT COUNT(DISTINCT user_id) FROM usage_month"))
    return int(found.scalar_one())


# -- reading ------------------------------------------------------------------------------------


# -- versions -----------------------------------------------------------------------------------
