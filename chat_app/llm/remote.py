"""Answers by model servers elsewhere, in the event loop of the web process; see Writer.

A stream is closed to cancel it. Stop texts are watched here, so that they mean the same as with
our own backends. Another server is tried only while nothing has been delivered. What is counted
is in `tally.py`, what a server's failures mean for the next answers in `servers.py`.
"""

import asyncio
import hashlib
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx

from chat_app.errors import AppError
from chat_app.llm import asking, cards, catalogue, prompt, sse
from chat_app.llm.backends.base import Spec
from chat_app.llm.engine import (
    ChatMessage,
    Delta,
    Done,
    Event,
    Failed,
    Loading,
    ModelCannotSee,
    ModelNotReady,
    Queued,
    Request,
    Started,
    Usage,
)
from chat_app.llm.servers import Server, Servers
from chat_app.llm.sse import Trouble
from chat_app.llm.stops import StopText
from chat_app.llm.tally import Tally, claim
from chat_app.llm.writer import Refused
from chat_app.settings import Remote as Limits

_log = logging.getLogger(__name__)
_BYTES_PER_TOKEN = 4096
_SPARE_BYTES = 1 << 20
_LAST_SECONDS = 5.0
_SENTENCES = {
    "model_not_available": "The server of this model cannot take the message right now. "
    "Send it again in a moment or choose another model.",
    "engine_crashed": "The server of this model broke off. Send the message again.",
    "engine_stalled": "The model stopped writing before the answer was complete. "
    "Send the message again.",
    "engine_error": "The model failed while it was writing. Send the message again.",
    "context_overflow": "This message is too long for the model. Shorten it and send it again.",
    "model_cannot_see": ModelCannotSee.message,
}


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
    counted_here: bool = False

    @property
    def place(self) -> str:
        """What keeps a conversation at one server: whose it is, and how it begins."""
        messages = self.request.messages
        first = next((at for at, one in enumerate(messages) if one.role == "user"), 0)
        told = "\n".join(message.content for message in messages[: first + 1])
        digest = hashlib.blake2b(told.encode(errors="replace"), digest_size=8).hexdigest()
        return f"{self.request.user_scope}\n{digest}"

    @property
    def images(self) -> bool:
        """The model is shown some."""
        return any(message.images for message in self.request.messages)


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
            server = self._pick(job, full=False)
            if server is None and self._pick(job) is not None:
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

    def _pick(
        self, job: _Job, *, without: Sequence[Server] = (), full: bool = True
    ) -> Server | None:
        return self._servers.pick(
            self._entry, job.place, without=without, full=full, images=job.images
        )

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
        trouble = Trouble("model_not_available", "no server is up")
        if job.images and not self._servers.sees(self._entry):
            raise ModelCannotSee
        while True:
            if job.server is None:
                server = self._pick(job, without=tried)
                if server is None:
                    break
                _take(job, server)
            server = job.server
            assert server is not None, "it was just taken"
            tried.append(server)
            name = self._servers.name(self._entry, server) or self.spec.model
            try:
                done = await self._ask(job, server, name)
            except Trouble as error:
                trouble = error
            else:
                self._servers.answered(server, name)
                return done
            _leave(job)
            _log.warning(
                "answer %s at %s: %s: %s", job.request.id, server.url, trouble.code, trouble
            )
            self._servers.failed(server, name, trouble.code, trouble.blame, str(trouble))
            if trouble.code == "model_cannot_see":
                self._servers.blind(server, name)
            if job.began or not trouble.again:
                break
            self._retries += 1
        return Failed(trouble.code, _SENTENCES[trouble.code], _usage(job))

    async def _ask(self, job: _Job, server: Server, name: str) -> Done:
        """The answer from this server. Raises Trouble, AppError."""
        fitted = await self._fit(job)
        job.prompt_tokens = fitted.prompt_tokens
        room = max(1, self.spec.context_tokens - fitted.prompt_tokens)
        limit = min(job.request.max_tokens, room)
        body = await asking.body(
            job.request,
            fitted.messages,
            self.spec,
            name=name,
            kind=server.kind,
            max_tokens=limit,
            share_prefixes=self._limits.share_prefixes,
        )
        text = Tally(limit, StopText(job.request.stop), exact=server.kind in cards.KINDS)
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
                    raise await sse.refusal(reply, images=job.images)
                await self._follow(job, reply, text, patience, fitted)
        except TimeoutError as error:
            if text.finish is None:
                # Whoever waits that long for nothing shall be the only one.
                blame: sse.Blame = "counts" if job.began else "opens"
                raise Trouble("engine_stalled", "no token in time", blame=blame) from error
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise Trouble("model_not_available", repr(error), blame="unreachable") from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            if text.finish is None:
                raise Trouble("engine_crashed", repr(error)) from error
        return self._ended(job, text, server)

    async def _follow(
        self,
        job: _Job,
        reply: httpx.Response,
        text: Tally,
        patience: asyncio.Timeout,
        fitted: prompt.Fitted,
    ) -> None:
        """Read the stream until it ends or nothing more is wanted of it."""
        clock = asyncio.get_running_loop().time
        limit_bytes = _SPARE_BYTES + text.max_tokens * _BYTES_PER_TOKEN
        async with aclosing(sse.chunks(reply, limit_bytes)) as chunks:
            async for chunk in chunks:
                if self._read(job, chunk, text, fitted):
                    # After the end only the final usage is still to come.
                    wait = self._limits.idle_seconds
                    patience.reschedule(
                        clock() + (min(wait, _LAST_SECONDS) if text.finish else wait)
                    )
                if text.stops.stopped or text.overrun:
                    return

    def _ended(self, job: _Job, text: Tally, server: Server) -> Done:
        """The stream is over. Raises Trouble when the answer is not."""
        if text.finish is None and not text.stops.stopped and not text.overrun:
            raise Trouble("engine_crashed", "the stream ended before the answer")
        self._deliver(job, text.close(0))
        long = text.overrun or text.finish == "length"
        if text.odd:
            server.odd_counts += 1
            _log.warning(
                "the usage of answer %s at %s is not believed (%s): %d tokens were counted here",
                job.request.id,
                server.url,
                ", ".join(sorted(text.odd)),
                job.sent,
            )
        # Who breaks off a stream (a stop text, a limit) does not hear its end, and counted anyway.
        if (not text.told and text.finish is not None) or text.odd:
            job.counted_here = True
            server.uncounted += not text.told
        return Done("length" if long and not text.stops.stopped else "stop", _usage(job))

    def _begin(self, job: _Job, cached_tokens: int, dropped: int) -> None:
        job.began = True
        self._tell(job, Started(job.prompt_tokens, min(cached_tokens, job.prompt_tokens), dropped))

    def _read(self, job: _Job, chunk: dict[str, Any], text: Tally, fitted: prompt.Fitted) -> bool:
        """Take one chunk of the stream; whether it brought a token or the end."""
        try:
            choice = (chunk.get("choices") or [{}])[0]
            content = (choice.get("delta") or {}).get("content")
            finish = choice.get("finish_reason")
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise Trouble("engine_error", f"a chunk of unknown shape: {error!r}") from error
        if content and not isinstance(content, str):
            raise Trouble("engine_error", "a piece that is no text")
        said = claim(chunk)
        measured = text.hear(said, prompt_tokens=fitted.prompt_tokens)
        if 0 < said.prompt < job.prompt_tokens:  # what was counted here may be a bound
            job.prompt_tokens = said.prompt
        if (content or finish) and not job.began:
            self._begin(job, said.cached, fitted.dropped_messages)
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
        """What of the conversation the model reads. Raises ContextOverflow, Trouble."""
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
            raise Trouble(
                "model_not_available", "the prompt could not be counted", blame="none"
            ) from error


def _take(job: _Job, server: Server) -> None:
    job.server = server
    server.running += 1


def _leave(job: _Job) -> None:
    if job.server is not None:
        job.server.running -= 1
        job.server = None


def _usage(job: _Job) -> Usage:
    prompt_tokens = job.prompt_tokens if job.began else 0
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=job.sent,
        counted_here=job.counted_here,
    )
