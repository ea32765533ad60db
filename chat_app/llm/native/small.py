"""The small forms of weights for a GPU, made while loading and kept beside the weights.

`float8`: 8 bits, a scale for each output (and for each row of inputs). `nf4`: 4 bits in blocks of
64. Norms, the embedding and the head stay as they are. Kept layer by layer, so that making them
needs memory for one layer only; a later start reads half or a quarter of the bytes.
"""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from chat_app.llm.native import weights
from chat_app.llm.native.linear import Eighths, Float8, Linear, Nf4, Plain, eighths
from chat_app.llm.native.model import Layer
from chat_app.llm.native.shape import Shape

Small = Literal["float8", "nf4"]
RECIPE = "gpu-1"
# What the matrix units want of both sides of a matrix, in elements.
_MULTIPLES: dict[Small, int] = {"float8": 16, "nf4": 64}
_NF4_BLOCK = 64


def place(folder: Path, form: Small) -> Path:
    """Where this folder's weights are kept in this form."""
    return folder / "native" / f"{form}-{weights.content_key(folder, RECIPE)}"


def layers(
    folder: Path,
    shape: Shape,
    form: Small,
    device: torch.device,
    progress: weights.Progress,
    *,
    rows: Eighths = eighths,
) -> list[Layer]:
    """All layers on the device. What is not kept yet, or damaged, is made from the weights.

    Raises Unsupported, SafetensorError. A full disk only means that nothing is kept.
    """
    kept = place(folder, form)
    made: list[Layer] = []
    if kept.is_dir():
        try:
            for index in range(shape.layers):
                tensors = load_file(kept / f"{index}.safetensors", device=str(device))
                made.append(_layer(tensors, device, rows))
                progress((index + 1) / shape.layers)
            return made
        except (SafetensorError, OSError, KeyError):
            made.clear()
            shutil.rmtree(kept, ignore_errors=True)
    source = weights.Source(folder, str(device))
    half = kept.with_name(f"{kept.name}.{os.getpid()}.part")
    keeping = _kept(lambda: half.mkdir(parents=True, exist_ok=True))
    try:
        for index in range(shape.layers):
            tensors = _made(weights.fused(source, shape, index), form)
            if keeping:
                whole = {name: each.cpu().contiguous() for name, each in tensors.items()}
                keeping = _kept(partial(save_file, whole, half / f"{index}.safetensors"))
            made.append(_layer(tensors, device, rows))
            progress((index + 1) / shape.layers)
        if keeping:
            _kept(lambda: os.replace(half, kept))
            for old in kept.parent.glob(f"{form}-*"):
                if old not in (kept, half):
                    shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return made


def _made(parts: weights.Fused, form: Small) -> dict[str, Tensor]:
    tensors = {name: each for name, each in parts.norms.items() if each is not None}
    for name, weight in parts.linears.items():
        packed = _packed(weight.to(torch.bfloat16), form)
        tensors |= {f"{name}.{key}": each for key, each in packed.items()}
    return tensors


def _kept(write: Callable[[], object]) -> bool:
    try:
        write()
    except (OSError, SafetensorError):
        return False
    return True


def linear(weight: Tensor, form: Small, device: torch.device, rows: Eighths | None) -> Linear:
    """One matrix in a small form, kept nowhere."""
    return _linear(_packed(weight.to(torch.bfloat16), form), device, rows or eighths)


def _packed(weight: Tensor, form: Small) -> dict[str, Tensor]:
    """What a matrix becomes; unchanged where its sides do not suit the form."""
    multiple = _MULTIPLES[form]
    if weight.shape[0] % multiple or weight.shape[1] % multiple:
        return {"weight": weight}
    if form == "float8":
        steps, scale = eighths(weight)
        return {"weight": steps, "scale": scale[:, 0]}
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(
        weight.contiguous(), blocksize=_NF4_BLOCK, compress_statistics=True, quant_type="nf4"
    )
    return {"weight": packed, **state.as_dict(packed=True)}


def _layer(tensors: dict[str, Tensor], device: torch.device, rows: Eighths) -> Layer:
    linears = {}
    for name in weights.LINEARS:
        start = f"{name}."
        mine = {
            key[len(start) :]: tensors.pop(key) for key in list(tensors) if key.startswith(start)
        }
        linears[name] = _linear(mine, device, rows)
    norms: dict[str, Any] = dict.fromkeys(weights.NORMS) | tensors
    return Layer(**norms, **linears)  # type: ignore[arg-type]


def _linear(tensors: dict[str, Tensor], device: torch.device, rows: Eighths) -> Linear:
    weight = tensors.pop("weight")
    if "scale" in tensors:
        return Float8(weight, tensors["scale"], rows)
    if not tensors:
        return Plain(weight)
    from bitsandbytes.functional import QuantState

    return Nf4(weight, QuantState.from_dict(tensors, device=device))
