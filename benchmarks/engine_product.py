"""The whole way of an answer, as the program itself goes it: supervisor, worker process, text.

    python -m benchmarks.engine_product '{"model": "gemma-3-270m", "models_dir": …, …}'

Prints one line of JSON. The number of threads is the program's own choice unless it is named.
"""

import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from chat_app import settings as settings_room
from chat_app.llm import build, choice
from chat_app.llm.engine import (
    ChatMessage,
    Delta,
    Done,
    Engine,
    Failed,
    Request,
    Sampling,
    Started,
)

LONG = (
    "The harbour master keeps a book in which every ship is written down with its cargo, its "
    "captain and the weather of the day. "
)
LOOP_SECONDS = 0.005


@dataclass
class Heard:
    """One answer as its reader saw it; moments of the monotonic clock, tokens summed up."""

    sent: float = 0.0
    moments: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    started: Started | None = None
    ended: float = 0.0
    reason: str = ""

    @property
    def first_seconds(self) -> float:
        return self.moments[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in zip(self.moments, self.moments[1:])]  # noqa: B905


class Product:
    """An engine as the program builds it, and questions to it."""

    def __init__(self, engine: Engine, model: str) -> None:
        self.engine, self.model = engine, model
        self._number = 0

    def request(self, messages: list[ChatMessage], tokens: int, scope: str) -> Request:
        self._number += 1
        return Request(
            id=f"rep_{self._number}",
            model=self.model,
            messages=tuple(messages),
            max_tokens=tokens,
            sampling=Sampling(temperature=0.0),
            user_scope=scope,
        )

    async def hear(self, request: Request, heard: Heard | None = None) -> Heard:
        """Read one answer to its end."""
        heard = heard or Heard()
        heard.sent = time.perf_counter()
        async for event in self.engine.submit(request):
            now = time.perf_counter()
            if isinstance(event, Started):
                heard.started = event
            elif isinstance(event, Delta):
                heard.moments.append(now)
                heard.tokens.append(event.tokens)
                heard.text += event.text
            elif isinstance(event, Done):
                heard.reason = event.reason
            elif isinstance(event, Failed):
                raise RuntimeError(f"{event.code}: {event.message}")
        heard.ended = time.perf_counter()
        return heard

    async def ask(self, text: str, tokens: int, scope: str) -> Heard:
        return await self.hear(self.request([ChatMessage("user", text)], tokens, scope))


async def lateness(into: list[float]) -> None:
    """How much later than asked for the loop comes back, again and again. Seconds."""
    while True:
        due = time.perf_counter() + LOOP_SECONDS
        await asyncio.sleep(LOOP_SECONDS)
        into.append(max(0.0, time.perf_counter() - due))


async def watched(story: Any) -> tuple[Any, list[float]]:
    """What the story gives, and the loop's lateness meanwhile."""
    late: list[float] = []
    task = asyncio.create_task(lateness(late))
    try:
        return await story, late
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def question(number: int) -> str:
    return (
        f"Story {number}: tell a very long story about a lighthouse, its keeper and storm {number}."
    )


async def loading(product: Product) -> dict[str, float]:
    """From nothing in memory to the first token, and back to nothing."""
    heard = await product.ask(question(0), 2, "first")
    pid = product.engine.stats()["models"][product.model]["pid"]
    memory = psutil.Process(pid).memory_info().rss
    began = time.perf_counter()
    await product.engine.unload(product.model)
    took = time.perf_counter() - began
    return {
        "load to first token s": heard.first_seconds,
        "unload s": took,
        "process gone": float(not psutil.pid_exists(pid)),
        "worker memory MB": memory / 1e6,
    }


async def prepared(engine: Engine) -> None:
    """Wait until a worker waits for a model, with its libraries."""
    async with asyncio.timeout(60):
        while not (engine.stats().get("spare") or {}).get("prepared"):
            await asyncio.sleep(0.05)


async def together(product: Product, users: int, tokens: int) -> dict[str, float]:
    """Everybody at once: rate, and the loop's lateness while the worker works."""
    asked = [product.ask(question(10 + number), tokens, f"u{number}") for number in range(users)]
    began = time.perf_counter()
    answers, late = await watched(asyncio.gather(*asked))
    last = max(heard.ended for heard in answers)
    made = sum(sum(heard.tokens) for heard in answers)
    return {
        "rate tok/s": made / (last - began),
        "step ms": 1000 * statistics.median(gap for heard in answers for gap in heard.gaps),
        "loop late p99 ms": 1000 * quantile(late, 0.99),
        "loop late max ms": 1000 * max(late),
    }


async def cancelling(product: Product, users: int) -> dict[str, float]:
    """Stop buttons pressed one after another while everybody's answer is written."""
    heards = [Heard() for _ in range(users)]
    requests = [
        product.request([ChatMessage("user", question(40 + number))], 400, f"c{number}")
        for number in range(users)
    ]
    tasks = [
        asyncio.create_task(product.hear(request, heard))
        for request, heard in zip(requests, heards, strict=True)
    ]
    while not all(len(heard.moments) > 4 or heard.reason for heard in heards):
        await asyncio.sleep(0.02)
    waits, extra = [], []
    for request, heard, task in zip(requests, heards, tasks, strict=True):
        if heard.reason:
            continue
        had, began = sum(heard.tokens), time.perf_counter()
        product.engine.cancel(request.id)
        await task
        if heard.reason == "cancelled":
            waits.append(heard.ended - began)
            extra.append(sum(heard.tokens) - had)
        await asyncio.sleep(0.03)
    await asyncio.gather(*tasks)
    gaps = [gap for heard in heards for gap in heard.gaps]
    await asyncio.sleep(2.2)  # the next report of the worker
    stats = product.engine.stats()
    figures = stats["models"][product.model]["figures"]
    return {
        "cancelled": len(waits),
        "cancel median ms": 1000 * statistics.median(waits),
        "cancel max ms": 1000 * max(waits),
        "longest step ms": 1000 * max(gaps),
        "tokens after cancel, most": max(extra),
        "running after": stats["running"],
        "cache held after": figures.get("kv_used_share", 0.0),
        "answers held after": figures.get("batch_answers", 0.0),
    }


async def turns(product: Product, rounds: int) -> dict[str, float]:
    """First and second turn of a conversation with a long first message."""
    cold, second, cached = [], [], []
    for number in range(rounds):
        words = f"Note {number}. " + LONG * 17
        first = ChatMessage("user", words)
        heard = await product.hear(product.request([first], 24, f"t{number}"))
        messages = [first, ChatMessage("assistant", heard.text), ChatMessage("user", "And then?")]
        again = await product.hear(product.request(messages, 4, f"t{number}"))
        other = await product.hear(product.request(messages, 4, f"other{number}"))
        if not (heard.moments and again.moments and other.moments):
            continue
        assert again.started is not None
        assert other.started is not None
        cached.append(again.started.cached_tokens)
        second.append(again.first_seconds)
        cold.append(other.first_seconds)
    return {
        "cold ms": 1000 * statistics.median(cold),
        "second turn ms": 1000 * statistics.median(second),
        "second to cold": statistics.median(second) / statistics.median(cold),
        "cached tokens": statistics.median(cached),
    }


async def staggered(product: Product, users: int, tokens: int) -> dict[str, float]:
    """Arrivals spread over time, against one who is alone."""
    alone = []
    for number in range(3):
        alone.append((await product.ask(question(70 + number), 4, f"a{number}")).first_seconds)

    async def late(number: int) -> Heard:
        await asyncio.sleep(2.25 * number / users)
        return await product.ask(question(80 + number), tokens, f"s{number}")

    answers = await asyncio.gather(*(late(number) for number in range(users)))
    firsts = [heard.first_seconds for heard in answers if heard.moments]
    return {
        "alone TTFT ms": 1000 * statistics.median(alone),
        "TTFT median ms": 1000 * statistics.median(firsts),
        "TTFT to alone": statistics.median(firsts) / statistics.median(alone),
        "longest gap ms": 1000 * max(gap for heard in answers for gap in heard.gaps),
    }


def quantile(values: list[float], share: float) -> float:
    """The value below which this share of the values lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """All figures of one model."""
    users, tokens = spec["users"], spec["tokens"]
    settings = settings_room.load(
        models_dir=Path(spec["models_dir"]),
        llm={
            "engine": spec["engine"],
            "threads": spec["threads"],
            "default_model": spec["model"],
        },
    )
    engine = build.create(settings)
    product = Product(engine, spec["model"])
    await engine.start()
    try:
        _, idle = await watched(asyncio.sleep(1.0))
        # The first time, kept forms of the weights are made and files come into memory.
        await loading(product)
        found: dict[str, Any] = {"threads": choice.threads(settings.llm)}
        # Right after another model left, nobody waits yet; some seconds later a worker does.
        bare = [await loading(product) for _ in range(spec["rounds"])]
        rounds = []
        for _ in range(spec["rounds"]):
            await prepared(engine)
            rounds.append(await loading(product))
        found |= {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        found["bare load to first token s"] = statistics.median(
            one["load to first token s"] for one in bare
        )
        found["loop late idle p99 ms"] = 1000 * quantile(idle, 0.99)
        await product.ask(question(1), 8, "warm")
        found["why"] = engine.why(spec["model"])
        found["backend"] = engine.state(spec["model"]).backend
        await together(product, users, 8)
        found |= await together(product, users, tokens)
        found |= await staggered(product, users, tokens)
        found |= await turns(product, spec["rounds"])
        found |= await cancelling(product, users)
    finally:
        await engine.close()
    return found


def main() -> None:
    spec = json.loads(sys.argv[1])
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(asyncio.run(measure(spec))), file=out, flush=True)


if __name__ == "__main__":
    main()
