"""The archive: a zip of files and a manifest that names each with its length and hash.

It is written beside its place under another name and moved there when every byte was read back,
so a file with the right name is whole. Knows nothing of databases.
"""

import hashlib
import hmac
import json
import os
import secrets
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from chat_app.audit.log import canonical
from chat_app.errors import Conflict, Invalid
from chat_app.secrets import subkey

FORMAT = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 64 * 1024 * 1024
PART = ".part"
_CHUNK = 1024 * 1024
_FIELDS = {"made_at", "version", "kind", "database", "revision", "head", "counts", "keys",
           "secrets", "entries"}  # fmt: skip


class DamagedArchive(Invalid):
    """The file is no backup, or not every byte is as it was written."""

    code = "damaged_backup"
    message = "This backup is damaged, so nothing was changed. Take another one."


class ArchiveExists(Conflict):
    """A backup is never written over another file."""

    code = "backup_exists"
    message = "This file exists and is not written over. Name another one."


@dataclass(frozen=True)
class Entry:
    """A file in the archive: where it lies, its length, hash and rights."""

    name: str
    bytes: int
    sha256: str
    mode: int


@dataclass(frozen=True)
class Manifest:
    """What an archive holds. `made_at` in µs; `head` are the newest seals of its books.

    `counts` are the rows of each table, `keys` the fingerprints of the keys that the data needs.
    """

    made_at: int
    version: str
    kind: str
    database: str
    revision: str
    head: str
    counts: dict[str, int]
    keys: dict[str, str]
    secrets: bool
    entries: tuple[Entry, ...] = ()
    code: str = field(default="", repr=False)


class Writer:
    """An archive in the making."""

    def __init__(self, file: IO[bytes]) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        self.entries: list[Entry] = []

    def add(self, name: str, source: Path, *, packed: bool = True) -> None:
        """Add a file by streaming it. One that is gone meanwhile is left out."""
        try:
            file = source.open("rb")
        except FileNotFoundError:
            return
        with file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
            digest, count = hashlib.sha256(), 0
            with self._zip.open(info, "w", force_zip64=True) as inside:
                while piece := file.read(_CHUNK):
                    digest.update(piece)
                    count += len(piece)
                    inside.write(piece)
        self.entries.append(Entry(name, count, digest.hexdigest(), mode))

    def finish(self, content: dict[str, Any]) -> None:
        """Write the manifest, which makes it an archive."""
        self._zip.writestr(MANIFEST, json.dumps(content, indent=1))
        self._zip.close()


@contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """Write an archive that appears at `path` when the block ends, whole and read back.

    Only the owner can read it. Raises ArchiveExists; then, and when the block raises, nothing
    is left behind.
    """
    if path.exists():
        raise ArchiveExists(file=str(path))
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            yield Writer(file)
            file.flush()
            os.fsync(file.fileno())
        check(part)
        try:
            os.link(part, path)  # unlike a rename it never replaces
        except FileExistsError as error:
            raise ArchiveExists(file=str(path)) from error
        _sync_folder(path.parent)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def seal(manifest: Manifest, key: bytes) -> dict[str, Any]:
    """The manifest as it is written, with a code that only the installation's key can make."""
    content = {"format": FORMAT, **asdict(manifest)}
    del content["code"]
    content["entries"] = [asdict(entry) for entry in manifest.entries]
    return {**content, "code": _code(key, content)}


def sealed_with(path: Path, key: bytes) -> bool:
    """Whether the manifest was made with this audit key and is as it was."""
    content = _content(path)
    code = str(content.pop("code", ""))
    return hmac.compare_digest(code, _code(key, content))


def read(path: Path) -> Manifest:
    """The manifest alone, quickly; raises DamagedArchive."""
    content = _content(path)
    try:
        if content["format"] != FORMAT:
            raise DamagedArchive("This backup has a form that is not known here. Update first.")
        entries = tuple(Entry(**entry) for entry in content["entries"])
        manifest = Manifest(
            **{name: content[name] for name in _FIELDS - {"entries"}},
            entries=entries,
            code=str(content["code"]),
        )
    except (KeyError, TypeError) as error:
        raise DamagedArchive(file=str(path)) from error
    if not all(_inside(entry.name) for entry in entries):
        raise DamagedArchive(file=str(path))
    return manifest


def check(path: Path) -> Manifest:
    """Read every byte and hold it against the manifest; raises DamagedArchive."""
    manifest = read(path)
    with _opened(path) as archive:
        _same_names(archive, manifest, path)
        for entry in manifest.entries:
            _copy(archive, entry, None, path)
    return manifest


def extract(path: Path, folder: Path) -> Manifest:
    """`check`, writing the files into the empty `folder` on the way; for the owner alone."""
    manifest = read(path)
    with _opened(path) as archive:
        _same_names(archive, manifest, path)
        for entry in manifest.entries:
            target = folder / entry.name
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                _copy(archive, entry, file, path)
                file.flush()
                os.fsync(file.fileno())
            target.chmod(entry.mode & 0o700)
    return manifest


def _copy(archive: zipfile.ZipFile, entry: Entry, file: IO[bytes] | None, path: Path) -> None:
    digest, count = hashlib.sha256(), 0
    try:
        with archive.open(entry.name) as inside:
            while piece := inside.read(_CHUNK):
                count += len(piece)
                if count > entry.bytes:
                    break
                digest.update(piece)
                if file is not None:
                    file.write(piece)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, KeyError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno:  # the disk, not the archive
            raise
        raise DamagedArchive(file=str(path), entry=entry.name) from error
    except Exception as error:  # zlib.error has no common ancestor
        raise DamagedArchive(file=str(path), entry=entry.name) from error
    if (count, digest.hexdigest()) != (entry.bytes, entry.sha256):
        raise DamagedArchive(file=str(path), entry=entry.name)


def _same_names(archive: zipfile.ZipFile, manifest: Manifest, path: Path) -> None:
    named = sorted([MANIFEST, *(entry.name for entry in manifest.entries)])
    if sorted(archive.namelist()) != named:
        raise DamagedArchive(file=str(path))


def _content(path: Path) -> dict[str, Any]:
    with _opened(path) as archive:
        try:
            if archive.getinfo(MANIFEST).file_size > MAX_MANIFEST_BYTES:
                raise DamagedArchive(file=str(path))
            content = json.loads(archive.read(MANIFEST))
        except DamagedArchive:
            raise
        except Exception as error:
            raise DamagedArchive(file=str(path)) from error
    if not isinstance(content, dict):
        raise DamagedArchive(file=str(path))
    return content


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise DamagedArchive(f"There is no file {path}. Check its name.") from error
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DamagedArchive(file=str(path)) from error
    with archive:
        yield archive


def _inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and "\\" not in name and ".." not in parts


def _code(key: bytes, content: dict[str, Any]) -> str:
    # As JSON gives it back: tuples are lists there.
    plain = json.loads(json.dumps(content))
    return hmac.digest(subkey(key, "backup manifest"), canonical(plain).encode(), "sha256").hex()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
