"""One worker process as the web process sees it: started, spoken to, ended.

It knows neither who waits nor why; that is the supervisor's.
"""

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO

import psutil

import chat_app
from chat_app.llm import lines, wire
from chat_app.llm.backends.base import Spec
from chat_app.llm.engine import ChatMessage, Done, Event, Failed, Loading, ModelNotReady, Request
from chat_app.llm.writer import Refused, Uncountable

_log = logging.getLogger("chat_app.llm.worker")
END_SECONDS = 5.0
# What a worker may know of the environment: no setting, no token, no password.
_PASSED = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "TEMP", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
# Rounds that a thread waits for the next operation before it sleeps: some 0.1 ms.
_SPINS = "10000"
_PASSED_PREFIXES = ("LC_", "CUDA_", "NVIDIA_")


def environment(threads: int, *, backend: str) -> dict[str, str]:
    """The environment of a worker: found by name, everything else stays out."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED or name.startswith(_PASSED_PREFIXES)
    }
    root = str(Path(chat_app.__file__).resolve().parent.parent)
    number = str(threads)
    return kept | {
        "PYTHONPATH": root,
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore::FutureWarning",
        "OMP_NUM_THREADS": number,
        "MKL_NUM_THREADS": number,
        "OPENBLAS_NUM_THREADS": number,
        "NUMEXPR_NUM_THREADS": number,
        # Only our own engine notices when it spins in vain (`native/threads.py`).
        **({"GOMP_SPINCOUNT": _SPINS} if backend == "native" else {"OMP_WAIT_POLICY": "PASSIVE"}),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }


class Process:
    """A worker; see Writer. Make it with `start`, then `load` it."""

    problem = ""

    def __init__(
        self,
        spec: Spec,
        child: "subprocess.Popen[bytes]",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._adopt(spec)
        self.slots = 1
        self.pid = child.pid
        self.heard = time.monotonic()
        self.figures: dict[str, float] = {}
        self._child = child
        self._reader = reader
        self._writer = writer
        self._running: set[str] = set()
        self._counts: dict[int, asyncio.Future[int]] = {}

    @classmethod
    async def start(cls, spec: Spec) -> "Process":
        """Start the process; it loads nothing yet."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "chat_app.llm.worker", str(theirs.fileno())]
        try:
            child = await asyncio.to_thread(
                subprocess.Popen,
                command,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment(spec.threads, backend=spec.backend),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        assert child.stdout is not None, "it is a pipe"
        reader, writer = await asyncio.open_connection(sock=ours, limit=wire.MAX_BYTES)
        process = cls(spec, child, reader, writer)
        threading.Thread(
            target=process._pump, args=(child.stdout,), daemon=True, name="worker-log"
        ).start()
        return process

    def _adopt(self, spec: Spec) -> None:
        self.spec = spec
        self.device = spec.device
        self.why = spec.why

    @property
    def alive(self) -> bool:
        """The process did not end yet."""
        return self._child.poll() is None

    def become(self, spec: Spec) -> bool:
        """Stand for this spec from now on, before anything is loaded; false where it cannot."""
        if (spec.backend, spec.threads) != (self.spec.backend, self.spec.threads):
            return False
        self._adopt(spec)
        return True

    async def prepare(self) -> None:
        """Import what the backend needs, and load nothing. Raises Refused when it ends at that."""
        likely = {
            name: getattr(self.spec, name) for name in ("backend", "path", "family", "device")
        }
        self.send({"op": "prepare", **likely})
        if await wire.read(self._reader) is None:
            raise Refused("crashed", "The process ended while it was importing its libraries.")
        self.heard = time.monotonic()

    async def load(self, progress: Callable[[Loading], None]) -> None:
        """Load the model. Raises Refused with the worker's reason."""
        self.send({"op": "load", "spec": asdict(self.spec)})
        while message := await wire.read(self._reader):
            self.heard = time.monotonic()
            match message["op"]:
                case "loading":
                    progress(Loading(message["sentence"], message["fraction"]))
                case "refused":
                    raise Refused(message["code"], message["message"])
                case "ready":
                    self.device, self.why = message["device"], message["why"]
                    self.spec = replace(self.spec, backend=message["backend"])
                    self.slots = message["slots"]
                    return
        raise Refused(
            "crashed",
            "The model's process ended while it was loading, perhaps for want of memory. "
            "Try again or choose a smaller model.",
        )

    def has(self, request_id: str) -> bool:
        """The request was handed over and has not ended."""
        return request_id in self._running

    def submit(self, request: Request) -> None:
        """Hand a request over."""
        self._running.add(request.id)
        self.send({"op": "submit", "request": wire.request_out(request)})

    def send(self, message: wire.Message) -> None:
        """Send without waiting; a dead line is noticed by who reads it."""
        if not self._writer.is_closing():
            with contextlib.suppress(ConnectionError, RuntimeError):
                self._writer.write(wire.pack(message))

    async def count(self, messages: Sequence[ChatMessage]) -> int:
        """Exact prompt tokens. Raises ModelNotReady when the process goes away."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        key = id(future)
        self._counts[key] = future
        items = [asdict(message) for message in messages]
        self.send({"op": "count", "key": key, "messages": items})
        try:
            return await future
        finally:
            self._counts.pop(key, None)

    async def events(self) -> AsyncIterator[tuple[str, Event]]:
        """What the worker says of its answers, until it is gone."""
        try:
            while message := await wire.read(self._reader):
                self.heard = time.monotonic()
                if message["op"] == "beat":
                    self.figures = message["figures"]
                elif message["op"] == "events":
                    for request_id, fields in message["events"]:
                        event = wire.event_in(fields)
                        if isinstance(event, (Done, Failed)):
                            self._running.discard(request_id)
                        yield request_id, event
                elif message["op"] == "counted":
                    future = self._counts.get(message["key"])
                    if future is None or future.done():
                        continue
                    if message["tokens"] is None:
                        future.set_exception(Uncountable())
                    else:
                        future.set_result(message["tokens"])
        finally:
            for future in self._counts.values():
                if not future.done():
                    future.set_exception(ModelNotReady())

    def memory_bytes(self) -> int:
        """Resident memory of the worker."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def kill(self) -> None:
        """End it at once; whoever reads its events notices."""
        self._child.kill()

    async def end(self) -> None:
        """Close the line, wait until the process is gone, help a little if it is not."""
        self._writer.close()
        with contextlib.suppress(Exception):
            await self._writer.wait_closed()
        await asyncio.to_thread(self._reap)

    def _reap(self) -> None:
        try:
            self._child.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _pump(self, pipe: IO[bytes]) -> None:
        """What libraries print goes to the log, line by line."""
        with pipe:
            for line in pipe:
                lines.relay(_log, line.decode(errors="replace"), model=self.spec.model)
