"""Weights from safetensors to a model in place: fused, in a format, straight to the device.

Images' part of a checkpoint is read by `vision.py`, when an image comes. The 8-bit form is
made once and kept beside the weights under a key of their content.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from chat_app.llm.native.linear import Eighths, Int8, Linear, Packed, Plain, eighths
from chat_app.llm.native.model import Layer, Model
from chat_app.llm.native.shape import Shape, Unsupported

Format = Literal["float32", "bfloat16", "int8", "float8", "nf4"]
Progress = Callable[[float], None]
# Changes whenever the numbers in a kept file would come out differently.
RECIPE = "1"
_PREFIXES = ("", "language_model.", "model.language_model.")
LINEARS = ("qkv", "out", "gate_up", "down")
NORMS = ("before_attention", "after_attention", "before_mlp", "after_mlp", "heads_norm")


class Source:
    """The tensors of a folder of safetensors by their names in a plain text model."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """Opens the files, reads no weights. Raises Unsupported, OSError, ValueError."""
        self._files: list[Any] = []
        self._where: dict[str, tuple[Any, str]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                file = safe_open(path, framework="pt", device=device)
            except SafetensorError as error:
                raise ValueError(f"The file {path.name} is damaged or not complete.") from error
            self._files.append(file)
            for key in file.keys():  # type: ignore[no-untyped-call]  # noqa: SIM118
                self._where[key] = (file, key)
        if not self._files:
            raise FileNotFoundError("There is no file of weights that ends in .safetensors.")
        self._prefix = next(
            (p for p in _PREFIXES if self._name(p, "embed_tokens.weight") in self._where), None
        )
        if self._prefix is None:
            raise Unsupported("The files hold no text model that this engine knows.")

    @staticmethod
    def _name(prefix: str, name: str) -> str:
        return f"{prefix}{name}" if prefix == "model.language_model." else f"{prefix}model.{name}"

    def get(self, name: str) -> Tensor:
        """A tensor under `model.` by the rest of its name. Raises Unsupported."""
        assert self._prefix is not None
        return self._read(self._name(self._prefix, name))

    def head(self) -> Tensor | None:
        """The output head, if the files have one of their own."""
        for key in ("lm_head.weight", "language_model.lm_head.weight"):
            if key in self._where:
                return self._read(key)
        return None

    def seeing(self, *names: str) -> Tensor:
        """The tensor of the images' part that has one of these names. Raises Unsupported."""
        for name in names:
            for key in (name, f"model.{name}"):
                if key in self._where:
                    return self._read(key)
        raise Unsupported(f"The files lack the weights {names[0]}.")

    def _read(self, key: str) -> Tensor:
        if key not in self._where:
            raise Unsupported(f"The files lack the weights {key}.")
        file, name = self._where[key]
        tensor: Tensor = file.get_tensor(name)
        return tensor


@dataclass
class Fused:
    """One layer's tensors before they get a format."""

    norms: dict[str, Tensor | None]
    linears: dict[str, Tensor]


def fused(source: Source, shape: Shape, index: int) -> Fused:
    """The layer's weights with queries, keys and values in one matrix, gate and up in one.

    Rows of queries and keys are put in the order that makes rotated pairs neighbours.
    """

    def get(name: str) -> Tensor:
        return source.get(f"layers.{index}.{name}.weight")

    def norm(name: str) -> Tensor:
        factor = get(name).float()
        return factor + 1.0 if shape.gemma else factor

    size = shape.head_size
    query = _paired(get("self_attn.q_proj"), size)
    key = _paired(get("self_attn.k_proj"), size)
    linears = {
        "qkv": torch.cat([query, key, get("self_attn.v_proj")]),
        "out": get("self_attn.o_proj"),
        "gate_up": torch.cat([get("mlp.gate_proj"), get("mlp.up_proj")]),
        "down": get("mlp.down_proj"),
    }
    norms: dict[str, Tensor | None] = {
        "before_attention": norm("input_layernorm"),
        "after_attention": None,
        "before_mlp": norm("post_attention_layernorm"),
        "after_mlp": None,
        "heads_norm": None,
    }
    if shape.gemma:
        norms["after_attention"] = norms["before_mlp"]
        norms["before_mlp"] = norm("pre_feedforward_layernorm")
        norms["after_mlp"] = norm("post_feedforward_layernorm")
        both = [
            _paired(norm(f"self_attn.{kind}_norm")[:, None], size)[:, 0].expand(heads, size)
            for kind, heads in (("q", shape.heads), ("k", shape.kv_heads))
        ]
        norms["heads_norm"] = torch.cat(both).contiguous()
    return Fused(norms, linears)


def _paired(weight: Tensor, size: int) -> Tensor:
    """Element i of a head and element i + size / 2, which are rotated together, side by side."""
    columns = weight.shape[1]
    return weight.view(-1, 2, size // 2, columns).transpose(1, 2).reshape(-1, columns)


def load(
    folder: Path,
    shape: Shape,
    *,
    format: Format,
    device: torch.device,
    positions: int,
    progress: Progress = lambda share: None,
    rows: Eighths | None = None,
) -> Model:
    """The model of this folder, in place; `rows` makes inputs 8-bit floats.

    Raises Unsupported, OSError, ValueError, MemoryError.
    """
    if format == "int8":
        from chat_app.llm.native import int8

        for again in (True, False):
            kept = int8.kept(folder, shape, progress)
            try:
                return _quantized(folder, kept, shape, device=device, positions=positions)
            except SafetensorError:
                if not again:
                    raise
                # Cut short or damaged on the disk: it is ours, so it is made again.
                kept.unlink()
    source = Source(folder, str(device))
    layers = []
    if format in ("float8", "nf4"):
        from chat_app.llm.native import small

        layers = small.layers(folder, shape, format, device, progress, rows=rows or eighths)
    else:
        for index in range(shape.layers):
            layers.append(plain_layer(fused(source, shape, index), format, device))
            progress((index + 1) / shape.layers)
    embedding = source.get("embed_tokens.weight").to(_dtype(format))
    head = source.head()
    matrix = embedding if head is None or shape.tied else head
    return Model(
        shape,
        embedding=embedding,
        layers=layers,
        norm=final_norm(source, shape),
        head=linear(matrix, format, device),
        device=device,
        work=work(format, device),
        positions=positions,
    )


def final_norm(source: Source, shape: Shape) -> Tensor:
    """The factor of the norm before the head."""
    factor = source.get("norm.weight").float()
    return factor + 1.0 if shape.gemma else factor


def plain_layer(parts: Fused, format: Format, device: torch.device) -> Layer:
    """A layer with its linears in one of the plain formats."""
    linears = {name: linear(weight, format, device) for name, weight in parts.linears.items()}
    return Layer(**parts.norms, **linears)  # type: ignore[arg-type]


def linear(weight: Tensor, format: Format, device: torch.device) -> Linear:
    """The matrix in a plain format."""
    if format != "float32" and device.type == "cpu":
        return Packed(weight.to(torch.bfloat16))
    return Plain(weight.to(_dtype(format)))


def work(format: Format, device: torch.device) -> torch.dtype:
    """What is computed between linear layers: on the CPU float32, it costs nothing there."""
    return torch.float32 if device.type == "cpu" else _dtype(format)


def _dtype(format: Format) -> torch.dtype:
    return torch.float32 if format == "float32" else torch.bfloat16


def _quantized(
    folder: Path, kept: Path, shape: Shape, *, device: torch.device, positions: int
) -> Model:
    with safe_open(kept, framework="pt") as file:
        have = set(file.keys())

        def get(name: str) -> Tensor | None:
            return file.get_tensor(name) if name in have else None

        def need(name: str) -> Tensor:
            tensor: Tensor = file.get_tensor(name)
            return tensor

        def matrix(name: str) -> Linear:
            scale = get(f"{name}.scale")
            weight = need(f"{name}.weight")
            return Packed(weight) if scale is None else Int8(weight, scale)

        layers = [
            Layer(
                before_attention=need(f"{index}.before_attention"),
                after_attention=get(f"{index}.after_attention"),
                before_mlp=need(f"{index}.before_mlp"),
                after_mlp=get(f"{index}.after_mlp"),
                heads_norm=get(f"{index}.heads_norm"),
                **{name: matrix(f"{index}.{name}") for name in LINEARS},
            )
            for index in range(shape.layers)
        ]
        return Model(
            shape,
            # Straight from the file: only rows that are used ever come into memory.
            embedding=Source(folder).get("embed_tokens.weight"),
            layers=layers,
            norm=need("norm"),
            head=matrix("head"),
            device=device,
            work=torch.float32,
            positions=positions,
        )


def content_key(folder: Path, *more: str) -> str:
    """Names the weights by what is in them: the configuration, the headers and samples."""
    digest = hashlib.blake2b("\n".join(more).encode(), digest_size=12)
    for path in sorted([*folder.glob("*.safetensors"), folder / "config.json"]):
        size = os.path.getsize(path)
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for at in range(0, size, max(1 << 16, size // 64)):
                file.seek(at)
                digest.update(file.read(1 << 14))
    return digest.hexdigest()
