"""What a flood costs somebody else: time to the first token, idle and beside 1,000 requests.

    python -m benchmarks.fairness [--requests 1000] [--connections 50] [--answers 8] [--slots 2]

Starts the real program with the script engine, which writes `--slots` answers at once, and its
default limits. One person asks now and then, alone and then while another one sends as many
requests as fit through their connections. Printed are both medians, their ratio, and how the
flood was answered. The goal: no more than twice the idle time and one answer's length.
"""

import argparse
import asyncio
import itertools
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx

from tests.servers import MODEL, Person, serving

FIRST_TOKEN_MS, TOKENS, RATE = 200, 20, 40
ANSWER_SECONDS = FIRST_TOKEN_MS / 1000 + TOKENS / RATE
LIMITS = {
    "LIMITS__RUNNING_PER_USER": "2",
    "LIMITS__WAITING_PER_USER": "2",
    "LIMITS__QUEUE_TOTAL": "200",
    "LIMITS__REQUESTS_PER_MINUTE": "120",
}


async def first_token(client: httpx.AsyncClient) -> float:
    """Ask once; the seconds until the first text, after which the answer is read to its end."""
    began, first = time.monotonic(), 0.0
    body = {"model": MODEL, "message": "hello there", "stream": True}
    async with client.stream("POST", "/api/chat/message", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line == "event: delta" and not first:
                first = time.monotonic() - began
    return first


async def flood(client: httpx.AsyncClient, numbers: "itertools.count[int]", most: int) -> Counter:
    """Send requests one after another while there are numbers; how they were answered."""
    seen: Counter[str] = Counter()
    while next(numbers) < most:
        answer = await client.post("/api/chat/message", json={"model": MODEL, "message": "more"})
        told = "with" if "retry-after" in answer.headers else "without"
        code = answer.json().get("error", {}).get("code", "answered")
        seen[code if answer.status_code == 200 else f"{code}, {told} Retry-After"] += 1
    return seen


async def measure(options: argparse.Namespace, url: str, mine: str, theirs: str) -> int:
    """Print the figures; 1 if the goal was missed."""
    plenty = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(
            base_url=url, timeout=120, headers={"Authorization": f"Bearer {mine}"}
        ) as client,
        httpx.AsyncClient(
            base_url=url, timeout=120, limits=plenty, headers={"Authorization": f"Bearer {theirs}"}
        ) as flooder,
    ):
        idle = [await first_token(client) for _ in range(options.answers)]
        numbers = itertools.count()
        floods = [
            asyncio.create_task(flood(flooder, numbers, options.requests))
            for _ in range(options.connections)
        ]
        await asyncio.sleep(ANSWER_SECONDS / 2)
        beside = []
        while not all(task.done() for task in floods) and len(beside) < options.answers:
            beside.append(await first_token(client))
        codes = sum((await asyncio.gather(*floods)), Counter())
    alone, crowded = statistics.median(idle), statistics.median(beside)
    goal = 2 * alone + ANSWER_SECONDS
    print(f"first token alone            {1000 * alone:8.0f} ms  (median of {len(idle)})")
    print(f"first token beside the flood {1000 * crowded:8.0f} ms  (median of {len(beside)})")
    print(f"ratio {crowded / alone:.2f}; worst {1000 * max(beside):.0f} ms; "
          f"goal {1000 * goal:.0f} ms = 2 x idle + one answer")  # fmt: skip
    for code, count in codes.most_common():
        print(f"{count:6d}  {code}")
    return int(crowded > goal)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--answers", type=int, default=8)
    parser.add_argument("--slots", type=int, default=2)
    options = parser.parse_args()
    script = {
        "LLM__SCRIPT__FIRST_TOKEN_MS": str(FIRST_TOKEN_MS),
        "LLM__SCRIPT__TOKENS": str(TOKENS),
        "LLM__SCRIPT__TOKENS_PER_SECOND": str(RATE),
        "LLM__SCRIPT__SLOTS": str(options.slots),
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder) / "data", **LIMITS, **script) as server,
    ):
        mine, theirs = Person(server, "patient"), Person(server, "flooder")
        try:
            return asyncio.run(measure(options, server.url, mine.token, theirs.token))
        finally:
            mine.close()
            theirs.close()


if __name__ == "__main__":
    raise SystemExit(main())
