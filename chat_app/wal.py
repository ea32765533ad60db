"""The write-ahead log of SQLite, carried into the database beside the writer.

By itself SQLite does this inside whichever commit finds the log long: some hundred milliseconds
that one writer, and with group commit everybody behind it, waits for. Here a thread with a
connection of its own carries the pages over while commits go on, and the writer is asked only
for the few that came meanwhile, after which the log begins again from its start.
"""

import logging
import sqlite3
import threading
from contextlib import closing

log = logging.getLogger(__name__)

# A hold or its settlement changes about ten rows; this many rows make a log of some MiB.
ROWS = 2500
# The log as it may grow before the writer is asked to end it: 16 MiB.
LONG_PAGES = 4096
_CARRY = "PRAGMA wal_checkpoint(PASSIVE)"


class Carrier:
    """Carries the log of the database at `path`; its thread runs from the first need on."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._rows = 0
        self._due = threading.Event()
        self._closing = False
        self._long = False
        self._thread: threading.Thread | None = None

    def committed(self, writer: sqlite3.Connection) -> None:
        """The writer has committed. Returns at once, but for the rest of a long log."""
        if self._long:
            self._long = False
            writer.execute(_CARRY).fetchone()
        if abs(writer.total_changes - self._rows) < ROWS:  # a new connection counts from 0
            return
        self._rows = writer.total_changes
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="db-carrier", daemon=True)
            self._thread.start()
        self._due.set()

    def close(self) -> None:
        """End the thread. What the log still holds stays durable in it."""
        self._closing = True
        self._due.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            while True:
                self._due.wait()
                self._due.clear()
                if self._closing:
                    return
                try:
                    _busy, pages, _carried = connection.execute(_CARRY).fetchone()
                except sqlite3.Error:
                    # A full or failing disk: commits tell of it, and the log keeps everything.
                    log.warning("the write-ahead log could not be carried over", exc_info=True)
                else:
                    self._long = pages >= LONG_PAGES
