"""Linear layers in the formats this engine has. Each maps `[rows, in]` to `[rows, out]`.

All CPU layers return float32, because what lies between them is computed in it.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

_FLOAT8 = torch.float8_e4m3fn
# Tensors, because making one of a number takes as long as to calculate with a few rows.
_TINY = torch.tensor(1e-12)
_SIGN = torch.tensor(128, dtype=torch.uint8)


class Linear(Protocol):
    """A matrix that is ready to be applied."""

    bytes: int

    def __call__(self, x: Tensor) -> Tensor: ...


class Plain:
    """The matrix as it is, in float32 or bfloat16."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        self.bytes = weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self._weight.dtype), self._weight)


class Packed:
    """bfloat16 on the CPU, laid out once as oneDNN wants it: up to twice as fast as Plain."""

    def __init__(self, weight: Tensor) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        self.bytes = weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            x.to(torch.bfloat16), self.packed, None, "none", [], ""
        )
        return out.float()


class Int8:
    """8-bit weights with a scale for each output, 8-bit inputs with a scale for each row.

    A scale for each row, not for all: otherwise one answer's text would depend on who else is
    in the batch, and most of the quality would be lost.
    """

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        """`weight` int8 `[out, in]`, `scale` float32 `[out]`."""
        self.packed = torch.ops.onednn.qlinear_prepack(weight.contiguous(), None)
        self.scale = scale
        self._zero = torch.zeros(len(scale), dtype=torch.long)
        self.bytes = weight.nbytes + scale.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        # Unsigned around 128: signed inputs have no fast path on processors without AMX.
        step = torch.add(_TINY, x.abs().amax(-1, keepdim=True), alpha=1 / 127)
        # To int8 and then a flipped bit: straight to uint8 takes several times as long.
        steps = (x / step).round_().to(torch.int8).view(torch.uint8).bitwise_xor_(_SIGN)
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            steps,
            1.0,
            128,
            self.packed,
            self.scale,
            self._zero,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        return out.mul_(step)


class Float8:
    """8-bit floats with a scale for each output, inputs alike with a scale for each row.

    For GPUs that multiply them (compute capability 8.9 and up). The same on a CPU, slowly.
    """

    def __init__(self, weight: Tensor, scale: Tensor, rows: "Eighths | None" = None) -> None:
        """`weight` float8 `[out, in]`, `scale` float32 `[out]`; `rows` makes inputs 8-bit."""
        self._weight = weight.t()
        self._scale = scale[None].contiguous()
        self._rows = rows or eighths
        self.bytes = weight.nbytes + scale.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        steps, scale = self._rows(x)
        out: Tensor = torch._scaled_mm(
            steps, self._weight, scale_a=scale, scale_b=self._scale, out_dtype=torch.bfloat16
        )
        return out


class Nf4:
    """4-bit NormalFloat in blocks of 64, their scales in 8 bits (QLoRA, arXiv 2305.14314)."""

    def __init__(self, packed: Tensor, state: Any) -> None:
        """`packed` and `state` as bitsandbytes' `quantize_4bit` gives them."""
        self._packed = packed
        self._state = state
        self.bytes = packed.nbytes + sum(
            each.nbytes for each in state.as_dict(packed=True).values() if torch.is_tensor(each)
        )

    def __call__(self, x: Tensor) -> Tensor:
        import bitsandbytes

        out: Tensor = bitsandbytes.matmul_4bit(
            x.to(self._state.dtype), self._packed, quant_state=self._state
        )
        return out


Eighths = Callable[[Tensor], tuple[Tensor, Tensor]]


def eighths(x: Tensor) -> tuple[Tensor, Tensor]:
    """The rows in 8-bit floats, and what to multiply them with, float32 `[rows, 1]`."""
    x = x.float()
    scale = x.abs().amax(-1, keepdim=True).clamp_min_(1e-12).div_(torch.finfo(_FLOAT8).max)
    return (x / scale).to(_FLOAT8), scale


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 `[out, in]` and float32 `[out]`: symmetric, one scale for each output."""
    scale = weight.float().abs().amax(1).clamp_min_(1e-12) / 127.0
    steps = (weight.float() / scale[:, None]).round_().clamp_(-127, 127)
    return steps.to(torch.int8), scale
