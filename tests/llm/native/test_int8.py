"""The 8-bit form of real weights: its quality, its file; and real weights against transformers."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from chat_app.llm.native import int8, shape, weights
from chat_app.llm.native.cache import Cache, blocks, near_need
from chat_app.llm.native.calibration import TEXTS
from chat_app.llm.native.memory import Memory
from chat_app.llm.native.model import Model
from chat_app.llm.native.runner import Runner
from chat_app.llm.tokenizer import Tokenizer
from tests.llm.native.conftest import CPU, GREEDY, Pair, finish, make, text
from tests.llm.native.prose import TEXT

PROMPTS = (
    "The capital of France is",
    "def fibonacci(n: int) -> int:\n",
)


def linked(folder: Path, into: Path) -> Path:
    """The weights again, so that what is made beside them is made elsewhere."""
    into.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            (into / file.name).symlink_to(file.resolve())
    return into


@pytest.fixture(scope="module")
def real(gemma_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = gemma_weights / "gemma-3-270m" / "safetensors"
    return linked(folder, tmp_path_factory.mktemp("real") / "gemma")


@pytest.fixture(scope="module")
def measures(real: Path) -> shape.Shape:
    return shape.read(real)


def load(folder: Path, measures: shape.Shape, format: weights.Format) -> Model:
    return weights.load(folder, measures, format=format, device=CPU, positions=1024)


def runner(model: Model, dtype: torch.dtype) -> Runner:
    near = 4 * near_need(model.shape.window, 256) + 1
    cache = Cache(
        wide_blocks=blocks(4096), near_blocks=near, window=model.shape.window, chunk_tokens=256
    )
    memory = Memory(
        model.shape, wide_blocks=blocks(4096), near_blocks=near, dtype=dtype, device=CPU
    )
    return Runner(model, cache, memory, ends=frozenset(), chunk_tokens=128, quiet_chunk_tokens=256)


@pytest.mark.full
@pytest.mark.weights
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_8_bit_form_of_real_weights_says_nearly_the_same(
    real: Path, measures: shape.Shape
) -> None:
    """Goal C9, on a text that the scales were not made from."""
    assert not any(piece in calibration for piece in TEXT.split("\n\n") for calibration in TEXTS)
    tokens = [2, *Tokenizer(real, "gemma3").ids(TEXT)]
    assert len(tokens) >= 300
    right = int8.all_logits(load(real, measures, "bfloat16"), tokens).log_softmax(-1)
    got = int8.all_logits(load(real, measures, "int8"), tokens).log_softmax(-1)
    apart = (right.exp() * (right - got)).sum(-1).mean().item()
    same = (right.argmax(-1) == got.argmax(-1)).float().mean().item()
    assert apart <= 0.03
    assert same >= 0.93


@pytest.mark.full
@pytest.mark.weights
def test_real_weights_write_what_transformers_writes(real: Path, measures: shape.Shape) -> None:
    """Greedily in float32, 40 tokens, also beyond the window of 512; side by side in a batch."""
    from transformers import AutoModelForCausalLM

    tokenizer = Tokenizer(real, "gemma3")
    long = [2, *tokenizer.ids(TEXT), *tokenizer.ids(" ".join(TEXTS[:2]))]
    assert len(long) > measures.window == 512
    prompts = [[2, *tokenizer.ids(prompt)] for prompt in PROMPTS] + [long]
    ours = runner(load(real, measures, "float32"), torch.float32)
    for number, prompt in enumerate(prompts):
        assert ours.add(str(number), prompt, GREEDY, 40, seed=0, scope="") == 0
    written = finish(ours)
    del ours
    theirs = AutoModelForCausalLM.from_pretrained(real, dtype=torch.float32).eval()
    for number, prompt in enumerate(prompts):
        said = written[str(number)]
        assert len(said) == 40
        # One pass over prompt and answer: were one token another, theirs would differ there.
        with torch.inference_mode():
            logits = theirs(torch.tensor([prompt + said[:-1]]), logits_to_keep=40).logits[0]
        assert logits.argmax(-1).tolist() == said


@pytest.fixture
def small(tmp_path: Path) -> Pair:
    """A random Gemma 3 whose folder has a tokenizer, so that an 8-bit form can be made."""
    from tokenizers import Tokenizer as Fast
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    pair = make(tmp_path / "gemma", "gemma3")
    words = sorted({word for sentence in TEXTS for word in sentence.split()})[:500]
    fast = Fast(WordLevel({"?": 0} | {word: 1 + i for i, word in enumerate(words)}, "?"))
    fast.pre_tokenizer = Whitespace()
    fast.save(str(pair.folder / "tokenizer.json"))
    return pair


def kept_files(folder: Path) -> list[Path]:
    return sorted((folder / "native").iterdir())


def test_the_form_is_made_once_and_kept(small: Pair) -> None:
    tokens = text(1, 40)
    first = int8.all_logits(load(small.folder, small.shape, "int8"), tokens)
    (file,) = kept_files(small.folder)
    before = file.stat()
    again = int8.all_logits(load(small.folder, small.shape, "int8"), tokens)
    assert kept_files(small.folder) == [file]
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert torch.equal(first, again)
    right = int8.all_logits(small.ours, tokens)
    assert (first - right).norm() / right.norm() < 0.1


def test_the_form_appears_whole_or_not_at_all(small: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full in the middle of the file leaves nothing behind."""
    from safetensors import torch as files

    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half of it")
        assert path.name.endswith(".part")
        assert not int8.place(small.folder).exists()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "save_file", full)
        with pytest.raises(OSError, match="No space left"):
            load(small.folder, small.shape, "int8")
    assert kept_files(small.folder) == []
    load(small.folder, small.shape, "int8")
    assert kept_files(small.folder) == [int8.place(small.folder)]


@pytest.mark.parametrize("left", [0, 7, 3000])
def test_a_form_that_was_cut_short_is_made_again(small: Pair, left: int) -> None:
    tokens = text(2, 30)
    whole = int8.all_logits(load(small.folder, small.shape, "int8"), tokens)
    (file,) = kept_files(small.folder)
    size = file.stat().st_size
    os.truncate(file, left)
    again = int8.all_logits(load(small.folder, small.shape, "int8"), tokens)
    assert torch.equal(whole, again)
    assert kept_files(small.folder) == [file]
    assert file.stat().st_size == size


def test_other_weights_get_a_form_of_their_own_and_the_old_one_goes(
    small: Pair, tmp_path: Path
) -> None:
    tokens = text(3, 30)
    load(small.folder, small.shape, "int8")
    (old,) = kept_files(small.folder)
    other = make(tmp_path / "other", "gemma3", query_pre_attn_scalar=16)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(other.folder / name, small.folder / name)
    got = int8.all_logits(load(small.folder, other.shape, "int8"), tokens)
    (new,) = kept_files(small.folder)
    assert new != old
    right = int8.all_logits(other.ours, tokens)
    assert (got - right).norm() / right.norm() < 0.1


def test_weights_that_differ_only_inside_are_others(small: Pair) -> None:
    """Fine-tuned weights have the same names, shapes and size."""
    before = weights.content_key(small.folder)
    path = small.folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    for at in range(start, len(data), 64):
        data[at] ^= 1
    path.write_bytes(data)
    assert weights.content_key(small.folder) != before
    config = json.loads((small.folder / "config.json").read_text())
    (small.folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    assert weights.content_key(small.folder, "x") != weights.content_key(small.folder)


def test_no_row_depends_on_the_others(small: Pair) -> None:
    """Exactly: an answer is the same alone and among others whose numbers are a thousand times."""
    layer = load(small.folder, small.shape, "int8").layers[0].qkv
    rows = torch.randn(7, small.shape.hidden, generator=torch.Generator().manual_seed(4))
    rows[3:] *= 1000
    together = layer(rows)
    for number, row in enumerate(rows):
        assert torch.equal(together[number], layer(row[None])[0])


def test_answers_in_8_bits_are_the_same_alone_and_in_a_batch(small: Pair) -> None:
    model = load(small.folder, small.shape, "int8")
    prompts = {str(number): text(30 + number, 5 + 9 * number) for number in range(6)}
    alone = {}
    for id, prompt in prompts.items():
        one = runner(model, torch.float32)
        one.add(id, prompt, GREEDY, 12, seed=0, scope="")
        alone |= finish(one)
    all = runner(model, torch.float32)
    for id, prompt in prompts.items():
        all.add(id, prompt, GREEDY, 12, seed=0, scope="")
    assert finish(all) == alone
