"""Seals: a keyed proof that no sealed transfer or event was changed, removed or slipped in.

A seal is an HMAC over a block of rows and over the seal before it. The key is not in the
database, so who can write there cannot make one. What was cut off together with its seals
shows only against a head that was published before: keep `head()` somewhere else.
"""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlmodel import Session, col, select

from chat_app.audit.log import canonical
from chat_app.audit.tables import SealRow

BLOCK = 10_000
_STREAMS = {
    "event": ("seq", "event_log", "seq, at, type, actor, payload"),
    "transfer": (
        "id",
        "transfer",
        "id, kind, code, debit_id, credit_id, amount, pending_id, cause_id, debit_after,"
        " credit_after, description, reference, created_at",
    ),
}


@dataclass(frozen=True)
class Problem:
    """Something in the books that is not as it must be: which rule, where, how."""

    invariant: str
    sentence: str
    facts: dict[str, Any] = field(default_factory=dict)


def seal(session: Session, *, key: bytes, now: int) -> int:
    """Seal what is not sealed yet; returns how many rows that were."""
    if session.get_bind().dialect.name != "sqlite":
        # Ids are given out before the commit: no open transaction may still hold a lower one.
        session.execute(text("LOCK TABLE transfer, event_log IN SHARE ROW EXCLUSIVE MODE"))
    sealed = 0
    for stream in _STREAMS:
        newest = _newest(session, stream)
        while rows := _rows(session, stream, after=newest.last_id if newest else 0):
            previous = newest.mac if newest else ""
            newest = SealRow(
                stream=stream,
                first_id=rows[0][0],
                last_id=rows[-1][0],
                count=len(rows),
                previous_mac=previous,
                mac=_mac(key, stream, previous, rows),
                key_id=key_id(key),
                sealed_at=now,
            )
            session.add(newest)
            session.flush()
            sealed += len(rows)
    return sealed


def head(session: Session) -> str:
    """The newest seals in one short text, to be published outside of the database."""
    newest = [(stream, _newest(session, stream)) for stream in _STREAMS]
    return " ".join(f"{stream}:{row.last_id}:{row.mac}" for stream, row in newest if row)


def verify(session: Session, *, key: bytes, published: str = "") -> list[Problem]:
    """Everything that does not fit the seals; empty when all is well.

    `published` is an earlier `head()`: its seals must still be there.
    """
    problems = []
    known = set()
    for stream in _STREAMS:
        previous, after = "", 0
        for row in _seals(session, stream):
            facts = {"stream": stream, "from": row.first_id, "to": row.last_id}
            if row.key_id != key_id(key):
                problems.append(Problem("I14", "A seal was made with another key.", facts))
            elif row.previous_mac != previous:
                problems.append(Problem("I14", "A seal before this one is missing.", facts))
            elif not hmac.compare_digest(
                row.mac,
                _mac(key, stream, previous, _rows(session, stream, after=after, until=row.last_id)),
            ):
                problems.append(
                    Problem("I13", "Sealed rows were changed, removed or added.", facts)
                )
            known.add(f"{stream}:{row.last_id}:{row.mac}")
            previous, after = row.mac, row.last_id
    problems += [
        Problem("I14", "A published seal is no longer there.", {"seal": lost})
        for lost in published.split()
        if lost not in known
    ]
    return problems


def key_id(key: bytes) -> str:
    """A name for the key that gives nothing away."""
    return hmac.new(key, b"seal key id", hashlib.sha256).hexdigest()[:16]


def _seals(session: Session, stream: str) -> Iterable[SealRow]:
    return session.exec(
        select(SealRow).where(SealRow.stream == stream).order_by(col(SealRow.id))
    ).all()


def _newest(session: Session, stream: str) -> SealRow | None:
    return session.exec(
        select(SealRow).where(SealRow.stream == stream).order_by(col(SealRow.id).desc()).limit(1)
    ).first()


def _rows(session: Session, stream: str, *, after: int, until: int | None = None) -> list[Any]:
    name, table, columns = _STREAMS[stream]
    query = f"SELECT {columns} FROM {table} WHERE {name} > :after"  # noqa: S608 - constants
    if until is None:
        query += f" ORDER BY {name} LIMIT {BLOCK}"
        return list(session.execute(text(query), {"after": after}))
    query += f" AND {name} <= :until ORDER BY {name}"
    return list(session.execute(text(query), {"after": after, "until": until}))


def _mac(key: bytes, stream: str, previous: str, rows: Iterable[Any]) -> str:
    made = hmac.new(key, f"{stream}\n{previous}\n".encode(), hashlib.sha256)
    for row in rows:
        made.update(canonical(list(row)).encode() + b"\n")
    return made.hexdigest()
