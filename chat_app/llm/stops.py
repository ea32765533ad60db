"""Text as it may be shown: whole characters, whole tokens, nothing of a stop text.

Tokens are pieces of bytes, so a character can end in a later token; and the beginning of a
stop text must not be shown before it is clear that it is none. It knows no model.
"""

from collections.abc import Callable, Sequence

from chat_app.llm.engine import Delta

_BROKEN = "\N{REPLACEMENT CHARACTER}"
# A character has four bytes; more tokens than that without one are not text to wait for.
_PATIENCE_TOKENS = 8


class Detokenizer:
    """Token ids in, text out as soon as its characters are complete.

    `lengths` remembers how long the text of a single token is; answers may share it.
    """

    def __init__(
        self, decode: Callable[[list[int]], str], lengths: dict[int, int] | None = None
    ) -> None:
        self._decode = decode
        self._lengths = {} if lengths is None else lengths
        self._ids: list[int] = []
        self._shown = 0
        self._waiting = 0

    def feed(self, token: int) -> str:
        """The text that this token completes; often empty within one character or emoji."""
        self._ids.append(token)
        text = self._decode(self._ids)
        whole = len(text.rstrip(_BROKEN))
        self._waiting = self._waiting + 1 if whole <= self._shown else 0
        if self._waiting >= _PATIENCE_TOKENS:
            whole, self._waiting = len(text), 0
        new = text[self._shown : whole]
        self._shown = max(self._shown, whole)
        if whole == len(text):
            # One token stays as context: some decoders treat a text's start differently.
            self._ids = [token]
            if token not in self._lengths:
                self._lengths[token] = len(self._decode(self._ids))
            self._shown = self._lengths[token]
        return new


class StopText:
    """Token texts in, deltas out. After a stop text was found `stopped` is true."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self._ends: list[int] = []
        self.stopped = False

    def feed(self, text: str) -> Delta | None:
        """Add the text of one token (it may be empty); what may be shown now, if anything.

        Deltas end where a token ends, so each counts at least one token and none is counted
        twice. A stop text ends at the first character that completes it.
        """
        self._held += text
        self._ends.append(len(self._held))
        if not self._stops:
            return self._take(len(self._held), len(self._ends))
        if (start := self._found()) is not None:
            self.stopped = True
            begins = [0, *self._ends]
            return self._take(start, sum(begin < start for begin in begins[:-1]))
        safe = len(self._held) - self._suspicious()
        count = sum(end <= safe for end in self._ends)
        return self._take(self._ends[count - 1], count) if count else None

    def finish(self) -> Delta | None:
        """What was held back, when the answer has ended without the rest of a stop text."""
        return None if self.stopped else self._take(len(self._held), len(self._ends))

    def _found(self) -> int | None:
        hits = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        return min(hits)[1] if hits else None

    def _suspicious(self) -> int:
        """Length of the longest end of the held text that begins a stop text."""
        longest = min(len(self._held), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            tail = self._held[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0

    def _take(self, length: int, tokens: int) -> Delta | None:
        if not length:
            return None
        delta = Delta(text=self._held[:length], tokens=tokens)
        self._held = self._held[length:]
        self._ends = [end - length for end in self._ends[tokens:]]
        return delta
