"""The tree of a conversation's messages, and the one path through it that is shown and read.

Knows rows with an id, a parent and a time; no database, no texts.
"""

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar


class Node(Protocol):
    """A message, as far as the tree is concerned."""

    id: str
    parent_id: str | None
    created_at: int


T = TypeVar("T", bound=Node)


class Tree(Generic[T]):
    """The messages of one conversation, the children of each in the order they came.

    A message whose parent is missing stands at the beginning, and so does one of a circle, so
    that every message is reached whatever a file said.
    """

    def __init__(self, rows: Sequence[T]) -> None:
        self.rows = {row.id: row for row in sorted(rows, key=lambda row: (row.created_at, row.id))}
        self._parents = {
            row.id: row.parent_id if row.parent_id in self.rows else None
            for row in self.rows.values()
        }
        self._cut_circles()
        self._children: dict[str | None, list[T]] = {}
        for row in self.rows.values():
            self._children.setdefault(self._parents[row.id], []).append(row)

    def parent(self, message_id: str) -> str | None:
        """What the message follows; None at the beginning."""
        return self._parents[message_id]

    def children(self, message_id: str | None) -> list[T]:
        """What follows the message, oldest first; with None what begins the conversation."""
        return self._children.get(message_id, [])

    def siblings(self, message_id: str) -> list[T]:
        """The message among those that follow the same one, oldest first."""
        return self.children(self._parents[message_id])

    def newest(self, below: str | None = None) -> str | None:
        """The end of the path that takes the newest child each time; None in an empty tree."""
        while following := self.children(below):
            below = following[-1].id
        return below

    def path(self, end: str | None = None) -> list[T]:
        """The messages from the beginning to `end`; without one, or when it is gone, the newest."""
        at = end if end in self.rows else self.newest()
        found = []
        while at is not None:
            found.append(self.rows[at])
            at = self._parents[at]
        return found[::-1]

    def walk(self) -> list[T]:
        """Every message once, each after its parent."""
        found, left = [], self.children(None)[::-1]
        while left:
            row = left.pop()
            found.append(row)
            left += self.children(row.id)[::-1]
        return found

    def _cut_circles(self) -> None:
        safe: set[str] = set()
        for start in self.rows:
            seen: set[str] = set()
            at: str | None = start
            while at is not None and at not in safe:
                if at in seen:
                    self._parents[at] = None
                    break
                seen.add(at)
                at = self._parents[at]
            safe |= seen
