"""Downloads while the program serves: progress, an end at any moment, nothing left behind."""

import dataclasses
import http.server
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chat_app.llm import loader
from chat_app.llm.catalogue import Entry, Package
from chat_app.llm.fetch import Fetch, Fetches, NothingFetched
from tests.llm.test_loader import entry_of, folders


def until(look: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something that happens in another process."""
    end = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < end
        time.sleep(0.02)


def ended(fetches: Fetches) -> Fetch:
    """The download when it is over."""

    def over() -> bool:
        found = fetches.get("tiny")
        return found is not None and found.state != "running"

    until(over)
    found = fetches.get("tiny")
    assert found is not None
    return found


@contextmanager
def trickle(file: Path) -> Iterator[str]:
    """A server that gives half of a file and then nothing more: its address of the file."""
    data, stop = file.read_bytes(), threading.Event()

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            stop.wait(60)

        def log_message(self, format: str, *args: object) -> None:
            """No noise."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/{file.name}"
        finally:
            stop.set()
            server.shutdown()


def slow(tmp_path: Path) -> tuple[Entry, Path]:
    """A model in one wheel, and the wheel."""
    entry = entry_of(tmp_path)
    source = entry.source
    assert isinstance(source, Package)
    return entry, Path(source.requirements[1])


def group_is_gone(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_download_ends_with_the_model_here(tmp_path: Path) -> None:
    entry, models = entry_of(tmp_path), tmp_path / "models"
    fetches = Fetches(models)
    assert fetches.start(entry).state == "running"
    found = ended(fetches)
    assert (found.state, found.done_bytes) == ("done", found.total_bytes), found.sentence
    assert loader.state(entry, models).state == "available"
    with pytest.raises(NothingFetched):
        fetches.cancel("tiny")


def test_a_cancelled_download_is_gone_with_all_that_it_started(tmp_path: Path) -> None:
    """The process, pip below it, and what they wrote; and the next one begins anew."""
    entry, wheel = slow(tmp_path)
    models = tmp_path / "models"
    fetches = Fetches(models)
    with trickle(wheel) as address:
        stuck = dataclasses.replace(entry.source, requirements=(address,))
        fetches.start(dataclasses.replace(entry, source=stuck))
        pid = fetches._known["tiny"].child.pid
        until(lambda: loader.draft(entry, models).exists())
        assert fetches.start(entry).state == "running"  # the same one, not a second
        assert fetches._known["tiny"].child.pid == pid
        assert fetches.cancel("tiny").state == "cancelled"
    until(lambda: group_is_gone(pid))
    assert folders(models) == []
    assert not Path(fetches._known["tiny"].folder).exists()
    fetches.start(entry)
    assert ended(fetches).state == "done"


def test_a_failure_says_what_to_do(tmp_path: Path) -> None:
    missing = (str(tmp_path / "gone-1.0-py3-none-any.whl"),)
    fetches = Fetches(tmp_path / "models")
    fetches.start(entry_of(tmp_path, requirements=missing))
    found = ended(fetches)
    assert found.state == "failed"
    assert "could not be downloaded" in found.sentence
    assert found.sentence.endswith("pull again.")


def test_closing_ends_what_runs(tmp_path: Path) -> None:
    entry, wheel = slow(tmp_path)
    fetches = Fetches(tmp_path / "models")
    with trickle(wheel) as address:
        stuck = dataclasses.replace(entry.source, requirements=(address,))
        fetches.start(dataclasses.replace(entry, source=stuck))
        fetches.close()
        assert ended(fetches).state == "cancelled"
        assert group_is_gone(fetches._known["tiny"].child.pid)
