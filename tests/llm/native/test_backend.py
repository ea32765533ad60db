"""Our engine as a backend: what it refuses and how it says so, its tokenizer, its figures."""

import json
import math
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors import SafetensorError

from chat_app.llm import convert
from chat_app.llm.backends import base, native
from chat_app.llm.backends.base import Family, LoadRefused, Spec, Unfit
from chat_app.llm.backends.native import Native
from chat_app.llm.engine import ChatMessage, Sampling
from chat_app.llm.tokenizer import Tokenizer
from tests.llm.native.conftest import MAKERS

GREEDY = Sampling(temperature=0.0)
TALK = (
    ChatMessage("system", "Answer briefly."),
    ChatMessage("user", "What is  the capital of Perú?\n\nNaïve – 東京 🙂"),
    ChatMessage("assistant", "Lima."),
    ChatMessage("user", "And\tof Chile? "),
)
TEXTS = (
    "",
    "plain words",
    "  spaces   and\ttabs\n\n\nlines ",
    "Größe, señor, Фотосинтез, 東京都",
    "🙂👩‍👩‍👧 1234567.89 == x[0] // don't",
)
Memory = namedtuple("Memory", ["available"])


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama with a tokenizer and a chat template as such models have."""
    import torch
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("llama")
    fast = Fast(BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = BpeTrainer(
        vocab_size=512,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator([message.content for message in TALK] * 3, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=fast, bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    wrapped.chat_template = (
        "{% for message in messages %}\n"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}"
        "{{ '<|im_end|>' + '\\n' }}\n"
        "{% endfor %}\n"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    wrapped.save_pretrained(folder)
    torch.manual_seed(7)
    MAKERS["llama"](eos_token_id=2).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(llama_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(llama_folder, tmp_path / "model"))


def spec(folder: Path, **changes: Any) -> Spec:
    values: dict[str, Any] = {
        "model": "small",
        "family": "llama",
        "path": str(folder),
        "backend": "native",
        "device": "cpu",
        "threads": 1,
        "context_tokens": 256,
        "why": "It is a test.",
    }
    return Spec(**(values | changes))


def silent(sentence: str, fraction: float | None) -> None:
    pass


def refusal(folder: Path, **changes: Any) -> LoadRefused:
    with pytest.raises(LoadRefused) as refused:
        Native(spec(folder, **changes), silent)
    return refused.value


def ours(folder: Path, **changes: Any) -> Native:
    return Native(spec(folder, **changes), silent)


def test_too_little_memory_is_said_in_numbers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(300 * 1024**2))
    refused = refusal(folder)
    assert refused.code == "not_enough_memory"
    assert "needs about 0.6 GiB of free memory and there are 0.3 GiB" in str(refused)


def test_the_cache_shrinks_to_the_memory_there_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a little more than the least, a model runs and one whole context still fits."""
    plenty = ours(folder, context_tokens=512).figures()["kv_bytes"]
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(601 * 1024**2))
    tight = ours(folder, context_tokens=512)
    assert 0 < tight.figures()["kv_bytes"] < plenty
    assert tight.add("a", [5] * 500, GREEDY, 12) == 0
    assert tight.add("b", [6] * 500, GREEDY, 12) is None


def test_another_architecture_is_named(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    refused = refusal(folder)
    # Another backend may know it; what is damaged is so for all of them.
    assert isinstance(refused, Unfit)
    assert "mistral" in str(refused)


def test_an_architecture_that_nobody_knows(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "frobnicator"}))
    refused = refusal(folder)
    assert refused.code == "load_failed"
    assert "frobnicator" in str(refused)


@pytest.mark.parametrize("left", [0, 100, 0.5])
def test_weights_that_were_cut_short(folder: Path, left: float) -> None:
    path = folder / "model.safetensors"
    os.truncate(path, int(path.stat().st_size * left) if 0 < left < 1 else int(left))
    refused = refusal(folder)
    assert refused.code == "load_failed"
    assert not isinstance(refused, Unfit)
    assert "model.safetensors" in str(refused)


def test_weights_that_lack_a_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    refused = refusal(folder)
    assert refused.code == "load_failed"
    assert "model.layers.1.mlp.up_proj.weight" in str(refused)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refused = refusal(folder)
    assert refused.code == "load_failed"
    assert not isinstance(refused, Unfit)
    assert name.rsplit(".", maxsplit=1)[-1] in str(refused)
    assert str(folder.parent) not in str(refused)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_file_that_is_no_json(folder: Path, name: str) -> None:
    (folder / name).write_text("{not json")
    refused = refusal(folder)
    assert refused.code == "load_failed"
    assert not isinstance(refused, Unfit)
    assert name in str(refused)


def test_figures_have_the_names_that_operators_see(folder: Path) -> None:
    backend = ours(folder)
    prompt = backend.encode(TALK)
    assert backend.add("a", prompt, GREEDY, 5, scope="x") == 0
    while backend.step():
        pass
    again = backend.add("b", prompt, GREEDY, 5, scope="x")
    assert again == (len(prompt) - 1) // 16 * 16 > 0
    figures = backend.figures()
    assert set(figures) >= {
        "batch_answers",
        "kv_used_share",
        "kv_bytes",
        "weights_bytes",
        "decode_tokens",
        "prefill_tokens",
        "prefix_asked_tokens",
        "prefix_hit_tokens",
        "steps",
        "busy_seconds",
    }
    assert all(math.isfinite(value) and value >= 0 for value in figures.values())
    assert figures["batch_answers"] == 1
    assert figures["prefix_asked_tokens"] == 2 * len(prompt)
    assert figures["prefix_hit_tokens"] == again
    assert figures["steps"] > 0
    assert figures["busy_seconds"] > 0


def test_it_says_which_format_and_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, word in (
        (set(), "float32"),
        ({"avx512_bf16"}, "bfloat16"),
        ({"avx512_vnni"}, "8 b"),
    ):
        monkeypatch.setattr(base, "cpu_flags", lambda flags=flags: flags)
        backend = ours(folder, quantization="auto")
        assert backend.why.startswith("It is a test. ")
        assert word in backend.why
        assert backend.add("a", backend.encode(TALK), GREEDY, 3) == 0
        assert backend.step()


@pytest.mark.parametrize(
    "error", [OSError(30, "Read-only file system"), SafetensorError("I/O error: no space left")]
)
def test_without_a_place_for_the_8_bit_form_it_runs_in_16(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A models directory on a read-only disk, as containers like to have it, or a full one."""

    def refuse(tensors: object, path: Path) -> None:
        raise error

    monkeypatch.setattr(base, "cpu_flags", lambda: {"avx512_vnni"})
    monkeypatch.setattr("safetensors.torch.save_file", refuse)
    backend = ours(folder, quantization="auto")
    assert "could not be stored (" in backend.why
    assert "in bfloat16" in backend.why
    assert backend.add("a", backend.encode(TALK), GREEDY, 3) == 0
    assert backend.step()


def test_what_was_prepared_is_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a file has changed since."""
    native.prepare(str(folder), "llama", "cpu")

    def read(*_: object, **__: object) -> None:
        raise ValueError("read again")

    monkeypatch.setattr(Tokenizer, "__init__", read)
    assert ours(folder).count_text("plain words") > 0
    config = folder / "tokenizer_config.json"
    config.write_text(config.read_text() + " ")
    assert "read again" in str(refusal(folder))


@pytest.mark.parametrize("damage", [None, "config.json", "tokenizer.json"])
def test_what_cannot_be_prepared_is_left_to_the_load(folder: Path, damage: str | None) -> None:
    if damage:
        (folder / damage).write_text("{")
    native.prepare(str(folder if damage else folder / "none"), "llama", "cuda")


def check_tokenizer(folder: Path, family: Family) -> None:
    """Ours against transformers', on the same folder."""
    from transformers import AutoTokenizer

    theirs, mine = AutoTokenizer.from_pretrained(folder), Tokenizer(folder, family)
    for text in TEXTS:
        ids = theirs.encode(text, add_special_tokens=False)
        assert mine.ids(text) == ids
        assert mine.decode(ids) == theirs.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
    prompt = mine.encode(TALK)
    with_end = [*prompt, *sorted(mine.ends), *mine.ids("more")]
    assert mine.decode(with_end) == theirs.decode(
        with_end, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    assert theirs.eos_token_id in mine.ends
    if theirs.chat_template is None:
        assert prompt == theirs.encode(mine.rendered(TALK), add_special_tokens=False)
        return
    turns = [{"role": message.role, "content": message.content} for message in TALK]
    rendered = theirs.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert mine.rendered(TALK) == rendered
    assert prompt == theirs.encode(rendered, add_special_tokens=False)


def test_its_tokenizer_is_transformers_one_for_llama(llama_folder: Path) -> None:
    check_tokenizer(llama_folder, "llama")


@pytest.mark.weights
def test_its_tokenizer_is_transformers_one_for_gemma(gemma_weights: Path) -> None:
    folder = gemma_weights / "gemma-3-270m" / "safetensors"
    check_tokenizer(folder, "gemma3")
    mine = Tokenizer(folder, "gemma3")
    prompt = mine.encode([ChatMessage("user", "Hi")])
    assert prompt[0] == 2, "one start token, and not two"
    assert prompt[1:].count(2) == 0
    # The ends of a turn and of a text are single tokens, and both end an answer.
    (turn,) = mine.ids("<end_of_turn>")
    assert turn in mine.ends or 1 in mine.ends


@pytest.mark.weights
def test_its_tokenizer_is_transformers_one_for_the_demo_model(
    demo_weights: Path, tmp_path: Path
) -> None:
    """As it is made from the GGUF, with the template that the file brings."""
    (gguf,) = (demo_weights / "smollm2-135m-instruct").glob("*.gguf")
    convert._tokenizer(gguf, "llama", tmp_path)
    check_tokenizer(tmp_path, "llama")
    assert "<|im_start|>user" in Tokenizer(tmp_path, "llama").rendered(TALK)
