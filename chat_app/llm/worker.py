"""A worker: one process, one model. `python -m chat_app.llm.worker FD` with a socket to obey.

One thread reads what arrived, lets the backend take one step, and reports what came of it.
The process ends when the socket does, so it never outlives the web process. It knows no user
and no secret: its environment holds none.
"""

import contextlib
import importlib
import logging
import os
import select
import socket
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from chat_app.errors import AppError
from chat_app.llm import lines, prompt, wire
from chat_app.llm.backends.base import (
    MARKERS,
    Backend,
    LoadRefused,
    RanOutOfMemory,
    Seeing,
    Spec,
    Step,
    Unfit,
)
from chat_app.llm.engine import (
    ChatMessage,
    Delta,
    Done,
    Event,
    Failed,
    ModelCannotSee,
    Queued,
    Reason,
    Request,
    Started,
    Usage,
)
from chat_app.llm.stops import Detokenizer, StopText

BEAT_SECONDS = 1.0
_LIBRARIES = {
    "native": (
        "tokenizers",
        "chat_app.llm.native.runner",
        "chat_app.llm.native.weights",
        "chat_app.llm.native.compiled",
    ),
    "openvino": ("openvino_genai",),
    "transformers": ("torch", "transformers"),
}
_log = logging.getLogger("chat_app.llm.worker")
_OUT_OF_MEMORY = "The model ran out of memory for this answer. Try a shorter one or try later."
_BROKE = "The model failed while it was writing. Send the message again."


@dataclass
class _Answer:
    """An answer in this worker, from the prompt's tokens to the last piece of text."""

    request: Request
    prompt: list[int]
    images: dict[int, str]
    dropped: int
    max_tokens: int
    text: StopText
    detokenizer: Detokenizer
    sent: int = 0
    position: int = -1

    def usage(self, *, begun: bool = True) -> Usage:
        return Usage(prompt_tokens=len(self.prompt) if begun else 0, completion_tokens=self.sent)


@dataclass
class Desk:
    """Waiting and running answers over one backend. `out` is called with (id, event)."""

    backend: Backend
    family: str
    waiting: "OrderedDict[str, _Answer]" = field(default_factory=OrderedDict)
    running: dict[str, _Answer] = field(default_factory=dict)
    events: list[tuple[str, Event]] = field(default_factory=list)
    _lengths: dict[int, int] = field(default_factory=dict)

    @property
    def idle(self) -> bool:
        return not self.running and not self.waiting

    def submit(self, request: Request) -> None:
        """Queue an answer, or fail it when its prompt cannot fit."""
        try:
            if prompt.shown(request.messages) and not self._sees:
                raise ModelCannotSee
            fitted = self.fit(request.messages, max_tokens=request.max_tokens)
            tokens = self.backend.encode(self._clean(fitted.messages))
        except AppError as error:
            self._tell(request.id, Failed(error.code, str(error), Usage()))
            return
        except Exception:
            _log.exception("the prompt could not be made", extra={"reply": request.id})
            self._tell(request.id, Failed("engine_error", _BROKE, Usage()))
            return
        self.waiting[request.id] = _Answer(
            request=request,
            prompt=tokens,
            images=prompt.shown(fitted.messages),
            dropped=fitted.dropped_messages,
            max_tokens=max(1, min(request.max_tokens, self.backend.context_tokens - len(tokens))),
            text=StopText(request.stop),
            detokenizer=Detokenizer(self.backend.decode, self._lengths),
        )

    @property
    def _sees(self) -> bool:
        return isinstance(self.backend, Seeing) and self.backend.sees

    def fit(self, messages: tuple[ChatMessage, ...], *, max_tokens: int) -> prompt.Fitted:
        """What of a conversation the model reads when the answer may have `max_tokens`."""
        context = self.backend.context_tokens
        return prompt.fit(
            messages,
            count=lambda some: len(self.backend.encode(self._clean(some))),
            count_text=self.backend.count_text,
            limit_tokens=context - min(max_tokens, context // 2),
        )

    def count(self, messages: tuple[ChatMessage, ...]) -> int:
        """Exact tokens of these messages as a prompt."""
        return len(self.backend.encode(self._clean(messages)))

    def cancel(self, id: str) -> None:
        """End an answer now. Unknown ids are fine."""
        if answer := self.waiting.pop(id, None):
            self._tell(id, Done("cancelled", answer.usage(begun=False)))
        elif answer := self.running.get(id):
            self._end(answer, "cancelled")

    def turn(self) -> None:
        """Let waiting answers in, then take one step."""
        while self.waiting and len(self.running) < self.backend.slots:
            if not self._begin(self._fairest()):
                break
        for position, (id, answer) in enumerate(self.waiting.items()):
            if answer.position != position:
                answer.position = position
                self._tell(id, Queued(position))
        if self.running:
            for step in self.backend.step():
                self._apply(step)

    def _fairest(self) -> _Answer:
        """Of those who have the fewest running, the one that came first."""
        running = Counter(answer.request.user_scope for answer in self.running.values())
        return min(self.waiting.values(), key=lambda answer: running[answer.request.user_scope])

    def _begin(self, answer: _Answer) -> bool:
        """Hand an answer to the backend; false when it has no room until another one ends."""
        id, request = answer.request.id, answer.request
        try:
            if isinstance(self.backend, Seeing):
                self.backend.show(answer.images)
            cached = self.backend.add(
                id, answer.prompt, request.sampling, answer.max_tokens, scope=request.user_scope
            )
        except Exception:
            # Sampling that the library refuses concerns this answer only.
            _log.exception("the answer could not begin", extra={"reply": id})
            del self.waiting[id]
            self._tell(id, Failed("engine_error", _BROKE, answer.usage(begun=False)))
            return True
        if cached is None and self.running:
            return False
        del self.waiting[id]
        if cached is None:
            self._tell(id, Failed("out_of_memory", _OUT_OF_MEMORY, answer.usage(begun=False)))
            return True
        self.running[id] = answer
        self._tell(id, Started(len(answer.prompt), cached, answer.dropped))
        return True

    def _apply(self, step: Step) -> None:
        answer = self.running.get(step.id)
        if answer is None:
            return
        pieces = []
        for token in step.tokens:
            if not answer.text.stopped and (
                piece := answer.text.feed(answer.detokenizer.feed(token))
            ):
                pieces.append(piece)
        if pieces:
            self._send(answer, pieces)
        if step.error is not None:
            self._break(answer, step.error)
        elif answer.text.stopped:
            self._end(answer, "stop")
        elif step.finish is not None:
            self._end(answer, step.finish)

    def _send(self, answer: _Answer, pieces: list[Delta]) -> None:
        tokens = sum(piece.tokens for piece in pieces)
        answer.sent += tokens
        text = "".join(piece.text for piece in pieces)
        self._tell(answer.request.id, Delta(text, tokens))

    def _end(self, answer: _Answer, reason: Reason) -> None:
        self._leave(answer)
        # What is held back is shown at a natural end; a cancelled reader wants nothing more.
        if reason != "cancelled" and (rest := answer.text.finish()):
            self._send(answer, [rest])
        self._tell(answer.request.id, Done(reason, answer.usage()))

    def _break(self, answer: _Answer, error: Exception) -> None:
        self._leave(answer)
        if isinstance(error, RanOutOfMemory | MemoryError):
            failed = Failed("out_of_memory", _OUT_OF_MEMORY, answer.usage())
        else:
            _log.error("the answer failed", exc_info=error, extra={"reply": answer.request.id})
            failed = Failed("engine_error", _BROKE, answer.usage())
        self._tell(answer.request.id, failed)

    def _leave(self, answer: _Answer) -> None:
        self.running.pop(answer.request.id, None)
        self.backend.drop(answer.request.id)

    def _tell(self, id: str, event: Event) -> None:
        self.events.append((id, event))

    def _clean(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        markers = MARKERS[self.family]
        return [
            replace(message, content=prompt.harmless(message.content, markers))
            for message in messages
        ]


def load(spec: Spec, line: wire.Line) -> tuple[Spec, Backend]:
    """The backend of the spec with its model in memory. Raises LoadRefused.

    The spec comes back as it was carried out: transformers runs what our own engine does not
    know.
    """

    def progress(sentence: str, fraction: float | None) -> None:
        line.send({"op": "loading", "sentence": sentence, "fraction": fraction})

    if spec.backend == "openvino":
        from chat_app.llm.backends.openvino import OpenVino

        return spec, OpenVino(spec, progress)
    if spec.backend == "native":
        from chat_app.llm.backends.native import Native

        try:
            return spec, Native(spec, progress)
        except Unfit as unfit:
            why = f"{spec.why} {unfit} So transformers runs it, slower."
            spec = replace(spec, backend="transformers", why=why)
    if spec.backend == "llamacpp":
        from chat_app.llm.backends.llamacpp import LlamaCpp

        return spec, LlamaCpp(spec, progress)
    from chat_app.llm.backends.transformers import Transformers

    return spec, Transformers(spec, progress)


def serve(line: wire.Line) -> None:
    """Load what the first message names, then write answers until the line closes.

    Before it, what a likely model needs may be asked for (`prepare`), long before it is known which
    model is loaded.
    """
    first, *early = _some(line)
    if first["op"] == "prepare":
        _prepare(first["backend"], first["path"], first["family"], first["device"])
        line.send({"op": "prepared"})
        first, *early = early or _some(line)
    spec = Spec(**first["spec"])
    try:
        spec, backend = load(spec, line)
    except LoadRefused as refusal:
        line.send({"op": "refused", "code": refusal.code, "message": str(refusal)})
        return
    except MemoryError:
        sentence = "There is not enough memory for this model. Unload another one first."
        line.send({"op": "refused", "code": "not_enough_memory", "message": sentence})
        return
    except Exception as error:
        _log.exception("%s could not be loaded", spec.model)
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else repr(error)
        line.send({"op": "refused", "code": "load_failed", "message": reason})
        return
    desk = Desk(backend, spec.family)
    ready = {"backend": spec.backend, "device": backend.device, "why": backend.why}
    line.send({"op": "ready", "slots": backend.slots, **ready})
    _answer(line, desk, early)


def _some(line: wire.Line) -> list[wire.Message]:
    while not (messages := line.receive()):
        pass
    return messages


def _prepare(backend: str, path: str, family: str, device: str) -> None:
    """Do what takes longest of a load. What fails here is said when a model is loaded."""
    for name in _LIBRARIES.get(backend, ()):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if backend == "native":
        from chat_app.llm.backends import native

        native.prepare(path, family, device)


def _answer(line: wire.Line, desk: Desk, inbox: list[wire.Message]) -> None:
    beat = time.monotonic()
    while True:
        for message in inbox:
            _obey(line, desk, message)
        inbox = []
        # Whoever pressed stop does not wait for the others' next step.
        _report(line, desk)
        desk.turn()
        _report(line, desk)
        now = time.monotonic()
        if now - beat >= BEAT_SECONDS:
            line.send({"op": "beat", "figures": desk.backend.figures()})
            beat = now
        if select.select([line.sock], [], [], BEAT_SECONDS if desk.idle else 0)[0]:
            inbox = line.receive()


def _report(line: wire.Line, desk: Desk) -> None:
    if desk.events:
        events = [[id, wire.event_out(event)] for id, event in desk.events]
        desk.events.clear()
        line.send({"op": "events", "events": events})


def _obey(line: wire.Line, desk: Desk, message: wire.Message) -> None:
    match message["op"]:
        case "submit":
            desk.submit(wire.request_in(message["request"]))
        case "cancel":
            desk.cancel(message["id"])
        case "count":
            line.send({"op": "counted", "key": message["key"], "tokens": _counted(desk, message)})


def _counted(desk: Desk, message: wire.Message) -> int | None:
    try:
        return desk.count(wire.messages_in(message["messages"]))
    except Exception:
        _log.exception("a prompt could not be counted")
        return None


def _end_with(sock: socket.socket) -> None:
    """End this process when the socket's other side is gone, even in the middle of a load."""

    def watch() -> None:
        hung_up = select.POLLHUP | getattr(select, "POLLRDHUP", 0)
        poll = select.poll()
        poll.register(sock, hung_up)
        poll.poll()
        os._exit(0)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def main() -> None:
    """Serve the socket whose number is the only argument."""
    lines.configure()
    sock = socket.socket(fileno=int(sys.argv[1]))
    _end_with(sock)
    # A closed line means that the web process is gone, and so is the reason to be here.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        serve(wire.Line(sock))
    sys.stdout.flush()
    # No teardown of libraries: they are slow at it, and everything ends with the process.
    os._exit(0)


if __name__ == "__main__":
    main()
