"""Presence: it is the owner who sits here, not somebody with an open session or a stolen token.

What cannot be undone or tells everything asks for the password again, and for a code where
two-factor sign-in is on: in the request itself, or a moment ago in this session.
"""

from sqlmodel import Session

from chat_app.accounts import sessions, totp
from chat_app.accounts.sessions import SignedIn
from chat_app.app import App
from chat_app.clock import MICROS_PER_SECOND
from chat_app.errors import NotAllowed
from chat_app.flows import second_factor, signin
from chat_app.flows.staff import SecondFactorRequired

MINUTE = 60 * MICROS_PER_SECOND
_BESIDE = (
    "Two-factor sign-in is on, so this needs a code as well. Enter the one that your "
    "authenticator shows, or a backup code, beside the password."
)


class PasswordNeeded(NotAllowed):
    """The sign-in is too old for this: whoever is at the keyboard shows the password again."""

    code = "password_needed"
    message = "You signed in a while ago. Enter your password again to do this."


async def require(app: App, who: SignedIn, *, password: str | None = None, ip: str = "") -> None:
    """Let only a person on who was here a moment ago or gives the password again.

    Raises PasswordNeeded, WrongCurrentPassword, TooManySignIns or PasswordsBusy.
    """
    if password is not None:
        await signin.prove_password(
            app, user_id=_id(who), password=password, ip=ip, param="password"
        )
        return
    fresh = app.settings.accounts.fresh_minutes * MINUTE
    if who.key is not None or app.clock.micros() - who.since > fresh:
        raise PasswordNeeded(param="password")


async def prove(app: App, *, user_id: int, password: str, code: str | None, ip: str) -> None:
    """Ask for the password and, where two-factor sign-in is on, for a code.

    Raises WrongCurrentPassword, SecondFactorRequired without a code, WrongSecondFactor,
    TooManySignIns, TooManySecondFactors or PasswordsBusy.
    """
    await signin.prove_password(app, user_id=user_id, password=password, ip=ip, param="password")
    with app.db.read() as session:
        if not totp.enabled(session, user_id=user_id):
            return
    if not code:
        raise SecondFactorRequired(_BESIDE, param="code", enrolled=True)
    await second_factor.show(app, user_id=user_id, code=code, ip=ip)


async def refresh(app: App, who: SignedIn, *, password: str, code: str | None, ip: str) -> int:
    """`prove` it for this session; returns until when that counts, in microseconds."""
    await prove(app, user_id=_id(who), password=password, code=code, ip=ip)
    now = app.clock.micros()

    def story(session: Session) -> None:
        sessions.confirm(session, session_id=who.session_id, now=now)

    await app.db.awrite(story)
    return now + app.settings.accounts.fresh_minutes * MINUTE


def _id(who: SignedIn) -> int:
    assert who.user.id is not None
    return who.user.id
