"""Images: our tower, masks and batching against transformers, on a tiny random Gemma 3.

Prompts are written as in the engine: each token of an image is a number below zero that stands
for the image's content.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pil

from chat_app.llm import prompt as prompts
from chat_app.llm.engine import Image
from chat_app.llm.native import shape, vision, weights
from chat_app.llm.native.cache import Cache
from chat_app.llm.native.memory import Gathered, Memory, Piece
from chat_app.llm.native.model import Seen
from chat_app.llm.native.pixels import pixels
from chat_app.llm.native.runner import Runner
from tests.llm.native.conftest import CPU, GREEDY, Pair, finish, text

CLOSE = 1e-4
TOKENS = 16
SOFT = 511
CONFIG: dict[str, Any] = {
    "text_config": {
        "model_type": "gemma3_text",
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        # Smaller than an image: what is behind the window stays hidden, also within an image.
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"],
        "query_pre_attn_scalar": 24,
        "max_position_embeddings": 512,
    },
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 4,
        "vision_use_head": False,
    },
    "mm_tokens_per_image": TOKENS,
    "image_token_index": SOFT,
    "boi_token_index": 509,
    "eoi_token_index": 510,
}


def shown(folder: Path, seed: int, size: tuple[int, int] = (50, 37)) -> Image:
    """A file with a random image."""
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path = folder / f"{seed}.png"
    Pil.fromarray(values).save(path)
    return Image(str(path), hashlib.sha256(path.read_bytes()).hexdigest())


@dataclass
class Sighted(Pair):
    """A Pair whose model sees."""

    sight: Any = None
    images: tuple[Image, ...] = ()

    def eyes(self, layers: int = 1) -> vision.Eyes:
        def read() -> vision.Tower:
            source = weights.Source(self.folder)
            return vision.load(source, self.sight, format="float32", device=CPU)

        return vision.Eyes(self.sight, read, layers_per_step=layers)

    def files(self) -> dict[int, str]:
        return {prompts.number(image): image.path for image in self.images}

    def said(self, *parts: int | Sequence[int]) -> list[int]:
        """A prompt: bare numbers are images, lists are text."""
        tokens: list[int] = []
        for part in parts:
            if isinstance(part, int):
                tokens += [509, *[prompts.number(self.images[part])] * TOKENS, 510]
            else:
                tokens += part
        return tokens

    def logits(self, tokens: list[int]) -> torch.Tensor:
        """Theirs, after every token."""
        ids = torch.tensor([[SOFT if token < 0 else token for token in tokens]])
        runs = [number for number, _ in itertools.groupby(tokens) if number < 0]
        more = {}
        if runs:
            files = self.files()
            more["pixel_values"] = torch.stack([pixels(files[one], 32) for one in runs])
        with torch.inference_mode():
            out: torch.Tensor = self.theirs(ids, token_type_ids=(ids == SOFT).int(), **more).logits
        return out[0]

    def seeing_runner(self, *, chunk: int = 16, quiet: int = 64, layers: int = 1) -> Runner:
        runner = self.runner(chunk=chunk, quiet=quiet)
        runner._eyes = self.eyes(layers)
        return runner

    def ask(self, runner: Runner, tokens: list[int], count: int, *, scope: str = "") -> list[int]:
        """A greedy answer."""
        assert self.add(runner, "it", tokens, count, scope=scope) is not None
        return finish(runner)["it"]

    def add(
        self, runner: Runner, id: str, tokens: list[int], count: int, *, scope: str = ""
    ) -> int | None:
        return runner.add(id, tokens, GREEDY, count, seed=1, scope=scope, images=self.files())


@pytest.fixture(scope="session")
def sighted(tmp_path_factory: pytest.TempPathFactory) -> Sighted:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    folder = tmp_path_factory.mktemp("sighted")
    torch.manual_seed(11)
    theirs = Gemma3ForConditionalGeneration(Gemma3Config(**CONFIG)).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            # Away from what they are born as, or a forgotten one would not be seen; and far
            # enough apart that another image is another answer.
            if "norm" in name or "bias" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            elif "position" in name or "projection" in name or "vision" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    theirs.save_pretrained(folder)
    measures, sight = shape.read(folder), shape.sight(folder)
    ours = weights.load(folder, measures, format="float32", device=CPU, positions=512)
    images = tuple(shown(folder, seed) for seed in range(3))
    return Sighted(folder, theirs, measures, ours, sight=sight, images=images)


@pytest.fixture(params=[False, True], ids=["stepwise", "ahead"])
def pair(request: pytest.FixtureRequest, sighted: Sighted) -> Sighted:
    """Whether a step begins before the last one is read, as on a GPU."""
    return replace(sighted, ahead=request.param)


def looked(pair: Sighted, image: Image, layers: int = 1) -> torch.Tensor:
    eyes, look = pair.eyes(layers), vision.Look(image.path)
    with torch.inference_mode():
        while (made := eyes.go_on(look)) is None:
            pass
    return made


@pytest.mark.parametrize("layers", [1, 2, 1000])
def test_the_tower_is_theirs(sighted: Sighted, layers: int) -> None:
    """However many layers a step has."""
    for image in sighted.images:
        values = pixels(image.path, 32)
        with torch.inference_mode():
            theirs = sighted.theirs.get_image_features(values[None]).pooler_output[0]
        assert torch.allclose(looked(sighted, image, layers), theirs, atol=CLOSE)


@pytest.mark.parametrize("prefix", ["vision_tower.vision_model", "model.vision_tower"])
def test_files_name_the_tower_in_several_ways(
    sighted: Sighted, tmp_path: Path, prefix: str
) -> None:
    """As on the hub, and as transformers holds it."""
    from safetensors.torch import load_file, save_file

    def named(name: str) -> str:
        name = name.replace("vision_tower", prefix)
        return f"model.{name}" if prefix[0] == "m" and name.startswith("multi") else name

    tensors = load_file(sighted.folder / "model.safetensors")
    save_file({named(name): each for name, each in tensors.items()}, tmp_path / "w.safetensors")
    pair = replace(sighted, folder=tmp_path)
    image = sighted.images[0]
    assert torch.equal(looked(pair, image), looked(sighted, image))


def step_logits(pair: Sighted, tokens: list[int], cuts: Sequence[int]) -> torch.Tensor:
    """Ours, after every token, in pieces that end at the cuts."""
    cache: Cache = pair.cache()
    memory: Memory = pair.memory(cache)
    table = cache.open(tokens, len(tokens), "")
    assert table is not None
    features = {prompts.number(image): looked(pair, image) for image in pair.images}
    runs = []
    for number, group in itertools.groupby(range(len(tokens)), lambda at: tokens[at]):
        places = list(group)
        if number < 0:
            runs.append((places[0], places[-1] + 1, features[number]))
    made = []
    for start, end in itertools.pairwise([0, *cuts, len(tokens)]):
        cache.extend(table, end - start)
        here = [run for run in runs if run[0] >= start and run[1] <= end]
        spans = tuple((first, last) for first, last, _ in here)
        seen = None
        if here:
            rows = [at - start for first, last, _ in here for at in range(first, last)]
            seen = Seen(torch.tensor(rows), torch.cat([each for _, _, each in here]))
        with torch.inference_mode():
            out = pair.ours.forward(
                torch.tensor([max(0, token) for token in tokens[start:end]]),
                torch.arange(start, end),
                Gathered(memory, [Piece(table, start, end - start, spans)]),
                torch.arange(end - start),
                seen=seen,
            )
        cache.advance(table, tokens[start:end])
        made.append(out)
    return torch.cat(made)


@pytest.mark.parametrize(
    ("said", "cuts"),
    [
        (([2, 5, 6], 0, [7, 8, 9]), ()),
        ((0, [7, 8, 9]), ()),
        (([2, *range(20, 40)], 0, 1, [*range(40, 60)]), ()),
        (([2, 5], 0, [6, 7], 1, [8], 2, [9] * 12), ()),
        (([2, 5, 6], 0, [7, 8, 9], 1, [10, 11]), (2, 4, 25, 41)),
        (([2, *range(20, 50)], 0, [*range(50, 80)]), (16, 32, 64)),
        (([2, 5, 6], 0, [7, 8, 9], 0, [10, 11]), (4, 20)),
    ],
)
def test_logits_after_every_token(
    sighted: Sighted, said: tuple[Any, ...], cuts: tuple[int, ...]
) -> None:
    """One to three images, text before, between and after, whole and in pieces."""
    tokens = sighted.said(*said)
    ours = step_logits(sighted, tokens, cuts)
    assert torch.allclose(ours, sighted.logits(tokens), atol=CLOSE)


def test_the_images_are_told_apart(sighted: Sighted) -> None:
    """The oracle would be worthless if its images made no difference."""
    one, other = (sighted.said([2, 5], at, [7, 8]) for at in (0, 1))
    assert (sighted.logits(one)[-1] - sighted.logits(other)[-1]).abs().max() > 100 * CLOSE


@pytest.mark.parametrize("chunk", [4, 20])
def test_greedy_texts_are_theirs(pair: Sighted, chunk: int) -> None:
    """Also where an image is longer than a piece may be: it is never split."""
    runner = pair.seeing_runner(chunk=chunk, quiet=max(chunk, TOKENS))
    for index, said in enumerate(
        (([2, 5, 6], 0, text(50, 30)), (text(51, 40), 1, 2, [9]), (2, 0, [3]), ([2, 3, 4],))
    ):
        tokens = pair.said(*said)
        assert pair.ask(runner, tokens, 8) == pair.greedy(tokens, 8), index
    assert not runner.held_blocks


def test_answers_with_and_without_images_together(pair: Sighted) -> None:
    """Everybody gets their own text; writing goes on while an image is looked at."""
    runner = pair.seeing_runner(chunk=8, quiet=32)
    prompts_ = {
        "text": pair.said(text(60, 5)),
        "one": pair.said(text(61, 20), 0, text(62, 3)),
        "two": pair.said(1, text(63, 9), 2, [4]),
    }
    made: dict[str, list[int]] = {id: [] for id in prompts_}
    for id, tokens in prompts_.items():
        pair.add(runner, id, tokens, 24)
        for _ in range(2):
            for step in runner.step():
                made[step.id] += step.tokens
    for id, tokens in finish(runner).items():
        made[id] += tokens
    for id, tokens in prompts_.items():
        assert made[id] == pair.greedy(tokens, 24), id
    assert not runner.held_blocks


def test_looking_holds_up_nobody_for_more_than_a_layer(sighted: Sighted) -> None:
    runner = sighted.seeing_runner(layers=1)
    sighted.add(runner, "writing", text(64, 4), 60)
    runner.step()
    sighted.add(runner, "looking", sighted.said(0, [5]), 1)
    for _ in range(sighted.sight.layers):
        assert [step.id for step in runner.step()][:1] == ["writing"]


def test_a_later_turn_finds_the_image_in_the_cache(pair: Sighted) -> None:
    runner = pair.seeing_runner()
    first = pair.said([2, 5, 6], 0, text(70, 20))
    answer = pair.ask(runner, first, 6)
    second = [*first, *answer, *text(71, 9)]
    looks = runner.counts.images
    assert pair.add(runner, "again", second, 8) == (len(first) + 5) // 16 * 16
    assert finish(runner)["again"] == pair.greedy(second, 8)
    assert runner.counts.images == looks == 1, "nobody looked again"


@pytest.mark.parametrize("before", [1, 5, 14, 15])
def test_a_prefix_that_ends_within_an_image(pair: Sighted, before: int) -> None:
    """The next prompt is the same up to some place in the image's last block."""
    runner = pair.seeing_runner()
    first = pair.said(text(72, before), 0, text(73, 4))
    pair.ask(runner, first, 2)
    second = pair.said(text(72, before), 0, text(74, 30))
    found = pair.add(runner, "again", second, 8)
    assert found == (before + 1 + TOKENS + 1) // 16 * 16 == (before + 18) // 16 * 16
    assert finish(runner)["again"] == pair.greedy(second, 8)


def test_another_image_in_the_same_place_shares_nothing_of_it(pair: Sighted) -> None:
    """Blocks are named by the image's content, not by the placeholder."""
    runner = pair.seeing_runner()
    one = pair.said(text(75, 15), 0, text(76, 40))
    other = pair.said(text(75, 15), 1, text(76, 40))
    pair.ask(runner, one, 2)
    assert pair.add(runner, "other", other, 8) == 16, "the text before it and its mark"
    assert finish(runner)["other"] == pair.greedy(other, 8)
    assert pair.add(runner, "bob", one, 1, scope="bob") == 0


def test_a_dropped_answer_leaves_nothing_at_any_stage(pair: Sighted) -> None:
    for steps in range(8):
        runner = pair.seeing_runner(chunk=8, quiet=32)
        pair.add(runner, "gone", pair.said(text(77, 20), 0, text(78, 20)), 9)
        pair.add(runner, "stays", pair.said(1, [5]), 9)
        for _ in range(steps):
            runner.step()
        runner.drop("gone")
        finish(runner)
        assert not runner.running
        assert not runner.held_blocks


def test_a_file_that_is_gone_ends_its_own_answer_alone(pair: Sighted, tmp_path: Path) -> None:
    lost = replace(pair, images=(shown(tmp_path, 9), pair.images[1]))
    Path(lost.images[0].path).unlink()
    runner = lost.seeing_runner(quiet=32)
    lost.add(runner, "blind", lost.said([2, 3], 0, [4]), 5)
    lost.add(runner, "fine", lost.said([2, 3], 1, [4]), 5)
    errors, made = [], []
    while runner.running:
        for step in runner.step():
            errors += [step] if step.error else []
            made += step.tokens if step.id == "fine" else []
    assert [step.id for step in errors] == ["blind"]
    assert isinstance(errors[0].error, OSError)
    assert made == lost.greedy(lost.said([2, 3], 1, [4]), 5)
    assert not runner.held_blocks


def test_a_penalty_does_not_stumble_over_images(sighted: Sighted) -> None:
    runner = sighted.seeing_runner()
    punished = replace(GREEDY, repetition_penalty=1.3)
    tokens = sighted.said([2, 5], 0, [6])
    runner.add("it", tokens, punished, 3, seed=1, scope="", images=sighted.files())
    assert len(finish(runner)["it"]) == 3


@pytest.mark.parametrize("size", [(50, 37), (31, 200), (32, 32), (900, 7)])
def test_pixels_are_those_of_their_processor(tmp_path: Path, size: tuple[int, int]) -> None:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    image = shown(tmp_path, 5, size)
    theirs = Gemma3ImageProcessorPil(
        size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )(Pil.open(image.path), return_tensors="pt")["pixel_values"][0]
    assert torch.allclose(pixels(image.path, 32), theirs, atol=1e-5)


@pytest.mark.parametrize("name", ["4b", "12b", "text"])
def test_the_measures_of_the_published_models(tmp_path: Path, name: str) -> None:
    """As in the published configurations; a text model has no eyes."""
    import json

    config: dict[str, Any] = {
        "model_type": "gemma3",
        "mm_tokens_per_image": 256,
        "image_token_index": 262144,
        "vision_config": {
            "hidden_size": 1152,
            "image_size": 896,
            "intermediate_size": 4304,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "patch_size": 14,
            "vision_use_head": False,
        },
    }
    if name == "text":
        config = {"model_type": "gemma3_text"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    sight = shape.sight(tmp_path)
    if name == "text":
        assert sight is None
        return
    assert sight is not None
    assert (sight.grid**2, sight.tokens, sight.token) == (4096, 256, 262144)
    assert 410e6 < sight.values < 420e6
