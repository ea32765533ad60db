"""Models on disk: one signed folder for each kind and version, and who of them is champion.

A folder holds what the model's `to_files` gave and `meta.json`, which lists the size and SHA-256
of each file and is signed with a key of this installation. A changed, missing, added or foreign
file is refused before anything is made of it, and no file is ever executed: there is no pickle,
no joblib, only JSON and LightGBM's text. The first version of a kind is its champion; later ones
wait until they are promoted. Knows no database.
"""

import hashlib
import hmac
import importlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from chat_app import secrets
from chat_app.errors import Conflict, Invalid, NotFound

log = logging.getLogger(__name__)

FOLDER = "models"
CHAMPION = "champion"
META, POINTER = "meta.json", "champion.json"
FORMAT = 1
MOST_BYTES = 256 * 2**20  # of one file
MOST_META = 2**20
LIBRARIES = ("lightgbm", "scikit-learn", "numpy", "pandas", "statsmodels")
_KIND = re.compile(r"[a-z][a-z0-9_]{0,31}")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,31}")
_FILE = re.compile(r"[a-z][a-z0-9._-]{0,63}")
_NUMBERED = re.compile(r"(\d{1,6})\.(\d{1,9})")

# The only classes that are ever made of files: name in `meta.json`, module, class.
CLASSES = {
    "ltv": ("chat_app.ml.ltv", "LTVModel"),
    "churn": ("chat_app.ml.churn", "ChurnModel"),
    "forecast": ("chat_app.ml.forecast", "Forecaster"),
    "fraud": ("chat_app.ml.fraud", "FraudModel"),
}


class BadModel(Invalid):
    """The files of a model are not those that were saved here; `kind` and `version` say which."""

    code = "bad_model"
    message = (
        "This model's files were changed or are not from this installation, so they are not "
        "used. Train it again, or restore the folder from your backup."
    )


class BadModelName(Invalid):
    """A kind or a version that cannot be the name of a folder, or a model of no known class."""

    code = "bad_model_name"
    message = "A kind is a short word and a version is like 1.0. Choose another name."


class UnknownModelVersion(NotFound):
    """There is no such version of this kind, or no version at all."""

    code = "unknown_model_version"
    message = "There is no such version of this model. Train one, or choose one of the list."


class VersionExists(Conflict):
    """A version never changes: save the new model under another one."""

    code = "model_version_exists"
    message = "This version exists already and versions never change. Save it as another one."


@dataclass(frozen=True)
class ModelVersion:
    """A saved version. `problem` says in a sentence why it cannot be used, if it cannot."""

    kind: str
    version: str
    champion: bool
    created_at: datetime
    as_of: str | None
    meta: dict[str, Any] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    size: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class Problem:
    """Something wrong in the registry; `version` is empty where it is the choice of champion."""

    kind: str
    version: str
    sentence: str


# `list` is a method of the registry, so its own annotations need other names.
Versions = list[ModelVersion]
Problems = list[Problem]
Names = list[str]


class Registry:
    """Models under a folder, signed with a key that is derived from `secret`.

    `classes` adds to the table of classes, for tests and extensions.
    """

    def __init__(
        self,
        path: Path | str,
        secret: bytes | str,
        *,
        classes: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        self.path = Path(path)
        key = secret.encode() if isinstance(secret, str) else bytes(secret)
        if not key:
            raise Invalid("The registry needs a secret to sign with. Give one.")
        self._key = hmac.new(key, b"models of this installation", hashlib.sha256).digest()
        self._classes = {**CLASSES, **(classes or {})}

    # -- saving -----------------------------------------------------------------------------

    def save(
        self,
        kind: str,
        model: Any,
        *,
        version: str | None = None,
        meta: Mapping[str, Any] | None = None,
        as_of: Any = None,
        first: bool = True,
    ) -> str:
        """Keep a fitted model; returns its version, the next one where none is given.

        The first version of a kind becomes its champion, unless `first` is false.

        `meta` is JSON that is kept and signed with it (metrics, features, what the data were);
        `as_of` is the moment up to which it has learnt. Raises BadModelName, VersionExists, and
        what the model raises when it has learnt nothing.
        """
        _check(_KIND, kind)
        name = self._class_of(model)
        files = dict(model.to_files())
        if not files or any(not _FILE.fullmatch(file) or file == META for file in files):
            raise BadModelName(f"A {name} model has no files that could be kept. Fit it first.")
        folder = self.path / kind
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        for attempt in range(100):
            named = version or self._next(kind, attempt)
            if named == CHAMPION:
                raise BadModelName
            _check(_VERSION, named)
            content = self._meta(
                kind=kind, version=named, name=name, files=files, meta=meta or {}, as_of=as_of
            )
            if self._place(folder, named, {**files, META: content}):
                break
            if version is not None:
                raise VersionExists(kind=kind, version=version)
        else:
            raise VersionExists(kind=kind)
        if first and not (folder / POINTER).exists():
            self.promote(kind, named)
        return named

    def promote(self, kind: str, version: str) -> None:
        """Make a version the champion. Raises UnknownModelVersion or BadModel."""
        self._read_meta(kind, version)
        content = {"format": FORMAT, "kind": kind, "champion": version}
        self._place_file(self.path / kind, POINTER, self._signed(content))

    def remove(self, kind: str, version: str) -> None:
        """Delete a version for good; the champion stays. Raises UnknownModelVersion, Conflict."""
        if version == self.champion(kind):
            raise Conflict("This version is the champion. Promote another one first.")
        folder = self._folder(kind, version)
        # Renamed first, so that a half deleted version is never seen as one.
        gone = Path(tempfile.mkdtemp(prefix=".old-", dir=folder.parent))
        os.rename(folder, gone / "version")
        shutil.rmtree(gone)

    # -- reading ----------------------------------------------------------------------------

    def load(self, kind: str, version: str = CHAMPION) -> Any:
        """The model, checked byte by byte before anything is made of it.

        Raises UnknownModelVersion, or BadModel (Invalid) for what was not saved here as it is.
        """
        _check(_KIND, kind)
        if version == CHAMPION:
            named = self.champion(kind)
            if named is None:
                raise UnknownModelVersion(kind=kind)
            version = named
        try:
            meta = self._read_meta(kind, version)
            files = self._read_files(kind, version, meta)
            module, attribute = self._classes[meta["class"]]
        except KeyError as error:
            raise self._refused(kind, version, "is of an unknown class") from error
        try:
            kept = getattr(importlib.import_module(module), attribute)
            return kept.from_files(files)
        except Exception as error:
            why = f"cannot be read ({type(error).__name__})"
            raise self._refused(kind, version, why) from error

    def champion(self, kind: str) -> str | None:
        """The champion's version; None where there is none. Raises BadModel for a forged choice."""
        _check(_KIND, kind)
        path = self.path / kind / POINTER
        if not path.exists():
            return None
        found = self._opened(kind, "", path)
        if found.get("kind") != kind or not isinstance(found.get(CHAMPION), str):
            raise self._refused(kind, "", "has a choice of champion that is another kind's")
        return str(found[CHAMPION])

    def list(self, kind: str | None = None) -> Versions:
        """Every version, newest first; those that cannot be used say why."""
        found = []
        for one in self._kinds(kind):
            try:
                champion = self.champion(one)
            except BadModel:
                champion = None
            found += [self._row(one, version, champion) for version in self._versions(one)]
        return sorted(found, key=lambda row: (row.kind, row.created_at, row.version), reverse=True)

    def verify(self, kind: str | None = None) -> Problems:
        """Read every byte; all that is wrong, empty when all is well. Makes no model."""
        problems: Problems = []
        for one in self._kinds(kind):
            versions = self._versions(one)
            for version in versions:
                try:
                    self._read_files(one, version, self._read_meta(one, version))
                except (BadModel, UnknownModelVersion) as error:
                    problems.append(Problem(one, version, str(error)))
            try:
                champion = self.champion(one)
            except BadModel as error:
                problems.append(Problem(one, "", str(error)))
                continue
            if champion is not None and champion not in versions:
                sentence = f"The champion {champion} is not there. Promote another version."
                problems.append(Problem(one, "", sentence))
        return problems

    # -- the parts --------------------------------------------------------------------------

    def _class_of(self, model: Any) -> str:
        kind = type(model)
        for name, (module, attribute) in self._classes.items():
            if kind.__name__ == attribute and (
                getattr(importlib.import_module(module), attribute, None) is kind
            ):
                return name
        raise BadModelName(
            f"A {kind.__name__} cannot be kept. Give one of the models of chat_app.ml."
        )

    def _meta(
        self,
        *,
        kind: str,
        version: str,
        name: str,
        files: Mapping[str, bytes],
        meta: Mapping[str, Any],
        as_of: Any,
    ) -> bytes:
        try:
            plain = json.loads(json.dumps(dict(meta), default=_plain))
        except (TypeError, ValueError) as error:
            raise Invalid("meta holds what JSON does not know. Give plain values.") from error
        content = {
            "format": FORMAT,
            "kind": kind,
            "version": version,
            "class": name,
            "created_at": datetime.now(UTC).isoformat(),
            "as_of": _moment(as_of),
            "libraries": _libraries(),
            "files": {
                file: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                for file, data in sorted(files.items())
            },
            "meta": plain,
        }
        return self._signed(content)

    def _signed(self, content: dict[str, Any]) -> bytes:
        signature = hmac.new(self._key, _canonical(content), hashlib.sha256).hexdigest()
        return json.dumps({**content, "hmac": signature}, indent=1).encode()

    def _opened(self, kind: str, version: str, path: Path) -> dict[str, Any]:
        """A signed JSON file, if it is ours."""
        try:
            content = json.loads(_bytes(path, MOST_META))
            signature = content.pop("hmac")
            expected = hmac.new(self._key, _canonical(content), hashlib.sha256).hexdigest()
            ours = isinstance(signature, str) and hmac.compare_digest(
                signature.encode(), expected.encode()
            )
        except FileNotFoundError as error:
            raise self._refused(kind, version, f"lacks {path.name}") from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise self._refused(kind, version, f"has an unreadable {path.name}") from error
        if not ours:
            raise self._refused(kind, version, f"has a {path.name} that was not signed here")
        found: dict[str, Any] = content
        return found

    def _read_meta(self, kind: str, version: str) -> dict[str, Any]:
        found = self._opened(kind, version, self._folder(kind, version) / META)
        if found.get("kind") != kind or found.get("version") != version:
            raise self._refused(kind, version, "is the folder of another version")
        if found.get("format") != FORMAT:
            raise self._refused(kind, version, "has a format that this program does not know")
        return found

    def _read_files(self, kind: str, version: str, meta: Mapping[str, Any]) -> dict[str, bytes]:
        """All files, as they were signed; what is checked is what is used."""
        folder = self._folder(kind, version)
        listed = meta["files"]
        extra = {path.name for path in folder.iterdir()} ^ {META, *listed}
        if extra:
            name = sorted(extra)[0]
            what = f"lacks {name}" if name in listed else f"holds {name}, which was not saved here"
            raise self._refused(kind, version, what)
        found = {}
        for name, facts in listed.items():
            try:
                data = _bytes(folder / name, MOST_BYTES)
            except (OSError, ValueError) as error:
                raise self._refused(kind, version, f"has an unreadable {name}") from error
            same = hmac.compare_digest(hashlib.sha256(data).hexdigest(), facts["sha256"])
            if not same or len(data) != facts["bytes"]:
                raise self._refused(kind, version, f"has a {name} that was changed")
            found[name] = data
        return found

    def _refused(self, kind: str, version: str, what: str) -> BadModel:
        named = f"{kind} {version}".strip()
        log.error("the model %s is refused: it %s", named, what)
        return BadModel(
            f"The model {named} {what}, so it is not used. Train it again, or restore its folder "
            "from your backup.",
            kind=kind,
            version=version,
        )

    def _folder(self, kind: str, version: str) -> Path:
        _check(_KIND, kind)
        _check(_VERSION, version)
        folder = self.path / kind / version
        if not folder.is_dir():
            raise UnknownModelVersion(kind=kind, version=version)
        return folder

    def _kinds(self, kind: str | None) -> Names:
        if kind is not None:
            _check(_KIND, kind)
            return [kind]
        if not self.path.is_dir():
            return []
        return sorted(
            path.name
            for path in self.path.iterdir()
            if path.is_dir() and _KIND.fullmatch(path.name)
        )

    def _versions(self, kind: str) -> Names:
        folder = self.path / kind
        if not folder.is_dir():
            return []
        return sorted(
            path.name
            for path in folder.iterdir()
            if path.is_dir() and _VERSION.fullmatch(path.name)
        )

    def _next(self, kind: str, more: int) -> str:
        """The version after the highest: 1.0, 1.1, …"""
        numbers = [
            (int(match[1]), int(match[2]))
            for name in self._versions(kind)
            if (match := _NUMBERED.fullmatch(name))
        ]
        major, minor = max(numbers, default=(1, -1))
        return f"{major}.{minor + 1 + more}"

    def _row(self, kind: str, version: str, champion: str | None) -> ModelVersion:
        try:
            meta = self._read_meta(kind, version)
            self._read_files(kind, version, meta)
        except BadModel as error:
            folder = self.path / kind / version
            at = datetime.fromtimestamp(folder.stat().st_mtime, UTC)
            return ModelVersion(kind, version, version == champion, at, None, problem=str(error))
        return ModelVersion(
            kind=kind,
            version=version,
            champion=version == champion,
            created_at=datetime.fromisoformat(meta["created_at"]),
            as_of=meta["as_of"],
            meta=meta["meta"],
            libraries=meta["libraries"],
            size=sum(file["bytes"] for file in meta["files"].values()),
        )

    @staticmethod
    def _place(folder: Path, name: str, files: Mapping[str, bytes]) -> bool:
        """A folder with these files, whole or not at all; False where there is one already."""
        draft = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
        try:
            for file, data in files.items():
                _write(draft / file, data)
            _sync(draft)
            if (folder / name).exists():
                return False
            try:
                os.rename(draft, folder / name)
            except OSError:
                if (folder / name).exists():  # somebody else was faster
                    return False
                raise
            _sync(folder)
            return True
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    @staticmethod
    def _place_file(folder: Path, name: str, data: bytes) -> None:
        handle, draft = tempfile.mkstemp(prefix=".new-", dir=folder)
        os.close(handle)
        try:
            _write(Path(draft), data)
            os.replace(draft, folder / name)
            _sync(folder)
        finally:
            Path(draft).unlink(missing_ok=True)


def of(data_dir: Path, link_key: bytes) -> Registry:
    """The models of an installation."""
    return Registry(data_dir / FOLDER, secrets.subkey(link_key, "models"))


def _check(pattern: re.Pattern[str], name: Any) -> None:
    if not isinstance(name, str) or not pattern.fullmatch(name) or ".." in name:
        raise BadModelName


def _bytes(path: Path, most: int) -> bytes:
    """A plain file's content; ValueError for links and for what is too large."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(handle, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError("too large")
    return data


def _write(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is no plain value")


def _moment(value: Any) -> str | None:
    """The moment as text; a time without a zone is taken as UTC."""
    if value is None:
        return None
    if isinstance(value, datetime) and value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _libraries() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
