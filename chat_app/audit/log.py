"""The event log: who did what, and when. Rows are added in the writer's own transaction."""

import json

from sqlalchemy import insert
from sqlmodel import Session

from chat_app.audit.tables import EventRow


def canonical(facts: object) -> str:
    """JSON with sorted keys and no spaces, so that equal facts have equal bytes."""
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def record(session: Session, *, type: str, actor: str, now: int, **facts: object) -> None:
    """Add an event. `now` is in microseconds, `facts` are JSON values."""
    row = {"at": now, "type": type, "actor": actor, "payload": canonical(facts)}
    session.execute(insert(EventRow).values(**row))
