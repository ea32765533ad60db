"""Differences: what a reconciliation found, kept so that somebody can look at each.

A difference has one row for as long as it is found, with when it was first and last seen. It is
open while the newest run finds it; nothing here repairs anything. What is compared with what is
said in `flows/reconcile.py`.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, func, select

from chat_app.audit.log import BadPage, canonical
from chat_app.audit.tables import ReconDiff, ReconRun
from chat_app.errors import NotFound


class UnknownDifference(NotFound):
    """There is no difference with this id."""

    code = "unknown_difference"
    message = "This difference does not exist. Open the list of the newest reconciliation."


@dataclass(frozen=True)
class Side:
    """One of two records: its kind, and its id or None when it is missing."""

    kind: str
    id: str | None


@dataclass(frozen=True)
class Found:
    """A difference as a check sees it."""

    check: str
    left: Side
    right: Side
    facts: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """The same for the same pair of records in the same check."""
        name = canonical([self.check, self.left.kind, self.left.id, self.right.kind, self.right.id])
        return hashlib.sha256(name.encode()).hexdigest()


@dataclass(frozen=True)
class Run:
    """A finished comparison. Times in µs; `fresh` differences were not open before."""

    id: int
    actor: str
    checks: int
    found: int
    fresh: int
    started_at: int
    ended_at: int


@dataclass(frozen=True)
class Difference:
    """A difference that was kept. Times in µs."""

    id: int
    check: str
    left: Side
    right: Side
    facts: dict[str, Any]
    open: bool
    first_seen_at: int
    last_seen_at: int


def keep(
    session: Session,
    *,
    found: Iterable[Found],
    checks: int,
    actor: str,
    started_at: int,
    now: int,
) -> Run:
    """Record a run and what it found."""
    items = {item.fingerprint: item for item in found}
    before = newest(session)
    run = ReconRun(
        actor=actor, checks=checks, found=0, fresh=0, started_at=started_at, ended_at=now
    )
    session.add(run)
    session.flush()
    assert run.id is not None
    fresh = 0
    for fingerprint, item in items.items():
        row = session.exec(select(ReconDiff).where(ReconDiff.fingerprint == fingerprint)).first()
        fresh += row is None or before is None or row.last_run_id != before.id
        if row is None:
            row = ReconDiff(
                check_name=item.check,
                left_kind=item.left.kind,
                left_id=item.left.id,
                right_kind=item.right.kind,
                right_id=item.right.id,
                facts="",
                fingerprint=fingerprint,
                first_run_id=run.id,
                last_run_id=run.id,
                first_seen_at=now,
                last_seen_at=now,
            )
        row.facts = canonical(item.facts)
        row.last_run_id, row.last_seen_at = run.id, now
        session.add(row)
    run.found, run.fresh = len(items), fresh
    session.add(run)
    session.flush()
    return _run(run)


def newest(session: Session) -> Run | None:
    """The newest run, or None before the first."""
    row = session.exec(select(ReconRun).order_by(col(ReconRun.id).desc()).limit(1)).first()
    return _run(row) if row else None


def counts(session: Session) -> dict[str, int]:
    """How many differences are open, by check."""
    run = newest(session)
    if run is None:
        return {}
    query = (
        select(ReconDiff.check_name, func.count())
        .where(ReconDiff.last_run_id == run.id)
        .group_by(ReconDiff.check_name)
    )
    return dict(session.exec(query).all())


def find(
    session: Session,
    *,
    state: str = "open",
    check: str = "",
    limit: int = 50,
    cursor: str | None = None,
) -> tuple[list[Difference], str | None]:
    """Differences in the order they were found, and the next page's cursor.

    `state` is `open`, `gone` or `all`. Raises BadPage.
    """
    run = newest(session)
    if run is None:
        return [], None
    query = select(ReconDiff).order_by(col(ReconDiff.id)).limit(limit + 1)
    if cursor:
        if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
            raise BadPage
        query = query.where(col(ReconDiff.id) > int(cursor))
    if state == "open":
        query = query.where(ReconDiff.last_run_id == run.id)
    elif state == "gone":
        query = query.where(ReconDiff.last_run_id != run.id)
    if check:
        query = query.where(ReconDiff.check_name == check)
    rows = session.exec(query).all()
    found = [_difference(row, run.id) for row in rows[:limit]]
    return found, str(found[-1].id) if len(rows) > limit else None


def get(session: Session, id: int) -> Difference:
    """One difference; raises UnknownDifference."""
    row, run = session.get(ReconDiff, id), newest(session)
    if row is None or run is None:
        raise UnknownDifference
    return _difference(row, run.id)


def _run(row: ReconRun) -> Run:
    assert row.id is not None
    return Run(row.id, row.actor, row.checks, row.found, row.fresh, row.started_at, row.ended_at)


def _difference(row: ReconDiff, run_id: int) -> Difference:
    assert row.id is not None
    return Difference(
        id=row.id,
        check=row.check_name,
        left=Side(row.left_kind, row.left_id),
        right=Side(row.right_kind, row.right_id),
        facts=json.loads(row.facts),
        open=row.last_run_id == run_id,
        first_seen_at=row.first_seen_at,
        last_seen_at=row.last_seen_at,
    )
