"""The second factor: set up, confirmed, shown again before money moves, turned off.

Wrong codes are counted by account and address together, like wrong passwords, so nobody can be
locked out by somebody else. The codes themselves are `accounts/totp.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlmodel import Session

from chat_app.accounts import permissions, sessions, totp, users
from chat_app.accounts.sessions import SignedIn
from chat_app.accounts.totp import TotpNotEnrolled, WrongSecondFactor
from chat_app.app import App
from chat_app.audit import log as audit
from chat_app.errors import NotFound
from chat_app.flows import doors, notices, signin, staff

T = TypeVar("T")


@dataclass(frozen=True)
class Enrollment:
    """What an authenticator needs, as text and as a picture. It is shown this once."""

    secret: str
    otpauth_uri: str
    qr_svg: str


@dataclass(frozen=True)
class Standing:
    """How it stands with somebody's second factor. Times in microseconds."""

    enabled: bool
    backup_codes_left: int
    verified_until: int | None


async def standing(app: App, who: SignedIn) -> Standing:
    """Whether it is on, how many backup codes are left, and how long the last code counts."""
    with app.db.read() as session:
        enabled = totp.enabled(session, user_id=_id(who))
        left = totp.backup_codes_left(session, user_id=_id(who)) if enabled else 0
    return Standing(enabled, left, staff.proved_until(app, who) if enabled else None)


async def enroll(app: App, who: SignedIn, *, password: str, ip: str) -> Enrollment:
    """A new secret, which counts once it is confirmed.

    Raises WrongCurrentPassword, TooManySignIns, PasswordsBusy or TotpEnabled.
    """
    await signin.prove_password(app, user_id=_id(who), password=password, ip=ip, param="password")
    secret = await app.db.awrite(
        lambda session: totp.begin(
            session, user_id=_id(who), key=app.secrets.link_key, now=app.clock.micros()
        )
    )
    uri = totp.uri(secret, username=who.user.username)
    return Enrollment(secret, uri, totp.qr_svg(uri))


async def confirm(app: App, who: SignedIn, *, code: str, ip: str) -> list[str]:
    """Turn it on with a first code; returns the backup codes. All other sign-ins end.

    Raises TotpNotEnrolled, TotpEnabled, WrongSecondFactor or TooManySignIns.
    """

    def story(session: Session) -> list[str]:
        now = app.clock.micros()
        codes = totp.confirm(
            session, user_id=_id(who), code=code, key=app.secrets.link_key, now=now
        )
        sessions.revoke_others(session, user_id=_id(who), session_id=who.session_id)
        sessions.prove(session, session_id=who.session_id, now=now)
        _tell(session, who, now, "on")
        return codes

    return await _judged(app, _id(who), ip, story)


async def verify(app: App, who: SignedIn, *, code: str, ip: str) -> int:
    """Show a code again, in this session; returns until when it counts, in microseconds.

    Raises TotpNotEnrolled, WrongSecondFactor or TooManySignIns.
    """

    def story(session: Session) -> int:
        now = app.clock.micros()
        _use(app, session, who, code, now)
        sessions.prove(session, session_id=who.session_id, now=now)
        return now + app.settings.accounts.step_up_minutes * staff.MINUTE

    return await _judged(app, _id(who), ip, story)


async def renew_backup_codes(
    app: App, who: SignedIn, *, password: str, code: str, ip: str
) -> list[str]:
    """Ten new backup codes in place of the earlier ones. Raises what `disable` does."""
    await signin.prove_password(app, user_id=_id(who), password=password, ip=ip, param="password")

    def story(session: Session) -> list[str]:
        now = app.clock.micros()
        _use(app, session, who, code, now)
        made = totp.new_backup_codes(session, user_id=_id(who), key=app.secrets.link_key, now=now)
        audit.record(session, type="backup_codes_renewed", actor=f"user:{_id(who)}", now=now)
        return made

    return await _judged(app, _id(who), ip, story)


async def disable(app: App, who: SignedIn, *, password: str, code: str, ip: str) -> None:
    """Turn it off, with the password and a code or backup code.

    Raises WrongCurrentPassword, TotpNotEnrolled, WrongSecondFactor, TooManySignIns or
    PasswordsBusy.
    """
    await signin.prove_password(app, user_id=_id(who), password=password, ip=ip, param="password")

    def story(session: Session) -> None:
        now = app.clock.micros()
        _use(app, session, who, code, now)
        totp.forget(session, user_id=_id(who))
        _tell(session, who, now, "off")

    await _judged(app, _id(who), ip, story)


async def show(app: App, *, user_id: int, code: str, ip: str) -> None:
    """Use up a code of somebody who has two-factor sign-in and is signed in.

    Raises WrongSecondFactor or TooManySecondFactors.
    """

    def story(session: Session) -> None:
        now = app.clock.micros()
        if not totp.use(session, user_id=user_id, code=code, key=app.secrets.link_key, now=now):
            raise WrongSecondFactor(param="code")

    await _judged(app, user_id, ip, story)


async def reset(app: App, *, admin_id: int, user_id: int) -> None:
    """Turn it off for somebody who lost telephone and backup codes; all their sign-ins end.

    Raises AdminsOnly, NotPermitted or NotFound.
    """

    def story(session: Session) -> None:
        permissions.require(session, user_id=admin_id, permission="users.role")
        _forget(app, session, user_id=user_id, actor=f"user:{admin_id}")

    await app.db.awrite(story)


def reset_by_operator(app: App, *, login: str) -> bool:
    """`reset` by whoever runs the program; whether it was on. Raises NotFound."""

    def story(session: Session) -> bool:
        user = users.find(session, login)
        if user is None or user.id is None:
            raise NotFound("There is no such user. Check the name.")
        return _forget(app, session, user_id=user.id, actor="operator")

    return app.db.write(story)


def _forget(app: App, session: Session, *, user_id: int, actor: str) -> bool:
    users.get(session, user_id)
    if not totp.forget(session, user_id=user_id):
        return False
    signin.end_all(session, user_id=user_id)
    now = app.clock.micros()
    audit.record(session, type="totp_reset", actor=actor, now=now, user_id=user_id)
    notices.security(
        session,
        user_id=user_id,
        key=f"totp:{now}",
        title="Two-factor sign-in was turned off",
        text="An administrator did it. If you did not ask for that, tell the operator at once.",
        now=now,
    )
    return True


def _use(app: App, session: Session, who: SignedIn, code: str, now: int) -> None:
    if not totp.enabled(session, user_id=_id(who)):
        raise TotpNotEnrolled
    if not totp.use(session, user_id=_id(who), code=code, key=app.secrets.link_key, now=now):
        raise WrongSecondFactor(param="code")


async def _judged(app: App, user_id: int, ip: str, story: Callable[[Session], T]) -> T:
    """Run the story as one attempt: it counts as failed until it succeeds."""
    attempt = await doors.attempt(
        app, "second_factor", subject=str(user_id), ip=ip, known="signed in"
    )
    try:
        done = await app.db.awrite(story)
    except WrongSecondFactor:
        raise
    except Exception:
        await attempt.forgive(app)  # no code was judged
        raise
    await attempt.forgive(app, earlier=True)
    return done


def _tell(session: Session, who: SignedIn, now: int, state: str) -> None:
    audit.record(session, type=f"totp_{state}", actor=f"user:{_id(who)}", now=now)
    notices.security(
        session,
        user_id=_id(who),
        key=f"totp:{now}",
        title=f"Two-factor sign-in is {state}",
        text=f"It was turned {state} a moment ago. If it was not you, change your password and "
        "tell the operator.",
        now=now,
    )


def _id(who: SignedIn) -> int:
    assert who.user.id is not None
    return who.user.id
