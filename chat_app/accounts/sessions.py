"""Sessions: one row for each sign-in, ended by deleting it.

The browser holds the session's cookie, a program its access and refresh tokens. All of them
name the row, so that signing out, suspension and a new password take effect at once and in
every process. Nothing is cached.
"""

import os
from dataclasses import dataclass
from typing import Literal

from sqlmodel import Session, col, delete, exists, or_, select, update

from chat_app import ids
from chat_app.accounts import tokens
from chat_app.accounts.key_tables import ApiKey
from chat_app.accounts.tables import RefreshToken, SignInSession, User
from chat_app.clock import MICROS_PER_SECOND
from chat_app.errors import NotFound, NotSignedIn
from chat_app.secrets import Ring
from chat_app.settings import Accounts, Settings

HOUR = 3600 * MICROS_PER_SECOND
DAY = 24 * HOUR
# A session's last use is noted at most this often: a write for each request would be dear.
TOUCH = 5 * 60 * MICROS_PER_SECOND
# Two tabs that refresh at once both show the same token; later, a second use means theft.
GRACE = 20 * MICROS_PER_SECOND
MAX_AGENT = 256
MAX_IP = 64
MAX_TOKEN_LENGTH = 512
PAGE = 100
_COOKIE = "chat_session"
_HUB = "https://huggingface.co"


class BadRefreshToken(NotSignedIn):
    """The refresh token is unknown, out of date or was used before."""

    code = "invalid_refresh_token"
    message = "This refresh token is not valid any more. Please sign in again."


@dataclass(frozen=True)
class SignedIn:
    """Who a request comes from. `due` asks for `touch`.

    By a sign-in, or by an API key, which has no session. `since` is when the password was last
    shown in it, in microseconds: at its beginning or later.
    `proved_at` is when a second factor was last shown in this session, in microseconds.
    """

    user: User
    session_id: str
    due: bool
    since: int = 0
    key: ApiKey | None = None
    proved_at: int | None = None

    @property
    def ground(self) -> str:
        """By what the user is here: the id of the session or of the API key."""
        return f"key:{self.key.id}" if self.key else self.session_id


@dataclass(frozen=True)
class Rotation:
    """What became of a refresh token: a successor, nothing, or a detected theft."""

    outcome: Literal["rotated", "refused", "reused"]
    user: User | None = None
    session_id: str = ""
    refresh_token: str = ""


def cookie_name(https: bool) -> str:
    """The cookie's name; with https it is bound to this host and path by the browser."""
    return f"__Host-{_COOKIE}" if https else _COOKIE


def secure_cookies(settings: Settings) -> bool:
    """Whether people reach the program by https, so that its cookie may be kept to https."""
    return settings.server.public_url.startswith("https://") or embedded(settings)


def embedded(settings: Settings) -> bool:
    """Whether other sites may show the page in a frame: then the cookie must work there."""
    return bool(framed_by(settings))


def framed_by(settings: Settings) -> str:
    """The sites that may show the page in a frame, separated by spaces."""
    chosen = settings.server.framed_by
    if chosen == "auto":
        return _HUB if os.environ.get("SPACE_ID") else ""
    return chosen.strip()


def create(
    session: Session, *, user: User, now: int, settings: Accounts, ip: str = "", agent: str = ""
) -> str:
    """Sign the user in on one device and return the token for the cookie."""
    return open_session(session, user=user, now=now, settings=settings, ip=ip, agent=agent)[1]


def open_session(
    session: Session, *, user: User, now: int, settings: Accounts, ip: str = "", agent: str = ""
) -> tuple[str, str]:
    """`create`, returning the session's id too."""
    token = tokens.random_token()
    row = SignInSession(
        id=ids.new_id("ses"),
        user_id=_id(user),
        token_hash=tokens.token_hash(token),
        token_epoch=user.token_epoch,
        ip=_printable(ip, MAX_IP),
        agent=_printable(agent, MAX_AGENT),
        created_at=now,
        seen_at=now,
        idle_at=now + settings.session_idle_hours * HOUR,
        expires_at=now + settings.session_hours * HOUR,
    )
    session.add(row)
    session.flush()
    return row.id, token


def resolve(session: Session, *, token: str, now: int) -> SignedIn | None:
    """Whose cookie this is, if its session still stands and the user may be here."""
    if len(token) > MAX_TOKEN_LENGTH:
        return None
    found = session.exec(
        select(SignInSession, User)
        .join(User, col(User.id) == SignInSession.user_id)
        .where(SignInSession.token_hash == tokens.token_hash(token))
    ).first()
    if found is None or now >= min(found[0].expires_at, found[0].idle_at):
        return None
    return _signed_in(*found, now=now)


def resolve_id(session: Session, *, session_id: str, now: int) -> SignedIn | None:
    """Whose session this is, if it still stands; for access tokens, which name it."""
    found = session.exec(
        select(SignInSession, User)
        .join(User, col(User.id) == SignInSession.user_id)
        .where(SignInSession.id == session_id)
    ).first()
    return _signed_in(*found, now=now) if found else None


def touch(session: Session, *, session_id: str, now: int, settings: Accounts) -> None:
    """Note that the session is in use, which moves its idle limit. Never moves it back."""
    session.exec(
        update(SignInSession)
        .where(col(SignInSession.id) == session_id, col(SignInSession.seen_at) < now)
        .values(seen_at=now, idle_at=now + settings.session_idle_hours * HOUR)
    )


def prove(session: Session, *, session_id: str, now: int) -> None:
    """Note that a second factor was shown in this session."""
    session.exec(
        update(SignInSession)
        .where(col(SignInSession.id) == session_id)
        .values(second_factor_at=now)
    )


def confirm(session: Session, *, session_id: str, now: int) -> None:
    """Note that the password was shown again in this session, and a code where there is one."""
    session.exec(
        update(SignInSession).where(col(SignInSession.id) == session_id).values(confirmed_at=now)
    )


def list_for(session: Session, *, user_id: int, now: int) -> list[SignInSession]:
    """The user's sign-ins that still stand, newest first, at most 100."""
    return list(
        session.exec(
            select(SignInSession)
            .where(SignInSession.user_id == user_id, _stands(now))
            .order_by(col(SignInSession.created_at).desc(), col(SignInSession.id))
            .limit(PAGE)
        )
    )


def addresses(session: Session, *, user_id: int) -> set[str]:
    """The addresses from which the user's newest sign-ins came."""
    query = select(SignInSession.ip).where(SignInSession.user_id == user_id)
    return set(session.exec(query.order_by(col(SignInSession.created_at).desc()).limit(PAGE)))


def revoke(session: Session, *, session_id: str, user_id: int | None = None) -> None:
    """End one sign-in; with `user_id`, only if it is this user's (NotFound otherwise)."""
    query = delete(SignInSession).where(col(SignInSession.id) == session_id)
    if user_id is not None:
        query = query.where(col(SignInSession.user_id) == user_id)
    if session.exec(query).rowcount == 0 and user_id is not None:
        raise NotFound("There is no such sign-in. It may have ended already.")


def revoke_token(session: Session, *, token: str) -> None:
    """End the sign-in that this cookie or refresh token belongs to, if there is one."""
    hashed = tokens.token_hash(token)
    family = select(RefreshToken.session_id).where(RefreshToken.token_hash == hashed)
    session.exec(
        delete(SignInSession).where(
            or_(col(SignInSession.token_hash) == hashed, col(SignInSession.id).in_(family))
        )
    )


def revoke_all(session: Session, *, user_id: int) -> int:
    """End all sign-ins of the user; returns how many there were."""
    query = delete(SignInSession).where(col(SignInSession.user_id) == user_id)
    return int(session.exec(query).rowcount)


def revoke_others(session: Session, *, user_id: int, session_id: str) -> int:
    """End all sign-ins of the user but this one; returns how many there were."""
    query = delete(SignInSession).where(
        col(SignInSession.user_id) == user_id, col(SignInSession.id) != session_id
    )
    return int(session.exec(query).rowcount)


def add_refresh_token(
    session: Session, *, session_id: str, token: str, now: int, settings: Accounts
) -> None:
    """Make `token` the newest refresh token of a sign-in."""
    session.add(
        RefreshToken(
            token_hash=tokens.token_hash(token),
            session_id=session_id,
            issued_at=now,
            expires_at=now + settings.refresh_days * DAY,
        )
    )
    session.flush()


def rotate(session: Session, *, token: str, ring: Ring, now: int, settings: Accounts) -> Rotation:
    """Exchange a refresh token for its successor, or end the sign-in if it was stolen.

    A second use within 20 seconds gets the same successor; one after that deletes the
    session. The outcome is returned, not raised, because raising would undo the deletion.
    """
    if len(token) > MAX_TOKEN_LENGTH:
        return Rotation("refused")
    row = session.exec(
        select(RefreshToken).where(RefreshToken.token_hash == tokens.token_hash(token))
    ).first()
    if row is None or now >= row.expires_at:
        return Rotation("refused")
    # PostgreSQL: the lock keeps a theft and a rotation of one sign-in from interleaving.
    owner = session.exec(
        select(SignInSession).where(SignInSession.id == row.session_id).with_for_update()
    ).first()
    user = session.get(User, owner.user_id) if owner else None
    if owner is None or user is None or user.suspended or owner.token_epoch != user.token_epoch:
        return Rotation("refused")
    successor = tokens.derive(ring.active(now).secret, "refresh", token)
    first_use = session.exec(
        update(RefreshToken)
        .where(col(RefreshToken.token_hash) == row.token_hash, col(RefreshToken.used_at).is_(None))
        .values(used_at=now)
        .execution_options(synchronize_session=False)
    ).rowcount
    if first_use:
        add_refresh_token(session, session_id=owner.id, token=successor, now=now, settings=settings)
    else:
        session.refresh(row)
        if now - (row.used_at or 0) > GRACE:
            revoke(session, session_id=owner.id)
            return Rotation("reused", user=user, session_id=owner.id)
        successor = _given(session, ring, token) or successor
    return Rotation("rotated", user=user, session_id=owner.id, refresh_token=successor)


def _given(session: Session, ring: Ring, token: str) -> str | None:
    """The successor that was given before, perhaps by a key that is not the active one now."""
    derived = [tokens.derive(key.secret, "refresh", token) for key in ring.keys]
    by_hash = {tokens.token_hash(successor): successor for successor in derived}
    query = select(RefreshToken.token_hash).where(col(RefreshToken.token_hash).in_(by_hash))
    found = session.exec(query).first()
    return by_hash[found] if found else None


def purge(session: Session, *, now: int) -> int:
    """Delete sign-ins and refresh tokens that are of no more use; returns how many."""
    old_tokens = session.exec(delete(RefreshToken).where(col(RefreshToken.expires_at) <= now))
    ended = session.exec(delete(SignInSession).where(~_stands(now)))
    return int(old_tokens.rowcount) + int(ended.rowcount)


def _signed_in(row: SignInSession, user: User, *, now: int) -> SignedIn | None:
    if user.suspended or row.token_epoch != user.token_epoch:
        return None
    return SignedIn(
        user=user,
        session_id=row.id,
        due=now - row.seen_at > TOUCH,
        since=max(row.created_at, row.confirmed_at or 0),
        proved_at=row.second_factor_at,
    )


def _stands(now: int):  # type: ignore[no-untyped-def]  # an SQLAlchemy expression
    """The cookie is good, or a refresh token is."""
    refreshable = exists().where(
        col(RefreshToken.session_id) == SignInSession.id,
        col(RefreshToken.used_at).is_(None),
        col(RefreshToken.expires_at) > now,
    )
    cookie = (col(SignInSession.expires_at) > now) & (col(SignInSession.idle_at) > now)
    return cookie | refreshable


def _printable(text: str, longest: int) -> str:
    return "".join(mark for mark in text if mark.isprintable())[:longest]


def _id(user: User) -> int:
    assert user.id is not None
    return user.id
