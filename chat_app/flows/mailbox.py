"""Mailbox: an address is confirmed by the link that was mailed to it, at sign-up and at a change.

With `accounts.require_verified_email` an account has its address only from then on. Whether
somebody else has it is told to nobody but whoever reads its mail.
"""

from dataclasses import dataclass

from sqlmodel import Session

from chat_app.accounts import links, mailboxes, users, velocity
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.errors import Conflict
from chat_app.flows import fraud, letters, notices, presence, welcome
from chat_app.money import MICRO
from chat_app.notify import outbox


class AlreadyVerified(Conflict):
    """The address was confirmed before."""

    code = "already_verified"
    message = "Your e-mail address is confirmed already. There is nothing to do."


@dataclass(frozen=True)
class Confirmed:
    """Whose address was confirmed, and the microcredits that came with it."""

    user: User
    micro: int


def accept(app: App, email: str) -> str:
    """The address as written; raises BadEmail, or DisposableEmail where those are refused."""
    address = users.clean_email(email)
    rules = app.settings.accounts
    if rules.disposable_domains == "refuse" and mailboxes.is_disposable(
        address, more=rules.more_disposable_domains
    ):
        raise mailboxes.DisposableEmail(param="email")
    return address


async def resend(app: App, *, user_id: int) -> None:
    """Mail the link for the account's address again. Raises AlreadyVerified or MailJustSent."""

    def story(session: Session) -> None:
        now = app.clock.micros()
        user = users.get(session, user_id)
        if user.email_verified_at is not None:
            raise AlreadyVerified
        letters.check_pause(app, session, user_id=user_id, purpose="verify", now=now)
        letters.prove_address(app, session, user=user, address=user.email, now=now)

    await app.db.awrite(story)


async def confirm(app: App, *, token: str, ip: str) -> Confirmed:
    """Use the link of a mail up: the address is the account's, and free credits may come.

    Raises BadLink or MailboxTaken.
    """

    def story(session: Session) -> Confirmed:
        now = app.clock.micros()
        link = links.use(session, token=token, purposes=("verify", "email"), now=now)
        user = users.get(session, link.user_id)
        before, changed = user.email, link.purpose == "email"
        mailboxes.confirm(session, user=user, email=link.address, now=now)
        actor = f"user:{user.id}"
        if changed:
            links.revoke(session, user_id=link.user_id)
            _tell_both(session, user, before=before, now=now)
        audit.record(
            session, type="email_changed" if changed else "email_verified", actor=actor, now=now
        )
        given = welcome.give(app, session, user=user, ip=ip, now=now)
        return Confirmed(user, app.settings.accounts.welcome_credits * MICRO if given else 0)

    return await app.db.awrite(story)


async def change_email(
    app: App, *, user_id: int, email: str, password: str, ip: str, code: str | None = None
) -> None:
    """Mail a link to the new address and a notice to the old one; nothing changes before the link.

    `code` is needed where two-factor sign-in is on. Raises BadEmail, DisposableEmail,
    MailJustSent, or what `presence.prove` does. Whether the address is another's is not said.
    """
    address = accept(app, email)
    await presence.prove(app, user_id=user_id, password=password, code=code, ip=ip)

    def story(session: Session) -> None:
        now = app.clock.micros()
        user = users.get(session, user_id)
        letters.check_pause(app, session, user_id=user_id, purpose="email", now=now)
        letters.prove_address(app, session, user=user, address=address, now=now)
        notices.security(
            session,
            user_id=user_id,
            key=f"email-asked:{now}",
            title="A new e-mail address was given",
            text=(
                f"Somebody who knows your password gave {address} as the new address of your "
                "account. It counts once the link that was mailed there is opened. If it was not "
                "you, change your password at once."
            ),
            now=now,
        )
        audit.record(session, type="email_change_asked", actor=f"user:{user_id}", now=now)

    await app.db.awrite(story)
    fraud.came(app, type="password_change", user_id=user_id, ip=ip)


def forget(session: Session, *, user_id: int) -> None:
    """Delete what is kept about a person's address and network, when the account is erased.

    Call it while the account still has its address. The keyed hash of the mailbox stays: it
    names nobody, and without it erasing would bring welcome credits again.
    """
    user = users.get(session, user_id)
    links.revoke(session, user_id=user_id)
    for key in {user.email_key, user.pending_email_key} - {None}:
        links.granted(session, str(key))
    velocity.forget_one(session, user_id=user_id)
    user.pending_email_key = None
    user.email_verified_at = None
    session.add(user)
    session.flush()


def _tell_both(session: Session, user: User, *, before: str, now: int) -> None:
    """The old address is told as well: whoever lost the account reads it there."""
    title = "Your e-mail address was changed"
    text = (
        f"The account {user.username} has the address {user.email} now. "
        "If it was not you, ask the operator at once."
    )
    assert user.id is not None
    key = f"email:{now}"
    notices.security(session, user_id=user.id, key=key, title=title, text=text, now=now)
    outbox.put(
        session,
        kind="security_notice",
        channel="mail",
        target=before,
        dedupe_key=f"mail:before:{user.id}:{key}",
        data={"title": title, "text": text},
        now=now,
        user_id=user.id,
    )
