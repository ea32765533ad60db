"""Welcome credits: once for each account and mailbox, when the account is what it must be (T34).

A refusal is recorded with its reason; the account works all the same.
"""

from sqlmodel import Session

from chat_app import secrets
from chat_app.accounts import mailboxes, velocity
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.credits import ledger
from chat_app.credits.operations import IdempotencyConflict
from chat_app.errors import NotAllowed
from chat_app.flows import fraud
from chat_app.money import MICRO


class EmailNotVerified(NotAllowed):
    """Free credits are for accounts with a confirmed address."""

    code = "email_not_verified"
    message = (
        "Free credits need a confirmed e-mail address. "
        "Open the link in our mail, or ask for another under Account."
    )


class NoFreeCredits(NotAllowed):
    """The account was refused its welcome credits, and so it gets no others that are free."""

    code = "no_free_credits"
    message = "Free credits are given once to each person. Buy credits to go on."


def require_verified(app: App, user: User) -> None:
    """Raise EmailNotVerified if the settings ask for a confirmed address and it is none."""
    if app.settings.accounts.require_verified_email and user.email_verified_at is None:
        raise EmailNotVerified


def excluded(session: Session, people: list[User]) -> dict[int, str]:
    """Who of them shares a mailbox with another account or threw the address away: no gifts."""
    refused = velocity.refusals(session, [user.id for user in people if user.id is not None])
    return {id: why for id, why in refused.items() if why in ("mailbox", "disposable")}


def give(app: App, session: Session, *, user: User, ip: str, now: int) -> bool:
    """The welcome credits, unless they were given or refused before; whether they were given."""
    assert user.id is not None
    accounts, limits = app.settings.accounts, app.settings.limits
    throw_away = mailboxes.is_disposable(user.email, more=accounts.more_disposable_domains)
    trusted = user.role != "user"
    reason = velocity.decide(
        session,
        user_id=user.id,
        email=user.email,
        ip="" if trusted else ip,
        key=secrets.subkey(app.secrets.link_key, "free credits"),
        rules=velocity.Rules(
            per_block=limits.welcomes_per_day_per_network,
            per_domain=limits.welcomes_per_day_per_domain,
            disposable=throw_away and accounts.disposable_domains != "allow" and not trusted,
        ),
        now=now,
    )
    if reason == "" and not trusted and accounts.welcome_credits:
        held = fraud.note(
            app,
            session,
            type="signup_bonus",
            user_id=user.id,
            key=str(user.id),
            now=now,
            credits=accounts.welcome_credits,
            **fraud.address(ip),
        )
        if held:
            reason = velocity.withhold(session, user_id=user.id)
    if reason:
        audit.record(
            session,
            type="free_credits_refused",
            actor="system",
            now=now,
            user_id=user.id,
            reason=reason,
        )
    if reason != "" or not accounts.welcome_credits:
        return False
    try:
        ledger.grant(
            session,
            user_id=user.id,
            micro=accounts.welcome_credits * MICRO,
            source="welcome",
            now=now,
            scope="welcome",
            key=str(user.id),
            actor="system",
            description="Welcome credits",
            **ledger.terms(app.settings.credits, "welcome", now=now),
        )
    except IdempotencyConflict:
        return False  # given by an earlier release, on other terms
    return True
