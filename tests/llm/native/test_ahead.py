"""Being a step ahead changes when things are learned, never what is written or who holds what."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from chat_app.llm.engine import Sampling
from chat_app.llm.native.ahead import Ahead
from chat_app.llm.native.graphs import BUCKETS, Decoder, Row
from tests.llm.native.conftest import GREEDY, Pair, finish, text

WAYS = [
    GREEDY,
    Sampling(temperature=0.0, repetition_penalty=1.3),
    Sampling(temperature=1.2, top_k=20, top_p=0.9, seed=1),
    Sampling(temperature=1.0, top_k=0, min_p=0.05, repetition_penalty=1.1, seed=2),
]


@pytest.fixture
def ahead(gemma: Pair) -> Pair:
    return replace(gemma, ahead=True)


def test_every_way_of_picking_is_that_of_the_plain_runner(gemma: Pair, ahead: Pair) -> None:
    """Rows join one by one, so each way meets other rows in its bucket."""
    made = []
    for pair in (gemma, ahead):
        runner = pair.runner()
        texts: dict[str, list[int]] = {}
        for index, way in enumerate(WAYS):
            runner.add(str(index), text(90 + index, 20), way, 25, seed=index, scope="")
            for step in runner.step():
                texts.setdefault(step.id, []).extend(step.tokens)
        for id, tokens in finish(runner).items():
            texts.setdefault(id, []).extend(tokens)
        made.append(texts)
    assert made[0] == made[1]
    assert made[0]["0"] != made[0]["1"]


def test_blocks_stay_held_until_the_step_that_writes_in_them_is_read(ahead: Pair) -> None:
    runner = cast(Ahead, ahead.runner())
    for id in ("gone", "stays"):
        runner.add(id, text(95, 20), GREEDY, 30, seed=1, scope=id)
    for _ in range(3):
        runner.step()
    held, free = runner.held_blocks, len(runner._free)
    runner.drop("gone")
    assert (runner.held_blocks, len(runner._free)) == (held, free)
    runner.step()
    assert runner.held_blocks < held
    assert len(runner._free) == free + 1


def test_the_token_after_the_end_is_counted_for_nobody(ahead: Pair) -> None:
    prompt = text(51, 10)
    expected = ahead.greedy(prompt, 8)
    end = expected[5]
    runner = ahead.runner(ends=frozenset({end}))
    runner.add("a", prompt, GREEDY, 30, seed=1, scope="")
    runner.add("b", text(52, 3), GREEDY, 30, seed=1, scope="")
    assert finish(runner)["a"] == expected[: expected.index(end)]


def test_no_more_answers_than_slots(ahead: Pair) -> None:
    runner = cast(Ahead, ahead.runner())
    slots = len(runner._free)
    for index in range(slots):
        assert runner.add(str(index), [1], GREEDY, 3, seed=1, scope="") is not None
    assert runner.add("more", [1], GREEDY, 3, seed=1, scope="") is None
    finish(runner)
    assert len(runner._free) == slots
    assert runner.add("more", [1], GREEDY, 3, seed=1, scope="") is not None


def test_padding_changes_nothing(ahead: Pair) -> None:
    """The same answer in every bucket, the rest of it empty rows."""
    cache = ahead.cache()
    decoder = Decoder(ahead.ours, ahead.memory(cache), slots=64, context_tokens=64)
    assert decoder.buckets == list(BUCKETS[: BUCKETS.index(64) + 1])
    row = Row(slot=3, position=0, wide=5, near=6, greedy=True)
    picked = set()
    with torch.inference_mode():
        for size in decoder.buckets:
            decoder._tokens[3] = 17
            fillers = [replace(row, slot=4 + at % 60, wide=20, near=20) for at in range(size - 1)]
            for rows in ([row], [row, *fillers]):
                decoder._tokens[3] = 17
                picked.add(decoder.step(rows).read()[0])
    assert picked == set(ahead.greedy([17], 1))


def test_a_lost_gpu_ends_the_process_and_not_one_answer(
    ahead: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = ahead.runner()
    runner.add("a", [1, 2], GREEDY, 3, seed=1, scope="")

    def lost(*arguments: object, **options: object) -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(ahead.ours, "forward", lost)
    with pytest.raises(torch.AcceleratorError):
        runner.step()


class NothingOfTheHost(TorchDispatchMode):
    """Fails on what a graph cannot record: reading values, sizes that depend on them, uploads."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "lift_fresh", "equal")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.FORBIDDEN, f"{name} in a step"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("greedy", [True, False])
def test_a_step_can_be_recorded(ahead: Pair, greedy: bool) -> None:
    cache = ahead.cache()
    decoder = Decoder(ahead.ours, ahead.memory(cache), slots=4, context_tokens=64)
    with torch.no_grad():
        decoder._step(4, greedy)
        with NothingOfTheHost():
            decoder._step(4, greedy)
        with pytest.raises(AssertionError, match="in a step"), NothingOfTheHost():
            decoder._tokens[0].item()


def test_a_graph_finds_its_tensors_where_they_were(ahead: Pair) -> None:
    """A replay reads and writes the memory that was there when it was recorded."""
    made: list[dict[str, list[int]]] = []
    for graphs in (False, True):
        runner = cast(Ahead, ahead.runner())
        decoder = runner._decoder
        if graphs:
            for size in decoder.buckets:
                for greedy in (True, False):
                    decoder._graphs[size, greedy] = cast(Any, _Recorded(decoder, size, greedy))
        for index, way in enumerate(WAYS):
            runner.add(str(index), text(60 + index, 9), way, 12, seed=index, scope="")
        made.append(finish(runner))
        if graphs:
            assert sum(graph.replays for graph in cast(Any, decoder._graphs.values())) == 11
    assert made[0] == made[1]


class _Recorded:
    """Stands for a CUDA graph: the step, bound to the tensors of the moment it was made."""

    def __init__(self, decoder: Decoder, size: int, greedy: bool) -> None:
        self._decoder, self._what = decoder, (size, greedy)
        self._places = self._now()
        self.replays = 0

    def _now(self) -> list[int]:
        memory, values = self._decoder._memory, vars(self._decoder).values()
        tensors = [value for value in values if torch.is_tensor(value)]
        return [each.data_ptr() for each in (*tensors, *memory.keys, *memory.values)]

    def replay(self) -> None:
        assert self._now() == self._places
        self.replays += 1
        self._decoder._step(*self._what)
