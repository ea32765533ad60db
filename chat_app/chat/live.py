"""A reply while it is being written: its pieces, and anybody who follows along.

The job that writes a reply owns it; followers come and go and change nothing. Everything here
happens on one event loop.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

End = TypeVar("End")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the answer. `index` counts from 1; `tokens` were produced for it."""

    index: int
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Status:
    """A sentence for the person who waits: queued, loading, settling.

    In line, with its position from 1 and about how many seconds are left; else both are 0.
    """

    sentence: str
    position: int = 0
    expected_seconds: int = 0


@dataclass
class Live(Generic[End]):
    """One running reply. `end` is what followers get last, and is given once.

    `key_id` is the API key that asked for it, if one did.
    """

    reply_id: str
    user_id: int
    conversation_id: str
    key_id: str | None = None
    pieces: list[Piece] = field(default_factory=list)
    status: Status | None = None
    end: End | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    dropped_messages: int = 0
    cached: bool = False
    saved_pieces: int = 0
    stop_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None
    _texts: list[str] = field(default_factory=list)
    _lengths: list[str] = field(default_factory=list)
    _changes: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._texts)

    @property
    def completion_tokens(self) -> int:
        """Tokens of the pieces delivered so far."""
        return sum(piece.tokens for piece in self.pieces)

    @property
    def piece_lengths(self) -> str:
        """The length of each piece, as it is stored for replays."""
        return " ".join(self._lengths)

    def add(self, text: str, tokens: int) -> None:
        """Append a piece and wake the followers."""
        self.status = None
        self.pieces.append(Piece(len(self.pieces) + 1, text, tokens))
        self._texts.append(text)
        self._lengths.append(str(len(text)))
        self._wake()

    def say(self, sentence: str, *, position: int = 0, expected_seconds: int = 0) -> None:
        """Replace the status line."""
        status = Status(sentence, position, expected_seconds)
        if self.status != status:
            self.status = status
            self._wake()

    def finish(self, end: End) -> None:
        """End the reply for all followers."""
        self.end = end
        self._wake()

    async def news(self, seen: int, shown: Status | None) -> None:
        """Wait until there is more than `seen` pieces and this status line, or the end."""
        while len(self.pieces) <= seen and self.status == shown and self.end is None:
            await self._changed.wait()

    async def follow(self, after: int = 0) -> AsyncGenerator["Piece | Status | End", None]:
        """Pieces after number `after`, status lines as they change, and the end as last item."""
        seen = after
        shown: Status | None = None
        while True:
            known = self._changes
            for piece in self.pieces[seen:]:
                seen += 1
                yield piece
            if self.end is not None and seen >= len(self.pieces):
                yield self.end
                return
            if self.status is not None and self.status is not shown:
                shown = self.status
                yield shown
            if known == self._changes:
                await self._changed.wait()

    def _wake(self) -> None:
        self._changes += 1
        self._changed.set()  # for those who wait now
        self._changed.clear()


class Replies(Generic[End]):
    """The replies that this process is writing."""

    def __init__(self) -> None:
        self._by_id: dict[str, Live[End]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Live[End]]:
        return iter(list(self._by_id.values()))

    def get(self, reply_id: str) -> Live[End] | None:
        """The running reply, or None when this process does not write it (any more)."""
        return self._by_id.get(reply_id)

    def add(self, live: Live[End]) -> None:
        """Register a reply before its job starts."""
        self._by_id[live.reply_id] = live

    def remove(self, reply_id: str) -> None:
        """Forget a reply that has ended."""
        self._by_id.pop(reply_id, None)


def cut(text: str, lengths: str, *, after: int = 0) -> list[Piece]:
    """The pieces of a stored answer, as they were delivered, from number `after` + 1.

    Text beyond the stored lengths is one last piece. Tokens per piece are not stored: 0.
    """
    pieces: list[Piece] = []
    start = 0
    for length in (int(part) for part in lengths.split()):
        pieces.append(Piece(len(pieces) + 1, text[start : start + length], 0))
        start += length
    if start < len(text):
        pieces.append(Piece(len(pieces) + 1, text[start:], 0))
    return pieces[after:]
