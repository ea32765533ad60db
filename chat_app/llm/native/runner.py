"""Continuous batching: who is computed in the next step, and what comes of it.

Answers that are being written go first, one token each; what is left of the step's budget reads
prompts, the oldest first. So a long prompt never holds up running answers for longer than one
piece of it; only many prompts at once do, which together are read much faster.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from chat_app.llm.backends.base import RanOutOfMemory, Step
from chat_app.llm.engine import Sampling
from chat_app.llm.native.cache import Cache, Table
from chat_app.llm.native.memory import Gathered, Memory, Piece, sent
from chat_app.llm.native.model import Model, Seen
from chat_app.llm.native.sampler import Choice, pick
from chat_app.llm.native.vision import Eyes, Look

if TYPE_CHECKING:
    from chat_app.llm.native.compiled import Compiled


@dataclass
class Answer:
    """One answer: `unread` tokens must still go through the model before the next is picked."""

    id: str
    table: Table
    unread: list[int]
    choice: Choice
    max_tokens: int
    made: int = 0
    images: list["Picture"] = field(default_factory=list)

    @property
    def reading(self) -> bool:
        return len(self.unread) > 1 or self.made == 0


@dataclass
class Picture:
    """An image of a prompt that is not read yet: from position `start` to before `end`.

    `features` are its tokens as the model's eyes made them, None while they have not.
    """

    start: int
    end: int
    look: Look
    features: Tensor | None = None


@dataclass
class Counts:
    """What was done since the start, in tokens and seconds."""

    decode_tokens: int = 0
    prefill_tokens: int = 0
    prefix_asked_tokens: int = 0
    prefix_hit_tokens: int = 0
    images: int = 0
    steps: int = 0
    busy_seconds: float = 0.0


class Runner:
    """All running answers of one model. Used by one thread."""

    def __init__(
        self,
        model: Model,
        cache: Cache,
        memory: Memory,
        *,
        ends: frozenset[int],
        chunk_tokens: int,
        quiet_chunk_tokens: int,
        eyes: Eyes | None = None,
        compiled: "Compiled | None" = None,
    ) -> None:
        """`chunk_tokens` of prompts a step while others are written, else the quiet number.

        While more wait than are written, as many pieces as wait. Few tokens are `compiled`, where
        that is to be had.

        An image is read in one piece, so the cache's `chunk_tokens` are no fewer than its tokens.
        """
        self._model = model
        self._cache = cache
        self._memory = memory
        self._ends = ends
        self._chunk = chunk_tokens
        self._quiet_chunk = quiet_chunk_tokens
        self._eyes = eyes
        self._compiled = compiled
        self._answers: dict[str, Answer] = {}
        self.counts = Counts()

    @property
    def running(self) -> int:
        """Answers that have not ended."""
        return len(self._answers)

    @property
    def held_blocks(self) -> int:
        """Blocks of both pools that running answers hold."""
        return self._cache.wide.held + self._cache.near.held

    def add(
        self,
        id: str,
        prompt: Sequence[int],
        sampling: Sampling,
        max_tokens: int,
        *,
        seed: int,
        scope: str,
        images: Mapping[int, str] | None = None,
    ) -> int | None:
        """Begin an answer. See Backend.add; `images` as for Seeing.show."""
        # The last token is written but never read, so it needs no place.
        table = self._cache.open(prompt, len(prompt) + max_tokens - 1, scope)
        if table is None:
            return None
        self._answers[id] = Answer(
            id=id,
            table=table,
            unread=list(prompt[table.length :]),
            choice=Choice(sampling, seed, prompt),
            max_tokens=max_tokens,
            images=pictures(prompt, images or {}, read=table.length),
        )
        self.counts.prefix_asked_tokens += len(prompt)
        self.counts.prefix_hit_tokens += table.length
        return table.length

    def drop(self, id: str) -> None:
        """Forget an answer; unknown ids are fine."""
        if answer := self._answers.pop(id, None):
            self._cache.close(answer.table)

    def step(self) -> list[Step]:
        """One pass of the model over the answers that are next."""
        if not self._answers:
            return []
        began = time.perf_counter()
        steps = self._pass()
        for step in steps:
            if step.finish is not None or step.error is not None:
                self.drop(step.id)
        self.counts.steps += 1
        self.counts.busy_seconds += time.perf_counter() - began
        return steps

    def _looked(self) -> list[Step]:
        """Let the model's eyes go on with the first image that somebody's prompt waits for."""
        waiting = (
            (answer, picture)
            for answer in self._answers.values()
            for picture in answer.images
            if picture.features is None
        )
        found = next(waiting, None)
        if found is None:
            return []
        answer, picture = found
        try:
            assert self._eyes is not None, "images come only to a model that sees"
            with torch.inference_mode():
                picture.features = self._eyes.go_on(picture.look)
        except (torch.OutOfMemoryError, MemoryError):
            return self._shed([answer])
        except torch.AcceleratorError:
            raise
        except Exception as error:
            return [Step(answer.id, error=error)]
        self.counts.images += picture.features is not None
        return []

    def _pass(self) -> list[Step]:
        if blind := self._looked():
            return blind
        chosen = self._chosen()
        if not chosen:
            return []
        try:
            with torch.inference_mode():
                return self._compute(chosen)
        except (torch.OutOfMemoryError, MemoryError):
            return self._shed([answer for answer, _ in chosen])
        except torch.AcceleratorError:
            # The GPU is lost to this process: it ends, and another one begins anew.
            raise
        except Exception as error:
            return [Step(answer.id, error=error) for answer, _ in chosen]

    def _chosen(self) -> list[tuple[Answer, int]]:
        """Who is in the next step, with how many tokens each; single tokens first."""
        writing = [answer for answer in self._answers.values() if not answer.reading]
        # Those of similar length are attended together.
        writing.sort(key=lambda answer: answer.table.length)
        chosen = [(answer, 1) for answer in writing]
        left = self._budget(len(writing), len(self._answers) - len(writing))
        pieces: list[tuple[Answer, int]] = []
        for answer in self._answers.values():
            if answer.reading and left > 0 and (count := cut(answer, left, alone=not pieces)):
                pieces.append((answer, count))
                left -= count
        chosen += [piece for piece in pieces if piece[1] == 1]
        return chosen + [piece for piece in pieces if piece[1] > 1]

    def _budget(self, writing: int, waiting: int) -> int:
        """How many tokens of prompts are read in the next step; so many answers wait for it."""
        if not writing:
            return self._quiet_chunk
        # When many come at once, the few who are first hold up the others by their steps.
        pieces = waiting if waiting > writing else 1
        return min(self._quiet_chunk, self._chunk * pieces)

    def _compute(self, chosen: Sequence[tuple[Answer, int]]) -> list[Step]:
        picking = [(answer, count) for answer, count in chosen if count == len(answer.unread)]
        parts = [self._logits(part) for part in self._parts(chosen)]
        next_tokens: list[int] = []
        if picking:
            next_tokens = pick(
                parts[0] if len(parts) == 1 else torch.cat(parts),
                [answer.choice for answer, _ in picking],
                [answer.table.length + count - 1 for answer, count in picking],
            ).tolist()
        for answer, count in chosen:
            self._cache.advance(answer.table, answer.unread[:count])
            answer.unread = answer.unread[count:]
            forget(answer)
        self.counts.decode_tokens += len(picking)
        self.counts.prefill_tokens += sum(count for _, count in chosen) - len(picking)
        return [
            self._wrote(answer, token)
            for (answer, _), token in zip(picking, next_tokens, strict=True)
        ]

    def _parts(self, chosen: Sequence[tuple[Answer, int]]) -> list[Sequence[tuple[Answer, int]]]:
        """What goes through the model together.

        Who is written to is computed in one way, to the last bit, whoever's prompt is read beside.
        """
        alone = sum(count == 1 for _, count in chosen)
        apart = self._compiled is not None and 0 < alone <= self._compiled.most_rows
        if not apart or self._few(chosen):
            return [chosen]
        return [part for part in (chosen[:alone], chosen[alone:]) if part]

    def _few(self, part: Sequence[tuple[Answer, int]]) -> bool:
        """Whether the compiled step has room for these tokens."""
        count = sum(count for _, count in part)
        return self._compiled is not None and count <= self._compiled.most_rows

    def _logits(self, part: Sequence[tuple[Answer, int]]) -> Tensor:
        """After the last token of everybody in this part who is read to the end."""
        tokens: list[int] = []
        positions: list[int] = []
        wanted, pieces = [], []
        for answer, count in part:
            table = answer.table
            self._cache.extend(table, count)
            pieces.append(Piece(table, table.length, count, spans(answer, count)))
            tokens += answer.unread[:count]
            positions += range(table.length, table.length + count)
            if count == len(answer.unread):
                wanted.append(len(tokens) - 1)
        device = self._memory.device
        seen = pictured(part, device)
        if self._compiled is not None and seen is None and self._few(part):
            return self._compiled.logits(tokens, pieces, wanted)
        return self._model.forward(
            torch.tensor(tokens if seen is None else words(tokens), device=device),
            torch.tensor(positions, device=device),
            Gathered(self._memory, pieces),
            torch.tensor(wanted, dtype=torch.long, device=device),
            seen=seen,
        )

    def _wrote(self, answer: Answer, token: int) -> Step:
        if token in self._ends:
            return Step(answer.id, finish="stop")
        answer.made += 1
        answer.unread = [token]
        answer.choice.saw(token)
        return Step(answer.id, [token], "length" if answer.made >= answer.max_tokens else None)

    def _shed(self, chosen: Sequence[Answer]) -> list[Step]:
        """Out of memory: the youngest answer ends, so that the others can go on."""
        if self._memory.device.type == "cuda":
            torch.cuda.empty_cache()
        ids = {answer.id for answer in chosen}
        youngest = [id for id in self._answers if id in ids][-1]
        return [Step(youngest, error=RanOutOfMemory())]

    def figures(self) -> dict[str, float]:
        """See Backend.figures."""
        counts, wide = self.counts, self._cache.wide
        return {
            "batch_answers": float(len(self._answers)),
            "kv_used_share": wide.held / max(1, wide.blocks - 1),
            "kv_bytes": float(self._memory.bytes),
            "weights_bytes": float(self._model.bytes + (self._eyes.bytes if self._eyes else 0)),
            "decode_tokens": float(counts.decode_tokens),
            "prefill_tokens": float(counts.prefill_tokens),
            "prefix_asked_tokens": float(counts.prefix_asked_tokens),
            "prefix_hit_tokens": float(counts.prefix_hit_tokens),
            "images": float(counts.images),
            "steps": float(counts.steps),
            "busy_seconds": counts.busy_seconds,
        }


def pictures(prompt: Sequence[int], images: Mapping[int, str], *, read: int) -> list[Picture]:
    """The images of a prompt, without those within its first `read` tokens."""
    found: list[Picture] = []
    before = 0
    for at, token in enumerate(prompt):
        if token < 0:
            if token != before:
                found.append(Picture(at, at, Look(images[token])))
            found[-1].end = at + 1
        before = token
    return [picture for picture in found if picture.end > read]


def cut(answer: Answer, most: int, *, alone: bool) -> int:
    """How many of the unread tokens can be read now, 0 to `most`; an image only as a whole.

    `alone` in its step, an image is read even if it is longer than `most`.
    """
    start = answer.table.length
    end = start + min(most, len(answer.unread))
    for picture in answer.images:
        if picture.start >= end:
            break
        if picture.features is None:
            return max(0, picture.start - start)
        if picture.end > end:
            if picture.start > start:
                return picture.start - start
            return picture.end - start if alone else 0
    return end - start


def spans(answer: Answer, count: int) -> tuple[tuple[int, int], ...]:
    """See Piece.images."""
    end = answer.table.length + count
    return tuple((each.start, each.end) for each in answer.images if each.start < end)


def words(tokens: Sequence[int]) -> list[int]:
    """The tokens with a number that exists in place of images'."""
    return [max(0, token) for token in tokens]


def pictured(parts: Sequence[tuple[Answer, int]], device: torch.device) -> Seen | None:
    """The images' rows of a step that reads so many tokens of these answers."""
    rows: list[int] = []
    features: list[Tensor] = []
    first = 0
    for answer, count in parts:
        start, end = answer.table.length, answer.table.length + count
        for picture in answer.images:
            if picture.start < end:
                assert picture.features is not None, "it is cut off before what nobody looked at"
                begin = max(start, picture.start)
                rows += range(first + begin - start, first + picture.end - start)
                features.append(picture.features[begin - picture.start :])
        first += count
    return Seen(sent(rows, torch.long, device), torch.cat(features)) if rows else None


def forget(answer: Answer) -> None:
    """Images that were read are in the cache."""
    if answer.images:
        read = answer.table.length
        answer.images = [picture for picture in answer.images if picture.end > read]
