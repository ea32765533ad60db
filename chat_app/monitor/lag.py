"""Loop lag: how late the event loop comes to what is due. It knows nothing of what holds it up."""

import asyncio
import threading
import time
from collections.abc import Callable

EVERY_SECONDS = 0.25


class Lag:
    """Measured by a small task on the loop; read from any thread, also while the loop stands."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._worst = 0.0
        self._due: float | None = None

    async def watch(self) -> None:
        """Measure until cancelled."""
        try:
            while True:
                self._due = self._now() + EVERY_SECONDS
                await asyncio.sleep(EVERY_SECONDS)
                self.came()
        finally:
            self._due = None

    def came(self) -> None:
        """The loop came to the task."""
        with self._lock:
            if self._due is not None:
                self._worst = max(self._worst, self._now() - self._due)

    def take(self) -> float | None:
        """The worst seconds since the last call, a stop that lasts included; None: not watched."""
        with self._lock:
            due, worst = self._due, self._worst
            self._worst = 0.0
        if due is None:
            return None
        return max(worst, self._now() - due, 0.0)
