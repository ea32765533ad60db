"""Feedback: what the owner of an answer thought of it, with reasons; one vote each, changeable."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from sqlalchemy import text
from sqlmodel import Session, col, delete, func, select

from chat_app.chat import owned
from chat_app.chat.answer_tables import MessageFeedback
from chat_app.errors import Invalid

Vote = Literal["up", "down"]
VOTES: dict[Vote, int] = {"up": 1, "down": -1}
# Codes, and what the page calls them.
REASONS: dict[Vote, dict[str, str]] = {
    "up": {"correct": "Correct", "clear": "Clear", "complete": "Complete", "helpful": "Helpful"},
    "down": {
        "wrong": "Not correct",
        "off_topic": "Did not follow the question",
        "too_long": "Too long",
        "too_short": "Too short",
        "unsafe": "Unsafe or offensive",
        "too_dear": "Not worth its price",
    },
}
MAX_NOTE = 500

_PUT = text(
    """INSERT INTO message_feedback (message_id, user_id, model, vote, reasons, note, created_at,
     changed_at) VALUES (:message_id, :user_id, :model, :vote, :reasons, :note, :now, :now)
    ON CONFLICT (message_id, user_id) DO UPDATE SET vote = excluded.vote,
     reasons = excluded.reasons, note = excluded.note, changed_at = excluded.changed_at"""
)


class BadFeedback(Invalid):
    """A reason that is none for this vote, a question instead of an answer, or a long note."""

    code = "bad_feedback"
    message = (
        "Feedback is about an answer: up or down, reasons from the list of that vote, and a note "
        "of at most 500 characters. Correct it and send it again."
    )


@dataclass(frozen=True)
class Feedback:
    """A vote as its owner sees it."""

    message_id: str
    vote: Vote
    reasons: tuple[str, ...] = ()
    note: str = ""


@dataclass
class Tally:
    """The votes on the answers of one model."""

    model: str
    up: int = 0
    down: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


def put(
    session: Session,
    *,
    user_id: int,
    message_id: str,
    vote: Vote,
    reasons: Sequence[str] = (),
    note: str = "",
    now: int,
) -> Feedback:
    """Give a vote, in place of the one that there is. Raises MessageNotFound or BadFeedback."""
    answer = owned.message(session, user_id=user_id, message_id=message_id)
    note = note.strip()
    wanted = dict.fromkeys(reasons)
    if (
        answer.role != "assistant"
        or len(note) > MAX_NOTE
        or not wanted.keys() <= REASONS[vote].keys()
    ):
        raise BadFeedback
    session.execute(
        _PUT,
        {
            "message_id": message_id,
            "user_id": user_id,
            "model": answer.model,
            "vote": VOTES[vote],
            "reasons": " ".join(wanted),
            "note": note,
            "now": now,
        },
    )
    return Feedback(message_id, vote, tuple(wanted), note)


def drop(session: Session, *, user_id: int, message_id: str) -> None:
    """Take the vote back; none is fine. Raises MessageNotFound."""
    owned.message(session, user_id=user_id, message_id=message_id)
    session.execute(
        delete(MessageFeedback).where(
            col(MessageFeedback.message_id) == message_id, col(MessageFeedback.user_id) == user_id
        )
    )


def of(session: Session, *, user_id: int, message_ids: Sequence[str]) -> dict[str, Feedback]:
    """The user's votes on these messages."""
    if not message_ids:
        return {}
    rows = session.exec(
        select(MessageFeedback).where(
            MessageFeedback.user_id == user_id, col(MessageFeedback.message_id).in_(message_ids)
        )
    ).all()
    return {
        row.message_id: Feedback(
            row.message_id, "up" if row.vote > 0 else "down", tuple(row.reasons.split()), row.note
        )
        for row in rows
    }


def tallies(session: Session) -> list[Tally]:
    """The votes of everybody, by model."""
    kinds = (col(MessageFeedback.model), col(MessageFeedback.vote), col(MessageFeedback.reasons))
    rows = session.execute(select(*kinds, func.count()).group_by(*kinds)).all()
    found: dict[str, Tally] = {}
    for model, vote, reasons, count in rows:
        tally = found.setdefault(model, Tally(model))
        if vote > 0:
            tally.up += count
        else:
            tally.down += count
        tally.reasons.update(dict.fromkeys(reasons.split(), count))
    return [found[model] for model in sorted(found)]
