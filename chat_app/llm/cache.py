"""Whole answers that can be given again, each to its own user alone.

Only for requests that always lead to the same text: temperature 0 or a seed. What counts as
the same request is in `key`. It knows no money: what a repeated answer costs is not its business.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from cachetools import TTLCache

from chat_app.llm.engine import Reason, Request
from chat_app.settings import AnswerCache

# What Python needs for a piece and for an entry besides their text, about.
_PIECE_BYTES = 130
_ENTRY_BYTES = 600
Key = tuple[str, str]


@dataclass(frozen=True)
class Kept:
    """A complete answer: its pieces (text, tokens) as they came, and what was counted."""

    pieces: tuple[tuple[str, int], ...]
    reason: Reason
    prompt_tokens: int
    dropped_messages: int = 0

    @property
    def bytes(self) -> int:
        """About what it takes in memory."""
        text = sum(len(text.encode()) + _PIECE_BYTES for text, _ in self.pieces)
        return text + _ENTRY_BYTES


def repeatable(request: Request) -> bool:
    """Whether the same request leads to the same text."""
    return request.sampling.temperature == 0 or request.sampling.seed is not None


def key(request: Request, *, version: str) -> Key:
    """The user's scope, and a hash of everything that the text depends on.

    `version` names the model's weights: a revision or a file's hash.
    """
    asked = {
        "model": request.model,
        "version": version,
        "messages": [
            (item.role, item.content, [image.digest for image in item.images])
            for item in request.messages
        ],
        "sampling": asdict(request.sampling),
        "max_tokens": request.max_tokens,
        "stop": list(request.stop),
    }
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return request.user_scope, hashlib.sha256(text.encode()).hexdigest()


class Cache:
    """Least recently used answers go first; none is older than `ttl_seconds`.

    Bounded by entries and by bytes. With 0 entries nothing is kept.
    """

    def __init__(self, settings: AnswerCache, *, now: Callable[[], float] = time.monotonic) -> None:
        self._entries = settings.entries
        self._kept: TTLCache[Key, Kept] = TTLCache(
            maxsize=settings.max_mib * 2**20,
            ttl=settings.ttl_seconds,
            timer=now,
            getsizeof=lambda kept: kept.bytes,
        )
        self.hits = 0
        self.misses = 0

    @property
    def on(self) -> bool:
        """Whether anything is kept at all."""
        return self._entries > 0

    def get(self, key: Key) -> Kept | None:
        """The answer to the same request of the same user, or None."""
        kept: Kept | None = self._kept.get(key)
        if kept is None:
            self.misses += 1
        else:
            self.hits += 1
        return kept

    def put(self, key: Key, kept: Kept) -> None:
        """Keep a complete answer; one that is larger than everything allowed is not kept."""
        if not self.on or kept.bytes > self._kept.maxsize:
            return
        self._kept.pop(key, None)
        while len(self._kept) >= self._entries:
            self._kept.popitem()
        self._kept[key] = kept

    def forget(self, scope: str) -> None:
        """Drop every answer of a user."""
        for found in [found for found in self._kept if found[0] == scope]:
            self._kept.pop(found, None)

    def clear(self) -> int:
        """Drop every answer; returns how many there were."""
        count = len(self._kept)
        self._kept.clear()
        return count

    def stats(self) -> dict[str, Any]:
        """Entries and bytes now, hits and misses since the start."""
        return {
            "entries": len(self._kept),
            "bytes": int(self._kept.currsize),
            "hits_total": self.hits,
            "misses_total": self.misses,
        }
