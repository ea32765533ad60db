"""The forward pass of Gemma 3 and of the Llama family, lean: fused weights, nothing optional.

Rows of a step are tokens of any answers in any mix; only attention knows whose they are.
Sources: Gemma 3 technical report (arXiv 2503.19786), Llama (arXiv 2302.13971), rotary positions
(arXiv 2104.09864). Checked against transformers' logits in the tests.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from chat_app.llm.native.linear import Linear
from chat_app.llm.native.shape import Rope, Shape


class Attention(Protocol):
    """Attention of one step over the cache."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store keys and values, attend; everything is `[rows, heads, head_size]`."""
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
        self._embedding = embedding
        self._norm = norm
        self.head = head
        self._work = work
        # bfloat16 weights were trained with the scale in bfloat16 as well.
        self._scale = float(torch.tensor(shape.embedding_scale, dtype=embedding.dtype))
        self._turns = {
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
        return sum(linears) + self.head.bytes + self._embedding.nbytes

    def forward(
        self, tokens: Tensor, positions: Tensor, attention: Attention, rows: Tensor
    ) -> Tensor:
        """Logits `[len(rows), vocabulary]` after those rows; all of them go into the cache."""
        x = F.embedding(tokens, self._embedding).to(self._work)
        if self._scale != 1.0:
            x = x * self._scale
        turns = {rope: all.index_select(0, positions)[:, None] for rope, all in self._turns.items()}
        for index, layer in enumerate(self.layers):
            got = self._attended(index, layer, x, turns[self.shape.ropes[index]], attention)
            if index == len(self.layers) - 1:
                # The last keys are stored: now only rows whose logits are wanted matter.
                got, x = got.index_select(0, rows), x.index_select(0, rows)
            x = self._grown(layer, got, x)
        return self.head(self._rms(x, self._norm))

    def _attended(
        self, index: int, layer: Layer, x: Tensor, turns: Tensor, attention: Attention
    ) -> Tensor:
        """What the rows see, `[rows, heads * head_size]`."""
        shape = self.shape
        both = shape.heads + shape.kv_heads
        qkv = layer.qkv(self._rms(x, layer.before_attention))
        qkv = qkv.view(len(x), both + shape.kv_heads, shape.head_size)
        looking = qkv[:, :both].to(self._work)
        if layer.heads_norm is not None:
            looking = self._rms(looking, layer.heads_norm)
        looking = _turned(looking, turns)
        query, key = looking[:, : shape.heads], looking[:, shape.heads :]
        return attention.attend(index, query, key, qkv[:, both:]).reshape(len(x), -1)

    def _grown(self, layer: Layer, got: Tensor, x: Tensor) -> Tensor:
        """The rows after attention's result and the MLP are added."""
        y = layer.out(got).to(self._work)
        if layer.after_attention is not None:
            y = self._rms(y, layer.after_attention)
        x = x + y
        gate, up = layer.gate_up(self._rms(x, layer.before_mlp)).chunk(2, -1)
        gate = F.gelu(gate, approximate="tanh") if self.shape.gemma else F.silu(gate)
        y = layer.down(gate * up).to(self._work)
        if layer.after_mlp is not None:
            y = self._rms(y, layer.after_mlp)
        return x + y

    def _rms(self, x: Tensor, factor: Tensor) -> Tensor:
        if factor.dim() == 1:
            return F.rms_norm(x, factor.shape, factor, self.shape.epsilon)
        return F.rms_norm(x, factor.shape[-1:], None, self.shape.epsilon) * factor


def _turns(rope: Rope, size: int, positions: int) -> Tensor:
    """Complex factors `[positions, size / 2]` that turn pairs of elements by their position."""
    speeds = 1.0 / rope.theta ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * (speeds / rope.factor)
    return torch.polar(torch.ones_like(angles), angles)


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    """Neighbouring elements are a pair: the weights' rows were put in that order."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).reshape(x.shape)
