"""Batching: everybody gets exactly their own text, whoever else is there, and nothing leaks."""

import itertools
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chat_app.llm.backends.base import RanOutOfMemory, Step
from chat_app.llm.engine import Sampling
from chat_app.llm.native.runner import Runner
from tests.llm.native.conftest import GREEDY, Pair, finish, text

_SEEDS = st.integers(80, 82)


@pytest.fixture(params=[False, True], ids=["stepwise", "ahead"], scope="session")
def ahead(request: pytest.FixtureRequest) -> bool:
    """Whether a step begins before the last one is read, as on a GPU."""
    return bool(request.param)


@pytest.fixture(scope="session")
def pair(pair: Pair, ahead: bool) -> Pair:
    return replace(pair, ahead=ahead)


@pytest.fixture(scope="session")
def gemma(gemma: Pair, ahead: bool) -> Pair:
    return replace(gemma, ahead=ahead)


def add(
    runner: Runner,
    id: str,
    prompt: list[int],
    max_tokens: int,
    sampling: Sampling = GREEDY,
    *,
    seed: int = 1,
    scope: str = "",
) -> int | None:
    return runner.add(id, prompt, sampling, max_tokens, seed=seed, scope=scope)


def empty(runner: Runner) -> bool:
    return not runner.running and not runner.held_blocks


def test_greedy_texts_are_those_of_transformers(pair: Pair) -> None:
    """Prompts of all lengths arrive one after another, far beyond chunk and window."""
    runner = pair.runner(chunk=8, quiet=16)
    prompts = [text(30 + index, length) for index, length in enumerate((3, 40, 17, 90, 1))]
    made: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        assert add(runner, str(index), prompt, 12) is not None
        for _ in range(2):
            for step in runner.step():
                made.setdefault(step.id, []).extend(step.tokens)
    for id, tokens in finish(runner).items():
        made.setdefault(id, []).extend(tokens)
    for index, prompt in enumerate(prompts):
        assert made[str(index)] == pair.greedy(prompt, 12), f"prompt {index}"
    assert empty(runner)


def test_a_second_turn_is_the_same_with_and_without_the_cache(pair: Pair) -> None:
    runner = pair.runner()
    first = text(40, 70)
    assert add(runner, "a", first, 20) == 0
    answer = finish(runner)["a"]
    second = first + answer + text(41, 9)
    # The last token was never read; the block it would have filled is not there.
    assert add(runner, "b", second, 10) == (70 + 19) // 16 * 16
    assert finish(runner)["b"] == pair.greedy(second, 10)
    assert empty(runner)


def test_nobody_finds_the_prefix_of_another_scope(gemma: Pair) -> None:
    runner = gemma.runner()
    prompt = text(42, 64)
    for scope, found in (("ann", 0), ("bob", 0), ("ann", 48), ("bob", 48), ("", 0)):
        assert add(runner, "x", prompt, 2, scope=scope) == found, scope
        finish(runner)


def test_running_answers_wait_for_no_more_than_a_piece_of_a_prompt(gemma: Pair) -> None:
    runner = gemma.runner(chunk=8, quiet=32)
    add(runner, "writing", text(43, 4), 60)
    runner.step()
    add(runner, "reading", text(44, 100), 1)
    while True:
        read = runner.counts.prefill_tokens
        steps = runner.step()
        assert runner.counts.prefill_tokens - read <= 8
        assert "writing" in {step.id for step in steps}
        if "reading" in {step.id for step in steps}:
            break
    runner.drop("writing")
    add(runner, "quiet", text(45, 70), 1)
    read = runner.counts.prefill_tokens
    runner.step()
    assert runner.counts.prefill_tokens - read == 32


def test_many_who_wait_are_read_together(gemma: Pair) -> None:
    """One piece of each beside the few who write, no more than the quiet number at once."""
    runner = gemma.runner(chunk=8, quiet=32)
    add(runner, "writing", text(43, 4), 60)
    runner.step()
    read = [runner.counts.prefill_tokens]
    for number in range(9):
        add(runner, str(number), text(60 + number, 9), 40)
    while runner.counts.prefill_tokens - read[0] < 9 * 8:
        runner.step()
        read.append(runner.counts.prefill_tokens)
    sizes = [after - before for before, after in itertools.pairwise(read)]
    assert 32 - 9 < sizes[0] <= 32
    assert sizes[-1] <= 8, "the last ones are read beside many"
    assert all(0 < size <= 32 for size in sizes)


def test_dropped_answers_leave_nothing_at_any_stage(pair: Pair) -> None:
    for steps in range(7):
        runner = pair.runner(chunk=8, quiet=8)
        add(runner, "gone", text(46, 40), 9)
        add(runner, "stays", text(47, 5), 9)
        for _ in range(steps):
            runner.step()
        runner.drop("gone")
        runner.drop("gone")
        finish(runner)
        assert empty(runner)


def test_what_does_not_fit_waits_and_then_fits(gemma: Pair) -> None:
    runner = gemma.runner(tokens=128)
    assert add(runner, "a", text(48, 60), 21) == 0
    assert add(runner, "b", text(49, 60), 21) is None
    assert add(runner, "c", text(50, 20), 20) == 0
    finish(runner)
    assert add(runner, "b", text(49, 60), 21) == 0
    assert len(finish(runner)["b"]) == 21
    assert empty(runner)


def test_an_end_token_ends_and_is_no_text(gemma: Pair) -> None:
    prompt = text(51, 10)
    expected = gemma.greedy(prompt, 6)
    end = expected[4]
    runner = gemma.runner(ends=frozenset({end}))
    add(runner, "a", prompt, 20)
    seen, finishes = [], []
    while runner.running:
        for step in runner.step():
            seen += step.tokens
            finishes.append(step.finish)
    assert seen == expected[: expected.index(end)]
    assert finishes[-1] == "stop"


def test_a_seed_repeats_a_text_whoever_is_there(gemma: Pair) -> None:
    warm = Sampling(temperature=1.5, top_k=50, top_p=0.95)
    prompt = text(52, 20)
    alone = gemma.runner()
    add(alone, "a", prompt, 20, warm, seed=5)
    expected = finish(alone)["a"]
    crowd = gemma.runner()
    for index in range(4):
        add(crowd, f"other{index}", text(60 + index, 11), 25, warm, seed=index)
    add(crowd, "again", prompt, 20, warm, seed=5)
    add(crowd, "else", prompt, 20, warm, seed=6)
    made = finish(crowd)
    assert made["again"] == expected
    assert made["else"] != expected


def test_when_memory_runs_out_one_answer_ends_and_the_others_go_on(
    gemma: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = gemma.runner()
    prompts = {"old": text(70, 9), "young": text(71, 9)}
    for id, prompt in prompts.items():
        add(runner, id, prompt, 10)
    made: dict[str, list[int]] = {id: [] for id in prompts}
    collect(runner, made)
    forward, failing = gemma.ours.forward, iter((True, False))

    def fail_once(*arguments: object, **options: object) -> torch.Tensor:
        if next(failing, False):
            raise torch.OutOfMemoryError("no memory")
        return forward(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(gemma.ours, "forward", fail_once)
    (failed,) = collect(runner, made)
    assert failed.id == "young"
    assert isinstance(failed.error, RanOutOfMemory)
    rest = finish(runner)["old"]
    assert made["old"] + rest == gemma.greedy(prompts["old"], 10)
    assert empty(runner)


def collect(runner: Runner, made: dict[str, list[int]]) -> list[Step]:
    """One step; its tokens go to their texts, its failures are returned."""
    steps = runner.step()
    for step in steps:
        made[step.id] += step.tokens
    return [step for step in steps if step.error is not None]


@dataclass(frozen=True)
class Visit:
    """An answer of the traffic: begun `gap` steps after the one before it, perhaps dropped."""

    prompt: list[int]
    limit: int
    scope: str
    gap: int
    dropped_after: int | None


VISITS = st.lists(
    st.builds(
        Visit,
        prompt=st.builds(lambda seed, size: text(seed, 64)[:size], _SEEDS, st.integers(1, 64)),
        limit=st.integers(1, 12),
        scope=st.sampled_from(["ann", "bob"]),
        gap=st.integers(0, 6),
        dropped_after=st.none() | st.integers(0, 9),
    ),
    min_size=1,
    max_size=8,
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(visits=VISITS, chunk=st.sampled_from([4, 8, 16]), quiet=st.sampled_from([16, 32]))
def test_any_traffic_ends_exactly_and_leaks_nothing(
    gemma: Pair, visits: list[Visit], chunk: int, quiet: int
) -> None:
    """Prompts that begin alike, scopes, drops and a cache that is too small for all."""
    runner = gemma.runner(chunk=chunk, quiet=quiet, tokens=224)
    waiting = list(enumerate(visits))
    made: dict[int, list[int]] = {number: [] for number, _ in waiting}
    drops: dict[int, int] = {}
    due = 0
    for now in range(1000):
        while waiting and (now >= due or not runner.running):
            number, visit = waiting[0]
            if add(runner, str(number), visit.prompt, visit.limit, scope=visit.scope) is None:
                assert runner.running, "an empty engine has room for each of these"
                break
            waiting.pop(0)
            due = now + visit.gap
            if visit.dropped_after is not None:
                drops[number] = now + visit.dropped_after
        for number in [number for number, at in drops.items() if at == now]:
            runner.drop(str(number))
        for step in runner.step():
            assert step.error is None
            made[int(step.id)] += step.tokens
        if not waiting and not runner.running:
            break
    assert not waiting
    assert empty(runner)
    for number, visit in enumerate(visits):
        expected = _alone(gemma, visit.prompt, visit.limit)
        if number in drops:
            expected = expected[: len(made[number])]
        assert made[number] == expected


_texts: dict[tuple[int, ...], list[int]] = {}


def _alone(pair: Pair, prompt: list[int], limit: int) -> list[int]:
    if tuple(prompt) not in _texts:
        runner = pair.runner()
        add(runner, "a", prompt, 12)
        _texts[tuple(prompt)] = finish(runner)["a"]
    return _texts[tuple(prompt)][:limit]
