"""Downloads while the program serves: each in a process of its own, to be ended at any moment.

The process and what it starts (pip) are one group; the group also ends when the program dies,
because then its standard input does. It knows no user; `loader.py` brings and checks the weights.
"""

import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

from chat_app.errors import AppError, NotFound
from chat_app.llm import loader
from chat_app.llm.catalogue import Entry, Package

log = logging.getLogger(__name__)
FetchState = Literal["running", "done", "failed", "cancelled"]
# Speed is that of the last seconds, and a report comes no oftener than the eye can use.
SPEED_SECONDS = 6.0
REPORT_SECONDS = 0.2
END_SECONDS = 5.0


class NothingFetched(NotFound):
    """No download of this model is running."""

    code = "no_download"
    message = "No download of this model is running. Look at the list again."


@dataclass(frozen=True)
class Fetch:
    """A download as it stands. `total_bytes` 0: not known yet; `sentence` says what goes on.

    `bytes_per_second` is that of the last seconds. A failed one's sentence has the next step.
    """

    model: str
    state: FetchState = "running"
    sentence: str = "Starting…"
    done_bytes: int = 0
    total_bytes: int = 0
    bytes_per_second: int = 0


@dataclass
class _Running:
    entry: Entry
    child: "subprocess.Popen[bytes]"
    folder: str  # pip's own leftovers
    seen: Fetch
    thread: threading.Thread | None = None
    cancelled: bool = False
    steps: deque[tuple[float, int]] = field(default_factory=deque)


class Fetches:
    """The downloads of this process, the last one of each model."""

    def __init__(self, models_dir: Path) -> None:
        self._models_dir = models_dir
        self._lock = threading.Lock()
        self._known: dict[str, _Running] = {}

    def start(self, entry: Entry) -> Fetch:
        """Begin to bring the weights here; a download that is running already is left alone."""
        with self._lock:
            found = self._known.get(entry.id)
            if found is not None and found.seen.state == "running":
                return found.seen
            folder = tempfile.mkdtemp(prefix="fetch-")
            child = _spawn(entry, self._models_dir, folder)
            running = _Running(entry, child, folder, Fetch(entry.id))
            self._known[entry.id] = running
        name = f"fetch-{entry.id}"
        running.thread = threading.Thread(target=self._listen, args=(running,), name=name)
        running.thread.daemon = True
        running.thread.start()
        return running.seen

    def cancel(self, model: str) -> Fetch:
        """End a download at once; raises NothingFetched. What the hub gave is kept for later."""
        with self._lock:
            found = self._known.get(model)
            if found is None or found.seen.state != "running":
                raise NothingFetched(model=model)
            found.cancelled = True
        _end(found.child)
        if found.thread is not None:
            found.thread.join(END_SECONDS)
        return found.seen

    def get(self, model: str) -> Fetch | None:
        """The last download of a model since the program started."""
        found = self._known.get(model)
        return None if found is None else found.seen

    def close(self) -> None:
        """End all downloads."""
        for model, found in list(self._known.items()):
            if found.seen.state == "running":
                try:
                    self.cancel(model)
                except NothingFetched:
                    continue  # it ended by itself a moment ago

    def _listen(self, running: _Running) -> None:
        """Read what the process reports until it ends."""
        end: Fetch | None = None
        assert running.child.stdout is not None
        for line in running.child.stdout:
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if "state" in said:
                end = replace(running.seen, state=said["state"], sentence=said["sentence"])
            else:
                running.seen = _moved(running, said, time.monotonic())
        code = running.child.wait()
        if end is None:
            words = "Cancelled." if running.cancelled else _broken(code)
            state: FetchState = "cancelled" if running.cancelled else "failed"
            end = replace(running.seen, state=state, sentence=words)
            if isinstance(running.entry.source, Package):
                # Packages cannot be gone on with; the hub's files can.
                draft = loader.draft(running.entry, self._models_dir)
                shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(running.folder, ignore_errors=True)
        running.seen = replace(end, bytes_per_second=0)
        if end.state == "failed":
            log.warning("the download of %s failed: %s", end.model, end.sentence)


def _broken(code: int) -> str:
    return f"The download ended unexpectedly (exit code {code}). Look into the log and try again."


def _moved(running: _Running, said: dict[str, Any], now: float) -> Fetch:
    """The next state of a running download; speed begins anew with each step of the work."""
    seen, steps = running.seen, running.steps
    if said["sentence"] != seen.sentence:
        steps.clear()
    steps.append((now, said["done"]))
    while now - steps[0][0] > SPEED_SECONDS and len(steps) > 2:
        steps.popleft()
    began, before = steps[0]
    speed = (said["done"] - before) / (now - began) if now > began else 0
    return replace(
        seen,
        sentence=said["sentence"],
        done_bytes=said["done"],
        total_bytes=said["total"],
        bytes_per_second=max(0, int(speed)),
    )


def _spawn(entry: Entry, models_dir: Path, folder: str) -> "subprocess.Popen[bytes]":
    # No secret of ours goes along: pip and the hub need their own settings, not the program's.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_APP_")}
    root = str(Path(__file__).resolve().parent.parent.parent)
    child = subprocess.Popen(
        [sys.executable, "-m", "chat_app.llm.fetch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=clean | {"PYTHONPATH": root, "PYTHONUNBUFFERED": "1", "TMPDIR": folder},
        start_new_session=True,
    )
    assert child.stdin is not None
    child.stdin.write(pickle.dumps((entry, models_dir)))
    child.stdin.flush()  # and left open: its end is ours
    return child


def _end(child: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def main() -> None:
    """The process: pull what standard input names and report each step as a line of JSON."""
    # What our own parent wrote, over a pipe that nobody else has.
    entry, models_dir = pickle.load(sys.stdin.buffer)  # noqa: S301
    threading.Thread(target=_outlive, args=(sys.stdin.buffer,), daemon=True).start()
    said_sentence, said_at = "", 0.0
    guard = threading.Lock()

    def tell(done: int, total: int, sentence: str) -> None:
        nonlocal said_sentence, said_at
        now = time.monotonic()
        with guard:
            late = now - said_at >= REPORT_SECONDS
            if late or done == total or sentence != said_sentence:
                said_sentence, said_at = sentence, now
                _say({"done": done, "total": total, "sentence": sentence})

    end = {"state": "done", "sentence": "It is here and whole."}
    try:
        loader.pull(entry, models_dir, tell)
    except AppError as error:
        end = {"state": "failed", "sentence": str(error)}
    _say(end)


def _say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _outlive(stdin: IO[bytes]) -> None:
    """End the whole group when the program that began the download is gone."""
    stdin.read()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
