"""Signing in and out, and finding out who is asking.

A sign-in opens a session: a cookie for the browser, an access token and a refresh token for
programs. Every request asks the database whether the session still stands.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from sqlmodel import Session

from chat_app.accounts import devices, passwords, sessions, throttles, tokens, users
from chat_app.accounts.sessions import SignedIn
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.errors import AppError, Invalid, NotAllowed, NotSignedIn
from chat_app.flows import doors, notices

log = logging.getLogger(__name__)


class WrongPassword(NotSignedIn):
    """The login or the password is wrong. Which of them is not said."""

    code = "wrong_password"
    message = "The user name or the password is wrong. Check both and try again."


class WrongCurrentPassword(Invalid):
    """The current password, asked for again, is wrong."""

    code = "wrong_current_password"
    message = "The current password is wrong. Enter it again."


class AccountSuspended(NotAllowed):
    """The password was right, but the account is suspended."""

    code = "account_suspended"
    message = "This account is suspended. Ask an administrator."


@dataclass(frozen=True)
class SignIn:
    """What a person or a program gets by signing in.

    `session_token` is for the cookie and empty after a refresh, `expires_in` in seconds.
    """

    user: User
    session_id: str
    session_token: str
    access_token: str
    refresh_token: str
    expires_in: int


async def login(
    app: App, *, login: str, password: str, ip: str, agent: str = "", device: str = ""
) -> SignIn:
    """Sign in with a user name or e-mail address; `device` is the cookie of `accounts/devices.py`.

    Raises WrongPassword, AccountSuspended, TooManySignIns or PasswordsBusy. An unknown account
    takes as long as a wrong password.
    """
    with app.db.read() as session:
        user = users.find(session, login)
        known = _known(app, session, user, ip=ip, device=device)
    stored = user.password_hash if user else None
    await _verify(
        app,
        account=users.login_key(login),
        password=password,
        stored=stored,
        ip=ip,
        known=known,
    )
    assert user is not None
    return await app.db.awrite(
        lambda session: _open(app, session, user_id=_id(user), stored=stored, ip=ip, agent=agent)
    )


async def refresh(app: App, *, refresh_token: str) -> SignIn:
    """Exchange a refresh token for new tokens; raises BadRefreshToken.

    A token that was used before ends its whole sign-in, because one of its two users stole it.
    """

    def story(session: Session) -> sessions.Rotation:
        now = app.clock.micros()
        turned = sessions.rotate(
            session,
            token=refresh_token,
            key=app.secrets.token_key,
            now=now,
            settings=app.settings.accounts,
        )
        if turned.outcome == "reused" and turned.user is not None:
            actor = f"user:{turned.user.id}"
            audit.record(session, type="refresh_token_reused", actor=actor, now=now)
        return turned

    turned = await app.db.awrite(story)
    if turned.outcome == "reused":
        log.warning("a refresh token was used twice; its sign-in was ended")
    if turned.outcome != "rotated" or turned.user is None:
        raise sessions.BadRefreshToken
    return _sign_in(app, turned.user, turned.session_id, "", turned.refresh_token)


async def logout(
    app: App,
    *,
    session_token: str | None = None,
    refresh_token: str | None = None,
    session_id: str | None = None,
) -> None:
    """End the sign-in that any of these belongs to. Unknown ones are ignored."""

    def story(session: Session) -> None:
        for token in (session_token, refresh_token):
            if token:
                sessions.revoke_token(session, token=token)
        if session_id:
            sessions.revoke(session, session_id=session_id)

    await app.db.awrite(story)


async def logout_all(app: App, *, user_id: int, actor: str | None = None) -> None:
    """End all sign-ins of the user, on every device and in every open stream."""

    def story(session: Session) -> None:
        end_all(session, user_id=user_id)
        audit.record(
            session,
            type="sign_ins_ended",
            actor=actor or f"user:{user_id}",
            now=app.clock.micros(),
            user_id=user_id,
        )

    await app.db.awrite(story)


def end_all(session: Session, *, user_id: int) -> None:
    """Delete the user's sessions and make every token ever given to them worthless."""
    sessions.revoke_all(session, user_id=user_id)
    users.bump_epoch(session, user_id=user_id)


async def change_password(
    app: App, *, user_id: int, current: str, new: str, ip: str, agent: str = ""
) -> SignIn:
    """Change the password; all sign-ins end and a new one begins.

    Raises WrongCurrentPassword, WeakPassword, TooManySignIns or PasswordsBusy.
    """
    with app.db.read() as session:
        user = users.get(session, user_id)
    passwords.check(
        new,
        minimum=app.settings.accounts.password_min_length,
        context=[user.username, user.email.partition("@")[0]],
    )
    stored = user.password_hash
    try:
        await _verify(
            app,
            account=user.username_key,
            password=current,
            stored=stored,
            ip=ip,
            known="signed in",  # what strangers fail at the door does not count against it
        )
    except WrongPassword as error:
        raise WrongCurrentPassword(param="current") from error
    hashed = await app.passwords.hash(new)

    def story(session: Session) -> SignIn:
        if users.get(session, user_id).password_hash != stored:
            raise WrongCurrentPassword(param="current")
        users.set_password(session, user_id=user_id, password_hash=hashed)
        end_all(session, user_id=user_id)
        session.expire_all()
        now = app.clock.micros()
        audit.record(session, type="password_changed", actor=f"user:{user_id}", now=now)
        notices.security(
            session,
            user_id=user_id,
            key=f"password:{now}",
            title="Your password was changed",
            text="All earlier sign-ins have ended. If it was not you, ask the operator at once.",
            now=now,
        )
        return _open(app, session, user_id=user_id, stored=hashed, ip=ip, agent=agent)

    return await app.db.awrite(story)


async def who(app: App, *, cookie: str | None = None, bearer: str | None = None) -> User:
    """The user behind a cookie or an access token; raises NotSignedIn."""
    return (await identify(app, cookie=cookie, bearer=bearer)).user


async def identify(app: App, *, cookie: str | None = None, bearer: str | None = None) -> SignedIn:
    """`who`, with the session. An access token that is given is the one that counts."""
    now = app.clock.micros()
    if bearer is not None:
        claims = tokens.read(app.secrets.token_key, bearer, now=now)
        found = await _look(
            app, lambda s: sessions.resolve_id(s, session_id=claims.session_id, now=now)
        )
        if found and (found.user.id, found.user.token_epoch) != (claims.user_id, claims.epoch):
            found = None
    else:
        found = await _look(app, lambda s: sessions.resolve(s, token=cookie or "", now=now))
    if found is None:
        raise NotSignedIn
    if found.due and bearer is None:
        await _touch(app, found.session_id, now)
    return found


def session_of(app: App, bearer: str) -> str | None:
    """The session that a genuine access token names; None for any other text."""
    try:
        return tokens.read(app.secrets.token_key, bearer, now=app.clock.micros()).session_id
    except tokens.BadToken:
        return None


async def still_signed_in(app: App, *, session_id: str, user_id: int) -> bool:
    """Whether an open stream may go on: the session stands and is this user's."""
    now = app.clock.micros()
    found = await _look(app, lambda s: sessions.resolve_id(s, session_id=session_id, now=now))
    return found is not None and found.user.id == user_id


async def _look(app: App, query: Callable[[Session], SignedIn | None]) -> SignedIn | None:
    """Ask the database without holding up the event loop: a file answers at once, a server not."""

    def ask() -> SignedIn | None:
        with app.db.read() as session:
            return query(session)

    return ask() if app.db.sqlite else await asyncio.to_thread(ask)


def _known(app: App, session: Session, user: User | None, *, ip: str, device: str) -> str | None:
    """By what the account knows this caller: the device, or an address it signed in from."""
    number = _id(user) if user is not None else 0
    block = throttles.block(ip)
    # Both are looked at for unknown accounts too: the answer takes as long.
    name = devices.known(app.secrets.token_key, device, user_id=number)
    earlier = {throttles.block(each) for each in sessions.addresses(session, user_id=number)}
    if name is not None:
        return f"device {name}"
    return f"address {block}" if block in earlier else None


async def _verify(
    app: App,
    *,
    account: str,
    password: str,
    stored: str | None,
    ip: str,
    known: str | None = None,
) -> None:
    attempt = await doors.attempt(app, "sign_in", subject=account, ip=ip, known=known)
    try:
        right = await app.passwords.verify(password, stored)
    except passwords.PasswordsBusy:
        await attempt.forgive(app)
        raise
    if not right:
        log.info("a sign-in from %s failed", ip)
        raise WrongPassword
    await attempt.forgive(app, earlier=True)


def _open(
    app: App, session: Session, *, user_id: int, stored: str | None, ip: str, agent: str
) -> SignIn:
    user = users.get(session, user_id)
    if user.password_hash != stored:  # changed while it was being compared
        raise WrongPassword
    if user.suspended:
        raise AccountSuspended
    now, settings = app.clock.micros(), app.settings.accounts
    session_id, cookie = sessions.open_session(
        session, user=user, now=now, settings=settings, ip=ip, agent=agent
    )
    refresh_token = tokens.random_token()
    sessions.add_refresh_token(
        session, session_id=session_id, token=refresh_token, now=now, settings=settings
    )
    user.last_login_at = now
    session.add(user)
    session.flush()
    return _sign_in(app, user, session_id, cookie, refresh_token)


def _sign_in(app: App, user: User, session_id: str, cookie: str, refresh_token: str) -> SignIn:
    minutes = app.settings.accounts.access_minutes
    access = tokens.issue(
        app.secrets.token_key,
        user_id=_id(user),
        session_id=session_id,
        epoch=user.token_epoch,
        now=app.clock.micros(),
        minutes=minutes,
    )
    return SignIn(user, session_id, cookie, access, refresh_token, minutes * 60)


async def _touch(app: App, session_id: str, now: int) -> None:
    settings = app.settings.accounts
    try:
        await app.db.awrite(
            lambda session: sessions.touch(
                session, session_id=session_id, now=now, settings=settings
            )
        )
    except AppError:
        log.warning("the last use of a session could not be noted")


def _id(user: User) -> int:
    assert user.id is not None
    return user.id
