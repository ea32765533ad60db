"""Secrets: made on the first start, kept in the data directory for the owner alone.

They sign tokens, pepper passwords and key the audit seal. Losing the file signs everybody
out, makes every password unusable and leaves old seals unverifiable: back it up apart from
the database.

Access tokens and the pepper have a ring of keys each: a new key can be added while the old
ones still open what they made. The other two never change. `audit_key` proves seals of all
times, and `link_key` is in what was handed out for good: redemption codes, webhook secrets,
links in mails and on invoices.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chat_app.errors import Invalid

FILE = "secrets.json"
# Says why there must be no new keys; a restore writes it and takes it away.
MISSING = "secrets-missing.txt"
FIRST = "1"
_KEY_BYTES = 32
_RINGS = ("tokens", "pepper")
_ALONE = ("audit_key", "link_key")


class BadSecrets(Invalid):
    """The file with the secrets cannot be used, so the program does not start."""

    code = "secrets"


@dataclass(frozen=True)
class Key:
    """One key of a ring, used for new things from `since` (µs) on."""

    id: str
    secret: bytes = field(repr=False)
    since: int = 0


@dataclass(frozen=True)
class Ring:
    """Keys for one purpose, oldest first."""

    keys: tuple[Key, ...]

    def active(self, now: int) -> Key:
        """The key for what is made at `now` (µs)."""
        return [key for key in self.keys if key.since <= now or key is self.keys[0]][-1]

    def get(self, id: str) -> Key | None:
        """The key of this id, if the ring still has it."""
        return next((key for key in self.keys if key.id == id), None)


@dataclass(frozen=True)
class Secrets:
    """The keys of an installation, 32 random bytes each."""

    tokens: Ring
    pepper: Ring
    audit_key: bytes = field(repr=False)
    link_key: bytes = field(repr=False)


def ring(secret: bytes) -> Ring:
    """A ring of one key."""
    return Ring((Key(FIRST, secret),))


def subkey(key: bytes, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose alone: what it signs means nothing elsewhere."""
    return hmac.digest(key, f"chat_app subkey\n{purpose}".encode(), hashlib.sha256)


def load_or_create(data_dir: Path) -> Secrets:
    """The secrets of this installation; created with mode 0600 when there are none yet.

    Several processes may start at once: the file appears whole or not at all, and the first
    one wins. Raises BadSecrets.
    """
    path = data_dir / FILE
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        note = data_dir / MISSING
        if note.exists():
            raise BadSecrets(note.read_text(encoding="utf-8").strip())
        draft = _draft(path, _fresh())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return _read(path)


def reread(data_dir: Path) -> Secrets:
    """The secrets as the file has them now; raises BadSecrets, also when it is gone."""
    return _read(data_dir / FILE)


def rotate(data_dir: Path, name: str, *, since: int) -> Key:
    """Add a key to the ring `name` (`tokens` or `pepper`) that is used from `since` (µs) on."""
    with _changing(data_dir) as (path, known):
        old: Ring = getattr(known, name)
        number = max(int(key.id) for key in old.keys) + 1
        fresh = Key(str(number), _random(), max(since, old.keys[-1].since + 1))
        _write(path, _with(known, name, Ring((*old.keys, fresh))))
    return fresh


def drop(data_dir: Path, name: str, ids: set[str]) -> None:
    """Remove keys from a ring; what they made is worth nothing from then on. One has to stay."""
    with _changing(data_dir) as (path, known):
        old: Ring = getattr(known, name)
        left = tuple(key for key in old.keys if key.id not in ids)
        if not left:
            raise BadSecrets(f"The ring {name} needs a key. Add one before you remove the last.")
        if len(left) < len(old.keys):
            _write(path, _with(known, name, Ring(left)))


def _fresh() -> Secrets:
    return Secrets(
        tokens=ring(_random()), pepper=ring(_random()), audit_key=_random(), link_key=_random()
    )


def _random() -> bytes:
    return secrets.token_bytes(_KEY_BYTES)


@contextmanager
def _changing(data_dir: Path) -> Iterator[tuple[Path, Secrets]]:
    """One changer at a time, or of two new keys one would be lost."""
    known = load_or_create(data_dir)
    path = data_dir / FILE
    lock = path.with_name(f".{FILE}.lock")
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError as error:
        raise BadSecrets(
            f"{path} is being changed by another command. If there is none, remove {lock}."
        ) from error
    try:
        known = _read(path)
        yield path, known
    finally:
        lock.unlink()


def _with(known: Secrets, name: str, ring: Ring) -> Secrets:
    return replace(known, tokens=ring) if name == "tokens" else replace(known, pepper=ring)


def _write(path: Path, known: Secrets) -> None:
    os.replace(_draft(path, known), path)


def _draft(path: Path, known: Secrets) -> Path:
    content: dict[str, Any] = {name: getattr(known, name).hex() for name in _ALONE}
    for name in _RINGS:
        content[name] = [
            {"id": key.id, "key": key.secret.hex(), "since": key.since}
            for key in getattr(known, name).keys
        ]
    draft = path.with_name(f".{FILE}.{secrets.token_hex(6)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    return draft


def _read(path: Path) -> Secrets:
    try:
        content = json.loads(path.read_text())
        if "token_key" in content:
            content = _from_one_key_each(content)
        rings = {
            name: Ring(
                tuple(
                    Key(str(int(item["id"])), bytes.fromhex(item["key"]), int(item["since"]))
                    for item in content[name]
                )
            )
            for name in _RINGS
        }
        alone = {name: bytes.fromhex(content[name]) for name in _ALONE}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadSecrets(
            f"{path} cannot be read ({type(error).__name__}). Restore it from your backup."
        ) from error
    if not all(ring.keys for ring in rings.values()):
        raise BadSecrets(f"{path} has a ring without a key. Restore it from your backup.")
    every = [key.secret for ring in rings.values() for key in ring.keys] + list(alone.values())
    if any(len(secret) < _KEY_BYTES for secret in every):
        raise BadSecrets(
            f"{path} holds a key shorter than {_KEY_BYTES} bytes. Restore it from your backup."
        )
    return Secrets(
        tokens=rings["tokens"],
        pepper=rings["pepper"],
        audit_key=alone["audit_key"],
        link_key=alone["link_key"],
    )


def _from_one_key_each(old: dict[str, str]) -> dict[str, Any]:
    """The first form of the file had no rings; the next rotation writes it in the present one."""
    rings = {"tokens": old["token_key"], "pepper": old["pepper"]}
    return {
        "audit_key": old["audit_key"],
        "link_key": old["token_key"],
        **{name: [{"id": FIRST, "key": key, "since": 0}] for name, key in rings.items()},
    }
