"""Learning from the books: trained apart, registered, promoted if good enough, predictions kept.

Nothing trains in a request or in the process that serves: `begin` starts a process of its own at
the lowest priority. Pages and the API read what it left in `ml_prediction`.
"""

import importlib
import importlib.util
import json
import logging
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, insert, text, update
from sqlmodel import Session, col, select

from chat_app import secrets
from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.clock import MICROS_PER_SECOND, Clock, rfc3339
from chat_app.credits.ledger import BadCursor
from chat_app.db import Database
from chat_app.errors import Conflict, Invalid
from chat_app.ml.registry import ModelVersion, Registry, UnknownModelVersion
from chat_app.ml.rollout import Rollout
from chat_app.ml.tables import (
    BacktestRow,
    DriftRow,
    ModelVersionRow,
    PredictionRow,
    RolloutRow,
    TrainingRunRow,
)

log = logging.getLogger(__name__)

KINDS = ("ltv", "churn", "forecast", "fraud")
FOLDER = "models"
FRAUD = "chat_app.ml.fraud.training"  # its `train(session, as_of, whose)` gives a Trained
HOUR = 3600 * MICROS_PER_SECOND
DAY = 24 * HOUR
STALE = 3 * HOUR  # a training that has run so long has died
EVERY = {"forecast": DAY, "ltv": 7 * DAY, "churn": 7 * DAY}
LEAST_CUSTOMERS = 10  # below, a nightly training would say nothing
KEPT_RUNS = 2
DRIFTS_KEPT = 90 * DAY


class UnknownKind(Invalid):
    """There is no such kind of model; `known` lists them."""

    code = "unknown_model_kind"
    message = f"There is no such kind of model. Choose of {', '.join(KINDS)}."


class TrainingRuns(Conflict):
    """A training of this kind is under way."""

    code = "training_runs"
    message = "This model is being trained right now. Wait until it is done."


class CannotTrain(Conflict):
    """There is nothing that could train this kind here."""

    code = "cannot_train"
    message = "This kind of model is not trained by this installation. Choose another kind."


@dataclass(frozen=True)
class Prediction:
    """What a model says of a subject. `as_of` in µs."""

    id: int
    subject: str
    ds: str
    value: float
    lo: float | None
    hi: float | None
    basis: str
    reasons: list[str]
    facts: dict[str, Any]
    version: str
    as_of: int


@dataclass(frozen=True)
class Run:
    """A training as it stands. Times in µs; `metrics` by candidate."""

    id: int
    kind: str
    state: str
    actor: str
    as_of: int
    rows: int
    version: str | None
    champion: bool
    is_demo: bool
    report: dict[str, Any]
    error: str | None
    started_at: int
    ended_at: int | None


def registry(data_dir: Path, link_key: bytes) -> Registry:
    """The models of this installation."""
    return Registry(data_dir / FOLDER, secrets.subkey(link_key, "models"))


def of(app: App) -> Registry:
    """The models of this app."""
    return registry(app.settings.data_dir, app.secrets.link_key)


def check_kinds(kinds: Sequence[str]) -> list[str]:
    """The kinds, each once; all without any. Raises UnknownKind."""
    if any(kind not in KINDS for kind in kinds):
        raise UnknownKind(known=list(KINDS))
    return list(dict.fromkeys(kinds)) or list(KINDS)


def trainable() -> list[str]:
    """The kinds that this installation can train."""
    return [kind for kind in KINDS if kind != "fraud" or _has_fraud()]


def _has_fraud() -> bool:
    try:
        return importlib.util.find_spec(FRAUD) is not None
    except ModuleNotFoundError:
        return False


# -- training ---------------------------------------------------------------------------------


def train(
    db: Database, models: Registry, kind: str, *, now: int, actor: str, run_id: int | None = None
) -> Run:
    """Train one kind on what is known at `now`, here and now, and keep what comes of it.

    A failure is recorded and returned as the run's `error`, never raised. Raises UnknownKind,
    TrainingRuns.
    """
    check_kinds([kind])
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
    with db.read() as session:
        return _run(session.get_one(TrainingRunRow, run_id))


def _train(db: Database, models: Registry, kind: str, now: int) -> tuple[Any, str | None, bool]:
    from chat_app.ml import frames

    trainer = _trainer(kind)
    with db.read() as session:
        whose = frames.people(session, as_of=now)
        found = trainer(session, now, whose)
    if found.model is None or not found.rows:
        return found, None, whose == "demo"
    meta = {
        "algorithm": found.algorithm, "basis": found.basis, "rows": found.rows,
        "metrics": found.metrics, "is_demo": whose == "demo",
    }  # fmt: skip
    version = models.save(kind, found.model, meta=meta, as_of=rfc3339(now))
    return found, version, whose == "demo"


def _trainer(kind: str) -> Callable[..., Any]:
    from chat_app.ml import training

    if kind in training.TRAINERS:
        return training.TRAINERS[kind]
    if not _has_fraud():  # a room of its own, which need not be there
        raise CannotTrain(kind=kind)
    found: Callable[..., Any] = importlib.import_module(FRAUD).train
    return found


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
    champion = version is not None and _deserves(models, found, version, is_demo)
    if champion and version is not None:
        models.promote(found.kind, version)
        _set_rollout(session, Rollout(found.kind, {version: 1.0}), actor=actor, now=now)
    row.state, row.ended_at, row.rows, row.is_demo = "done", now, found.rows, is_demo
    row.version, row.champion = version, champion
    report = {
        "algorithm": found.algorithm, "basis": found.basis, "metrics": found.metrics,
        "good": found.good, "predictions": len(found.predictions), "currency": found.currency,
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
    for one in found.drift:
        session.add(
            DriftRow(
                kind=found.kind, version=version or "", feature=one["column"], psi=one["psi"],
                threshold=one["threshold"], alarm=bool(one["alarm"]), looked_at=now,
            )
        )  # fmt: skip
    session.flush()
    if champion:
        _predicted(session, run_id, found, version or "", row.as_of)
    _tidy(session, found.kind, now=now)
    audit.record(
        session, type="model_trained", actor=actor, now=now, kind=found.kind, version=version,
        champion=champion,
    )  # fmt: skip


def _deserves(models: Registry, found: Any, version: str, is_demo: bool) -> bool:
    """No worse than the baseline; and what was learnt from demo data gives way to the real."""
    current = next((one for one in models.list(found.kind) if one.champion), None)
    if current is None or current.version == version:
        return True
    if current.problem is not None or (current.meta.get("is_demo") and not is_demo):
        return True
    return bool(found.good)


def _predicted(session: Session, run_id: int, found: Any, version: str, as_of: int) -> None:
    rows = [
        {
            "run_id": run_id, "kind": found.kind, "subject": one["subject"],
            "ds": one.get("ds", ""), "as_of": as_of, "value": float(one["value"]),
            "lo": one.get("lo"), "hi": one.get("hi"), "basis": one["basis"],
            "reasons": json.dumps(one["reasons"]), "facts": json.dumps(one["facts"]),
            "model_version": version,
        }
        for one in found.predictions
    ]  # fmt: skip
    if rows:
        session.execute(insert(PredictionRow), rows)


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


def begin(app: App, *, kinds: Sequence[str], actor: str) -> list[Run]:
    """Start a training in a process of its own and return at once, with a run for each kind.

    Raises UnknownKind, TrainingRuns or CannotTrain.
    """
    wanted = check_kinds(kinds)
    if "fraud" in wanted:
        _trainer("fraud")
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
        },
        name="training",
        daemon=True,
    )
    child.start()
    with app.db.read() as session:
        return [_run(session.get_one(TrainingRunRow, id)) for id in ids]


def apart(
    *,
    url: str,
    data_dir: Path,
    link_key: bytes,
    runs: Sequence[tuple[str, int]],
    now: int,
    actor: str,
) -> None:
    """What the process does: one kind after the other, behind everybody else."""
    import psutil

    with suppress(psutil.Error, OSError):
        psutil.Process().nice(19)
    db = Database(url)
    try:
        for kind, id in runs:
            train(db, registry(data_dir, link_key), kind, now=now, actor=actor, run_id=id)
    finally:
        db.close()


def nightly(app: App) -> int:
    """Train what is due, if there is anybody to learn from; returns how many were begun."""
    now = app.clock.micros()
    with app.db.read() as session:
        due = [kind for kind, every in EVERY.items() if _due(session, kind, now - every)]
        if not due or _customers(session) < LEAST_CUSTOMERS:
            return 0
    with suppress(TrainingRuns):
        return len(begin(app, kinds=due, actor="schedule"))
    return 0


def _due(session: Session, kind: str, since: int) -> bool:
    newest = select(func.max(TrainingRunRow.started_at)).where(TrainingRunRow.kind == kind)
    return (session.exec(newest).one() or 0) <= since + HOUR


def _customers(session: Session) -> int:
    """How many have used anything, whoever they are; without pandas."""
    found = session.execute(text("SELECT COUNT(DISTINCT user_id) FROM usage_month"))
    return int(found.scalar_one())


# -- reading ------------------------------------------------------------------------------------


def runs(session: Session, *, kind: str | None = None, limit: int = 20) -> list[Run]:
    """The newest trainings first."""
    query = select(TrainingRunRow).order_by(col(TrainingRunRow.id).desc()).limit(limit)
    if kind is not None:
        query = query.where(TrainingRunRow.kind == kind)
    return [_run(row) for row in session.exec(query)]


def current(session: Session, kind: str) -> Run | None:
    """The training whose predictions are shown; None before the first."""
    id = session.exec(
        select(func.max(PredictionRow.run_id)).where(PredictionRow.kind == kind)
    ).one()
    row = session.get(TrainingRunRow, id) if id is not None else None
    return None if row is None else _run(row)


def currency(run: Run | None) -> str:
    """The currency that a training's money is in."""
    if run is None:
        return "USD"
    return str(run.report.get("currency", "USD"))


def predictions(
    session: Session, *, kind: str, limit: int = 50, cursor: str | None = None
) -> tuple[list[Prediction], str | None]:
    """What the champion said last, the highest value first, and the cursor of the next page.

    A cursor is good until the next training. Raises BadCursor.
    """
    run = current(session, kind)
    if run is None:
        return [], None
    query = select(PredictionRow).where(PredictionRow.kind == kind, PredictionRow.run_id == run.id)
    if cursor:
        if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
            raise BadCursor
        last = session.get(PredictionRow, int(cursor))
        if last is None or last.kind != kind:
            raise BadCursor
        value = col(PredictionRow.value)
        query = query.where(
            (value < last.value) | ((value == last.value) & (col(PredictionRow.id) > last.id))
        )
    query = query.order_by(col(PredictionRow.value).desc(), col(PredictionRow.id))
    rows = session.exec(query.limit(limit + 1)).all()
    more = str(rows[limit - 1].id) if len(rows) > limit else None
    return [_prediction(row) for row in rows[:limit]], more


def path(session: Session, *, kind: str, subject: str) -> list[Prediction]:
    """A forecast's days in order."""
    run = current(session, kind)
    if run is None:
        return []
    rows = session.exec(
        select(PredictionRow)
        .where(
            PredictionRow.kind == kind,
            PredictionRow.run_id == run.id,
            PredictionRow.subject == subject,
        )
        .order_by(col(PredictionRow.ds))
    )
    return [_prediction(row) for row in rows]


def backtest(session: Session, run_id: int) -> list[dict[str, Any]]:
    """How each candidate of a training did."""
    rows = session.exec(
        select(BacktestRow).where(BacktestRow.run_id == run_id).order_by(col(BacktestRow.id))
    )
    return [
        {
            "candidate": row.candidate, "origin": row.origin, "chosen": row.chosen,
            "scores": json.loads(row.scores),
        }
        for row in rows
    ]  # fmt: skip


def forget(session: Session, *, user_id: int) -> None:
    """Drop what was predicted of a person who leaves; the models themselves know nobody."""
    session.execute(
        delete(PredictionRow).where(
            col(PredictionRow.subject) == str(user_id),
            col(PredictionRow.kind).in_(("ltv", "churn")),
        )
    )


# -- versions -----------------------------------------------------------------------------------


def versions(app: App, kind: str | None = None) -> list[ModelVersion]:
    """Every version with its metrics, newest first; those that cannot be used say why."""
    if kind is not None:
        check_kinds([kind])
    return of(app).list(kind)


def rollout(session: Session, models: Registry, kind: str) -> Rollout | None:
    """How the versions of a kind share its subjects; None before the first training."""
    row = session.get(RolloutRow, kind)
    if row is not None:
        return Rollout.from_params(json.loads(row.state))
    champion = models.champion(kind)
    return None if champion is None else Rollout(kind, {champion: 1.0})


def set_rollout(
    app: App,
    *,
    kind: str,
    weights: Mapping[str, float],
    pins: Mapping[str, str],
    shadow: str | None,
    killed: Sequence[str],
    reason: str,
    actor: str,
) -> Rollout:
    """Share a kind's subjects anew; the last of the weights becomes the champion.

    Raises UnknownKind, BadRollout, UnknownModelVersion, or BadModel for a version whose files
    were changed: only what can be loaded is given to anybody.
    """
    check_kinds([kind])
    state = Rollout(kind, dict(weights), dict(pins), shadow, frozenset(killed), reason)
    models = of(app)
    known = {one.version: one for one in models.list(kind)}
    named = {*state.weights, *state.pins.values(), *([shadow] if shadow else ()), *state.killed}
    missing = sorted(named - known.keys())
    if missing:
        raise UnknownModelVersion(kind=kind, version=missing[0])
    if any(known[one].problem for one in named - state.killed):
        models.load(kind, next(one for one in named - state.killed if known[one].problem))

    def story(session: Session) -> None:
        now = app.clock.micros()
        _set_rollout(session, state, actor=actor, now=now)
        audit.record(
            session, type="rollout_changed", actor=actor, now=now, **state.to_params(),
        )  # fmt: skip
        models.promote(kind, state.incumbent)

    app.db.write(story)
    return state


def _set_rollout(session: Session, state: Rollout, *, actor: str, now: int) -> None:
    row = session.get(RolloutRow, state.experiment)
    row = row or RolloutRow(kind=state.experiment, changed_by=actor, changed_at=now)
    row.state, row.changed_by, row.changed_at = json.dumps(state.to_params()), actor, now
    session.add(row)
    session.flush()


def _prediction(row: PredictionRow) -> Prediction:
    assert row.id is not None
    return Prediction(
        row.id, row.subject, row.ds, row.value, row.lo, row.hi, row.basis,
        json.loads(row.reasons), json.loads(row.facts), row.model_version, row.as_of,
    )  # fmt: skip


def _run(row: TrainingRunRow) -> Run:
    assert row.id is not None
    return Run(
        row.id, row.kind, row.state, row.actor, row.as_of, row.rows, row.version, row.champion,
        row.is_demo, json.loads(row.report), row.error, row.started_at, row.ended_at,
    )  # fmt: skip
