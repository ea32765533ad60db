"""Requests at a constant rate, whatever the answers take: what a busy hour adds to each of them.

    python -m benchmarks.openloop [--per-minute 1000 3000] [--minutes 5] [--people 50]

Starts the real program with the script engine (an answer takes `--answer-ms`). The baseline is the
same requests one at a time. Then they arrive at a constant rate, and each is timed from the moment
at which it was meant to be sent: a server that stalls is charged with those that queued meanwhile
(no coordinated omission). Four of ten requests are messages, the others read balance, models,
transactions, conversations, and the history's search.

Printed are percentiles of the baseline and of each rate, what the rate adds to the p95, errors, and
how late the generator itself was: beyond a few milliseconds the machine was busy otherwise.
At the end the books are verified.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.servers import MODEL, Person, Server, serving, verify

READS = (
    "/api/billing/balance", "/api/chat/models", "/api/billing/transactions?limit=20",
    "/api/chat/conversations?limit=20", "/api/chat/history?q=hello", "/api/billing/balance",
)  # fmt: skip
CYCLE = ("message", 0, "message", 1, 2, "message", 3, 4, "message", 5)


@dataclass
class Seen:
    """Seconds from the intended moment to the end of the answer, by kind, and what failed."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    late: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def all(self) -> list[float]:
        return [value for values in self.seconds.values() for value in values]


def percentile(values: list[float], share: float) -> float:
    """In milliseconds; 0 of nothing."""
    ordered = sorted(values)
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


async def one(
    client: httpx.AsyncClient, tokens: list[str], number: int, seen: Seen, at: float
) -> None:
    """Request `number`, timed from `at`."""
    step = CYCLE[number % len(CYCLE)]
    head = {"Authorization": f"Bearer {tokens[number % len(tokens)]}"}
    kind = "message" if step == "message" else "read"
    seen.late.append(time.perf_counter() - at)
    try:
        if kind == "message":
            body = {"model": MODEL, "message": f"hello number {number}", "stream": False}
            answer = await client.post("/api/chat/message", json=body, headers=head)
        else:
            answer = await client.get(READS[int(step)], headers=head)
        if answer.status_code != 200:
            seen.errors[f"{answer.status_code} {answer.text[:80]}"] += 1
    except httpx.HTTPError as error:
        seen.errors[type(error).__name__] += 1
    seen.seconds[kind].append(time.perf_counter() - at)


async def in_turn(client: httpx.AsyncClient, tokens: list[str], count: int) -> Seen:
    """The baseline: one request at a time."""
    seen = Seen()
    for number in range(count):
        await one(client, tokens, number, seen, time.perf_counter())
    return seen


async def at_rate(
    client: httpx.AsyncClient, tokens: list[str], per_minute: int, minutes: float
) -> Seen:
    """Requests that arrive every `60 / per_minute` seconds."""
    seen = Seen()
    began = time.perf_counter() + 0.1
    running: set[asyncio.Task[None]] = set()
    for number in range(int(per_minute * minutes)):
        at = began + number * 60 / per_minute
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        task = asyncio.create_task(one(client, tokens, number, seen, at))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        await asyncio.wait(running, timeout=60)
    return seen


def shown(name: str, seen: Seen, baseline: Seen | None = None) -> None:
    """One line for all, one for each kind."""
    print(f"{name}: {len(seen.all())} requests, {sum(seen.errors.values())} errors", end="")
    print(f", generator late p99 {percentile(seen.late, 0.99):.1f} ms")
    for kind in sorted(seen.seconds):
        values = seen.seconds[kind]
        p50, p95, p99 = (percentile(values, share) for share in (0.5, 0.95, 0.99))
        line = f"  {kind:8} p50 {p50:7.1f}  p95 {p95:7.1f}  p99 {p99:7.1f} ms"
        if baseline is not None:
            line += f"   added p95 {p95 - percentile(baseline.seconds[kind], 0.95):+.1f} ms"
        print(line)
    for error, count in seen.errors.most_common(5):
        print(f"  {count} x {error}")


async def measure(server: Server, tokens: list[str], chosen: argparse.Namespace) -> None:
    """The baseline, then each rate."""
    limits = httpx.Limits(max_connections=400, max_keepalive_connections=400)
    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
        await in_turn(client, tokens, 50)  # warm
        baseline = await in_turn(client, tokens, chosen.baseline)
        shown("one at a time", baseline)
        for per_minute in chosen.per_minute:
            found = await at_rate(client, tokens, per_minute, chosen.minutes)
            shown(f"{per_minute} a minute", found, baseline)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--per-minute", type=int, nargs="+", default=[1000, 3000])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--baseline", type=int, default=600, help="requests one at a time")
    parser.add_argument("--answer-ms", type=int, default=0, help="how long a model writes")
    chosen = parser.parse_args()
    speed = 8000 // chosen.answer_ms if chosen.answer_ms else 0
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        settings = {
            "LLM__SCRIPT__TOKENS": "8",
            "LLM__SCRIPT__TOKENS_PER_SECOND": str(speed),
            "ACCOUNTS__WELCOME_CREDITS": "100000",
        }
        with serving(data, **settings) as server:
            people = [Person(server, f"person{number}") for number in range(chosen.people)]
            asyncio.run(measure(server, [one.token for one in people], chosen))
            figures = httpx.get(f"{server.url}/readyz", timeout=10).json()
            print("ready:", json.dumps(figures["checks"]))
            for person in people:
                person.close()
            server.terminate()
        print(verify(data).stdout.strip())


if __name__ == "__main__":
    main()
