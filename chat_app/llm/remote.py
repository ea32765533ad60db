"""Answers by model servers elsewhere, in the event loop of the web process; see Writer.

A stream is closed to cancel it. Stop texts are watched here, so that they mean the same as with
our own backends. Another server is tried only while nothing has been delivered.

**What is counted.** vLLM, SGLang and llama.cpp say with every piece how many tokens it took, and
that is a piece's count; an end-of-turn token has no text and is not counted. Other servers send
a piece for a token, or several: each counts one, the newest piece is held back until the next
one comes, and the last one takes what the server's final usage counts beyond. Nobody is charged
for more than the request's `max_tokens`, whatever a server claims.
"""

import asyncio
import json
import logging
import math
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx

from chat_app.errors import AppError
from chat_app.llm import catalogue, prompt
from chat_app.llm.backends.base import Spec
from chat_app.llm.engine import (
    ChatMessage,
    Delta,
    Done,
    Event,
    Failed,
    Loading,
    ModelNotReady,
    Queued,
    Request,
    Sampling,
    Started,
    Usage,
)
from chat_app.llm.servers import Server, Servers, Unreachable, bounded, clean
from chat_app.llm.stops import StopText
from chat_app.llm.writer import Refused
from chat_app.settings import Remote as Limits

_log = logging.getLogger(__name__)
_LINE_BYTES = 256 * 1024
_BYTES_PER_TOKEN = 4096
_SPARE_BYTES = 1 << 20
_ERROR_BYTES = 64 * 1024
_GREEDY_BELOW = 1e-3
_LAST_SECONDS = 5.0
_SENTENCES = {
    "model_not_available": "The server of this model cannot take the message right now. "
    "Send it again in a moment or choose another model.",
    "engine_crashed": "The server of this model broke off. Send the message again.",
    "engine_stalled": "The model stopped writing before the answer was complete. "
    "Send the message again.",
    "engine_error": "The model failed while it was writing. Send the message again.",
    "context_overflow": "This message is too long for the model. Shorten it and send it again.",
}


class _Trouble(Exception):
    """An attempt failed: an event's code, the reason for the log, and what it says of the server.

    `again`: another server may do better. `down`: this one is left out until it is checked.
    """

    def __init__(self, code: str, reason: str, *, again: bool = True, down: bool = False) -> None:
        super().__init__(reason)
        self.code = code
        self.again = again
        self.down = down


@dataclass
class _Job:
    """One answer, waiting or being written."""

    request: Request
    task: "asyncio.Task[Done | Failed] | None" = None
    server: Server | None = None
    position: int = -1
    prompt_tokens: int = 0
    began: bool = False
    sent: int = 0


@dataclass
class _Text:
    """The pieces of one attempt, counted and watched for stop texts."""

    max_tokens: int
    stops: StopText
    exact: bool
    counted: int = 0
    held: str | None = None
    finish: str | None = None
    overrun: bool = False
    """The server went on beyond the limit it was given."""

    def take(self, text: str, measured: int) -> list[Delta]:
        """A piece has come; `measured` are all tokens so far by the server, 0 if it says none."""
        if self.exact:
            return self._feed(text, measured - self.counted)
        held, self.held = self.held, text
        return self._feed(held, 1) if held is not None else []

    def close(self, measured: int) -> list[Delta]:
        """The server has said all; `measured` as above."""
        held, self.held = self.held, None
        found = self._feed(held, measured - self.counted) if held is not None else []
        return [*found, rest] if (rest := self.stops.finish()) else found

    def _feed(self, text: str, tokens: int) -> list[Delta]:
        if self.counted >= self.max_tokens:
            self.overrun = True
        if self.stops.stopped or self.overrun:
            return []
        tokens = max(1, min(tokens, self.max_tokens - self.counted))
        self.counted += tokens
        # All but the last token of a piece count as tokens without text.
        for _ in range(tokens - 1):
            self.stops.feed("")
        delta = self.stops.feed(text)
        return [delta] if delta else []


class Remote:
    """See Writer."""

    device = "remote"
    pid = 0

    def __init__(self, spec: Spec, servers: Servers, limits: Limits) -> None:
        self.spec = spec
        self.why = spec.why
        self._entry = catalogue.get(spec.model)
        self._servers = servers
        self._limits = limits
        self._jobs: dict[str, _Job] = {}
        self._waiting: OrderedDict[str, _Job] = OrderedDict()
        self._said: asyncio.Queue[tuple[str, Event] | None] = asyncio.Queue()
        self._retries = 0
        self._gone = False
        servers.freed.add(self._seat)

    @property
    def heard(self) -> float:
        """Always now: every answer has limits of its own."""
        return time.monotonic()

    @property
    def problem(self) -> str:
        """See Writer."""
        return self._servers.problem(self._entry)

    @property
    def figures(self) -> dict[str, float]:
        """Servers that are up, answers at them and here, and attempts that were repeated."""
        return {
            "servers": float(len(self._servers.servers)),
            "servers_up": float(sum(server.up for server in self._servers.servers)),
            "batch_answers": float(len(self._jobs) - len(self._waiting)),
            "waiting_answers": float(len(self._waiting)),
            "retries": float(self._retries),
        }

    async def load(self, progress: Callable[[Loading], None]) -> None:
        """See Writer. Nothing is loaded: a server must be up and serve the model."""
        progress(Loading("Asking the model's server…"))
        await self._servers.refresh()
        if problem := self.problem:
            raise Refused("model_not_available", problem)

    def has(self, request_id: str) -> bool:
        """See Writer."""
        return request_id in self._jobs

    def submit(self, request: Request) -> None:
        """See Writer."""
        self._jobs[request.id] = self._waiting[request.id] = _Job(request)
        self._seat()

    def send(self, message: dict[str, Any]) -> None:
        """See Writer. Knows `cancel`."""
        job = self._jobs.get(message["id"])
        if message["op"] != "cancel" or job is None:
            return
        if job.task is not None:
            job.task.cancel()
        else:
            self._tell(job, Done("cancelled", Usage()))

    @property
    def slots(self) -> int:
        """See Writer: what the servers that are up take together."""
        return self._servers.slots(self._entry)

    async def count(self, messages: Sequence[ChatMessage]) -> int:
        """See Writer, and Servers.count for how exact it is."""
        return await self._servers.count(self.spec, self._entry, messages)

    async def events(self) -> AsyncIterator[tuple[str, Event]]:
        """See Writer."""
        while (said := await self._said.get()) is not None:
            yield said

    def memory_bytes(self) -> int:
        """None of ours."""
        return 0

    def kill(self) -> None:
        """See Writer."""
        self._gone = True
        self._servers.freed.discard(self._seat)
        self._said.put_nowait(None)
        for job in self._jobs.values():
            if job.task is not None:
                job.task.cancel()

    async def end(self) -> None:
        """See Writer."""
        self.kill()
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    def _seat(self) -> None:
        """Begin what waits while a server has a place, in fair order."""
        while self._waiting and not self._gone:
            job = self._fairest()
            scope = job.request.user_scope
            server = self._servers.pick(self._entry, scope, full=False)
            if server is None and self._servers.pick(self._entry, scope) is not None:
                break
            del self._waiting[job.request.id]
            if server is not None:
                _take(job, server)
            job.task = asyncio.create_task(self._write(job))
            job.task.add_done_callback(partial(self._over, job))
        for position, job in enumerate(self._waiting.values()):
            if job.position != position:
                job.position = position
                self._tell(job, Queued(position))

    def _fairest(self) -> _Job:
        """Of those who have the fewest running, the one that came first."""
        running = Counter(job.request.user_scope for job in self._jobs.values() if job.task)
        return min(self._waiting.values(), key=lambda job: running[job.request.user_scope])

    def _tell(self, job: _Job, event: Event) -> None:
        if self._gone:
            return
        if isinstance(event, (Done, Failed)):
            self._jobs.pop(job.request.id, None)
            self._waiting.pop(job.request.id, None)
        self._said.put_nowait((job.request.id, event))

    def _over(self, job: _Job, task: "asyncio.Task[Done | Failed]") -> None:
        """The job's task has ended, perhaps before its first line ran."""
        _leave(job)
        self._tell(job, Done("cancelled", _usage(job)) if task.cancelled() else task.result())
        for seat in list(self._servers.freed):
            seat()

    async def _write(self, job: _Job) -> Done | Failed:
        """One answer, whole. A job without a server found all of them down."""
        try:
            return await self._tried(job)
        except AppError as error:
            return Failed(error.code, str(error), _usage(job))
        except Exception:
            _log.exception("the answer %s failed", job.request.id)
            return Failed("engine_error", _SENTENCES["engine_error"], _usage(job))

    async def _tried(self, job: _Job) -> Done | Failed:
        """Ask one server after the other, each at most once."""
        if job.server is None:
            await self._servers.refresh()
        tried: list[Server] = []
        trouble = _Trouble("model_not_available", "no server is up")
        while True:
            if job.server is None:
                scope = job.request.user_scope
                server = self._servers.pick(self._entry, scope, without=tried)
                if server is None:
                    break
                _take(job, server)
            server = job.server
            assert server is not None, "it was just taken"
            tried.append(server)
            try:
                return await self._ask(job, server)
            except _Trouble as error:
                trouble = error
            _leave(job)
            _log.warning(
                "answer %s at %s: %s: %s", job.request.id, server.url, trouble.code, trouble
            )
            if trouble.down:
                self._servers.failed(server, str(trouble))
            if job.began or not trouble.again:
                break
            self._retries += 1
        return Failed(trouble.code, _SENTENCES[trouble.code], _usage(job))

    async def _ask(self, job: _Job, server: Server) -> Done:
        """The answer from this server. Raises _Trouble, AppError."""
        fitted = await self._fit(job)
        job.prompt_tokens = fitted.prompt_tokens
        room = max(1, self.spec.context_tokens - fitted.prompt_tokens)
        limit = min(job.request.max_tokens, room)
        name = self._servers.name(self._entry, server) or self.spec.model
        body = {
            "model": name,
            "messages": clean(fitted.messages, self.spec),
            "max_tokens": limit,
            **self._extras(job.request, server),
            **_sampling(job.request.sampling, server.kind),
        }
        exact = server.kind in ("vllm", "sglang", "llamacpp")
        text = _Text(limit, StopText(job.request.stop), exact)
        limits = self._limits
        try:
            async with (
                asyncio.timeout(limits.first_token_seconds) as patience,
                self._servers.client.stream(
                    "POST",
                    f"{server.url}/v1/chat/completions",
                    json=body,
                    timeout=httpx.Timeout(None, connect=limits.connect_seconds),
                ) as reply,
            ):
                if reply.status_code != httpx.codes.OK:
                    raise await _refusal(reply)
                await self._follow(job, reply, text, patience, fitted.dropped_messages)
        except TimeoutError as error:
            if text.finish is None:
                raise _Trouble("engine_stalled", "no token in time", down=not job.began) from error
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise _Trouble("model_not_available", repr(error), down=True) from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            if text.finish is None:
                raise _Trouble("engine_crashed", repr(error)) from error
        return self._ended(job, text)

    async def _follow(
        self,
        job: _Job,
        reply: httpx.Response,
        text: _Text,
        patience: asyncio.Timeout,
        dropped: int,
    ) -> None:
        """Read the stream until it ends or nothing more is wanted of it."""
        clock = asyncio.get_running_loop().time
        limit_bytes = _SPARE_BYTES + text.max_tokens * _BYTES_PER_TOKEN
        async with aclosing(_chunks(reply, limit_bytes)) as chunks:
            async for chunk in chunks:
                if self._read(job, chunk, text, dropped):
                    # After the end only the final usage is still to come.
                    wait = self._limits.idle_seconds
                    patience.reschedule(
                        clock() + (min(wait, _LAST_SECONDS) if text.finish else wait)
                    )
                if text.stops.stopped or text.overrun:
                    return

    def _ended(self, job: _Job, text: _Text) -> Done:
        """The stream is over. Raises _Trouble when the answer is not."""
        if text.finish is None and not text.stops.stopped and not text.overrun:
            raise _Trouble("engine_crashed", "the stream ended before the answer")
        self._deliver(job, text.close(0))
        long = text.overrun or text.finish == "length"
        return Done("length" if long and not text.stops.stopped else "stop", _usage(job))

    def _begin(self, job: _Job, cached_tokens: int, dropped: int) -> None:
        job.began = True
        self._tell(job, Started(job.prompt_tokens, min(cached_tokens, job.prompt_tokens), dropped))

    def _read(self, job: _Job, chunk: dict[str, Any], text: _Text, dropped: int) -> bool:
        """Take one chunk of the stream; whether it brought a token or the end."""
        try:
            usage, timings = chunk.get("usage") or {}, chunk.get("timings") or {}
            measured = int(timings.get("predicted_n") or usage.get("completion_tokens") or 0)
            choice = (chunk.get("choices") or [{}])[0]
            content = (choice.get("delta") or {}).get("content")
            finish = choice.get("finish_reason")
            prompt_tokens, cached = _prompt(usage, timings)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise _Trouble("engine_error", f"a chunk of unknown shape: {error!r}") from error
        if content and not isinstance(content, str):
            raise _Trouble("engine_error", "a piece that is no text")
        if prompt_tokens and (not job.began or prompt_tokens < job.prompt_tokens):
            job.prompt_tokens = prompt_tokens
        if (content or finish) and not job.began:
            self._begin(job, cached, dropped)
        if content:
            whole = content.encode("utf-8", errors="replace").decode().replace("\0", "")
            self._deliver(job, text.take(whole, measured))
        if finish:
            text.finish = str(finish)
        if text.finish and measured:
            self._deliver(job, text.close(measured))
        return bool(content or finish)

    def _deliver(self, job: _Job, deltas: list[Delta]) -> None:
        for delta in deltas:
            job.sent += delta.tokens
            self._tell(job, delta)

    async def _fit(self, job: _Job) -> prompt.Fitted:
        """What of the conversation the model reads. Raises ContextOverflow, _Trouble."""
        request, context = job.request, self.spec.context_tokens
        limit = context - min(request.max_tokens, context // 2)
        try:
            tokens = await self.count(request.messages)
            if tokens <= limit:
                return prompt.Fitted(request.messages, tokens, 0)
            loop = asyncio.get_running_loop()

            def count(some: Sequence[ChatMessage]) -> int:
                return asyncio.run_coroutine_threadsafe(self.count(some), loop).result()

            return await asyncio.to_thread(
                prompt.fit,
                request.messages,
                count=count,
                count_text=lambda text: count([ChatMessage("user", text)]),
                limit_tokens=limit,
            )
        except ModelNotReady as error:
            raise _Trouble("model_not_available", "the prompt could not be counted") from error

    def _extras(self, request: Request, server: Server) -> dict[str, Any]:
        """What a server of this kind is asked beyond the protocol."""
        options: dict[str, Any] = {"include_usage": True}
        extras: dict[str, Any] = {"stream": True, "stream_options": options}
        if server.kind in ("vllm", "sglang"):
            options["continuous_usage_stats"] = True
            extras["cache_salt"] = request.user_scope or "nobody"
        elif server.kind == "llamacpp":
            extras["timings_per_token"] = True
            extras["cache_prompt"] = self._limits.share_prefixes
        return extras


def _take(job: _Job, server: Server) -> None:
    job.server = server
    server.running += 1


def _leave(job: _Job) -> None:
    if job.server is not None:
        job.server.running -= 1
        job.server = None


def _usage(job: _Job) -> Usage:
    prompt_tokens = job.prompt_tokens if job.began else 0
    return Usage(prompt_tokens=prompt_tokens, completion_tokens=job.sent)


def _prompt(usage: dict[str, Any], timings: dict[str, Any]) -> tuple[int, int]:
    """Prompt tokens and how many of them were cached, as far as a chunk says."""
    if "prompt_n" in timings:
        cached = int(timings.get("cache_n") or 0)
        return int(timings["prompt_n"]) + cached, cached
    details = usage.get("prompt_tokens_details") or {}
    return int(usage.get("prompt_tokens") or 0), int(details.get("cached_tokens") or 0)


def _sampling(sampling: Sampling, kind: str) -> dict[str, Any]:
    """The server's names. Raises _Trouble for what is no number."""
    numbers = (sampling.temperature, sampling.top_p, sampling.min_p, sampling.repetition_penalty)
    if not all(math.isfinite(number) for number in numbers):
        raise _Trouble("engine_error", "sampling needs finite numbers", again=False)
    greedy = sampling.temperature < _GREEDY_BELOW
    found: dict[str, Any] = {"temperature": 0.0 if greedy else sampling.temperature}
    if not greedy:
        found["top_p"] = sampling.top_p
    if sampling.seed is not None:
        found["seed"] = sampling.seed % 2**31
    penalty = sampling.repetition_penalty
    if kind == "llamacpp":
        found |= {"top_k": max(0, sampling.top_k), "min_p": sampling.min_p}
        found |= {"repeat_penalty": penalty, "repeat_last_n": 2**16}
    elif kind:
        found |= {"top_k": sampling.top_k if sampling.top_k > 0 else -1, "min_p": sampling.min_p}
        found |= {"repetition_penalty": penalty}
    return found


async def _refusal(reply: httpx.Response) -> _Trouble:
    """What a reply that is no success means."""
    status = reply.status_code
    try:
        body = (await bounded(reply, _ERROR_BYTES)).decode(errors="replace")
    except Unreachable:
        body = ""
    reason = f"{status}: {body[:300]!r}"
    if status in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.NOT_FOUND):
        return _Trouble("model_not_available", reason)
    if status in (
        httpx.codes.UNAUTHORIZED,
        httpx.codes.FORBIDDEN,
        httpx.codes.SERVICE_UNAVAILABLE,
    ):
        return _Trouble("model_not_available", reason, down=True)
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return _Trouble("engine_crashed", reason, down=True)
    if status >= httpx.codes.BAD_REQUEST:
        long = "context" in body.lower() and "token" in body.lower()
        return _Trouble("context_overflow" if long else "engine_error", reason, again=False)
    return _Trouble("model_not_available", f"a redirect, which is not followed: {status}")


async def _chunks(reply: httpx.Response, limit_bytes: int) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON objects of an event stream, until it says that it is done or breaks off.

    Raises _Trouble for what is no such stream, for an error in it, and for too much of it.
    """
    held, total = bytearray(), 0
    async for data in reply.aiter_raw():
        held += data
        total += len(data)
        *lines, rest = bytes(held).split(b"\n")
        held = bytearray(rest)
        if total > limit_bytes or max(map(len, [*lines, rest])) > _LINE_BYTES:
            raise _Trouble("engine_error", "the stream is longer than any answer")
        for line in lines:
            kind, _, value = line.strip().partition(b":")
            if kind == b"error":
                raise _Trouble("engine_crashed", f"an error in the stream: {value[:300]!r}")
            if kind != b"data":
                continue
            if value.strip() == b"[DONE]":
                return
            yield _parsed(value)


def _parsed(value: bytes) -> dict[str, Any]:
    try:
        chunk = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise _Trouble("engine_error", f"no JSON in the stream: {value[:100]!r}") from error
    if not isinstance(chunk, dict):
        raise _Trouble("engine_error", f"no object in the stream: {value[:100]!r}")
    if "error" in chunk:
        raise _Trouble("engine_crashed", f"an error in the stream: {str(chunk['error'])[:300]!r}")
    return chunk
