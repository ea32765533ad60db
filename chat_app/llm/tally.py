"""How much of an answer a server elsewhere has written: what it claims, and what is believed.

vLLM, SGLang and llama.cpp say with every piece how many tokens it took, and that is a piece's
count; an end-of-turn token has no text and is not counted. Other servers send a piece for a
token, or several: each counts one, the newest piece is held back until the next one comes, and
the last one takes what the server's final usage counts beyond. Nobody is charged for more than
the request's `max_tokens`, nor for a longer prompt than was counted here, whatever a server
claims; what cannot be true is noted and not believed.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from chat_app.llm.engine import Delta
from chat_app.llm.stops import StopText


@dataclass
class Claim:
    """What one chunk says of tokens: 0 where it says nothing, or nothing that can be true."""

    completion: int = 0
    prompt: int = 0
    cached: int = 0
    said: bool = False
    """It counts the answer's tokens."""
    odd: bool = False
    """One of its numbers is no count."""


def claim(chunk: dict[str, Any]) -> Claim:
    """The usage in a chunk, as OpenAI's protocol or llama.cpp writes it."""
    usage, timings = _object(chunk.get("usage")), _object(chunk.get("timings"))
    completion = timings.get("predicted_n") or usage.get("completion_tokens")
    if "prompt_n" in timings:
        prompt, cached = timings["prompt_n"], timings.get("cache_n")
    else:
        prompt = usage.get("prompt_tokens")
        cached = _object(usage.get("prompt_tokens_details")).get("cached_tokens")
    written, read, known = (_number(value) for value in (completion, prompt, cached))
    if "prompt_n" in timings and read is not None:
        read += known or 0
    return Claim(
        written or 0,
        read or 0,
        known or 0,
        said=written is not None,
        odd=any(
            value is not None and number is None
            for value, number in ((completion, written), (prompt, read), (cached, known))
        ),
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> int | None:
    """A count, or None for what is none: no number, below zero, without end."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if math.isfinite(value) and value >= 0 else None


@dataclass
class Tally:
    """The pieces of one attempt, counted and watched for stop texts."""

    max_tokens: int
    stops: StopText
    exact: bool
    counted: int = 0
    held: str | None = None
    finish: str | None = None
    overrun: bool = False
    """The server went on beyond the limit it was given."""
    told: bool = False
    """The server said at least once how many tokens it wrote."""
    odd: set[str] = field(default_factory=set)
    """What it claimed that cannot be true."""

    def hear(self, said: Claim, *, prompt_tokens: int) -> int:
        """Note what a chunk claims; all tokens of the answer so far by it, 0 if it says none or
        more than were asked for: then the pieces count.

        `prompt_tokens` are those that were counted here.
        """
        self.told |= said.said
        if said.odd:
            self.odd.add("not a count")
        if said.completion > self.max_tokens:
            self.odd.add("longer than asked for")
        elif 0 < said.completion < self.counted + (self.held is not None):
            self.odd.add("shorter than delivered")
        if said.prompt > prompt_tokens:
            self.odd.add("a longer prompt than was sent")
        return said.completion if said.completion <= self.max_tokens else 0

    def take(self, text: str, measured: int) -> list[Delta]:
        """A piece has come; `measured` as `hear` gives it."""
        if self.exact:
            return self._feed(text, measured - self.counted)
        held, self.held = self.held, text
        return self._feed(held, 1) if held is not None else []

    def close(self, measured: int) -> list[Delta]:
        """The server has said all; `measured` as above."""
        held, self.held = self.held, None
        found = self._feed(held, measured - self.counted) if held is not None else []
        return [*found, rest] if (rest := self.stops.finish()) else found

    def _feed(self, text: str, tokens: int) -> list[Delta]:
        if self.counted >= self.max_tokens:
            self.overrun = True
        if self.stops.stopped or self.overrun:
            return []
        tokens = max(1, min(tokens, self.max_tokens - self.counted))
        self.counted += tokens
        # All but the last token of a piece count as tokens without text.
        for _ in range(tokens - 1):
            self.stops.feed("")
        delta = self.stops.feed(text)
        return [delta] if delta else []
