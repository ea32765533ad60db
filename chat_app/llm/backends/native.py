"""Our own engine as a backend: picks format and cache size for the machine, then runs."""

import contextlib
import os
import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from chat_app.llm.backends import base
from chat_app.llm.backends.base import LoadRefused, Progress, Spec, Step, Unfit
from chat_app.llm.engine import ChatMessage, Sampling

if TYPE_CHECKING:
    import torch

    from chat_app.llm.native.cache import Cache
    from chat_app.llm.native.compiled import Code, Compiled
    from chat_app.llm.native.linear import Eighths
    from chat_app.llm.native.memory import Memory
    from chat_app.llm.native.model import Model
    from chat_app.llm.native.runner import Runner
    from chat_app.llm.native.shape import Shape, Sight
    from chat_app.llm.native.vision import Eyes
    from chat_app.llm.native.weights import Format
    from chat_app.llm.tokenizer import Tokenizer

SLOTS = {"cpu": 16, "cuda": 128}
# Pieces of prompts in one step: beside running answers, and when nobody is held up by them.
CHUNK_TOKENS = {"cpu": 96, "cuda": 1024}
QUIET_CHUNK_TOKENS = {"cpu": 512, "cuda": 2048}
_GIB = 1024**3
_SPARE_BYTES = 600 * 1024**2
# Of what is free beside the weights, the cache may grow to this share.
_CACHE_SHARE = {"cpu": 0.5, "cuda": 0.8}
_INT8_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8"}
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


class Native:
    """See Backend."""

    def __init__(self, spec: Spec, progress: Progress) -> None:
        """Load the folder of the spec. Raises LoadRefused when it does not fit or is unknown."""
        folder = base.folder(spec, progress)
        progress("Loading the libraries…", None)
        import torch

        from chat_app.llm.native import shape as shapes
        from chat_app.llm.native import weights
        from chat_app.llm.native.cache import Cache
        from chat_app.llm.native.memory import Memory
        from chat_app.llm.native.threads import Threads

        # Packing the weights keeps all cores busy for a second; answers have their share of them.
        torch.set_num_threads(max(spec.threads, os.cpu_count() or 1))
        self.device, self.slots = spec.device, SLOTS[spec.device]
        code = _code() if spec.device == "cpu" else None
        device = _place(spec.device)
        chunk = QUIET_CHUNK_TOKENS[spec.device]
        try:
            shape = shapes.read(folder)
            sight = shapes.sight(folder)
            self.sees = sight is not None
            self._images: Mapping[int, str] = {}
            self._tokenizer = _tokenizer(folder, spec.family, sight)
            chunk = max(chunk, sight.tokens if sight else 0)
            self.context_tokens = min(spec.context_tokens, shape.positions)
            format, reason = self._format(spec, shape, chunk)
            self.why = f"{spec.why} {reason}"
            wide, near = self._room(folder, shape, sight, format, chunk)
            progress("Loading the weights…", 0.0)

            def load(format: "Format") -> "Model":
                return weights.load(
                    folder,
                    shape,
                    format=format,
                    device=device,
                    positions=self.context_tokens,
                    progress=lambda share: progress("Loading the weights…", share),
                    rows=_rows(format),
                )

            try:
                model = load(format)
            except OSError as error:
                if format != "int8":
                    raise
                # A disk that is full or may not be written: slower, but it runs.
                format = "bfloat16"
                why = f"Its 8-bit form could not be stored ({error.strerror or error})"
                self.why = f"{spec.why} {why}, so its weights are in bfloat16."
                model = load(format)
            dtype = torch.float32 if format == "float32" else torch.bfloat16
            memory = Memory(shape, wide_blocks=wide, near_blocks=near, dtype=dtype, device=device)
        except shapes.Unsupported as error:
            raise Unfit(str(error)) from error
        except (OSError, ValueError) as error:
            raise LoadRefused("load_failed", str(error)) from error
        except torch.OutOfMemoryError as error:
            raise MemoryError from error
        cache = Cache(wide_blocks=wide, near_blocks=near, window=shape.window, chunk_tokens=chunk)
        progress(_doing(code), None)
        eyes = _eyes(folder, sight, format, device) if sight else None
        self._threads = Threads(spec.threads, torch.set_num_threads, watched=spec.device == "cpu")
        self._runner = self._made(model, cache, memory, chunk, eyes=eyes, code=code)

    def _format(self, spec: Spec, shape: "Shape", chunk: int) -> tuple["Format", str]:
        if spec.device == "cpu":
            return _cpu_format(spec)
        from chat_app.llm.native import gpu

        return gpu.form(
            shape,
            spec.quantization,
            gpu.card(),
            slots=self.slots,
            context_tokens=self.context_tokens,
            chunk_tokens=chunk,
        )

    def _made(
        self,
        model: "Model",
        cache: "Cache",
        memory: "Memory",
        chunk: int,
        *,
        eyes: "Eyes | None",
        code: "Code | None",
    ) -> "Runner":
        from chat_app.llm.native.runner import Runner

        ends, running_chunk = self._tokenizer.ends, CHUNK_TOKENS[self.device]
        if self.device == "cuda":
            from chat_app.llm.native import gpu
            from chat_app.llm.native.ahead import Ahead

            decoder, reason = gpu.decoder(
                model, memory, slots=self.slots, context_tokens=self.context_tokens
            )
            self.why += f" {reason}"
            if decoder is not None:
                return Ahead(
                    model,
                    cache,
                    memory,
                    ends=ends,
                    chunk_tokens=running_chunk,
                    quiet_chunk_tokens=chunk,
                    decoder=decoder,
                    eyes=eyes,
                )
        return Runner(
            model,
            cache,
            memory,
            ends=ends,
            chunk_tokens=running_chunk,
            quiet_chunk_tokens=chunk,
            eyes=eyes,
            compiled=self._compiled(code, model, memory),
        )

    def _compiled(self, code: "Code | None", model: "Model", memory: "Memory") -> "Compiled | None":
        if code is None:
            return None
        from chat_app.llm.native import compiled

        try:
            made = compiled.Compiled(code, model, memory, context_tokens=self.context_tokens)
        except compiled.Unlike as error:
            self.why += f" {error}"
            return None
        self.why += " Its steps are compiled for this processor."
        return made

    def _room(
        self, folder: Path, shape: "Shape", sight: "Sight | None", format: "Format", chunk: int
    ) -> tuple[int, int]:
        """Blocks of the wide and the near pool. Raises LoadRefused when weights do not fit."""
        from chat_app.llm.native.cache import BLOCK_TOKENS, blocks, near_need

        weights, spare, free = self._need(folder, shape, format, chunk)
        if sight and self.device == "cuda":  # in memory, the files' size holds them already
            # Kept free for the first image: the tower in 16 bits, and its patches between layers.
            weights += 2 * sight.values
            spare += sight.grid**2 * (8 * sight.hidden + 3 * sight.inner) * 4
        bytes_each = 4 if format == "float32" else 2
        wide_bytes = shape.cache_values(near=False) * BLOCK_TOKENS * bytes_each
        near_bytes = shape.cache_values(near=True) * BLOCK_TOKENS * bytes_each
        # For each answer as much as it can ever need, and half as much again for past ones.
        wide = blocks(self.context_tokens) * self.slots * 3 // 2 + 1
        near = near_need(shape.window, chunk) * self.slots * 3 // 2 + 1
        least = blocks(self.context_tokens) + 1, near_need(shape.window, chunk) + 1
        need = weights + spare + least[0] * wide_bytes + least[1] * near_bytes
        if need > free:
            raise LoadRefused(
                "not_enough_memory",
                f"This model needs about {need / _GIB:.1f} GiB of free memory and there are "
                f"{free / _GIB:.1f} GiB. Unload another model or choose a smaller one.",
            )
        budget = (free - weights - spare) * _CACHE_SHARE[self.device]
        share = min(1.0, budget / (wide * wide_bytes + near * near_bytes))
        return max(least[0], int(wide * share)), max(least[1], int(near * share))

    def _need(
        self, folder: Path, shape: "Shape", format: "Format", chunk: int
    ) -> tuple[int, int, int]:
        """Bytes of the weights, of the work beside them, and those that are free."""
        if self.device == "cuda":
            from chat_app.llm.native import gpu

            assert format in ("bfloat16", "float8", "nf4"), "a GPU has no others"
            weights = gpu.weights_bytes(shape, format)
            spare = gpu.work_bytes(shape, slots=self.slots, chunk_tokens=chunk)
            return weights, spare, gpu.card().free_bytes
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        weights = int(size * {"float32": 2.0, "bfloat16": 1.0, "int8": 0.8}[format])
        return weights, _SPARE_BYTES, int(psutil.virtual_memory().available)

    def encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        """See Backend.encode."""
        return self._tokenizer.encode(messages)

    def count_text(self, text: str) -> int:
        """See Backend.count_text."""
        return len(self._tokenizer.ids(text))

    def decode(self, tokens: list[int]) -> str:
        """See Backend.decode."""
        return self._tokenizer.decode(tokens)

    def add(
        self, id: str, prompt: list[int], sampling: Sampling, max_tokens: int, *, scope: str = ""
    ) -> int | None:
        """See Backend.add."""
        seed = sampling.seed if sampling.seed is not None else secrets.randbits(63)
        return self._runner.add(
            id, prompt, sampling, max_tokens, seed=seed, scope=scope, images=self._images
        )

    def show(self, images: Mapping[int, str]) -> None:
        """See Seeing.show."""
        self._images = images

    def drop(self, id: str) -> None:
        """See Backend.drop."""
        self._runner.drop(id)

    def step(self) -> list[Step]:
        """See Backend.step."""
        with self._threads.step():
            return self._runner.step()

    def figures(self) -> dict[str, float]:
        """See Backend.figures."""
        return {**self._runner.figures(), "threads": float(self._threads.count)}


def _place(name: str) -> "torch.device":
    import torch

    return torch.device(name)


def prepare(path: str, family: str, device: str) -> None:
    """What a load of this folder needs beside its weights, in this process, before it is asked for.

    What is not there, or damaged, is left to the load.
    """
    from chat_app.llm.native import shape as shapes

    if device == "cpu":
        _code()
    folder = base.safetensors(path)
    with contextlib.suppress(OSError, ValueError):
        _tokenizer(folder, family, shapes.sight(folder))


def _code() -> "Code | None":
    """The compiled steps, on their way; None where there are none to be had."""
    try:
        from chat_app.llm.native.compiled import Code
    except ImportError:  # Numba is installed on some kinds of processors only
        return None
    return Code()


def _doing(code: "Code | None") -> str:
    if code is not None and code.is_alive():
        return "Compiling for this processor, once…"
    return "Preparing the model…"


def _tokenizer(folder: Path, family: str, sight: "Sight | None") -> "Tokenizer":
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return _read(folder, family, sight, tuple(map(_stamp, files)))


def _stamp(file: Path) -> tuple[str, int, int]:
    """Another one when the file was changed."""
    found = file.stat()
    return file.name, found.st_size, found.st_mtime_ns


@lru_cache(1)
def _read(
    folder: Path, family: str, sight: "Sight | None", _stamps: tuple[tuple[str, int, int], ...]
) -> "Tokenizer":
    from chat_app.llm.tokenizer import Tokenizer

    if sight is None:
        return Tokenizer(folder, family)
    return Tokenizer(folder, family, image_tokens=sight.tokens, image_token=sight.token)


def _eyes(folder: Path, sight: "Sight", format: "Format", device: "torch.device") -> "Eyes":
    from chat_app.llm.native import vision
    from chat_app.llm.native.weights import Source

    return vision.Eyes(
        sight,
        lambda: vision.load(Source(folder, str(device)), sight, format=format, device=device),
        layers_per_step=vision.LAYERS_PER_STEP[device.type],
    )


def _cpu_format(spec: Spec) -> tuple["Format", str]:
    """The weights' format on this machine, and a sentence that says why."""
    flags = base.cpu_flags()
    if spec.quantization != "none" and flags & _INT8_FLAGS:
        return "int8", "Its weights are in 8 bits, which this processor computes fastest."
    if flags & _BFLOAT16_FLAGS:
        return "bfloat16", "Its weights are in bfloat16."
    return "float32", "Its weights are in float32, because this processor has no faster form."


def _rows(format: "Format") -> "Eighths | None":
    if format != "float8":
        return None
    from chat_app.llm.native import gpu

    return gpu.eighths()
