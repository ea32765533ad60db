"""Recover: a new password for somebody who forgot the old one, by a link in a mail.

A request only writes down the address, the same for every address; a job looks afterwards
whether anybody has it. So neither the answer nor its time tells who has an account.
"""

import logging
from functools import partial

from sqlmodel import Session

from chat_app.accounts import hub, links, mailboxes, users, velocity
from chat_app.accounts.link_tables import AccountLink
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.errors import NotFound
from chat_app.flows import doors, fraud, letters, notices, signin, welcome

log = logging.getLogger(__name__)
_AT_ONCE = 100


class UnknownUser(NotFound):
    """The operator named somebody who has no account."""

    code = "unknown_user"
    message = "There is no account of this name. Check the spelling."


async def ask(app: App, *, email: str, ip: str) -> None:
    """Ask for a link. Raises BadEmail, TooManyResets or TooManyWishes, for any address alike."""
    address = users.clean_email(email)
    await doors.attempt(app, "reset", subject=users.email_key(address), ip=ip)
    await app.db.awrite(lambda s: links.wish(s, email=address, now=app.clock.micros()))


def answer_wishes(app: App) -> int:
    """Mail the links that were asked for; returns how many addresses had somebody to mail to."""
    with app.db.read() as session:
        waiting = links.wishes(session, limit=_AT_ONCE)
    return sum(app.db.write(partial(_answer, app, key)) for key in waiting)


async def reset(app: App, *, token: str, password: str, ip: str) -> None:
    """Choose a new password with the link of a mail; all sign-ins end.

    Raises BadLink, WeakPassword or PasswordsBusy; the link stays good then.
    """
    with app.db.read() as session:
        link = links.look(session, token=token, purposes=("reset",), now=app.clock.micros())
        user = users.get(session, link.user_id)
    signin.judge_password(app, password, username=user.username, email=user.email, role=user.role)
    hashed = await app.passwords.hash(password)

    def story(session: Session) -> None:
        now = app.clock.micros()
        used = links.use(session, token=token, purposes=("reset",), now=now)
        user_id = used.user_id
        users.set_password(session, user_id=user_id, password_hash=hashed)
        signin.end_all(session, user_id=user_id)
        session.expire_all()
        user = users.get(session, user_id)
        _prove(app, session, user=user, link=used, ip=ip, now=now)
        links.revoke(session, user_id=user_id, purposes=("email", "reset"))
        doors.calm(app, session, user_id=user_id)
        audit.record(session, type="password_reset", actor=f"user:{user_id}", now=now)
        notices.security(
            session,
            user_id=user_id,
            key=f"reset:{now}",
            title="Your password was changed",
            text=(
                "A new password was chosen with a link that was mailed to you or that the "
                "operator gave you. All earlier sign-ins have ended. If it was not you, ask the "
                "operator at once."
            ),
            now=now,
        )

    await app.db.awrite(story)
    fraud.came(app, type="password_change", user_id=link.user_id, ip=ip)
    log.info("a password was reset from %s", ip)


def operator_link(app: App, *, login: str) -> str:
    """The address where this person chooses a new password, for the operator to hand over.

    Raises UnknownUser. The operator never learns or chooses the password.
    """

    def story(session: Session) -> str:
        now = app.clock.micros()
        user = users.find(session, login)
        if user is None or user.id is None:
            raise UnknownUser
        link = links.make(
            session,
            user_id=user.id,
            purpose="reset",
            address="",  # handed over by hand, so it proves no mailbox
            key=letters.key_of(app),
            now=now,
            minutes=app.settings.accounts.link_minutes,
        )
        audit.record(
            session, type="password_reset_link", actor="operator", now=now, user_id=user.id
        )
        return f"{app.settings.site}/#reset={links.token_of(letters.key_of(app), link)}"

    return app.db.write(story)


def forget(session: Session, *, now: int) -> int:
    """Delete links and sign-ins by the hub that ended, and where credits went to a month ago."""
    ended = links.purge(session, now=now) + hub.purge(session, now=now)
    return ended + velocity.forget(session, now=now)


def _answer(app: App, address_key: str, session: Session) -> bool:
    if not links.granted(session, address_key):
        return False
    now = app.clock.micros()
    user = mailboxes.reader(session, address_key)
    if user is None or user.id is None:
        return False
    if not letters.may_go(app, session, user_id=user.id, purpose="reset", now=now):
        return False
    if not letters.send_reset(app, session, user=user, now=now):
        return False
    audit.record(session, type="password_reset_asked", actor="system", now=now, user_id=user.id)
    return True


def _prove(app: App, session: Session, *, user: User, link: AccountLink, ip: str, now: int) -> None:
    """Whoever read the mail has shown that the address is theirs."""
    if user.email_verified_at is not None or link.address_key != users.email_key(user.email):
        return
    owner = mailboxes.owner(session, user.email)
    if owner is not None and owner.id != user.id:
        return
    mailboxes.confirm(session, user=user, email=user.email, now=now)
    welcome.give(app, session, user=user, ip=ip, now=now)
