"""Standing: by what a user may be here right now. Asked again and again for open streams."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlmodel import Session, col, select

from chat_app.accounts import keys
from chat_app.accounts.tables import SignInSession, User

AT_ONCE = 500


@dataclass(frozen=True)
class Standing:
    """A user's role, and by which sign-ins and API keys they may be here; by none if suspended.

    Grounds are what `SignedIn.ground` names.
    """

    role: str
    grounds: frozenset[str]


def of(session: Session, *, user_id: int, now: int) -> Standing | None:
    """How the user stands; None if there is no such user any more."""
    user = session.get(User, user_id)
    if user is None:
        return None
    if user.suspended:
        return Standing(user.role, frozenset())
    found = session.exec(
        select(SignInSession.id).where(
            SignInSession.user_id == user_id, SignInSession.token_epoch == user.token_epoch
        )
    )
    held = (f"key:{key.id}" for key in keys.standing_of(session, user, now=now))
    return Standing(user.role, frozenset((*found, *held)))


def barred(session: Session, user_ids: Iterable[int]) -> set[int]:
    """Those of the users who are suspended or gone, and for whom no answer may be written."""
    asked = sorted(set(user_ids))
    welcome: set[int] = set()
    for start in range(0, len(asked), AT_ONCE):
        some = asked[start : start + AT_ONCE]
        query = select(User.id).where(col(User.id).in_(some), col(User.suspended).is_(False))
        welcome.update(id for id in session.exec(query) if id is not None)
    return set(asked) - welcome
