"""Setup: the one-time link that makes the first administrator.

The token is derived from a random number in the database and this installation's key: every
process that starts prints the same link, and a copy of the database alone is not enough.
"""

import hmac

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, delete, select

from chat_app.accounts import tokens, users
from chat_app.accounts.tables import SetupToken
from chat_app.clock import MICROS_PER_SECOND
from chat_app.errors import NotAllowed

VALID_SECONDS = 24 * 3600
_PURPOSE = "setup"


class SetupClosed(NotAllowed):
    """The link was used, is out of date or was never given out."""

    code = "setup_closed"
    message = "This setup link is not valid any more. Restart the program to get a new one."


def token(session: Session, *, key: bytes, now: int) -> str | None:
    """The token of the open setup, made when there is none; None once there is an admin."""
    row = lock(session, now=now)
    if users.has_admin(session):
        _forget(session)
        return None
    return tokens.derive(key, _PURPOSE, row.nonce)


def check(session: Session, *, token: str, key: bytes, now: int) -> None:
    """Whether the token would be accepted; raises SetupClosed."""
    _matching(session, token=token, key=key, now=now)


def use(session: Session, *, token: str, key: bytes, now: int) -> None:
    """Use the token up; raises SetupClosed. The caller makes the administrator.

    The lock on the row lets one caller in at a time, so two claims make one administrator.
    """
    session.exec(select(SetupToken).with_for_update()).first()
    _matching(session, token=token, key=key, now=now)
    _forget(session)


def _matching(session: Session, *, token: str, key: bytes, now: int) -> None:
    row = session.exec(select(SetupToken)).first()
    if row is None or users.has_admin(session) or _is_old(row, now):
        raise SetupClosed
    right = tokens.derive(key, _PURPOSE, row.nonce)
    if not hmac.compare_digest(right.encode(), token.encode("utf-8", "surrogatepass")):
        raise SetupClosed


def lock(session: Session, *, now: int) -> SetupToken:
    """The row that everybody who makes the first administrator locks; fresh if it was old."""
    query = select(SetupToken).with_for_update()
    row = session.exec(query).first()
    if row is not None and not _is_old(row, now):
        return row
    try:
        with session.begin_nested():
            _forget(session)
            session.add(SetupToken(id=1, nonce=tokens.random_token(), created_at=now))
    except IntegrityError:
        session.expire_all()  # another process was first; its row counts
    return session.exec(query).one()


def _forget(session: Session) -> None:
    session.exec(delete(SetupToken).where(col(SetupToken.id) == 1))


def _is_old(row: SetupToken, now: int) -> bool:
    return now >= row.created_at + VALID_SECONDS * MICROS_PER_SECOND
