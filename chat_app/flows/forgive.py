"""An administrator forgives a debt: with a reason, once, on the record, and the person is told."""

from dataclasses import asdict

from sqlmodel import Session

from chat_app.accounts import users
from chat_app.app import App
from chat_app.audit import log
from chat_app.credits import debts, ledger, operations
from chat_app.credits.ledger import Balance
from chat_app.flows import notices
from chat_app.flows.adjust import REASON_LENGTH, ReasonMissing
from chat_app.money import format_credits


async def forgive(
    app: App, *, admin_id: int, user_id: int, micro: int | None, reason: str, key: str
) -> Balance:
    """Let somebody off `micro` microcredits of their debt, all of it if None; the balance after it.

    The same key acts once and gets the same answer. Raises NothingOwed, BadForgiveness,
    ReasonMissing, WalletClosed or NotFound.
    """
    reason = cleaned(reason)
    actor = f"user:{admin_id}"

    def do(session: Session, now: int) -> Balance:
        users.get(session, user_id)
        done = debts.forgive(
            session,
            user_id=user_id,
            micro=micro,
            reason=reason,
            now=now,
            scope=f"forgiveness:{admin_id}",
            key=key,
            actor=actor,
        )
        log.record(
            session,
            type="debt_forgiven",
            actor=actor,
            now=now,
            user=user_id,
            credits=format_credits(done.micro),
            owed=format_credits(done.owed),
            reason=reason,
        )
        notices.tell(
            session,
            user_id=user_id,
            kind="debt_forgiven",
            key=f"{now}",
            data={"credits": format_credits(done.micro), "owed": format_credits(done.owed)},
            now=now,
        )
        return ledger.balance(session, user_id=user_id)

    def story(session: Session) -> Balance:
        now = app.clock.micros()
        outcome, _ = operations.once(
            session,
            scope=f"forgive:{admin_id}",
            key=key,
            request={"user": user_id, "micro": micro, "reason": reason},
            now=now,
            actor=actor,
            run=lambda: asdict(do(session, now)),
        )
        return Balance(**outcome)

    return await app.db.awrite(story)


def cleaned(reason: str) -> str:
    """The reason on one line; raises ReasonMissing."""
    reason = " ".join(reason.split())
    if not 3 <= len(reason) <= REASON_LENGTH:
        raise ReasonMissing
    return reason
