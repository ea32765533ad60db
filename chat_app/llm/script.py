"""The scripted engine: `w0 w1 w2 …` on a clock, with faults on demand. A double for tests.

It runs in the event loop of the web process and carries hundreds of answers at once. It is
never chosen by `auto`. It knows no model; a token is a word.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from chat_app.errors import AppError
from chat_app.llm import catalogue, prompt
from chat_app.llm.engine import (
    ChatMessage,
    Done,
    Event,
    Failed,
    ModelState,
    Reason,
    Request,
    Started,
    Usage,
    words,
)
from chat_app.llm.stops import StopText
from chat_app.settings import Script

HOSTILE = (
    "<script>document.title='pwned'</script> "
    '<img src="https://tracker.example/p.png" onerror="document.title=\'pwned\'"> '
    "![pixel](https://tracker.example/m.png) "
    "[link](javascript:document.title='pwned') "
    '<iframe src="https://tracker.example/"></iframe> '
    "<svg/onload=document.title='pwned'> "
    '=HYPERLINK("https://tracker.example/","x") @SUM(1+1)|cmd '
    "$\\href{javascript:document.title='pwned'}{x}$ `</code><b>bold</b>`"
)


@dataclass
class _Answer:
    """A running answer: its clock, its count, and the future that wakes it."""

    request: Request
    prompt_tokens: int
    began: float = field(default_factory=time.monotonic)
    first: float | None = None
    tokens: int = 0
    cancelled: bool = False
    wake: "asyncio.Future[None] | None" = None

    async def until(self, due: float | None) -> None:
        """Sleep until `due` (monotonic; None: forever) or until cancelled."""
        loop = asyncio.get_running_loop()
        wait = None if due is None else due - time.monotonic()
        if self.cancelled or (wait is not None and wait <= 0):
            await asyncio.sleep(0)
            return
        self.wake = loop.create_future()
        timer = None if wait is None else loop.call_later(wait, _wake, self.wake)
        try:
            await self.wake
        finally:
            self.wake = None
            if timer is not None:
                timer.cancel()

    def usage(self) -> Usage:
        now = time.monotonic()
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.tokens,
            ttft_ms=((self.first or now) - self.began) * 1000,
            duration_ms=(now - self.began) * 1000,
        )


class ScriptEngine:
    """See Engine. `script.fault` is none, error_at:N, hang_at:N, oom, empty or hostile."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self._running: dict[str, _Answer] = {}

    async def start(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Cancel what runs."""
        for request_id in list(self._running):
            self.cancel(request_id)

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        """See Engine.submit."""
        fault, _, number = self.script.fault.partition(":")
        catalogue.get(request.model)
        if request.id in self._running:
            raise ValueError(f"the answer {request.id} is already being written")
        fitted = self._fit(request, fault)
        if isinstance(fitted, Failed):
            yield fitted
            return
        answer = _Answer(request, prompt_tokens=fitted.prompt_tokens)
        self._running[request.id] = answer
        try:
            yield Started(
                prompt_tokens=answer.prompt_tokens, dropped_messages=fitted.dropped_messages
            )
            text = StopText(request.stop)
            breaks_at = int(number) if number else None
            reason: Reason | None = None
            for index, word in enumerate(self._words(fault)):
                if index == breaks_at:
                    break
                if index >= request.max_tokens:
                    reason = "length"
                    break
                await answer.until(self._due(answer, index))
                if answer.cancelled:
                    reason = "cancelled"
                    break
                if delta := text.feed(word):
                    answer.tokens += delta.tokens
                    answer.first = answer.first or time.monotonic()
                    yield delta
                if text.stopped:
                    break
            if breaks_at is not None and reason is None and not text.stopped:
                if fault == "error_at":
                    message = "The scripted model failed on purpose. Send the message again."
                    yield Failed("engine_error", message, answer.usage())
                    return
                await answer.until(None)
                reason = "cancelled"
            if reason != "cancelled" and (delta := text.finish()):
                answer.tokens += delta.tokens
                yield delta
            yield Done(reason or "stop", answer.usage())
        finally:
            self._running.pop(request.id, None)

    def _fit(self, request: Request, fault: str) -> prompt.Fitted | Failed:
        if fault == "oom":
            message = "The model ran out of memory. Try again later or choose a smaller model."
            return Failed("out_of_memory", message, Usage())
        context = self.script.context_tokens
        if not context:
            return prompt.Fitted(request.messages, words(request.messages), 0)
        try:
            return prompt.fit(
                request.messages,
                count=words,
                count_text=lambda text: len(text.split()),
                limit_tokens=context - min(request.max_tokens, context // 2),
            )
        except AppError as error:
            return Failed(error.code, str(error), Usage())

    def _words(self, fault: str) -> list[str]:
        if fault == "empty":
            return []
        if fault == "hostile":
            return [f"{word} " for word in HOSTILE.split(" ")]
        return [f"w{index} " for index in range(self.script.tokens)]

    def _due(self, answer: _Answer, index: int) -> float:
        rate = self.script.tokens_per_second
        first = answer.began + self.script.first_token_ms / 1000
        return first + (index / rate if rate else 0.0)

    def cancel(self, request_id: str) -> None:
        """See Engine.cancel."""
        answer = self._running.get(request_id)
        if answer is not None:
            answer.cancelled = True
            _wake(answer.wake)

    async def count_tokens(self, model: str, messages: Sequence[ChatMessage]) -> int:
        """Whitespace-separated words of all messages, and 260 for each image."""
        catalogue.get(model)
        return words(messages)

    async def load(self, model: str) -> None:
        """Nothing to load."""
        catalogue.get(model)

    async def unload(self, model: str) -> None:
        """Nothing to unload."""
        catalogue.get(model)

    def stats(self) -> dict[str, Any]:
        """See Engine.stats."""
        return {"running": len(self._running), "waiting": 0, "models": {}}

    def state(self, model: str) -> ModelState:
        """Always ready."""
        catalogue.get(model)
        return ModelState("ready", backend="script", device="none")

    def slots(self, model: str) -> int:
        """What the settings say; whoever submits keeps to it."""
        return self.script.slots

    def sees(self, model: str) -> bool:
        """What the catalogue says."""
        return catalogue.get(model).sees_images

    def why(self, model: str) -> str:
        """See Engine.why."""
        name = catalogue.get(model).name
        return f"{name} is answered by the script engine, because the settings ask for it."


def _wake(future: "asyncio.Future[None] | None") -> None:
    if future is not None and not future.done():
        future.set_result(None)
