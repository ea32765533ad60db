"""Standing: by what a user may be here right now. Asked again and again for open streams."""

import asyncio
from collections.abc import Iterable, Iterator
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


class Looks(dict[int, "asyncio.Future[Standing | None]"]):
    """How the users with open streams stood when last looked at, by their id.

    `asked` are those somebody asked about since; `timer` and `round` renew them all at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[int] = set()
        self.timer: asyncio.TimerHandle | None = None
        self.round: asyncio.Task[None] | None = None


def of(session: Session, user_ids: Iterable[int], *, now: int) -> dict[int, Standing]:
    """How the users stand, by their id; without those who do not exist any more."""
    found: dict[int, Standing] = {}
    for some in _several(user_ids):
        users = session.exec(
            select(User.id, User.role, User.token_epoch, User.suspended).where(
                col(User.id).in_(some)
            )
        ).all()
        grounds: dict[int, set[str]] = {id: set() for id, *_ in users if id is not None}
        epochs = {id: epoch for id, _, epoch, _ in users}
        held = select(SignInSession.id, SignInSession.user_id, SignInSession.token_epoch)
        for sign_in, owner, epoch in session.exec(held.where(col(SignInSession.user_id).in_(some))):
            if epochs.get(owner) == epoch:
                grounds[owner].add(sign_in)
        for key in keys.standing_of(session, some, now=now):
            grounds[key.user_id].add(f"key:{key.id}")
        for id, role, _, suspended in users:
            if id is not None:
                found[id] = Standing(role, frozenset() if suspended else frozenset(grounds[id]))
    return found


def barred(session: Session, user_ids: Iterable[int]) -> set[int]:
    """Those of the users who are suspended or gone, and for whom no answer may be written."""
    asked = set(user_ids)
    welcome: set[int] = set()
    for some in _several(asked):
        query = select(User.id).where(col(User.id).in_(some), col(User.suspended).is_(False))
        welcome.update(id for id in session.exec(query) if id is not None)
    return asked - welcome


def _several(user_ids: Iterable[int]) -> Iterator[list[int]]:
    ids = sorted(set(user_ids))
    for start in range(0, len(ids), AT_ONCE):
        yield ids[start : start + AT_ONCE]
