"""The time series: a row a minute with each figure's count, least, most, sum and last, packed.

It stands in a SQLite file of its own. A graph must never make the writer of the books wait, and
it is wanted most while the books' database is slow or gone; the file is not synced at each
commit, so a power cut may cost the last minutes of graphs and nothing else. Knows no figure's
meaning.

A minute is merged into its quarter hour and its day in the same transaction, so nothing has to
be summed up later. A clock that is set back merges into what is there; and old rows go by their
number, not by their date, so a clock that is a year wrong for an hour costs no history.
"""

import logging
import math
import sqlite3
import struct
import threading
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

FILE = "monitor.db"
MINUTE, QUARTER, DAY = 60, 900, 86_400
MOST_NAMES = 4000
# A container has a new name with each start; so many sources are remembered.
MOST_SOURCES = 24
_ROW = struct.Struct("<HI4f")
_LARGEST = 3.0e38
_TABLES = """
CREATE TABLE IF NOT EXISTS metric (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS slot (
  id INTEGER PRIMARY KEY AUTOINCREMENT, source TEXT NOT NULL, step INTEGER NOT NULL,
  at INTEGER NOT NULL, packed BLOB NOT NULL, UNIQUE (source, step, at));
CREATE INDEX IF NOT EXISTS ix_slot_age ON slot (source, step, id);
"""


@dataclass(slots=True)
class Tally:
    """What is kept of many values of one figure."""

    count: int = 0
    least: float = math.inf
    most: float = -math.inf
    total: float = 0.0
    last: float = 0.0

    def add(self, value: float) -> None:
        """One more value."""
        self.count += 1
        self.least = min(self.least, value)
        self.most = max(self.most, value)
        self.total += value
        self.last = value

    def merge(self, later: "Tally") -> None:
        """All values of a later time."""
        self.count += later.count
        self.least = min(self.least, later.least)
        self.most = max(self.most, later.most)
        self.total += later.total
        self.last = later.last

    @property
    def mean(self) -> float:
        """The mean; 0 of nothing."""
        return self.total / self.count if self.count else 0.0


Tallies = dict[str, Tally]


@dataclass(frozen=True)
class Slot:
    """The figures from `at` (seconds since 1970) for as long as a step."""

    at: int
    tallies: Tallies


@dataclass(frozen=True)
class Keep:
    """How many rows of each step stay for each source."""

    minutes: int = 3 * 1440
    quarters: int = 45 * 96
    days: int = 730

    def of(self, step: int) -> int:
        """The number for a step."""
        return {MINUTE: self.minutes, QUARTER: self.quarters, DAY: self.days}[step]


class Store:
    """The file. Opened at the first need; safe from any thread. A broken file is put aside."""

    def __init__(self, path: Path, keep: Keep | None = None) -> None:
        self._path = path
        self._keep = keep or Keep()
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._ids: dict[str, int] = {}
        self._names: dict[int, str] = {}

    def add(self, source: str, at: int, tallies: Mapping[str, Tally]) -> None:
        """Add what was seen at `at` (seconds) to its minute, quarter hour and day.

        Raises sqlite3.Error when the disk does not take it; then nothing was added.
        """
        with self._opened() as db, _transaction(db):
            for step in (MINUTE, QUARTER, DAY):
                self._merge(db, source, step, at - at % step, tallies)
                self._drop_old(db, source, step)
            self._drop_sources(db)

    def read(
        self,
        source: str,
        *,
        since: int,
        until: int,
        step: int,
        names: Collection[str] | None = None,
    ) -> list[Slot]:
        """The rows of a step that begin in [since, until), oldest first; of these figures."""
        query = (
            "SELECT at, packed FROM slot WHERE source = ? AND step = ? AND at >= ? AND at < ? "
            "ORDER BY at"
        )
        with self._opened() as db:
            rows = db.execute(query, (source, step, since, until)).fetchall()
            wanted = None if names is None else {self._ids.get(name, 0) for name in names}
            return [Slot(at, self._unpacked(packed, wanted)) for at, packed in rows]

    def sources(self) -> list[str]:
        """Who wrote here, the newest first."""
        query = "SELECT source FROM slot GROUP BY source ORDER BY max(id) DESC"
        with self._opened() as db:
            return [row[0] for row in db.execute(query)]

    def size_bytes(self) -> int:
        """The size of the file."""
        with suppress(OSError):
            return self._path.stat().st_size
        return 0

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._connection is None:
                self._connection = self._open()
            try:
                yield self._connection
            except sqlite3.DatabaseError as error:
                if not isinstance(error, sqlite3.OperationalError):
                    self._connection.close()
                    self._connection = None
                    self._put_aside()
                raise

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            self._put_aside()
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self._path, timeout=5, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("PRAGMA cache_size=-1024")
            db.executescript(_TABLES)
            self._learn(db)
        except sqlite3.Error:
            db.close()
            raise
        with suppress(OSError):
            self._path.chmod(0o600)
        return db

    def _put_aside(self) -> None:
        """Begin anew beside a file that cannot be read. Graphs are no books."""
        log.error("%s cannot be read and is put aside; the graphs begin anew", self._path.name)
        for end in ("-wal", "-shm"):
            with suppress(OSError):
                Path(f"{self._path}{end}").unlink()
        with suppress(OSError):
            self._path.replace(f"{self._path}.broken")

    def _learn(self, db: sqlite3.Connection) -> None:
        self._names = dict(db.execute("SELECT id, name FROM metric"))
        self._ids = {name: id for id, name in self._names.items()}

    def _id(self, db: sqlite3.Connection, name: str) -> int | None:
        if name not in self._ids:
            if len(self._ids) >= MOST_NAMES:
                return None
            db.execute("INSERT OR IGNORE INTO metric (name) VALUES (?)", (name,))
            (id,) = db.execute("SELECT id FROM metric WHERE name = ?", (name,)).fetchone()
            self._ids[name], self._names[id] = id, name
        return self._ids[name]

    def _merge(
        self, db: sqlite3.Connection, source: str, step: int, at: int, new: Mapping[str, Tally]
    ) -> None:
        found = db.execute(
            "SELECT packed FROM slot WHERE source = ? AND step = ? AND at = ?", (source, step, at)
        ).fetchone()
        merged: Tallies = self._unpacked(found[0]) if found else {}
        for name, tally in new.items():
            if name in merged:
                merged[name].merge(tally)
            else:
                merged[name] = tally
        packed = b"".join(
            _ROW.pack(id, min(tally.count, 2**32 - 1), *(_fit(value) for value in _parts(tally)))
            for name, tally in merged.items()
            if tally.count and (id := self._id(db, name)) is not None
        )
        db.execute(
            "INSERT INTO slot (source, step, at, packed) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (source, step, at) DO UPDATE SET packed = excluded.packed",
            (source, step, at, zlib.compress(packed, 3)),
        )

    def _unpacked(self, packed: bytes, wanted: Collection[int] | None = None) -> Tallies:
        found: Tallies = {}
        for id, count, least, most, total, last in _ROW.iter_unpack(zlib.decompress(packed)):
            if wanted is not None and id not in wanted:
                continue
            if id not in self._names and self._connection is not None:
                self._learn(self._connection)  # another process has named it
            if (name := self._names.get(id)) is not None:
                found[name] = Tally(count, least, most, total, last)
        return found

    def _drop_old(self, db: sqlite3.Connection, source: str, step: int) -> None:
        db.execute(
            "DELETE FROM slot WHERE source = ? AND step = ? AND id <= (SELECT id FROM slot "
            "WHERE source = ? AND step = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
            (source, step, source, step, self._keep.of(step)),
        )

    def _drop_sources(self, db: sqlite3.Connection) -> None:
        db.execute(
            "DELETE FROM slot WHERE source IN (SELECT source FROM slot GROUP BY source "
            "ORDER BY max(id) DESC LIMIT -1 OFFSET ?)",
            (MOST_SOURCES,),
        )


class Recorder:
    """Gathers the values of a minute in memory and hands it to the store when it is over."""

    def __init__(self, store: Store, source: str) -> None:
        self.store = store
        self.source = source
        self._lock = threading.Lock()
        self._minute: int | None = None
        self._open: Tallies = {}

    def record(self, values: Mapping[str, float], *, at: int) -> None:
        """Values seen at `at` (seconds since 1970); a clock may jump in any direction."""
        minute = at - at % MINUTE
        with self._lock:
            over = None
            if self._minute is not None and minute != self._minute:
                over = self._minute, self._open
                self._open = {}
            self._minute = minute
            for name, value in values.items():
                if math.isfinite(value):
                    self._open.setdefault(name, Tally()).add(value)
        if over is not None:
            self._write(*over)

    def flush(self) -> None:
        """Write what there is of this minute."""
        with self._lock:
            minute, gathered = self._minute, self._open
            self._open = {}
        if minute is not None and gathered:
            self._write(minute, gathered)

    def read(
        self, *, since: int, until: int, step: int, names: Collection[str] | None = None
    ) -> list[Slot]:
        """What the store has of a time, with the minute that is not over yet."""
        try:
            slots = self.store.read(self.source, since=since, until=until, step=step, names=names)
        except sqlite3.Error:
            log.warning("the time series cannot be read", exc_info=True)
            slots = []
        with self._lock:
            if self._minute is None or not since - step < self._minute < until:
                return slots
            at = self._minute - self._minute % step
            now = {
                name: Tally(one.count, one.least, one.most, one.total, one.last)
                for name, one in self._open.items()
                if names is None or name in names
            }
        if slots and slots[-1].at == at:
            for name, tally in now.items():
                slots[-1].tallies.setdefault(name, Tally()).merge(tally)
        elif now and (not slots or slots[-1].at < at):
            slots.append(Slot(at, now))
        return slots

    def _write(self, minute: int, gathered: Tallies) -> None:
        try:
            self.store.add(self.source, minute, gathered)
        except (sqlite3.Error, OSError):
            log.warning("a minute of the time series could not be written", exc_info=True)


def binned(slots: list[Slot], *, since: int, until: int, width: int) -> list[Slot]:
    """The rows put together to bins of `width` seconds; a bin without any has no figures."""
    bins = [Slot(at, {}) for at in range(since - since % width, until, width)]
    if not bins:
        return []
    for slot in slots:
        place = (slot.at - bins[0].at) // width
        if 0 <= place < len(bins):
            for name, tally in slot.tallies.items():
                bins[place].tallies.setdefault(name, Tally()).merge(tally)
    return bins


def counts(name: str) -> bool:
    """Whether a figure is a count of a time, so that its sum is what a graph shows."""
    start, _, end = name.rpartition(".")
    return (
        start.startswith("http.")
        or end in ("hits", "misses", "writes")
        or end.startswith("answers_")
        or end.endswith("_tokens")
    )


def total(slots: list[Slot]) -> Tallies:
    """All rows as one."""
    found: Tallies = {}
    for slot in slots:
        for name, tally in slot.tallies.items():
            found.setdefault(name, Tally()).merge(tally)
    return found


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with suppress(sqlite3.Error):  # a full disk has rolled it back already
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _parts(tally: Tally) -> tuple[float, float, float, float]:
    return tally.least, tally.most, tally.total, tally.last


def _fit(value: float) -> float:
    return max(-_LARGEST, min(_LARGEST, value))
