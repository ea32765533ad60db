"""Faults as rows: which rules an operator changed, which faults are open, what is known.

A fault begins by a row that at most one process can write, and ends by one conditional update:
whoever did it tells of it, so it is told once. Knows nothing of how it is told.
"""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import text
from sqlmodel import Session, col, or_, select, update

from chat_app.monitor import rules
from chat_app.monitor.rules import Change, Rule, UnknownRule
from chat_app.monitor.tables import MachineAlert, MachineFact, MachineRule

_BEGIN = text(
    """INSERT INTO machine_alert (rule, place, value, threshold, raised_at)
    VALUES (:rule, :place, :value, :threshold, :now) ON CONFLICT DO NOTHING"""
)


def rules_of(session: Session) -> dict[str, Rule]:
    """All rules with what was changed of them."""
    found = dict(rules.USUAL)
    for row in session.exec(select(MachineRule)):
        if row.name in found:
            found[row.name] = rules.changed(found[row.name], _change(row))
    return found


def change_rule(
    session: Session, *, name: str, change: Change, actor: str, now: int
) -> tuple[Rule, Rule]:
    """Keep a change over what was changed before; the rule before and after it.

    Raises UnknownRule and BadRule.
    """
    if name not in rules.USUAL:
        raise UnknownRule
    row = session.get(MachineRule, name) or MachineRule(name=name, changed_by=actor, changed_at=now)
    before = rules.changed(rules.USUAL[name], _change(row))
    after = rules.changed(before, change)
    for field in ("enabled", "threshold", "for_seconds"):
        if (value := getattr(change, field)) is not None:
            setattr(row, field, value)
    if change.channels is not None:
        row.channels = " ".join(change.channels)
    row.changed_by, row.changed_at = actor, now
    session.add(row)
    session.flush()
    return before, after


def reset_rule(session: Session, *, name: str) -> Rule:
    """Forget what was changed of a rule. Raises UnknownRule."""
    if name not in rules.USUAL:
        raise UnknownRule
    row = session.get(MachineRule, name)
    if row is not None:
        session.delete(row)
        session.flush()
    return rules.USUAL[name]


def begin(session: Session, *, rule: Rule, place: str, value: float, now: int) -> int | None:
    """A fault begins; the number of its row, or None when it is open already."""
    done = session.execute(
        _BEGIN,
        {"rule": rule.name, "place": place, "value": value, "threshold": rule.threshold,
         "now": now},
    )  # fmt: skip
    if not done.rowcount:  # type: ignore[attr-defined]
        return None
    row = _open(session, rule.name, place)
    assert row is not None
    return row.id


def end(session: Session, *, rule: str, place: str, now: int) -> MachineAlert | None:
    """A fault ends; its row, or None when it has ended already."""
    row = _open(session, rule, place)
    if row is None:
        return None
    ended = max(now, row.raised_at)  # a clock may have been set back
    done = session.execute(
        update(MachineAlert)
        .where(col(MachineAlert.id) == row.id, col(MachineAlert.cleared_at).is_(None))
        .values(cleared_at=ended)
        .execution_options(synchronize_session=False)
    )
    if not done.rowcount:  # type: ignore[attr-defined]
        return None
    session.refresh(row)
    return row


def open_ones(session: Session, *, place: str | None = None) -> Sequence[MachineAlert]:
    """Faults that have not ended, oldest first; with a place, its own and the shared ones."""
    query = select(MachineAlert).where(col(MachineAlert.cleared_at).is_(None))
    if place is not None:
        query = query.where(or_(col(MachineAlert.place) == place, col(MachineAlert.place) == ""))
    return session.exec(query.order_by(col(MachineAlert.id))).all()


def newest(session: Session, *, limit: int) -> Sequence[MachineAlert]:
    """The newest faults, ended or not, newest first."""
    return session.exec(
        select(MachineAlert).order_by(col(MachineAlert.id).desc()).limit(limit)
    ).all()


def between(session: Session, *, since: int, until: int) -> Sequence[MachineAlert]:
    """Faults that lasted at some moment in [since, until) µs, oldest first."""
    return session.exec(
        select(MachineAlert)
        .where(
            col(MachineAlert.raised_at) < until,
            or_(col(MachineAlert.cleared_at).is_(None), col(MachineAlert.cleared_at) >= since),
        )
        .order_by(col(MachineAlert.id))
    ).all()


def learn(session: Session, *, name: str, value: Any, now: int) -> None:
    """Keep a fact in place of what was known before."""
    session.merge(MachineFact(name=name, value=json.dumps(value, sort_keys=True), at=now))
    session.flush()


def known(session: Session, name: str) -> tuple[Any, int] | None:
    """A fact, and when it was learned (µs)."""
    row = session.get(MachineFact, name)
    return None if row is None else (json.loads(row.value), row.at)


def _open(session: Session, rule: str, place: str) -> MachineAlert | None:
    return session.exec(
        select(MachineAlert).where(
            MachineAlert.rule == rule,
            MachineAlert.place == place,
            col(MachineAlert.cleared_at).is_(None),
        )
    ).first()


def _change(row: MachineRule) -> Change:
    channels = None if row.channels is None else tuple(row.channels.split())
    return Change(row.enabled, row.threshold, row.for_seconds, channels)
