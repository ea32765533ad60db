"""Seals: a keyed proof that no sealed transfer or event was changed, removed or slipped in.

A seal covers a block of rows by a keyed mark of each, and the seal before it. The key is not in
the database, so who can write there can make neither marks nor seals, and `verify` names the
first row that is not as it was. What was cut off together with its seals shows only against a
head that was kept elsewhere: see `anchors.py`.
"""

import hashlib
import hmac
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlmodel import Session, col, select

from chat_app.audit.log import canonical
from chat_app.audit.tables import SealRow
from chat_app.secrets import subkey

BLOCK = 10_000
_MARK = struct.Struct(">q8s")  # a row's id, and the first 8 bytes of its keyed hash
_STREAMS = {
    "event": ("seq", "event_log", "seq, at, type, actor, payload"),
    "transfer": (
        "id",
        "transfer",
        "id, kind, code, debit_id, credit_id, amount, pending_id, cause_id, debit_after,"
        " credit_after, description, reference, created_at",
    ),
}
_BAD_ROWS = {
    "changed": "A sealed row was changed.",
    "missing": "A sealed row was removed.",
    "added": "A row was slipped in among the sealed ones.",
}


@dataclass(frozen=True)
class Problem:
    """Something in the books that is not as it must be: which rule, where, how."""

    invariant: str
    sentence: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """How much of a stream is sealed. `sealed_at` is of the newest seal, in µs.

    `marked` are the seals that can name a bad row: all but those of the first release.
    """

    seals: int
    marked: int
    sealed: int
    unsealed: int
    sealed_at: int | None


def seal(session: Session, *, key: bytes, now: int) -> int:
    """Seal what is not sealed yet; returns how many rows that were."""
    if session.get_bind().dialect.name != "sqlite":
        # Ids are given out before the commit: no open transaction may still hold a lower one.
        session.execute(text("LOCK TABLE transfer, event_log IN SHARE ROW EXCLUSIVE MODE"))
    sealed = 0
    for stream in _STREAMS:
        newest = _newest(session, stream)
        while rows := _rows(session, stream, after=newest.last_id if newest else 0):
            made = SealRow(
                stream=stream,
                first_id=rows[0][0],
                last_id=rows[-1][0],
                count=len(rows),
                previous_mac=newest.mac if newest else "",
                mac="",
                key_id=key_id(key),
                sealed_at=now,
                marks=_marks(subkey(key, f"audit row {stream}"), rows),
            )
            made.mac = _mac(subkey(key, "audit seal"), made)
            session.add(made)
            session.flush()
            sealed += len(rows)
            newest = made
    return sealed


def head(session: Session) -> str:
    """The newest seals in one short text, to be published outside of the database."""
    newest = (_newest(session, stream) for stream in _STREAMS)
    return " ".join(_name(row) for row in newest if row)


def state(session: Session) -> dict[str, State]:
    """How far each stream is sealed: `event` and `transfer`."""
    found = {}
    for stream, (name, table, _) in _STREAMS.items():
        seals, marked, sealed, last_id, sealed_at = session.execute(
            text(
                "SELECT COUNT(*), COUNT(marks), COALESCE(SUM(count), 0), COALESCE(MAX(last_id), 0),"
                " MAX(sealed_at) FROM event_seal WHERE stream = :stream"
            ),
            {"stream": stream},
        ).one()
        open_rows = session.execute(
            text(f"SELECT COUNT(*) FROM {table} WHERE {name} > :last"),  # noqa: S608 - constants
            {"last": last_id},
        ).scalar_one()
        found[stream] = State(seals, marked, int(sealed), open_rows, sealed_at)
    return found


def verify(session: Session, *, key: bytes, published: Iterable[str] = ()) -> list[Problem]:
    """Everything that does not fit the seals; empty when all is well.

    Of each block the first bad row is named. `published` are earlier heads: their seals must
    still be there.
    """
    missing = dict.fromkeys(name for some in published for name in some.split())
    problems: list[Problem] = []
    for stream in _STREAMS:
        rows = _Reader(session, stream)
        row_key = subkey(key, f"audit row {stream}")
        previous, last_id = "", 0
        for row in _all_seals(session, stream):
            problems += _check(key, row_key, row, previous, rows.until(row.last_id))
            missing.pop(_name(row), None)
            previous, last_id = row.mac, row.last_id
        lost = [name for name in missing if name.startswith(f"{stream}:")]
        if lost:
            facts = {"stream": stream, "row": last_id + 1, "seal": lost[0], "lost": len(lost)}
            problems.append(Problem("I14", "A published seal is no longer there.", facts))
    return problems


def key_id(key: bytes) -> str:
    """A name for the key that gives nothing away."""
    return hmac.new(key, b"seal key id", hashlib.sha256).hexdigest()[:16]


class _Reader:
    """The rows of a stream, block by block, so that a long log is never in memory as a whole."""

    def __init__(self, session: Session, stream: str) -> None:
        self._session = session
        self._stream = stream
        self._ahead: list[Any] = []
        self._read = 0

    def until(self, last_id: int) -> list[Any]:
        """The next rows, up to this id."""
        while self._read < last_id:
            more = _rows(self._session, self._stream, after=self._read)
            if not more:
                break
            self._ahead += more
            self._read = more[-1][0]
        count = bisect_right(self._ahead, last_id, key=lambda row: row[0])
        taken, self._ahead = self._ahead[:count], self._ahead[count:]
        return taken


def _check(
    key: bytes, row_key: bytes, row: SealRow, previous: str, rows: Sequence[Any]
) -> list[Problem]:
    facts = {"stream": row.stream, "from": row.first_id, "to": row.last_id, "seal": row.id}
    if row.key_id != key_id(key):
        return [Problem("I14", "A seal was made with another key.", facts)]
    problems = []
    if row.previous_mac != previous:
        problems.append(Problem("I14", "A seal before this one is missing.", facts))
    if row.marks is None:
        if not hmac.compare_digest(row.mac, _old_mac(key, row, rows)):
            problems.append(Problem("I13", "Sealed rows were changed, removed or added.", facts))
        return problems
    if not hmac.compare_digest(row.mac, _mac(subkey(key, "audit seal"), row)):
        problems.append(Problem("I14", "A seal was not made with this key.", facts))
    bad = _bad_rows(row_key, row.marks, rows)
    if bad:
        first, how = bad[0]
        more = {"row": first, "bad_rows": len(bad)}
        problems.append(Problem("I13", _BAD_ROWS[how], {**facts, **more}))
    return problems


def _bad_rows(row_key: bytes, marks: bytes, rows: Sequence[Any]) -> list[tuple[int, str]]:
    """The rows that are not as they were sealed, by id."""
    now = _marks(row_key, rows)
    if now == marks:
        return []
    sealed = dict(_MARK.iter_unpack(marks[: len(marks) // _MARK.size * _MARK.size]))
    found = dict(_MARK.iter_unpack(now))
    bad = dict.fromkeys(sealed.keys() - found.keys(), "missing")
    bad |= dict.fromkeys(found.keys() - sealed.keys(), "added")
    bad |= {
        number: "changed"
        for number in sealed.keys() & found.keys()
        if sealed[number] != found[number]
    }
    return sorted(bad.items())


def _marks(row_key: bytes, rows: Iterable[Any]) -> bytes:
    return b"".join(
        _MARK.pack(row[0], hmac.digest(row_key, canonical(list(row)).encode(), "sha256")[:8])
        for row in rows
    )


def _mac(seal_key: bytes, row: SealRow) -> str:
    """The seal's own code: over the seal before, the block's bounds and the marks of its rows."""
    fields = [row.stream, row.previous_mac, row.first_id, row.last_id, row.count, row.sealed_at]
    message = canonical(fields).encode() + b"\n" + (row.marks or b"")
    return hmac.digest(seal_key, message, "sha256").hex()


def _old_mac(key: bytes, row: SealRow, rows: Iterable[Any]) -> str:
    """The code of a seal without marks: over the rows themselves."""
    made = hmac.new(key, f"{row.stream}\n{row.previous_mac}\n".encode(), hashlib.sha256)
    for item in rows:
        made.update(canonical(list(item)).encode() + b"\n")
    return made.hexdigest()


def _name(row: SealRow) -> str:
    return f"{row.stream}:{row.last_id}:{row.mac}"


def _newest(session: Session, stream: str) -> SealRow | None:
    return session.exec(
        select(SealRow).where(SealRow.stream == stream).order_by(col(SealRow.id).desc()).limit(1)
    ).first()


def _all_seals(session: Session, stream: str) -> Iterator[SealRow]:
    after = 0
    while True:
        found = session.exec(
            select(SealRow)
            .where(SealRow.stream == stream, col(SealRow.id) > after)
            .order_by(col(SealRow.id))
            .limit(200)
        ).all()
        if not found:
            return
        yield from found
        assert found[-1].id is not None
        after = found[-1].id
        for row in found:
            session.expunge(row)


def _rows(session: Session, stream: str, *, after: int) -> list[Any]:
    name, table, columns = _STREAMS[stream]
    query = (
        f"SELECT {columns} FROM {table} WHERE {name} > :after"  # noqa: S608 - constants
        f" ORDER BY {name} LIMIT {BLOCK}"
    )
    return list(session.execute(text(query), {"after": after}))
