"""What a backend offers to the worker: tokens in, tokens out, one step at a time.

Text, stop texts, limits of the prompt and usage are the worker's business.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from chat_app.llm.engine import ChatMessage, Sampling

Progress = Callable[[str, float | None], None]
Family = Literal["gemma3", "llama"]
MARKERS: dict[str, tuple[str, ...]] = {
    "gemma3": (
        "<start_of_turn>",
        "<end_of_turn>",
        "<start_of_image>",
        "<image_soft_token>",
        "<end_of_image>",
        "<bos>",
        "<eos>",
    ),
    "llama": ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
}


class LoadRefused(Exception):
    """The model cannot be loaded; `code` is an event's code, the sentence is for a person."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def folder(spec: "Spec", progress: Progress) -> Path:
    """The safetensors of a spec; a GGUF is converted now if that was not done. Raises LoadRefused.

    It takes minutes for large files, which is why it is usually done after the download.
    """
    path = Path(spec.path)
    if path.is_dir():
        return path
    from chat_app.llm import convert

    sentence = "Converting the weights, once…"
    target = safetensors(spec.path)
    try:
        convert.convert(path, target, lambda share: progress(sentence, share))
    except convert.Unreadable as error:
        raise LoadRefused("load_failed", str(error)) from error
    return target


def safetensors(path: str) -> Path:
    """Where the safetensors of a spec's path are, or will be."""
    return Path(path) if Path(path).is_dir() else Path(path).parent / "safetensors"


def cpu_flags() -> set[str]:
    """What this processor can do, in Linux' words; empty where it is not known."""
    file = Path("/proc/cpuinfo")
    if not file.exists():
        return set()
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return next(
        (set(line.split()) for line in lines if line.startswith(("flags", "Features"))), set()
    )


class Unfit(LoadRefused):
    """This backend knows no models of this kind; another one may."""

    def __init__(self, sentence: str) -> None:
        super().__init__("load_failed", sentence)


class RanOutOfMemory(Exception):
    """One answer could not get memory. The others go on."""


@dataclass(frozen=True)
class Spec:
    """What to load and how. Sizes in bytes; `path` is a GGUF file or a safetensors folder."""

    model: str
    family: Family
    path: str
    backend: str
    device: str
    threads: int
    context_tokens: int
    quantization: str = "none"
    why: str = ""


@dataclass
class Step:
    """What one step did for one answer. The end-of-turn token is not among the tokens."""

    id: str
    tokens: list[int] = field(default_factory=list)
    finish: Literal["stop", "length"] | None = None
    error: Exception | None = None


@runtime_checkable
class Seeing(Protocol):
    """A backend whose model sees, when `sees` is true."""

    sees: bool

    def show(self, images: Mapping[int, str]) -> None:
        """Files of images by the numbers that stand for them in the prompt that `add` gets next."""
        ...


class Backend(Protocol):
    """One loaded model. Used by one thread."""

    slots: int
    """How many answers may run at once."""
    context_tokens: int
    """Prompt and answer together."""
    device: str
    """`cpu` or `cuda`."""
    why: str
    """One sentence: how it runs and why so."""

    def encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        """The prompt's tokens, template included."""
        ...

    def count_text(self, text: str) -> int:
        """Tokens of a bare text."""
        ...

    def decode(self, tokens: list[int]) -> str:
        """The text of some tokens, without special ones."""
        ...

    def add(
        self, id: str, prompt: list[int], sampling: Sampling, max_tokens: int, *, scope: str = ""
    ) -> int | None:
        """Begin an answer; its first tokens come with a later step.

        Returns how many of the prompt's first tokens need no work, because an answer of the same
        `scope` left them in the cache; None when there is no room until another answer ends.
        """
        ...

    def drop(self, id: str) -> None:
        """Forget an answer at once, whatever it was doing. Unknown ids are fine."""
        ...

    def step(self) -> list[Step]:
        """Advance the running answers: at most one token each, or a piece of a prompt."""
        ...

    def figures(self) -> dict[str, float]:
        """Gauges and counters for operators; the unit is in the name."""
        ...
