"""How far the world has moved from what a model was learnt from: looked at, told, kept.

A look that alarms asks for a training and tells those who look after the models, once a week.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, func, select

from chat_app.clock import MICROS_PER_SECOND
from chat_app.db import Database
from chat_app.flows import rollouts
from chat_app.ml.registry import Registry
from chat_app.ml.tables import DriftRow, TrainingRunRow

WEEK = 7 * 24 * 3600 * MICROS_PER_SECOND


@dataclass(frozen=True)
class Moved:
    """How far a column is from training: PSI beside the level that is more than chance."""

    feature: str
    psi: float | None
    threshold: float
    alarm: bool
    version: str
    looked_at: int


def look(db: Database, models: Registry, kind: str, *, now: int) -> int:
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
    db.write(lambda session: keep(session, kind, version, rows, now=now))
    return sum(bool(row["alarm"]) for row in rows)


def keep(
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
        rollouts.warn(
            session, key=f"drift:{kind}:{now // WEEK}", now=now,
            title=f"The {kind} model's world has moved",
            text=f"More than by chance: {', '.join(names[:5])}{more}. It was learnt from other "
            "times and may be wrong by now. Train it again under Admin, Model versions.",
        )  # fmt: skip


def newest(session: Session, kind: str) -> list[Moved]:
    """The newest look at how far a kind's figures have moved, the furthest first."""
    last = session.exec(select(func.max(DriftRow.looked_at)).where(DriftRow.kind == kind)).one()
    rows = session.exec(
        select(DriftRow)
        .where(DriftRow.kind == kind, DriftRow.looked_at == last)
        .order_by(col(DriftRow.alarm).desc(), col(DriftRow.psi).desc(), col(DriftRow.feature))
    )
    return [
        Moved(row.feature, row.psi, row.threshold, row.alarm, row.version, row.looked_at)
        for row in rows
    ]


def moved_since(session: Session, kind: str) -> bool:
    """Whether drift was found by a look after the newest training of a kind: train it again."""
    ended = session.exec(
        select(func.max(TrainingRunRow.ended_at)).where(TrainingRunRow.kind == kind)
    ).one()
    alarm = select(DriftRow.id).where(
        DriftRow.kind == kind, col(DriftRow.alarm), col(DriftRow.looked_at) > (ended or 0)
    )
    return session.exec(alarm.limit(1)).first() is not None
