"""Whether the program goes on answering while people sign in: 20 at once, beside a probe.

    python -m benchmarks.logins [--logins 20] [--rounds 3]

Starts the real program with its real password hashing. Printed are how long `/livez` took
while nobody and while 20 people signed in, and how the sign-ins ended. The goal: p99 of the
probe at most 100 ms.
"""

import argparse
import asyncio
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx

from tests.servers import PASSWORD, Person, serving

GOAL_SECONDS = 0.1
PAUSE_SECONDS = 0.01


async def probe(client: httpx.AsyncClient, done: asyncio.Event) -> list[float]:
    """The seconds that each look at `/livez` took until `done`."""
    took = []
    while not done.is_set():
        began = time.monotonic()
        (await client.get("/livez")).raise_for_status()
        took.append(time.monotonic() - began)
        await asyncio.sleep(PAUSE_SECONDS)
    return took


def show(words: str, took: list[float]) -> float:
    """Print the quantiles; returns p99 in seconds."""
    took = sorted(took)
    half, most = took[len(took) // 2], took[int(0.99 * (len(took) - 1))]
    print(f"{words:<24} p50 {1000 * half:6.1f} ms  p99 {1000 * most:6.1f} ms  "
          f"max {1000 * took[-1]:6.1f} ms  of {len(took)}")  # fmt: skip
    return most


async def measure(options: argparse.Namespace, url: str, name: str) -> int:
    """Print the figures; 1 if the goal was missed."""
    plenty = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=plenty) as client:
        done = asyncio.Event()
        alone = asyncio.create_task(probe(client, done))
        await asyncio.sleep(2)
        done.set()
        show("/livez, nobody", await alone)
        done = asyncio.Event()
        beside = asyncio.create_task(probe(client, done))
        codes: Counter[int] = Counter()
        for _ in range(options.rounds):
            body = {"login": name, "password": PASSWORD}
            answers = await asyncio.gather(
                *(client.post("/api/auth/login", json=body) for _ in range(options.logins))
            )
            codes.update(answer.status_code for answer in answers)
        done.set()
        worst = show(f"/livez, {options.logins} sign-ins", await beside)
    print("sign-ins:", dict(codes))
    return int(worst > GOAL_SECONDS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logins", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    # All sign in to one account: each counts as a failure until it is judged.
    limits = {"LIMITS__LOGIN_FAILURES_PER_15_MINUTES": "100"}
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder) / "data", **limits) as server,
    ):
        person = Person(server, "everybody")
        try:
            return asyncio.run(measure(options, server.url, person.name))
        finally:
            person.close()


if __name__ == "__main__":
    raise SystemExit(main())
