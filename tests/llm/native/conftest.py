"""Small random models as transformers writes them, and what transformers says of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from chat_app.llm.backends.base import Step
from chat_app.llm.engine import Sampling
from chat_app.llm.native import plain, shape, weights
from chat_app.llm.native.ahead import Ahead
from chat_app.llm.native.cache import Cache, blocks, near_need
from chat_app.llm.native.graphs import Decoder
from chat_app.llm.native.memory import Memory
from chat_app.llm.native.model import Model
from chat_app.llm.native.runner import Runner

CPU = torch.device("cpu")
GREEDY = Sampling(temperature=0.0)
VOCABULARY = 512


def _gemma(**changes: Any) -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    values: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 1
        + ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
        "query_pre_attn_scalar": 24,
        "max_position_embeddings": 512,
    }
    return Gemma3ForCausalLM(Gemma3TextConfig(**(values | changes)))


def _llama(**changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    values: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    }
    return LlamaForCausalLM(LlamaConfig(**(values | changes)))


MAKERS = {"gemma3": _gemma, "llama": _llama}


@dataclass
class Pair:
    """A folder, transformers' model of it and ours, both in float32."""

    folder: Path
    theirs: Any
    shape: shape.Shape
    ours: Model
    ahead: bool = False
    """Its runners decode as on a GPU, by the function that a graph records there."""

    def logits(self, tokens: list[int]) -> torch.Tensor:
        """Theirs, after every token."""
        with torch.inference_mode():
            out: torch.Tensor = self.theirs(torch.tensor([tokens])).logits[0]
        return out

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """Theirs, token by token from the whole text each time."""
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(self.logits(tokens)[-1].argmax()))
        return tokens[len(prompt) :]

    def cache(self, *, tokens: int = 4096, chunk: int = 64) -> Cache:
        near = 40 * near_need(self.shape.window, chunk) + 1
        return Cache(
            wide_blocks=blocks(tokens) + 1,
            near_blocks=near,
            window=self.shape.window,
            chunk_tokens=chunk,
        )

    def memory(self, cache: Cache) -> Memory:
        return Memory(
            self.shape,
            wide_blocks=cache.wide.blocks,
            near_blocks=cache.near.blocks,
            dtype=torch.float32,
            device=CPU,
        )

    def runner(
        self,
        *,
        chunk: int = 16,
        quiet: int = 64,
        ends: frozenset[int] = frozenset(),
        tokens: int = 2048,
        maths: Any = plain,
    ) -> Runner:
        cache = self.cache(tokens=tokens, chunk=quiet)
        memory = self.memory(cache)
        settings: dict[str, Any] = {
            "ends": ends,
            "chunk_tokens": chunk,
            "quiet_chunk_tokens": quiet,
        }
        if not self.ahead:
            return Runner(self.ours, cache, memory, **settings)
        decoder = Decoder(self.ours, memory, slots=10, context_tokens=256, maths=maths)
        return Ahead(self.ours, cache, memory, **settings, decoder=decoder)


def make(folder: Path, kind: str, **changes: Any) -> Pair:
    torch.manual_seed(7)
    theirs = MAKERS[kind](**changes).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            # Norms away from what they are born as, or a forgotten one would not be seen.
            if "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    theirs.save_pretrained(folder)
    measures = shape.read(folder)
    ours = weights.load(folder, measures, format="float32", device=CPU, positions=512)
    return Pair(folder, theirs, measures, ours)


@pytest.fixture(scope="session", params=["gemma3", "llama"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A random model of each family."""
    return make(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A random Gemma 3: windows of 8, every rope, grouped queries."""
    return make(tmp_path_factory.mktemp("gemma"), "gemma3")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Matrices this small are slower with two, much slower on a busy machine."""
    torch.set_num_threads(1)


def text(seed: int, count: int) -> list[int]:
    """Random tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (count,), generator=generator).tolist()


def finish(runner: Runner, steps: int = 400) -> dict[str, list[int]]:
    """Run until nobody is left; the tokens of each answer."""
    made: dict[str, list[int]] = {}
    for _ in range(steps):
        done: list[Step] = runner.step()
        for step in done:
            assert step.error is None, step.error
            made.setdefault(step.id, []).extend(step.tokens)
        if not runner.running:
            return made
    raise AssertionError("it did not end")
