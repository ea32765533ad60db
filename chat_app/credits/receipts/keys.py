"""The keys that sign receipts: made on the first start, beside the other secrets.

`receipt_keys.json` lists them by age with the time from which each signs. Old keys stay, so
receipts of all times can be signed again and checked. The public halves are published.
"""

import hashlib
import json
import os
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "receipt_keys.json"
ALGORITHM = "Ed25519"
_SEED_BYTES = 32


@dataclass(frozen=True)
class ReceiptKey:
    """A key pair by its seed; `since` is the time in µs from which it signs."""

    seed: bytes
    since: int

    @property
    def public(self) -> bytes:
        """The public half, 32 bytes."""
        return bytes(self._private().public_key().public_bytes_raw())

    @property
    def id(self) -> str:
        """What receipts call it: 16 hex digits of the hash of its public half."""
        return key_id(self.public)

    def sign(self, message: bytes) -> bytes:
        """The signature; the same for the same message."""
        return bytes(self._private().sign(message))

    def _private(self) -> Any:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.seed)


def key_id(public: bytes) -> str:
    """The id of a public key."""
    return hashlib.sha256(public).hexdigest()[:16]


def load_or_create(data_dir: Path) -> list[ReceiptKey]:
    """All keys, oldest first; the first is made when there is none. Only the owner can read them.

    Several processes may start at once: the first one wins.
    """
    path = data_dir / FILE
    if not path.exists():
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = _draft(path, [ReceiptKey(secrets.token_bytes(_SEED_BYTES), 0)])
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return _read(path)


def rotate(data_dir: Path, *, now: int) -> ReceiptKey:
    """Add a key that signs what is settled from `now` on; running servers read it when they start.

    Earlier receipts keep their keys.
    """
    known = load_or_create(data_dir)
    fresh = ReceiptKey(secrets.token_bytes(_SEED_BYTES), max(now, known[-1].since + 1))
    os.replace(_draft(data_dir / FILE, [*known, fresh]), data_dir / FILE)
    return fresh


def in_force(known: list[ReceiptKey], at: int) -> ReceiptKey:
    """The key for what was settled at a time."""
    return [key for key in known if key.since <= at or key is known[0]][-1]


def encode(data: bytes) -> str:
    """Base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Bytes of `encode`; raises ValueError."""
    return urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))


def _draft(path: Path, known: list[ReceiptKey]) -> Path:
    draft = path.with_name(f".{FILE}.{secrets.token_hex(6)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump([{"seed": key.seed.hex(), "since": key.since} for key in known], file)
        file.flush()
        os.fsync(file.fileno())
    return draft


def _read(path: Path) -> list[ReceiptKey]:
    found = [
        ReceiptKey(bytes.fromhex(item["seed"]), int(item["since"]))
        for item in json.loads(path.read_text())
    ]
    if not found or any(len(key.seed) != _SEED_BYTES for key in found):
        raise ValueError(f"{path} holds no key or one that is not {_SEED_BYTES} bytes long")
    return found
