"""Velocity: how many accounts of one mailbox, network or mail domain are given free credits.

Counted in the database, so a restart forgets nothing and processes count together. Refusals
are rows too, with their reason. Knows nothing of credits, only that something is free.
"""

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass

from sqlalchemy import text
from sqlmodel import Session, col, func, select, update

from chat_app.accounts import mailboxes
from chat_app.accounts.velocity_tables import FreeGift
from chat_app.clock import MICROS_PER_SECOND

DAY = 24 * 3600 * MICROS_PER_SECOND
KEPT_DAYS = 30
REASONS = {
    "mailbox": "Another account of the same mailbox was given them before.",
    "disposable": "The address is of a service for throw-away addresses.",
    "network": "Too many accounts from the same network were given them within a day.",
    "pattern": "The account looks like one of many of the same person.",
    "domain": "Too many accounts with addresses of the same domain were given them within a day.",
}
# Half the world has its mail there, so what comes from one of them says nothing.
_EVERYBODYS = frozenset(
    """
    gmail.com outlook.com hotmail.com live.com msn.com yahoo.com icloud.com me.com aol.com
    proton.me protonmail.com gmx.net gmx.de gmx.com web.de t-online.de mail.com mail.ru yandex.ru
    qq.com 163.com 126.com naver.com orange.fr free.fr libero.it zoho.com fastmail.com
    """.split()  # noqa: SIM905
)
_LOCK = 7_250_117  # PostgreSQL: two that count at once would both find the last free place
_PUT = text(
    """INSERT INTO free_gift (user_id, identity, block, domain, reason, created_at)
    VALUES (:user_id, :identity, :block, :domain, :reason, :now) ON CONFLICT DO NOTHING"""
)


@dataclass(frozen=True)
class Rules:
    """People of one network and of one mail domain that may be given in a day; 0: any number."""

    per_block: int
    per_domain: int
    disposable: bool


def block(ip: str) -> str:
    """The network of an address: its /24 or /48. Empty for one of your own network, or none."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return ""
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    if not address.is_global:
        return ""
    return str(ipaddress.ip_network(f"{address}/{24 if address.version == 4 else 48}", False))


def decide(
    session: Session, *, user_id: int, email: str, ip: str, key: bytes, rules: Rules, now: int
) -> str | None:
    """Decide once whether an account is given its free credits, and keep the decision.

    Returns an empty text when it is, a name of REASONS when it is not, and None when that was
    decided before.
    """
    if session.get(FreeGift, user_id) is not None:
        return None
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    network, domain = block(ip), mailboxes.domain(email)
    row = {
        "user_id": user_id,
        "identity": hmac.new(key, mailboxes.identity(email).encode(), hashlib.sha256).hexdigest(),
        "block": network,
        "domain": domain,
        "now": now,
    }
    reason = "disposable" if rules.disposable else ""
    # People of your own network are no farm, and a domain is only told apart by who asks for it.
    if not reason and network:
        if rules.per_block and _given(session, "block", network, now) >= rules.per_block:
            reason = "network"
        elif (
            rules.per_domain
            and domain not in _EVERYBODYS
            and _given(session, "domain", domain, now) >= rules.per_domain
        ):
            reason = "domain"
    if not session.execute(_PUT, {**row, "reason": reason}).rowcount:  # type: ignore[attr-defined]
        reason = "mailbox"
        session.execute(_PUT, {**row, "reason": reason})
    return reason


def withhold(session: Session, *, user_id: int) -> str:
    """Take back the decision to give, before anything was given; returns the reason."""
    session.execute(
        update(FreeGift)
        .where(col(FreeGift.user_id) == user_id, col(FreeGift.reason) == "")
        .values(reason="pattern")
        .execution_options(synchronize_session=False)
    )
    return "pattern"


def refusals(session: Session, user_ids: list[int]) -> dict[int, str]:
    """Which of these accounts were refused, and why."""
    rows = session.exec(
        select(FreeGift.user_id, FreeGift.reason).where(
            col(FreeGift.user_id).in_(user_ids), FreeGift.reason != ""
        )
    )
    return dict(rows.all())


def forget(session: Session, *, now: int) -> int:
    """Forget networks and domains that are of no more use; returns in how many rows."""
    done = session.execute(
        update(FreeGift)
        .where(col(FreeGift.created_at) < now - KEPT_DAYS * DAY, col(FreeGift.domain) != "")
        .values(block="", domain="")
        .execution_options(synchronize_session=False)
    )
    return int(done.rowcount)  # type: ignore[attr-defined]


def forget_one(session: Session, *, user_id: int) -> None:
    """Forget network and domain of one account, whose mailbox stays as a hash."""
    session.execute(
        update(FreeGift)
        .where(col(FreeGift.user_id) == user_id)
        .values(block="", domain="")
        .execution_options(synchronize_session=False)
    )


def _given(session: Session, column: str, value: str, now: int) -> int:
    return session.exec(
        select(func.count())
        .select_from(FreeGift)
        .where(
            getattr(FreeGift, column) == value,
            FreeGift.reason == "",
            col(FreeGift.created_at) > now - DAY,
        )
    ).one()
