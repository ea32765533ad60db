"""REST: the audit, the proof of the books and the reconciliation, for administrators."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query

from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps
from chat_app.api.deps import errors_in
from chat_app.api.views import Page, Shown
from chat_app.audit import differences, log
from chat_app.audit.differences import Difference, Run
from chat_app.audit.log import Event
from chat_app.clock import rfc3339
from chat_app.flows import books, reconcile

router = APIRouter(prefix="/admin", tags=["admin"])

Auditing = Annotated[SignedIn, Depends(deps.allowed("audit.read"))]
Reading = Annotated[SignedIn, Depends(deps.allowed("books.read"))]
Reconciling = Annotated[SignedIn, Depends(deps.allowed("books.write"))]

_Name = Annotated[str, Query(max_length=64), deps.Clean]


class EventOut(Shown):
    """Something that happened: who did what, and when."""

    id: str
    at: str
    type: str
    actor: str
    facts: dict[str, Any]

    @classmethod
    def of(cls, event: Event) -> "EventOut":
        """An event for the API."""
        return cls(
            id=str(event.seq),
            at=rfc3339(event.at),
            type=event.type,
            actor=event.actor,
            facts=event.facts,
        )


class ProblemOut(Shown):
    """A rule of docs/money.md that does not hold, and where."""

    invariant: str
    sentence: str
    facts: dict[str, Any]


class SealsOut(Shown):
    """How much of a stream is sealed."""

    stream: str
    seals: int
    sealed_rows: int
    unsealed_rows: int
    sealed_at: str | None


class ProofOut(Shown):
    """The proof of the books. `head` is the newest seals: keep it elsewhere."""

    ok: bool
    problems: list[ProblemOut]
    seals: list[SealsOut]
    head: str
    anchored_at: str | None


class SideOut(Shown):
    """One of two records; without an id it is the one that is missing."""

    kind: str
    id: str | None


class DifferenceOut(Shown):
    """Two records that do not agree, and what to do."""

    id: str
    check: str
    sentence: str
    advice: str
    left: SideOut
    right: SideOut
    facts: dict[str, Any]
    open: bool
    first_seen_at: str
    last_seen_at: str

    @classmethod
    def of(cls, row: Difference) -> "DifferenceOut":
        """A difference for the API."""
        check = reconcile.check_named(row.check)
        return cls(
            id=str(row.id),
            check=row.check,
            sentence=check.sentence if check else "",
            advice=check.advice if check else "",
            left=SideOut(kind=row.left.kind, id=row.left.id),
            right=SideOut(kind=row.right.kind, id=row.right.id),
            facts=row.facts,
            open=row.open,
            first_seen_at=rfc3339(row.first_seen_at),
            last_seen_at=rfc3339(row.last_seen_at),
        )


class RunOut(Shown):
    """A finished comparison; `fresh` differences were not open before it."""

    id: str
    actor: str
    checks: int
    differences: int
    fresh: int
    started_at: str
    ended_at: str

    @classmethod
    def of(cls, run: Run) -> "RunOut":
        """A run for the API."""
        return cls(
            id=str(run.id),
            actor=run.actor,
            checks=run.checks,
            differences=run.found,
            fresh=run.fresh,
            started_at=rfc3339(run.started_at),
            ended_at=rfc3339(run.ended_at),
        )


class ReconciliationOut(Page[DifferenceOut]):
    """The newest run, None before the first, and a page of differences."""

    run: RunOut | None
    counts: dict[str, int]


@router.get("/audit", responses=errors_in(401, 403, 422))
def list_events(
    *,
    app: deps.App,
    who: Auditing,
    since: deps.Since,
    until: deps.Until,
    type: _Name = "",
    actor: _Name = "",
    limit: deps.Limit = 50,
    cursor: deps.Cursor = None,
) -> Page[EventOut]:
    """Who did what, newest first. `actor` is `user:ID` or `system`."""
    with app.db.read() as session:
        found, following = log.find(
            session,
            type=type,
            actor=actor,
            since=since,
            until=until,
            limit=limit,
            cursor=cursor,
        )
    return Page(items=[EventOut.of(event) for event in found], next_cursor=following)


@router.get("/audit/verify", responses=errors_in(401, 403))
def verify(app: deps.App, who: Reading) -> ProofOut:
    """Prove ledger, seals and anchors; every discrepancy with where it is. Takes a while."""
    problems = books.prove(app.db, key=app.secrets.audit_key, data_dir=app.settings.data_dir)
    state = books.state(app)
    return ProofOut(
        ok=not problems,
        problems=[
            ProblemOut(invariant=item.invariant, sentence=item.sentence, facts=item.facts)
            for item in problems
        ],
        seals=[
            SealsOut(
                stream=stream,
                seals=item.seals,
                sealed_rows=item.sealed,
                unsealed_rows=item.unsealed,
                sealed_at=rfc3339(item.sealed_at) if item.sealed_at else None,
            )
            for stream, item in state.streams.items()
        ],
        head=state.head,
        anchored_at=rfc3339(state.anchor.at) if state.anchor else None,
    )


@router.get("/reconciliation", responses=errors_in(401, 403, 422))
def show_reconciliation(
    *,
    app: deps.App,
    who: Reading,
    state: Annotated[
        Literal["open", "gone", "all"], Query(description="`gone` are no longer found.")
    ] = "open",
    check: _Name = "",
    limit: deps.Limit = 50,
    cursor: deps.Cursor = None,
) -> ReconciliationOut:
    """What the newest reconciliation found, each difference with both sides and what to do."""
    with app.db.read() as session:
        run, counts = differences.newest(session), differences.counts(session)
        found, following = differences.find(
            session, state=state, check=check, limit=limit, cursor=cursor
        )
    return ReconciliationOut(
        run=RunOut.of(run) if run else None,
        counts=counts,
        items=[DifferenceOut.of(row) for row in found],
        next_cursor=following,
    )


@router.post("/reconciliation", responses=errors_in(401, 403, 503))
def reconcile_now(app: deps.App, who: Reconciling) -> RunOut:
    """Reconcile now. It compares and records; nothing is repaired."""
    return RunOut.of(reconcile.run(app, actor=f"user:{deps.user_id(who)}"))
