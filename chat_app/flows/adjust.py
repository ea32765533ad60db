"""An administrator corrects a balance: with a reason, once, and on the record."""

from dataclasses import asdict

from sqlmodel import Session

from chat_app.accounts import users
from chat_app.app import App
from chat_app.audit import log
from chat_app.credits import ledger, operations
from chat_app.credits.ledger import Balance
from chat_app.errors import Invalid
from chat_app.money import format_credits

REASON_LENGTH = 500


class ReasonMissing(Invalid):
    """Every adjustment needs a reason that a person can read."""

    code = "reason_missing"
    message = "Give a reason of 3 to 500 characters: it stays in the books with the adjustment."


class NothingToAdjust(Invalid):
    """Zero credits."""

    code = "nothing_to_adjust"
    message = "Give an amount of credits other than zero."


async def adjust(
    app: App, *, admin_id: int, user_id: int, micro: int, reason: str, key: str
) -> Balance:
    """Add (or, negative, take) microcredits; returns the balance after it.

    Takes only what is neither spent nor held: OutOfCredits otherwise. The same key acts once
    and gets the same answer.
    """
    reason = checked(micro, reason)

    request = {"user": user_id, "micro": micro, "reason": reason}
    actor = f"user:{admin_id}"

    def story(session: Session) -> Balance:
        now = app.clock.micros()
        outcome, _ = operations.once(
            session,
            scope=f"adjust:{admin_id}",
            key=key,
            request=request,
            now=now,
            actor=actor,
            run=lambda: asdict(
                post(
                    app,
                    session,
                    admin_id=admin_id,
                    user_id=user_id,
                    micro=micro,
                    reason=reason,
                    key=key,
                    now=now,
                )
            ),
        )
        return Balance(**outcome)

    return await app.db.awrite(story)


def checked(micro: int, reason: str) -> str:
    """The reason on one line; raises ReasonMissing and NothingToAdjust."""
    reason = " ".join(reason.split())
    if not 3 <= len(reason) <= REASON_LENGTH:
        raise ReasonMissing
    if micro == 0:
        raise NothingToAdjust
    return reason


def post(
    app: App,
    session: Session,
    *,
    admin_id: int,
    user_id: int,
    micro: int,
    reason: str,
    key: str,
    now: int,
) -> Balance:
    """The adjustment inside a write transaction, in the ledger and on the record."""
    actor = f"user:{admin_id}"
    users.get(session, user_id)
    ledger.adjust(
        session,
        user_id=user_id,
        micro=micro,
        reason=reason,
        actor=actor,
        now=now,
        scope=f"adjustment:{admin_id}",
        key=key,
        terms=ledger.terms(app.settings.credits, "adjust", now=now),
    )
    log.record(
        session,
        type="credits_adjusted",
        actor=actor,
        now=now,
        user=user_id,
        credits=format_credits(micro),
        reason=reason,
    )
    return ledger.balance(session, user_id=user_id)
