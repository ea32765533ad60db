"""Decode steps as CUDA graphs: embedding, layers, head and picking, started as one.

What a graph touches stays where it is: tables, tokens, sampling and seen tokens of every answer
have a row of their own (a slot) on the device. A step names its slots; picked tokens stay on the
device and are read by the next step while the CPU still learns of them. Without a GPU, and where
capturing fails, the same function is called instead of replayed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from chat_app.llm.native import model, plain
from chat_app.llm.native.cache import BLOCK_TOKENS, Table, blocks
from chat_app.llm.native.memory import Memory, sent
from chat_app.llm.native.model import Model
from chat_app.llm.native.sampler import MOST_CANDIDATES, NUMBERS, Choice, draw, punished

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
_PENALTY = NUMBERS - 1
# The rows of the table of inputs.
_SLOT, _LENGTH, _WIDE, _NEAR = range(4)
_INPUTS = 4


class Maths(model.Maths, Protocol):
    """What `plain` and `kernels` both are."""

    def store(
        self,
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
        ...

    def attend(
        self,
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
        """See `plain.attend`."""
        ...


@dataclass(frozen=True)
class Row:
    """One answer in a decode step: its slot and where its next token goes, `position` from 0."""

    slot: int
    position: int
    wide: int
    near: int
    greedy: bool


class Flight:
    """Tokens on their way from the device."""

    def __init__(self, picked: Tensor | None, device: torch.device) -> None:
        self._picked = picked
        self._event: torch.cuda.Event | None = None
        if device.type == "cuda":
            if picked is not None:
                host = torch.empty(picked.shape, dtype=picked.dtype, pin_memory=True)
                self._picked = host.copy_(picked, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        elif picked is not None:
            self._picked = picked.clone()

    def read(self) -> list[int]:
        """Wait for them."""
        if self._event is not None:
            self._event.synchronize()
        return [] if self._picked is None else self._picked.tolist()


class Decoder:
    """The slots of all answers, and the steps over them. Used by one thread."""

    def __init__(
        self,
        model: Model,
        memory: Memory,
        *,
        slots: int,
        context_tokens: int,
        maths: Maths = plain,
    ) -> None:
        """`slots` answers at once, at most the largest bucket."""
        assert slots <= BUCKETS[-1], "a step must have room for all"
        shape, device = model.shape, memory.device
        self._model = model
        self._memory = memory
        self._maths = maths
        self.slots = slots
        self.buckets = [size for size in BUCKETS if size < slots]
        self.buckets.append(BUCKETS[len(self.buckets)])
        # One slot more, for the rows that fill up a bucket.
        self._spare, every, most = slots, slots + 1, self.buckets[-1]

        def zeros(*sizes: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(sizes, dtype=dtype, device=device)

        self._wide = zeros(every, blocks(context_tokens) + 1)
        # A ring: of the blocks that a window touches, no two have the same column.
        self._near = zeros(every, blocks(shape.window) + 2)
        self._tokens = zeros(every, dtype=torch.long)
        self._numbers = torch.ones((every, NUMBERS), device=device)
        self._seeds = zeros(every, dtype=torch.long)
        self._seen = zeros(every, shape.vocabulary, dtype=torch.bool)
        self._true = torch.ones((), dtype=torch.bool, device=device)
        self._inputs = zeros(_INPUTS, most)
        self._picked = zeros(most, dtype=torch.long)
        # Two, because the device may still read one while the next is filled.
        self._staged = [self._staging() for _ in range(2)]
        self._rows = 0
        self._graphs: dict[tuple[int, bool], torch.cuda.CUDAGraph] = {}
        self._fill([], most)

    def _staging(self) -> Tensor:
        pinned = self._memory.device.type == "cuda"
        return torch.zeros(self._inputs.shape, dtype=torch.int32, pin_memory=pinned)

    @property
    def bytes(self) -> int:
        """Of the slots, without the graphs' workspace."""
        kept = (self._wide, self._near, self._tokens, self._numbers, self._seeds, self._seen)
        return sum(tensor.nbytes for tensor in kept)

    def capture(self) -> None:
        """Record all graphs now: one that is missing later would make everybody wait.

        Raises RuntimeError when this GPU, driver or a library cannot.
        """
        pool = torch.cuda.graph_pool_handle()
        for size in reversed(self.buckets):
            for greedy in (True, False):
                self.warm(size, greedy)
                graph = torch.cuda.CUDAGraph()
                with torch.inference_mode(), torch.cuda.graph(graph, pool=pool):
                    self._step(size, greedy)
                self._graphs[size, greedy] = graph
        torch.cuda.synchronize()

    def warm(self, size: int, greedy: bool) -> None:
        """Run a step of nobody: kernels are built and libraries choose their ways."""
        self._fill([], self.buckets[-1])
        with torch.inference_mode():
            for _ in range(2):
                self._step(size, greedy)
        if self._memory.device.type == "cuda":
            torch.cuda.synchronize()

    def give_up_graphs(self) -> None:
        """Call every step's function instead, as on a CPU."""
        self._graphs.clear()

    @property
    def captured(self) -> bool:
        return bool(self._graphs)

    def seat(self, slot: int, table: Table, choice: Choice) -> None:
        """Put an answer in a slot, as it is when its prompt's last piece is being read."""
        self._numbers[slot] = self._sent(choice.numbers, torch.float32)
        self._seeds[slot] = choice.signed_seed
        if choice.penalty != 1.0:
            self._seen[slot] = False
            self._seen[slot].index_fill_(0, self._sent(list(choice.seen), torch.long), True)
        self._wide[slot, : len(table.wide)] = self._sent(table.wide, torch.int32)
        if self._memory.shape.window:
            width = self._near.shape[1]
            ring = [0] * width
            for index in range(max(0, len(table.near) - width), len(table.near)):
                ring[index % width] = table.near[index]
            self._near[slot] = self._sent(ring, torch.int32)

    def _sent(self, values: Sequence[float], dtype: torch.dtype) -> Tensor:
        return sent(values, dtype, self._memory.device)

    def first(self, logits: Tensor, slots: Sequence[int], positions: Sequence[int]) -> Flight:
        """Pick the first tokens of answers whose prompts were just read."""
        index, places = self._sent(slots, torch.long), self._sent(positions, torch.long)
        return Flight(self._pick(logits, index, places, greedy=False), self._memory.device)

    def step(self, rows: Sequence[Row]) -> Flight:
        """Begin a step over these answers; their tokens come in the same order."""
        size = next(size for size in self.buckets if size >= len(rows))
        self._fill(rows, size)
        greedy = all(row.greedy for row in rows)
        if graph := self._graphs.get((size, greedy)):
            graph.replay()
        else:
            self._step(size, greedy)
        return Flight(self._picked[: len(rows)], self._memory.device)

    def _fill(self, rows: Sequence[Row], size: int) -> None:
        staged = self._staged.pop(0)
        self._staged.append(staged)
        table = np.zeros((_INPUTS, size), dtype=np.int32)
        table[_SLOT] = self._spare
        for column, row in enumerate(rows):
            table[:, column] = row.slot, row.position + 1, row.wide, row.near
        staged[:, :size] = torch.from_numpy(table)
        self._inputs.copy_(staged, non_blocking=True)

    def _step(self, size: int, greedy: bool) -> None:
        """What a graph records: nothing here may wait for the device or depend on its values."""
        slots, lengths, wide, near = self._inputs[:, :size]
        index, places = slots.long(), (lengths - 1).clamp_min(0).long()
        column = places // BLOCK_TOKENS
        self._wide.index_put_((index, column % self._wide.shape[1]), wide)
        self._near.index_put_((index, column % self._near.shape[1]), near)
        look = _Look(self, slots, lengths)
        tokens = self._tokens.index_select(0, index)
        logits = self._model.forward(tokens, places, look, None, self._maths)
        self._picked[:size] = self._pick(logits, index, places, greedy=greedy)

    def _pick(self, logits: Tensor, index: Tensor, places: Tensor, *, greedy: bool) -> Tensor:
        """Greedy means that all rows are, and that none has a penalty."""
        numbers = self._numbers.index_select(0, index)
        if not greedy:
            seen = self._seen.index_select(0, index) & (numbers[:, _PENALTY:] != 1.0)
            logits = punished(logits, seen, numbers[:, _PENALTY])
        seeds = self._seeds.index_select(0, index)
        picked = draw(logits, numbers, seeds, places, 1 if greedy else MOST_CANDIDATES)
        self._tokens.index_copy_(0, index, picked)
        self._seen.index_put_((index, picked), self._true)
        return picked


class _Look:
    """Attention of one decode step over the slots' tables."""

    def __init__(self, decoder: Decoder, slots: Tensor, lengths: Tensor) -> None:
        self._memory = decoder._memory
        self._maths = decoder._maths
        self._tables = {True: decoder._near, False: decoder._wide}
        _, _, wide, near = decoder._inputs[:, : len(slots)]
        self._new = {True: near, False: wide}
        self._slots = slots
        self._lengths = lengths

    def whole(self, layer: int, qkv: Tensor, norm: Tensor | None, turns: Tensor) -> Tensor:
        """See Whole."""
        memory, shape = self._memory, self._memory.shape
        window = shape.windows[layer]
        keys, values = memory.keys[layer], memory.values[layer]
        query = self._maths.store(
            qkv,
            norm,
            turns,
            self._lengths,
            self._new[bool(window)],
            keys,
            values,
            shape.epsilon,
        )
        return self._maths.attend(
            query,
            keys,
            values,
            self._tables[bool(window)],
            self._slots,
            self._lengths,
            window=window,
            scale=shape.attention_scale,
        )
