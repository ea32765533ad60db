"""OpenVINO: who shares what, what is said to be cached, files made once, converted files."""

import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from chat_app.llm import catalogue, ir, loader, optimum
from chat_app.llm.backends import openvino
from chat_app.llm.backends.base import Spec
from chat_app.llm.backends.openvino import OpenVino
from chat_app.llm.engine import ChatMessage, Sampling
from tests.llm.conftest import DEMO, GEMMA, Stage, done, started

pytestmark = [pytest.mark.weights, pytest.mark.full]

GREEDY = Sampling(temperature=0.0, repetition_penalty=1.1)
CHUNK = 64
STORY = "The cat sat on the mat and looked at the moon. "


@dataclass
class Read:
    """One answer: what was said to be cached, and what it really took."""

    cached: int
    steps: int
    seconds: float
    tokens: list[int] = field(default_factory=list)


class Runner:
    """Answers one after another, counting the steps to the first token."""

    def __init__(self, backend: OpenVino) -> None:
        self.backend = backend
        self._number = 0

    def prompt(self, *texts: str) -> list[int]:
        roles = ("user", "assistant")
        turns = [ChatMessage(roles[at % 2], text) for at, text in enumerate(texts)]  # type: ignore[arg-type]
        return self.backend.encode(turns)

    def begin(
        self, prompt: list[int], scope: str = "", tokens: int = 4, sampling: Sampling = GREEDY
    ) -> tuple[str, int | None]:
        self._number += 1
        id = str(self._number)
        return id, self.backend.add(id, prompt, sampling, tokens, scope=scope)

    def read(
        self, prompt: list[int], scope: str = "", tokens: int = 4, sampling: Sampling = GREEDY
    ) -> Read:
        began = time.perf_counter()
        id, cached = self.begin(prompt, scope, tokens, sampling)
        assert cached is not None
        read = Read(cached, 0, 0.0)
        finish = None
        while finish is None:
            steps = self.backend.step()
            if not read.seconds:
                read.steps += 1
            for step in steps:
                assert step.error is None
                read.seconds = read.seconds or time.perf_counter() - began
                read.tokens += step.tokens
                finish = finish or step.finish
        self.backend.drop(id)
        return read


def load(path: Path, family: str = "llama") -> OpenVino:
    spec = Spec("demo", family, str(path), "openvino", "cpu", 1, 4096)  # type: ignore[arg-type]
    return OpenVino(spec, lambda _sentence, _share: None)


def demo_file(models: Path) -> Path:
    found = loader.weights(catalogue.get(DEMO), models).gguf
    assert found is not None
    return found


@pytest.fixture(scope="module")
def here(demo_weights: Path) -> Iterator[Runner]:
    """The demo model with small chunks, so that steps tell how much of a prompt was read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino, "CHUNK_TOKENS", CHUNK)
        yield Runner(load(demo_file(demo_weights)))


def test_a_second_turn_is_cached_and_no_stranger_shares_it(here: Runner) -> None:
    """By counting what the pipeline really reads, with its own cache as the control."""
    text = f"A long one. {STORY * 40}"
    first = here.prompt(text)
    assert len(first) >= 400
    cold = here.read(first, "alice", tokens=20)
    assert (cold.cached, cold.steps) == (0, -(-len(first) // CHUNK))
    second = here.prompt(text, here.backend.decode(cold.tokens), "And then?")
    warm = here.read(second, "alice")
    assert warm.cached >= len(first) - 64
    assert warm.steps <= max(1, 0.15 * cold.steps)
    stranger = here.read(second, "bob")
    assert (stranger.cached, stranger.steps) == (0, -(-len(second) // CHUNK))
    again = here.read(second, "bob")
    assert again.steps == 1
    # The cache holds rounded numbers, so only a first token is sure to be the same.
    assert again.tokens[0] == stranger.tokens[0] == warm.tokens[0]


def test_the_clock_says_the_same(here: Runner) -> None:
    cold, warm, stranger = [], [], []
    for number in range(3):
        prompt = here.prompt(f"Story {number}. {STORY * 40}")
        cold.append(here.read(prompt, "alice", 1).seconds)
        stranger.append(here.read(prompt, "bob", 1).seconds)
        warm.append(here.read(prompt, "alice", 1).seconds)
    assert statistics.median(warm) <= 0.25 * statistics.median(cold)
    assert statistics.median(stranger) >= 0.6 * statistics.median(cold)


@pytest.mark.parametrize("length", [1, 31, 33, 64, 100, 200])
def test_never_more_is_said_to_be_cached_than_is(here: Runner, length: int) -> None:
    whole = here.prompt(f"Length {length}. {STORY * 20}")
    here.read(whole[: 3 + length], "carol")
    read = here.read(whole, "carol")
    assert read.cached <= length + 3
    assert read.steps <= -(-(len(whole) - read.cached) // CHUNK)


def test_names_change_no_answer(here: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = here.prompt("Why is the sky blue?")
    named = [here.read(prompt, scope, 16).tokens for scope in ("dave", "erin", "frank")]
    warm = Sampling(temperature=0.8, top_p=0.95, top_k=40, seed=5)
    drawn = here.read(prompt, "dave", 16, warm).tokens
    ready = here.backend._ready
    assert ready is not None
    monkeypatch.setattr(here.backend, "_ready", replace(ready, heads=()))
    monkeypatch.setattr(ir.Ready, "named", lambda _self, tokens, _number: list(tokens))
    assert named == [here.read(prompt, "dave", 16).tokens] * 3
    assert drawn == here.read(prompt, "dave", 16, warm).tokens


def test_names_are_never_said(here: Runner) -> None:
    prompt = here.prompt("Say something.")
    wild = Sampling(temperature=100.0, top_p=1.0, top_k=0, seed=3)
    assert max(here.read(prompt, "grace", 60, wild).tokens) < 49152


def test_a_prompt_that_was_cut_off_spoils_no_later_one(here: Runner) -> None:
    prompt = here.prompt(f"Cut off. {STORY * 20}")
    whole = here.read(prompt, "heidi", 12).tokens
    for steps in (1, 2, 3):
        other, _ = here.begin(here.prompt("Count."), "ivan", tokens=60)
        here.backend.step()
        cut, _ = here.begin(prompt, "judy", tokens=12)
        for _ in range(steps):
            here.backend.step()
        here.backend.drop(cut)
        here.backend.drop(other)
        assert here.read(prompt, "judy", 12).tokens == whole


def test_min_p_leaves_only_what_is_likely_enough(here: Runner) -> None:
    prompt = here.prompt("Name a colour.")
    best = here.read(prompt, tokens=8, sampling=Sampling(temperature=0.0)).tokens
    hot = Sampling(temperature=3.0, top_p=1.0, top_k=0, seed=11)
    assert here.read(prompt, tokens=8, sampling=replace(hot, min_p=1.0)).tokens == best
    assert here.read(prompt, tokens=8, sampling=hot).tokens != best


def test_figures_are_the_pipelines(here: Runner) -> None:
    ids = [here.begin(here.prompt(f"Count {n}."), tokens=40)[0] for n in range(2)]
    for _ in range(4):
        here.backend.step()
    busy = here.backend.figures()
    assert busy["batch_answers"] == 2
    assert 0 < busy["kv_used_share"] < 0.5
    assert busy["kv_bytes"] > 2**29
    for id in ids:
        here.backend.drop(id)
    before = here.backend.figures()
    assert before["batch_answers"] == 0
    here.read(here.prompt("Count 1."))
    after = here.backend.figures()
    assert after["prompt_tokens"] - before["prompt_tokens"] == len(here.prompt("Count 1."))


def test_there_is_no_room_until_another_one_ends(
    here: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(here.backend._prefixes, "blocks", 40)
    prompt = here.prompt("Count.")
    first, cached = here.begin(prompt, tokens=1000)
    assert cached is not None
    assert here.begin(prompt, tokens=1000)[1] is None
    here.backend.drop(first)
    second, cached = here.begin(prompt, tokens=1000)
    assert cached is not None
    here.backend.drop(second)


def test_a_damaged_folder_is_made_anew(demo_weights: Path, tmp_path: Path) -> None:
    gguf = tmp_path / "m.gguf"
    gguf.symlink_to(demo_file(demo_weights))
    good = ir.beside(demo_file(demo_weights))
    bad = ir.beside(gguf)
    bad.mkdir()
    for file in good.iterdir():
        (bad / file.name).write_bytes(file.read_bytes())
    assert ir.read(bad) == ir.read(good) is not None
    with (bad / "openvino_model.bin").open("r+b") as weights:
        weights.seek(1_000_000)
        weights.write(b"\xff" * 64)
    assert ir.read(bad) is None
    backend = load(gguf)
    assert backend._ready == ir.read(bad, source=gguf) is not None
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["openvino_model.xml", "openvino_tokenizer.bin", "ready.json"])
def test_a_missing_or_cut_file_is_noticed(demo_weights: Path, tmp_path: Path, name: str) -> None:
    for file in ir.beside(demo_file(demo_weights)).iterdir():
        (tmp_path / file.name).symlink_to(file)
    assert ir.read(tmp_path) is not None
    cut = (tmp_path / name).read_bytes()[:-10]
    (tmp_path / name).unlink()
    assert ir.read(tmp_path) is None
    (tmp_path / name).write_bytes(cut)
    assert ir.read(tmp_path) is None


def test_files_of_another_gguf_are_not_used(demo_weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF")
    assert ir.read(ir.beside(demo_file(demo_weights)), source=other) is None


def test_without_a_place_for_files_nothing_is_kept(
    demo_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_gguf: Path, _family: str) -> Path:
        raise OSError(28, "No space left on device")

    gguf = tmp_path / "m.gguf"
    gguf.symlink_to(demo_file(demo_weights))
    monkeypatch.setattr(ir, "from_gguf", full)
    monkeypatch.setattr(openvino, "CHUNK_TOKENS", CHUNK)
    runner = Runner(load(gguf))
    assert "No space left" in runner.backend.why
    prompt = runner.prompt(STORY * 10)
    reads = [runner.read(prompt, "alice") for _ in range(2)]
    assert [read.cached for read in reads] == [0, 0]
    assert reads[0].steps == reads[1].steps == -(-len(prompt) // CHUNK)


def test_the_engine_says_what_was_cached(demo: Stage) -> None:
    told = (ChatMessage("user", f"Once more. {STORY * 40}"),)

    def cached(scope: str) -> tuple[int, int]:
        request = demo.request(messages=told, user_scope=scope, max_tokens=2)
        events = demo.run(demo.events(request))
        assert done(events).usage.cached_tokens == started(events).cached_tokens
        return started(events).cached_tokens, started(events).prompt_tokens

    assert cached("org_1")[0] == 0
    again, prompt = cached("org_1")
    assert prompt - 40 <= again < prompt
    assert cached("org_2")[0] == 0


def test_four_bits_are_refused_for_a_small_model(gemma_weights: Path) -> None:
    with pytest.raises(loader.PullFailed, match="Take int8"):
        optimum.convert(
            catalogue.get(GEMMA), gemma_weights, python=Path(sys.executable), weights="int4"
        )


@pytest.mark.parametrize(
    ("python", "sentence"),
    [(sys.executable, "optimum"), ("/nowhere/python", "could not be converted")],
)
def test_a_conversion_that_cannot_run_says_why(
    gemma_weights: Path, tmp_path: Path, python: str, sentence: str
) -> None:
    (tmp_path / GEMMA).symlink_to(gemma_weights / GEMMA)
    with pytest.raises(loader.PullFailed, match=sentence):
        optimum.convert(catalogue.get(GEMMA), tmp_path, python=Path(python), weights="int8")
    assert [path.name for path in tmp_path.iterdir()] == [GEMMA]


@pytest.fixture(scope="module")
def gemma(gemma_weights: Path) -> Runner:
    converted = loader.weights(catalogue.get(GEMMA), gemma_weights).openvino
    if converted is None:
        pytest.skip("Gemma was not converted here; see convert-openvino in docs/commands.md")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino, "CHUNK_TOKENS", CHUNK)
        return Runner(load(converted, "gemma3"))


def test_converted_gemma_answers_as_transformers_does(gemma: Runner, gemma_weights: Path) -> None:
    """Also beyond the window of its sliding layers, with most of the prompt from the cache."""
    import torch
    from transformers import AutoTokenizer, Gemma3ForCausalLM

    folder = loader.weights(catalogue.get(GEMMA), gemma_weights).safetensors
    assert folder is not None
    reference = Gemma3ForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    text = Path(__file__).read_text(encoding="utf-8")[:3500]
    prompt = gemma.prompt(text)
    assert (
        prompt
        == AutoTokenizer.from_pretrained(folder)(
            f"<bos><start_of_turn>user\n{text.strip()}<end_of_turn>\n<start_of_turn>model\n",
            add_special_tokens=False,
        )["input_ids"]
    )
    assert len(prompt) > 800
    with torch.inference_mode():
        best = reference(torch.tensor([prompt])).logits[0].argmax(-1).tolist()
    places = range(600, len(prompt), 25)
    right = [
        (gemma.read(prompt[: place + 1], tokens=1).tokens or [1])[0] == best[place]
        for place in places
    ]
    assert sum(right) / len(right) >= 0.85


def test_converted_gemma_keeps_people_apart(gemma: Runner) -> None:
    prompt = gemma.prompt(STORY * 20)
    cold, again, stranger = (gemma.read(prompt, scope) for scope in ("a", "a", "b"))
    assert cold.steps == stranger.steps == -(-len(prompt) // CHUNK)
    assert again.steps == 1
    assert cold.tokens == stranger.tokens


def test_a_model_is_converted(gemma_weights: Path, tmp_path: Path) -> None:
    """Takes minutes, so it runs where TEST_OPTIMUM_PYTHON names an environment for it."""
    python = os.environ.get("TEST_OPTIMUM_PYTHON")
    if not python:
        pytest.skip("TEST_OPTIMUM_PYTHON names no environment with optimum-intel")
    folder = tmp_path / GEMMA
    folder.mkdir()
    (folder / "safetensors").symlink_to(gemma_weights / GEMMA / "safetensors")
    optimum.convert(catalogue.get(GEMMA), tmp_path, python=Path(python), weights="int8")
    assert ir.read(folder / "openvino") is not None
