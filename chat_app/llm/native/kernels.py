"""Kernels of ours in Triton: the same as `plain.py`, in few passes over the memory.

A step of decoding reads every weight once and little else, so what counts is that nothing goes
to memory twice and that few kernels are started. Attention is cut into `splits` along the text
(after Flash-Decoding, PyTorch blog 2023): a long text of one user then keeps the whole GPU busy.
Sums are float32. TRITON_INTERPRET=1 runs all of it without a GPU.
"""

import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from chat_app.llm.native.cache import BLOCK_TOKENS

# Stands for minus infinity: differences of it stay numbers.
_LOWEST = tl.constexpr(-1.0e30)
# The interpreter multiplies the bits of bfloat16 matrices as if they were numbers.
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_MOST_SPLITS = 32
# Programs that should be there for each processor of the GPU.
_PROGRAMS_EACH = 2


@triton.jit
def _norm_kernel(x_ptr, factor_ptr, out_ptr, size, epsilon, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    here = at < size
    x = tl.load(x_ptr + row * size + at, mask=here, other=0.0).to(tl.float32)
    factor = tl.load(factor_ptr + at, mask=here, other=0.0).to(tl.float32)
    x = x * tl.rsqrt(tl.sum(x * x, 0) / size + epsilon) * factor
    tl.store(out_ptr + row * size + at, x.to(out_ptr.dtype.element_ty), mask=here)


@triton.jit
def _join_kernel(
    x_ptr,
    y_ptr,
    after_ptr,
    before_ptr,
    sum_ptr,
    out_ptr,
    size,
    epsilon,
    AFTER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    here = at < size
    x = tl.load(x_ptr + row * size + at, mask=here, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + row * size + at, mask=here, other=0.0).to(tl.float32)
    if AFTER:
        after = tl.load(after_ptr + at, mask=here, other=0.0).to(tl.float32)
        y = y * tl.rsqrt(tl.sum(y * y, 0) / size + epsilon) * after
    both = (x + y).to(sum_ptr.dtype.element_ty)
    tl.store(sum_ptr + row * size + at, both, mask=here)
    x = both.to(tl.float32)
    before = tl.load(before_ptr + at, mask=here, other=0.0).to(tl.float32)
    x = x * tl.rsqrt(tl.sum(x * x, 0) / size + epsilon) * before
    tl.store(out_ptr + row * size + at, x.to(out_ptr.dtype.element_ty), mask=here)


@triton.jit
def _gated_kernel(both_ptr, out_ptr, size, GELU: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = at < size
    gate = tl.load(both_ptr + row * 2 * size + at, mask=here, other=0.0).to(tl.float32)
    up = tl.load(both_ptr + row * 2 * size + size + at, mask=here, other=0.0).to(tl.float32)
    if GELU:
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        gate = gate * tl.sigmoid(2.0 * inner)  # = gate * (1 + tanh(inner)) / 2
    else:
        gate = gate * tl.sigmoid(gate)
    tl.store(out_ptr + row * size + at, (gate * up).to(out_ptr.dtype.element_ty), mask=here)


@triton.jit
def _store_kernel(
    qkv_ptr,
    norm_ptr,
    turns_ptr,
    lengths_ptr,
    blocks_ptr,
    keys_ptr,
    values_ptr,
    query_ptr,
    epsilon,
    NORM: tl.constexpr,
    HEADS: tl.constexpr,
    KV: tl.constexpr,
    SIZE: tl.constexpr,
    TOKENS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    pair = tl.arange(0, SIZE // 2)
    length = tl.load(lengths_ptr + row)
    place = tl.maximum(length - 1, 0).to(tl.int64)
    block = tl.load(blocks_ptr + row).to(tl.int64)
    source = qkv_ptr + (row * (HEADS + 2 * KV) + head) * SIZE + 2 * pair
    one = tl.load(source).to(tl.float32)
    two = tl.load(source + 1).to(tl.float32)
    if head < HEADS + KV:
        if NORM:
            mean = (tl.sum(one * one, 0) + tl.sum(two * two, 0)) / SIZE
            root = tl.rsqrt(mean + epsilon)
            one = one * root * tl.load(norm_ptr + head * SIZE + 2 * pair).to(tl.float32)
            two = two * root * tl.load(norm_ptr + head * SIZE + 2 * pair + 1).to(tl.float32)
        cosine = tl.load(turns_ptr + place * SIZE + 2 * pair)
        sine = tl.load(turns_ptr + place * SIZE + 2 * pair + 1)
        turned = one * cosine - two * sine
        two = one * sine + two * cosine
        one = turned
    if head < HEADS:
        target = query_ptr + (row * HEADS + head) * SIZE + 2 * pair
        tl.store(target, one.to(query_ptr.dtype.element_ty))
        tl.store(target + 1, two.to(query_ptr.dtype.element_ty))
    elif length > 0:
        shared = (head - HEADS) % KV
        offset = ((block * KV + shared) * TOKENS + place % TOKENS) * SIZE + 2 * pair
        if head < HEADS + KV:
            tl.store(keys_ptr + offset, one.to(keys_ptr.dtype.element_ty))
            tl.store(keys_ptr + offset + 1, two.to(keys_ptr.dtype.element_ty))
        else:
            tl.store(values_ptr + offset, one.to(values_ptr.dtype.element_ty))
            tl.store(values_ptr + offset + 1, two.to(values_ptr.dtype.element_ty))


@triton.jit
def _attend_kernel(
    query_ptr,
    keys_ptr,
    values_ptr,
    tables_ptr,
    slots_ptr,
    lengths_ptr,
    out_ptr,
    sums_ptr,
    width,
    scale,
    WINDOW: tl.constexpr,
    KV: tl.constexpr,
    SHARE: tl.constexpr,
    ROWS: tl.constexpr,
    SIZE: tl.constexpr,
    TOKENS: tl.constexpr,
    SPLITS: tl.constexpr,
    TILE: tl.constexpr,
    WIDEN: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    split = tl.program_id(2)
    length = tl.load(lengths_ptr + row)
    start = length * 0
    if WINDOW > 0:
        start = tl.maximum(length - WINDOW, 0)
    first = start // TOKENS * TOKENS
    each = tl.cdiv(tl.cdiv(length - first, SPLITS), TILE) * TILE
    low = first + split * each
    high = tl.minimum(low + each, length)
    slot = tl.load(slots_ptr + row).to(tl.int64)
    # Query heads that share keys are the rows of one matrix product, padded to what it needs.
    share = tl.arange(0, ROWS)
    d = tl.arange(0, SIZE)
    asks = (row * KV + head) * SHARE + share
    query = tl.load(
        query_ptr + asks[:, None] * SIZE + d[None, :], mask=(share < SHARE)[:, None], other=0.0
    )
    if WIDEN:
        query = query.to(tl.float32)
    best = tl.full([ROWS], _LOWEST, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, SIZE], tl.float32)
    for at in range(low, high, TILE):
        token = at + tl.arange(0, TILE)
        seen = (token >= start) & (token < high)
        column = (token // TOKENS) % width
        block = tl.load(tables_ptr + slot * width + column, mask=seen, other=0).to(tl.int64)
        offset = ((block * KV + head) * TOKENS + token % TOKENS) * SIZE
        key = tl.load(keys_ptr + offset[None, :] + d[:, None], mask=seen[None, :], other=0.0)
        if WIDEN:
            key = key.to(tl.float32)
        score = tl.dot(query, key, input_precision="ieee") * scale
        score = tl.where(seen[None, :], score, _LOWEST)
        higher = tl.maximum(best, tl.max(score, 1))
        share_of = tl.where(seen[None, :], tl.exp(score - higher[:, None]), 0.0)
        fade = tl.exp(best - higher)
        value = tl.load(values_ptr + offset[:, None] + d[None, :], mask=seen[:, None], other=0.0)
        if WIDEN:
            value = value.to(tl.float32)
        mixed = mixed * fade[:, None]
        mixed += tl.dot(share_of.to(value.dtype), value, input_precision="ieee")
        total = total * fade + tl.sum(share_of, 1)
        best = higher
    safe = tl.where(total > 0, total, 1.0)
    mixed = mixed / safe[:, None]
    target = asks * SPLITS + split
    tl.store(
        out_ptr + target[:, None] * SIZE + d[None, :],
        mixed.to(out_ptr.dtype.element_ty),
        mask=(share < SHARE)[:, None],
    )
    if SPLITS > 1:
        weight = tl.where(total > 0, best + tl.log(safe), _LOWEST)
        tl.store(sums_ptr + target, weight, mask=share < SHARE)


@triton.jit
def _combine_kernel(parts_ptr, sums_ptr, out_ptr, SIZE: tl.constexpr, SPLITS: tl.constexpr):
    ask = tl.program_id(0).to(tl.int64)
    split = tl.arange(0, SPLITS)
    d = tl.arange(0, SIZE)
    weight = tl.load(sums_ptr + ask * SPLITS + split)
    weight = tl.exp(weight - tl.max(weight, 0))
    parts = tl.load(parts_ptr + (ask * SPLITS + split)[:, None] * SIZE + d[None, :])
    out = tl.sum(parts * weight[:, None], 0) / tl.sum(weight, 0)
    tl.store(out_ptr + ask * SIZE + d, out.to(out_ptr.dtype.element_ty))


@triton.jit
def _eighths_kernel(x_ptr, out_ptr, scale_ptr, size, most, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    here = at < size
    x = tl.load(x_ptr + row * size + at, mask=here, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(x), 0), 1e-12) / most
    tl.store(out_ptr + row * size + at, (x / scale).to(out_ptr.dtype.element_ty), mask=here)
    tl.store(scale_ptr + row, scale)


def norm(x: Tensor, factor: Tensor, epsilon: float) -> Tensor:
    """See Maths.norm."""
    rows, size = x.shape
    out = torch.empty_like(x)
    _norm_kernel[(rows,)](x, factor, out, size, epsilon, BLOCK=_power(size), num_warps=8)
    return out


def join(
    x: Tensor, y: Tensor, after: Tensor | None, before: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """See Maths.join."""
    rows, size = x.shape
    both, out = torch.empty_like(x), torch.empty_like(x)
    _join_kernel[(rows,)](
        x,
        y,
        before if after is None else after,
        before,
        both,
        out,
        size,
        epsilon,
        AFTER=after is not None,
        BLOCK=_power(size),
        num_warps=8,
    )
    return both, out


def gated(both: Tensor, gelu: bool) -> Tensor:
    """See Maths.gated."""
    rows, size = both.shape[0], both.shape[1] // 2
    out = both.new_empty(rows, size)
    block = min(1024, _power(size))
    _gated_kernel[(rows, triton.cdiv(size, block))](both, out, size, GELU=gelu, BLOCK=block)
    return out


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
    """See `plain.store`."""
    rows, every, size = qkv.shape
    kv = keys.shape[1]
    query = torch.empty((rows, every - 2 * kv, size), dtype=keys.dtype, device=qkv.device)
    _store_kernel[(rows, every)](
        qkv,
        qkv if norm is None else norm,
        torch.view_as_real(turns),
        lengths,
        blocks,
        keys,
        values,
        query,
        epsilon,
        NORM=norm is not None,
        HEADS=every - 2 * kv,
        KV=kv,
        SIZE=size,
        TOKENS=BLOCK_TOKENS,
        num_warps=1,
    )
    return query


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
    splits: int = 0,
) -> Tensor:
    """See `plain.attend`. `splits` is a power of two; 0 fits it to the GPU."""
    rows, heads, size = query.shape
    kv = keys.shape[1]
    splits = splits or fitting_splits(rows * kv, query.device)
    out = torch.empty_like(query)
    parts, sums = out, out
    if splits > 1:
        parts = torch.empty((rows, heads, splits, size), dtype=torch.float32, device=query.device)
        sums = torch.empty((rows, heads, splits), dtype=torch.float32, device=query.device)
    _attend_kernel[(rows, kv, splits)](
        query,
        keys,
        values,
        tables,
        slots,
        lengths,
        parts,
        sums,
        tables.shape[1],
        scale,
        WINDOW=window,
        KV=kv,
        SHARE=heads // kv,
        ROWS=max(16, _power(heads // kv)),
        SIZE=size,
        TOKENS=BLOCK_TOKENS,
        SPLITS=splits,
        TILE=_tile(size, keys.dtype),
        WIDEN=_INTERPRETED,
        num_warps=4,
        num_stages=2,
    )
    if splits > 1:
        _combine_kernel[(rows * heads,)](parts, sums, out, SIZE=size, SPLITS=splits)
    return out


def eighths(x: Tensor) -> tuple[Tensor, Tensor]:
    """The rows in 8-bit floats and their scales `[rows, 1]`, as `linear.eighths` has it."""
    rows, size = x.shape
    kind = torch.float8_e4m3fn
    out = torch.empty((rows, size), dtype=kind, device=x.device)
    scale = torch.empty((rows, 1), dtype=torch.float32, device=x.device)
    most = torch.finfo(kind).max
    _eighths_kernel[(rows,)](x, out, scale, size, most, BLOCK=_power(size), num_warps=8)
    return out, scale


def fitting_splits(programs: int, device: torch.device) -> int:
    """Parts of each text, so that so many programs times it keep the GPU busy."""
    processors = 1
    if device.type == "cuda":
        processors = torch.cuda.get_device_properties(device).multi_processor_count
    wanted = processors * _PROGRAMS_EACH // max(1, programs)
    return min(_MOST_SPLITS, 1 << max(0, wanted.bit_length() - 1))


def _tile(size: int, dtype: torch.dtype) -> int:
    """Tokens read at once: about 16 KiB of keys."""
    return max(16, min(64, 16384 // (size * dtype.itemsize)))


def _power(number: int) -> int:
    power: Any = triton.next_power_of_2(number)
    return int(power)
