"""Builds every kernel for an H100 with Triton's own compiler, which needs no GPU.

A program of its own, because Triton decides at its import whether it compiles or interprets.
Shapes are those of Gemma 3 1B and 12B.
"""

from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from chat_app.llm.native import kernels

TARGET = GPUTarget("cuda", 90, 32)
NAMES = {
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.int32: "*i32",
    torch.float8_e4m3fn: "*fp8e4nv",
}
_OPTIONS = ("num_warps", "num_stages")
built: dict[str, int] = {}


class Builder:
    """Stands where a kernel stands: compiles what would have been started."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self.build

    def build(self, *values: Any, **named: Any) -> None:
        options = {name: named.pop(name) for name in _OPTIONS if name in named}
        arguments = dict(zip(self._kernel.arg_names, values, strict=False)) | named
        signature = {name: self._kind(name, value) for name, value in arguments.items()}
        source = ASTSource(self._kernel, signature, constexprs=dict(named))
        binary = triton.compile(source, target=TARGET, options=options)
        shared = binary.metadata.shared
        assert shared <= 227 * 1024, f"{self._kernel.__name__} wants {shared} bytes"
        assert binary.asm["cubin"]
        built[self._kernel.__name__] = built.get(self._kernel.__name__, 0) + 1

    @staticmethod
    def _kind(name: str, value: Any) -> str:
        if name.isupper():
            return "constexpr"
        if torch.is_tensor(value):
            return NAMES[value.dtype]
        return "i32" if isinstance(value, int) else "fp32"


def layer(hidden: int, inner: int, heads: int, kv: int, size: int, window: int) -> None:
    """All kernels of one layer."""
    rows, kind = 4, torch.bfloat16
    x, factor = torch.empty(rows, hidden, dtype=kind), torch.empty(hidden)
    kernels.norm(x, factor, 1e-6)
    kernels.join(x, x, factor, factor, 1e-6)
    kernels.join(x, x, None, factor, 1e-6)
    kernels.gated(torch.empty(rows, 2 * inner, dtype=kind), True)
    kernels.eighths(x)
    room = [torch.empty(3, kv, 16, size, dtype=kind) for _ in range(2)]
    qkv = torch.empty(rows, heads + 2 * kv, size, dtype=kind)
    turns = torch.empty(64, size // 2, dtype=torch.complex64)
    ints = torch.zeros(rows, dtype=torch.int32)
    norm = torch.empty(heads + kv, size)
    query = kernels.store(qkv, norm, turns, ints, ints, *room, 1e-6)
    tables = torch.zeros(rows, 40, dtype=torch.int32)
    for splits in (1, 8):
        kernels.attend(query, *room, tables, ints, ints, window=window, scale=0.1, splits=splits)


def main() -> None:
    for name, value in vars(kernels).copy().items():
        if name.endswith("_kernel"):
            setattr(kernels, name, Builder(value))
    layer(1152, 6912, 4, 1, 256, 512)
    layer(3840, 15360, 16, 8, 256, 0)
    print(f"built {sum(built.values())} of {len(built)} kernels")


if __name__ == "__main__":
    main()
