"""Health: whether the program can do its work now. Runs no model and hashes nothing."""

import asyncio
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, update

from chat_app.db import Database
from chat_app.errors import AppError
from chat_app.monitor.tables import Heartbeat

# Below this the database could fill the disk in the middle of an answer.
MIN_FREE_BYTES = 200 * 1024 * 1024
# Probes come from anybody, so they share an answer for this long.
FRESH_SECONDS = 2.0


@dataclass(frozen=True)
class Health:
    """`ready` when every check is `ok`; a check that is not says why in a few words.

    `engine` says whether a model can answer. It is no check: without one everything else works,
    and an operator must come in to mend it.
    """

    ready: bool
    checks: dict[str, str] = field(default_factory=dict)
    engine: str = "ok"


class Probe:
    """Checks the database and the disk, at most every two seconds."""

    def __init__(
        self,
        db: Database,
        data_dir: Path,
        *,
        now: Callable[[], float] = time.monotonic,
        free_bytes: Callable[[Path], int] | None = None,
        engine: Callable[[], str] | None = None,
    ) -> None:
        self._db = db
        self._data_dir = data_dir
        self._now = now
        self._free_bytes = free_bytes or (lambda path: shutil.disk_usage(path).free)
        self._engine = engine or (lambda: "ok")
        self._last: tuple[float, dict[str, str], str] | None = None

    async def look(self, *, draining: bool, at: int) -> Health:
        """The health now. `at` in microseconds is what the heartbeat row gets."""
        if self._last is None or self._now() - self._last[0] >= FRESH_SECONDS:
            checks = {"database": await self._database(at), "disk": self._disk()}
            self._last = (self._now(), checks, await asyncio.to_thread(self._engine))
        checks = {"server": "draining" if draining else "ok", **self._last[1]}
        return Health(all(state == "ok" for state in checks.values()), checks, self._last[2])

    async def _database(self, at: int) -> str:
        try:
            await self._db.awrite(lambda session: beat(session, at=at))
        except (AppError, OSError):
            return "cannot be written"
        return "ok"

    def _disk(self) -> str:
        try:
            free = self._free_bytes(self._data_dir)
        except OSError:
            return "cannot be read"
        return "ok" if free >= MIN_FREE_BYTES else "less than 200 MB free"


def beat(session: Session, *, at: int) -> None:
    """Write the heartbeat row."""
    if session.exec(update(Heartbeat).where(col(Heartbeat.id) == 1).values(at=at)).rowcount:
        return
    try:
        with session.begin_nested():
            session.add(Heartbeat(id=1, at=at))
    except IntegrityError:
        return  # another process wrote the row first, which proves the same
