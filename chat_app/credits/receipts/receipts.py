"""Receipts of settled answers: signed statements of what was charged, without a word of it.

A receipt is a function of rows that never change (the usage and its transfer) and of the key
that was in force when the answer was settled; Ed25519 signatures are deterministic. So nothing
is signed while an answer is settled: a receipt is made when somebody asks, always the same, and
its hash is kept from then on. `problems` makes each one that was given out again and compares.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session

from chat_app.audit.log import canonical
from chat_app.audit.seal import Problem
from chat_app.clock import rfc3339
from chat_app.credits.receipts import keys
from chat_app.credits.receipts.keys import ReceiptKey
from chat_app.credits.sql import Books, Statement
from chat_app.errors import Invalid, NotFound, Unavailable
from chat_app.money import format_credits

VERSION = 1
Signed = dict[str, Any]
_TRANSFER = (
    "id", "kind", "code", "debit_id", "credit_id", "amount", "pending_id", "cause_id",
    "debit_after", "credit_after", "description", "reference", "created_at",
)  # fmt: skip
_FACTS = (
    "user_id", "reply_id", "model", "price_version", "prompt_tokens", "completion_tokens",
    "cached_tokens", "cost", "at",
)  # fmt: skip
_COLUMNS = ", ".join([f"u.{name}" for name in _FACTS] + [f"t.{name}" for name in _TRANSFER])
_SELECT = f"SELECT {_COLUMNS} FROM usage u JOIN transfer t ON t.id = u.transfer_id "  # noqa: S608
_ONE = Statement(_SELECT + "WHERE u.transfer_id = :transfer_id")
_GIVEN = Statement("SELECT key_id, sha256 FROM receipt WHERE transfer_id = :transfer_id")
_KEEP = Statement(
    """INSERT INTO receipt (transfer_id, key_id, sha256, created_at)
    VALUES (:transfer_id, :key_id, :sha256, :now) ON CONFLICT (transfer_id) DO NOTHING"""
)
_OF = Statement(
    """SELECT r.transfer_id FROM receipt r JOIN usage u ON u.transfer_id = r.transfer_id
    WHERE u.user_id = :user_id AND r.transfer_id > :after ORDER BY r.transfer_id LIMIT :limit"""
)
_ALL = Statement(
    "SELECT transfer_id, key_id, sha256 FROM receipt WHERE transfer_id > :after"
    " ORDER BY transfer_id LIMIT 1000"
)


class UnknownReceipt(NotFound):
    """There is no such receipt, or it is another user's."""

    code = "unknown_receipt"
    message = "This receipt could not be found. The id is in the answer of the message."


class ReceiptKeyLost(Unavailable):
    """The receipt was given out under a key that is not there any more."""

    code = "receipt_key_lost"
    message = (
        "The key that signed this receipt is missing. Restore receipt_keys.json from your backup."
    )


class BadReceipt(Invalid):
    """The file is no receipt, was changed, or was signed by another key."""

    code = "bad_receipt"
    message = "This is not a receipt that the given key has signed. Check the file and the key."


@dataclass(frozen=True)
class PublicKey:
    """A key for checking receipts; `since` is the time in µs from which it signed."""

    id: str
    public: str
    since: int


def issue(
    session: Session, *, transfer_id: int, user_id: int, known: list[ReceiptKey], now: int
) -> Signed:
    """The signed receipt of an answer that this user was charged for.

    Raises UnknownReceipt, also for another user's, or ReceiptKeyLost.
    """
    books = Books(session)
    row = books.one(_ONE, transfer_id=transfer_id)
    if row is None or row[0] != user_id:
        raise UnknownReceipt
    given = books.one(_GIVEN, transfer_id=transfer_id)
    if given is None:
        key = keys.in_force(known, row[_FACTS.index("at")])
        books.change(
            _KEEP,
            transfer_id=transfer_id,
            key_id=key.id,
            sha256=_hash(_message(row, key.id)),
            now=now,
        )
        given = books.one(_GIVEN, transfer_id=transfer_id)
        assert given is not None
    named = next((item for item in known if item.id == given[0]), None)
    if named is None:
        raise ReceiptKeyLost(key_id=given[0])
    body = _body(row, named.id)
    return {**body, "signature": keys.encode(named.sign(canonical(body).encode()))}


def given_to(session: Session, *, user_id: int, after: int = 0, limit: int = 200) -> list[int]:
    """The transfers whose receipts this user was given, from `after` on, oldest first."""
    rows = Books(session).rows(_OF, user_id=user_id, after=after, limit=limit)
    return [int(id) for (id,) in rows]


def public_keys(known: list[ReceiptKey]) -> list[PublicKey]:
    """The public halves, oldest first."""
    return [PublicKey(key.id, keys.encode(key.public), key.since) for key in known]


def check(signed: object, *, public: dict[str, bytes]) -> dict[str, Any]:
    """What a receipt says, if one of the public keys (by id) has signed it; raises BadReceipt.

    Needs neither the database nor the private key.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if not isinstance(signed, dict) or set(signed) != {
        "algorithm", "key_id", "receipt", "signature"
    }:  # fmt: skip
        raise BadReceipt(why="fields")
    body = {name: signed[name] for name in ("algorithm", "key_id", "receipt")}
    named = public.get(str(signed["key_id"]))
    if named is None:
        raise BadReceipt(why="unknown key", key_id=str(signed["key_id"]))
    said = signed["receipt"]
    if signed["algorithm"] != keys.ALGORITHM or not isinstance(said, dict):
        raise BadReceipt(why="algorithm")
    try:
        signature = keys.decode(str(signed["signature"]))
        Ed25519PublicKey.from_public_bytes(named).verify(signature, canonical(body).encode())
    except (ValueError, InvalidSignature) as error:
        raise BadReceipt(why="signature") from error
    return said


def problems(session: Session) -> list[Problem]:
    """Every receipt that was given out and that the books no longer bear out."""
    books, found = Books(session), []
    for transfer_id, key_id, sha256 in _given(books):
        row = books.one(_ONE, transfer_id=transfer_id)
        if row is None or _hash(_message(row, key_id)) != sha256:
            found.append(
                Problem(
                    "I15",
                    "A receipt that was given out does not follow from the books.",
                    {"transfer": transfer_id},
                )
            )
    return found


def _given(books: Books) -> Iterator[Any]:
    after = 0
    while rows := books.rows(_ALL, after=after):
        yield from rows
        after = rows[-1][0]


def _body(row: Any, key_id: str) -> dict[str, Any]:
    facts = dict(zip(_FACTS, row[: len(_FACTS)], strict=True))
    transfer = dict(zip(_TRANSFER, row[len(_FACTS) :], strict=True))
    return {
        "algorithm": keys.ALGORITHM,
        "key_id": key_id,
        "receipt": {
            "version": VERSION,
            "id": str(transfer["id"]),
            "reply_id": facts["reply_id"],
            "user_id": str(facts["user_id"]),
            "model": facts["model"],
            "price_version": facts["price_version"],
            "prompt_tokens": facts["prompt_tokens"],
            "completion_tokens": facts["completion_tokens"],
            "cached_tokens": facts["cached_tokens"],
            "credits": format_credits(facts["cost"]),
            "settled_at": rfc3339(facts["at"]),
            "transfer_sha256": _hash(canonical(transfer)),
        },
    }


def _message(row: Any, key_id: str) -> str:
    return canonical(_body(row, key_id))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
