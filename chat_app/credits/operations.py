"""Operations: what a key has led to is remembered for ever, so a retry never acts twice.

A key belongs to a scope and to one request. The same request again gets the stored outcome,
a decided refusal too; another request under the same key is a conflict. Refusals that only
describe the moment (try later, somebody else was faster) are not remembered.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session

from chat_app.audit.log import canonical
from chat_app.credits.sql import Books, Statement
from chat_app.db import AFTER_ROLLBACK
from chat_app.errors import AppError, Conflict, Invalid, OutOfCredits

Outcome = dict[str, Any]
DECIDED = (OutOfCredits, Invalid)

_LOCK = Statement("SELECT pg_advisory_xact_lock(hashtextextended(CAST(:name AS text), 0))")
_FIND = Statement(
    "SELECT request_hash, status, outcome FROM operation WHERE scope = :scope AND key = :key"
)
_NUMBER = Statement("SELECT id FROM operation WHERE scope = :scope AND key = :key")
_KEEP = Statement(
    """INSERT INTO operation
    (scope, key, request_hash, status, outcome, transfer_id, actor, created_at)
    VALUES (:scope, :key, :digest, :status, :outcome, :transfer_id, :actor, :now)""",
    returning="id",
)
_KEEP_REFUSAL = Statement(
    """INSERT INTO operation (scope, key, request_hash, status, outcome, actor, created_at)
    VALUES (:scope, :key, :digest, 'refused', :outcome, :actor, :now)
    ON CONFLICT (scope, key) DO NOTHING"""
)


class IdempotencyConflict(Conflict):
    """The key was used before, with another request."""

    code = "idempotency_conflict"
    message = (
        "This idempotency key was used before with a different request. "
        "Send the same request again, or use a new key."
    )


def digest(request: dict[str, Any]) -> str:
    """The hash that tells whether two requests are the same."""
    return hashlib.sha256(canonical(request).encode()).hexdigest()


@dataclass(slots=True)
class Deed:
    """A request with its key in hand: done before with this `outcome`, or to be done and kept."""

    session: Session
    books: Books
    scope: str
    key: str
    hashed: str
    actor: str
    outcome: Outcome | None

    @property
    def id(self) -> int:
        """The id of the operation that was kept earlier."""
        found = number(self.session, scope=self.scope, key=self.key)
        assert found is not None, "only what was done has a number"
        return found

    def keep(self, outcome: Outcome, *, now: int, transfer_id: int | None) -> int:
        """Remember what was done, with the transfer it made; returns the operation's id."""
        return keep(
            self.books,
            scope=self.scope,
            key=self.key,
            hashed=self.hashed,
            now=now,
            actor=self.actor,
            outcome=outcome,
            transfer_id=transfer_id,
        )

    def refuse(self, error: AppError, *, now: int) -> None:
        """Remember a refusal, also when the caller's whole story is rolled back because of it."""
        refuse(
            self.session,
            self.books,
            scope=self.scope,
            key=self.key,
            hashed=self.hashed,
            now=now,
            actor=self.actor,
            why=error,
        )


def begin(session: Session, *, scope: str, key: str, actor: str, request: dict[str, Any]) -> Deed:
    """Take a key in hand for a request. Without an outcome it is to be done, and kept.

    Raises the remembered refusal, or IdempotencyConflict for another request with the key.
    """
    books, hashed = Books(session), digest(request)
    outcome = find(books, scope=scope, key=key, hashed=hashed)
    return Deed(session, books, scope, key, hashed, actor, outcome)


def once(
    session: Session,
    *,
    scope: str,
    key: str,
    request: dict[str, Any],
    now: int,
    actor: str,
    run: Callable[[], Outcome],
) -> tuple[Outcome, bool]:
    """Run `run()` for the first request with this key; returns its outcome and "again".

    The outcome must be JSON. A refusal leaves nothing of `run` behind; a decided one is raised
    again for every later request with the key. Raises IdempotencyConflict for another request.
    """
    deed = begin(session, scope=scope, key=key, actor=actor, request=request)
    if deed.outcome is not None:
        return deed.outcome, True
    pending = session.info.setdefault(AFTER_ROLLBACK, [])
    mark = len(pending)
    try:
        with session.begin_nested():
            outcome = run()
            session.flush()
    except DECIDED as error:
        del pending[mark:]
        deed.refuse(error, now=now)
        raise
    deed.keep(outcome, now=now, transfer_id=None)
    return outcome, False


def replay(session: Session, *, scope: str, key: str, request: dict[str, Any]) -> Outcome | None:
    """The stored outcome of an earlier request, or None; for a look without a write.

    Raises the remembered refusal, or IdempotencyConflict.
    """
    return _read(Books(session), scope=scope, key=key, hashed=digest(request))


def number(session: Session, *, scope: str, key: str) -> int | None:
    """The id of the operation with this key, or None."""
    row = Books(session).one(_NUMBER, scope=scope, key=key)
    return int(row[0]) if row else None


def find(books: Books, *, scope: str, key: str, hashed: str) -> Outcome | None:
    """`replay` inside a write: waits for another transaction that has the same key in hand."""
    if not books.sqlite:
        books.rows(_LOCK, name=f"{scope}\n{key}")
    return _read(books, scope=scope, key=key, hashed=hashed)


def _read(books: Books, *, scope: str, key: str, hashed: str) -> Outcome | None:
    row = books.one(_FIND, scope=scope, key=key)
    if row is None:
        return None
    stored_hash, status, text = row
    if stored_hash != hashed:
        raise IdempotencyConflict
    outcome: Outcome = json.loads(text)
    if status == "refused":
        raise _refusal(outcome)
    return outcome


def keep(
    books: Books,
    *,
    scope: str,
    key: str,
    hashed: str,
    now: int,
    actor: str,
    outcome: Outcome,
    transfer_id: int | None,
) -> int:
    """Remember what was done, with the transfer it made; returns the operation's id."""
    return books.insert(
        _KEEP,
        scope=scope,
        key=key,
        digest=hashed,
        status="done",
        outcome=json.dumps(outcome),
        transfer_id=transfer_id,
        actor=actor,
        now=now,
    )


def refuse(
    session: Session,
    books: Books,
    *,
    scope: str,
    key: str,
    hashed: str,
    now: int,
    actor: str,
    why: AppError,
) -> None:
    """Remember a refusal, also when the caller's whole story is rolled back because of it."""
    row = {
        "scope": scope,
        "key": key,
        "digest": hashed,
        "outcome": json.dumps({"code": why.code, "message": str(why), "facts": why.facts}),
        "actor": actor,
        "now": now,
    }
    books.change(_KEEP_REFUSAL, **row)
    session.info.setdefault(AFTER_ROLLBACK, []).append(
        lambda later: Books(later).change(_KEEP_REFUSAL, **row)
    )


def _refusal(outcome: Outcome) -> AppError:
    kinds: list[type[AppError]] = [AppError]
    for kind in kinds:
        if kind.code == outcome["code"]:
            break
        kinds.extend(kind.__subclasses__())
    else:
        kind = Conflict
    # Leaves may take other arguments than their facts, so the stored words are put back as is.
    error = kind.__new__(kind)
    AppError.__init__(error, outcome["message"], **outcome["facts"])
    return error
