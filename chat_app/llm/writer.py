"""Whoever writes a model's answers, as the supervisor sees it: a worker process, or servers.

It knows neither who waits nor why; that is the supervisor's.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

from chat_app.errors import Invalid
from chat_app.llm.backends.base import Spec
from chat_app.llm.engine import ChatMessage, Event, Loading, Request


class Refused(Exception):
    """The model was not loaded: `code` and a sentence."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class Uncountable(Invalid):
    """The model's tokenizer does not take these messages."""

    code = "uncountable"
    message = "The model could not read this message. Remove unusual characters and try again."


class Writer(Protocol):
    """One model that can be written with, until `events` ends."""

    spec: Spec
    device: str
    why: str
    pid: int
    """The process, 0 when there is none of ours."""

    @property
    def slots(self) -> int:
        """How many answers it writes at once."""
        ...

    @property
    def figures(self) -> dict[str, float]:
        """Gauges and counters for operators; the unit is in the name."""
        ...

    @property
    def heard(self) -> float:
        """When it last gave a sign of life, on the monotonic clock."""
        ...

    @property
    def problem(self) -> str:
        """Why no request can be sent right now; empty when one can."""
        ...

    async def load(self, progress: Callable[[Loading], None]) -> None:
        """Make the model ready. Raises Refused."""
        ...

    def has(self, request_id: str) -> bool:
        """The request was handed over and has not ended."""
        ...

    def submit(self, request: Request) -> None:
        """Hand a request over."""
        ...

    def send(self, message: dict[str, Any]) -> None:
        """Send without waiting, e.g. `{"op": "cancel", "id": …}`."""
        ...

    async def count(self, messages: Sequence[ChatMessage]) -> int:
        """Prompt tokens. Raises ModelNotReady and Uncountable."""
        ...

    def events(self) -> AsyncIterator[tuple[str, Event]]:
        """What it says of its answers, until it is gone."""
        ...

    def memory_bytes(self) -> int:
        """Resident memory here."""
        ...

    def kill(self) -> None:
        """End it at once; whoever reads its events notices."""
        ...

    async def end(self) -> None:
        """End it and wait until everything is given back."""
        ...
