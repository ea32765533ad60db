"""Mailboxes: whose an address is, what proves it, and which addresses are made to be thrown away.

Where addresses have to be confirmed, an account asks for one and has it only when its link was
opened. Until then somebody else may have it, or ask for it too, and nobody can tell.
"""

from functools import lru_cache

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from chat_app.accounts import users
from chat_app.accounts.tables import User
from chat_app.errors import Conflict, Invalid

_DOTLESS_HOSTS = {"gmail.com", "googlemail.com"}


class MailboxTaken(Conflict):
    """The address was confirmed for another account in the meantime."""

    code = "email_taken"
    message = "This address belongs to another account by now. Sign in there, or give another."


class DisposableEmail(Invalid):
    """The address is of a service for throw-away addresses, and those are not accepted."""

    code = "disposable_email"
    message = "Throw-away addresses are not accepted here. Give a lasting e-mail address."


def domain(email: str) -> str:
    """The host of an address as mail servers write it."""
    return users.email_key(email).rpartition("@")[2]


def identity(email: str) -> str:
    """What the addresses that reach one mailbox have in common, for free credits alone.

    Mail to `ann+shop@…` reaches `ann@…`, and Gmail ignores dots: otherwise one mailbox collects
    any number of welcome credits.
    """
    local, _, host = users.email_key(email).rpartition("@")
    local = local.partition("+")[0] or local
    if host in _DOTLESS_HOSTS:
        local, host = local.replace(".", ""), "gmail.com"
    return f"{local}@{host}"


def is_disposable(email: str, *, more: str = "") -> bool:
    """Whether the address is of a throw-away service, or of a domain in `more` (spaces between)."""
    labels = domain(email).split(".")
    known = _disposable() | set(more.casefold().split())
    return any(".".join(labels[at:]) in known for at in range(len(labels) - 1))


def owner(session: Session, email: str) -> User | None:
    """The account that has this address."""
    return session.exec(select(User).where(User.email_key == users.email_key(email))).first()


def reader(session: Session, address_key: str) -> User | None:
    """Who is served by mail to this address: who has it, or who asked for it last."""
    owned = session.exec(select(User).where(User.email_key == address_key)).first()
    if owned is not None:
        return owned
    return session.exec(
        select(User)
        .where(User.pending_email_key == address_key)
        .order_by(col(User.id).desc())
        .limit(1)
    ).first()


def confirm(session: Session, *, user: User, email: str, now: int) -> None:
    """The address is the user's from now on. Raises MailboxTaken."""
    user.email = email
    user.email_key = users.email_key(email)
    user.pending_email_key = None
    user.email_verified_at = now
    session.add(user)
    try:
        with session.begin_nested():
            session.flush()
    except IntegrityError as error:
        raise MailboxTaken from error


@lru_cache(maxsize=1)
def _disposable() -> frozenset[str]:
    """Ten thousand domains, read when the first address is judged."""
    from disposable_email_domains import blocklist

    return frozenset(blocklist)
