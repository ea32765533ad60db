"""Picking the next token of every row at once: penalty, the likeliest, top-p and min-p, one draw.

Draws are a function of seed, position and token alone, so a text does not depend on who else is
in the batch, and nothing has to be carried from step to step.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from chat_app.llm.engine import Sampling

# Nothing beyond the likeliest few hundred tokens is ever drawn: a sort of the whole vocabulary
# would cost more than the model.
MOST_CANDIDATES = 256
GREEDY_BELOW = 1e-3
# How many numbers describe a choice to `draw`.
NUMBERS = 6


class Choice:
    """How one answer picks: its sampling in bounds, its seed, and the tokens it has seen."""

    def __init__(self, sampling: Sampling, seed: int, prompt: Sequence[int]) -> None:
        self.greedy = not sampling.temperature >= GREEDY_BELOW
        self.temperature = 1.0 if self.greedy else min(sampling.temperature, 100.0)
        wanted = sampling.top_k if sampling.top_k > 0 else MOST_CANDIDATES
        self.top_k = 1 if self.greedy else min(wanted, MOST_CANDIDATES)
        self.top_p = sampling.top_p if 0.0 < sampling.top_p <= 1.0 else 1.0
        self.min_p = sampling.min_p if 0.0 <= sampling.min_p <= 1.0 else 0.0
        penalty = sampling.repetition_penalty
        self.penalty = penalty if math.isfinite(penalty) and penalty > 0 else 1.0
        # Torch has no unsigned 64 bits.
        seed &= (1 << 64) - 1
        self.signed_seed = seed - (1 << 64) if seed >= 1 << 63 else seed
        # Below zero are images' tokens, which nobody writes.
        words = (token for token in prompt if token >= 0)
        self.seen = dict.fromkeys(words) if self.penalty != 1.0 else {}

    @property
    def numbers(self) -> list[float]:
        """As `draw` wants them: temperature, top_k, top_p, min_p, greedy, penalty."""
        return [
            self.temperature,
            self.top_k,
            self.top_p,
            self.min_p,
            float(self.greedy),
            self.penalty,
        ]

    def saw(self, token: int) -> None:
        """This token was written."""
        if self.penalty != 1.0:
            self.seen[token] = None


def pick(logits: Tensor, choices: Sequence[Choice], positions: Sequence[int]) -> Tensor:
    """The next token of each row, `[rows]`; `logits` `[rows, vocabulary]` may be changed."""
    for row, choice in enumerate(choices):
        if choice.penalty != 1.0:
            _punish(logits[row], choice)
    most = max(choice.top_k for choice in choices)
    device = logits.device
    return draw(
        logits,
        torch.tensor([choice.numbers for choice in choices], device=device),
        torch.tensor([choice.signed_seed for choice in choices], device=device),
        torch.tensor(positions, device=device),
        most,
    )


def draw(logits: Tensor, numbers: Tensor, seeds: Tensor, positions: Tensor, most: int) -> Tensor:
    """The next token of each row from tensors alone, `most` of them looked at in each row.

    `numbers` `[rows, NUMBERS]` are those of the choices. Nothing here waits for the device.
    """
    best, tokens = likeliest(logits, most)
    if most == 1:
        return tokens[:, 0]
    temperature, top_k, top_p, min_p, greedy, _ = numbers.unbind(1)
    scores = best.float() / temperature[:, None]
    ranks = torch.arange(best.shape[1], device=logits.device)
    scores = scores.masked_fill(ranks >= top_k[:, None], -math.inf)
    shares = scores.softmax(-1)
    before = shares.cumsum(-1) - shares
    kept = (before < top_p[:, None]) & (shares >= min_p[:, None] * shares[:, :1])
    drawn = scores.masked_fill(~kept, -math.inf) + gumbel(seeds, positions, tokens)
    won = drawn.argmax(-1).masked_fill(greedy > 0, 0)
    return tokens.gather(1, won[:, None])[:, 0]


def punished(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """The logits with each row's penalty `[rows]` on what it has seen, `[rows, vocabulary]`."""
    by = penalty[:, None].to(logits.dtype)
    return torch.where(seen, torch.where(logits < 0, logits * by, logits / by), logits)


def _punish(row: Tensor, choice: Choice) -> None:
    seen = torch.tensor(list(choice.seen), device=row.device)
    was = row.index_select(0, seen)
    row[seen] = torch.where(was < 0, was * choice.penalty, was / choice.penalty)


def likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row and their tokens, best first.

    Found by the maxima of groups: the largest values lie in the groups with the largest maxima.
    """
    rows, vocabulary = logits.shape
    size = math.gcd(vocabulary, 256)
    groups = vocabulary // size
    count = min(count, vocabulary)
    if size < 16 or groups <= count:
        return torch.topk(logits, count)
    grouped = logits.view(rows, groups, size)
    chosen = torch.topk(grouped.amax(-1), count).indices
    inside = grouped.gather(1, chosen[:, :, None].expand(-1, -1, size)).view(rows, -1)
    best, at = torch.topk(inside, count)
    group = chosen.gather(1, at // size)
    return best, group * size + at % size


def gumbel(seeds: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
    """Gumbel noise `[rows, tokens]` (the largest of score + noise is a draw by softmax).

    From a counter by the finalizer of MurmurHash3, twice: the same on every device.
    """
    mixed = _mix(seeds[:, None] ^ _mix(positions[:, None] * 0x9E3779B9 + 0x7F4A7C15))
    bits = _mix(mixed ^ (tokens * 0x85EBCA6B))
    uniform = ((bits >> 11) & ((1 << 53) - 1)).double().add(0.5) / (1 << 53)
    return -torch.log(-torch.log(uniform)).float()


def _mix(x: Tensor) -> Tensor:
    """64 bits in, 64 well mixed bits out. Shifts are logical, though the type is signed."""
    x = (x ^ ((x >> 33) & 0x7FFFFFFF)) * -0xAE502812AA7333
    x = (x ^ ((x >> 33) & 0x7FFFFFFF)) * -0x3B314601E57A13AD
    return x ^ ((x >> 33) & 0x7FFFFFFF)
