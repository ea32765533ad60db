"""The watch over every answer, whatever writes it: it may neither stall nor run on forever.

It also keeps the protocol's promises for an engine that breaks them: one terminal event, and
trouble as a Failed instead of a raise. It knows no backend.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

from chat_app.errors import AppError
from chat_app.llm.engine import (
    ChatMessage,
    Delta,
    Done,
    Engine,
    Event,
    Failed,
    ModelState,
    Request,
    Started,
    Usage,
)
from chat_app.llm.meter import Meter

_log = logging.getLogger(__name__)
SENTENCES = {
    "engine_stalled": "The model stopped writing before the answer was complete. "
    "Send the message again.",
    "deadline": "The answer took longer than is allowed and was ended. "
    "Ask for a shorter one or send it again.",
    "engine_error": "The model failed while it was writing. Send the message again.",
}


class _Watch:
    """One answer under watch. It cancels the answer when time is up and remembers why."""

    def __init__(self, engine: Engine, request: Request, *, stall: float, deadline: float) -> None:
        self._engine = engine
        self._id = request.id
        self._stall = stall
        self.began = time.monotonic()
        self._ends = self.began + deadline
        self._last: float | None = None
        self.verdict: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._arm()

    def saw(self, event: Event) -> None:
        """Note a sign of life. Waiting and loading have their own limits elsewhere."""
        if isinstance(event, (Started, Delta)):
            first, self._last = self._last is None, time.monotonic()
            if first:
                self._arm()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _due(self) -> float:
        return self._ends if self._last is None else min(self._ends, self._last + self._stall)

    def _arm(self) -> None:
        self.stop()
        wait = max(0.0, self._due() - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(wait, self._check)

    def _check(self) -> None:
        now = time.monotonic()
        if now < self._due():
            self._arm()
            return
        self.verdict = "deadline" if now >= self._ends else "engine_stalled"
        self._engine.cancel(self._id)


class Watched:
    """An engine under watch. Times in seconds.

    `stall_seconds` bounds the pause between two tokens, `answer_seconds` the whole answer when
    the request gives no deadline of its own.
    """

    def __init__(self, engine: Engine, *, stall_seconds: float, answer_seconds: float) -> None:
        self.engine = engine
        self._stall_seconds = stall_seconds
        self._answer_seconds = answer_seconds
        self._meters: defaultdict[str, Meter] = defaultdict(Meter)

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        """See Engine.submit."""
        watch = _Watch(
            self.engine,
            request,
            stall=self._stall_seconds,
            deadline=request.deadline_seconds or self._answer_seconds,
        )
        span = self._meters[request.model].answer(
            background=request.background, waited_seconds=request.waited_seconds
        )
        prompt = cached = completion = 0
        events = self.engine.submit(request)
        try:
            async for event in events:
                watch.saw(event)
                if isinstance(event, (Done, Failed)):
                    end = _judged(event, watch.verdict)
                    if isinstance(end, Failed):
                        engine_ms = span.ended("failed", end.code)
                    else:
                        engine_ms = span.ended("cancelled" if end.reason == "cancelled" else "done")
                    yield replace(end, usage=replace(end.usage, engine_ms=engine_ms))
                    return
                if isinstance(event, Started):
                    prompt, cached = event.prompt_tokens, event.cached_tokens
                    span.started(prompt_tokens=prompt, cached_tokens=cached)
                elif isinstance(event, Delta):
                    completion += event.tokens
                    span.wrote(event.tokens)
                yield event
            raise RuntimeError("an engine ended an answer without a terminal event")
        except Exception as error:
            code, sentence = "engine_error", SENTENCES["engine_error"]
            if isinstance(error, AppError):
                code, sentence = error.code, str(error)
            else:
                _log.exception("an engine broke its promise")
            usage = Usage(
                prompt_tokens=prompt,
                cached_tokens=cached,
                completion_tokens=completion,
                duration_ms=(time.monotonic() - watch.began) * 1000,
                engine_ms=span.ended("failed", code),
            )
            yield Failed(code, sentence, usage)
        finally:
            span.ended("cancelled")
            watch.stop()
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()

    async def start(self) -> None:
        """See Engine.start."""
        await self.engine.start()

    async def close(self) -> None:
        """See Engine.close."""
        await self.engine.close()

    def cancel(self, request_id: str) -> None:
        """See Engine.cancel."""
        self.engine.cancel(request_id)

    async def count_tokens(self, model: str, messages: Sequence[ChatMessage]) -> int:
        """See Engine.count_tokens."""
        return await self.engine.count_tokens(model, messages)

    async def load(self, model: str) -> None:
        """See Engine.load."""
        await self.engine.load(model)

    async def unload(self, model: str) -> None:
        """See Engine.unload."""
        await self.engine.unload(model)

    def stats(self) -> dict[str, Any]:
        """See Engine.stats."""
        recent = {model: meter.figures() for model, meter in list(self._meters.items())}
        return {**self.engine.stats(), "recent": recent}

    def state(self, model: str) -> ModelState:
        """See Engine.state."""
        return self.engine.state(model)

    def slots(self, model: str) -> int:
        """See Engine.slots."""
        return self.engine.slots(model)

    def sees(self, model: str) -> bool:
        """See Engine.sees."""
        return self.engine.sees(model)

    def why(self, model: str) -> str:
        """See Engine.why."""
        return self.engine.why(model)


def _judged(event: Done | Failed, verdict: str | None) -> Done | Failed:
    if verdict is not None and isinstance(event, Done) and event.reason == "cancelled":
        return Failed(verdict, SENTENCES[verdict], event.usage)
    return event
