"""How many processor threads a step is computed with.

A step is a thousand short operations, and waking a sleeping thread takes as long as one of them, so
threads wait for each other by spinning. While something else takes one of their cores they spin in
vain, and a step takes several times as long as with one thread. Spinning threads are always busy:
time of the processor that is far below that of the clock says that they were not let.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

BUSY_SHARE = 0.65
"""Of the time that the threads would take if nobody else wanted their cores."""
_BAD_STEPS, _BAD_SECONDS, _GOOD_STEPS = 3, 0.3, 30
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 30.0
# Shorter ones say little.
_LEAST_SECONDS = 0.002


class Threads:
    """`most` threads while the machine is free, half as many again and again while it is not.

    `use` sets the number. After a pause, which doubles when it was too early, all are tried again.
    Without `watched` the number stays: beside a GPU the processor's threads have nothing to share.
    """

    def __init__(
        self,
        most: int,
        use: Callable[[int], None],
        *,
        watched: bool = True,
        clock: Callable[[], float] = time.perf_counter,
        processor: Callable[[], float] = time.process_time,
    ) -> None:
        self._most = self.count = most
        self._use = use
        self._clock, self._processor = clock, processor
        self._watched = watched and most > 1
        self._bad = self._good = 0
        self._bad_seconds = 0.0
        self._pause = _PAUSE_SECONDS
        self._again = 0.0
        use(most)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Watch a step, and decide how many threads the next one gets."""
        if not self._watched:
            yield
            return
        if self.count < self._most and self._clock() >= self._again:
            self._set(self._most)
        began, busy = self._clock(), self._processor()
        yield
        took = self._clock() - began
        if self.count > 1 and took >= _LEAST_SECONDS:
            self._judge(took, (self._processor() - busy) / (took * self.count))

    def _judge(self, took: float, share: float) -> None:
        if share >= BUSY_SHARE:
            self._bad, self._bad_seconds = 0, 0.0
            self._good += 1
            if self._good >= _GOOD_STEPS and self.count == self._most:
                self._pause = _PAUSE_SECONDS
            return
        self._good = 0
        self._bad += 1
        self._bad_seconds += took
        if self._bad < _BAD_STEPS and self._bad_seconds < _BAD_SECONDS:
            return
        if self.count == self._most:
            self._again = self._clock() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        self._set(self.count // 2)

    def _set(self, count: int) -> None:
        self.count = count
        self._bad = self._good = 0
        self._bad_seconds = 0.0
        self._use(count)
