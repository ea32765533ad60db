"""Signing up: an account and its welcome credits, in one transaction.

Where addresses have to be confirmed, the credits come with that, and a taken address is
answered exactly like a free one: only whoever reads its mail learns of it.

The first administrator comes from the settings or from a one-time link; there is no default
account.
"""

import logging

from sqlmodel import Session

from chat_app.accounts import passwords, setup, users
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.errors import Conflict
from chat_app.flows import doors, letters, mailbox, signin, welcome

log = logging.getLogger(__name__)


class AdminNameTaken(Conflict):
    """The first administrator's name in the settings belongs to an ordinary account."""

    code = "admin_name_taken"
    message = (
        "The user name or e-mail address in the [admin] settings belongs to an ordinary account. "
        "Choose another in CHAT_APP_ADMIN__USERNAME and CHAT_APP_ADMIN__EMAIL."
    )


async def register(app: App, *, username: str, email: str, password: str, ip: str) -> User:
    """A new account with its welcome credits, or with a mail that asks for confirmation.

    Raises BadUsername, BadEmail, DisposableEmail, WeakPassword, NameTaken, TooManySignUps or
    PasswordsBusy.
    """
    username, email = _checked(app, username=username, email=email, password=password, role="user")
    mailbox.accept(app, email)
    attempt = await doors.attempt(app, "sign_up", ip=ip)
    try:
        hashed = await app.passwords.hash(password)
        return await app.db.awrite(
            lambda session: _create(
                app, session, username=username, email=email, hashed=hashed, ip=ip
            )
        )
    except (users.NameTaken, passwords.PasswordsBusy):
        await attempt.forgive(app)
        raise


async def claim_admin(
    app: App, *, token: str, username: str, email: str, password: str, ip: str
) -> User:
    """The first administrator, made by whoever holds the one-time link.

    Raises SetupClosed once there is an administrator, and otherwise what `register` does.
    """
    key, now = app.secrets.link_key, app.clock.micros()
    with app.db.read() as session:
        setup.check(session, token=token, key=key, now=now)
    username, email = _checked(app, username=username, email=email, password=password, role="admin")
    hashed = await app.passwords.hash(password)

    def story(session: Session) -> User:
        setup.use(session, token=token, key=key, now=app.clock.micros())
        return _create(app, session, username=username, email=email, hashed=hashed, role="admin")

    user = await app.db.awrite(story)
    log.info("the first administrator was created through the setup link from %s", ip)
    return user


def ensure_first_admin(app: App) -> str | None:
    """Make sure that somebody can administer the program.

    With a user name and password in the settings, the first start creates that administrator.
    Otherwise returns the token for the one-time link, the same in every process until it is
    used or a day old; None once there is an administrator. Raises what `register` does, and
    AdminNameTaken.
    """
    with app.db.read() as session:
        if users.has_admin(session):
            return None
    wanted = app.settings.admin
    if not (wanted.username and wanted.password):
        return app.db.write(
            lambda session: setup.token(session, key=app.secrets.link_key, now=app.clock.micros())
        )
    create_admin(
        app, username=wanted.username, email=wanted.email, password=wanted.password, first=True
    )
    return None


def create_admin(
    app: App, *, username: str, email: str, password: str, first: bool = False
) -> User | None:
    """An administrator, made by the operator; None if `first` and another process had made one.

    Raises BadUsername, BadEmail, WeakPassword, or AdminNameTaken.
    """
    # What stands in the settings is the operator's own choice, as long as users' passwords.
    role = "user" if first else "admin"
    username, email = _checked(app, username=username, email=email, password=password, role=role)
    hashed = app.passwords.hash_now(password)

    def story(session: Session) -> User | None:
        setup.lock(session, now=app.clock.micros())
        if first and users.has_admin(session):
            return None
        try:
            return _create(
                app, session, username=username, email=email, hashed=hashed, role="admin"
            )
        except users.NameTaken as error:
            raise AdminNameTaken from error

    return app.db.write(story)


def _checked(app: App, *, username: str, email: str, password: str, role: str) -> tuple[str, str]:
    username, email = users.clean_username(username), users.clean_email(email)
    signin.judge_password(app, password, username=username, email=email, role=role)
    return username, email


def _create(
    app: App,
    session: Session,
    *,
    username: str,
    email: str,
    hashed: str,
    role: str = "user",
    ip: str = "",
) -> User:
    now = app.clock.micros()
    pending = app.settings.accounts.require_verified_email and role == "user"
    user = users.create(
        session,
        username=username,
        email=email,
        password_hash=hashed,
        role=role,
        now=now,
        pending=pending,
    )
    if pending:
        letters.prove_address(app, session, user=user, address=user.email, now=now)
    else:
        if role != "user":  # made by the operator, whose word is enough
            user.email_verified_at = now
        welcome.give(app, session, user=user, ip=ip, now=now)
    audit.record(session, type="user_created", actor=f"user:{user.id}", now=now, role=role)
    return user
