"""Backup and restore: what is made is proven, what is restored is proven before it replaces.

A restore happens in a folder (or database) beside the real one. Only when every byte is right,
the schema is not newer than the program and the books are proven does it take the place of what
was there, which is kept aside. A drill is a restore that is thrown away.
"""

import logging
import multiprocessing
import os
import secrets as chance
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import make_url
from sqlmodel import Session

from chat_app import db as database
from chat_app import migrations, secrets
from chat_app.app import App
from chat_app.audit import log as events
from chat_app.audit.log import Event
from chat_app.audit.seal import Problem
from chat_app.backups import archive, keeping, make, snapshot
from chat_app.backups.archive import DamagedArchive, Manifest
from chat_app.backups.keeping import Kept
from chat_app.backups.make import Place
from chat_app.clock import MICROS_PER_SECOND, Clock, from_micros
from chat_app.credits import verify
from chat_app.db import Database
from chat_app.errors import AppError, Conflict, Invalid
from chat_app.flows import books
from chat_app.settings import Settings

log = logging.getLogger(__name__)

HOUR = 3600 * MICROS_PER_SECOND
DAY = 24 * HOUR
SOON = 60
MADE, FAILED, DRILL = "backup_made", "backup_failed", "backup_drill"
RESTORED, TAKEN = "backup_restored", "backup_downloaded"
_ASIDE = "before-restore-"
_STAY = {keeping.IN_USE, secrets.MISSING, "lost+found"}
_NOT_ENDED = (
    "A restore into this directory was broken off. Run it again: python -m chat_app restore FILE. "
    f"What was there before lies in {_ASIDE}…"
)
_WITHOUT = (
    "The books were restored without their keys. Put secrets.json and receipt_keys.json of this "
    "installation into this directory, then start. Without them no password and no seal can be "
    f"checked; delete {secrets.MISSING} only to begin with new keys in spite of that."
)


class NewerBackup(Conflict):
    """The backup's schema is not known to this program."""

    code = "newer_backup"
    message = "This backup was made by a newer version, so nothing was changed. Update first."


class OtherDatabase(Conflict):
    """A backup of SQLite goes to SQLite, one of PostgreSQL to PostgreSQL."""

    code = "other_database"
    message = (
        "This backup is of the other kind of database, so nothing was changed. Restore it with "
        "the database it is of; copy-to moves SQLite to PostgreSQL."
    )


class NotProven(Invalid):
    """The books in the backup have discrepancies; `problems` says how many."""

    code = "backup_not_proven"
    message = (
        "The books in this backup do not add up, so nothing was changed. Take another backup, "
        "or say --anyway."
    )


class NothingToTry(Conflict):
    """There is no whole backup for a drill."""

    code = "nothing_to_try"
    message = "There is no backup to try yet. Make one first."


@dataclass(frozen=True)
class Restored:
    """What a restore did: `missing` keys are nowhere, `aside` is where the old things are."""

    manifest: Manifest
    missing: tuple[str, ...]
    problems: tuple[Problem, ...]
    aside: str


@dataclass(frozen=True)
class Drill:
    """A restore that was tried: proven when there are no problems. `reason` says what failed."""

    backup: str
    seconds: float
    problems: int
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether the backup can be restored and its books hold."""
        return not self.reason and not self.problems


# Making


def write(
    db: Database, settings: Settings, path: Path, *, now: int, with_secrets: bool
) -> Manifest:
    """A backup to any file; raises what `make.create` raises."""
    return make.create(
        db, Place.of(settings), path, kind="asked", now=now, with_secrets=with_secrets
    )


def make_one(app: App, *, actor: str, kind: keeping.Kind = "asked") -> Kept:
    """A backup into the folder, recorded; older ones than the settings keep are deleted.

    Raises BackupRuns, NoRoom, CannotCopy.
    """
    chosen = app.settings.backups
    now = app.clock.micros()
    place = Place.of(app.settings)
    try:
        made = make.keep(app.db, place, kind=kind, now=now, with_secrets=chosen.complete)
    except keeping.BackupRuns:
        raise
    except (AppError, OSError) as error:
        _record(app.db, FAILED, actor, app.clock.micros(), reason=str(error)[:300])
        raise
    _record(app.db, MADE, actor, app.clock.micros(), id=made.id, bytes=made.bytes, kind=kind)
    keeping.tidy(place.folder, daily=chosen.keep_daily, weekly=chosen.keep_weekly)
    return made


def tend(app: App) -> Kept | None:
    """Make the regular backup when it is due, and begin the drill when that is."""
    chosen = app.settings.backups
    now = app.clock.micros()
    made = None
    if chosen.every_hours and _due(app, "scheduled", chosen.every_hours * HOUR, now):
        with suppress(keeping.BackupRuns):
            made = make_one(app, actor="schedule", kind="scheduled")
    if chosen.drill_days and whole(app.settings):
        last = last_event(app.db, DRILL)
        since = last.at if last else _installed(app)
        if now - since >= chosen.drill_days * DAY:
            _drill_apart(app, actor="schedule")
    return made


def note_download(app: App, *, id: str, actor: str) -> None:
    """A backup leaves the machine: that is on the record."""
    _record(app.db, TAKEN, actor, app.clock.micros(), id=id)


def whole(settings: Settings) -> list[Kept]:
    """The backups in the folder whose manifest can be read, newest first."""
    kept = keeping.listed(Place.of(settings).folder)
    return [one for one in kept if one.manifest is not None]


def last_event(db: Database, type: str) -> Event | None:
    """The newest event of this type."""
    with db.read() as session:
        found, _ = events.find(session, type=type, limit=1)
    return found[0] if found else None


# Restoring


def restore(
    settings: Settings, path: Path, *, secrets_from: Path | None = None, anyway: bool = False
) -> Restored:
    """Put a backup in the place of what is there. Nothing is touched before all is proven.

    The keys come from the backup, from the folder `secrets_from`, or stay those that are there,
    whichever fit. With `anyway` books with discrepancies are taken too. Raises StillServing,
    DamagedArchive, NewerBackup, OtherDatabase, NotProven, CannotCopy.
    """
    place = Place.of(settings)
    with keeping.alone(place.data_dir), _beside(place, place.data_dir, path, secrets_from) as there:
        if there.problems and not anyway:
            raise NotProven(problems=len(there.problems))
        aside = _replace(place, there)
        _note(place, there)
        return Restored(there.manifest, there.missing, there.problems, aside)


def drill(place: Place, path: Path | None = None) -> Drill:
    """Restore the newest backup, or that at `path`, into a temporary place and prove it there.

    Raises NothingToTry.
    """
    if path is None:
        kept = [one for one in keeping.listed(place.folder) if one.manifest is not None]
        if not kept:
            raise NothingToTry
        path = kept[0].path
    began = time.monotonic()
    place.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with _beside(place, place.folder, path, None) as there:
            problems = len(there.problems)
            reason = f"keys are missing: {', '.join(there.missing)}" if there.missing else ""
    except (AppError, OSError) as error:
        problems, reason = 0, str(error)
    return Drill(path.stem, round(time.monotonic() - began, 3), problems, reason)


def record_drill(db: Database, found: Drill, *, actor: str, now: int) -> None:
    """Keep how a drill went."""
    facts = {"id": found.backup, "ok": found.ok, "seconds": found.seconds}
    if not found.ok:
        facts |= {"problems": found.problems, "reason": found.reason[:300]}
        log.error("the backup %s could not be restored: %s", found.backup, facts)
    _record(db, DRILL, actor, now, **facts)


def drill_now(app: App, *, actor: str) -> Event:
    """A drill in a process of its own, waited for; how it went. Raises NothingToTry."""
    if not whole(app.settings):
        raise NothingToTry
    before = last_event(app.db, DRILL)
    _drill_apart(app, actor=actor).join()
    found = last_event(app.db, DRILL)
    if found is None or (before is not None and found.seq == before.seq):
        raise snapshot.CannotCopy("The drill ended without a result. Look at the server's log.")
    return found


def apart(place: Place, actor: str) -> None:
    """What the drill's process does, behind everybody else."""
    with suppress(OSError, AttributeError):
        os.nice(15)
    db = Database(place.url)
    try:
        record_drill(db, drill(place), actor=actor, now=Clock().micros())
    finally:
        db.close()


# Inside


@dataclass(frozen=True)
class _Beside:
    """A backup that was unpacked and proven, not yet in its place."""

    manifest: Manifest
    folder: Path
    url: str
    missing: tuple[str, ...]
    problems: tuple[Problem, ...]


@contextmanager
def _beside(place: Place, near: Path, path: Path, secrets_from: Path | None) -> Iterator[_Beside]:
    """The backup, unpacked in a hidden folder in `near`, migrated and proven; gone at the end."""
    manifest = _readable(place, path)
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(
                    prefix=".restore-", suffix=archive.PART, dir=near, ignore_cleanup_errors=True
                )
            )
        )
        archive.extract(path, folder)
        files = folder / make.INSIDE.rstrip("/")
        files.mkdir(exist_ok=True, mode=0o700)
        missing = _find_keys(manifest, files, [secrets_from, place.data_dir])
        url = _load(stack, place, manifest, folder)
        key = None
        if not _needs(missing, secrets.FILE):
            key = secrets.reread(files).audit_key
            if not archive.sealed_with(path, key):
                raise DamagedArchive(
                    "The manifest of this backup was changed after it was made. Take another one."
                )
        yield _Beside(manifest, files, url, missing, tuple(_proven(url, manifest, key, files)))


def _readable(place: Place, path: Path) -> Manifest:
    manifest = archive.read(path)
    if manifest.revision not in _revisions():
        raise NewerBackup(revision=manifest.revision, version=manifest.version)
    if manifest.database != snapshot.kind(place.url):
        raise OtherDatabase(backup=manifest.database, here=snapshot.kind(place.url))
    return manifest


def _revisions() -> set[str]:
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(migrations.config())
    return {revision.revision for revision in script.walk_revisions()}


def _find_keys(manifest: Manifest, files: Path, sources: list[Path | None]) -> tuple[str, ...]:
    """Bring the files with the keys that the data needs; returns what is missing by name."""
    for name in make.SECRET:
        wanted = {key for key in manifest.keys if _file_of(key) == name}
        for source in [files, *sources]:
            if source is None or not (source / name).is_file():
                continue
            target = files / name
            if source != files:
                _copy_private(source / name, target)
            there = make.keys_of(files)
            if all(there.get(key) == manifest.keys[key] for key in wanted):
                break
            target.unlink()
    there = make.keys_of(files)
    return tuple(
        f"{name} ({_file_of(name)})"
        for name, known in sorted(manifest.keys.items())
        if there.get(name) != known
    )


def _file_of(key: str) -> str:
    return make.RECEIPT_KEYS if key.startswith("receipt key") else secrets.FILE


def _needs(missing: tuple[str, ...], file: str) -> bool:
    return any(f"({file})" in one for one in missing)


def _copy_private(source: Path, target: Path) -> None:
    content = source.read_bytes()
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _load(stack: ExitStack, place: Place, manifest: Manifest, folder: Path) -> str:
    """The URL of the restored database, in a file of the folder or a database beside the real."""
    inside = folder / snapshot.NAMES[manifest.database]
    if not inside.is_file():
        raise DamagedArchive("There is no database in this backup. Take another one.")
    if manifest.database == snapshot.SQLITE:
        snapshot.sound(inside)
        return f"sqlite:///{inside}"
    name = f"{make_url(place.url).database}_restore_{chance.token_hex(4)}"
    url = stack.enter_context(snapshot.scratch(place.url, name))
    snapshot.load(url, inside)
    return url


def _proven(url: str, manifest: Manifest, key: bytes | None, files: Path) -> list[Problem]:
    """Migrate the restored database and prove it; its rows are those that were counted."""
    db = Database(url)
    try:
        with db.read() as session:
            found = snapshot.facts(session.connection())
        if (found.revision, found.head, found.counts) != (
            manifest.revision, manifest.head, manifest.counts
        ):  # fmt: skip
            raise DamagedArchive("The database in this backup is not the one that was counted.")
        database.migrate(db)
        if key is not None:
            return books.prove(db, key=key, data_dir=files)
        with db.read() as session:
            return verify.run(session)
    finally:
        db.close()


def _replace(place: Place, there: _Beside) -> str:
    """Move what is there aside and the restored things in; returns where the old ones are.

    Broken off in the middle it leaves a note that keeps the program from starting.
    """
    stamp = from_micros(Clock().micros()).strftime("%Y%m%dT%H%M%SZ")
    note = place.data_dir / secrets.MISSING
    aside = place.data_dir / f"{_ASIDE}{stamp}-{chance.token_hex(2)}"
    # The keys go first and come last: without them and with the note nothing starts.
    note.write_text(_NOT_ENDED + "\n", encoding="utf-8")
    olds = sorted(
        (one for one in place.data_dir.iterdir() if _moves(place, one)),
        key=lambda one: one.name != secrets.FILE,
    )
    olds = [one for one in olds if one != there.folder.parent]
    if olds:
        aside.mkdir(mode=0o700)
    for old in olds:
        old.rename(aside / old.name)
    where = str(aside) if olds else ""
    if snapshot.kind(place.url) == snapshot.SQLITE:
        source = Path(make_url(there.url).database or "")
        target = Path(make_url(place.url).database or "")
        for end in ("", "-wal", "-shm"):
            old = target.with_name(f"{target.name}{end}")
            if old.exists():  # a database outside of the data directory
                old.rename(old.with_name(f"{old.name}.{aside.name}"))
        log_there = source.with_name(f"{source.name}-wal")
        if log_there.exists():
            shutil.move(log_there, target.with_name(f"{target.name}-wal"))
        shutil.move(source, target)
    else:
        name = make_url(place.url).database or ""
        old_name = f"{name}_before_{stamp.lower()}"
        snapshot.exchange(place.url, make_url(there.url).database or "", old_name)
        where = f"database {old_name}" + (f", {where}" if where else "")
    for new in sorted(there.folder.iterdir(), key=lambda one: one.name == secrets.FILE):
        shutil.move(new, place.data_dir / new.name)
    if _needs(there.missing, secrets.FILE):
        note.write_text(_WITHOUT + "\n", encoding="utf-8")
    else:
        note.unlink()
    return where


def _moves(place: Place, one: Path) -> bool:
    """Whether a thing in the data directory makes room: not backups, old things and our own."""
    if one.name.startswith(_ASIDE) or one.name in _STAY:
        return False
    return not (place.folder == one or one in place.folder.parents)


def _note(place: Place, there: _Beside) -> None:
    """The restore itself is on the record."""
    db = Database(place.url)
    try:
        with suppress(AppError):
            _record(
                db, RESTORED, "operator", Clock().micros(), made_at=there.manifest.made_at,
                missing=list(there.missing), problems=len(there.problems),
            )  # fmt: skip
    finally:
        db.close()


def _record(db: Database, type: str, actor: str, now: int, **facts: object) -> None:
    def story(session: Session) -> None:
        events.record(session, type=type, actor=actor, now=now, **facts)

    with suppress(AppError):
        db.write(story)


def _due(app: App, kind: str, every: int, now: int) -> bool:
    kept = [one for one in whole(app.settings) if one.kind == kind]
    since = kept[0].made_at if kept else _installed(app)
    return not 0 <= now - since < every  # a time in the future: the clock was set back


def _installed(app: App) -> int:
    """When this installation began, in µs: its first backup is not made in the first minute."""
    path = app.settings.data_dir / secrets.FILE
    with suppress(OSError):
        return int(path.stat().st_mtime * MICROS_PER_SECOND)
    return 0


def _drill_apart(app: App, *, actor: str) -> multiprocessing.process.BaseProcess:
    child = multiprocessing.get_context("spawn").Process(
        target=apart, args=(Place.of(app.settings), actor), name="drill", daemon=True
    )
    child.start()
    return child
