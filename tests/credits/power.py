"""A disk that can lose power: records what SQLite writes and syncs, and rebuilds the files.

`Disk` is a VFS of SQLite. Until a file is synced nothing is promised about what was written to
it since the last sync: after a cut any part of that may be there, in pieces of a sector.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

SECTOR = 512


@dataclass
class Disk:
    """What happened to the files whose name begins with `path`, in order.

    An entry is (file, "write", offset, bytes), (file, "truncate", size, b""), (file, "sync", 0,
    b"") or ("", "ack", number, b""): a commit had returned.
    """

    path: Path
    log: list[tuple[str, str, int, bytes]] = field(default_factory=list)

    def suffix(self, name: str) -> str | None:
        """The name after the database's: empty, "-wal"; None for what is no part of it."""
        found = name[len(str(self.path)) :] if name.startswith(str(self.path)) else None
        return None if found == "-shm" else found

    def ack(self, number: int) -> None:
        """A commit has returned: from here on it must not be lost."""
        self.log.append(("", "ack", number, b""))


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, suffix: str, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._disk, self._suffix = disk, suffix

    def xWrite(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)
        self._disk.log.append((self._suffix, "write", offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        super().xTruncate(newsize)
        self._disk.log.append((self._suffix, "truncate", newsize, b""))

    def xSync(self, flags: int) -> None:
        # The real disk need not be asked: only the record counts.
        self._disk.log.append((self._suffix, "sync", 0, b""))


class Shim(apsw.VFS):
    """The VFS that tells a `Disk`."""

    def __init__(self, disk: Disk, name: str) -> None:
        super().__init__(name, base="")
        self._disk = disk

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        suffix = self._disk.suffix(path)
        if suffix is None:
            return apsw.VFSFile("", name, flags)
        return _File(self._disk, suffix, name, flags)


def replay(base: Path, statements: Sequence[str], *, ask: str) -> Disk:
    """Run the statements on a file that holds the base; `ask` is a query for one number.

    After each COMMIT that number is acknowledged.
    """
    disk = Disk(base)
    name = f"power-{random.getrandbits(64)}"
    shim = Shim(disk, name)
    connection = apsw.Connection(str(base), vfs=name)
    try:
        for statement in statements:
            connection.execute(statement)
            if statement == "COMMIT":
                disk.ack(connection.execute(ask).fetchone()[0])
        kept = disk.log
        disk.log = []  # closing is not a power cut
    finally:
        connection.close()
        shim.unregister()
    disk.log = kept
    return disk


@dataclass
class Wreck:
    """The files after a cut, and the last number that was acknowledged before it."""

    files: dict[str, bytes]
    acknowledged: int


def cuts(disk: Disk, base: bytes, points: Sequence[int], seed: int) -> Iterator[Wreck]:
    """The files as they may be after power was lost before each of these entries of the log."""
    dice = random.Random(seed)
    durable: dict[str, bytearray] = {"": bytearray(base)}
    pending: list[tuple[str, str, int, bytes]] = []
    acknowledged = 0
    at = 0
    for point in sorted(points):
        for entry in disk.log[at:point]:
            name, deed, number, _ = entry
            if deed == "ack":
                acknowledged = number
            elif deed == "sync":
                for change in pending:
                    if change[0] == name:
                        _apply(durable, change)
                pending = [change for change in pending if change[0] != name]
            else:
                pending.append(entry)
        at = point
        files = {name: bytearray(content) for name, content in durable.items()}
        for change in _survivors(pending, dice):
            _apply(files, change)
        yield Wreck({name: bytes(content) for name, content in files.items()}, acknowledged)


def _survivors(
    pending: Sequence[tuple[str, str, int, bytes]], dice: random.Random
) -> Iterator[tuple[str, str, int, bytes]]:
    """Which unsynced changes reached the disk: none, all, some, or some sectors of some."""
    luck = dice.choice((0.0, 1.0, 0.5, dice.random()))
    torn = dice.random() < 0.5
    for name, deed, offset, data in pending:
        if deed != "write" or not torn or luck in (0.0, 1.0):
            if dice.random() < luck:
                yield name, deed, offset, data
            continue
        start = offset
        while start < offset + len(data):
            end = min(offset + len(data), (start // SECTOR + 1) * SECTOR)
            if dice.random() < luck:
                yield name, deed, start, data[start - offset : end - offset]
            start = end


def _apply(files: dict[str, bytearray], change: tuple[str, str, int, bytes]) -> None:
    name, deed, number, data = change
    content = files.setdefault(name, bytearray())
    if deed == "truncate":
        del content[number:]
        return
    if len(content) < number:
        content.extend(bytes(number - len(content)))
    content[number : number + len(data)] = data
