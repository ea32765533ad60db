"""What lies between a model's matrices, with PyTorch operations that run anywhere.

The kernels of `kernels.py` compute the same and are tested against this. `store` and `attend`
work on tables of a fixed size, as a captured graph needs them; reading prompts, and every step
without graphs, goes through `memory.py`.
"""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from chat_app.llm.native.cache import BLOCK_TOKENS

_SPEED = torch.tensor(2 * math.sqrt(2 / math.pi))


def norm(x: Tensor, factor: Tensor, epsilon: float) -> Tensor:
    """See Maths.norm. Computed in float32: a factor near 1 has few digits in bfloat16."""
    if x.is_cpu and x.dtype == torch.float32:
        return (x * factor).mul_(_inverse(x, epsilon))
    factor = factor.float()
    return F.rms_norm(x.float(), factor.shape, factor, epsilon).to(x.dtype)


def _inverse(x: Tensor, epsilon: float) -> Tensor:
    """1 / sqrt(mean of squares + epsilon), by the vector's length.

    On a CPU half the time of `rms_norm`, which is no operation of its own there.
    """
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.addcmul(_number(epsilon), length, length, value=1 / x.shape[-1]).rsqrt_()


@cache
def _number(value: float) -> Tensor:
    # In a step of a few rows, making a tensor of a number takes as long as to calculate with it.
    return torch.tensor(value)


def join(
    x: Tensor, y: Tensor, after: Tensor | None, before: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """See Maths.join."""
    y = y.to(x.dtype)
    x = x + y if after is None else norm(y, after, epsilon).add_(x)
    return x, norm(x, before, epsilon)


def gated(both: Tensor, gelu: bool) -> Tensor:
    """See Maths.gated."""
    gate, up = both.chunk(2, -1)
    return (_gelu(gate) if gelu else F.silu(gate)).mul_(up)


def _gelu(x: Tensor) -> Tensor:
    """The tanh form. On a CPU by the logistic function: the same in half the time."""
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return F.gelu(x, approximate="tanh")
    # 1 + tanh(y) is 2 * sigmoid(2y).
    speed = torch.addcmul(_SPEED, x, x, value=0.044715 * 2 * math.sqrt(2 / math.pi))
    return speed.mul_(x).sigmoid_().mul_(x)


def heads_norm(x: Tensor, factor: Tensor, epsilon: float) -> Tensor:
    """RMS norm of each head by its own row of factors."""
    if x.is_cpu and x.dtype == torch.float32:
        return norm(x, factor, epsilon)
    return (F.rms_norm(x.float(), factor.shape[-1:], None, epsilon) * factor).to(x.dtype)


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """Neighbouring elements are a pair: the weights' rows were put in that order."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).reshape(x.shape)


def store(
    qkv: Tensor,
    norm: Tensor | None,
    turns: Tensor,
    lengths: Tensor,
    blocks: Tensor,
    keys: Tensor,
    values: Tensor,
    epsilon: float,
) -> Tensor:
    """Norm and turn queries and keys, put keys and values at each row's last place.

    `qkv` `[rows, heads + 2 * kv_heads, size]`; `lengths` with the new token, 0 for a row that is
    none; `blocks` the one of the new token. Returns the queries `[rows, heads, size]`.
    """
    rows, _, size = qkv.shape
    kv = keys.shape[1]
    both = qkv.shape[1] - kv
    places = (lengths - 1).clamp_min(0)
    looking = qkv[:, :both]
    if norm is not None:
        looking = heads_norm(looking, norm, epsilon)
    looking = turned(looking, turns.index_select(0, places)[:, None]).to(keys.dtype)
    heads = torch.arange(kv, device=qkv.device)
    first = blocks[:, None] * kv + heads
    at = (first * BLOCK_TOKENS + (places % BLOCK_TOKENS)[:, None]).view(-1)
    keys.view(-1, size).index_copy_(0, at, looking[:, both - kv :].reshape(-1, size))
    new = qkv[:, both:].to(values.dtype).reshape(rows * kv, size)
    values.view(-1, size).index_copy_(0, at, new)
    return looking[:, : both - kv]


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    slots: Tensor,
    lengths: Tensor,
    *,
    window: int,
    scale: float,
) -> Tensor:
    """What each row's query sees, `[rows, heads, size]`; zeros for a row of length 0.

    Block i of a row is at column i modulo the width of `tables` `[slots, width]`. With a
    window, only the last `window` tokens are seen.
    """
    rows, heads, size = query.shape
    kv, width = keys.shape[1], tables.shape[1]
    first = (lengths - window).clamp_min(0) // BLOCK_TOKENS if window else torch.zeros_like(lengths)
    indices = first[:, None] + torch.arange(width, device=query.device)
    blocks = tables.index_select(0, slots).gather(1, indices % width).long()
    blocks = blocks[:, None] * kv + torch.arange(kv, device=query.device)[None, :, None]
    seen = (rows, kv, width * BLOCK_TOKENS, size)
    flat = (-1, BLOCK_TOKENS, size)
    at = first[:, None] * BLOCK_TOKENS + torch.arange(seen[2], device=query.device)
    visible = at < lengths[:, None]
    if window:
        visible &= at >= (lengths - window)[:, None]
    mask = torch.zeros(visible.shape, dtype=query.dtype, device=query.device)
    mask.masked_fill_(~visible, torch.finfo(query.dtype).min)
    got = F.scaled_dot_product_attention(
        query.view(rows, kv, heads // kv, size),
        keys.view(flat).index_select(0, blocks.view(-1)).view(seen),
        values.view(flat).index_select(0, blocks.view(-1)).view(seen),
        attn_mask=mask[:, None, None],
        scale=scale,
    )
    return got.reshape(rows, heads, size) * (lengths > 0)[:, None, None]
