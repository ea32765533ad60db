"""The forward pass of Gemma 3 and of the Llama family, lean: fused weights, nothing optional.

Rows of a step are tokens of any answers in any mix; only attention knows whose they are.
Sources: Gemma 3 technical report (arXiv 2503.19786), Llama (arXiv 2302.13971), rotary positions
(arXiv 2104.09864). Checked against transformers' logits in the tests.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from chat_app.llm.native import plain
from chat_app.llm.native.linear import Linear
from chat_app.llm.native.shape import Rope, Shape


class Attention(Protocol):
    """Attention of one step over the cache."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store keys and values, attend; everything is `[rows, heads, head_size]`."""
        ...


@runtime_checkable
class Whole(Protocol):
    """Attention that also norms, turns and stores: everything between the two matrices."""

    def whole(self, layer: int, qkv: Tensor, norm: Tensor | None, turns: Tensor) -> Tensor:
        """`qkv` `[rows, heads + 2 * kv_heads, head_size]`, `turns` for all positions."""
        ...


class Maths(Protocol):
    """What is computed between the matrices: by PyTorch (`plain`) or by kernels of ours."""

    def norm(self, x: Tensor, factor: Tensor, epsilon: float) -> Tensor:
        """RMS norm of the rows."""
        ...

    def join(
        self, x: Tensor, y: Tensor, after: Tensor | None, before: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        """x plus y (normed by `after` first), and that sum normed by `before`."""
        ...

    def gated(self, both: Tensor, gelu: bool) -> Tensor:
        """The first half of each row through GELU (tanh form) or SiLU, times the second."""
        ...


@dataclass
class Layer:
    """One layer's weights. Norms are factors as they are applied; None where there is none.

    `heads_norm` is `[heads + kv_heads, head_size]`, for queries and keys at once.
    """

    before_attention: Tensor
    after_attention: Tensor | None
    before_mlp: Tensor
    after_mlp: Tensor | None
    heads_norm: Tensor | None
    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear


@dataclass(frozen=True)
class Seen:
    """Tokens of images in a step: their rows, and what the part that sees made of them.

    `features` is `[len(rows), hidden]`; the rows' tokens are numbers of no meaning.
    """

    rows: Tensor
    features: Tensor


class Model:
    """Weights in place. `work` is the dtype of everything between linear layers."""

    def __init__(
        self,
        shape: Shape,
        *,
        embedding: Tensor,
        layers: list[Layer],
        norm: Tensor,
        head: Linear,
        device: torch.device,
        work: torch.dtype,
        positions: int,
    ) -> None:
        self.shape = shape
        self.device = device
        self.layers = layers
        self.embedding = embedding
        self.norm = norm
        self.head = head
        self._work = work
        # bfloat16 weights were trained with the scale in bfloat16 as well.
        self.scale = float(torch.tensor(shape.embedding_scale, dtype=embedding.dtype))
        self.turns = {
            rope: _turns(rope, shape.head_size, positions).to(device) for rope in set(shape.ropes)
        }

    @property
    def bytes(self) -> int:
        """Weights in memory."""
        linears = [
            linear.bytes
            for layer in self.layers
            for linear in (layer.qkv, layer.out, layer.gate_up, layer.down)
        ]
        return sum(linears) + self.head.bytes + self.embedding.nbytes

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        attention: Attention | Whole,
        rows: Tensor | None = None,
        maths: Maths = plain,
        *,
        seen: Seen | None = None,
    ) -> Tensor:
        """Logits `[len(rows), vocabulary]` after those rows; all of them go into the cache.

        Without `rows`, after all.
        """
        epsilon = self.shape.epsilon
        x = F.embedding(tokens, self.embedding).to(self._work)
        if self.scale != 1.0:
            x = x * self.scale
        if seen is not None:
            x = x.index_copy(0, seen.rows, seen.features.to(x.dtype))
        turns = self.turns
        if not isinstance(attention, Whole):
            turns = {rope: each.index_select(0, positions)[:, None] for rope, each in turns.items()}
        normed = maths.norm(x, self.layers[0].before_attention, epsilon)
        for index, layer in enumerate(self.layers):
            got = self._attended(index, layer, normed, turns[self.shape.ropes[index]], attention)
            last = index == len(self.layers) - 1
            if last and rows is not None:
                # The last keys are stored: now only rows whose logits are wanted matter.
                got, x = got.index_select(0, rows), x.index_select(0, rows)
            y = layer.out(got)
            x, normed = maths.join(x, y, layer.after_attention, layer.before_mlp, epsilon)
            y = layer.down(maths.gated(layer.gate_up(normed), self.shape.gemma))
            following = self.norm if last else self.layers[index + 1].before_attention
            x, normed = maths.join(x, y, layer.after_mlp, following, epsilon)
        return self.head(normed)

    def _attended(
        self, index: int, layer: Layer, normed: Tensor, turns: Tensor, attention: Attention | Whole
    ) -> Tensor:
        """What the rows see, `[rows, heads * head_size]`."""
        shape, rows = self.shape, len(normed)
        both = shape.heads + shape.kv_heads
        qkv = layer.qkv(normed).view(rows, both + shape.kv_heads, shape.head_size)
        if isinstance(attention, Whole):
            return attention.whole(index, qkv, layer.heads_norm, turns).reshape(rows, -1)
        looking = qkv[:, :both].to(self._work)
        if layer.heads_norm is not None:
            looking = plain.heads_norm(looking, layer.heads_norm, shape.epsilon)
        looking = plain.turned(looking, turns)
        query, key = looking[:, : shape.heads], looking[:, shape.heads :]
        return attention.attend(index, query, key, qkv[:, both:]).reshape(rows, -1)


def _turns(rope: Rope, size: int, positions: int) -> Tensor:
    """Complex factors `[positions, size / 2]` that turn pairs of elements by their position."""
    speeds = 1.0 / rope.theta ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * (speeds / rope.factor)
    return torch.polar(torch.ones_like(angles), angles)
