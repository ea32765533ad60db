"""Words about transfers between people: who to whom, and what the sender wrote.

The books name wallets by number (`user:7 → org:2`), because what they say is sealed for ever and
people may be erased. Names and notes are put in when somebody looks.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlmodel import Session, col, select

from chat_app.accounts.tables import Org, User
from chat_app.credits.accounts import Owner
from chat_app.credits.note_tables import TransferNoteRow

if TYPE_CHECKING:
    from chat_app.credits.ledger import Transaction

_MOVE = re.compile(r"(user|org):(\d+) → (user|org):(\d+)")


def of(source: Owner, target: Owner) -> str:
    """The description of a transfer, as it is sealed."""
    return f"{source.code} → {target.code}"


def add_note(session: Session, *, transfer_id: int, user_id: int, text: str) -> None:
    """Keep what the sender wrote."""
    session.add(TransferNoteRow(transfer_id=transfer_id, user_id=user_id, text=text))
    session.flush()


def note(session: Session, transfer_id: int) -> str | None:
    """What the sender wrote, if anything."""
    row = session.get(TransferNoteRow, transfer_id)
    return row.text if row else None


def told(session: Session, rows: Sequence["Transaction"]) -> list["Transaction"]:
    """The movements with names and notes where their descriptions have numbers."""
    found = {row.id: _MOVE.fullmatch(row.description or "") for row in rows}
    moves = {id: match for id, match in found.items() if match}
    if not moves:
        return list(rows)
    owners = {owner for match in moves.values() for owner in _owners(match)}
    names = _names(session, owners)
    notes = dict(
        session.exec(
            select(TransferNoteRow.transfer_id, TransferNoteRow.text).where(
                col(TransferNoteRow.transfer_id).in_(list(moves))
            )
        ).all()
    )
    shown = []
    for row in rows:
        if match := moves.get(row.id):
            text = " → ".join(names[owner] for owner in _owners(match))
            text += f": {notes[row.id]}" if row.id in notes else ""
            shown.append(replace(row, description=text))
        else:
            shown.append(row)
    return shown


def _owners(match: re.Match[str]) -> tuple[Owner, Owner]:
    first, one, second, other = match.groups()
    return Owner(first, int(one)), Owner(second, int(other))  # type: ignore[arg-type]


def _names(session: Session, owners: Iterable[Owner]) -> dict[Owner, str]:
    names = {owner: owner.code for owner in owners}
    people = [owner.id for owner in names if owner.kind == "user"]
    clubs = [owner.id for owner in names if owner.kind == "org"]
    for id, name in session.exec(select(User.id, User.username).where(col(User.id).in_(people))):
        names[Owner("user", id or 0)] = name
    for id, name in session.exec(select(Org.id, Org.name).where(col(Org.id).in_(clubs))):
        names[Owner("org", id or 0)] = name
    return names
