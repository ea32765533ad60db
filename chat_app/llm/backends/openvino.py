"""OpenVINO GenAI on the CPU: continuous batching, paged cache with prefix reuse, GGUF read as is.

Its `step()` keeps the interpreter lock, which is one reason why models live in processes of
their own.
"""

import os
import secrets
from collections.abc import Sequence
from typing import Any

import psutil

from chat_app.llm.backends.base import LoadRefused, Progress, RanOutOfMemory, Spec, Step
from chat_app.llm.engine import ChatMessage, Sampling

SLOTS = 16
# A long prompt is read in pieces of this many tokens, so that running answers are not held up.
CHUNK_TOKENS = 256
_GIB = 1024**3
_GREEDY_BELOW = 1e-3


class OpenVino:
    """See Backend."""

    slots = SLOTS
    device = "cpu"

    def __init__(self, spec: Spec, progress: Progress) -> None:
        """Load the GGUF of the spec. Raises LoadRefused when memory does not suffice."""
        cache_bytes = _room(spec)
        progress("Loading the model…", None)
        import openvino_genai as ov

        scheduler = ov.SchedulerConfig()
        scheduler.cache_size = max(1, round(cache_bytes / _GIB))
        scheduler.enable_prefix_caching = True
        scheduler.dynamic_split_fuse = True
        scheduler.max_num_batched_tokens = CHUNK_TOKENS
        scheduler.max_num_seqs = SLOTS
        self._ov = ov
        self._pipeline = ov.ContinuousBatchingPipeline(
            spec.path, scheduler, "CPU", {"INFERENCE_NUM_THREADS": spec.threads}
        )
        self._tokenizer = self._pipeline.get_tokenizer()
        self._ends = {self._tokenizer.get_eos_token_id()}
        self.context_tokens = spec.context_tokens
        self.why = spec.why
        self._handles: dict[str, Any] = {}
        self._seen: dict[str, int] = {}
        self._next = 0

    def encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        """See Backend.encode."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        return self._ids(self._tokenizer.apply_chat_template(turns, add_generation_prompt=True))

    def count_text(self, text: str) -> int:
        """See Backend.count_text."""
        return len(self._ids(text))

    def decode(self, tokens: list[int]) -> str:
        """See Backend.decode."""
        return str(self._tokenizer.decode(tokens)) if tokens else ""

    def _ids(self, text: str) -> list[int]:
        if not text:
            return []
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        return [int(token) for token in encoded.input_ids.data[0]]

    def add(
        self, id: str, prompt: list[int], sampling: Sampling, max_tokens: int, *, scope: str = ""
    ) -> int:
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
            config.min_p = sampling.min_p
            if sampling.top_k > 0:
                config.top_k = sampling.top_k
            seed = sampling.seed if sampling.seed is not None else secrets.randbits(31)
            config.rng_seed = seed % 2**31
        tensor = openvino.Tensor(np.array([prompt], dtype=np.int64))
        self._handles[id] = self._pipeline.add_request(self._next, tensor, config)
        self._next += 1
        return 0

    def drop(self, id: str) -> None:
        """See Backend.drop."""
        handle = self._handles.pop(id, None)
        if handle is not None:
            handle.cancel()

    def step(self) -> list[Step]:
        """See Backend.step."""
        if self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        return [step for id, handle in self._handles.items() if (step := self._read(id, handle))]

    def figures(self) -> dict[str, float]:
        """See Backend.figures."""
        metrics = self._pipeline.get_metrics()
        return {
            "batch_answers": float(metrics.scheduled_requests),
            "kv_used_share": metrics.cache_usage / 100,
            "kv_bytes": float(metrics.kv_cache_size_in_bytes),
        }

    def _read(self, id: str, handle: Any) -> Step | None:
        step = Step(id)
        status = handle.get_status()
        while handle.can_read():
            for output in handle.read().values():
                step.tokens += [token for token in output.generated_ids if token not in self._ends]
                if output.finish_reason == self._ov.GenerationFinishReason.STOP:
                    step.finish = "stop"
                elif output.finish_reason == self._ov.GenerationFinishReason.LENGTH:
                    step.finish = "length"
        if status == self._ov.GenerationStatus.IGNORED:
            step.error = RanOutOfMemory()
        elif status == self._ov.GenerationStatus.FINISHED and step.finish is None:
            step.finish = "stop"
        return step if step.tokens or step.finish or step.error else None


def _room(spec: Spec) -> int:
    """Bytes for the cache of running and past prompts, from what is free after the weights."""
    free = psutil.virtual_memory().available
    # Measured: four-bit weights are widened while loading, and the libraries want their part.
    weights = 3 * os.path.getsize(spec.path) + 400 * 1024**2
    left = free - weights
    if left < _GIB:
        raise LoadRefused(
            "not_enough_memory",
            f"This model needs about {(weights + _GIB) / _GIB:.1f} GiB of free memory and the "
            f"machine has {free / _GIB:.1f} GiB. Unload another model or close other programs.",
        )
    return int(min(4 * _GIB, max(_GIB, left // 8)))
