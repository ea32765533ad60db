"""Continuous batching: who is computed in the next step, and what comes of it.

Answers that are being written go first, one token each; what is left of the step's budget reads
prompts, the oldest first. So a long prompt never holds up running answers for longer than one
piece of it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from chat_app.llm.backends.base import RanOutOfMemory, Step
from chat_app.llm.engine import Sampling
from chat_app.llm.native.cache import Cache, Table
from chat_app.llm.native.memory import Gathered, Memory, Piece, alike
from chat_app.llm.native.model import Model
from chat_app.llm.native.sampler import Choice, pick


@dataclass
class Answer:
    """One answer: `unread` tokens must still go through the model before the next is picked."""

    id: str
    table: Table
    unread: list[int]
    choice: Choice
    max_tokens: int
    made: int = 0

    @property
    def reading(self) -> bool:
        return len(self.unread) > 1 or self.made == 0


@dataclass
class Counts:
    """What was done since the start, in tokens and seconds."""

    decode_tokens: int = 0
    prefill_tokens: int = 0
    prefix_asked_tokens: int = 0
    prefix_hit_tokens: int = 0
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
    ) -> None:
        """`chunk_tokens` of prompts a step while others are written, else the quiet number."""
        self._model = model
        self._cache = cache
        self._memory = memory
        self._ends = ends
        self._chunk = chunk_tokens
        self._quiet_chunk = quiet_chunk_tokens
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
    ) -> int | None:
        """Begin an answer. See Backend.add."""
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

    def _pass(self) -> list[Step]:
        chosen = self._chosen()
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
        writing.sort(key=lambda answer: alike(answer.table.length))
        chosen = [(answer, 1) for answer in writing]
        left = self._chunk if writing else self._quiet_chunk
        pieces = []
        for answer in self._answers.values():
            if answer.reading and left:
                count = min(left, len(answer.unread))
                pieces.append((answer, count))
                left -= count
        chosen += [piece for piece in pieces if piece[1] == 1]
        return chosen + [piece for piece in pieces if piece[1] > 1]

    def _compute(self, chosen: Sequence[tuple[Answer, int]]) -> list[Step]:
        tokens: list[int] = []
        positions: list[int] = []
        ends, pieces = [], []
        for answer, count in chosen:
            table = answer.table
            self._cache.extend(table, count)
            pieces.append(Piece(table, table.length, count))
            tokens += answer.unread[:count]
            positions += range(table.length, table.length + count)
            ends.append(len(tokens) - 1)
        picking = [
            (answer, end)
            for (answer, count), end in zip(chosen, ends, strict=True)
            if count == len(answer.unread)
        ]
        device = self._memory.device
        logits = self._model.forward(
            torch.tensor(tokens, device=device),
            torch.tensor(positions, device=device),
            Gathered(self._memory, pieces),
            torch.tensor([end for _, end in picking], dtype=torch.long, device=device),
        )
        next_tokens: list[int] = []
        if picking:
            next_tokens = pick(
                logits,
                [answer.choice for answer, _ in picking],
                [positions[end] for _, end in picking],
            ).tolist()
        for answer, count in chosen:
            self._cache.advance(answer.table, answer.unread[:count])
            answer.unread = answer.unread[count:]
        self.counts.decode_tokens += len(picking)
        self.counts.prefill_tokens += len(tokens) - len(picking)
        return [
            self._wrote(answer, token)
            for (answer, _), token in zip(picking, next_tokens, strict=True)
        ]

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
            "weights_bytes": float(self._model.bytes),
            "decode_tokens": float(counts.decode_tokens),
            "prefill_tokens": float(counts.prefill_tokens),
            "prefix_asked_tokens": float(counts.prefix_asked_tokens),
            "prefix_hit_tokens": float(counts.prefix_hit_tokens),
            "steps": float(counts.steps),
            "busy_seconds": counts.busy_seconds,
        }
