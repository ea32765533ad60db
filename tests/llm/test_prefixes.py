"""What is said to be cached is never more than the pipeline still has."""

import random
from collections import OrderedDict
from itertools import pairwise

import pytest

from chat_app.llm.backends.prefixes import BLOCK_TOKENS, Prefixes


class Pool:
    """The pipeline's pool as its sources describe it: blocks by content, oldest free one goes."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.users: dict[object, int] = {}
        self.free: OrderedDict[object, None] = OrderedDict()

    def begin(self, keys: list[object]) -> int:
        found = 0
        for key in keys:
            if key not in self.users and key not in self.free:
                break
            found += 1
        for key in keys:
            if key in self.free:
                del self.free[key]
        for key in keys:
            if key not in self.users and len(self.users) + len(self.free) >= self.blocks:
                self.free.popitem(last=False)
            self.users[key] = self.users.get(key, 0) + 1
        return found

    def end(self, keys: list[object]) -> None:
        for key in keys:
            self.users[key] -= 1
            if not self.users[key]:
                del self.users[key]
                self.free[key] = None


def blocks_of(number: int, tokens: list[int]) -> list[object]:
    """One key for each block, the last one perhaps partly filled and nobody else's."""
    ends = [*range(0, len(tokens), BLOCK_TOKENS), len(tokens)]
    return [(number, tuple(tokens[:end])) for _, end in pairwise(ends)]


@pytest.mark.parametrize("seed", range(20))
def test_never_more_than_the_truth(seed: int) -> None:
    draw = random.Random(seed)
    blocks = draw.choice([12, 30, 80])
    record, pool = Prefixes(blocks), Pool(blocks)
    running: dict[str, tuple[list[object], list[int]]] = {}
    past = [[draw.randrange(9) for _ in range(draw.randrange(40, 200))] for _ in range(4)]
    said = 0
    for turn in range(300):
        if running and draw.random() < 0.45:
            id = draw.choice(sorted(running))
            keys, answer = running.pop(id)
            pool.end(keys)
            record.end(id, answer)
            record.stepped()
            continue
        start = draw.choice(past)
        prompt = start[: draw.randrange(1, len(start) + 1)] + [draw.randrange(9)] * 3
        answer = [draw.randrange(9) for _ in range(draw.randrange(1, 60))]
        scope = draw.choice("ab")
        number = record.number(scope)
        cached = record.begin(str(turn), scope, prompt, len(answer))
        if cached is None:
            continue
        keys = blocks_of(number, [*prompt, *answer[:-1]])
        truth = pool.begin(keys) * BLOCK_TOKENS
        assert cached <= min(truth, len(prompt) - 1)
        said += cached
        record.stepped()
        record.was_read(str(turn))
        running[str(turn)] = keys, answer
        past[draw.randrange(len(past))] = prompt + answer
    assert said or blocks == 12


def test_there_is_room_until_all_blocks_are_promised() -> None:
    record = Prefixes(10)
    assert record.begin("a", "", [1] * 100, 60) == 0
    assert record.begin("b", "", [1] * 100, 60) is None
    record.end("a", [])
    assert record.begin("b", "", [1] * 100, 60) is None, "its blocks leave with the next step"
    record.stepped()
    assert record.begin("b", "", [1] * 100, 60) == 0


def test_no_two_scopes_have_one_number() -> None:
    record = Prefixes(10)
    assert len({record.number(f"org_{number}") for number in range(1000)}) == 1000
    assert record.number("org_7") == record.number("org_7")


def test_a_prompt_that_was_not_read_to_its_end_is_not_used_again() -> None:
    record = Prefixes(100)
    before = record.number("a")
    record.begin("1", "a", [1] * 100, 10)
    record.stepped()
    record.end("1", [])
    assert record.number("a") != before


def test_one_that_never_began_changes_nothing() -> None:
    record = Prefixes(100)
    before = record.number("a")
    record.begin("1", "a", [1] * 100, 10)
    record.end("1", [])
    assert record.number("a") == before
