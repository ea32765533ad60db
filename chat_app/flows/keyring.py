"""Rotating secrets: a new key at once, the old one until nothing needs it any more.

Running servers read the file again every few seconds. A new key is used a minute after it was
made, so that each of them knows it before the first token or password asks for it.
"""

from dataclasses import dataclass
from pathlib import Path

from chat_app import secrets
from chat_app.accounts import tokens, users
from chat_app.clock import MICROS_PER_SECOND
from chat_app.db import Database
from chat_app.secrets import Key, Ring

LEAD = 60 * MICROS_PER_SECOND
# The longest that anything signed by the key before may live, and clocks that disagree.
OUT_OF_DATE = (tokens.MAX_LIFE_SECONDS + 10 * tokens.LEEWAY_SECONDS) * MICROS_PER_SECOND


@dataclass(frozen=True)
class KeyView:
    """A key without the key: `since` in µs, `passwords` that need it (peppers alone)."""

    ring: str
    id: str
    since: int
    active: bool
    passwords: int | None = None


def rotate_tokens(data_dir: Path, *, now: int, at_once: bool = False) -> Key:
    """Add a key for access tokens and remove those whose tokens are all out of date.

    With `at_once` the old keys go now: every access token is worth nothing within seconds, and
    programs refresh theirs. Sign-ins stay.
    """
    known = secrets.load_or_create(data_dir).tokens
    fresh = secrets.rotate(data_dir, "tokens", since=now if at_once else now + LEAD)
    gone = {key.id for key in known.keys} if at_once else _followed(known, now)
    secrets.drop(data_dir, "tokens", gone)
    return fresh


def rotate_pepper(data_dir: Path, db: Database, *, now: int) -> Key:
    """Add a pepper and remove those that no stored password needs any more.

    A password moves to the new pepper when its owner signs in.
    """
    known = secrets.load_or_create(data_dir).pepper
    fresh = secrets.rotate(data_dir, "pepper", since=now + LEAD)
    with db.read() as session:
        needed = users.peppers(session)
    secrets.drop(data_dir, "pepper", _followed(known, now) - set(needed))
    return fresh


def overview(data_dir: Path, db: Database, *, now: int) -> list[KeyView]:
    """Every key of every ring, oldest first."""
    known = secrets.load_or_create(data_dir)
    with db.read() as session:
        needed = users.peppers(session)
    shown = []
    for name, ring in (("tokens", known.tokens), ("pepper", known.pepper)):
        active = ring.active(now)
        for key in ring.keys:
            count = needed.get(key.id, 0) if name == "pepper" else None
            shown.append(KeyView(name, key.id, key.since, key is active, count))
    return shown


def _followed(ring: Ring, now: int) -> set[str]:
    """The keys whose successor has been in use for so long that nothing of theirs is alive."""
    return {
        key.id
        for key, after in zip(ring.keys, ring.keys[1:], strict=False)
        if after.since + OUT_OF_DATE <= now
    }
