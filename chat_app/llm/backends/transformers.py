"""transformers with PyTorch, one answer after another token by token: the plain reference path.

Runs safetensors on the CPU, or on a CUDA GPU whole, in 8 bits or in 4. Each answer has its own
cache; running answers take turns, one token or one piece of a prompt each.
"""

import itertools
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from chat_app.llm import prompt as prompts
from chat_app.llm.backends import base
from chat_app.llm.backends.base import LoadRefused, Progress, RanOutOfMemory, Spec, Step
from chat_app.llm.engine import ChatMessage, Sampling
from chat_app.llm.native import shape

SLOTS = {"cpu": 4, "cuda": 16}
CHUNK_TOKENS = {"cpu": 128, "cuda": 1024}
_GIB = 1024**3
_GREEDY_BELOW = 1e-3
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
_SPARE_BYTES = 600 * 1024**2
_BEGINS = "<start_of_image>"
# Share of the bfloat16 size that the quantized linear layers and the whole rest take.
_SHARES = {"none": 1.0, "int8": 0.6, "nf4": 0.38}


@dataclass
class _Running:
    """One answer: what the model has read, what it still has to, how to pick the next token.

    In `todo` a number below zero stands for each token of an image, see `prompt.number`.
    """

    todo: list[int]
    sampling: Sampling
    max_tokens: int
    generator: Any
    cache: Any
    seen: Any
    images: Mapping[int, str] = field(default_factory=dict)
    made: int = 0


class Transformers:
    """See Backend, and Seeing: with the library's own processor and vision tower."""

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
        self._sight = shape.sight(path) if _has_tower(path) else None
        self.sees = self._sight is not None
        self._images: Mapping[int, str] = {}
        kind = self._fit(size, _cache_bytes(text, self.context_tokens), spec.quantization)
        progress("Loading the weights…", None)
        self._model = self._load(path, config, kind)
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(path)
        self._pixels = _processor(path, self._sight.side) if self._sight else None
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
        if self.sees:
            from transformers import Gemma3ForConditionalGeneration

            if kind != "none":  # the tower is small, and what it sees suffers most
                options["quantization_config"].llm_int8_skip_modules = [
                    "vision_tower",
                    "multi_modal_projector",
                    "lm_head",
                ]
            return Gemma3ForConditionalGeneration.from_pretrained(path, **options).eval()
        if config.get("model_type") == "gemma3":
            # Made for images, but in a way that is not known here: only its text part is read.
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
        ids = self._ids(self._rendered(messages))
        images = [image for message in messages for image in message.images]
        if not images or self._sight is None:
            return ids
        numbers = [prompts.number(image) for image in images for _ in range(self._sight.tokens)]
        places = [at for at, token in enumerate(ids) if token == self._sight.token]
        for at, number in zip(places, numbers, strict=True):
            ids[at] = number
        return ids

    def _rendered(self, messages: Sequence[ChatMessage]) -> str:
        if self._family == "gemma3":
            messages = prompts.fold_system(messages)
        tokens = self._sight.tokens if self._sight else 0
        if not self._tokenizer.chat_template:
            return prompts.render(messages, self._family, image_tokens=tokens)
        text = str(
            self._tokenizer.apply_chat_template(
                [_turn(message) for message in messages],
                tokenize=False,
                add_generation_prompt=True,
            )
        )
        # As their processor does; people's texts have no such mark by now.
        picture = f"\n\n{_BEGINS}{'<image_soft_token>' * tokens}<end_of_image>\n\n"
        return text.replace(_BEGINS, picture) if prompts.shown(messages) else text

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
        config = self._model.config.get_text_config()
        seen = torch.zeros(config.vocab_size, dtype=torch.bool, device=self._model.device)
        seen[torch.tensor([token for token in prompt if token >= 0], device=seen.device)] = True
        self._running[id] = _Running(
            todo=list(prompt),
            sampling=sampling,
            max_tokens=max_tokens,
            generator=generator,
            cache=DynamicCache(config=config),
            seen=seen,
            images=self._images,
        )
        return 0

    def show(self, images: Mapping[int, str]) -> None:
        """See Seeing.show."""
        self._images = images

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
        # All images are read at once: their tokens see each other in both directions.
        shown = [at + 1 for at, token in enumerate(answer.todo) if token < 0]
        end = max(self._chunk, shown[-1] if shown else 0)
        chunk, answer.todo = answer.todo[:end], answer.todo[end:]
        out = self._model(
            **self._inputs(chunk, answer.images),
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

    def _inputs(self, chunk: list[int], images: Mapping[int, str]) -> dict[str, Any]:
        """A piece of a prompt as the model takes it, its images as pixels. Raises OSError."""
        torch = self._torch
        ids = torch.tensor([chunk], device=self._model.device)
        if self._sight is None or self._pixels is None or not (ids < 0).any():
            return {"input_ids": ids}
        from PIL import Image

        runs = [number for number, _ in itertools.groupby(chunk) if number < 0]
        opened = [Image.open(images[number]).convert("RGB") for number in runs]
        pixels = self._pixels(images=opened, return_tensors="pt")["pixel_values"]
        return {
            "input_ids": torch.where(ids < 0, self._sight.token, ids),
            "token_type_ids": (ids < 0).int(),
            "pixel_values": pixels.to(self._model.device, self._model.dtype),
        }


def _has_tower(path: Path) -> bool:
    """The files hold the part that sees, which is read from their beginnings alone."""
    from safetensors import safe_open

    for file in path.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            if any("vision_tower." in name for name in opened.keys()):  # noqa: SIM118
                return True
    return False


def _processor(path: Path, side: int) -> Any:
    """What makes pixels of images, as the model's files say. Needs no torchvision."""
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    if (path / "preprocessor_config.json").exists():
        return Gemma3ImageProcessorPil.from_pretrained(path)
    return Gemma3ImageProcessorPil(size={"height": side, "width": side})


def _turn(message: ChatMessage) -> dict[str, Any]:
    """A message as chat templates take it: images stand before the text."""
    if not message.images:
        return {"role": message.role, "content": message.content}
    pictures = [{"type": "image"} for _ in message.images]
    return {"role": message.role, "content": [*pictures, {"type": "text", "text": message.content}]}


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
