"""The key-value cache's tensors, and attention over them with plain PyTorch operations.

For every layer, keys and values are `[blocks, kv_heads, BLOCK_TOKENS, head_size]`. A step makes
one `Gathered` for all layers: where to write, which blocks to read, what is hidden from whom.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from chat_app.llm.native.cache import BLOCK_TOKENS, TRASH, Table, blocks
from chat_app.llm.native.shape import Shape

# A prompt is attended in parts of so many rows on the CPU: what comes after a part is not even
# looked at, and its scores stay in the processor's cache.
_PART_ROWS = 128
# Without instructions for it, products in bfloat16 take many times those in float32.
_BFLOAT16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()


class Memory:
    """All layers' keys and values."""

    def __init__(
        self,
        shape: Shape,
        *,
        wide_blocks: int,
        near_blocks: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.shape = shape
        self.device = device
        size = shape.kv_heads * BLOCK_TOKENS * shape.head_size

        def room(window: int) -> Tensor:
            count = near_blocks if window else wide_blocks
            flat = _zeros(count * size, dtype, device)
            return flat.view(count, shape.kv_heads, BLOCK_TOKENS, shape.head_size)

        self.keys = [room(window) for window in shape.windows]
        self.values = [room(window) for window in shape.windows]

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))


def _zeros(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(count, dtype=dtype, device=device)
    # By numpy, because it leaves pages untouched until they are used; torch writes them all.
    raw = np.zeros(count * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype)


def sent(values: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of these numbers on the device, without waiting for what the device is doing."""
    tensor = torch.tensor(values, dtype=dtype)
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class Piece:
    """Consecutive tokens of one answer in a step: `count` of them from position `start`.

    `images` are the positions (first, one past the last) of the images that it ends or holds:
    the tokens of one image see each other in both directions.
    """

    table: Table
    start: int
    count: int
    images: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class _Look:
    """Rows `first` to `last` of a step read these blocks through this mask.

    `groups` answers with `length` rows each; `blocks` is flat: group, head, block. The mask is
    0 or minus infinity: on the CPU float32 `[groups, 1, length, keys]`, elsewhere as `sdpa` has it.
    """

    first: int
    last: int
    groups: int
    length: int
    blocks: Tensor
    mask: Tensor


class Gathered:
    """Attention of one step: copies the blocks of each answer together, then attends.

    Pieces of one token (answers that are being written) come first and are attended in groups
    of similar length; longer pieces (prompts) follow one by one.
    """

    def __init__(self, memory: Memory, pieces: Sequence[Piece]) -> None:
        self._memory = memory
        self._shape = memory.shape
        self._writes: dict[bool, Tensor] = {}
        self._looks: dict[bool, list[_Look]] = {}
        for near in {bool(window) for window in self._shape.windows}:
            self._writes[near] = self._places(pieces, near)
            self._looks[near] = self._all_looks(pieces, near)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Write keys and values, return `[rows, heads, head_size]`; inputs are shaped alike."""
        shape, near = self._shape, bool(self._shape.windows[layer])
        keys, values = self._memory.keys[layer], self._memory.values[layer]
        places = self._writes[near]
        size = shape.head_size
        keys.view(-1, size).index_copy_(0, places, key.to(keys.dtype).reshape(-1, size))
        values.view(-1, size).index_copy_(0, places, value.to(values.dtype).reshape(-1, size))
        query = query.to(keys.dtype)
        parts = [self._look(look, query, keys, values) for look in self._looks[near]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _look(self, look: _Look, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        shape = self._shape
        kv, size = shape.kv_heads, shape.head_size
        share = shape.heads // kv
        seen = (look.groups, kv, -1, size)
        block = (-1, BLOCK_TOKENS, size)
        # Query heads that share keys stand in a row as if they were more tokens.
        rows = query[look.first : look.last].view(look.groups, look.length, kv, share, size)
        asked = rows.permute(0, 2, 3, 1, 4).reshape(look.groups, kv, share * look.length, size)
        attention = _products if asked.device.type == "cpu" else _fused
        got = attention(
            asked,
            keys.view(block).index_select(0, look.blocks).view(seen),
            values.view(block).index_select(0, look.blocks).view(seen),
            look.mask,
            shape.attention_scale,
        )
        got = got.view(look.groups, kv, share, look.length, size).permute(0, 3, 1, 2, 4)
        return got.reshape(-1, shape.heads, size)

    def _places(self, pieces: Sequence[Piece], near: bool) -> Tensor:
        heads = np.arange(self._shape.kv_heads)
        places = []
        for piece in pieces:
            table = np.asarray(piece.table.near if near else piece.table.wide)
            positions = np.arange(piece.start, piece.start + piece.count)
            first = table[positions // BLOCK_TOKENS] * len(heads)
            offsets = positions % BLOCK_TOKENS
            places.append((first[:, None] + heads) * BLOCK_TOKENS + offsets[:, None])
        return sent(np.concatenate(places).ravel(), torch.long, self._memory.device)

    def _all_looks(self, pieces: Sequence[Piece], near: bool) -> list[_Look]:
        looks, row = [], 0
        singles = [piece for piece in pieces if piece.count == 1]
        while row < len(singles):
            end = row + 1
            while end < len(singles) and _alike(singles[row], singles[end]):
                end += 1
            looks.append(self._one_look(row, singles[row:end], near))
            row = end
        for piece in pieces[len(singles) :]:
            for part in self._parts(piece):
                looks.append(self._one_look(row, [part], near))
                row += part.count
        return looks

    def _parts(self, piece: Piece) -> list[Piece]:
        """The piece as it is attended; with images it stays whole, their tokens look ahead."""
        if self._memory.device.type != "cpu" or piece.images:
            return [piece]
        count = -(-piece.count // _PART_ROWS)
        cuts = [piece.count * part // count for part in range(count + 1)]
        return [
            Piece(piece.table, piece.start + first, last - first)
            for first, last in itertools.pairwise(cuts)
        ]

    def _one_look(self, row: int, pieces: Sequence[Piece], near: bool) -> _Look:
        window = self._shape.window if near else 0
        firsts = [
            max(0, piece.start - window + 1) // BLOCK_TOKENS if near else 0 for piece in pieces
        ]
        ends = [blocks(piece.start + piece.count) for piece in pieces]
        width = max(end - first for first, end in zip(firsts, ends, strict=True))
        tables = []
        for piece, first, end in zip(pieces, firsts, ends, strict=True):
            table = (piece.table.near if near else piece.table.wide)[first:end]
            tables.append(table + [TRASH] * (width - len(table)))
        device, count = self._memory.device, pieces[0].count
        numbers = sent(tables, torch.long, device)
        heads = torch.arange(self._shape.kv_heads, device=device)
        every = numbers[:, None, :] * self._shape.kv_heads + heads[None, :, None]
        seen = torch.arange(width * BLOCK_TOKENS, device=device)
        seen = sent(firsts, torch.long, device)[:, None, None] * BLOCK_TOKENS + seen
        asks = sent([piece.start for piece in pieces], torch.long, device)[:, None, None]
        asks = asks + torch.arange(count, device=device)[None, :, None]
        visible = seen <= asks
        if count > 1:  # such a piece stands alone
            for start, end in pieces[0].images:
                asking = (asks >= start) & (asks < end)
                visible = visible | (asking & (seen >= start) & (seen < end))
        # The window holds for images too, looking back.
        if near:
            visible &= seen > asks - window
        cpu = device.type == "cpu"
        dtype = torch.float32 if cpu else self._memory.keys[0].dtype
        mask = torch.zeros(visible.shape, dtype=dtype, device=device)
        mask.masked_fill_(~visible, float("-inf"))
        if not cpu:
            mask = mask.repeat(1, self._shape.heads // self._shape.kv_heads, 1)
        return _Look(
            first=row,
            last=row + count * len(pieces),
            groups=len(pieces),
            length=count,
            blocks=every.reshape(-1),
            mask=mask[:, None],
        )


def _fused(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)


def _products(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """As `_fused`, but on the CPU in half its time: two batched products, float32 between them."""
    groups, kv, rows, size = query.shape
    work = keys.dtype if _BFLOAT16 else torch.float32
    query, keys, values = (each.flatten(0, 1).to(work) for each in (query, keys, values))
    scores = torch.bmm(query * scale, keys.transpose(1, 2)).float()
    length = mask.shape[2]
    scores.view(groups, kv * rows // length, length, -1).add_(mask)
    return torch.bmm(scores.softmax(-1).to(work), values).view(groups, kv, rows, size)


def _alike(one: Piece, other: Piece) -> bool:
    """Whether two answers are attended together, padded to the longer one."""
    short, long = sorted((blocks(one.start + 1), blocks(other.start + 1)))
    return long <= 2 * short + 4
