"""How long a fraud score takes, figures and model and novelty together, one event at a time.

    python -m benchmarks.fraud_latency [--events 20000] [--threads 8]

Trains on one made-up stream and scores another, each event once, with a cold cache. Exit code 1
when a goal is missed: on one thread p50 0.15 ms and p99 1 ms, on eight threads p99 5 ms.
"""

import argparse
import sys
import threading
import time
from itertools import chain
from typing import Any

from benchmarks.fraud_stream import stream
from chat_app.ml.fraud import Engine, FraudModel, State, events, features, replay


def quantile(values: list[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def told(name: str, micros: list[float]) -> tuple[float, float]:
    """Print a line; p50 and p99 in µs."""
    p50, p99 = quantile(micros, 0.5), quantile(micros, 0.99)
    most = max(micros)
    print(f"{name:34s} p50 {p50:8.1f} µs   p99 {p99:8.1f} µs   max {most:9.1f} µs", flush=True)
    return p50, p99


def timed(work: Any, rows: list[Any]) -> list[float]:
    """Microseconds of each call."""
    found = []
    for row in rows:
        began = time.perf_counter_ns()
        work(row)
        found.append((time.perf_counter_ns() - began) / 1000)
    return found


def main() -> int:
    """Print the table; 1 if a goal was missed."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--events", type=int, default=20_000)
    reader.add_argument("--threads", type=int, default=8)
    options = reader.parse_args()
    learnt = stream(users=80, days=40, seed=1)
    figures = replay(learnt)
    model = FraudModel().fit(
        figures, [row["label"] for row in learnt], [row["ts"] for row in learnt]
    )
    rows = stream(users=200, days=90, seed=2)[: options.events]
    print(f"{len(rows)} events, {len(features.NAMES)} figures, {model.report['rounds']} rounds")
    read = [events.read(row) for row in rows]
    state = State()
    told("figures alone", timed(lambda event: features.observe(state, event), read))
    engine = Engine()
    told("rules alone, from a dict", timed(engine.score, rows))
    engine = Engine()
    engine.use(model, "1.0")
    p50, p99 = told("the whole score, one thread", timed(engine.score, rows))
    engine = Engine()
    engine.use(model, "1.0")
    shares: list[list[float]] = [[] for _ in range(options.threads)]
    # A thread that waits for the interpreter otherwise waits for 5 ms at least.
    sys.setswitchinterval(0.0005)

    def work(place: int) -> None:
        shares[place] = timed(engine.score, rows[place :: options.threads])

    crowd = [threading.Thread(target=work, args=(place,)) for place in range(options.threads)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    _, crowded = told(f"the whole score, {options.threads} threads", [*chain.from_iterable(shares)])
    print(f"cache: {engine.cache.hits} hits, {engine.cache.misses} misses")
    met = p50 <= 150 and p99 <= 1000 and crowded <= 5000
    print("goals met" if met else "a goal was missed")
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
