"""Throttles: how often somebody may fail at a door. In the database, for all processes alike.

A bucket fills by one with each attempt and empties evenly with time, so that a burst up to the
limit passes and then one attempt for each share of the window (the generic cell rate
algorithm). One row and one conditional statement each: it survives a restart, and parallel
guesses do not slip through together. Whose bucket it is, is a keyed digest.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import text
from sqlmodel import Session, col, delete, select

from chat_app.accounts.throttle_tables import Throttle
from chat_app.clock import MICROS_PER_SECOND
from chat_app.secrets import subkey


@dataclass(frozen=True)
class Bucket:
    """`limit` attempts in `seconds`, counted under `key`. A limit of 0 is none."""

    key: str
    limit: int
    seconds: int

    @property
    def window(self) -> int:
        """The time in which a full bucket empties, in microseconds."""
        return self.seconds * MICROS_PER_SECOND

    @property
    def step(self) -> int:
        """What one attempt adds, in microseconds."""
        return self.window // self.limit


# What lies beyond a full bucket was written by a clock that went wrong: it counts as empty.
_TAKE = text(
    """
    INSERT INTO throttle (bucket, empty_at) VALUES (:bucket, :first)
    ON CONFLICT (bucket) DO UPDATE SET empty_at = :step + CASE
        WHEN throttle.empty_at > :now AND throttle.empty_at <= :full
        THEN throttle.empty_at ELSE :now END
    WHERE throttle.empty_at <= :latest OR throttle.empty_at > :full
    """
)
_GIVE_BACK = text("UPDATE throttle SET empty_at = empty_at - :step WHERE bucket = :bucket")


def bucket(secret: bytes, door: str, *whose: str, limit: int, seconds: int) -> Bucket:
    """The bucket of a door for somebody; `whose` are the parts of who that is."""
    name = "\x00".join((door, *whose))
    return Bucket(subkey(secret, f"throttle\n{name}").hex(), limit, seconds)


def block(ip: str) -> str:
    """The address as one subscriber has it: an IPv4 address, or the first half of an IPv6 one."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return ip
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), 64), strict=False).network_address)
    return str(address)


def wait(session: Session, buckets: Iterable[Bucket], *, now: int) -> int:
    """The microseconds until all of them take another attempt; 0 when they do now."""
    limited = {item.key: item for item in buckets if item.limit}
    rows = session.exec(select(Throttle).where(col(Throttle.bucket).in_(limited))).all()
    return max((_wait(limited[row.bucket], row.empty_at, now) for row in rows), default=0)


def take(session: Session, buckets: Iterable[Bucket], *, now: int) -> int:
    """Count an attempt in all of them and return 0, or return what `wait` does.

    After any other answer than 0 the caller undoes the transaction: some may have counted.
    """
    for item in sorted(buckets, key=lambda item: item.key):  # one order: no deadlock
        if not item.limit:
            continue
        values = {
            "bucket": item.key,
            "first": now + item.step,
            "step": item.step,
            "now": now,
            "full": now + item.window,
            "latest": now + item.window - item.step,
        }
        if session.connection().execute(_TAKE, values).rowcount:
            continue
        row = session.get(Throttle, item.key, populate_existing=True)
        return max(1, _wait(item, row.empty_at, now) if row else 1)
    return 0


def give_back(session: Session, buckets: Iterable[Bucket]) -> None:
    """Take an attempt back: it turned out not to count."""
    for item in sorted(buckets, key=lambda item: item.key):
        if item.limit:
            values = {"bucket": item.key, "step": item.step}
            session.connection().execute(_GIVE_BACK, values)


def clear(session: Session, item: Bucket) -> None:
    """Forget all attempts."""
    session.execute(delete(Throttle).where(col(Throttle.bucket) == item.key))


def purge(session: Session, *, now: int) -> int:
    """Delete the buckets that are empty; returns how many."""
    return int(session.exec(delete(Throttle).where(col(Throttle.empty_at) <= now)).rowcount)


def _wait(item: Bucket, empty_at: int, now: int) -> int:
    if empty_at > now + item.window:
        return 0
    return max(0, empty_at - (now + item.window - item.step))
