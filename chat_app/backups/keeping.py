"""Keeping: the folder of backups, which of them stay, and who is at work in it.

Knows files and locks; what is in an archive is `archive.py`'s.
"""

import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from chat_app.backups import archive
from chat_app.backups.archive import DamagedArchive, Manifest
from chat_app.clock import from_micros
from chat_app.errors import Conflict, NotFound, Unavailable

log = logging.getLogger(__name__)

FOLDER = "backups"
IN_USE = ".in-use"
LOCK = ".lock"
Kind = Literal["scheduled", "asked", "migration"]
KEPT_ASKED, KEPT_MIGRATIONS = 5, 3
_NAME = re.compile(r"chat-(\d{8}T\d{6}\d{6}Z)-(scheduled|asked|migration)\.zip")
_TIME = "%Y%m%dT%H%M%S%fZ"


class BackupRuns(Conflict):
    """Another process makes or tries a backup in this folder."""

    code = "backup_runs"
    message = "A backup is being made right now. Wait until it is done."


class StillServing(Conflict):
    """A restore would pull the data from under a running server."""

    code = "still_serving"
    message = "A server uses this data directory. Stop it first, then restore."


class NotWritable(Unavailable):
    """The data directory is on a disk that takes nothing, or belongs to somebody else."""

    code = "data_not_writable"
    message = "The data directory cannot be written. Make it writable, then start again."

    def __init__(self, place: Path, error: OSError) -> None:
        why = error.strerror or "unknown reason"
        super().__init__(
            f"The data directory {place} cannot be written: {why}. Nothing was changed. Make it "
            "writable for this user, or name another with --data-dir, and start again.",
            retry_after_seconds=60,
        )


class NoBackup(NotFound):
    """There is no backup of this name in the folder."""

    code = "no_backup"
    message = "There is no such backup. Reload the list."


@dataclass(frozen=True)
class Kept:
    """An archive in the folder; without a manifest it is damaged."""

    id: str
    path: Path
    kind: str
    made_at: int
    bytes: int
    manifest: Manifest | None


def name(kind: Kind, made_at: int) -> str:
    """The file's name, from which kind and time can be read again."""
    return f"chat-{from_micros(made_at).strftime(_TIME)}-{kind}.zip"


def listed(folder: Path) -> list[Kept]:
    """The backups in the folder, newest first. What has another name does not count."""
    return list(_kept(folder))


def newest(folder: Path) -> Kept | None:
    """The newest one that is whole; None without any. Opens no older one."""
    return next((one for one in _kept(folder) if one.manifest is not None), None)


def _kept(folder: Path) -> Iterator[Kept]:
    named = [_NAME.fullmatch(path.name) for path in folder.glob("chat-*.zip")]
    for name in sorted(filter(None, named), key=lambda one: one[1], reverse=True):
        path = folder / name[0]
        with suppress(FileNotFoundError):  # tidied away meanwhile
            size = path.stat().st_size
            try:
                manifest = archive.read(path)
            except DamagedArchive:
                manifest = None
            yield Kept(path.stem, path, name[2], _micros(name[1]), size, manifest)


def get(folder: Path, id: str) -> Kept:
    """One of them; raises NoBackup."""
    found = next((one for one in listed(folder) if one.id == id), None)
    if found is None:
        raise NoBackup
    return found


def superfluous(kept: list[Kept], *, daily: int, weekly: int) -> list[Kept]:
    """Which may go: not the newest of a day or a week that still counts, nor the newest at all.

    `daily` and `weekly` count days and weeks that have a backup, so a pause removes nothing.
    Those made by hand and before migrations are kept by number.
    """
    stay: set[str] = set()
    for kind, number in (("asked", KEPT_ASKED), ("migration", KEPT_MIGRATIONS)):
        stay |= {one.id for one in [one for one in kept if one.kind == kind][:number]}
    regular = [one for one in kept if one.kind == "scheduled"]
    for form, number in (("%Y-%m-%d", max(daily, 1)), ("%G-%V", weekly)):
        newest: dict[str, str] = {}
        for one in regular:
            newest.setdefault(from_micros(one.made_at).strftime(form), one.id)
        stay |= set(list(newest.values())[:number])
    return [one for one in kept if one.id not in stay]


def tidy(folder: Path, *, daily: int, weekly: int) -> list[Kept]:
    """Delete what is superfluous; returns what went. A damaged one does not count for a day."""
    kept = listed(folder)
    whole = [one for one in kept if one.manifest is not None]
    gone = superfluous(whole, daily=daily, weekly=weekly)
    for one in gone:
        log.info("backup %s is older than what is kept and was deleted", one.id)
        one.path.unlink(missing_ok=True)
    return gone


@contextmanager
def working(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """One maker at a time; what a killed one left half done is removed.

    Raises BackupRuns when another is at work and `wait` is false.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise BackupRuns from error
        for left in folder.glob(f".*{archive.PART}*"):
            _remove(left)
        yield
    finally:
        os.close(handle)


@contextmanager
def serving(data_dir: Path) -> Iterator[None]:
    """Says that a server uses the data directory, until the process ends in whatever way.

    Raises NotWritable.
    """
    with _marked(data_dir, fcntl.LOCK_SH):
        yield


@contextmanager
def alone(data_dir: Path) -> Iterator[None]:
    """Nobody serves from the data directory meanwhile; raises StillServing or NotWritable."""
    with _marked(data_dir, fcntl.LOCK_EX):
        yield


@contextmanager
def _marked(data_dir: Path, how: int) -> Iterator[None]:
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(data_dir / IN_USE, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise NotWritable(data_dir, error) from error
    try:
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StillServing from error
        except OSError:  # some network disks have no locks
            log.warning("%s has no file locks: let no server run in a restore", data_dir)
        yield
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _micros(text: str) -> int:
    from chat_app.clock import to_micros

    return to_micros(datetime.strptime(f"{text[:-1]}+0000", "%Y%m%dT%H%M%S%f%z"))
