"""A runner that is one step ahead: the next step is on its way before the last one is read.

So the GPU never waits for the CPU. That an answer has ended is learned one step late: the token
written for it meanwhile is dropped and counted for nobody, and its blocks are held until then.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from chat_app.llm.backends.base import Step
from chat_app.llm.engine import Sampling
from chat_app.llm.native.cache import BLOCK_TOKENS, Cache
from chat_app.llm.native.graphs import Decoder, Flight, Row
from chat_app.llm.native.memory import Gathered, Memory, Piece, sent
from chat_app.llm.native.model import Model
from chat_app.llm.native.runner import Answer, Runner, cut, forget, pictured, spans, words
from chat_app.llm.native.vision import Eyes


@dataclass
class _Seat:
    """An answer in its slot. `asked` tokens were begun, `flying` of them are not yet read."""

    answer: Answer
    slot: int
    asked: int = 0
    flying: int = 0
    over: bool = False


@dataclass
class _Step:
    """What was begun together: tokens of decoding first, then first tokens."""

    flights: list[Flight]
    decoding: list[_Seat]
    beginning: list[_Seat]


class Ahead(Runner):
    """See Runner."""

    def __init__(
        self,
        model: Model,
        cache: Cache,
        memory: Memory,
        *,
        ends: frozenset[int],
        chunk_tokens: int,
        quiet_chunk_tokens: int,
        decoder: Decoder,
        eyes: Eyes | None = None,
    ) -> None:
        super().__init__(
            model,
            cache,
            memory,
            ends=ends,
            chunk_tokens=chunk_tokens,
            quiet_chunk_tokens=quiet_chunk_tokens,
            eyes=eyes,
        )
        self._decoder = decoder
        self._free = list(range(decoder.slots))
        self._seats: dict[str, _Seat] = {}
        self._begun: _Step | None = None

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
        """Begin an answer. See Backend.add."""
        if not self._free:
            return None
        found = super().add(id, prompt, sampling, max_tokens, seed=seed, scope=scope, images=images)
        if found is not None:
            self._seats[id] = _Seat(self._answers[id], self._free.pop())
        return found

    def drop(self, id: str) -> None:
        """Forget an answer; unknown ids are fine."""
        if self._answers.pop(id, None) is None:
            return
        seat = self._seats.pop(id)
        seat.over = True
        if not seat.flying:
            self._leave(seat)
        if not self._answers and self._begun is not None:
            self._read(self._begun)
            self._begun = None

    def _leave(self, seat: _Seat) -> None:
        self._cache.close(seat.answer.table)
        self._free.append(seat.slot)

    def _pass(self) -> list[Step]:
        last, self._begun = self._begun, None
        writing = [
            seat
            for seat in self._seats.values()
            if seat.asked and seat.asked < seat.answer.max_tokens
        ]
        step = _Step([], [], [])
        errors = self._try(lambda: self._decode(step, writing), writing)
        blind = self._looked()
        for each in blind:
            self._seats[each.id].over = True
        errors += blind
        waiting = sum(not (seat.asked or seat.over) for seat in self._seats.values())
        pieces = self._pieces(self._budget(len(writing), waiting))
        errors += self._try(lambda: self._prefill(step, pieces), [seat for seat, _ in pieces])
        if step.flights:
            self._begun = step
        return (self._read(last) if last is not None else []) + errors

    def _try(self, work: Callable[[], None], seats: Sequence[_Seat]) -> list[Step]:
        if not seats:
            return []
        try:
            with torch.inference_mode():
                work()
        except (torch.OutOfMemoryError, MemoryError):
            return self._shed([seat.answer for seat in seats])
        except torch.AcceleratorError:
            raise
        except Exception as error:
            return [Step(seat.answer.id, error=error) for seat in seats]
        return []

    def _decode(self, step: _Step, seats: list[_Seat]) -> None:
        rows = []
        for seat in seats:
            # What is flying and not the first token is still to be counted into the table.
            position = seat.answer.table.length + seat.flying - (seat.flying == seat.asked)
            rows.append(self._row(seat, position))
        step.flights.append(self._decoder.step(rows))
        step.decoding = seats
        for seat in seats:
            seat.asked += 1
            seat.flying += 1
        self.counts.decode_tokens += len(seats)

    def _row(self, seat: _Seat, position: int) -> Row:
        table, choice = seat.answer.table, seat.answer.choice
        self._cache.extend(table, position + 1 - table.length)
        block = position // BLOCK_TOKENS
        return Row(
            slot=seat.slot,
            position=position,
            wide=table.wide[block],
            near=table.near[block] if table.near else 0,
            greedy=choice.greedy and choice.penalty == 1.0,
        )

    def _pieces(self, left: int) -> list[tuple[_Seat, int]]:
        """Who reads how much of the prompt now; single tokens first, as attention wants them."""
        pieces: list[tuple[_Seat, int]] = []
        for seat in self._seats.values():
            if seat.asked or seat.over or left <= 0:
                continue
            if count := cut(seat.answer, left, alone=not pieces):
                pieces.append((seat, count))
                left -= count
        return sorted(pieces, key=lambda piece: piece[1] > 1)

    def _prefill(self, step: _Step, pieces: list[tuple[_Seat, int]]) -> None:
        tokens: list[int] = []
        positions: list[int] = []
        parts, ends, done = [], [], []
        for seat, count in pieces:
            answer, table = seat.answer, seat.answer.table
            self._cache.extend(table, count)
            parts.append(Piece(table, table.length, count, spans(answer, count)))
            tokens += answer.unread[:count]
            positions += range(table.length, table.length + count)
            if count == len(answer.unread):
                done.append(seat)
                ends.append(len(tokens) - 1)
        device = self._memory.device
        seen = pictured([(seat.answer, count) for seat, count in pieces], device)
        logits = self._model.forward(
            sent(tokens if seen is None else words(tokens), torch.long, device),
            sent(positions, torch.long, device),
            Gathered(self._memory, parts),
            sent(ends, torch.long, device),
            seen=seen,
        )
        for seat in done:
            self._decoder.seat(seat.slot, seat.answer.table, seat.answer.choice)
        flight = Flight(None, device)
        if done:
            flight = self._decoder.first(
                logits, [seat.slot for seat in done], [positions[end] for end in ends]
            )
        # Only now: what failed above has left the table as it was.
        for seat, count in pieces:
            self._cache.advance(seat.answer.table, seat.answer.unread[:count])
            seat.answer.unread = seat.answer.unread[count:]
            forget(seat.answer)
        for seat in done:
            seat.asked = seat.flying = 1
        step.flights.append(flight)
        step.beginning = done
        self.counts.prefill_tokens += len(tokens) - len(done)
        self.counts.decode_tokens += len(done)

    def _read(self, step: _Step) -> list[Step]:
        """What came of a step, once the device is done with it."""
        tokens = [token for flight in step.flights for token in flight.read()]
        seats = step.decoding + step.beginning
        steps = []
        for number, (seat, token) in enumerate(zip(seats, tokens, strict=True)):
            seat.flying -= 1
            if seat.over:
                if not seat.flying:
                    self._leave(seat)
                continue
            if number < len(step.decoding):
                self._cache.advance(seat.answer.table, seat.answer.unread)
            steps.append(self._wrote(seat.answer, token))
        return steps
