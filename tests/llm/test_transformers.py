"""The transformers backend against the library's own `generate`, on real Gemma 3 weights."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chat_app.llm import catalogue
from chat_app.llm.backends import transformers as backend_module
from chat_app.llm.backends.base import LoadRefused, Spec
from chat_app.llm.backends.transformers import Transformers, pick
from chat_app.llm.engine import ChatMessage, Sampling
from tests.llm.conftest import GEMMA

GREEDY = Sampling(temperature=0.0)


def spec_of(path: Path, **changes: Any) -> Spec:
    spec = Spec(
        model=GEMMA,
        family="gemma3",
        path=str(path),
        backend="transformers",
        device="cpu",
        threads=1,
        context_tokens=2048,
        quantization="auto",
        why="It runs on the CPU.",
    )
    return dataclasses.replace(spec, **changes)


def quiet(_sentence: str, _fraction: float | None) -> None:
    """Nobody watches the load."""


@pytest.fixture(scope="module")
def folder(gemma_weights: Path) -> Path:
    return gemma_weights / GEMMA / "safetensors"


@pytest.fixture(scope="module")
def backend(folder: Path) -> Iterator[Transformers]:
    """Gemma 3 270M in single precision, so that two ways to compute give the same tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend_module.base, "cpu_flags", set)
        yield Transformers(spec_of(folder), quiet)


@pytest.fixture(scope="module")
def oracle(folder: Path) -> Any:
    """The same weights, loaded apart and by the library alone."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def run(backend: Transformers, ids: list[int], **changes: Any) -> list[int]:
    values = {"sampling": GREEDY, "max_tokens": 4} | changes
    backend.add("a", ids, values["sampling"], values["max_tokens"])
    tokens: list[int] = []
    while backend._running:
        for step in backend.step():
            assert step.error is None, step.error
            tokens += step.tokens
    return tokens


@pytest.mark.weights
@pytest.mark.parametrize("words", [1, 72])
def test_greedy_tokens_are_those_of_generate(
    backend: Transformers, oracle: Any, words: int
) -> None:
    """Also over several pieces of the prompt and past the window of 512 tokens."""
    import torch

    text = "The old river runs past the mill. " * words + "The capital of France is"
    ids = [2, *backend._ids(text)]
    with torch.inference_mode():
        whole = oracle.generate(torch.tensor([ids]), max_new_tokens=4, do_sample=False)
    assert run(backend, ids) == whole[0][len(ids) :].tolist()
    assert words == 1 or len(ids) > 560


@pytest.mark.weights
def test_the_penalty_is_that_of_generate(backend: Transformers, oracle: Any) -> None:
    import torch

    ids = [2, *backend._ids("one one one one one one")]
    with torch.inference_mode():
        whole = oracle.generate(
            torch.tensor([ids]), max_new_tokens=4, do_sample=False, repetition_penalty=1.3
        )
    expected = whole[0][len(ids) :].tolist()
    got = run(backend, ids, sampling=Sampling(temperature=0.0, repetition_penalty=1.3))
    assert got == expected[: len(got)]
    assert got != run(backend, ids)


@pytest.mark.weights
def test_answers_in_turns_are_those_alone(backend: Transformers) -> None:
    prompts = [[2, *backend._ids(text)] for text in ("Paris is", "The sea is " * 45, "I")]
    alone = [run(backend, ids) for ids in prompts]
    for number, ids in enumerate(prompts):
        backend.add(str(number), ids, GREEDY, 4)
    together: dict[str, list[int]] = {"0": [], "1": [], "2": []}
    while backend._running:
        for step in backend.step():
            together[step.id] += step.tokens
    assert list(together.values()) == alone


@pytest.mark.weights
def test_gemma_has_no_system_role(backend: Transformers) -> None:
    told = [ChatMessage("system", "Be brief."), ChatMessage("user", "Hi")]
    text = backend._tokenizer.decode(backend.encode(told))
    assert "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>" in text
    assert text.startswith("<bos>")
    assert text.count("<bos>") == 1
    assert text.endswith("<start_of_turn>model\n")


@pytest.mark.weights
def test_a_gpu_format_on_the_cpu_says_that_it_is_not_used(backend: Transformers) -> None:
    backend.why = ""
    assert backend._fit(10**6, 10**6, "nf4") == "none"
    assert "nf4 is for GPUs" in backend.why


@pytest.mark.weights
def test_too_little_memory_is_refused_with_both_numbers(backend: Transformers) -> None:
    with pytest.raises(LoadRefused, match=r"needs about .* GiB of free memory and there are"):
        backend._fit(10**15, 0, "none")


@pytest.mark.weights
def test_a_model_that_sees_reads_text_as_before(folder: Path, tmp_path: Path) -> None:
    """Gemma 3 4B and 12B come with a part for images; here one of random weights, saved whole."""
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    torch.manual_seed(2)
    whole = Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config={
                **sizes,
                "vocab_size": 262208,
                "num_key_value_heads": 1,
                "head_dim": 8,
                "sliding_window": 16,
            },
            vision_config={**sizes, "image_size": 28, "patch_size": 14},
            mm_tokens_per_image=4,
        )
    ).to(torch.bfloat16)
    whole.save_pretrained(tmp_path)
    loaded = Transformers(spec_of(tmp_path), quiet)
    assert loaded.sees
    tokens = torch.tensor([[2, 5, 9, 700]])
    with torch.inference_mode():
        expected = whole.eval()(input_ids=tokens).logits.float()
        got = loaded._model(input_ids=tokens).logits.float()
    torch.testing.assert_close(got, expected, atol=2e-2, rtol=2e-2)
    assert expected.std() > 1e-3


class Seen:
    """What `pick` reads of a running answer."""

    def __init__(self, seen: Any, seed: int) -> None:
        import torch

        self.seen = seen
        self.generator = torch.Generator().manual_seed(seed)


def test_sampling_keeps_to_its_limits_and_repeats_with_its_seed() -> None:
    import torch

    logits = torch.tensor([0.0, 3.0, 2.9, 1.0, -5.0])
    nothing = torch.zeros(5, dtype=torch.bool)

    def draws(sampling: Sampling, seed: int = 1, seen: Any = nothing) -> list[int]:
        answer: Any = Seen(seen, seed)
        return [pick(torch, logits, sampling, answer) for _ in range(60)]

    assert set(draws(Sampling(temperature=0.0))) == {1}
    assert set(draws(Sampling(temperature=1.0, top_k=1))) == {1}
    assert set(draws(Sampling(temperature=1.0, top_k=2, top_p=1.0))) == {1, 2}
    assert set(draws(Sampling(temperature=1.0, top_k=0, top_p=0.3))) == {1}
    assert len(set(draws(Sampling(temperature=5.0, top_k=0, top_p=1.0)))) >= 4
    warm = Sampling(temperature=2.0, top_k=0, top_p=1.0)
    assert draws(warm, seed=5) == draws(warm, seed=5) != draws(warm, seed=6)
    seen = torch.tensor([False, True, False, False, False])
    assert set(draws(Sampling(temperature=0.0, repetition_penalty=1.5), seen=seen)) == {2}


def test_the_catalogue_sells_gemma_and_not_its_test_model() -> None:
    offered = {entry.id: entry.credits_per_message for entry in catalogue.offered()}
    assert offered == {
        "gemma-3-1b-it": 10,
        "gemma-3-4b-it": 25,
        "gemma-3-12b-it": 50,
        "smollm2-135m-instruct": 1,
    }
