"""Picking tokens: the candidates, the bounds, the draw."""

import math

import pytest
import torch

from chat_app.llm.engine import Sampling
from chat_app.llm.native.sampler import Choice, gumbel, likeliest, pick

WARM = Sampling(temperature=1.0, top_p=1.0, top_k=0)


def one(logits: list[float], sampling: Sampling, *, seed: int = 1, position: int = 0) -> int:
    choice = Choice(sampling, seed, [])
    return int(pick(torch.tensor([logits]), [choice], [position])[0])


def draws(logits: list[float], sampling: Sampling, count: int = 300) -> set[int]:
    return {one(logits, sampling, seed=seed) for seed in range(count)}


@pytest.mark.parametrize("vocabulary", [512, 49152, 262144, 262208, 1000, 997])
@pytest.mark.parametrize("count", [1, 2, 64, 256])
def test_candidates_are_the_largest(vocabulary: int, count: int) -> None:
    logits = torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(1))
    # Large values side by side, which share a group.
    logits[0, 100:140] += 20
    best, tokens = likeliest(logits, count)
    expected = torch.topk(logits, count)
    assert torch.equal(best, expected.values)
    assert torch.equal(logits.gather(1, tokens), best)


def test_draws_follow_the_probabilities() -> None:
    """Pearson's chi-squared over 20,000 draws; its 99.9 % bound for 4 degrees is 18.5."""
    shares = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05])
    count = 20_000
    logits = shares.log().repeat(count, 1)
    choices = [Choice(WARM, 12345, [])] * count
    picked = pick(logits, choices, list(range(count)))
    seen = torch.bincount(picked, minlength=5)
    expected = shares * count
    assert float(((seen - expected) ** 2 / expected).sum()) < 18.5


def test_noise_of_neighbours_is_independent() -> None:
    seeds, positions, tokens = torch.arange(200), torch.arange(200), torch.arange(50)
    noise = gumbel(seeds, positions, tokens.expand(200, -1))
    assert abs(float(noise.mean()) - 0.5772) < 0.05
    assert abs(float(noise.var()) - math.pi**2 / 6) < 0.1
    matrix = torch.corrcoef(noise.T)
    assert float((matrix - torch.eye(50)).abs().max()) < 0.35


def test_the_bounds() -> None:
    logits = [4.0, 3.0, 2.0, 1.0, 0.0, -1.0]
    assert draws(logits, Sampling(temperature=0.0)) == {0}
    assert draws(logits, Sampling(temperature=3.0, top_k=1, top_p=1.0)) == {0}
    assert draws(logits, Sampling(temperature=3.0, top_k=2, top_p=1.0)) == {0, 1}
    assert draws(logits, Sampling(temperature=1.0, top_k=0, top_p=0.3)) == {0}
    assert draws(logits, Sampling(temperature=1.0, top_k=0, top_p=0.7)) == {0, 1}
    assert draws(logits, Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.3)) == {0, 1}
    assert draws(logits, Sampling(temperature=50.0, top_k=0, top_p=1.0)) == {0, 1, 2, 3, 4, 5}


def test_a_penalty_for_what_was_seen() -> None:
    logits = torch.tensor([[2.0, 1.9, -1.0]])
    greedy = Sampling(temperature=0.0, repetition_penalty=1.5)
    choice = Choice(greedy, 1, [0])
    assert int(pick(logits.clone(), [choice], [0])[0]) == 1
    choice.saw(1)
    assert int(pick(logits.clone(), [choice], [0])[0]) == 0
    bad = torch.tensor([[-1.0, -1.1]])
    assert int(pick(bad, [Choice(greedy, 1, [0])], [0])[0]) == 1


def test_rows_keep_their_own_ways() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]]).repeat(4, 1)
    ways = [
        Sampling(temperature=0.0),
        WARM,
        Sampling(temperature=0.0, repetition_penalty=9.0),
        Sampling(temperature=9.0, top_k=1),
    ]
    choices = [Choice(way, 3, [2]) for way in ways]
    together = pick(logits.clone(), choices, [5, 6, 7, 8])
    alone = [
        int(pick(logits[:1].clone(), [choice], [position])[0])
        for choice, position in zip(choices, (5, 6, 7, 8), strict=True)
    ]
    assert together.tolist() == alone
    assert together.tolist()[0] == 2
    assert together.tolist()[2] == 1


@pytest.mark.parametrize(
    "odd",
    [
        Sampling(temperature=math.nan),
        Sampling(temperature=math.inf),
        Sampling(temperature=-1.0),
        Sampling(temperature=1e9, top_k=-3, seed=-1),
        Sampling(temperature=1.0, top_p=0.0),
        Sampling(temperature=1.0, top_p=math.nan),
        Sampling(temperature=1.0, top_k=10**9),
        Sampling(temperature=1.0, min_p=7.0),
        Sampling(temperature=1.0, repetition_penalty=0.0),
        Sampling(temperature=1.0, repetition_penalty=math.nan),
    ],
)
def test_odd_values_pick_a_token_all_the_same(odd: Sampling) -> None:
    logits = torch.randn(1, 300)
    assert 0 <= int(pick(logits, [Choice(odd, 2**80 - 3, [1, 2])], [0])[0]) < 300
