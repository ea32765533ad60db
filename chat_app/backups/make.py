"""Making a backup: a snapshot of the database and the files that belong to it, in one archive.

What is written is read back before it counts. The keys stay out unless they are asked for.
"""

import hmac
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chat_app import __version__, secrets
from chat_app.audit.log import canonical
from chat_app.backups import archive, keeping, snapshot
from chat_app.backups.archive import Manifest
from chat_app.backups.keeping import Kept, Kind
from chat_app.db import Database
from chat_app.errors import Unavailable
from chat_app.settings import Settings

log = logging.getLogger(__name__)

# What belongs to the books beside the database, in this order: the anchors come before the
# snapshot, so that what they name is in it; the rest after it.
ANCHORS = "anchors.log"
FOLDERS = ("images", "models")
RECEIPT_KEYS = "receipt_keys.json"
SECRET = (secrets.FILE, RECEIPT_KEYS)
INSIDE = "files/"
_SPARE = 200 * 1024 * 1024


class NoRoom(Unavailable):
    """The disk has no room for another copy."""

    code = "no_room_for_backup"
    message = "The disk has no room for a backup. Make room, or set another folder for backups."


@dataclass(frozen=True)
class Place:
    """Where an installation keeps its things; travels to other processes."""

    url: str
    data_dir: Path
    folder: Path

    @classmethod
    def of(cls, settings: Settings) -> "Place":
        """The place of these settings."""
        data_dir = settings.data_dir.absolute()
        chosen = settings.backups.folder
        folder = Path(chosen).absolute() if chosen else data_dir / keeping.FOLDER
        url = settings.database.url or f"sqlite:///{data_dir / 'chat.db'}"
        return cls(url, data_dir, folder)


def create(
    db: Database, place: Place, path: Path, *, kind: str, now: int, with_secrets: bool = False
) -> Manifest:
    """Write a backup to the new file `path`, for its owner alone.

    Raises ArchiveExists, NoRoom, CannotCopy or BadSecrets; then there is no such file.
    """
    _assert_room(path.parent, snapshot.size(db))
    known = secrets.reread(place.data_dir)
    with (
        archive.writing(path) as writer,
        tempfile.TemporaryDirectory(
            prefix=f".{path.name}.", suffix=archive.PART, dir=path.parent
        ) as near,
    ):
        writer.add(f"{INSIDE}{ANCHORS}", place.data_dir / ANCHORS)
        name = snapshot.NAMES[snapshot.kind(db.url)]
        found = snapshot.take(db, Path(near) / name)
        writer.add(name, Path(near) / name, packed=db.sqlite)  # a dump is packed already
        for folder in FOLDERS:
            for file in _files(place.data_dir / folder):
                inside = file.relative_to(place.data_dir).as_posix()
                writer.add(f"{INSIDE}{inside}", file, packed=folder != "images")
        if with_secrets:
            for one in SECRET:
                writer.add(f"{INSIDE}{one}", place.data_dir / one)
        manifest = Manifest(
            made_at=now, version=__version__, kind=kind, database=snapshot.kind(db.url),
            revision=found.revision, head=found.head, counts=found.counts,
            keys=keys_of(place.data_dir), secrets=with_secrets, entries=tuple(writer.entries),
        )  # fmt: skip
        writer.finish(archive.seal(manifest, known.audit_key))
    log.info("backup %s: %d bytes", path.name, path.stat().st_size)
    return manifest


def keep(db: Database, place: Place, *, kind: Kind, now: int, with_secrets: bool = False) -> Kept:
    """Make a backup in the folder of backups; raises BackupRuns and what `create` raises."""
    with keeping.working(place.folder):
        return _keep(db, place, kind=kind, now=now, with_secrets=with_secrets)


@contextmanager
def before_migration(db: Database, settings: Settings, *, now: int) -> Iterator[Path | None]:
    """In this block the schema may be changed: an older one was backed up before.

    An empty database has nothing to lose. Raises CannotMigrate when no backup can be made.
    """
    place = Place.of(settings)
    if not settings.backups.before_migration or not _is_old(db):
        yield None
        return
    # The lock is held on: a second process finds the schema changed when its turn comes.
    with keeping.working(place.folder, wait=True):
        made = None
        if _is_old(db):
            made = _keep(db, place, kind="migration", now=now, with_secrets=False).path
            log.warning("the schema is older than the program; before it changes: %s", made)
        yield made


def keys_of(data_dir: Path) -> dict[str, str]:
    """Fingerprints of the keys that stored things need, by name; of those that are there."""
    found = {}
    if (data_dir / secrets.FILE).exists():
        known = secrets.reread(data_dir)
        found = {"audit_key": _print(known.audit_key), "link_key": _print(known.link_key)}
        found |= {f"pepper {key.id}": _print(key.secret) for key in known.pepper.keys}
    path = data_dir / RECEIPT_KEYS
    if path.exists():
        content: Any = json.loads(path.read_text())
        keys = content["keys"] if isinstance(content, dict) else content
        for number, key in enumerate(keys, 1):
            found[f"receipt key {number}"] = _print(canonical(key).encode())
    return found


def _keep(db: Database, place: Place, *, kind: Kind, now: int, with_secrets: bool) -> Kept:
    path = place.folder / keeping.name(kind, now)
    manifest = create(db, place, path, kind=kind, now=now, with_secrets=with_secrets)
    return Kept(path.stem, path, kind, now, path.stat().st_size, manifest)


def _is_old(db: Database) -> bool:
    """Whether the database has a schema, and not the newest."""
    from alembic.migration import MigrationContext
    from sqlalchemy import make_url

    from chat_app import migrations

    if db.sqlite and not Path(make_url(db.url).database or "").exists():
        return False
    with db.read() as session:
        found = MigrationContext.configure(session.connection()).get_current_revision()
    return found is not None and found != migrations.head()


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(path for path in folder.rglob("*") if path.is_file())


def _assert_room(folder: Path, bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    # The copy, the archive of it, and what a running server needs meanwhile.
    if free < 2 * bytes + _SPARE:
        raise NoRoom(free_bytes=free, needed_bytes=2 * bytes + _SPARE)


def _print(key: bytes) -> str:
    return hmac.digest(key, b"chat_app backup fingerprint", "sha256").hex()[:16]
