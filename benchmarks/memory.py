"""What the server keeps: memory of open pages that nobody uses, and of a long run of messages.

    python -m benchmarks.memory [--sessions 100] [--minutes 30] [--per-minute 300]

Starts the real program with the script engine. First `--sessions` people open the page and leave
it open, three times over: what each hundred adds to the server's resident memory. Then messages
arrive at a constant rate, half by the page's own protocol and half over REST, each in a new
conversation of somebody else: memory each minute, and its growth after the tenth (after a third of
a shorter run), which is the baseline of the same run.
"""

import argparse
import asyncio
import itertools
import json
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import psutil

from benchmarks.streams import PageTab, RestTab, many, prepare
from chat_app.accounts import sessions
from tests.page import Page
from tests.servers import Person, Server, serving

ROUNDS = 3
PEOPLE = 50
MIB = 1024 * 1024


def resident(process: psutil.Process) -> float:
    """MiB of the server and what it started."""
    family = [process, *process.children(recursive=True)]
    return float(sum(one.memory_info().rss for one in family)) / MIB


async def idle(
    client: httpx.AsyncClient, people: list[str], page: Page, process: psutil.Process
) -> list[float]:
    """MiB that each round of open pages added. The first also fills caches."""
    added = []
    share = len(people) // ROUNDS
    async with AsyncExitStack() as open_pages:
        for number in range(ROUNDS):
            before = resident(process)
            for cookie in people[number * share : (number + 1) * share]:
                tab = PageTab(client, cookie, None, page)
                await tab.open()
                heartbeat = client.stream(
                    "GET", f"/gradio_api/heartbeat/{tab.session_hash}", headers=tab.headers
                )
                await open_pages.enter_async_context(heartbeat)
            await asyncio.sleep(3)
            added.append(resident(process) - before)
    return added


async def soak(
    client: httpx.AsyncClient,
    people: list[str],
    page: Page,
    process: psutil.Process,
    *,
    minutes: float,
    per_minute: float,
) -> tuple[list[float], int, int]:
    """MiB at the end of each minute, how many messages were sent, and how many failed."""
    turns = itertools.cycle(people)
    failed, running, kept = 0, set[asyncio.Task[None]](), []

    async def one(tab: PageTab | RestTab) -> None:
        nonlocal failed
        try:
            if isinstance(tab, PageTab):
                await tab.open()
            chat = await tab.chat()
            failed += not chat.ended
        except httpx.HTTPError:
            failed += 1

    began, sent = time.monotonic(), 0
    while (now := time.monotonic() - began) < minutes * 60:
        way = PageTab if sent % 2 else RestTab
        task = asyncio.create_task(one(way(client, next(turns), None, page)))
        running.add(task)
        task.add_done_callback(running.discard)
        sent += 1
        if now // 60 > len(kept):
            kept.append(resident(process))
        await asyncio.sleep(max(0.0, sent * 60 / per_minute - (time.monotonic() - began)))
    await asyncio.gather(*running)
    kept.append(resident(process))
    return kept, sent, failed


async def run(
    server: Server, people: list[str], page: Page, options: argparse.Namespace
) -> dict[str, object]:
    """Both, one after the other."""
    process = psutil.Process(server.process.pid)
    async with many(server.url) as client:
        added = await idle(client, people[PEOPLE:], page, process)
        kept, sent, failed = await soak(
            client,
            people[:PEOPLE],
            page,
            process,
            minutes=options.minutes,
            per_minute=options.per_minute,
        )
    return {"idle": added, "minutes": kept, "sent": sent, "failed": failed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--per-minute", type=float, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        people = prepare(data_dir, PEOPLE + ROUNDS * options.sessions, earlier=0, credits=100_000)
        with serving(
            data_dir,
            LLM__SCRIPT__TOKENS="20",
            LLM__SCRIPT__TOKENS_PER_SECOND="40",
            LIMITS__REQUESTS_PER_MINUTE="0",
        ) as server:
            page = Page(server, Person(server, "looker"))
            name = sessions.cookie_name(False)
            wearing = [f"{name}={cookie}" for cookie, _ in people]
            figures = asyncio.run(run(server, wearing, page, options))
    added, kept = figures["idle"], figures["minutes"]
    assert isinstance(added, list)
    assert isinstance(kept, list)
    base = kept[min(9, len(kept) // 3)]
    print(f"{options.sessions} idle pages add MiB: " + ", ".join(f"{one:.1f}" for one in added))
    print(
        f"{figures['sent']} messages, {figures['failed']} failed; MiB by minute: "
        + ", ".join(f"{one:.0f}" for one in kept)
    )
    print(f"growth after the baseline {base:.0f} MiB: {100 * (kept[-1] / base - 1):.1f} %")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
