"""The proof of the books: the ledger against itself, and the seals over ledger and events.

It reads one snapshot, so it may run while others write. It repairs nothing.
"""

from dataclasses import dataclass
from pathlib import Path

from sqlmodel import Session

from chat_app.app import App
from chat_app.audit import anchors, seal
from chat_app.audit.anchors import Anchor
from chat_app.audit.seal import Problem
from chat_app.credits import verify
from chat_app.db import Database


def prove(db: Database, *, key: bytes, data_dir: Path | None = None) -> list[Problem]:
    """Every discrepancy there is, not only the first; empty when the books are right.

    `key` is the installation's audit key. With `data_dir` the seals must also be those that its
    file of anchors names.
    """
    problems: list[Problem] = []
    published: list[str] = []
    if data_dir is not None:
        # Before the snapshot: what was published then must be in it.
        path = data_dir / anchors.FILE
        published, problems = anchors.read(path, key=key)
    with db.read() as session:
        if not db.sqlite:
            # By default PostgreSQL looks anew with every statement; all checks see one moment.
            session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        problems += verify.run(session, audit_key=key, published=published)
        if data_dir is not None and not path.exists() and _could_be_anchored(session):
            facts: dict[str, object] = {"file": str(path)}
            problems.append(Problem("I14", "The file of anchors is missing.", facts))
    return problems


def seal_and_anchor(app: App) -> int:
    """Seal what is new and write the head to the file of anchors; returns how many rows."""
    key, now = app.secrets.audit_key, app.clock.micros()
    sealed = app.db.write(lambda session: seal.seal(session, key=key, now=now))
    with app.db.read() as session:
        head = seal.head(session)
    anchors.append(app.settings.data_dir / anchors.FILE, head=head, key=key, now=now)
    return sealed


@dataclass(frozen=True)
class State:
    """How far the books are sealed, and what was published of it last."""

    streams: dict[str, seal.State]
    head: str
    anchor: Anchor | None


def state(app: App) -> State:
    """The seals and the newest anchor, without a proof."""
    with app.db.read() as session:
        streams, head = seal.state(session), seal.head(session)
    return State(streams, head, anchors.last(app.settings.data_dir / anchors.FILE))


def _could_be_anchored(session: Session) -> bool:
    """Whether there are seals from after the first anchor: those with marks."""
    return any(state.marked for state in seal.state(session).values())
