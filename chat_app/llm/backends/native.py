"""Our own engine as a backend: picks format and cache size for the machine, then runs."""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from chat_app.llm.backends import base
from chat_app.llm.backends.base import LoadRefused, Progress, Spec, Step, Unfit
from chat_app.llm.engine import ChatMessage, Sampling

if TYPE_CHECKING:
    from chat_app.llm.native.model import Model
    from chat_app.llm.native.shape import Shape
    from chat_app.llm.native.weights import Format

SLOTS = {"cpu": 16, "cuda": 128}
# Pieces of prompts in one step: beside running answers, and when nobody is held up by them.
CHUNK_TOKENS = {"cpu": 128, "cuda": 1024}
QUIET_CHUNK_TOKENS = {"cpu": 512, "cuda": 2048}
_GIB = 1024**3
_SPARE_BYTES = 600 * 1024**2
# Of what is free beside the weights, the cache may grow to this share.
_CACHE_SHARE = 0.5
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
        from chat_app.llm.native.runner import Runner
        from chat_app.llm.tokenizer import Tokenizer

        torch.set_num_threads(spec.threads)
        self.device = spec.device
        self.slots = SLOTS[spec.device]
        device = torch.device(spec.device)
        format, reason = _format(spec)
        self.why = f"{spec.why} {reason}"
        chunk = QUIET_CHUNK_TOKENS[spec.device]
        try:
            shape = shapes.read(folder)
            self._tokenizer = Tokenizer(folder, spec.family)
            self.context_tokens = min(spec.context_tokens, shape.positions)
            wide, near = self._room(folder, shape, format, chunk)
            progress("Loading the weights…", 0.0)

            def load(format: "Format") -> "Model":
                return weights.load(
                    folder,
                    shape,
                    format=format,
                    device=device,
                    positions=self.context_tokens,
                    progress=lambda share: progress("Loading the weights…", share),
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
        except shapes.Unsupported as error:
            raise Unfit(str(error)) from error
        except (OSError, ValueError) as error:
            raise LoadRefused("load_failed", str(error)) from error
        dtype = torch.float32 if format == "float32" else torch.bfloat16
        self._runner = Runner(
            model,
            Cache(wide_blocks=wide, near_blocks=near, window=shape.window, chunk_tokens=chunk),
            Memory(shape, wide_blocks=wide, near_blocks=near, dtype=dtype, device=device),
            ends=self._tokenizer.ends,
            chunk_tokens=CHUNK_TOKENS[spec.device],
            quiet_chunk_tokens=chunk,
        )

    def _room(self, folder: Path, shape: "Shape", format: "Format", chunk: int) -> tuple[int, int]:
        """Blocks of the wide and the near pool. Raises LoadRefused when weights do not fit."""
        from chat_app.llm.native.cache import BLOCK_TOKENS, blocks, near_need

        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        weights = int(size * {"float32": 2.0, "bfloat16": 1.0, "int8": 0.8}[format])
        bytes_each = 4 if format == "float32" else 2
        wide_bytes = shape.cache_values(near=False) * BLOCK_TOKENS * bytes_each
        near_bytes = shape.cache_values(near=True) * BLOCK_TOKENS * bytes_each
        # For each answer as much as it can ever need, and half as much again for past ones.
        wide = blocks(self.context_tokens) * self.slots * 3 // 2 + 1
        near = near_need(shape.window, chunk) * self.slots * 3 // 2 + 1
        least = blocks(self.context_tokens) + 1, near_need(shape.window, chunk) + 1
        free = self._free()
        need = weights + _SPARE_BYTES + least[0] * wide_bytes + least[1] * near_bytes
        if need > free:
            raise LoadRefused(
                "not_enough_memory",
                f"This model needs about {need / _GIB:.1f} GiB of free memory and there are "
                f"{free / _GIB:.1f} GiB. Unload another model or choose a smaller one.",
            )
        budget = (free - weights - _SPARE_BYTES) * _CACHE_SHARE
        share = min(1.0, budget / (wide * wide_bytes + near * near_bytes))
        return max(least[0], int(wide * share)), max(least[1], int(near * share))

    def _free(self) -> int:
        if self.device == "cpu":
            return int(psutil.virtual_memory().available)
        import torch

        return int(torch.cuda.mem_get_info()[0])

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
        return self._runner.add(id, prompt, sampling, max_tokens, seed=seed, scope=scope)

    def drop(self, id: str) -> None:
        """See Backend.drop."""
        self._runner.drop(id)

    def step(self) -> list[Step]:
        """See Backend.step."""
        return self._runner.step()

    def figures(self) -> dict[str, float]:
        """See Backend.figures."""
        return self._runner.figures()


def _format(spec: Spec) -> tuple["Format", str]:
    """The weights' format on this machine, and a sentence that says why."""
    if spec.device == "cuda":
        return "bfloat16", "The weights are in bfloat16."
    flags = base.cpu_flags()
    if spec.quantization != "none" and flags & _INT8_FLAGS:
        return "int8", "Its weights are in 8 bits, which this processor computes fastest."
    if flags & _BFLOAT16_FLAGS:
        return "bfloat16", "Its weights are in bfloat16."
    return "float32", "Its weights are in float32, because this processor has no faster form."
