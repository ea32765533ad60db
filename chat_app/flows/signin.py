"""Signing in and out, and finding out who is asking.

A sign-in opens a session: a cookie for the browser, an access token and a refresh token for
programs. Every request asks the database whether the session or the API key still stands.
"""

import asyncio
import hmac
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sqlmodel import Session

from chat_app import logs, secrets
from chat_app.accounts import (
    devices,
    hub,
    keys,
    links,
    passwords,
    sessions,
    throttles,
    tokens,
    totp,
    users,
)
from chat_app.accounts.sessions import SignedIn
from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.errors import AppError, Invalid, NotAllowed, NotSignedIn
from chat_app.flows import doors, fraud, notices

log = logging.getLogger(__name__)
Found = TypeVar("Found")


class WrongPassword(NotSignedIn):
    """The login or the password is wrong. Which of them is not said."""

    code = "wrong_password"
    message = "The user name or the password is wrong. Check both and try again."


class WrongCurrentPassword(Invalid):
    """The current password, asked for again, is wrong."""

    code = "wrong_current_password"
    message = "The current password is wrong. Enter it again."


class TotpRequired(NotSignedIn):
    """The password is right, and the account has two-factor sign-in: the code is missing."""

    code = "totp_required"
    message = "The password is right. Now enter the code of your authenticator or a backup code."


class WrongTotp(NotSignedIn):
    """The password is right, the one-time code is wrong, out of date or was used before."""

    code = "wrong_totp"
    message = "This code is wrong or was used before. Wait for the next one and sign in again."


class NoPassword(Invalid):
    """The account was made by signing in with Hugging Face: it has no password to ask for."""

    code = "no_password"
    message = (
        "This account has no password yet. Sign out, set one with “Forgot your password?” on the "
        "sign-in page, then do this again."
    )


class TotpPairRequired(NotSignedIn):
    """Too many wrong codes of the account came from strangers today: one code alone is not enough.

    Two in a row cannot be guessed, and whoever has the authenticator can always give them.
    """

    code = "totp_pair_required"
    message = (
        "Somebody has been guessing at codes of this account. Enter two codes in a row, the one "
        "shown now and the next, with a space between. A backup code works as well."
    )


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
    app: App,
    *,
    login: str,
    password: str,
    ip: str,
    agent: str = "",
    code: str | None = None,
    device: str = "",
) -> SignIn:
    """Sign in with a user name or e-mail address, and a code where two-factor sign-in is on.

    `device` is the cookie of `accounts/devices.py`.

    Raises WrongPassword, TotpRequired, WrongTotp, AccountSuspended, TooManySignIns or
    PasswordsBusy. An unknown account takes as long as a wrong password.
    """
    for _ in range(2):  # the stored form may change meanwhile: by a new password or a new pepper
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
        assert stored is not None
        renewed = await _renewed(app, password, stored)
        opening = partial(
            _open, user_id=_id(user), stored=stored, ip=ip, agent=agent, renewed=renewed
        )
        done = await _with_second_factor(
            app, opening, user_id=_id(user), code=code, ip=ip, known=known
        )
        if done is not None:
            fraud.came(app, type="login", user_id=_id(user), ip=ip, agent=agent)
            logs.bind(user=pseudonym(app, _id(user)))
            log.info("somebody signed in")
            return done
    raise WrongPassword


async def vouched(
    app: App, *, user_id: int, ip: str, agent: str = "", code: str | None = None, device: str = ""
) -> SignIn:
    """Sign in somebody whom Hugging Face named; a second factor is asked for all the same.

    Raises TotpRequired, WrongTotp, TotpPairRequired, TooManySecondFactors or AccountSuspended.
    """
    with app.db.read() as session:
        user = users.get(session, user_id)
        known = _known(app, session, user, ip=ip, device=device)

    def opening(app: App, session: Session, *, proved: int | None) -> SignIn | None:
        stored = users.get(session, user_id).password_hash
        return _open(
            app, session, user_id=user_id, stored=stored, ip=ip, agent=agent, proved=proved
        )

    done = await _with_second_factor(app, opening, user_id=user_id, code=code, ip=ip, known=known)
    assert done is not None
    fraud.came(app, type="login", user_id=user_id, ip=ip, agent=agent)
    logs.bind(user=pseudonym(app, user_id))
    log.info("somebody signed in with Hugging Face")
    return done


async def _with_second_factor(
    app: App,
    opening: Callable[..., SignIn | None],
    *,
    user_id: int,
    code: str | None,
    ip: str,
    known: str | None,
) -> SignIn | None:
    """Open a session in the transaction that looks at the code; counts wrong codes.

    Guesses from many addresses at once are counted for the account too, over a day. Beyond
    that only two codes in a row are looked at, so its owner is not kept out.
    """
    pair = False

    def story(session: Session) -> SignIn | None:
        proved = _second_factor(app, session, user_id=user_id, code=code, pair=pair)
        return opening(app, session, proved=proved)

    if not code:
        return await app.db.awrite(story)
    whose = str(user_id)
    try:
        attempts = [await doors.attempt(app, "second_factor", subject=whose, ip=ip, known=known)]
    except doors.TooManySecondFactors:
        await _warn_of_guesses(app, user_id)
        raise
    try:
        attempts.append(await doors.attempt(app, "codes_of_a_day", subject=whose, known=known))
    except doors.TooManyCodesOfADay:
        pair = True
        await _warn_of_guesses(app, user_id)
    try:
        done = await app.db.awrite(story)
    except TotpPairRequired:
        await attempts[0].forgive(app)  # no code was judged
        raise
    for number, attempt in enumerate(attempts):
        await attempt.forgive(app, earlier=number == 0)
    return done


async def refresh(app: App, *, refresh_token: str) -> SignIn:
    """Exchange a refresh token for new tokens; raises BadRefreshToken.

    A token that was used before ends its whole sign-in, because one of its two users stole it.
    """

    def story(session: Session) -> sessions.Rotation:
        now = app.clock.micros()
        turned = sessions.rotate(
            session,
            token=refresh_token,
            ring=app.secrets.tokens,
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
    judge_password(app, new, username=user.username, email=user.email, role=user.role)
    stored = await prove_password(app, user_id=user_id, password=current, ip=ip)
    hashed = await app.passwords.hash(new)

    def story(session: Session) -> SignIn:
        if users.get(session, user_id).password_hash != stored:
            raise WrongCurrentPassword(param="current")
        users.set_password(session, user_id=user_id, password_hash=hashed)
        end_all(session, user_id=user_id)
        links.revoke(session, user_id=user_id, purposes=("email", "reset"))
        doors.calm(app, session, user_id=user_id)
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
        done = _open(app, session, user_id=user_id, stored=hashed, ip=ip, agent=agent)
        assert done is not None
        return done

    changed = await app.db.awrite(story)
    fraud.came(app, type="password_change", user_id=user_id, ip=ip, agent=agent)
    return changed


async def prove_password(
    app: App, *, user_id: int, password: str, ip: str, param: str = "current"
) -> str:
    """Ask somebody who is signed in for the password again; returns its stored form.

    Raises NoPassword, WrongCurrentPassword, TooManySignIns or PasswordsBusy.
    """
    with app.db.read() as session:
        user = users.get(session, user_id)
        account, stored = user.username_key, user.password_hash
        if not stored and hub.of_user(session, user_id=user_id) is not None:
            raise NoPassword(param=param)
    try:
        await _verify(
            app,
            account=account,
            password=password,
            stored=stored,
            ip=ip,
            known="signed in",  # what strangers fail at the door does not count against it
        )
    except WrongPassword as error:
        raise WrongCurrentPassword(param=param) from error
    return stored


def judge_password(app: App, password: str, *, username: str, email: str, role: str) -> None:
    """Accept a new password for an account of this role, or raise WeakPassword."""
    minimum = app.settings.accounts.shortest_password(role)
    passwords.check(password, minimum=minimum, context=[username, email])


async def identify(app: App, *, cookie: str | None = None, bearer: str | None = None) -> SignedIn:
    """Who is behind a cookie, an access token or an API key, which counts before the cookie.

    Raises NotSignedIn or BadKey.
    """
    now = app.clock.micros()
    if bearer is not None and keys.looks_like(bearer):
        return await _by_key(app, bearer, now)
    if bearer is not None:
        claims = tokens.read(app.secrets.tokens, bearer, now=now)
        found = await _look(
            app, lambda s: sessions.resolve_id(s, session_id=claims.session_id, now=now)
        )
        if found and (found.user.id, found.user.token_epoch) != (claims.user_id, claims.epoch):
            found = None
    else:
        found = await _look(app, lambda s: sessions.resolve(s, token=cookie or "", now=now))
    if found is None:
        raise NotSignedIn
    logs.bind(user=pseudonym(app, _id(found.user)))
    if found.due and bearer is None:
        await _touch(app, found.session_id, now)
    return found


def pseudonym(app: App, user_id: int) -> str:
    """What the logs call a user: always the same, and nobody's without this installation's key."""
    key = secrets.subkey(app.secrets.link_key, "log pseudonyms")
    return f"u_{hmac.digest(key, str(user_id).encode(), 'sha256').hex()[:12]}"


def session_of(app: App, bearer: str) -> str | None:
    """The session that a genuine access token names; None for any other text."""
    try:
        return tokens.read(app.secrets.tokens, bearer, now=app.clock.micros()).session_id
    except tokens.BadToken:
        return None


async def _by_key(app: App, token: str, now: int) -> SignedIn:
    found = await _look(app, lambda s: keys.resolve(s, token=token, now=now))
    if found is None:
        raise keys.BadKey
    logs.bind(user=pseudonym(app, _id(found.user)))
    if found.due and found.key is not None:
        key_id = found.key.id
        try:
            await app.db.awrite(lambda s: keys.touch(s, key_id=key_id, now=now))
        except AppError:
            log.warning("the last use of an API key could not be noted")
    return found


async def _look(app: App, query: Callable[[Session], Found]) -> Found:
    """Ask the database without holding up the event loop: a file answers at once, a server not."""

    def ask() -> Found:
        with app.db.read() as session:
            return query(session)

    return ask() if app.db.sqlite else await asyncio.to_thread(ask)


def _known(app: App, session: Session, user: User | None, *, ip: str, device: str) -> str | None:
    """By what the account knows this caller: the device, or an address it signed in from."""
    number = _id(user) if user is not None else 0
    block = throttles.block(ip)
    # Both are looked at for unknown accounts too: the answer takes as long.
    name = devices.known(app.secrets.link_key, device, user_id=number)
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


def _second_factor(
    app: App, session: Session, *, user_id: int, code: str | None, pair: bool
) -> int | None:
    """When the second factor was shown: now, or never where there is none."""
    if not totp.enabled(session, user_id=user_id):
        return None
    if not code:
        raise TotpRequired
    if pair and totp.is_single(code):
        raise TotpPairRequired
    now = app.clock.micros()
    if not totp.use(session, user_id=user_id, code=code, key=app.secrets.link_key, now=now):
        raise WrongTotp
    return now


async def _warn_of_guesses(app: App, user_id: int) -> None:
    """Whoever tries codes knows the password, which its owner should hear of; once a day."""
    now = app.clock.micros()
    await app.db.awrite(
        lambda session: notices.security(
            session,
            user_id=user_id,
            key=f"totp-guess:{now // sessions.DAY}",
            title="Somebody has your password and tries codes",
            text="Two-factor sign-in kept them out. If it was not you, change your password.",
            now=now,
        )
    )


async def _renewed(app: App, password: str, stored: str) -> str | None:
    """A new form of a password whose stored one is by an earlier pepper; when there is time."""
    if not app.passwords.is_old(stored):
        return None
    try:
        return await app.passwords.hash(password)
    except passwords.PasswordsBusy:
        return None


def _open(
    app: App,
    session: Session,
    *,
    user_id: int,
    stored: str,
    ip: str,
    agent: str,
    proved: int | None = None,
    renewed: str | None = None,
) -> SignIn | None:
    """Begin a session; None if the stored form changed while it was being compared."""
    user = users.get(session, user_id)
    if user.password_hash != stored:
        return None
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
    if proved is not None:
        sessions.prove(session, session_id=session_id, now=proved)
    user.last_login_at = now
    user.password_hash = renewed or stored
    session.add(user)
    session.flush()
    return _sign_in(app, user, session_id, cookie, refresh_token)


def _sign_in(app: App, user: User, session_id: str, cookie: str, refresh_token: str) -> SignIn:
    minutes = app.settings.accounts.access_minutes
    access = tokens.issue(
        app.secrets.tokens,
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
