"""Kernels against plain PyTorch on the very device that is to use them, before anybody does.

A kernel that is wrong on one kind of GPU would write nonsense that is paid for. With this check
at every load, such a GPU runs without kernels and says so.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from chat_app.llm.native import plain
from chat_app.llm.native.cache import BLOCK_TOKENS, blocks
from chat_app.llm.native.graphs import Maths
from chat_app.llm.native.shape import Shape

_CLOSE = {torch.float32: 1e-3, torch.bfloat16: 3e-2}
# Around the borders of blocks, beyond every tile and split; 0 is a row that is none.
_LENGTHS = (1, 16, 17, 0, 63, 64, 65, 700)
_Random = Callable[..., Tensor]


@torch.inference_mode()
def differs(maths: Maths, shape: Shape, dtype: torch.dtype, device: torch.device) -> str:
    """What comes out differently with this model's measures; empty when nothing does."""
    generator = torch.Generator().manual_seed(5)

    def random(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator).to(device=device, dtype=dtype)

    pairs = [*_rows(maths, shape, random)]
    for window in sorted(set(shape.windows)):
        pairs += _attention(maths, shape, window, random)
    for name, got, expected in pairs:
        apart = (got.float() - expected.float()).abs().max() / (1 + expected.float().abs().max())
        # Not `>=`: numbers that are none must not pass.
        if not apart < _CLOSE[dtype]:
            return name
    return ""


def _rows(maths: Maths, shape: Shape, random: _Random) -> Iterator[tuple[str, Tensor, Tensor]]:
    x, y, factor = random(3, shape.hidden), random(3, shape.hidden), random(shape.hidden).float()
    epsilon = shape.epsilon
    yield "norm", maths.norm(x, factor, epsilon), plain.norm(x, factor, epsilon)
    for after in (None, factor):
        got, expected = (m.join(x, y, after, factor, epsilon) for m in (maths, plain))
        yield "sum", got[0], expected[0]
        yield "norm of the sum", got[1], expected[1]
    both = random(3, 2 * shape.inner)
    yield "gate", maths.gated(both, shape.gemma), plain.gated(both, shape.gemma)


def _attention(
    maths: Maths, shape: Shape, window: int, random: _Random
) -> Iterator[tuple[str, Tensor, Tensor]]:
    kv, size = shape.kv_heads, shape.head_size
    width = blocks(window or max(_LENGTHS)) + 2
    first, most = 1, blocks(max(_LENGTHS))
    room = (1 + len(_LENGTHS) * most, kv, BLOCK_TOKENS, size)
    keys, values = random(*room), random(*room)
    device = keys.device
    tables = torch.zeros((len(_LENGTHS) + 1, width), dtype=torch.int32)
    last = []
    for row, length in enumerate(_LENGTHS):
        for index in range(blocks(length)):
            tables[row, index % width] = first + row * most + index
        last.append(first + row * most + blocks(length) - 1 if length else 0)
    tables = tables.to(device)
    lengths, slots, new = (
        torch.tensor(each, dtype=torch.int32, device=device)
        for each in (_LENGTHS, range(len(_LENGTHS)), last)
    )
    qkv = random(len(_LENGTHS), shape.heads + 2 * kv, size)
    angles = random(max(_LENGTHS), size // 2).float()
    turns = torch.polar(torch.ones_like(angles), angles)
    norm = random(shape.heads + kv, size).float() if shape.gemma else None
    mine = keys.clone(), values.clone()
    got = maths.store(qkv, norm, turns, lengths, new, *mine, shape.epsilon)
    query = plain.store(qkv, norm, turns, lengths, new, keys, values, shape.epsilon)
    yield "queries", got, query
    yield "stored keys", mine[0][1:], keys[1:]
    yield "stored values", mine[1][1:], values[1:]
    # At their usual size, so that no softmax is a single 1.
    query = query * 0.3
    for rows in (1, len(_LENGTHS)):
        some = query[-rows:].contiguous(), keys, values, tables, slots[-rows:], lengths[-rows:]
        got, expected = (
            m.attend(*some, window=window, scale=shape.attention_scale) for m in (maths, plain)
        )
        yield f"attention with window {window}", got, expected
