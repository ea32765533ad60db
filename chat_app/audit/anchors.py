"""Anchors: the heads of the seals, kept in a file beside the database.

Who cuts the end off the books together with its seals leaves a chain that looks whole; the file
still names the seal that was there. Lines are only ever added, each with a keyed code over the
line before. Send copies elsewhere: a head is one short text, see `seal.head`.
"""

import hashlib
import hmac
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chat_app.audit.log import canonical
from chat_app.audit.seal import Problem
from chat_app.clock import MICROS_PER_SECOND, rfc3339
from chat_app.secrets import subkey

FILE = "anchors.log"
EVERY = 600 * MICROS_PER_SECOND
_TAIL = 8192  # bytes: more than a line has


@dataclass(frozen=True)
class Anchor:
    """A head as it was at a time, in µs."""

    at: int
    head: str


def append(path: Path, *, head: str, key: bytes, now: int, every: int = EVERY) -> bool:
    """Add the head, durably, unless it is the last one or that is younger than `every` µs."""
    if not head:
        return False
    before = _last_line(path)
    if before:
        last = json.loads(before)
        # A time in the future was written before the clock was set back.
        if last["head"] == head or 0 <= now - last["at"] < every:
            return False
    previous = hashlib.sha256(before).hexdigest()
    entry: dict[str, object] = {"at": now, "time": rfc3339(now), "head": head, "after": previous}
    entry["code"] = _code(key, entry)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        whole = _whole_lines(handle)
        os.ftruncate(handle, whole)  # half a line is left by a power cut
        os.pwrite(handle, canonical(entry).encode() + b"\n", whole)
        os.fsync(handle)
    finally:
        os.close(handle)
    return True


def last(path: Path) -> Anchor | None:
    """The newest anchor, or None before the first."""
    line = _last_line(path)
    if not line:
        return None
    entry = json.loads(line)
    return Anchor(entry["at"], entry["head"])


def read(path: Path, *, key: bytes) -> tuple[list[str], list[Problem]]:
    """All heads, oldest first, and what is wrong with the file itself."""
    heads, problems = [], []
    before = b""
    for number, line in enumerate(_lines(path), 1):
        facts = {"file": path.name, "line": number}
        try:
            entry = json.loads(line)
            code, head, after = entry.pop("code"), str(entry["head"]), entry["after"]
        except (ValueError, KeyError, TypeError, AttributeError):
            problems.append(Problem("I14", "A line of the anchors cannot be read.", facts))
            before = line
            continue
        if not hmac.compare_digest(str(code), _code(key, entry)):
            problems.append(Problem("I14", "An anchor was not made with this key.", facts))
        else:
            heads.append(head)
            if after != hashlib.sha256(before).hexdigest():
                problems.append(Problem("I14", "An anchor before this one is missing.", facts))
        before = line
    return heads, problems


def _code(key: bytes, entry: dict[str, object]) -> str:
    return hmac.digest(subkey(key, "audit anchor"), canonical(entry).encode(), "sha256").hex()


def _lines(path: Path) -> Iterator[bytes]:
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line[:-1]


def _last_line(path: Path) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        whole = file.read().rpartition(b"\n")[0]
    return whole.rpartition(b"\n")[2]


def _whole_lines(handle: int) -> int:
    """How many bytes there are up to the end of the last whole line."""
    size = os.fstat(handle).st_size
    tail = os.pread(handle, _TAIL, max(0, size - _TAIL))
    return size - (len(tail) - (tail.rfind(b"\n") + 1))
