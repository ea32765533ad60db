"""transformers with PyTorch, one answer after another token by token: the plain reference path.

Runs safetensors on the CPU, or on a CUDA GPU whole, in 8 bits or in 4. Each answer has its own
cache; running answers take turns, one token or one piece of a prompt each.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from chat_app.llm import prompt as prompts
from chat_app.llm.backends import base
from chat_app.llm.backends.base import LoadRefused, Progress, RanOutOfMemory, Spec, Step
from chat_app.llm.engine import ChatMessage, Sampling

SLOTS = {"cpu": 4, "cuda": 16}
CHUNK_TOKENS = {"cpu": 128, "cuda": 1024}
_GIB = 1024**3
_GREEDY_BELOW = 1e-3
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
_SPARE_BYTES = 600 * 1024**2
# Share of the bfloat16 size that the quantized linear layers and the whole rest take.
_SHARES = {"none": 1.0, "int8": 0.6, "nf4": 0.38}


@dataclass
class _Running:
    """One answer: what the model has read, what it still has to, how to pick the next token."""

    todo: list[int]
    sampling: Sampling
    max_tokens: int
    generator: Any
    cache: Any
    seen: Any
    made: int = 0


class Transformers:
    """See Backend."""

    def __init__(self, spec: Spec, progress: Progress) -> None:
        """Load the folder of the spec. Raises LoadRefused when it does not fit."""
        path = base.folder(spec, progress)
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
        progress("Loading the libraries…", None)
        import torch

        self._torch = torch
        torch.set_num_threads(spec.threads)
        self.device, self.why = spec.device, spec.why
        if spec.device == "cuda" and not torch.cuda.is_available():
            self.device = "cpu"
            self.why = "It runs on the CPU, because this PyTorch cannot use the GPU."
        text = config.get("text_config", config)
        self.context_tokens = min(
            spec.context_tokens, text.get("max_position_embeddings", spec.context_tokens)
        )
        self.slots = SLOTS[self.device]
        self._chunk = CHUNK_TOKENS[self.device]
        kind = self._fit(size, _cache_bytes(text, self.context_tokens), spec.quantization)
        progress("Loading the weights…", None)
        self._model = self._load(path, config, kind)
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(path)
        self._family = spec.family
        self._ends = self._end_tokens()
        self._running: dict[str, _Running] = {}

    def _fit(self, weight_bytes: int, cache_bytes: int, wanted: str) -> str:
        """The quantization to load with; `why` gets its sentence. Raises LoadRefused."""
        if self.device == "cpu":
            if wanted in ("nf4", "int8"):
                self.why += f" {wanted} is for GPUs, so the weights stay as they are."
            free, kinds = psutil.virtual_memory().available, ["none"]
        else:
            free = self._torch.cuda.mem_get_info()[0]
            # Not int8: with this library it is slower than either.
            kinds = ["none", "nf4"] if wanted == "auto" else [wanted]
        for kind in kinds:
            need = int(weight_bytes * _SHARES[kind]) + cache_bytes + _SPARE_BYTES
            if need <= free:
                if self.device == "cuda":
                    words = "unquantized" if kind == "none" else f"quantized to {kind}"
                    self.why += f" It is {words}: {need / _GIB:.1f} of {free / _GIB:.1f} GiB free."
                return kind
        raise LoadRefused(
            "not_enough_memory",
            f"This model needs about {need / _GIB:.1f} GiB of free memory and there are "
            f"{free / _GIB:.1f} GiB. Unload another model or choose a smaller one.",
        )

    def _load(self, path: Path, config: dict[str, Any], kind: str) -> Any:
        from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

        torch = self._torch
        options: dict[str, Any] = {"dtype": torch.bfloat16, "attn_implementation": "sdpa"}
        if self.device == "cpu" and not _BFLOAT16 & base.cpu_flags():
            options["dtype"] = torch.float32
        if self.device == "cuda":
            options["device_map"] = {"": 0}
        if kind == "nf4":
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=torch.bfloat16,
            )
        elif kind == "int8":
            options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
        if config.get("model_type") == "gemma3":
            # The larger ones are made for images too: of those, only the text part is read.
            from transformers import Gemma3ForCausalLM

            options["config"] = AutoConfig.from_pretrained(path).get_text_config()
            options["key_mapping"] = {
                r"^language_model\.model\.": "model.",
                r"^language_model\.lm_head\.": "lm_head.",
                r"^model\.language_model\.": "model.",
            }
            return Gemma3ForCausalLM.from_pretrained(path, **options).eval()
        return AutoModelForCausalLM.from_pretrained(path, **options).eval()

    def _end_tokens(self) -> set[int]:
        ends = self._model.generation_config.eos_token_id
        found = set(ends if isinstance(ends, list) else [ends]) | {self._tokenizer.eos_token_id}
        return {int(end) for end in found if end is not None}

    def encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        """See Backend.encode."""
        return self._ids(self._rendered(messages))

    def _rendered(self, messages: Sequence[ChatMessage]) -> str:
        if self._family == "gemma3":
            messages = prompts.fold_system(messages)
        if self._tokenizer.chat_template:
            turns = [{"role": message.role, "content": message.content} for message in messages]
            return str(
                self._tokenizer.apply_chat_template(
                    turns, tokenize=False, add_generation_prompt=True
                )
            )
        return prompts.render(messages, self._family)

    def count_text(self, text: str) -> int:
        """See Backend.count_text."""
        return len(self._ids(text))

    def _ids(self, text: str) -> list[int]:
        return [int(token) for token in self._tokenizer.encode(text, add_special_tokens=False)]

    def decode(self, tokens: list[int]) -> str:
        """See Backend.decode."""
        return str(
            self._tokenizer.decode(
                tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def add(
        self, id: str, prompt: list[int], sampling: Sampling, max_tokens: int, *, scope: str = ""
    ) -> int:
        """See Backend.add."""
        from transformers import DynamicCache

        torch = self._torch
        generator = torch.Generator(device=self.device)
        seed = sampling.seed if sampling.seed is not None else secrets.randbits(63)
        generator.manual_seed(seed % 2**63)
        seen = torch.zeros(
            self._model.config.vocab_size, dtype=torch.bool, device=self._model.device
        )
        seen[torch.tensor(prompt, device=seen.device)] = True
        self._running[id] = _Running(
            todo=list(prompt),
            sampling=sampling,
            max_tokens=max_tokens,
            generator=generator,
            cache=DynamicCache(config=self._model.config),
            seen=seen,
        )
        return 0

    def drop(self, id: str) -> None:
        """See Backend.drop."""
        self._running.pop(id, None)

    def step(self) -> list[Step]:
        """See Backend.step."""
        steps = []
        for id, answer in list(self._running.items()):
            try:
                with self._torch.inference_mode():
                    step = self._advance(id, answer)
            except self._torch.OutOfMemoryError:
                step = Step(id, error=RanOutOfMemory())
                self._torch.cuda.empty_cache()
            except Exception as error:
                step = Step(id, error=error)
            if step.error is not None or step.finish is not None:
                self._running.pop(id, None)
            steps.append(step)
        return steps

    def figures(self) -> dict[str, float]:
        """See Backend.figures."""
        return {}

    def _advance(self, id: str, answer: _Running) -> Step:
        torch = self._torch
        chunk, answer.todo = answer.todo[: self._chunk], answer.todo[self._chunk :]
        out = self._model(
            input_ids=torch.tensor([chunk], device=self._model.device),
            past_key_values=answer.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        if answer.todo:
            return Step(id)
        token = pick(torch, out.logits[0, -1].float(), answer.sampling, answer)
        if token in self._ends:
            return Step(id, finish="stop")
        answer.made += 1
        answer.seen[token] = True
        answer.todo = [token]
        return Step(id, [token], "length" if answer.made >= answer.max_tokens else None)


def pick(torch: Any, logits: Any, sampling: Sampling, answer: _Running) -> int:
    """The next token: penalty, then greedy, or top-k before top-p and one draw."""
    if sampling.repetition_penalty != 1.0:
        penalty = sampling.repetition_penalty
        punished = torch.where(logits < 0, logits * penalty, logits / penalty)
        logits = torch.where(answer.seen, punished, logits)
    if sampling.temperature < _GREEDY_BELOW:
        return int(logits.argmax())
    # Top-k first: sorting a whole vocabulary would cost more than the model.
    count = min(sampling.top_k if sampling.top_k > 0 else 1024, logits.shape[-1])
    best, tokens = torch.topk(logits / sampling.temperature, count)
    shares = torch.softmax(best, dim=-1)
    before = torch.cumsum(shares, dim=-1) - shares
    kept = (before < sampling.top_p) & (shares >= sampling.min_p * shares[0])
    shares = torch.where(kept, shares, torch.zeros_like(shares))
    return int(tokens[torch.multinomial(shares, 1, generator=answer.generator)])


def _cache_bytes(text: dict[str, Any], context_tokens: int) -> int:
    """The cache of one answer that fills the context, if every layer saw all of it."""
    heads = text.get("num_key_value_heads") or text.get("num_attention_heads", 8)
    size = text.get("head_dim") or text["hidden_size"] // text.get("num_attention_heads", 8)
    return int(2 * 2 * text.get("num_hidden_layers", 32) * heads * size * context_tokens)
