"""Staff: what somebody may do here, by their role, and by a second factor where money moves.

REST and the page ask `require` before anything else; the flows ask for the role once more, in
the transaction that does it.
"""

import asyncio
import logging

from chat_app.accounts import permissions, totp
from chat_app.accounts.permissions import Permission
from chat_app.accounts.sessions import SignedIn
from chat_app.app import App
from chat_app.clock import MICROS_PER_SECOND
from chat_app.errors import NotAllowed
from chat_app.settings import Settings

log = logging.getLogger(__name__)

MINUTE = 60 * MICROS_PER_SECOND
_ENROL = (
    "This needs a second factor, and two-factor sign-in is off. Turn it on under Account › "
    "Two-factor, then do it again."
)


class SecondFactorRequired(NotAllowed):
    """Money would move, or rights, without a fresh one-time code; `enrolled` says what to do."""

    code = "second_factor_required"
    message = (
        "This needs a fresh code of your authenticator. Enter one under Account › Two-factor, "
        "then do it again."
    )


def always(settings: Settings) -> bool:
    """Whether staff without two-factor sign-in are refused what moves money."""
    chosen = settings.accounts.money_second_factor
    if chosen == "auto":
        return settings.server.public_url.startswith("https://")
    return chosen == "always"


def proved_until(app: App, who: SignedIn) -> int | None:
    """Until when the caller may move money by the last code they showed; None if it is over."""
    if who.proved_at is None:
        return None
    until = who.proved_at + app.settings.accounts.step_up_minutes * MINUTE
    return until if app.clock.micros() < until else None


async def require(app: App, who: SignedIn, permission: Permission) -> None:
    """Raises AdminsOnly, NotPermitted, or SecondFactorRequired for what moves money."""
    try:
        permissions.check(who.user.role, permission)
    except NotAllowed:
        log.warning("user %s, a %s, was refused %s", who.user.id, who.user.role, permission)
        raise
    if permission not in permissions.MONEY or proved_until(app, who) is not None:
        return
    if await _enrolled(app, who):
        raise SecondFactorRequired(permission=permission, enrolled=True)
    if always(app.settings):
        raise SecondFactorRequired(_ENROL, permission=permission, enrolled=False)


async def _enrolled(app: App, who: SignedIn) -> bool:
    assert who.user.id is not None
    user_id = who.user.id

    def ask() -> bool:
        with app.db.read() as session:
            return totp.enabled(session, user_id=user_id)

    return ask() if app.db.sqlite else await asyncio.to_thread(ask)
