"""Hub accounts: which account of Hugging Face signs in to which of ours, by its stable id.

Never by a name or an e-mail address, which change hands. Knows nothing of how Hugging Face
proves who somebody is (`openid.py`).
"""

import re

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, delete, select, update

from chat_app.accounts import users
from chat_app.accounts.hub_tables import HubAccount, HubAnswer
from chat_app.accounts.tables import User
from chat_app.errors import Conflict

MAX_NAME = 64
MAX_USERNAME = 32
_ODD = re.compile(r"[^A-Za-z0-9_.-]+")


class HubTaken(Conflict):
    """The account of Hugging Face signs in to another account here."""

    code = "hub_taken"
    message = (
        "This Hugging Face account signs in to another account here. Unlink it there first, or "
        "use another one."
    )


class HubLinked(Conflict):
    """The account has another account of Hugging Face already."""

    code = "hub_linked"
    message = "A Hugging Face account is linked already. Unlink it before you link another."


def of_user(session: Session, *, user_id: int) -> HubAccount | None:
    """The account of Hugging Face that signs in to this one."""
    return session.exec(select(HubAccount).where(HubAccount.user_id == user_id)).first()


def find(session: Session, *, subject: str) -> HubAccount | None:
    """To which account this one of Hugging Face signs in."""
    return session.get(HubAccount, subject)


def link(session: Session, *, subject: str, user_id: int, name: str, now: int) -> None:
    """From now on `subject` signs in to this account. Raises HubTaken or HubLinked."""
    known = find(session, subject=subject)
    if known is not None and known.user_id != user_id:
        raise HubTaken
    if known is not None:
        return
    if of_user(session, user_id=user_id) is not None:
        raise HubLinked
    row = HubAccount(
        subject=subject, user_id=user_id, name=_shown(name), linked_at=now, used_at=now
    )
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError as error:  # another process was first
        raise HubTaken from error


def note(session: Session, *, subject: str, name: str, now: int) -> None:
    """It signed in, under this name."""
    session.exec(
        update(HubAccount)
        .where(col(HubAccount.subject) == subject)
        .values(name=_shown(name), used_at=now)
    )


def unlink(session: Session, *, user_id: int) -> bool:
    """It signs in no longer; False if there was none."""
    query = delete(HubAccount).where(col(HubAccount.user_id) == user_id)
    return session.exec(query).rowcount > 0


def use_answer(session: Session, *, state_hash: str, expires_at: int) -> bool:
    """Whether this answer was not used before; from now on it was."""
    try:
        with session.begin_nested():
            session.add(HubAnswer(state_hash=state_hash, expires_at=expires_at))
            session.flush()
    except IntegrityError:
        return False
    return True


def purge(session: Session, *, now: int) -> int:
    """Forget answers that are too old to be used anyway; returns how many."""
    query = delete(HubAnswer).where(col(HubAnswer.expires_at) <= now)
    return int(session.exec(query).rowcount)


def free_username(session: Session, wanted: str) -> str:
    """A user name like `wanted` that nobody has yet."""
    base = _ODD.sub("-", wanted).strip("-._")[:MAX_USERNAME]
    try:
        base = users.clean_username(base)
    except users.BadUsername:
        base = f"hf-{base or 'user'}"[:MAX_USERNAME].strip("-._")
    number = 1
    name = base
    while _taken(session, name):
        number += 1
        name = f"{base[: MAX_USERNAME - len(str(number)) - 1]}-{number}"
    return name


def _taken(session: Session, name: str) -> bool:
    key = users.username_key(name)
    return session.exec(select(User.id).where(User.username_key == key)).first() is not None


def _shown(name: str) -> str:
    return "".join(mark for mark in name if mark.isprintable())[:MAX_NAME]
