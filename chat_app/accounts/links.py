"""Links: what a mail carries so that whoever reads it can prove it, once and for half an hour.

The token is derived from the link's id and a key of this installation when the mail is written,
and stored as a hash: neither the database nor the outbox in it holds anything that opens a door.
"""

from typing import Literal

from sqlalchemy import text
from sqlmodel import Session, col, delete, func, select, update

from chat_app import ids
from chat_app.accounts import tokens, users
from chat_app.accounts.link_tables import AccountLink, ResetWish
from chat_app.clock import MICROS_PER_SECOND
from chat_app.errors import Invalid, Unavailable

Purpose = Literal["verify", "email", "reset"]
MAX_WISHES = 10_000
_WISH = text(
    """INSERT INTO reset_wish (address_key, created_at) VALUES (:address_key, :now)
    ON CONFLICT (address_key) DO NOTHING"""
)
_KEPT = 24 * 3600 * MICROS_PER_SECOND


class BadLink(Invalid):
    """The link was used, is out of date, was replaced, or never existed."""

    code = "invalid_link"
    message = "This link is not valid any more. Ask for a new mail and open the link in it."


class TooManyWishes(Unavailable):
    """More people ask for new passwords than can be served."""

    code = "reset_busy"
    message = "Many people are asking for new passwords right now. Try again in a minute."


def token_of(key: bytes, link_id: str) -> str:
    """The token of a link; the same every time."""
    return tokens.derive(key, "account link", link_id)


def make(
    session: Session,
    *,
    user_id: int,
    purpose: Purpose,
    address: str,
    key: bytes,
    now: int,
    minutes: int,
) -> str:
    """A link for this account, as its id. `address` is where it will be mailed to."""
    made = AccountLink(
        id=ids.new_id("lnk"),
        user_id=user_id,
        purpose=purpose,
        token_hash="",
        address=address,
        address_key=users.email_key(address),
        created_at=now,
        expires_at=now + minutes * 60 * MICROS_PER_SECOND,
    )
    made.token_hash = tokens.token_hash(token_of(key, made.id))
    session.add(made)
    session.flush()
    return made.id


def look(session: Session, *, token: str, purposes: tuple[Purpose, ...], now: int) -> AccountLink:
    """The link that this token opens, unused; raises BadLink."""
    found = session.exec(
        select(AccountLink).where(
            AccountLink.token_hash == tokens.token_hash(token),
            col(AccountLink.purpose).in_(purposes),
            col(AccountLink.used_at).is_(None),
            col(AccountLink.expires_at) > now,
        )
    ).first()
    if found is None:
        raise BadLink(param="token")
    return found


def use(session: Session, *, token: str, purposes: tuple[Purpose, ...], now: int) -> AccountLink:
    """`look`, using the link up: of two callers at once one gets BadLink."""
    found = look(session, token=token, purposes=purposes, now=now)
    used = session.execute(
        update(AccountLink)
        .where(col(AccountLink.id) == found.id, col(AccountLink.used_at).is_(None))
        .values(used_at=now)
        .execution_options(synchronize_session=False)
    )
    if not used.rowcount:  # type: ignore[attr-defined]
        raise BadLink(param="token")
    return found


def revoke(
    session: Session,
    *,
    user_id: int,
    purposes: tuple[Purpose, ...] = ("verify", "email", "reset"),
) -> None:
    """Make the account's links for these purposes worthless."""
    session.execute(
        delete(AccountLink).where(
            col(AccountLink.user_id) == user_id, col(AccountLink.purpose).in_(purposes)
        )
    )


def newest(session: Session, *, user_id: int, purpose: Purpose) -> int | None:
    """When (µs) the account was last given a link for this purpose."""
    return session.exec(
        select(func.max(AccountLink.created_at)).where(
            AccountLink.user_id == user_id, AccountLink.purpose == purpose
        )
    ).one()


def to_address(session: Session, *, address: str, since: int) -> int:
    """How many links were made for mails to this address, whoever asked for them."""
    return session.exec(
        select(func.count())
        .select_from(AccountLink)
        .where(
            AccountLink.address_key == users.email_key(address),
            col(AccountLink.created_at) >= since,
        )
    ).one()


def wish(session: Session, *, email: str, now: int) -> None:
    """Note that a new password is asked for; raises TooManyWishes. Looks at no account."""
    waiting = session.exec(select(func.count()).select_from(ResetWish)).one()
    if waiting >= MAX_WISHES:
        raise TooManyWishes(retry_after_seconds=60)
    session.execute(_WISH, {"address_key": users.email_key(email), "now": now})


def wishes(session: Session, *, limit: int) -> list[str]:
    """The addresses that wait for a link, the oldest first."""
    query = select(ResetWish.address_key).order_by(col(ResetWish.created_at)).limit(limit)
    return list(session.exec(query))


def granted(session: Session, address_key: str) -> bool:
    """Take a wish off the list; False if another process was faster."""
    done = session.execute(delete(ResetWish).where(col(ResetWish.address_key) == address_key))
    return bool(done.rowcount)  # type: ignore[attr-defined]


def purge(session: Session, *, now: int) -> int:
    """Delete links that ended a day ago; until then they count for what one address gets."""
    done = session.execute(delete(AccountLink).where(col(AccountLink.expires_at) <= now - _KEPT))
    return int(done.rowcount)  # type: ignore[attr-defined]
