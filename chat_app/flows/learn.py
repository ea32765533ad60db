"""Learning from the books: trained apart, registered, promoted if good enough, predictions kept.

Nothing trains in a request or in the process that serves: `begin` starts a process of its own at
the lowest priority. Pages and the API read what it left in `ml_prediction`. Who is champion is
decided by the commit in the database; the registry's choice follows it, also after a crash.
"""

import json
import logging
import multiprocessing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, insert, text, update
from sqlmodel import Session, col, select

from chat_app.accounts import permissions
from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.clock import MICROS_PER_SECOND, Clock, rfc3339, to_micros
from chat_app.credits.ledger import BadCursor
from chat_app.db import Database
from chat_app.errors import AppError, Conflict, Invalid
from chat_app.flows import notices
from chat_app.ml import promotion
from chat_app.ml import registry as shelf
from chat_app.ml.fraud.tables import FraudLabel
from chat_app.ml.registry import BadModel, ModelVersion, Registry, UnknownModelVersion
from chat_app.ml.rollout import BadRollout, Rollout
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
HOUR = 3600 * MICROS_PER_SECOND
DAY = 24 * HOUR
STALE = 3 * HOUR  # a training that has run so long has died
EVERY = {"forecast": DAY, "ltv": 7 * DAY, "churn": 7 * DAY, "fraud": 7 * DAY}
NEW_LABELS = 50  # after which the fraud model is trained before its week is over
WATCHED = ("churn", "fraud")  # whose drift is looked at on days without a training
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


class NoReason(Invalid):
    """Who answers is changed without saying why."""

    code = "rollout_reason"
    message = "Say in a few words why, for those who come after you. Write 3 to 300 characters."


class NotShared(Conflict):
    """Only what judges one by one can be shared among versions."""

    code = "rollout_not_shared"
    message = (
        "This model predicts for everybody at once, so it has no shadow and no share. "
        "Give it to everybody, or leave it."
    )


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


@dataclass(frozen=True)
class Moved:
    """How far a column is from training: PSI beside the level that is more than chance."""

    feature: str
    psi: float | None
    threshold: float
    alarm: bool
    version: str
    looked_at: int


def registry(data_dir: Path, link_key: bytes) -> Registry:
    """The models of this installation."""
    return shelf.of(data_dir, link_key)


def of(app: App) -> Registry:
    """The models of this app."""
    return registry(app.settings.data_dir, app.secrets.link_key)


def check_kinds(kinds: Sequence[str]) -> list[str]:
    """The kinds, each once; all without any. Raises UnknownKind."""
    if any(kind not in KINDS for kind in kinds):
        raise UnknownKind(known=list(KINDS))
    return list(dict.fromkeys(kinds)) or list(KINDS)


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
        settle(db, models)
    with db.read() as session:
        return _run(session.get_one(TrainingRunRow, run_id))


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
    current = _current(models, "fraud")
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
        before = rollout(session, models, found.kind)
        after = _after(models, before, found, version, is_demo)
        champion = after.incumbent == version
        if after != before:
            _set_rollout(session, after, actor=actor, now=now)
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
    _keep_drift(session, found.kind, version or "", found.drift, now=now)
    if champion:
        _predicted(session, run_id, found, version or "", row.as_of)
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
    current = _current(models, found.kind)
    sound = current is not None and current.problem is None
    sound = sound and (is_demo or not (current and current.meta.get("is_demo")))
    if found.kind == "fraud":
        verdict = promotion.Verdict(found.good, found.why)
        return promotion.step(before, version, verdict=verdict, trusted=not is_demo, sound=sound)
    if before is None or not sound or found.good:
        return Rollout(found.kind, {version: 1.0})
    return before


def _current(models: Registry, kind: str) -> ModelVersion | None:
    return next((one for one in models.list(kind) if one.champion), None)


def settle(db: Database, models: Registry) -> list[str]:
    """Make the registry's champions those of the database; the kinds that were changed.

    A process may die between the commit and the registry's file; this finishes what it began.
    """
    changed = []
    with db.read() as session:
        rows = {row.kind: row for row in session.exec(select(RolloutRow))}
    for kind, row in rows.items():
        wanted = Rollout.from_params(json.loads(row.state)).incumbent
        try:
            if models.champion(kind) == wanted:
                continue
        except BadModel:
            log.warning("the choice of the %s champion is unreadable and made anew", kind)
        try:
            models.promote(kind, wanted)
        except AppError as error:
            log.error("the champion of %s is not available: %s", kind, error)
        else:
            changed.append(kind)
    return changed


def _keep_drift(
    session: Session, kind: str, version: str, rows: Sequence[Mapping[str, Any]], *, now: int
) -> None:
    """The rows, and word to those who look after the models where something moved."""
    for one in rows:
        session.add(
            DriftRow(
                kind=kind, version=version, feature=one["column"], psi=one["psi"],
                threshold=one["threshold"], alarm=bool(one["alarm"]), looked_at=now,
            )
        )  # fmt: skip
    session.flush()
    names = [str(one["column"]).replace("_", " ") for one in rows if one["alarm"]]
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        _warn(
            session, key=f"drift:{kind}:{now // (7 * DAY)}", now=now,
            title=f"The {kind} model's world has moved",
            text=f"More than by chance: {', '.join(names[:5])}{more}. It was learnt from other "
            "times and may be wrong by now. Train it again under Admin, Model versions.",
        )  # fmt: skip


def _warn(session: Session, *, key: str, title: str, text: str, now: int) -> None:
    for id in permissions.holders(session, "machine.write"):
        notices.tell(
            session, user_id=id, kind="staff_model", key=key,
            data={"title": title, "text": text}, now=now,
        )  # fmt: skip


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


def begin(app: App, *, kinds: Sequence[str], actor: str, watched: Sequence[str] = ()) -> list[Run]:
    """Start a training in a process of its own and return at once, with a run for each kind.

    Raises UnknownKind or TrainingRuns.
    """
    wanted = check_kinds(kinds)
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
        return [_run(session.get_one(TrainingRunRow, id)) for id in ids]


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
            train(db, registry(data_dir, link_key), kind, now=now, actor=actor, run_id=id)
        for kind in watched:
            with suppress(AppError):  # a model that cannot be read is told of elsewhere
                look_for_drift(db, registry(data_dir, link_key), kind, now=now)
    finally:
        db.close()


def look_for_drift(db: Database, models: Registry, kind: str, *, now: int) -> int:
    """Compare the last four weeks with before, without a training; how many columns moved."""
    from chat_app.ml import frames, training
    from chat_app.ml.fraud import training as fraud_training

    version = models.champion(kind)
    if version is None:
        return 0
    with db.read() as session:
        whose = frames.people(session, as_of=now)
        if kind == "fraud":
            learnt = fraud_training.learnt(session, as_of=now, whose=whose)
            rows = fraud_training.moved(learnt, now, models.load(kind, version))
        else:
            rows = training.moved(frames.visits(session, as_of=now, whose=whose), now)
    db.write(lambda session: _keep_drift(session, kind, version, rows, now=now))
    return sum(bool(row["alarm"]) for row in rows)


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
    return moved_since(session, kind)


def moved_since(session: Session, kind: str) -> bool:
    """Whether drift was found by a look after the newest training of a kind: train it again."""
    ended = session.exec(
        select(func.max(TrainingRunRow.ended_at)).where(TrainingRunRow.kind == kind)
    ).one()
    alarm = select(DriftRow.id).where(
        DriftRow.kind == kind, col(DriftRow.alarm), col(DriftRow.looked_at) > (ended or 0)
    )
    return session.exec(alarm.limit(1)).first() is not None


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
    """The training whose predictions are shown; None before the first.

    That of the champion, also after a way back; else the newest that has predictions.
    """
    there = select(PredictionRow.run_id).where(PredictionRow.kind == kind).distinct()
    rows = session.exec(
        select(TrainingRunRow)
        .where(col(TrainingRunRow.id).in_(there))
        .order_by(col(TrainingRunRow.id).desc())
    ).all()
    state = session.get(RolloutRow, kind)
    wanted = Rollout.from_params(json.loads(state.state)).incumbent if state else None
    row = next((row for row in rows if row.version == wanted), rows[0] if rows else None)
    return None if row is None else _run(row)


def drift(session: Session, kind: str) -> list[Moved]:
    """The newest look at how far a kind's figures have moved, the furthest first."""
    newest = session.exec(select(func.max(DriftRow.looked_at)).where(DriftRow.kind == kind)).one()
    rows = session.exec(
        select(DriftRow)
        .where(DriftRow.kind == kind, DriftRow.looked_at == newest)
        .order_by(col(DriftRow.alarm).desc(), col(DriftRow.psi).desc(), col(DriftRow.feature))
    )
    return [
        Moved(row.feature, row.psi, row.threshold, row.alarm, row.version, row.looked_at)
        for row in rows
    ]


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

    app.db.write(story)
    follow(app)
    return state


ACTS = ("promote", "canary", "shadow", "out")


def change(app: App, *, kind: str, version: str, act: str, reason: str, actor: str) -> Rollout:
    """Give a version to everybody or to a tenth, let it score in the shadow, or take it out.

    Raises NoReason, NotShared, UnknownKind, UnknownModelVersion, BadModel or BadRollout.
    """
    check_kinds([kind])
    reason = " ".join(reason.split())
    if not 3 <= len(reason) <= 300:
        raise NoReason(param="reason")
    if act not in ACTS:
        raise BadRollout("Choose what to do with the version: promote, canary, shadow or out.")
    if act != "promote" and kind != "fraud":
        raise NotShared(kind=kind)
    with app.db.read() as session:
        before = rollout(session, of(app), kind)
    if before is None or version not in {one.version for one in of(app).list(kind)}:
        raise UnknownModelVersion(kind=kind, version=version)
    after = Rollout(kind, {version: 1.0}, before.pins, reason=reason)
    if act == "canary":
        after = before.introduce(version, promotion.CANARY)
    elif act == "shadow":
        after = replace(before, shadow=version)
    elif act == "out":
        after = before.kill(version, reason)
    return set_rollout(
        app, kind=kind, weights=after.weights, pins=after.pins, shadow=after.shadow,
        killed=sorted(after.killed), reason=reason, actor=actor,
    )  # fmt: skip


def follow(app: App) -> bool:
    """Take over what another process decided: champions, and who judges; whether it changed.

    A newcomer of the fraud model that does harm is taken out, one that did well takes over.
    """
    models = of(app)
    settle(app.db, models)
    with app.db.read() as session:
        row = session.get(RolloutRow, "fraud")
    state = Rollout.from_params(json.loads(row.state)) if row is not None else None
    engine = app.fraud.engine
    changed = engine.follow(state)
    if state is None:
        return changed
    after = promotion.watch(state, engine.health, engine.refused)
    if after == state:
        return changed
    app.db.write(partial(_steer, app, state, after))
    engine.follow(after)
    settle(app.db, models)
    return True


def _steer(app: App, before: Rollout, after: Rollout, session: Session) -> None:
    row = session.get(RolloutRow, "fraud")
    if row is None or Rollout.from_params(json.loads(row.state)) != before:
        return  # somebody else has decided meanwhile
    now = app.clock.micros()
    _set_rollout(session, after, actor="system", now=now)
    audit.record(
        session, type="rollout_changed", actor="system", now=now, **after.to_params(),
    )  # fmt: skip
    out = after.killed - before.killed
    said = "was taken out" if out else "judges everybody now"
    _warn(
        session, key=f"rollout:{before.newcomer}:{bool(out)}:{now}", now=now,
        title=f"A fraud model {said}",
        text=f"Version {before.newcomer} {said}: {after.reason}",
    )  # fmt: skip


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
