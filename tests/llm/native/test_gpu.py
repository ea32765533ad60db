"""What is chosen for a GPU, and that nothing a GPU lacks stops the product."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from chat_app.llm.backends import native as backend
from chat_app.llm.backends.base import LoadRefused, Spec
from chat_app.llm.native import gpu, linear, plain
from chat_app.llm.native.gpu import Card
from chat_app.llm.native.shape import Rope, Shape
from tests.llm.native.conftest import GREEDY, Pair

GIB = 1024**3
NEW, OLD = (9, 0), (8, 0)
GEMMA_12B = Shape(
    gemma=True,
    hidden=3840,
    inner=15360,
    heads=16,
    kv_heads=8,
    head_size=256,
    vocabulary=262208,
    epsilon=1e-6,
    attention_scale=256**-0.5,
    embedding_scale=3840**0.5,
    windows=tuple(0 if (index + 1) % 6 == 0 else 1024 for index in range(48)),
    ropes=(Rope(1e6),) * 48,
    tied=True,
    positions=131072,
)


def form(
    wanted: str, gib: float, capability: tuple[int, int] = NEW, broken: tuple[str, ...] = ()
) -> tuple[str, str]:
    return gpu.form(
        GEMMA_12B,
        wanted,
        Card(int(gib * GIB), capability),
        slots=128,
        context_tokens=8192,
        chunk_tokens=2048,
        works=lambda each: each not in broken,
    )


def test_weights_have_the_size_that_engine_md_computed() -> None:
    sizes = [gpu.weights_bytes(GEMMA_12B, each) / 1e9 for each in ("bfloat16", "float8", "nf4")]
    assert sizes == pytest.approx([23.5, 12.8, 7.6], abs=0.3)


@pytest.mark.parametrize(
    ("wanted", "gib", "capability", "chosen", "word"),
    [
        ("auto", 79, NEW, "bfloat16", "bfloat16."),
        ("auto", 24, NEW, "float8", "would not fit"),
        ("auto", 14, NEW, "nf4", "would not fit"),
        ("auto", 24, OLD, "nf4", "would not fit"),
        ("nf4", 79, NEW, "nf4", "settings"),
        ("int8", 79, NEW, "float8", "settings"),
        ("int8", 79, OLD, "bfloat16", "too old"),
        ("none", 79, NEW, "bfloat16", "settings"),
    ],
)
def test_the_best_form_that_fits(
    wanted: str, gib: float, capability: tuple[int, int], chosen: str, word: str
) -> None:
    got, why = form(wanted, gib, capability)
    assert got == chosen
    assert word in why


@pytest.mark.parametrize(("wanted", "gib"), [("auto", 8), ("none", 24), ("int8", 12)])
def test_what_does_not_fit_is_refused_with_figures_and_a_next_step(wanted: str, gib: int) -> None:
    with pytest.raises(LoadRefused) as refused:
        form(wanted, gib)
    assert refused.value.code == "not_enough_memory"
    assert f"{gib}.0 GiB" in str(refused.value)


def test_a_form_that_does_not_compute_here_is_not_used() -> None:
    assert form("auto", 24, broken=("float8",))[0] == "nf4"
    with pytest.raises(LoadRefused, match=r"cannot compute with 4 bits \(nf4\) and 8-bit floats"):
        form("auto", 24, broken=("float8", "nf4"))
    assert all(gpu.computes(each, "cpu") for each in ("bfloat16", "float8", "nf4"))


def test_a_form_that_fails_or_lies_is_found(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gpu.small, "linear", lambda *rest: lambda x: x * float("nan"))
    assert not gpu.computes("nf4", "cpu")
    monkeypatch.undo()
    with caplog.at_level(logging.CRITICAL):
        assert not gpu.computes("float8")


def decoder(pair: Pair, maths: Any = None) -> tuple[Any, str]:
    memory = pair.memory(pair.cache())
    return gpu.decoder(pair.ours, memory, slots=4, context_tokens=64, maths=maths)


def test_without_triton_or_a_gpu_it_decodes_all_the_same(
    gemma: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL):
        made, why = decoder(gemma)
    assert made is None
    assert "without our kernels" in why


def test_kernels_that_compute_nonsense_are_not_used(gemma: Pair) -> None:
    class Wrong:
        def __getattr__(self, name: str) -> Any:
            return getattr(plain, name)

        def gated(self, both: torch.Tensor, gelu: bool) -> torch.Tensor:
            return plain.gated(both, not gelu)

    made, why = decoder(gemma, Wrong())
    assert made is None
    assert "another gate" in why


def test_without_graphs_the_same_steps_are_called(
    gemma: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no CUDA here, so capturing fails as it would with a broken driver."""
    with caplog.at_level(logging.CRITICAL):
        made, why = decoder(gemma, plain)
    assert made is not None
    assert not made.captured
    assert "without CUDA graphs" in why


@pytest.mark.full
@pytest.mark.weights
@pytest.mark.parametrize(("wanted", "form"), [("none", "bfloat16"), ("int8", "8-bit floats")])
def test_a_real_model_from_load_to_text_as_on_a_gpu(
    gemma_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wanted: str,
    form: str,
) -> None:
    """The whole backend with the CPU in the GPU's place; only capturing fails."""
    for file in (gemma_weights / "gemma-3-270m" / "safetensors").iterdir():
        if file.is_file():
            (tmp_path / file.name).symlink_to(file)
    monkeypatch.setattr(backend, "_place", lambda name: torch.device("cpu"))
    monkeypatch.setattr(gpu, "card", lambda: Card(8 * GIB, NEW))
    monkeypatch.setattr(gpu, "_kernels", lambda: plain)
    monkeypatch.setattr(gpu, "computes", lambda form: True)
    monkeypatch.setattr(gpu, "eighths", lambda: linear.eighths)
    monkeypatch.setitem(backend.SLOTS, "cuda", 2)
    spec = Spec("gemma", "gemma3", str(tmp_path), "native", "cuda", 1, 256, wanted, "It runs.")
    with caplog.at_level(logging.CRITICAL):
        model = backend.Native(spec, _quiet)
    assert form in model.why
    assert "without CUDA graphs" in model.why
    prompt = model._tokenizer.ids("<bos>Water boils at a temperature of 100 degrees")
    expected = _texts(
        backend.Native(replace(spec, device="cpu", quantization="none"), _quiet), prompt
    )
    assert _texts(model, prompt) == expected
    assert expected["one"] == expected["two"]
    assert len(expected["one"]) == 3


def _quiet(sentence: str, share: float | None) -> None:
    """Progress that nobody follows."""


def _texts(model: backend.Native, prompt: list[int]) -> dict[str, list[int]]:
    texts: dict[str, list[int]] = {"one": [], "two": []}
    for id in texts:
        assert model.add(id, prompt, GREEDY, 3) == 0
    for _ in range(6):
        for step in model.step():
            assert step.error is None
            texts[step.id] += step.tokens
    return texts
