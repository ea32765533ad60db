"""OpenVINO GenAI on the CPU: continuous batching, paged cache with prefix reuse, GGUF read as is.

Its `step()` keeps the interpreter lock, which is one reason why models live in processes of
their own.
"""

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from chat_app.llm import ir
from chat_app.llm.backends.base import LoadRefused, Progress, RanOutOfMemory, Spec, Step
from chat_app.llm.backends.prefixes import BLOCK_TOKENS, Prefixes
from chat_app.llm.engine import ChatMessage, Sampling

_log = logging.getLogger("chat_app.llm.worker")

SLOTS = 16
# A long prompt is read in pieces of this many tokens, so that running answers are not held up.
CHUNK_TOKENS = 256
_GIB = 1024**3
_GREEDY_BELOW = 1e-3
# The library refuses 1, which means the same as this: only the likeliest token.
_MIN_P_MOST = 0.999
# Upper bound of what a number of the cache takes: a byte, and its share of a scale.
_VALUE_BYTES = 1.25


@dataclass
class _Running:
    """One answer in the pipeline, and what it has said."""

    handle: Any
    said: list[int] = field(default_factory=list)


class OpenVino:
    """See Backend."""

    slots = SLOTS
    device = "cpu"

    def __init__(self, spec: Spec, progress: Progress) -> None:
        """Load a GGUF or a folder of converted files. Raises LoadRefused for want of memory."""
        self.why = spec.why
        left_bytes = _room(spec)
        path, ready = self._files(spec, progress)
        progress("Loading the model…", None)
        import openvino_genai as ov

        self._ov = ov
        self._ready = ready
        scheduler = ov.SchedulerConfig()
        # One cache serves all and knows nobody: without names for prompts, nothing is kept.
        scheduler.enable_prefix_caching = ready is not None
        if ready is None:
            scheduler.cache_size = max(1, round(_cache_bytes(left_bytes, 0) / _GIB))
        else:
            block_bytes = ready.cache_values * _VALUE_BYTES * BLOCK_TOKENS
            whole = (spec.context_tokens / BLOCK_TOKENS + 2) * block_bytes
            blocks = int(_cache_bytes(left_bytes, whole) / block_bytes)
            scheduler.num_kv_blocks = blocks
            self._prefixes = Prefixes(blocks)
        scheduler.dynamic_split_fuse = True
        scheduler.max_num_batched_tokens = CHUNK_TOKENS
        scheduler.max_num_seqs = SLOTS
        self._pipeline = ov.ContinuousBatchingPipeline(
            str(path), scheduler, "CPU", {"INFERENCE_NUM_THREADS": spec.threads}
        )
        self._tokenizer = self._pipeline.get_tokenizer()
        self._family = spec.family
        self._ends = self._end_tokens()
        self.context_tokens = spec.context_tokens
        self._running: dict[str, _Running] = {}
        self._next = 0
        self._prompt_tokens = 0
        self._cached_tokens = 0

    def _files(self, spec: Spec, progress: Progress) -> tuple[Path, ir.Ready | None]:
        path = Path(spec.path)
        if path.is_dir():
            ready = ir.read(path)
            if ready is None:
                self.why += " Its files were not made here, so no prompt is kept for a next turn."
            return path, ready
        folder = ir.beside(path)
        if ready := ir.read(folder, source=path):
            return folder, ready
        progress("Preparing the model, once…", None)
        try:
            ir.from_gguf(path, spec.family)
            return folder, ir.read(folder, source=path)
        except (OSError, ir.Unusable) as error:
            _log.warning("%s could not be prepared: %s", spec.model, error)
            self.why += f" No prompt is kept for a next turn, because of this: {error}"
            return path, None

    def _end_tokens(self) -> set[int]:
        ends = {self._tokenizer.get_eos_token_id(), *self._pipeline.get_config().stop_token_ids}
        # A chat's turn has its own end, which is one token wherever it is known.
        marked = self._ids("<end_of_turn>" if self._family == "gemma3" else "<|im_end|>")
        return ends | set(marked if len(marked) == 1 else [])

    def encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        """See Backend.encode."""
        return self._ids(ir.prompt_text(self._tokenizer, self._family, messages))

    def count_text(self, text: str) -> int:
        """See Backend.count_text."""
        return len(self._ids(text))

    def decode(self, tokens: list[int]) -> str:
        """See Backend.decode."""
        return str(self._tokenizer.decode(tokens)) if tokens else ""

    def _ids(self, text: str) -> list[int]:
        return ir.tokens_of(self._tokenizer, text)

    def add(
        self, id: str, prompt: list[int], sampling: Sampling, max_tokens: int, *, scope: str = ""
    ) -> int | None:
        """See Backend.add."""
        import numpy as np
        import openvino

        config = self._ov.GenerationConfig()
        config.max_new_tokens = max_tokens
        config.set_eos_token_id(next(iter(self._ends)))
        config.stop_token_ids = self._ends
        config.repetition_penalty = sampling.repetition_penalty
        config.do_sample = sampling.temperature >= _GREEDY_BELOW
        if config.do_sample:
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            config.min_p = min(sampling.min_p, _MIN_P_MOST)
            if sampling.top_k > 0:
                config.top_k = sampling.top_k
            seed = sampling.seed if sampling.seed is not None else secrets.randbits(31)
            config.rng_seed = seed % 2**31
        cached, tokens = 0, prompt
        if self._ready is not None:
            tokens = self._ready.named(prompt, self._prefixes.number(scope))
            found = self._prefixes.begin(id, scope, prompt, max_tokens)
            if found is None and not self._running:
                self.step()  # what was dropped leaves with a step
                found = self._prefixes.begin(id, scope, prompt, max_tokens)
            if found is None:
                return None
            cached = found
        try:
            tensor = openvino.Tensor(np.array([tokens], dtype=np.int64))
            handle = self._pipeline.add_request(self._next, tensor, config)
        except BaseException:
            self._left(id, [])
            raise
        self._running[id] = _Running(handle)
        self._next += 1
        self._prompt_tokens += len(prompt)
        self._cached_tokens += cached
        return cached

    def drop(self, id: str) -> None:
        """See Backend.drop."""
        answer = self._running.pop(id, None)
        if answer is not None:
            answer.handle.cancel()
            self._left(id, answer.said)

    def _left(self, id: str, said: list[int]) -> None:
        if self._ready is not None:
            self._prefixes.end(id, said)

    def step(self) -> list[Step]:
        """See Backend.step."""
        if self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        if self._ready is not None:
            self._prefixes.stepped()
        return [step for id, answer in self._running.items() if (step := self._read(id, answer))]

    def figures(self) -> dict[str, float]:
        """See Backend.figures."""
        metrics = self._pipeline.get_metrics()
        return {
            "batch_answers": float(metrics.scheduled_requests) if self._running else 0.0,
            "kv_used_share": metrics.cache_usage / 100,
            "kv_bytes": float(metrics.kv_cache_size_in_bytes),
            "prompt_tokens": float(self._prompt_tokens),
            "cached_tokens": float(self._cached_tokens),
        }

    def _read(self, id: str, answer: _Running) -> Step | None:
        step = Step(id)
        status = answer.handle.get_status()
        while answer.handle.can_read():
            for output in answer.handle.read().values():
                answer.said += output.generated_ids
                step.tokens += [token for token in output.generated_ids if token not in self._ends]
                if output.finish_reason == self._ov.GenerationFinishReason.STOP:
                    step.finish = "stop"
                elif output.finish_reason == self._ov.GenerationFinishReason.LENGTH:
                    step.finish = "length"
        if answer.said and self._ready is not None:
            self._prefixes.was_read(id)
        if status == self._ov.GenerationStatus.IGNORED:
            step.error = RanOutOfMemory()
        elif status == self._ov.GenerationStatus.FINISHED and step.finish is None:
            step.finish = "stop"
        return step if step.tokens or step.finish or step.error else None


def _room(spec: Spec) -> int:
    """Bytes that are free after the weights. Raises LoadRefused when they are too few."""
    free = psutil.virtual_memory().available
    path = Path(spec.path)
    files = path.glob("openvino_model.*") if path.is_dir() else [path]
    # Measured: four-bit weights are widened while loading, and the libraries want their part.
    weights = 3 * sum(file.stat().st_size for file in files) + 400 * 1024**2
    left = free - weights
    if left < _GIB:
        raise LoadRefused(
            "not_enough_memory",
            f"This model needs about {(weights + _GIB) / _GIB:.1f} GiB of free memory and the "
            f"machine has {free / _GIB:.1f} GiB. Unload another model or close other programs.",
        )
    return int(left)


def _cache_bytes(left_bytes: int, whole_bytes: float) -> float:
    """For running and past prompts: a share, and where half the rest allows a whole context."""
    share = min(4 * _GIB, max(_GIB, left_bytes // 8))
    return max(share, min(whole_bytes, left_bytes / 2))
