"""The accurate 8-bit form for CPUs, made once from the weights and kept beside them.

SmoothQuant (arXiv 2211.10438) with alpha 0.5 moves outliers of the inputs into the weights, by
way of the norm before them; what comes after attention and after the gate has no norm before it
and stays in bfloat16. Measured on Gemma 3 270M: see docs/performance.md.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from chat_app.llm.native import weights
from chat_app.llm.native.cache import Cache, blocks
from chat_app.llm.native.calibration import TEXTS
from chat_app.llm.native.linear import Linear, Plain, quantize
from chat_app.llm.native.memory import Gathered, Memory, Piece
from chat_app.llm.native.model import Model
from chat_app.llm.native.shape import Shape

RECIPE = "smoothquant-1"
_CPU = torch.device("cpu")


def kept(folder: Path, shape: Shape, progress: weights.Progress) -> Path:
    """The file with the 8-bit form; made now if it is not there. Raises OSError, MemoryError."""
    path = place(folder)
    if not path.exists():
        make(folder, shape, path, progress)
    return path


def place(folder: Path) -> Path:
    """Where the 8-bit form of this folder's weights is kept."""
    return folder / "native" / f"int8-{weights.content_key(folder, RECIPE)}.safetensors"


def make(folder: Path, shape: Shape, path: Path, progress: weights.Progress) -> None:
    """Quantize and write the file; it appears whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tokens = _calibration(folder)
    model = weights.load(
        folder,
        shape,
        format="bfloat16",
        device=_CPU,
        positions=max(map(len, tokens)) + 1,
        progress=lambda share: progress(share * 0.2),
    )
    peaks = _peaks(model, tokens)
    del model
    source = weights.Source(folder)
    tensors: dict[str, Tensor] = {}
    for index in range(shape.layers):
        parts = weights.fused(source, shape, index)
        for name, norm in (("qkv", "before_attention"), ("gate_up", "before_mlp")):
            factor = parts.norms[norm]
            assert factor is not None, "every layer has norms before its parts"
            weight, parts.norms[norm] = _smoothed(
                parts.linears[name], factor, peaks[f"{index}.{name}"]
            )
            _put(tensors, f"{index}.{name}", weight)
        for name in ("out", "down"):
            tensors[f"{index}.{name}.weight"] = parts.linears[name].to(torch.bfloat16).contiguous()
        for name, vector in parts.norms.items():
            if vector is not None:
                tensors[f"{index}.{name}"] = vector.contiguous()
        progress(0.2 + 0.7 * (index + 1) / shape.layers)
    head = source.head()
    matrix = source.get("embed_tokens.weight") if head is None or shape.tied else head
    weight, tensors["norm"] = _smoothed(matrix, weights.final_norm(source, shape), peaks["head"])
    _put(tensors, "head", weight)
    path.parent.mkdir(exist_ok=True)
    half = path.with_suffix(f".{os.getpid()}.part")
    try:
        save_file(tensors, half)
        os.replace(half, path)
    except SafetensorError as error:  # what it calls a disk that is full
        raise OSError(str(error)) from error
    finally:
        half.unlink(missing_ok=True)
    for old in path.parent.glob("int8-*.safetensors"):
        if old != path:
            old.unlink(missing_ok=True)
    progress(1.0)


def _put(tensors: dict[str, Tensor], name: str, weight: Tensor) -> None:
    tensors[f"{name}.weight"], tensors[f"{name}.scale"] = quantize(weight)


def _smoothed(weight: Tensor, factor: Tensor, peaks: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix times, the norm's factor divided by the same number for each input."""
    weight = weight.float()
    of_weight = weight.abs().amax(0).clamp_min(1e-5)
    share = (peaks.clamp_min(1e-5) / of_weight).sqrt().clamp_min(1e-5)
    return weight * share, factor / share


def _calibration(folder: Path) -> list[list[int]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [list(tokenizer.encode(text).ids) for text in TEXTS]


class _Watched:
    """A linear layer that notes the largest input it saw at each place."""

    def __init__(self, linear: Linear) -> None:
        self._linear = linear
        self.bytes = linear.bytes
        self.peaks = torch.zeros(())

    def __call__(self, x: Tensor) -> Tensor:
        self.peaks = torch.maximum(self.peaks, x.float().abs().amax(0))
        return self._linear(x)


def _peaks(model: Model, texts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    watched: dict[str, _Watched] = {}
    for index, layer in enumerate(model.layers):
        watched[f"{index}.qkv"] = layer.qkv = _Watched(layer.qkv)
        watched[f"{index}.gate_up"] = layer.gate_up = _Watched(layer.gate_up)
    # The head's own result is not wanted, and it would be large.
    shape = model.shape
    watched["head"] = model.head = _Watched(Plain(torch.zeros(1, shape.hidden)))
    for tokens in texts:
        all_logits(model, tokens)
    return {name: linear.peaks for name, linear in watched.items()}


@torch.inference_mode()
def all_logits(model: Model, tokens: Sequence[int]) -> Tensor:
    """The logits after every token of a text, `[tokens, vocabulary]`."""
    shape, count = model.shape, len(tokens)
    size = blocks(count) + 1
    cache = Cache(
        wide_blocks=size, near_blocks=2 * size + 2, window=shape.window, chunk_tokens=count
    )
    table = cache.open(tokens, count, "")
    assert table is not None, "the cache was made for it"
    cache.extend(table, count)
    memory = Memory(
        shape,
        wide_blocks=size,
        near_blocks=2 * size + 2,
        dtype=torch.float32,
        device=model.device,
    )
    rows = torch.arange(count)
    return model.forward(
        torch.tensor(tokens), rows, Gathered(memory, [Piece(table, 0, count)]), rows
    )
