"""Who holds which block of the key-value cache. Numbers only: the tensors are in `memory.py`.

Tokens are kept in blocks. A full block is named by a hash of everything up to its end and of
the scope, so a later prompt of the same scope with the same beginning finds it, and nobody else
does. Blocks that no answer holds stay until their place is needed, the least used first.

Layers that see everything (`wide`) and layers with a window (`near`) have pools of their own: a
near block is given back as soon as the window has passed it.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

BLOCK_TOKENS = 16
# Padding of tables points here; what is written to it is never read.
TRASH = 0


class Pool:
    """Numbers of blocks: free, held by one or several answers, or resting under a name."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._free = list(range(blocks - 1, TRASH, -1))
        self._holders = [0] * blocks
        self._names: list[bytes | None] = [None] * blocks
        self._by_name: dict[bytes, int] = {}
        self._resting: OrderedDict[int, None] = OrderedDict()

    @property
    def available(self) -> int:
        """Blocks that can be taken now."""
        return len(self._free) + len(self._resting)

    @property
    def held(self) -> int:
        """Blocks that running answers hold."""
        return self.blocks - 1 - self.available

    def take(self) -> int:
        """A block for new content; the oldest resting one loses its name if none is free."""
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._resting.popitem(last=False)
            self._forget(block)
        self._holders[block] = 1
        return block

    def hold(self, block: int) -> None:
        """One more answer holds this block."""
        if not self._holders[block]:
            del self._resting[block]
        self._holders[block] += 1

    def release(self, block: int) -> None:
        """One answer less holds this block."""
        self._holders[block] -= 1
        if self._holders[block]:
            return
        if self._names[block] is None:
            self._free.append(block)
        else:
            self._resting[block] = None

    def name(self, block: int, name: bytes) -> None:
        """This block's content is final. The first block of a name keeps it."""
        if name not in self._by_name:
            self._by_name[name] = block
            self._names[block] = name

    def find(self, name: bytes) -> int | None:
        """The block with this content, held or resting."""
        return self._by_name.get(name)

    def _forget(self, block: int) -> None:
        name = self._names[block]
        if name is not None:
            del self._by_name[name]
            self._names[block] = None


@dataclass
class Table:
    """The blocks of one answer, by position; TRASH where a near block was given back.

    `length` tokens are in the cache.
    """

    salt: bytes
    total_blocks: int
    wide: list[int] = field(default_factory=list)
    near: list[int] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    length: int = 0
    near_first: int = 0


class Cache:
    """The tables of all running answers over both pools.

    `window` 0 means that there are no near layers, `chunk_tokens` is the longest piece that is
    written at once. What an answer may need is kept for it from the start, so none is ever
    stopped for want of room.
    """

    def __init__(
        self, *, wide_blocks: int, near_blocks: int, window: int, chunk_tokens: int
    ) -> None:
        self.wide = Pool(wide_blocks)
        self.near = Pool(near_blocks)
        self.window = window
        self._near_limit = near_need(window, chunk_tokens)
        self._tables: dict[int, Table] = {}

    def open(self, tokens: Sequence[int], total_tokens: int, scope: str) -> Table | None:
        """A table for a prompt of `tokens` that may grow to `total_tokens`; None without room.

        `length` of the result says how many tokens were found in the cache; at least the last
        one of the prompt is left to be computed.
        """
        table = Table(
            hashlib.blake2b(scope.encode(), digest_size=16).digest(), blocks(total_tokens)
        )
        self._find(table, tokens)
        self._tables[id(table)] = table
        if self._overdrawn():
            self.close(table)
            return None
        return table

    def _find(self, table: Table, tokens: Sequence[int]) -> None:
        count = (len(tokens) - 1) // BLOCK_TOKENS
        names, found = chain(table.salt, tokens[: count * BLOCK_TOKENS]), 0
        while found < count and self.wide.find(names[found]) is not None:
            found += 1
        while found and not self._near_held(names, found):
            found -= 1
        table.length = found * BLOCK_TOKENS
        table.names = names[:found]
        table.tokens = list(tokens[: table.length])
        for name in table.names:
            self._share(self.wide, name, table.wide)
        if self.window:
            table.near_first = min(found, self._first_near(table.length))
            table.near = [TRASH] * table.near_first
            for name in table.names[table.near_first :]:
                self._share(self.near, name, table.near)

    def _near_held(self, names: list[bytes], found: int) -> bool:
        if not self.window:
            return True
        needed = names[self._first_near(found * BLOCK_TOKENS) : found]
        return all(self.near.find(name) is not None for name in needed)

    def _share(self, pool: Pool, name: bytes, into: list[int]) -> None:
        block = pool.find(name)
        assert block is not None, "it was found a moment ago"
        pool.hold(block)
        into.append(block)

    def _first_near(self, position: int) -> int:
        """The first block that a token at this position sees through the window."""
        return max(0, position - self.window + 1) // BLOCK_TOKENS

    def _overdrawn(self) -> bool:
        wide = sum(table.total_blocks - len(table.wide) for table in self._tables.values())
        near = sum(
            max(0, min(self._near_limit, table.total_blocks) - len(table.near) + table.near_first)
            for table in self._tables.values()
        )
        return wide > self.wide.available or (self.window > 0 and near > self.near.available)

    def extend(self, table: Table, count: int) -> None:
        """Blocks for the next `count` tokens."""
        needed = blocks(table.length + count)
        while len(table.wide) < needed:
            table.wide.append(self.wide.take())
        while self.window and len(table.near) < needed:
            table.near.append(self.near.take())

    def advance(self, table: Table, tokens: Sequence[int]) -> None:
        """These tokens are written: name the blocks they fill, give back what no layer sees."""
        table.tokens += tokens
        table.length += len(tokens)
        for index in range(len(table.names), table.length // BLOCK_TOKENS):
            start = index * BLOCK_TOKENS
            last = table.names[-1] if table.names else table.salt
            (name,) = chain(last, table.tokens[start : start + BLOCK_TOKENS])
            table.names.append(name)
            self.wide.name(table.wide[index], name)
            if self.window and table.near[index] != TRASH:
                self.near.name(table.near[index], name)
        if self.window:
            self._drop_passed(table)

    def _drop_passed(self, table: Table) -> None:
        first = self._first_near(table.length)
        for index in range(table.near_first, min(first, len(table.near))):
            self.near.release(table.near[index])
            table.near[index] = TRASH
            table.near_first = index + 1

    def close(self, table: Table) -> None:
        """The answer is over: its named blocks rest, the others are free."""
        del self._tables[id(table)]
        # From the end: of a conversation, the beginning is worth most and is dropped last.
        for block in reversed(table.wide):
            self.wide.release(block)
        for block in reversed(table.near[table.near_first :]):
            self.near.release(block)


def near_need(window: int, chunk_tokens: int) -> int:
    """Blocks of the near pool that one answer holds at most."""
    return blocks(window + chunk_tokens) + 1 if window else 0


def blocks(tokens: int) -> int:
    """Blocks for so many tokens."""
    return -(-tokens // BLOCK_TOKENS)


def chain(start: bytes, tokens: Sequence[int]) -> list[bytes]:
    """The names of the full blocks of `tokens` after what `start` names."""
    names = []
    for index in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        content = array("q", tokens[index : index + BLOCK_TOKENS]).tobytes()
        start = hashlib.blake2b(content, key=start, digest_size=16).digest()
        names.append(start)
    return names
