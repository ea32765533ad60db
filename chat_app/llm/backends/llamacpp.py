"""llama.cpp by xllamacpp: any GGUF, read as it is, on the CPU, with little memory.

The library is llama.cpp's server inside this process. Each running answer has a thread that
waits in it and a slot of its own; `step` collects what the threads were told. The server also
listens on a loopback port, which a random key closes to everybody else.
"""

import http.client
import json
import math
import os
import queue
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import psutil

from chat_app.llm import gguf_header
from chat_app.llm import prompt as prompts
from chat_app.llm.backends.base import LoadRefused, Progress, RanOutOfMemory, Spec, Step
from chat_app.llm.engine import ChatMessage, Sampling

SLOTS = 8
# Running answers wait while a piece of a long prompt is read, and so does a cancel.
CHUNK_TOKENS = 128
STEP_SECONDS = 0.02
_LEAVE_SECONDS = 0.1
_ROOM_SECONDS = 30.0
_HTTP_SECONDS = 60.0
_GIB = 1024**3
_SPARE_BYTES = 400 * 1024**2
_GREEDY_BELOW = 1e-3
# Stands for the tokens of a character that was not complete before the last of them.
_PART = -1


@dataclass
class _Slot:
    """A place in the server: whose tokens it holds, and which ones for certain."""

    number: int
    scope: str | None = None
    tokens: list[int] = field(default_factory=list)
    used: float = 0.0
    busy: bool = False


@dataclass
class _Running:
    """One answer. `made` counts the tokens that were passed on."""

    id: str
    slot: _Slot
    prompt: list[int]
    cached: int
    tokens: list[int] = field(default_factory=list)
    made: int = 0
    dropped: bool = False


class LlamaCpp:
    """See Backend."""

    device = "cpu"

    def __init__(self, spec: Spec, progress: Progress) -> None:
        """Load the GGUF of the spec. Raises LoadRefused."""
        try:
            header = gguf_header.read(Path(spec.path)).fields
        except gguf_header.NotGguf as error:
            raise LoadRefused("load_failed", str(error)) from error
        architecture = header.get("general.architecture", "")
        self.context_tokens = min(
            spec.context_tokens, header.get(f"{architecture}.context_length", spec.context_tokens)
        )
        self.slots = _fitting(spec, _cache_bytes(header, self.context_tokens))
        progress("Loading the model…", None)
        import xllamacpp

        self._key = secrets.token_hex(32)
        self._server = xllamacpp.Server(self._parameters(xllamacpp.CommonParams(), spec))
        self.address = str(self._server.listening_address).removeprefix("http://")
        self._line = http.client.HTTPConnection(self.address, timeout=_HTTP_SECONDS)
        self._family = spec.family
        self._own_template = "tokenizer.chat_template" in header
        self.why = f"{spec.why} {self.slots} answers are written at once."
        self._slots = [_Slot(number) for number in range(self.slots)]
        self._freed = threading.Condition()
        self._told: queue.SimpleQueue[tuple[_Running, Any]] = queue.SimpleQueue()
        self._running: dict[str, _Running] = {}
        self._pieces: dict[int, str] = {_PART: ""}
        self._joined: dict[str, int] = {}
        self._figures = {"prompt_tokens": 0.0, "cached_tokens": 0.0, "completion_tokens": 0.0}

    def _parameters(self, parameters: Any, spec: Spec) -> Any:
        parameters.model.path = spec.path
        parameters.n_gpu_layers = 0
        parameters.fit_params = False
        parameters.n_parallel = self.slots
        parameters.n_ctx = self.slots * self.context_tokens
        parameters.kv_unified = False
        parameters.n_batch = parameters.n_ubatch = CHUNK_TOKENS
        parameters.cpuparams.n_threads = spec.threads
        parameters.cpuparams_batch.n_threads = spec.threads
        # A window-only cache could not go back to where a conversation branches.
        parameters.swa_full = True
        # Both would carry one person's prompt into another one's slot.
        parameters.cache_ram_mib = 0
        parameters.cache_idle_slots = False
        parameters.slot_prompt_similarity = 0.0
        parameters.n_ctx_checkpoints = 0
        parameters.hostnames = ["127.0.0.1"]
        parameters.port = 0
        parameters.api_keys = [self._key]
        parameters.ui = False
        parameters.endpoint_slots = False
        parameters.endpoint_props = False
        parameters.endpoint_metrics = False
        parameters.cors_origins = ""
        parameters.warmup = False
        parameters.verbosity = 0
        return parameters

    def encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        """See Backend.encode."""
        if not self._own_template:
            return self._ids(prompts.render(messages, self._family))
        if self._family == "gemma3":
            messages = prompts.fold_system(messages)
        turns = [{"role": message.role, "content": message.content} for message in messages]
        rendered = self._ask("/apply-template", {"messages": turns})["prompt"]
        # It leaves the first token of a text to the tokenizer.
        return self._ids(rendered, add_special=True)

    def count_text(self, text: str) -> int:
        """See Backend.count_text."""
        return len(self._ids(text))

    def _ids(self, text: str, *, add_special: bool = False) -> list[int]:
        if not text:
            return []
        body = {"content": text, "add_special": add_special, "parse_special": True}
        return [int(token) for token in self._ask("/tokenize", body)["tokens"]]

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        """One question to the server's own port. Raises OSError, or ValueError on a refusal."""
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        for again in (True, False):
            try:
                self._line.request("POST", path, json.dumps(body), headers)
                response = self._line.getresponse()
                data = response.read()
                break
            except (http.client.HTTPException, OSError):
                # It closes a line after some questions or seconds.
                self._line.close()
                if not again:
                    raise
        if response.status != http.HTTPStatus.OK:
            raise ValueError(f"{path} was refused with {response.status}")
        return json.loads(data)

    def decode(self, tokens: list[int]) -> str:
        """See Backend.decode. Knows the tokens that `step` has given."""
        return "".join(self._pieces[token] for token in tokens)

    def add(
        self, id: str, prompt: list[int], sampling: Sampling, max_tokens: int, *, scope: str = ""
    ) -> int | None:
        """See Backend.add. Raises ValueError for sampling that is no number."""
        body = _sampling(sampling)
        slot = self._free_slot(prompt, scope)
        if slot is None:
            return None
        # Asked for the last token too, the server computes it anew.
        shared = min(_common(slot.tokens, prompt), len(prompt) - 1) if slot.scope == scope else 0
        body |= {
            "repeat_last_n": self.context_tokens,
            "prompt": prompt,
            "n_predict": max_tokens,
            "id_slot": slot.number,
            "cache_prompt": slot.scope == scope,
            "stream": True,
            "verbose": True,
            "timings_per_token": True,
            "return_progress": True,
        }
        slot.busy, slot.scope, slot.tokens = True, scope, prompt[:shared]
        answer = self._running[id] = _Running(id, slot, prompt, shared)
        threading.Thread(
            target=self._write, args=(answer, body), daemon=True, name=f"slot-{slot.number}"
        ).start()
        return shared

    def _free_slot(self, prompt: list[int], scope: str) -> _Slot | None:
        """The free slot that saves most work and spoils least; None when all are at work.

        A slot that an answer is just leaving is waited for.
        """
        working = {answer.slot.number for answer in self._running.values()}
        others = [slot for slot in self._slots if slot.number not in working]
        if not others:
            return None
        with self._freed:
            # One that was left this moment may hold just what this prompt begins with.
            self._freed.wait_for(lambda: not any(slot.busy for slot in others), _LEAVE_SECONDS)
            if not self._freed.wait_for(
                lambda: any(not slot.busy for slot in others), _ROOM_SECONDS
            ):
                return None
            free = [slot for slot in others if not slot.busy]

        def worth(slot: _Slot) -> tuple[int, float]:
            shared = _common(slot.tokens, prompt) if slot.scope == scope else 0
            # Another conversation that begins alike keeps its slot while there are others.
            return (shared if 2 * shared >= len(slot.tokens) else 0), -slot.used

        return max(free, key=worth)

    def _write(self, answer: _Running, body: dict[str, Any]) -> None:
        """Wait in the server until the answer has ended; one thread for each."""

        def told(chunk: Any) -> bool:
            self._told.put((answer, chunk))
            return answer.dropped

        try:
            self._server.handle_completions(body, told)
        except Exception as error:
            self._told.put((answer, error))
        finally:
            with self._freed:
                answer.slot.busy = False
                self._freed.notify_all()

    def drop(self, id: str) -> None:
        """See Backend.drop."""
        if answer := self._running.get(id):
            answer.dropped = True
            self._leave(answer)

    def _leave(self, answer: _Running) -> None:
        """The answer has ended here; note what its slot is left with."""
        del self._running[answer.id]
        answer.slot.used = time.monotonic()
        if answer.made:
            # The last token was picked but never read.
            answer.slot.tokens = answer.prompt + answer.tokens[:-1]

    def step(self) -> list[Step]:
        """See Backend.step."""
        steps: dict[str, Step] = {}
        wait: float | None = STEP_SECONDS
        while True:
            try:
                answer, chunk = self._told.get(timeout=wait) if wait else self._told.get_nowait()
            except queue.Empty:
                return [step for step in steps.values() if step.tokens or step.finish or step.error]
            wait = None
            if self._running.get(answer.id) is answer:
                step = steps.setdefault(answer.id, Step(answer.id))
                self._read(step, answer, chunk)
                if step.finish is not None or step.error is not None:
                    self._leave(answer)

    def figures(self) -> dict[str, float]:
        """See Backend.figures."""
        return {"batch_answers": float(len(self._running)), **self._figures}

    def _read(self, step: Step, answer: _Running, chunk: Any) -> None:
        """Take one message of the server: progress with a prompt, text, or the end."""
        if isinstance(chunk, Exception):
            step.error = chunk
            return
        if isinstance(chunk, str):
            chunk = json.loads(chunk)
        if "error" in chunk:
            step.error = _trouble(chunk["error"])
            return
        choice = chunk["choices"][0]
        finish = choice.get("finish_reason")
        made = int(chunk["timings"]["predicted_n"]) if "timings" in chunk else answer.made
        # The end-of-turn token was made too, and has no text.
        new = made - answer.made - (finish == "stop")
        if new > 0:
            ids = chunk.get("__verbose", {}).get("tokens", [])
            tokens = self._tokens(choice["text"], new, ids)
            step.tokens += tokens
            answer.made += new
            answer.tokens += tokens
        if finish is not None:
            step.finish = "length" if finish == "length" else "stop"
            self._figures["prompt_tokens"] += len(answer.prompt)
            self._figures["cached_tokens"] += chunk["timings"]["cache_n"]
            self._figures["completion_tokens"] += answer.made

    def _tokens(self, text: str, count: int, ids: list[int]) -> list[int]:
        """`count` tokens whose text is `text`.

        Of a character in several tokens the server names only the last one. Then one number
        below zero stands for the whole text: none of the model's, so no prompt matches it.
        """
        if count == 1 and len(ids) == 1 and self._pieces.setdefault(ids[0], text) == text:
            return [ids[0]]
        joined = self._joined.setdefault(text, _PART - 1 - len(self._joined))
        self._pieces[joined] = text
        return [_PART] * (count - 1) + [joined]


def _sampling(sampling: Sampling) -> dict[str, Any]:
    """The server's names. Raises ValueError for what is no number."""
    numbers = (sampling.temperature, sampling.top_p, sampling.min_p, sampling.repetition_penalty)
    if not all(math.isfinite(number) for number in numbers) or sampling.repetition_penalty <= 0:
        raise ValueError("sampling needs finite numbers and a repetition penalty above 0")
    greedy = sampling.temperature < _GREEDY_BELOW
    seed = sampling.seed if sampling.seed is not None else secrets.randbits(31)
    return {
        "samplers": ["penalties", "top_k", "temperature", "top_p", "min_p"],
        "temperature": 0.0 if greedy else sampling.temperature,
        "top_k": max(0, sampling.top_k),
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repetition_penalty,
        "seed": seed % 2**31,
    }


def _common(held: list[int], prompt: list[int]) -> int:
    """How many tokens both begin with."""
    return sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(held, prompt, strict=False))
    )


def _trouble(error: Any) -> Exception:
    message = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    if "memory" in message or "context" in message.lower():
        return RanOutOfMemory(message)
    return RuntimeError(message)


def _cache_bytes(header: dict[str, Any], context_tokens: int) -> int:
    """The cache of one slot, 16 bits a number."""
    name = header.get("general.architecture", "")

    def most(key: str, default: int) -> int:
        value = header.get(f"{name}.{key}", default)
        return int(max(value)) if isinstance(value, list) else int(value)

    heads = most("attention.head_count", 8)
    size = most("embedding_length", 2048) // max(1, heads)
    width = most("attention.key_length", size) + most("attention.value_length", size)
    kv_heads = most("attention.head_count_kv", heads)
    return 2 * width * kv_heads * most("block_count", 32) * context_tokens


def _fitting(spec: Spec, slot_bytes: int) -> int:
    """How many slots memory has room for. Raises LoadRefused when not for one."""
    free = psutil.virtual_memory().available
    weights = os.path.getsize(spec.path) + _SPARE_BYTES
    # Half of what is left is for the other models and the rest of the machine.
    slots = (free - weights) // (2 * slot_bytes)
    if slots < 1 and weights + slot_bytes <= free:
        slots = 1
    if slots < 1:
        raise LoadRefused(
            "not_enough_memory",
            f"This model needs about {(weights + slot_bytes) / _GIB:.1f} GiB of free memory and "
            f"the machine has {free / _GIB:.1f} GiB. Unload another model or close other programs.",
        )
    return int(min(SLOTS, slots))
