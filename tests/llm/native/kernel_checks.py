"""Every kernel against plain PyTorch, in Triton's interpreter: a program of its own.

Triton reads TRITON_INTERPRET when it is imported, so `test_kernels.py` starts this one. With a
GPU, `--cuda` runs the same on it.
"""

import itertools
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from chat_app.llm.engine import Sampling
from chat_app.llm.native import kernels, linear, plain
from chat_app.llm.native.cache import BLOCK_TOKENS
from tests.llm.native.conftest import GREEDY, finish, make, text

DEVICE = torch.device("cuda" if "--cuda" in sys.argv else "cpu")
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


def same(what: str, got: Tensor, expected: Tensor) -> None:
    close = CLOSE[got.dtype]
    assert got.shape == expected.shape, what
    apart = float((got.float() - expected.float()).abs().max() / (1 + expected.float().abs().max()))
    assert apart < close, f"{what}: {apart}"


def rows(dtype: torch.dtype) -> None:
    x, y = (torch.randn(3, 72, device=DEVICE, dtype=dtype) for _ in range(2))
    one, two = (1 + 0.2 * torch.randn(72, device=DEVICE) for _ in range(2))
    same("norm", kernels.norm(x, one, 1e-6), plain.norm(x, one, 1e-6))
    for after in (None, two):
        got, expected = (m.join(x, y, after, one, 1e-6) for m in (kernels, plain))
        same("join: the sum", got[0], expected[0])
        same("join: the norm", got[1], expected[1])
    for gelu in (True, False):
        same("gated", kernels.gated(x, gelu), plain.gated(x, gelu))


def eighths() -> None:
    """Values that 8 bits hold exactly: the interpreter rounds others in ways no GPU does."""
    every = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    signs = torch.where(torch.rand(4, 127) < 0.5, -1.0, 1.0)
    x = (every * signs * torch.tensor([[2.0**-9], [1.0], [2.0**6], [0.0]])).to(DEVICE)
    got, scale = kernels.eighths(x)
    expected, expected_scale = linear.eighths(x)
    assert torch.equal(scale, expected_scale)
    assert torch.equal(got.float(), expected.float())


def attention(
    heads: int,
    kv: int,
    size: int,
    window: int,
    dtype: torch.dtype,
    splits_each: tuple[int, ...] = (1, 4),
) -> None:
    """Ragged lengths around the borders of blocks and windows; a row that is none; a ring."""
    wanted = [1, 16, 17, 0, 64, 95]
    lengths = torch.tensor(wanted, dtype=torch.int32, device=DEVICE)
    count, most = len(wanted), 7
    width = min(most, (window // BLOCK_TOKENS + 2) if window else most)
    numbers = 1 + torch.randperm(count * most).view(count, most)
    tables = torch.zeros((count + 1, width), dtype=torch.int32)
    slots = torch.randperm(count)
    for row, length in enumerate(wanted):
        for index in range(-(-length // BLOCK_TOKENS)):
            tables[slots[row], index % width] = numbers[row, index]
    last = torch.tensor(
        [int(numbers[row, (n - 1) // BLOCK_TOKENS]) if n else 0 for row, n in enumerate(wanted)]
    )
    tables, slots, last = (t.to(device=DEVICE, dtype=torch.int32) for t in (tables, slots, last))
    room = (count * most + 1, kv, BLOCK_TOKENS, size)
    caches = [torch.randn(room, device=DEVICE, dtype=dtype) for _ in range(2)]
    mine = [cache.clone() for cache in caches]
    qkv = torch.randn(count, heads + 2 * kv, size, device=DEVICE, dtype=dtype)
    angles = torch.randn(128, size // 2, device=DEVICE)
    turns = torch.polar(torch.ones_like(angles), angles)
    factor = 1 + 0.2 * torch.randn(heads + kv, size, device=DEVICE)
    for norm in (factor, None):
        expected = plain.store(qkv, norm, turns, lengths, last, *caches, 1e-6)
        query = kernels.store(qkv, norm, turns, lengths, last, *mine, 1e-6)
        same("queries", query, expected)
        for cache, own in zip(caches, mine, strict=True):
            same("cache", own[1:], cache[1:])
    what = {"window": window, "scale": size**-0.5}
    expected = plain.attend(query, *mine, tables, slots, lengths, **what)
    assert not expected[wanted.index(0)].any()
    for splits in splits_each:
        got = kernels.attend(query, *mine, tables, slots, lengths, **what, splits=splits)
        same(f"attention {heads}/{kv} {size} {window} {splits}", got, expected)


def answers() -> None:
    """Whole texts by the kernels, a step ahead, against the plain runner's."""
    with tempfile.TemporaryDirectory() as folder:
        pair = make(Path(folder), "gemma3")
    runners = [pair.runner(), replace(pair, ahead=True).runner(maths=kernels)]
    made = []
    for runner in runners:
        for index, sampling in enumerate((GREEDY, Sampling(temperature=1.0, top_k=9))):
            runner.add(str(index), text(30 + index, 15), sampling, 4, seed=3, scope="")
        made.append(finish(runner))
    assert made[0] == made[1], made


def main() -> None:
    torch.manual_seed(3)
    for dtype in (torch.float32, torch.bfloat16):
        rows(dtype)
    eighths()
    for window, dtype in itertools.product((0, 8, 32), (torch.float32, torch.bfloat16)):
        attention(4, 2, 16, window, dtype)
    for heads, kv, size, window in ((3, 3, 64, 0), (6, 2, 128, 24), (4, 1, 256, 40)):
        attention(heads, kv, size, window, torch.float32, (4,))
    attention(4, 2, 256, 16, torch.bfloat16, (1,))
    if DEVICE.type == "cpu":
        answers()
    print("all kernels agree")


if __name__ == "__main__":
    main()
