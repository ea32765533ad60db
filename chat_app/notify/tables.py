"""Tables of the notify room. Users are numbers here; addresses are what the caller gave."""

from typing import Any

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Text, text
from sqlmodel import Field, SQLModel

from chat_app.db import BigInt


def _key() -> Any:
    return Field(default=None, sa_column=Column(BigInt, primary_key=True))


def _big(**options: Any) -> Any:
    return Field(sa_column=Column(BigInt, nullable=False, **options))


def _big_or_none() -> Any:
    return Field(default=None, sa_column=Column(BigInt, nullable=True))


class OutboxRow(SQLModel, table=True):
    """A message that has to leave the program: a mail, or a call of a webhook.

    `due_at` is when it may be tried; whoever tries it first moves it forward, which is the
    lease. `data` is canonical JSON, `target` an address or the id of an endpoint.
    """

    __tablename__ = "outbox"
    __table_args__ = (
        CheckConstraint("channel IN ('mail', 'webhook')", name="channel"),
        CheckConstraint("state IN ('waiting', 'sent', 'dead')", name="state"),
        CheckConstraint("attempts >= 0", name="attempts"),
        CheckConstraint("(state = 'waiting') = (ended_at IS NULL)", name="ended"),
        Index(
            "ix_outbox_waiting_due_at",
            "due_at",
            sqlite_where=text("state = 'waiting'"),
            postgresql_where=text("state = 'waiting'"),
        ),
        Index("ix_outbox_state_id", "state", "id"),
        Index("ix_outbox_target_id", "target", "id"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = _key()
    message_id: str = Field(max_length=40, unique=True)
    channel: str = Field(max_length=16)
    kind: str = Field(max_length=32)
    user_id: int | None = _big_or_none()
    target: str = Field(max_length=254)
    data: str = Field(sa_column=Column(Text, nullable=False))
    dedupe_key: str = Field(max_length=200, unique=True)
    state: str = Field(default="waiting", max_length=16)
    attempts: int = _big(server_default=text("0"))
    due_at: int = _big()
    claim: str | None = Field(default=None, max_length=40)
    error: str | None = Field(default=None, sa_column=Column(Text))
    created_at: int = _big()
    ended_at: int | None = _big_or_none()


class InboxRow(SQLModel, table=True):
    """Something a person reads in the app. It is delivered by being there."""

    __tablename__ = "inbox_message"
    __table_args__ = (
        Index("ix_inbox_message_user_id", "user_id", "id"),
        Index(
            "ix_inbox_message_unread",
            "user_id",
            sqlite_where=text("read_at IS NULL"),
            postgresql_where=text("read_at IS NULL"),
        ),
        {"sqlite_autoincrement": True},
    )

    id: int | None = _key()
    public_id: str = Field(max_length=40, unique=True)
    user_id: int = _big()
    kind: str = Field(max_length=32)
    title: str = Field(max_length=200)
    body: str = Field(sa_column=Column(Text, nullable=False))
    dedupe_key: str = Field(max_length=200, unique=True)
    created_at: int = _big()
    read_at: int | None = _big_or_none()


class PreferenceRow(SQLModel, table=True):
    """A person's choice for one topic on one channel, where it differs from what is usual."""

    __tablename__ = "notify_preference"
    __table_args__ = (CheckConstraint("channel IN ('mail', 'app')", name="channel"),)

    user_id: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    topic: str = Field(primary_key=True, max_length=32)
    channel: str = Field(primary_key=True, max_length=16)
    wanted: bool
    changed_at: int = _big()


class WebhookRow(SQLModel, table=True):
    """Where a person's program wants to be told. The secret is derived, never stored."""

    __tablename__ = "webhook_endpoint"
    __table_args__ = (
        CheckConstraint("secret_version >= 1", name="secret_version"),
        CheckConstraint("failures >= 0", name="failures"),
    )

    id: str = Field(primary_key=True, max_length=40)
    user_id: int = _big(index=True)
    url: str = Field(max_length=2000)
    events: str = Field(sa_column=Column(Text, nullable=False))
    secret_version: int = _big(server_default=text("1"))
    previous_until: int | None = _big_or_none()
    enabled: bool = True
    failures: int = _big(server_default=text("0"))
    created_at: int = _big()
    deleted_at: int | None = _big_or_none()


class AlertRuleRow(SQLModel, table=True):
    """When a person wants to be warned: credits in micro, days; NULL is never."""

    __tablename__ = "alert_rule"
    __table_args__ = (
        CheckConstraint("low IS NULL OR low >= 0", name="low"),
        CheckConstraint("critical IS NULL OR critical >= 0", name="critical"),
        CheckConstraint("runout_days IS NULL OR runout_days >= 1", name="runout_days"),
    )

    user_id: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    low: int | None = _big_or_none()
    critical: int | None = _big_or_none()
    runout_days: int | None = _big_or_none()
    changed_at: int = _big()


class AlertStateRow(SQLModel, table=True):
    """Whether a level is raised for a person. `edge` counts how often it was."""

    __tablename__ = "alert_state"
    __table_args__ = (
        CheckConstraint("level IN ('low', 'critical', 'runout')", name="level"),
        CheckConstraint("edge >= 0", name="edge"),
    )

    user_id: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    level: str = Field(primary_key=True, max_length=16)
    raised: bool
    edge: int = _big()
    changed_at: int = _big()


class AnnouncementRow(SQLModel, table=True):
    """Words for everybody. A job hands them out; `upto` is the last user who has them."""

    __tablename__ = "announcement"
    __table_args__ = (
        CheckConstraint("upto >= 0", name="upto"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = _key()
    public_id: str = Field(max_length=40, unique=True)
    kind: str = Field(max_length=32)
    title: str = Field(max_length=200)
    body: str = Field(sa_column=Column(Text, nullable=False))
    actor: str = Field(max_length=64)
    upto: int = _big(server_default=text("0"))
    created_at: int = _big()
    done_at: int | None = _big_or_none()


class BarRow(SQLModel, table=True):
    """An announcement as a line on top of every page, from `starts_at` until `ends_at`."""

    __tablename__ = "announcement_bar"
    __table_args__ = (
        CheckConstraint("level IN ('info', 'warning')", name="level"),
        CheckConstraint("ends_at > starts_at", name="times"),
    )

    announcement_id: int = Field(
        sa_column=Column(
            BigInt, ForeignKey("announcement.id"), primary_key=True, autoincrement=False
        )
    )
    level: str = Field(max_length=16)
    starts_at: int = _big()
    ends_at: int = _big()


class DismissalRow(SQLModel, table=True):
    """Somebody has read an announcement on the page and wants to see it no more."""

    __tablename__ = "announcement_dismissal"

    user_id: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    announcement_id: int = Field(
        sa_column=Column(
            BigInt, ForeignKey("announcement.id"), primary_key=True, autoincrement=False
        )
    )
    at: int = _big()


class SummaryRow(SQLModel, table=True):
    """A summary that a person was given, such as `2026-W07` or `2026-02`: once for each period."""

    __tablename__ = "usage_summary"

    user_id: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    period: str = Field(primary_key=True, max_length=16)
    created_at: int = _big()
