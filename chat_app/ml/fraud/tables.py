"""Tables of the fraud watch: what was judged, what people said of it, what is remembered."""

from sqlalchemy import CheckConstraint, Column, Index, Text, UniqueConstraint, false
from sqlmodel import Field, SQLModel

from chat_app.db import BigInt


class FraudAssessment(SQLModel, table=True):
    """A judged event, in the order in which the state took the events in.

    `event` is what replay reads, with addresses, devices, cards and codes as keyed hashes.
    `refused` when the judgement stopped what it was about. `bucket` is the user's place in the
    rollout, in millionths.
    """

    __tablename__ = "fraud_assessment"
    __table_args__ = (
        CheckConstraint("action IN ('allow', 'review', 'hold')", name="action"),
        CheckConstraint("score BETWEEN 0 AND 1000", name="score"),
        UniqueConstraint("event_id"),
        UniqueConstraint("tx_id"),
        Index("ix_fraud_assessment_user", "user_id", "created_at"),
        Index("ix_fraud_assessment_action", "action", "id"),
        Index("ix_fraud_assessment_created_at", "created_at"),
    )

    id: int | None = Field(default=None, sa_column=Column(BigInt, primary_key=True))
    event_id: str = Field(max_length=120)
    tx_id: int | None = Field(default=None, sa_type=BigInt)
    user_id: int = Field(sa_type=BigInt)
    type: str = Field(max_length=20)
    event: str = Field(sa_column=Column(Text, nullable=False))
    score: int  # tenths of a point
    action: str = Field(max_length=10)
    reasons: str = Field(default="[]", sa_column=Column(Text, nullable=False))
    refused: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    model_version: str = Field(max_length=32)
    bucket: str = Field(default="", max_length=32)
    features_hash: str = Field(default="", max_length=32)
    cached: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    latency_us: int = 0
    fallback_reason: str | None = Field(default=None, max_length=32)
    shadow_version: str | None = Field(default=None, max_length=32)
    shadow_score: int | None = None  # tenths of a point; what the shadow would have said
    created_at: int = Field(sa_type=BigInt)


class FraudLabel(SQLModel, table=True):
    """What a person found an event to be; the newest one counts."""

    __tablename__ = "fraud_label"
    __table_args__ = (
        CheckConstraint("label IN ('fraud', 'legit')", name="label"),
        Index("ix_fraud_label_assessment_id", "assessment_id", "id"),
    )

    id: int | None = Field(default=None, sa_column=Column(BigInt, primary_key=True))
    assessment_id: int = Field(
        sa_type=BigInt, foreign_key="fraud_assessment.id", ondelete="CASCADE"
    )
    label: str = Field(max_length=8)
    labelled_by: int = Field(sa_type=BigInt)
    created_at: int = Field(sa_type=BigInt)


class EntityState(SQLModel, table=True):
    """A part of what is remembered, as JSON; the row of kind `mark` says up to which event."""

    __tablename__ = "entity_state"

    kind: str = Field(primary_key=True, max_length=8)
    key: str = Field(primary_key=True, max_length=254)
    state: str = Field(sa_column=Column(Text, nullable=False))
    updated_at: int = Field(sa_type=BigInt)
