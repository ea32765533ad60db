"""A lock whose waiters come in the order of their arrival.

A plain lock is often had again at once by whoever has just let go of it, and then those who wait
do so for many turns. Knows nothing of what it guards.
"""

import threading
from collections import deque
from types import TracebackType


class Turn:
    """Use it as `with turn:`; the same thread must not enter twice."""

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._taken = False
        self._line: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._gate:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._line.append(mine)
        try:
            mine.acquire()  # whoever is before hands the turn over; it is never free between
        except BaseException:
            self._leave(mine)
            raise

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        with self._gate:
            self._next()

    def _next(self) -> None:
        if self._line:
            self._line.popleft().release()
        else:
            self._taken = False

    def _leave(self, mine: threading.Lock) -> None:
        """Whoever is interrupted while waiting gives up the place, or the turn that just came."""
        with self._gate:
            if mine in self._line:
                self._line.remove(mine)
            else:
                self._next()
