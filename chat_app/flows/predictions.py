"""What the trainings left, read: runs, predictions of the champion, paths and backtests.

Pages and the API read only this; nothing is trained here. Knows no model file.
"""

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, insert
from sqlmodel import Session, col, select

from chat_app.credits.ledger import BadCursor
from chat_app.ml.rollout import Rollout
from chat_app.ml.tables import BacktestRow, PredictionRow, RolloutRow, TrainingRunRow


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


def runs(session: Session, *, kind: str | None = None, limit: int = 20) -> list[Run]:
    """The newest trainings first."""
    query = select(TrainingRunRow).order_by(col(TrainingRunRow.id).desc()).limit(limit)
    if kind is not None:
        query = query.where(TrainingRunRow.kind == kind)
    return [run_of(row) for row in session.exec(query)]


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
    return None if row is None else run_of(row)


def currency(run: Run | None) -> str:
    """The currency that a training's money is in."""
    if run is None:
        return "USD"
    return str(run.report.get("currency", "USD"))


def page(
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


def keep(session: Session, run_id: int, found: Any, version: str, as_of: int) -> None:
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


def forget(session: Session, *, user_id: int) -> None:
    """Drop what was predicted of a person who leaves; the models themselves know nobody."""
    session.execute(
        delete(PredictionRow).where(
            col(PredictionRow.subject) == str(user_id),
            col(PredictionRow.kind).in_(("ltv", "churn")),
        )
    )


def _prediction(row: PredictionRow) -> Prediction:
    assert row.id is not None
    return Prediction(
        row.id, row.subject, row.ds, row.value, row.lo, row.hi, row.basis,
        json.loads(row.reasons), json.loads(row.facts), row.model_version, row.as_of,
    )  # fmt: skip


def run_of(row: TrainingRunRow) -> Run:
    assert row.id is not None
    return Run(
        row.id, row.kind, row.state, row.actor, row.as_of, row.rows, row.version, row.champion,
        row.is_demo, json.loads(row.report), row.error, row.started_at, row.ended_at,
    )  # fmt: skip
