"""The part of Gemma 3 that sees: an image's pixels become tokens for the text model.

A SigLIP tower (arXiv 2303.15343) over patches, neighbouring patches averaged, one projection.
Its weights are read when the first image comes. It knows no prompt and no cache. Checked
against transformers in the tests.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from chat_app.llm.native.linear import Linear
from chat_app.llm.native.pixels import pixels
from chat_app.llm.native.shape import Sight
from chat_app.llm.native.weights import Format, Source, linear

# Layers of the tower in one step: on a processor running answers wait for no more than that.
LAYERS_PER_STEP = {"cpu": 1, "cuda": 1000}
_TOWER = ("vision_tower.vision_model", "vision_tower")


@dataclass
class _Affine:
    """A matrix with something added."""

    matrix: Linear
    plus: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return self.matrix(x) + self.plus


@dataclass
class _Norm:
    """A layer norm."""

    factor: Tensor
    plus: Tensor
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.factor.shape, self.factor, self.plus, self.epsilon)


@dataclass
class _Layer:
    """One layer of the tower. `qkv` is queries, keys and values in one matrix."""

    before_attention: _Norm
    qkv: _Affine
    out: _Affine
    before_mlp: _Norm
    up: _Affine
    down: _Affine


@dataclass
class Tower:
    """Weights in place. `work` is the dtype of what lies between the matrices."""

    sight: Sight
    patches: _Affine
    places: Tensor
    layers: list[_Layer]
    last: _Norm
    soft_norm: Tensor
    projection: Linear
    device: torch.device
    work: torch.dtype
    attention: torch.dtype

    def begin(self, image: Tensor) -> Tensor:
        """Patches `[patches, hidden]` of pixels `[3, side, side]`."""
        grid, patch = self.sight.grid, self.sight.patch
        cut = image[:, : grid * patch, : grid * patch].view(3, grid, patch, grid, patch)
        rows = cut.permute(1, 3, 0, 2, 4).reshape(grid * grid, 3 * patch * patch)
        return self.patches(rows.to(self.device, self.work)).to(self.work) + self.places

    def layer(self, index: int, x: Tensor) -> Tensor:
        """What one layer makes of the patches."""
        layer, heads = self.layers[index], self.sight.heads
        size = self.sight.hidden // heads
        qkv = layer.qkv(layer.before_attention(x)).to(self.attention)
        query, key, value = qkv.view(len(x), 3, heads, size).permute(1, 2, 0, 3)
        seen = F.scaled_dot_product_attention(query[None], key[None], value[None])[0]
        x = x + layer.out(seen.transpose(0, 1).reshape(len(x), -1)).to(self.work)
        up = F.gelu(layer.up(layer.before_mlp(x)), approximate="tanh")
        return x + layer.down(up).to(self.work)

    def end(self, x: Tensor) -> Tensor:
        """Tokens `[tokens, hidden of the text model]`: squares of patches averaged, projected."""
        grid, side = self.sight.grid, math.isqrt(self.sight.tokens)
        square = grid // side
        x = self.last(x).view(side, square, side, square, -1).mean((1, 3)).view(side * side, -1)
        x = F.rms_norm(x.float(), x.shape[-1:], self.soft_norm, self.sight.epsilon)
        return self.projection(x.to(self.work)).to(self.work)

    @property
    def bytes(self) -> int:
        """Weights in memory."""
        parts = [part for each in self.layers for part in (each.qkv, each.out, each.up, each.down)]
        matrices = [self.patches.matrix, self.projection, *(part.matrix for part in parts)]
        return self.places.nbytes + sum(matrix.bytes for matrix in matrices)


class Look:
    """One image on its way through the tower, some layers at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._x: Tensor | None = None
        self._layer = 0

    def go_on(self, tower: Tower, layers: int) -> Tensor | None:
        """The image's tokens when the tower is through, else None. Raises OSError, ValueError."""
        if self._x is None:
            self._x = tower.begin(pixels(self._path, tower.sight.side))
        for _ in range(layers):
            if self._layer == tower.sight.layers:
                break
            self._x = tower.layer(self._layer, self._x)
            self._layer += 1
        return tower.end(self._x) if self._layer == tower.sight.layers else None


class Eyes:
    """The tower of a model, read from its files when it is needed for the first time."""

    def __init__(self, sight: Sight, read: Callable[[], Tower], *, layers_per_step: int) -> None:
        self.sight = sight
        self._read = read
        self._tower: Tower | None = None
        self._layers = layers_per_step

    @property
    def bytes(self) -> int:
        """Weights in memory, 0 before the first image."""
        return self._tower.bytes if self._tower is not None else 0

    def go_on(self, look: Look) -> Tensor | None:
        """See Look.go_on."""
        if self._tower is None:
            self._tower = self._read()
        return look.go_on(self._tower, self._layers)


def load(source: Source, sight: Sight, *, format: Format, device: torch.device) -> Tower:
    """The tower from a model's files. On a processor 8 bits become 16. Raises Unsupported."""
    exact = format == "float32"
    plain: Format = "float32" if exact else "bfloat16"
    work = torch.float32 if device.type == "cpu" or exact else torch.bfloat16

    def get(name: str) -> Tensor:
        return source.seeing(*(f"{prefix}.{name}" for prefix in _TOWER))

    def small(name: str) -> Tensor:
        return get(name).to(device, work)

    def affine(*names: str) -> _Affine:
        weight = torch.cat([get(f"{name}.weight").flatten(1) for name in names])
        plus = torch.cat([small(f"{name}.bias") for name in names])
        return _Affine(linear(weight.to(device), plain, device), plus)

    def norm(name: str) -> _Norm:
        return _Norm(small(f"{name}.weight"), small(f"{name}.bias"), sight.epsilon)

    def layer(at: str) -> _Layer:
        return _Layer(
            before_attention=norm(f"{at}.layer_norm1"),
            qkv=affine(*(f"{at}.self_attn.{kind}_proj" for kind in "qkv")),
            out=affine(f"{at}.self_attn.out_proj"),
            before_mlp=norm(f"{at}.layer_norm2"),
            up=affine(f"{at}.mlp.fc1"),
            down=affine(f"{at}.mlp.fc2"),
        )

    projection = source.seeing("multi_modal_projector.mm_input_projection_weight")
    factor = source.seeing("multi_modal_projector.mm_soft_emb_norm.weight")
    return Tower(
        sight=sight,
        patches=affine("embeddings.patch_embedding"),
        places=small("embeddings.position_embedding.weight"),
        layers=[layer(f"encoder.layers.{index}") for index in range(sight.layers)],
        last=norm("post_layernorm"),
        soft_norm=factor.to(device).float() + 1.0,
        projection=linear(projection.T.contiguous().to(device), plain, device),
        device=device,
        work=work,
        attention=torch.float32 if exact else torch.bfloat16,
    )
