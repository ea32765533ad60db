"""Our forward pass against transformers': the same numbers, in every mix of rows."""

import itertools
from pathlib import Path

import pytest
import torch

from chat_app.llm.native import memory, plain, shape
from chat_app.llm.native.cache import Cache, Table
from chat_app.llm.native.int8 import all_logits
from chat_app.llm.native.memory import Gathered, Memory, Piece
from tests.llm.native.conftest import Pair, make, text

CLOSE = 1e-4


class Stepper:
    """Steps over one cache, pieces named by hand."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.cache: Cache = pair.cache()
        self.memory: Memory = pair.memory(self.cache)

    def open(self, tokens: list[int]) -> Table:
        table = self.cache.open(tokens, 400, "")
        assert table is not None
        return table

    @torch.inference_mode()
    def step(self, *pieces: tuple[Table, list[int]]) -> torch.Tensor:
        """Logits after every token of these pieces."""
        made = []
        for table, tokens in pieces:
            self.cache.extend(table, len(tokens))
            made.append(Piece(table, table.length, len(tokens)))
        positions = [at for piece in made for at in range(piece.start, piece.start + piece.count)]
        out = self.pair.ours.forward(
            torch.tensor([token for _, tokens in pieces for token in tokens]),
            torch.tensor(positions),
            Gathered(self.memory, made),
            torch.arange(len(positions)),
        )
        for table, tokens in pieces:
            self.cache.advance(table, tokens)
        return out


def test_a_whole_prompt_far_beyond_the_window(pair: Pair) -> None:
    tokens = text(1, 60)
    assert torch.allclose(all_logits(pair.ours, tokens), pair.logits(tokens), atol=CLOSE)


def assert_same_in_pieces(pair: Pair, tokens: list[int], cuts: tuple[int, ...]) -> None:
    at = Stepper(pair)
    table = at.open(tokens)
    ends = [0, *cuts, len(tokens)]
    parts = [at.step((table, tokens[start:end])) for start, end in itertools.pairwise(ends)]
    assert torch.allclose(torch.cat(parts), pair.logits(tokens), atol=CLOSE)


@pytest.mark.parametrize("cuts", [(), (100,), (5, 262)])
def test_prompts_that_are_attended_in_parts(pair: Pair, cuts: tuple[int, ...]) -> None:
    assert_same_in_pieces(pair, text(5, 391), cuts)


@pytest.mark.parametrize("bfloat16", [True, False])
def test_attention_by_products_is_that_of_pytorch(
    monkeypatch: pytest.MonkeyPatch, *, bfloat16: bool
) -> None:
    """In bfloat16, also on a processor that has no instructions for it."""
    monkeypatch.setattr(memory, "_BFLOAT16", bfloat16)
    numbers = torch.Generator().manual_seed(6)
    query = torch.randn(3, 2, 8, 32, generator=numbers).bfloat16()
    keys, values = torch.randn(2, 3, 2, 40, 32, generator=numbers).bfloat16()
    mask = torch.zeros(3, 1, 4, 40).masked_fill_(torch.arange(40) > 30, -torch.inf)
    got = memory._products(query, keys, values, mask, 0.2).float()
    exact = memory._fused(query.float(), keys.float(), values.float(), mask.repeat(1, 1, 2, 1), 0.2)
    assert (got - exact).abs().max() < 0.02


def test_the_gate_is_the_tanh_form_of_gelu() -> None:
    both = torch.cat([torch.linspace(-30, 30, 999), torch.ones(999)])[None]
    right = torch.nn.functional.gelu(both[:, :999], approximate="tanh")
    assert torch.allclose(plain.gated(both, gelu=True), right, atol=1e-6)


@pytest.mark.parametrize("cuts", [(1,), (7, 8), (15, 16, 17), (8, 16, 24, 32, 40), (49,)])
def test_pieces_of_a_prompt_are_as_good_as_the_whole(pair: Pair, cuts: tuple[int, ...]) -> None:
    assert_same_in_pieces(pair, text(2, 50), cuts)


def test_token_by_token(pair: Pair) -> None:
    tokens = text(3, 40)
    at = Stepper(pair)
    table = at.open(tokens)
    parts = [at.step((table, [token])) for token in tokens]
    assert torch.allclose(torch.cat(parts), pair.logits(tokens), atol=CLOSE)


def test_answers_of_many_lengths_and_prompts_in_one_step(pair: Pair) -> None:
    """Rows of several answers do not see each other."""
    at = Stepper(pair)
    texts = [text(10 + index, length) for index, length in enumerate((1, 5, 17, 33, 70, 12, 40))]
    tables = [at.open(tokens) for tokens in texts]
    for table, tokens in zip(tables[:5], texts[:5], strict=True):
        if tokens[:-1]:
            at.step((table, tokens[:-1]))
    pieces = [(table, tokens[-1:]) for table, tokens in zip(tables[:5], texts[:5], strict=True)]
    pieces += [(tables[5], texts[5]), (tables[6], texts[6])]
    got = at.step(*pieces)
    for row, tokens in enumerate(texts[:5]):
        assert torch.allclose(got[row], pair.logits(tokens)[-1], atol=CLOSE)
    assert torch.allclose(got[5:17], pair.logits(texts[5]), atol=CLOSE)
    assert torch.allclose(got[17:], pair.logits(texts[6]), atol=CLOSE)


@pytest.mark.parametrize("shared", [16, 17, 31, 48, 64])
def test_a_prefix_from_the_cache_gives_the_same_numbers(pair: Pair, shared: int) -> None:
    at = Stepper(pair)
    first = text(20, 70)
    table = at.open(first)
    at.step((table, first))
    at.cache.close(table)
    second = first[:shared] + text(21, 30)
    table = at.open(second)
    hit = shared // 16 * 16
    assert table.length == hit
    got = at.step((table, second[hit:]))
    assert torch.allclose(got, pair.logits(second)[hit:], atol=CLOSE)


def test_two_answers_share_a_prefix_while_both_run(pair: Pair) -> None:
    at = Stepper(pair)
    first = text(22, 40)
    one = at.open(first)
    at.step((one, first))
    second = first[:32] + text(23, 5)
    other = at.open(second)
    assert other.length == 32
    at.step((other, second[32:]))
    more = text(24, 2)
    got = at.step((one, more[:1]), (other, more[1:]))
    assert torch.allclose(got[0], pair.logits([*first, more[0]])[-1], atol=CLOSE)
    assert torch.allclose(got[1], pair.logits([*second, more[1]])[-1], atol=CLOSE)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_key_value_heads": 1},
        {"num_key_value_heads": 4},
        {"sliding_window": 16},
        {"sliding_window": 300},
        {"layer_types": ["sliding_attention"] * 5},
        {"layer_types": ["full_attention"] * 5},
        {"tie_word_embeddings": False},
        {"query_pre_attn_scalar": 16},
    ],
)
def test_other_shapes_of_gemma(tmp_path: Path, changes: dict[str, object]) -> None:
    pair = make(tmp_path, "gemma3", **changes)
    tokens = text(4, 45)
    assert torch.allclose(all_logits(pair.ours, tokens), pair.logits(tokens), atol=CLOSE)


@pytest.mark.parametrize(
    ("kind", "changes", "word"),
    [
        ("gemma3", {"final_logit_softcapping": 30.0}, "softcapping"),
        ("llama", {"attention_bias": True}, "attention_bias"),
        ("llama", {"hidden_act": "relu"}, "hidden_act"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}},
            "yarn",
        ),
    ],
)
def test_what_it_cannot_do_it_says(
    tmp_path: Path, kind: str, changes: dict[str, object], word: str
) -> None:
    with pytest.raises(shape.Unsupported, match=word):
        make(tmp_path, kind, **changes)
