"""Tables of the models: predictions, versions, rollouts, trainings, backtests, drift, demo people.

Times are microseconds. What a prediction says is never the books: it may be dropped and made anew.
"""

from typing import Any

from sqlalchemy import CheckConstraint, Column, Index, Text, UniqueConstraint, false
from sqlmodel import Field, SQLModel

from chat_app.db import BigInt


def _key() -> Any:
    return Field(default=None, sa_column=Column(BigInt, primary_key=True))


def _text() -> Any:
    return Field(default="{}", sa_column=Column(Text, nullable=False))


class DemoUser(SQLModel, table=True):
    """Somebody that the simulator made up: never learnt from together with real people.

    `scenario` names the fraud that they act out; it is empty for the honest.
    """

    __tablename__ = "demo_user"

    user_id: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    seed: int = Field(sa_type=BigInt)
    scenario: str = Field(default="", max_length=32, sa_column_kwargs={"server_default": ""})


class PredictionRow(SQLModel, table=True):
    """What a model says of a subject, as of a moment; the newest of a kind is what pages show.

    `subject` is a user's number, or the name of a series with the day in `ds`. `basis` says what
    the value rests on, `reasons` are sentences (a JSON list), `facts` the kind's other figures.
    """

    __tablename__ = "ml_prediction"
    __table_args__ = (
        UniqueConstraint("run_id", "subject", "ds", name="uq_ml_prediction_run_subject_ds"),
        Index("ix_ml_prediction_kind_run", "kind", "run_id", "value"),
        Index("ix_ml_prediction_subject", "subject", "kind"),
    )

    id: int | None = _key()
    run_id: int = Field(sa_type=BigInt)
    kind: str = Field(max_length=32)
    subject: str = Field(max_length=64)
    ds: str = Field(default="", max_length=32, sa_column_kwargs={"server_default": ""})
    as_of: int = Field(sa_type=BigInt)
    value: float
    lo: float | None = None
    hi: float | None = None
    basis: str = Field(max_length=32)
    reasons: str = _text()
    facts: str = _text()
    model_version: str = Field(max_length=32)


class ModelVersionRow(SQLModel, table=True):
    """A version as it was registered, for pages; the files and their signature are the truth."""

    __tablename__ = "ml_model_version"
    __table_args__ = (UniqueConstraint("kind", "version", name="uq_ml_model_version_kind_version"),)

    id: int | None = _key()
    kind: str = Field(max_length=32)
    version: str = Field(max_length=32)
    algorithm: str = Field(max_length=32)
    as_of: int = Field(sa_type=BigInt)
    metrics: str = _text()
    is_demo: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    created_at: int = Field(sa_type=BigInt)


class RolloutRow(SQLModel, table=True):
    """How the versions of a kind share its subjects: see `rollout.Rollout`, kept as JSON."""

    __tablename__ = "ml_rollout"

    kind: str = Field(primary_key=True, max_length=32)
    state: str = _text()
    changed_by: str = Field(max_length=64)
    changed_at: int = Field(sa_type=BigInt)


class TrainingRunRow(SQLModel, table=True):
    """A training: why, on what, and what came of it. `champion` says whether it was promoted."""

    __tablename__ = "ml_training_run"
    __table_args__ = (
        CheckConstraint("state IN ('running', 'done', 'failed')", name="state"),
        CheckConstraint("(state = 'running') = (ended_at IS NULL)", name="ended"),
        Index("ix_ml_training_run_kind", "kind", "id"),
    )

    id: int | None = _key()
    kind: str = Field(max_length=32)
    state: str = Field(max_length=16)
    actor: str = Field(max_length=64)
    as_of: int = Field(sa_type=BigInt)
    rows: int = Field(default=0, sa_type=BigInt, sa_column_kwargs={"server_default": "0"})
    version: str | None = Field(default=None, max_length=32)
    champion: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    is_demo: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    report: str = _text()
    error: str | None = Field(default=None, sa_column=Column(Text))
    started_at: int = Field(sa_type=BigInt)
    ended_at: int | None = Field(default=None, sa_type=BigInt)


class BacktestRow(SQLModel, table=True):
    """How a candidate did on what it had not seen; baselines are candidates like others."""

    __tablename__ = "ml_backtest"
    __table_args__ = (Index("ix_ml_backtest_run_id", "run_id"),)

    id: int | None = _key()
    run_id: int = Field(sa_type=BigInt)
    kind: str = Field(max_length=32)
    candidate: str = Field(max_length=32)
    origin: str = Field(default="", max_length=40, sa_column_kwargs={"server_default": ""})
    scores: str = _text()
    chosen: bool = Field(default=False, sa_column_kwargs={"server_default": false()})


class DriftRow(SQLModel, table=True):
    """How far a column has moved since training: PSI beside the level that is more than chance."""

    __tablename__ = "ml_drift"
    __table_args__ = (Index("ix_ml_drift_kind", "kind", "looked_at"),)

    id: int | None = _key()
    kind: str = Field(max_length=32)
    version: str = Field(max_length=32)
    feature: str = Field(max_length=64)
    psi: float | None = None
    threshold: float
    alarm: bool
    looked_at: int = Field(sa_type=BigInt)
