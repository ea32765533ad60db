"""How long a stop takes: from asking for it until the engine is free of the answer.

    python -m benchmarks.stops [--stops 100] [--chats 100]

Starts the real program with the script engine, whose one seat for each answer is taken until the
answer is stopped. An answer streams over REST, is asked to stop in its middle, and is timed until
its reader has the `done` event, which comes after the engine let go of it and its charge is
written; so the engine was free earlier. First nobody else is there, which is the baseline; then
`--chats` people stream in the page. At the end the books are verified.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.streams import PageTab, many, prepare, quantile
from chat_app.accounts import sessions
from tests.page import Page
from tests.servers import MODEL, Person, serving, verify

GOAL_MS = 100
STOP_AFTER = 3  # pieces of the answer


async def stopped(client: httpx.AsyncClient, cookie: str) -> float:
    """Milliseconds from asking one answer to stop until its reader saw it end."""
    headers = {"Cookie": cookie}
    body = {"model": MODEL, "message": "hello there", "stream": True}
    seen, asked, reply = 0, 0.0, ""
    asking: asyncio.Task[httpx.Response] | None = None
    async with client.stream("POST", "/api/chat/message", headers=headers, json=body) as events:
        assert events.status_code == 200, await events.aread()
        async for line in events.aiter_lines():
            if line.startswith("data:") and not reply:
                reply = line.split('"reply_id":"', 1)[1].split('"', 1)[0]
            seen += line == "event: delta"
            if seen == STOP_AFTER and asking is None:
                asked = time.monotonic()
                stop = client.post(f"/api/chat/replies/{reply}/stop", headers=headers)
                asking = asyncio.create_task(stop)
            if line == "event: done":
                break
        took = time.monotonic() - asked
    assert asking is not None, "the answer ended before it was stopped"
    (await asking).raise_for_status()
    return 1000 * took


async def run(url: str, people: list[str], page: Page, stops: int) -> dict[str, list[float]]:
    """The stops alone, then beside everybody's chat in the page."""
    async with many(url) as client:
        one, *others = people
        await stopped(client, one)  # warms the program up
        alone = [await stopped(client, one) for _ in range(stops)]
        crowd = []
        for cookie in others:
            tab = PageTab(client, cookie, None, page)
            await tab.open()
            crowd.append(asyncio.create_task(tab.chat()))
            await asyncio.sleep(0.1)
        beside = [await stopped(client, one) for _ in range(stops)]
        assert not any(chat.done() for chat in crowd), "the crowd left before the stops were done"
        for chat in crowd:
            chat.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
    return {"alone": alone, f"beside {len(others)} chats": beside}


def main() -> int:
    """Print the table; 1 if the goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stops", type=int, default=100)
    parser.add_argument("--chats", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        people = prepare(data_dir, options.chats + 1, earlier=0, credits=100_000)
        with serving(
            data_dir,
            LLM__SCRIPT__TOKENS="20000",
            LLM__SCRIPT__TOKENS_PER_SECOND="20",
            LIMITS__REQUESTS_PER_MINUTE="0",
        ) as server:
            page = Page(server, Person(server, "looker"))
            name = sessions.cookie_name(False)
            cookies = [f"{name}={cookie}" for cookie, _ in people]
            found = asyncio.run(run(server.url, cookies, page, options.stops))
        print(verify(data_dir).stdout.strip())
    base = statistics.median(next(iter(found.values())))
    for where, times in found.items():
        p50, p95 = statistics.median(times), quantile(times, 0.95)
        print(
            f"{where:24s} p50 {p50:7.1f} ms   p95 {p95:7.1f} ms   most {max(times):7.1f} ms"
            f"   ratio {p50 / base:5.2f}"
        )
    return int(quantile([*found.values()][-1], 0.95) > GOAL_MS)


if __name__ == "__main__":
    raise SystemExit(main())
