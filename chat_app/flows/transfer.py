"""Credits from one person to another: by user name, within limits, once for each key."""

from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select

from chat_app.accounts import users
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.audit import log
from chat_app.credits import ledger, moves, operations, words
from chat_app.credits.accounts import Owner
from chat_app.credits.ledger import Balance
from chat_app.errors import Invalid, NotFound
from chat_app.flows import doors, fraud
from chat_app.money import MICRO, format_credits

NOTE_LENGTH = 200


class UnknownRecipient(NotFound):
    """Nobody of this name can be sent credits; whether the name exists is not said."""

    code = "unknown_recipient"
    message = "Nobody of this name can receive credits. Check the spelling of the user name."


class TransferSize(Invalid):
    """Less than the least or more than the most that may be sent at once."""

    code = "transfer_size"
    message = "This is too little or too much for one transfer. Choose an amount within the limits."


class NoteTooLong(Invalid):
    """The note has more characters than are kept."""

    code = "note_too_long"
    message = f"A note has at most {NOTE_LENGTH} characters. Shorten it and send again."


@dataclass(frozen=True)
class Limits:
    """What one user may send, in microcredits: least and most at once, most in a day (UTC)."""

    least: int
    most: int
    day: int

    @property
    def on(self) -> bool:
        """Whether anybody can send at all."""
        return self.most > 0 and self.day > 0


@dataclass(frozen=True)
class Sent:
    """A transfer as its sender sees it, in microcredits and µs."""

    id: int
    to_username: str
    micro: int
    note: str | None
    balance_after: int
    created_at: int


def limits(app: App) -> Limits:
    """What the settings allow."""
    chosen = app.settings.transfers
    return Limits(
        chosen.min_credits * MICRO, chosen.max_credits * MICRO, chosen.max_credits_per_day * MICRO
    )


def kinds(app: App) -> list[str]:
    """The kinds of credits that may be given away."""
    return app.settings.transfers.sources.split()


def check_size(app: App, micro: int) -> None:
    """Raise TransferSize for what is too little or too much at once."""
    allowed = limits(app)
    if not allowed.on or not allowed.least <= micro <= allowed.most:
        raise TransferSize(
            param="credits",
            least=format_credits(allowed.least),
            most=format_credits(allowed.most if allowed.on else 0),
        )


def clean_note(note: str | None) -> str | None:
    """The note on one line, None for an empty one; raises NoteTooLong."""
    text = " ".join((note or "").split())
    if len(text) > NOTE_LENGTH:
        raise NoteTooLong(param="note")
    return text or None


def recipient(session: Session, name: str) -> User:
    """Who can get credits under this user name; raises UnknownRecipient."""
    key = users.username_key(name)
    usable = len(name) <= users.MAX_EMAIL and key.isprintable()
    found = session.exec(select(User).where(col(User.username_key) == key)).first()
    if not usable or found is None or found.suspended:
        raise UnknownRecipient(param="to_username")
    return found


async def send(
    app: App, *, user_id: int, to_username: str, micro: int, key: str, note: str | None = None
) -> Sent:
    """Send microcredits to another user; the same key sends once and gets the same answer.

    Raises UnknownRecipient, TransferSize, TooManyTransfers, HeldForReview, and what `moves.move`
    raises.
    """
    check_size(app, micro)
    note = clean_note(note)
    await doors.attempt(app, "transfer", subject=str(user_id))
    actor = f"user:{user_id}"
    request = {"to": users.username_key(to_username), "micro": micro, "note": note}

    def do(session: Session, now: int) -> dict[str, Any]:
        receiver = recipient(session, to_username)
        assert receiver.id is not None
        source, target = Owner("user", user_id), Owner("user", receiver.id)
        moved = moves.move(
            session,
            source=source,
            target=target,
            micro=micro,
            code=moves.SENT,
            now=now,
            scope=f"transfer:{user_id}",
            key=key,
            actor=actor,
            kinds=kinds(app),
            day_limit=limits(app).day,
            description=words.of(source, target),
        )
        fraud.check(
            app,
            session,
            type="transfer_out",
            user_id=user_id,
            key=f"{user_id}:{key}",
            now=now,
            credits=micro / MICRO,
            counterparty_id=str(receiver.id),
        )
        if note:
            words.add_note(session, transfer_id=moved.transfer_id, user_id=user_id, text=note)
        log.record(
            session,
            type="credits_sent",
            actor=actor,
            now=now,
            to=receiver.id,
            credits=format_credits(micro),
            transfer=moved.transfer_id,
        )
        return {
            "id": moved.transfer_id,
            "to": receiver.id,
            "micro": micro,
            "balance_after": moved.balance_after,
            "created_at": moved.created_at,
        }

    def story(session: Session) -> Sent:
        now = app.clock.micros()
        outcome, _ = operations.once(
            session,
            scope=f"send:{user_id}",
            key=key,
            request=request,
            now=now,
            actor=actor,
            run=lambda: do(session, now),
        )
        return Sent(
            id=outcome["id"],
            to_username=users.get(session, outcome["to"]).username,
            micro=outcome["micro"],
            note=words.note(session, outcome["id"]),
            balance_after=outcome["balance_after"],
            created_at=outcome["created_at"],
        )

    return await app.db.awrite(story)


def sendable(app: App, *, user_id: int) -> tuple[Balance, int]:
    """The balance, and how many of its microcredits may be given away now."""
    with app.db.read() as session:
        balance = ledger.balance(session, user_id=user_id)
        return balance, moves.movable(
            session, user_id=user_id, kinds=kinds(app), now=app.clock.micros()
        )
