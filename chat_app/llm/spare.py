"""The spare worker: while no model is in memory, one process has its libraries and waits.

Importing them takes about half of a small model's load. The process knows no model yet; the next
load takes it, so there is never one more than models and their loads.
"""

import asyncio
import logging
from typing import Any

import psutil

from chat_app.llm.backends.base import Spec
from chat_app.llm.process import Process

_log = logging.getLogger(__name__)
# It takes 400 to 700 MB, and a model that is to fit beside it more.
_FREE_BYTES = 1024**3


class Spare:
    """At most one worker that waits for a model."""

    def __init__(self) -> None:
        self._waiting: tuple[Process, asyncio.Task[None]] | None = None
        self._failed = False
        self._loads = 0

    @property
    def wanted(self) -> bool:
        """Nobody waits, and the last one did not end by itself."""
        return self._waiting is None and not self._failed

    async def prepare(self, spec: Spec) -> None:
        """Have a worker import what this spec needs, if there is memory for it."""
        if psutil.virtual_memory().available < _FREE_BYTES:
            return
        loads = self._loads
        try:
            process = await Process.start(spec)
        except OSError as error:
            self._give_up(error)
            return
        if loads != self._loads:  # a load began meanwhile, and has one of its own
            await process.end()
            return
        preparing = asyncio.create_task(process.prepare())
        preparing.add_done_callback(self._prepared)
        self._waiting = process, preparing

    def _prepared(self, preparing: "asyncio.Task[None]") -> None:
        if not preparing.cancelled() and (error := preparing.exception()):
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        self._failed = True
        _log.warning("no worker waits for the next model: %s", error)

    async def worker(self, spec: Spec) -> Process:
        """A worker for this spec: the one that waits, if it suits, or a new one."""
        waiting, self._waiting = self._waiting, None
        self._failed = False
        self._loads += 1
        if waiting is None:
            return await Process.start(spec)
        process, preparing = waiting
        try:
            # What it still imports, a new one would have to import as well.
            if process.become(spec):
                await asyncio.wait({preparing})
                if process.alive:
                    return process
        except BaseException:
            await _end(process, preparing)
            raise
        await _end(process, preparing)
        return await Process.start(spec)

    async def end(self) -> None:
        """End the one that waits."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            await _end(*waiting)

    def view(self) -> dict[str, Any] | None:
        """For operators; None while nobody waits."""
        if self._waiting is None:
            return None
        process, preparing = self._waiting
        return {
            "pid": process.pid,
            "backend": process.spec.backend,
            "prepared": preparing.done(),
            "memory_bytes": process.memory_bytes(),
        }


async def _end(process: Process, preparing: "asyncio.Task[None]") -> None:
    preparing.cancel()
    await asyncio.wait({preparing})
    await process.end()
