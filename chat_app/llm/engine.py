"""The engine's protocol: what a request is, which events answer it, what an engine can do.

Everybody who wants text from a model speaks this and nothing else. It knows no user, no
conversation and no credit; it counts tokens exactly, and others turn them into money.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from chat_app.errors import Conflict, Invalid, NotFound, Unavailable

Role = Literal["system", "user", "assistant"]
Reason = Literal["stop", "length", "cancelled"]
StateName = Literal["ready", "loading", "available", "not_downloaded", "broken"]


class UnknownModel(NotFound):
    """The catalogue has no such model."""

    code = "unknown_model"
    message = "There is no such model. Choose one from the list of models."


class ModelNotReady(Unavailable):
    """The model is not downloaded, is broken, or cannot be loaded now; the sentence says why."""

    code = "model_not_available"
    message = "This model is not available right now. Choose another one."


class ModelBusy(Conflict):
    """The model writes answers at this moment, so it stays in memory."""

    code = "model_busy"
    message = "The model is writing answers right now. Wait until they are done or stop them."


class ModelCannotSee(Invalid):
    """The model, or the way in which it runs here, takes no images."""

    code = "model_cannot_see"
    message = "This model cannot see images. Choose one that does, or send the text alone."


class ContextOverflow(Invalid):
    """The last message alone does not fit. Facts: `prompt_tokens`, `limit_tokens`."""

    code = "context_overflow"
    message = "This message is too long for the model. Shorten it and send it again."


@dataclass(frozen=True)
class Sampling:
    """How the next token is picked. Temperature 0 is greedy; the same seed repeats a text.

    `top_k` 0 means no limit; `min_p` is a share of the likeliest token's probability.
    """

    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 64
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Image:
    """An image that is shown to the model: a file on this machine and its SHA-256 in hex."""

    path: str
    digest: str


@dataclass(frozen=True)
class ChatMessage:
    """One turn of a conversation as the model sees it; its images stand before the text."""

    role: Role
    content: str
    images: tuple[Image, ...] = ()


@dataclass(frozen=True)
class Request:
    """One answer to be written.

    `messages` end with the user's turn. `max_tokens` caps the answer. A `stop` text ends it and
    is not part of it. Answers of one `user_scope` may share cached prompt tokens. After
    `deadline_seconds` (None: the engine's own limit), counted from submit, the answer fails.
    Nobody waits for a `background` answer, and it is no figure of its own for operators. For those
    figures an answer began `waited_seconds` ago: so long it stood in a line before the engine.
    """

    id: str
    model: str
    messages: tuple[ChatMessage, ...]
    max_tokens: int
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    user_scope: str = ""
    deadline_seconds: float | None = None
    background: bool = False
    waited_seconds: float = 0.0


@dataclass(frozen=True)
class Usage:
    """What an answer took. Durations in milliseconds.

    `prompt_tokens` are all tokens the model was given, template included, whole or from the
    cache; 0 when the model never began. `completion_tokens` is the sum of all `Delta.tokens`.
    `engine_ms` is the answer's share of the model's busy time, see `meter.py`. `counted_here`: a
    server elsewhere said nothing of the answer's tokens, or nothing that can be true, so its
    pieces were counted.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    queue_ms: float = 0.0
    ttft_ms: float = 0.0
    duration_ms: float = 0.0
    engine_ms: float = 0.0
    counted_here: bool = False


@dataclass(frozen=True)
class Queued:
    """Waiting; `position` answers are ahead of this one."""

    position: int


@dataclass(frozen=True)
class Loading:
    """The model is on its way into memory; `fraction` is 0 to 1, or None when unknown."""

    sentence: str
    fraction: float | None = None


@dataclass(frozen=True)
class Started:
    """The model has the prompt. `dropped_messages` old ones had to be left out to fit.

    `prompt_tokens` are never fewer than those of the final usage; they are more only where a
    server elsewhere counts a prompt after the answer alone.
    """

    prompt_tokens: int
    cached_tokens: int = 0
    dropped_messages: int = 0


@dataclass(frozen=True)
class Delta:
    """New text: never empty, never an error's text, `tokens` >= 1 of them produced it."""

    text: str
    tokens: int


@dataclass(frozen=True)
class Done:
    """Terminal: the answer ended by itself, at its limit, or because it was cancelled."""

    reason: Reason
    usage: Usage


@dataclass(frozen=True)
class Failed:
    """Terminal: the answer broke off. `message` is for a person; text sent so far stands.

    Codes: `engine_stalled`, `deadline`, `engine_crashed`, `engine_error`, `out_of_memory`,
    `not_enough_memory`, `context_overflow`, `model_cannot_see`, `model_not_available`,
    `load_failed`, `engine_closed`.
    """

    code: str
    message: str
    usage: Usage


Event = Queued | Loading | Started | Delta | Done | Failed


@dataclass(frozen=True)
class ModelState:
    """Whether a model can answer. `reason` is a sentence with the next step, for a person."""

    state: StateName
    reason: str = ""
    backend: str = ""
    device: str = ""

    @property
    def usable(self) -> bool:
        """A request for it can be sent: it is in memory or can be brought there."""
        return self.state in ("ready", "loading", "available")


class Engine(Protocol):
    """A place where answers are written. One object for all models of the installation."""

    async def start(self) -> None:
        """Begin to accept requests. Loads nothing."""
        ...

    async def close(self) -> None:
        """End running answers with a terminal event and give back all memory. Idempotent."""
        ...

    def submit(self, request: Request) -> AsyncIterator[Event]:
        """Write an answer. Nothing runs before the first event is awaited.

        Exactly one terminal event (Done or Failed) comes last, always with the usage; trouble
        of any kind is a Failed, never a raise and never text. Closing the iterator early
        cancels the answer.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """End an answer before its next token; unknown and ended ids are fine."""
        ...

    async def count_tokens(self, model: str, messages: Sequence[ChatMessage]) -> int:
        """Exact prompt tokens of these messages, template included; loads the model if need be.

        Raises UnknownModel and ModelNotReady.
        """
        ...

    async def load(self, model: str) -> None:
        """Bring a model into memory. Callers at the same time share one load.

        Raises UnknownModel and ModelNotReady with the reason.
        """
        ...

    async def unload(self, model: str) -> None:
        """Give back a model's memory. Raises ModelBusy while it writes; not loaded is fine."""
        ...

    def stats(self) -> dict[str, Any]:
        """Counts for operators: `running`, `waiting`, and `models`, a plain dict for each.

        Under watch also `recent`: the figures of `meter.py` for each model that was asked.
        """
        ...

    def state(self, model: str) -> ModelState:
        """Whether the model can answer, cheaply (no hashing). Raises UnknownModel."""
        ...

    def slots(self, model: str) -> int:
        """How many of the model's answers are written at once; 0: as many as are asked for.

        What is submitted beyond it waits in the engine. Until the model was loaded it is a guess.
        """
        ...

    def sees(self, model: str) -> bool:
        """Whether messages to it may carry images here. Raises UnknownModel."""
        ...

    def why(self, model: str) -> str:
        """One sentence: which backend and device run this model, and why these."""
        ...


# What an image takes of a prompt in Gemma 3: its tokens, its marks and the lines around them.
IMAGE_TOKENS = 260


def words(messages: Sequence[ChatMessage]) -> int:
    """The script engine's prompt tokens: words of all messages, and a number for each image."""
    images = sum(len(message.images) for message in messages)
    return sum(len(message.content.split()) for message in messages) + images * IMAGE_TOKENS
