"""The supervisor: one worker process for each loaded model, watched from the web process.

A model that servers elsewhere write with is treated alike; see `Writer`.

It starts workers, shares one load between all who wait for it, hands requests over, gives every
request its one terminal event whatever happens to the worker, and ends workers that are idle,
stuck or unwanted. It never imports a library that runs models.
"""

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from chat_app.errors import AppError
from chat_app.llm import catalogue, loader
from chat_app.llm.backends.base import Spec
from chat_app.llm.engine import (
    ChatMessage,
    Delta,
    Done,
    Event,
    Failed,
    Loading,
    ModelBusy,
    ModelNotReady,
    ModelState,
    Request,
    Started,
    Usage,
)
from chat_app.llm.places import Places
from chat_app.llm.spare import Spare
from chat_app.llm.writer import Refused, Writer
from chat_app.settings import Settings

if TYPE_CHECKING:
    from chat_app.llm.servers import Servers

_log = logging.getLogger(__name__)
# A worker reports every second and after every step; a step is at most a piece of a prompt.
BEAT_LIMIT_SECONDS = 120.0
# A worker that is told to stop an answer does so before its next step.
CANCEL_LIMIT_SECONDS = 60.0
BACKOFF_MAX_SECONDS = 60.0
BROKEN_SECONDS = 300.0
# Of a model that was never loaded: enough that the first answers begin together.
GUESSED_SLOTS = 4
_CHECK_SECONDS = 1.0
# Between looks whether a worker should be made ready; the first is when pages are served.
_PREPARE_SECONDS = 5.0
_DRAIN_SECONDS = 0.1
_LOAD_CODES = ("not_enough_memory", "load_failed", "model_not_available")
# Of these nothing was delivered and another place may do better.
_ELSEWHERE = ("model_not_available", "engine_crashed", "engine_stalled", "engine_error")
_CRASHED = "The model's process ended unexpectedly. It is restarted: send the message again."
_CLOSED = "The server is stopping. Send the message again in a moment."


@dataclass
class _Answer:
    """One request from submit to its terminal event."""

    request: Request
    events: "asyncio.Queue[Event]" = field(default_factory=asyncio.Queue)
    began: float = field(default_factory=time.monotonic)
    started: float | None = None
    first: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    counted_here: bool = False
    ended: bool = False
    cancelled_at: float | None = None
    process: Writer | None = None
    """Who was given the request."""
    bring: "asyncio.Task[None] | None" = None
    moved: bool = False
    """It was given to somebody else, after servers elsewhere could not take it."""

    def put(self, event: Event) -> None:
        """Note what happened and pass it on; nothing passes after the terminal event."""
        if self.ended:
            return
        now = time.monotonic()
        if isinstance(event, Started):
            self.started = now
            self.prompt_tokens, self.cached_tokens = event.prompt_tokens, event.cached_tokens
        elif isinstance(event, Delta):
            self.first = self.first or now
            self.completion_tokens += event.tokens
        elif isinstance(event, (Done, Failed)):
            self.ended = True
            self.counted_here = event.usage.counted_here
            if 0 < event.usage.prompt_tokens < self.prompt_tokens:
                self.prompt_tokens = event.usage.prompt_tokens  # it was a bound until now
            event = replace(event, usage=self.usage())
        self.events.put_nowait(event)

    def usage(self) -> Usage:
        """What this answer took until now, by what really arrived here."""
        now = time.monotonic()
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
            queue_ms=((self.started or now) - self.began) * 1000,
            ttft_ms=((self.first or now) - self.began) * 1000,
            duration_ms=(now - self.began) * 1000,
            counted_here=self.counted_here,
        )


@dataclass
class _Model:
    """A model that is loading, loaded, or was: its process and how it fared."""

    id: str
    process: Writer | None = None
    load: "asyncio.Task[Writer] | None" = None
    progress: Loading = field(default_factory=lambda: Loading("Starting the model…"))
    answers: dict[str, _Answer] = field(default_factory=dict)
    counting: int = 0
    counts: list[Writer] = field(default_factory=list)
    """Who counts prompts right now, once for each."""
    retired: list[Writer] = field(default_factory=list)
    """Who takes no new answers because another place is better, and ends with its last one."""
    used: float = field(default_factory=time.monotonic)
    loaded: float = 0.0
    load_seconds: float = 0.0
    crashes: int = 0
    not_before: float = 0.0
    problem: str = ""
    problem_until: float = 0.0
    slots: int = GUESSED_SLOTS

    @property
    def busy(self) -> bool:
        return bool(self.answers or self.counting)


class Supervisor:
    """See Engine."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._models: dict[str, _Model] = {}
        self._answers: dict[str, _Answer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # By model: whether servers elsewhere write it, and the sentence.
        self._why: dict[str, tuple[bool, str]] = {}
        self._closed = False
        self._servers = _servers(settings)
        self._places = Places(settings, self._servers)
        self._spare = Spare()

    async def start(self) -> None:
        """See Engine.start."""
        self._closed = False
        self._spawn(self._watch())
        if self._settings.llm.warm_worker:
            self._spawn(self._prepare())
        if self._servers is not None:
            self._spawn(self._servers.watch())

    async def close(self) -> None:
        """See Engine.close. Answers that run end as cancelled, with the tokens they have."""
        self._closed = True
        for answer in list(self._answers.values()):
            answer.put(Done("cancelled", Usage()))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for model in list(self._models.values()):
            if model.load is not None:
                model.load.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await model.load
            await self._end(model)
            for process in list(model.retired):
                await process.end()
        await self._spare.end()
        if self._servers is not None:
            await self._servers.close()

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        """See Engine.submit."""
        answer = _Answer(request)
        if self._closed:
            yield Failed("engine_closed", _CLOSED, answer.usage())
            return
        if request.id in self._answers:
            raise ValueError(f"the answer {request.id} is already being written")
        model = self._model(request.model)
        self._answers[request.id] = answer
        model.answers[request.id] = answer
        answer.bring = asyncio.ensure_future(self._bring(model, answer))
        try:
            while True:
                event = await answer.events.get()
                yield event
                if isinstance(event, (Done, Failed)):
                    return
        finally:
            answer.bring.cancel()
            self._answers.pop(request.id, None)
            model.answers.pop(request.id, None)
            model.used = time.monotonic()
            if not answer.ended and answer.process is not None:
                answer.process.send({"op": "cancel", "id": request.id})

    async def _bring(self, model: _Model, answer: _Answer) -> None:
        """Load the model if need be, then hand the request over."""
        try:
            process = await self._ready(model, answer)
        except AppError as error:
            answer.put(Failed(str(error.facts.get("failure", error.code)), str(error), Usage()))
        except Exception:
            _log.exception("%s could not be loaded", model.id)
            sentence = "The model could not be loaded. Try again or choose another one."
            answer.put(Failed("load_failed", sentence, Usage()))
        else:
            if not answer.ended:
                answer.process = process
                process.submit(answer.request)

    async def _ready(self, model: _Model, answer: _Answer | None = None) -> Writer:
        """The model's running process; one load for all who wait. Raises ModelNotReady."""
        if self._misplaced(model):
            self._retire(model)
        if model.process is not None:
            return model.process
        if model.load is None or model.load.done():
            model.progress = Loading("Starting the model…")
            model.load = asyncio.create_task(self._load(model))
            model.load.add_done_callback(_noticed)
        told: Loading | None = None
        while not model.load.done():
            if answer is not None and model.progress is not told:
                told = model.progress
                answer.put(told)
            await asyncio.wait({model.load}, timeout=0.1)
        # Whoever waits may give up; the load goes on for the others.
        return await asyncio.shield(model.load)

    async def _load(self, model: _Model) -> Writer:
        spec = await self._spec(model)
        while (pause := model.not_before - time.monotonic()) > 0:
            model.progress = Loading("The model is restarted in a moment…")
            await asyncio.sleep(min(pause, 1.0))
        began = time.monotonic()
        try:
            try:
                process = await self._start(model, spec)
            except Refused as refusal:
                if refusal.code != "not_enough_memory" or not await self._make_room(model):
                    raise
                process = await self._start(model, spec)
        except Refused as refusal:
            raise await self._refused(model, refusal) from refusal
        model.process = process
        model.slots = process.slots
        model.problem = ""
        model.loaded = model.used = time.monotonic()
        model.load_seconds = model.loaded - began
        self._why[model.id] = (_elsewhere(process), process.why)
        _log.info("%s is loaded in %.1f s. %s", model.id, model.load_seconds, process.why)
        self._spawn(self._follow(model, process))
        return process

    async def _spec(self, model: _Model) -> Spec:
        """How to run the model. Raises ModelNotReady when it cannot be run now."""
        entry = catalogue.get(model.id)
        if self._servers is not None:
            await self._servers.refresh()
        found = await asyncio.to_thread(self._at_rest, model)
        if not found.usable:
            raise ModelNotReady(found.reason, model=model.id)
        if servers := self._places.servers_for(entry):
            return servers.spec(entry)
        return await asyncio.to_thread(self._places.here, entry)

    def _misplaced(self, model: _Model) -> bool:
        """Who writes with the model now is not who should take the next answer."""
        process = model.process
        return process is not None and self._places.wrong(
            catalogue.get(model.id), elsewhere=_elsewhere(process)
        )

    def _retire(self, model: _Model) -> None:
        """What comes next goes elsewhere; what is being written is finished where it is."""
        old, model.process, model.load = model.process, None, None
        assert old is not None, "somebody is there to retire"
        _log.info("%s is no longer written by: %s", model.id, old.why)
        model.retired.append(old)
        self._spawn(self._drain(model, old))

    async def _drain(self, model: _Model, old: Writer) -> None:
        while old in model.counts or any(
            answer.process is old and not answer.ended for answer in model.answers.values()
        ):
            await asyncio.sleep(_DRAIN_SECONDS)
        await old.end()
        model.retired.remove(old)

    async def _start(self, model: _Model, spec: Spec) -> Writer:
        limit = self._settings.llm.load_seconds
        process: Writer
        if self._servers is not None and spec.backend == "remote":
            from chat_app.llm.remote import Remote

            process = Remote(spec, self._servers, self._settings.llm.remote)
        else:
            process = await self._spare.worker(spec)

        def tell(progress: Loading) -> None:
            model.progress = progress

        try:
            await asyncio.wait_for(process.load(tell), limit)
        except BaseException as error:
            await process.end()
            if isinstance(error, TimeoutError):
                raise Refused(
                    "load_timeout",
                    f"The model was not loaded within {limit:.0f} seconds. "
                    "Try again, or raise load_seconds in the section [llm].",
                ) from error
            raise
        return process

    async def _make_room(self, wanted: _Model) -> bool:
        """Unload the idle model that was unused longest; whether there was one."""
        idle = [
            model
            for model in self._models.values()
            if model is not wanted and model.process is not None and not model.busy
        ]
        if not idle:
            return False
        oldest = min(idle, key=lambda model: model.used)
        _log.info("%s makes room for %s", oldest.id, wanted.id)
        await self._end(oldest)
        return True

    async def _refused(self, model: _Model, refusal: Refused) -> ModelNotReady:
        if refusal.code == "crashed":
            self._crashed(model)
        if refusal.code != "load_failed":
            return ModelNotReady(str(refusal), failure=_event_code(refusal.code), model=model.id)
        # It may be the files: read every byte once, so that the reason is the real one.
        entry = catalogue.get(model.id)
        checked = await asyncio.to_thread(loader.verify, entry, self._settings.models_dir)
        reason = checked.reason or (
            f"{entry.name} could not be loaded ({refusal}). Choose another model; "
            "an administrator can look into the log."
        )
        model.problem = reason
        model.problem_until = time.monotonic() + BROKEN_SECONDS
        return ModelNotReady(reason, failure="load_failed", model=model.id)

    async def _follow(self, model: _Model, process: Writer) -> None:
        """Pass on what the process says until it is gone, then end what it leaves behind."""
        try:
            async for request_id, event in process.events():
                answer = self._answers.get(request_id)
                if answer is None or answer.process is not process:
                    continue
                if isinstance(event, Failed) and self._moves(model, answer, event):
                    continue
                answer.put(event)
                if isinstance(event, (Done, Failed)):
                    model.crashes = 0
        except Exception:
            _log.exception("the line to %s broke", model.id)
        left = [answer for answer in model.answers.values() if answer.process is process]
        if model.process is process:
            model.process = None
            self._crashed(model)
            _log.error("the process of %s ended unexpectedly", model.id)
            left += [answer for answer in model.answers.values() if answer.process is None]
        elif process not in model.retired:
            return
        for answer in left:
            answer.put(Failed("engine_crashed", _CRASHED, Usage()))
        await process.end()

    def _moves(self, model: _Model, answer: _Answer, failed: Failed) -> bool:
        """Give an answer that servers elsewhere could not begin to this machine, once."""
        if answer.moved or answer.started is not None or answer.cancelled_at is not None:
            return False
        if failed.code not in _ELSEWHERE or self._settings.llm.engine != "auto":
            return False
        process = answer.process
        if process is None or not _elsewhere(process):
            return False
        entry = catalogue.get(model.id)
        if self._servers is None or self._servers.can(entry) or not self._places.local(entry):
            return False
        _log.warning("answer %s goes to this machine: %s", answer.request.id, failed.code)
        answer.moved, answer.process = True, None
        answer.bring = asyncio.ensure_future(self._bring(model, answer))
        return True

    def _crashed(self, model: _Model) -> None:
        model.crashes += 1
        pause = 0.0 if model.crashes == 1 else min(2.0 ** (model.crashes - 2), BACKOFF_MAX_SECONDS)
        model.not_before = time.monotonic() + pause

    def cancel(self, request_id: str) -> None:
        """See Engine.cancel."""
        answer = self._answers.get(request_id)
        if answer is None or answer.ended or answer.cancelled_at is not None:
            return
        answer.cancelled_at = time.monotonic()
        process = answer.process
        if process is None or not process.has(request_id):
            answer.put(Done("cancelled", Usage()))
        else:
            process.send({"op": "cancel", "id": request_id})

    async def count_tokens(self, model: str, messages: Sequence[ChatMessage]) -> int:
        """See Engine.count_tokens."""
        found = self._model(model)
        found.counting += 1
        try:
            process = await self._ready(found)
            found.counts.append(process)
            try:
                return await process.count(messages)
            finally:
                found.counts.remove(process)
        finally:
            found.counting -= 1
            found.used = time.monotonic()

    async def load(self, model: str) -> None:
        """See Engine.load."""
        await self._ready(self._model(model))

    async def unload(self, model: str) -> None:
        """See Engine.unload."""
        found = self._model(model)
        if found.busy or (found.load is not None and not found.load.done()):
            raise ModelBusy(model=model)
        await self._end(found)

    async def _end(self, model: _Model) -> None:
        process, model.process = model.process, None
        model.load = None
        if process is not None:
            await process.end()

    def stats(self) -> dict[str, Any]:
        """See Engine.stats."""
        now = time.monotonic()
        started = sum(answer.started is not None for answer in self._answers.values())
        servers = {} if self._servers is None else {"servers": self._servers.view()}
        spare = self._spare.view()
        return {
            **servers,
            **({"spare": spare} if spare else {}),
            "running": started,
            "waiting": len(self._answers) - started,
            "models": {
                model.id: {
                    "pid": model.process.pid,
                    "backend": model.process.spec.backend,
                    "device": model.process.device,
                    "running": sum(a.started is not None for a in model.answers.values()),
                    "waiting": sum(a.started is None for a in model.answers.values()),
                    "memory_bytes": model.process.memory_bytes(),
                    "load_seconds": round(model.load_seconds, 3),
                    "idle_seconds": 0.0 if model.busy else round(now - model.used, 1),
                    "figures": model.process.figures,
                }
                for model in self._models.values()
                if model.process is not None
            },
        }

    def state(self, model: str) -> ModelState:
        """See Engine.state."""
        found = self._model(model)
        if found.process is not None and not self._misplaced(found):
            spec = found.process.spec
            if found.process.problem:
                return ModelState("broken", found.process.problem, backend=spec.backend)
            return ModelState("ready", backend=spec.backend, device=found.process.device)
        if found.load is not None and not found.load.done():
            return ModelState("loading", reason=found.progress.sentence)
        return self._at_rest(found)

    def _at_rest(self, model: _Model) -> ModelState:
        """The state of a model that is not in memory."""
        if model.problem and time.monotonic() < model.problem_until:
            return ModelState("broken", model.problem)
        entry = catalogue.get(model.id)
        if servers := self._places.servers_for(entry):
            return servers.state(entry)
        return loader.state(entry, self._settings.models_dir)

    def slots(self, model: str) -> int:
        """See Engine.slots."""
        found = self._model(model)
        if found.process is None:
            return found.slots
        return GUESSED_SLOTS if self._misplaced(found) else found.process.slots

    def sees(self, model: str) -> bool:
        """See Engine.sees."""
        entry = catalogue.get(model)
        if not entry.sees_images:
            return False
        if servers := self._places.servers_for(entry):
            return servers.sees(entry)
        found = self._model(model)
        if found.process is not None and not _elsewhere(found.process):
            return found.process.spec.backend in catalogue.SEEING
        try:
            spec = self._places.here(entry)
        except ModelNotReady:
            return True  # once it is ready; until then that is what it says
        return spec.backend in catalogue.SEEING

    def why(self, model: str) -> str:
        """See Engine.why."""
        entry = catalogue.get(model)
        servers = self._places.servers_for(entry)
        remote, sentence = self._why.get(model, (False, ""))
        if sentence and remote == (servers is not None):
            return sentence
        found = self._at_rest(self._model(model))
        if not found.usable:
            return found.reason
        if servers is not None:
            return servers.spec(entry).why
        try:
            return self._places.here(entry).why
        except ModelNotReady as error:
            return str(error)

    def _model(self, model: str) -> _Model:
        catalogue.get(model)
        return self._models.setdefault(model, _Model(model))

    def _spawn(self, story: Any) -> None:
        # It outlives the request that began it, and is not to carry its id in the log.
        task = asyncio.create_task(story, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _prepare(self) -> None:
        """While no model is in memory or on its way there, keep a worker ready for the first."""
        while True:
            await asyncio.sleep(_PREPARE_SECONDS)
            models = self._models.values()
            if any(model.process is not None for model in models):
                await self._spare.end()
            elif any(model.load is not None and not model.load.done() for model in models):
                continue  # it takes the one that waits
            elif self._spare.wanted and (spec := await asyncio.to_thread(self._likely)):
                await self._spare.prepare(spec)

    def _likely(self) -> Spec | None:
        """How the model is run that will probably be asked for first; None if not here."""
        default = self._settings.llm.default_model
        for entry in sorted(catalogue.entries(), key=lambda entry: entry.id != default):
            if self._places.local(entry) and not self._places.servers_for(entry):
                return self._places.here(entry)
        return None

    async def _watch(self) -> None:
        """End workers that are stuck or were unused for long."""
        idle_seconds = self._settings.llm.idle_unload_minutes * 60
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            now = time.monotonic()
            for model in list(self._models.values()):
                for process in (model.process, *model.retired):
                    if process is not None and _stuck(model, process, now):
                        _log.error("%s does not answer any more and is ended", model.id)
                        process.kill()
                if model.process is None or model.busy:
                    continue
                if self._misplaced(model):
                    _log.info("%s has a better place and leaves this one", model.id)
                    await self._end(model)
                elif idle_seconds and now - model.used > idle_seconds:
                    _log.info("%s was unused and leaves memory", model.id)
                    await self._end(model)


def _stuck(model: _Model, process: Writer, now: float) -> bool:
    """It gave no sign of life, or does not stop an answer that it was told to."""
    return now - process.heard > BEAT_LIMIT_SECONDS or any(
        answer.process is process
        and answer.cancelled_at is not None
        and now - answer.cancelled_at > CANCEL_LIMIT_SECONDS
        for answer in model.answers.values()
    )


def _elsewhere(process: Writer) -> bool:
    """Servers elsewhere write, and no process of ours."""
    return process.spec.backend == "remote"


def _servers(settings: Settings) -> "Servers | None":
    """Servers elsewhere, if the settings name any."""
    if not settings.llm.remote_url or settings.llm.engine not in ("auto", "remote"):
        return None
    from chat_app.llm.servers import Servers

    return Servers(settings.llm)


def _event_code(code: str) -> str:
    return code if code in _LOAD_CODES else "load_failed"


def _noticed(load: "asyncio.Task[Writer]") -> None:
    # Everybody who waited may have left: a failure that nobody awaits is no news then.
    if not load.cancelled():
        load.exception()
