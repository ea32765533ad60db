"""The watch: the engine of one process with its memory in the database.

What was judged is written in the order in which the state took it in; a snapshot of the state
each minute and the rows since are enough to have the same state after a crash. Addresses,
devices, cards and codes are keyed hashes before anything sees them.
"""

import hashlib
import hmac
import json
import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlmodel import Session, col, delete, func, select

from chat_app.clock import MICROS_PER_SECOND, Clock
from chat_app.errors import Conflict, Invalid, NotFound
from chat_app.ml.fraud import events
from chat_app.ml.fraud.engine import Costs, Decision, Engine
from chat_app.ml.fraud.rules import Rules
from chat_app.ml.fraud.state import FORMAT, KINDS, State
from chat_app.ml.fraud.tables import EntityState, FraudAssessment, FraudLabel

log = logging.getLogger(__name__)

MARK = "mark"
KEPT_DAYS = 90
DAY = 24 * 3600 * MICROS_PER_SECOND
MOST_PENDING = 100_000
LATE = 200
LABELS = ("fraud", "legit")
HIDDEN = ("ip", "ip_net", "device_id", "agent", "payment_fingerprint", "voucher_code")
# What an erased person's events keep: enough for sums, nothing that leads to anybody.
PLAIN = ("event_id", "ts", "type", "user_id", "credits", "amount_minor", "tokens")


class UnknownAssessment(NotFound):
    """There is no judgement of this id."""

    code = "unknown_assessment"
    message = "There is no such judgement. Reload the list and choose another."


class BadLabel(Invalid):
    """A label is `fraud` or `legit`."""

    code = "bad_label"
    message = "A label is fraud or legit. Choose one of them."


class AlreadyLabelled(Conflict):
    """The newest label says the same already."""

    code = "already_labelled"
    message = "This judgement has that label already. Choose the other one to change it."


class Judged(NamedTuple):
    """An event as it is stored, and the decision on it."""

    event: dict[str, Any]
    decision: Decision
    refused: bool = False


@dataclass(frozen=True)
class Case:
    """A judgement as the desk shows it; times in µs, score in points."""

    id: int
    user_id: int
    type: str
    score: float
    action: str
    reasons: list[str]
    refused: bool
    model_version: str
    fallback_reason: str | None
    label: str | None
    credits: int
    created_at: int


class Watch:
    """The engine with the hashing key and the rows that wait to be written."""

    def __init__(
        self, clock: Clock, *, key: bytes, mode: str, rules: Rules | None = None,
        costs: Costs | None = None,
    ) -> None:  # fmt: skip
        self.clock = clock
        self.mode = mode
        self.engine = Engine(None, clock, rules=rules, costs=costs)
        self.messages: deque[dict[str, Any]] = deque(maxlen=MOST_PENDING)
        self._key = key
        self._ready = mode == "off"
        self._rebuilt = False
        self._seen = self._heard = 0
        self._own: set[int] = set()
        self._loading = threading.Lock()

    @property
    def on(self) -> bool:
        """Whether anything is judged at all."""
        return self.mode != "off"

    @property
    def acts(self) -> bool:
        """Whether a hold stops what it is about."""
        return self.mode == "act"

    def hidden(self, value: str) -> str:
        """A keyed hash that tells the same from another, and nothing else."""
        if not value:
            return ""
        return hmac.new(self._key, value.encode(), hashlib.sha256).hexdigest()[:20]

    def judge(self, session: Session, event: Mapping[str, Any]) -> Judged:
        """Judge an event whose sensitive fields are still plain."""
        self.restore(session)
        covered = self.cover(event)
        return Judged(covered, self.engine.score(covered))

    def cover(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """The event as it is stored: without what is empty, and hashes for what is sensitive."""
        shown = {name: value for name, value in event.items() if value not in (None, "")}
        if "ip" in shown:
            shown["ip_net"] = events.network(str(shown["ip"]))
        for name in HIDDEN:
            if name in shown:
                shown[name] = self.hidden(str(shown[name]))
        return shown

    # -- memory -------------------------------------------------------------------------------

    def restore(self, session: Session) -> None:
        """Take up the saved state and the rows since, once for each process."""
        if not self._ready:
            with self._loading:
                self._restore(session)

    def _restore(self, session: Session) -> None:
        if self._ready:  # by another thread meanwhile
            return
        state, mark, ahead, labels = State(), 0, set(), 0
        kept = session.get(EntityState, (MARK, ""))
        values = json.loads(kept.state) if kept is not None else {}
        if values.get("format") == FORMAT:
            mark, ahead, labels = values["id"], set(values["ahead"]), values["label"]
            for row in session.exec(select(EntityState).where(col(EntityState.kind) != MARK)):
                if row.kind in KINDS:
                    state.put(row.kind, row.key, json.loads(row.state))
        elif kept is not None:  # by a release with other fields: what was judged is gone through
            log.info("what the fraud watch remembers is rebuilt from what it judged")
            self._rebuilt = True
        self.engine.state = state
        self._seen, self._heard = _newest(session)
        self._replay(session, mark, ahead, labels)
        self._ready = True

    def catch_up(self, session: Session) -> int:
        """Take in what other processes have judged and heard since; returns how much it was."""
        self.restore(session)
        newest, label = _newest(session)
        if (newest, label) == (self._seen, self._heard):
            return 0
        # Ids are given before they are committed: a few late ones are looked for again.
        late = col(FraudAssessment.id) > self._seen - LATE
        ids = dict(
            session.exec(select(FraudAssessment.event_id, FraudAssessment.id).where(late)).all()
        )
        with self.engine.lock:
            known = set(self.engine.recent(len(ids) + LATE))
        rows = session.exec(
            select(FraudAssessment)
            .where(col(FraudAssessment.id).in_([ids[one] for one in ids.keys() - known]))
            .order_by(col(FraudAssessment.id))
        ).all()
        for row in rows:
            self._again(row.event, row.refused)
        said = session.exec(
            select(FraudLabel, FraudAssessment.event)
            .join(FraudAssessment, col(FraudAssessment.id) == col(FraudLabel.assessment_id))
            .where(col(FraudLabel.id) > self._heard, col(FraudLabel.id) <= label)
            .order_by(col(FraudLabel.id))
        ).all()
        others = [(one, text) for one, text in said if one.id not in self._own]
        for one, text in others:
            self._hear(session, one, events.read(json.loads(text)))
        self._seen, self._heard, self._own = newest, label, set()
        return len(rows) + len(others)

    def _replay(self, session: Session, mark: int, ahead: set[str], labels: int) -> None:
        rows = session.exec(
            select(FraudAssessment).where(col(FraudAssessment.id) > mark).order_by(
                col(FraudAssessment.id)
            )
        )  # fmt: skip
        steps: list[tuple[int, int, Any]] = [
            (row.created_at, 0, (row.event, row.refused))
            for row in rows
            if row.event_id not in ahead
        ]
        said = session.exec(
            select(FraudLabel, FraudAssessment)
            .join(FraudAssessment, col(FraudAssessment.id) == col(FraudLabel.assessment_id))
            .where(col(FraudLabel.id) > labels)
            .order_by(col(FraudLabel.id))
        )
        steps += [(label.created_at, 1, (label, row.event)) for label, row in said]
        steps.sort(key=lambda step: step[:2])
        for _, kind, what in steps:
            if kind == 0:
                self._again(*what)
            else:
                label, text = what
                self._hear(session, label, events.read(json.loads(text)))

    def _again(self, text: str, refused: bool) -> None:
        event = json.loads(text)
        if event.get("peek"):  # what was only looked at never happened
            return
        read = events.read(event)
        self.engine.observe(read)
        if refused:
            self.engine.refuse(read)

    def snapshot(self, session: Session) -> int:
        """Save what has changed; returns how many parts. Pending rows are to be written before."""
        if not self._ready:
            return 0
        now = self.clock.micros()
        newest = session.exec(select(func.max(FraudAssessment.id))).one() or 0
        label = session.exec(select(func.max(FraudLabel.id))).one() or 0
        with self.engine.lock:
            state = self.engine.state
            state.tidy(now / 1e6)
            changed, state.touched = state.touched, set()
            parts = {}
            for kind, key in changed:
                part = state.find(kind, key)
                parts[kind, key] = None if part is None else json.dumps(part.dump())
            recent = self.engine.recent(2000)
        if self._rebuilt:
            session.execute(delete(EntityState))
            self._rebuilt = False
        there = set(
            session.exec(
                select(FraudAssessment.event_id).where(col(FraudAssessment.event_id).in_(recent))
            )
        )
        mark = {
            "format": FORMAT,
            "id": newest,
            "ahead": sorted(set(recent) - there),
            "label": label,
        }
        parts[MARK, ""] = json.dumps(mark)
        for (kind, key), text in parts.items():
            if text is None:
                session.execute(
                    delete(EntityState).where(
                        col(EntityState.kind) == kind, col(EntityState.key) == key
                    )
                )
            else:
                session.merge(EntityState(kind=kind, key=key, state=text, updated_at=now))
        session.flush()
        return len(parts)

    def forget(self, session: Session, *, user_id: int) -> None:
        """Delete what leads to a person: their state, and all but sums of their events."""
        with self.engine.lock:
            self.engine.state.forget("user", str(user_id))
        session.execute(
            delete(EntityState).where(
                col(EntityState.kind) == "user", col(EntityState.key) == str(user_id)
            )
        )
        mine = session.exec(select(FraudAssessment).where(FraudAssessment.user_id == user_id))
        for row in mine.all():
            event = json.loads(row.event)
            row.event = json.dumps({name: event[name] for name in PLAIN if name in event})
            session.add(row)
        session.flush()

    # -- labels -------------------------------------------------------------------------------

    def label(self, session: Session, *, id: int, label: str, by: int) -> Case:
        """Say what a judged event was. Raises UnknownAssessment, BadLabel, AlreadyLabelled."""
        if label not in LABELS:
            raise BadLabel(param="label")
        self.restore(session)
        row = session.get(FraudAssessment, id)
        if row is None:
            raise UnknownAssessment
        before = newest_label(session, id)
        if before is not None and before.label == label:
            raise AlreadyLabelled
        said = FraudLabel(
            assessment_id=id, label=label, labelled_by=by, created_at=self.clock.micros()
        )
        session.add(said)
        session.flush()
        assert said.id is not None
        self._own.add(said.id)
        self._hear(session, said, events.read(json.loads(row.event)))
        return case(row, label)

    def _hear(self, session: Session, said: FraudLabel, event: events.Event) -> None:
        """Move the risk by what is new in a label: a second `legit` takes nothing back."""
        assert said.id is not None
        before = newest_label(session, said.assessment_id, below=said.id)
        was = before is not None and before.label == "fraud"
        if was != (said.label == "fraud"):
            self.engine.confirm(event, fraud=said.label == "fraud")


def record(session: Session, judged: Judged, *, now: int, tx_id: int | None = None) -> None:
    """Write a judgement, once for each event."""
    event, found = judged.event, judged.decision
    known = session.exec(
        select(FraudAssessment.id).where(FraudAssessment.event_id == event["event_id"])
    ).first()
    if known is not None:
        return
    session.add(
        FraudAssessment(
            event_id=event["event_id"],
            tx_id=tx_id,
            user_id=int(event["user_id"]),
            type=event["type"],
            event=json.dumps(event),
            score=round(found.score * 10),
            action=found.action,
            reasons=json.dumps(list(found.reasons)),
            refused=judged.refused,
            model_version=found.model_version,
            features_hash=found.features_hash,
            cached=found.cached,
            latency_us=min(found.latency_us, 2**31 - 1),
            fallback_reason=found.fallback_reason,
            bucket="" if found.bucket is None else str(int(found.bucket * 10**6)),
            shadow_version=found.shadow_version,
            shadow_score=None if found.shadow_score is None else round(found.shadow_score * 10),
            created_at=now,
        )
    )
    session.flush()


def _newest(session: Session) -> tuple[int, int]:
    """The newest judgement and the newest label."""
    row = session.exec(select(func.max(FraudAssessment.id))).one() or 0
    return row, session.exec(select(func.max(FraudLabel.id))).one() or 0


def newest_label(session: Session, id: int, below: int | None = None) -> FraudLabel | None:
    """The newest label of a judgement, of those before `below`."""
    query = select(FraudLabel).where(FraudLabel.assessment_id == id)
    if below is not None:
        query = query.where(col(FraudLabel.id) < below)
    return session.exec(query.order_by(col(FraudLabel.id).desc()).limit(1)).first()


def queue(
    session: Session,
    *,
    limit: int = 50,
    cursor: int | None = None,
    labelled: bool = False,
    user_id: int | None = None,
) -> list[Case]:
    """Judgements that want a look, newest first: those without a label, or with one.

    With `user_id` everything about that user, allowed events too.
    """
    query = select(FraudAssessment)
    if user_id is not None:
        query = query.where(FraudAssessment.user_id == user_id)
    else:
        has = select(FraudLabel.id).where(FraudLabel.assessment_id == FraudAssessment.id).exists()
        query = query.where(
            col(FraudAssessment.action) != "allow", has if labelled else ~has
        )  # fmt: skip
    if cursor is not None:
        query = query.where(col(FraudAssessment.id) < cursor)
    rows = session.exec(query.order_by(col(FraudAssessment.id).desc()).limit(limit)).all()
    found = []
    for row in rows:
        assert row.id is not None
        said = newest_label(session, row.id)
        found.append(case(row, said.label if said is not None else None))
    return found


@dataclass(frozen=True)
class Threshold:
    """What holding from so many points on would have done to the judged events with a label."""

    points: int
    caught: int
    missed: int
    blocked: int
    cost: float


def thresholds(
    session: Session, *, points: Sequence[int], costs: Costs, since: int
) -> list[Threshold]:
    """Each of these thresholds on the labelled judgements since then; costs as in `Costs`."""
    newest = select(func.max(FraudLabel.id)).group_by(col(FraudLabel.assessment_id))
    rows = session.exec(
        select(FraudAssessment.score, FraudLabel.label)
        .join(FraudLabel, col(FraudLabel.assessment_id) == col(FraudAssessment.id))
        .where(col(FraudLabel.id).in_(newest), col(FraudAssessment.created_at) >= since)
    ).all()
    found = []
    for least in points:
        held = [label for score, label in rows if score >= least * 10]
        caught, blocked = held.count("fraud"), held.count("legit")
        missed = sum(label == "fraud" for _, label in rows) - caught
        cost = missed * costs.loss + blocked * costs.false_block
        found.append(Threshold(least, caught, missed, blocked, cost))
    return found


def case(row: FraudAssessment, label: str | None) -> Case:
    """A row as the desk shows it."""
    assert row.id is not None
    event = json.loads(row.event)
    return Case(
        id=row.id,
        user_id=row.user_id,
        type=row.type,
        score=row.score / 10,
        action=row.action,
        reasons=json.loads(row.reasons),
        refused=row.refused,
        model_version=row.model_version,
        fallback_reason=row.fallback_reason,
        label=label,
        credits=round(float(event.get("credits", 0)) * 10**6),
        created_at=row.created_at,
    )


def purge(session: Session, *, now: int) -> int:
    """Delete judgements that are old and carry no label; returns how many."""
    has = select(FraudLabel.id).where(FraudLabel.assessment_id == FraudAssessment.id).exists()
    done = session.execute(
        delete(FraudAssessment)
        .where(col(FraudAssessment.created_at) < now - KEPT_DAYS * DAY, ~has)
        .execution_options(synchronize_session=False)
    )
    return int(done.rowcount)  # type: ignore[attr-defined]


__all__ = ["Case", "Judged", "Watch", "case", "purge", "queue", "record"]
