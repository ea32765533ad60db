"""Secrets: made on the first start, kept in the data directory for the owner alone.

They sign tokens, pepper passwords and key the audit seal. Losing the file signs everybody
out, makes every password unusable and leaves old seals unverifiable: back it up apart from
the database.
"""

import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

FILE = "secrets.json"
_KEY_BYTES = 32


@dataclass(frozen=True)
class Secrets:
    """Keys of 32 random bytes each."""

    token_key: bytes
    pepper: bytes
    audit_key: bytes


def subkey(key: bytes, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose alone: what it signs means nothing elsewhere."""
    return hmac.digest(key, f"chat_app subkey\n{purpose}".encode(), hashlib.sha256)


def load_or_create(data_dir: Path) -> Secrets:
    """The secrets of this installation; created with mode 0600 when there are none yet.

    Several processes may start at once: the file appears whole or not at all, and the first
    one wins.
    """
    path = data_dir / FILE
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        fresh = {name: secrets.token_hex(_KEY_BYTES) for name in Secrets.__dataclass_fields__}
        draft = data_dir / f".{FILE}.{secrets.token_hex(6)}"
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            json.dump(fresh, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    values = {name: bytes.fromhex(text) for name, text in json.loads(path.read_text()).items()}
    if any(len(value) < _KEY_BYTES for value in values.values()):
        raise ValueError(f"{path} holds a key shorter than {_KEY_BYTES} bytes")
    return Secrets(**values)
