"""The meter: what a model did lately, for operators, and each answer's share of its time.

Kept in memory and measured where answers are handed out, so it is the same for every engine.
It knows no user and no price. Safe from any thread.

A model is busy while at least one answer of it is between its start (the model has the prompt)
and its end. While n of them are, each gets 1/n of the time: that share is its engine time, and
the engine times of all answers add up to the busy time. Waiting and loading are not in it.
"""

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

RATE_SECONDS = 60
ANSWERS_SECONDS = 300
# Percentiles of more answers than this say nothing new.
_MOST_ANSWERS = 5000

End = Literal["done", "cancelled", "failed"]


@dataclass(frozen=True, slots=True)
class _Ended:
    """An answer that ended `at` (monotonic seconds)."""

    at: float
    end: End
    queue_ms: float | None
    ttft_ms: float | None
    engine_ms: float
    code: str


class Meter:
    """The figures of one model. `now` gives seconds that never go backwards."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._running = 0
        self._at = now()
        # Seconds that an answer would have got that ran all the time: the integral of 1/n.
        self._shared = 0.0
        self._seconds: deque[list[float]] = deque()  # [second, tokens, busy seconds]
        self._ended: deque[_Ended] = deque(maxlen=_MOST_ANSWERS)
        self._totals: Counter[str] = Counter()
        self._busy_seconds = 0.0

    def answer(self, *, background: bool = False, waited_seconds: float = 0.0) -> "Span":
        """Measure an answer from now on, or from when it began to wait for its turn.

        A `background` one takes time but is not counted.
        """
        return Span(self, self._now() - waited_seconds, background=background)

    def figures(self) -> dict[str, Any]:
        """Rates of the last minute, answers of the last five, totals since the start.

        Percentiles are left out while there are no answers. Units are in the names;
        `busy_share` is 0 to 1, `failure_codes` counts the codes of failed answers.
        """
        with self._lock:
            now = self._advance()
            since = now - RATE_SECONDS
            lately = [bucket for bucket in self._seconds if bucket[0] >= since]
            ended = [item for item in self._ended if item.at >= now - ANSWERS_SECONDS]
            totals = dict(self._totals)
            busy_seconds = self._busy_seconds
        ends = Counter(item.end for item in ended)
        engine = [item.engine_ms for item in ended if item.engine_ms]
        found: dict[str, Any] = {
            "tokens_per_second": round(sum(bucket[1] for bucket in lately) / RATE_SECONDS, 2),
            "busy_share": round(min(1.0, sum(bucket[2] for bucket in lately) / RATE_SECONDS), 3),
            "answers_done": ends["done"],
            "answers_cancelled": ends["cancelled"],
            "answers_failed": ends["failed"],
            "failure_codes": dict(Counter(item.code for item in ended if item.code)),
            "busy_seconds_total": round(busy_seconds, 3),
        }
        for name in ("done", "cancelled", "failed"):
            found[f"answers_{name}_total"] = totals.get(name, 0)
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
            found[f"{name}_total"] = totals.get(name, 0)
        if engine:
            found["engine_ms_mean"] = round(sum(engine) / len(engine), 1)
        for name in ("queue_ms", "ttft_ms"):
            values = sorted(value for item in ended if (value := getattr(item, name)) is not None)
            if values:
                found[f"{name}_p50"] = round(percentile(values, 0.50), 1)
                found[f"{name}_p95"] = round(percentile(values, 0.95), 1)
        return found

    def _advance(self) -> float:
        """Bring the integrals up to now. Called with the lock."""
        now = self._now()
        if self._running:
            passed = now - self._at
            self._shared += passed / self._running
            self._busy_seconds += passed
            start = max(self._at, now - RATE_SECONDS)
            while start < now:
                end = min(now, math.floor(start) + 1.0)
                self._bucket(start)[2] += end - start
                start = end
        self._at = now
        while self._seconds and self._seconds[0][0] < now - RATE_SECONDS - 1:
            self._seconds.popleft()
        return now

    def _bucket(self, at: float) -> list[float]:
        second = float(math.floor(at))
        if not self._seconds or self._seconds[-1][0] < second:
            self._seconds.append([second, 0.0, 0.0])
        return self._seconds[-1]


class Span:
    """One answer under the meter. Durations in milliseconds."""

    def __init__(self, meter: Meter, began: float, *, background: bool) -> None:
        self._meter = meter
        self._began = began
        self._background = background
        self._started: float | None = None
        self._first: float | None = None
        self._shared = 0.0
        self._engine_ms: float | None = None

    def started(self, *, prompt_tokens: int, cached_tokens: int) -> None:
        """The model has the prompt; `cached_tokens` of it needed no work."""
        meter = self._meter
        with meter._lock:
            self._started = meter._advance()
            self._shared = meter._shared
            meter._running += 1
            meter._totals["prompt_tokens"] += prompt_tokens
            meter._totals["cached_tokens"] += cached_tokens

    def wrote(self, tokens: int) -> None:
        """So many new tokens arrived."""
        meter = self._meter
        with meter._lock:
            now = meter._advance()
            self._first = self._first or now
            meter._bucket(now)[1] += tokens
            meter._totals["completion_tokens"] += tokens

    def ended(self, end: End, code: str = "") -> float:
        """The answer is over; its engine time. Only the first call counts."""
        if self._engine_ms is not None:
            return self._engine_ms
        meter = self._meter
        with meter._lock:
            now = meter._advance()
            self._engine_ms = 0.0
            if self._started is not None:
                meter._running -= 1
                self._engine_ms = (meter._shared - self._shared) * 1000
            if not self._background:
                meter._totals[end] += 1
                meter._ended.append(
                    _Ended(
                        now,
                        end,
                        None if self._started is None else (self._started - self._began) * 1000,
                        None if self._first is None else (self._first - self._began) * 1000,
                        self._engine_ms,
                        code,
                    )
                )
        return self._engine_ms


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the sorted values do not exceed (nearest rank)."""
    return values[max(0, math.ceil(share * len(values)) - 1)]
