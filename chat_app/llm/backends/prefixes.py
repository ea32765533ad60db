"""What a shared cache of prompts surely still holds, and under which number whose prompts lie.

OpenVINO says neither what it found in its cache nor what it threw away. It throws away the block
that was unused for longest, and only when no other is free; so a block is surely there while
fewer others than there are in all can have been touched since. Less may be said than is true,
never more.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

BLOCK_TOKENS = 32
"""Tokens of a block in OpenVINO's cache on a CPU."""
_SCOPES = 100_000


@dataclass
class _Use:
    """One running answer: its number, its prompt, the blocks it may take at most."""

    scope: str
    number: int
    prompt: list[int]
    blocks: int
    begun: bool = False
    read: bool = False


class Prefixes:
    """The record for one pipeline with `blocks` blocks."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self._next = 0
        self._uses: dict[str, _Use] = {}
        self._leaving = 0
        self._held: OrderedDict[bytes, int] = OrderedDict()
        self._touched = 0

    def begin(self, id: str, scope: str, prompt: list[int], max_tokens: int) -> int | None:
        """Take blocks for an answer; its tokens that are surely cached, None without room."""
        # One more, since a block that others use too is copied before it is written.
        blocks = -(-(len(prompt) + max_tokens) // BLOCK_TOKENS) + 1
        if self._taken() + blocks > self.blocks:
            return None
        number = self.number(scope)
        self._uses[id] = _Use(scope, number, prompt, blocks)
        found = 0
        for key in _chain(number, prompt):
            stamp = self._held.get(key)
            if stamp is None or self._touched - stamp >= self.blocks:
                break
            found += BLOCK_TOKENS
        self._touched += blocks
        # The last token of a prompt is always read again: what follows comes from it.
        return min(found, len(prompt) - 1)

    def number(self, scope: str) -> int:
        """The number under which this scope's prompts lie; no two scopes share one."""
        if scope not in self._numbers:
            self._numbers[scope] = self._next
            self._next += 1
            while len(self._numbers) > _SCOPES:
                self._numbers.popitem(last=False)
        self._numbers.move_to_end(scope)
        return self._numbers[scope]

    def was_read(self, id: str) -> None:
        """The answer has its first token, so its prompt was read whole."""
        use = self._uses[id]
        if not use.read:
            use.read = True
            self._hold(use, use.prompt)

    def end(self, id: str, answer: Sequence[int]) -> None:
        """The answer is over with these tokens. Its blocks are free after the next step."""
        use = self._uses.pop(id)
        self._leaving += use.blocks
        if use.read:
            # The last token was never read by the model.
            self._hold(use, [*use.prompt, *answer[:-1]])
        elif use.begun:
            # Blocks are filed before they are filled. One of a prompt that was not read to the
            # end may be half empty, so this scope goes on under another number.
            self._numbers.pop(use.scope, None)

    def stepped(self) -> None:
        """A step has passed: what left has left."""
        self._leaving = 0
        for use in self._uses.values():
            use.begun = True

    def _taken(self) -> int:
        return self._leaving + sum(use.blocks for use in self._uses.values())

    def _hold(self, use: _Use, tokens: list[int]) -> None:
        # Blocks that others have in use now count as if they were touched later.
        stamp = self._touched - self._taken()
        for key in _chain(use.number, tokens):
            self._held[key] = stamp
            self._held.move_to_end(key)
        while self._held and self._touched - next(iter(self._held.values())) >= self.blocks:
            self._held.popitem(last=False)


def _chain(number: int, tokens: Sequence[int]) -> list[bytes]:
    """A key for each full block, which says all that comes before it too."""
    key = number.to_bytes(8, "big")
    keys = []
    for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        block = array("q", tokens[start : start + BLOCK_TOKENS]).tobytes()
        key = hashlib.blake2b(key + block, digest_size=16).digest()
        keys.append(key)
    return keys
