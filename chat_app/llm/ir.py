"""A model's files for OpenVINO: made from a GGUF once, or taken over from a conversion.

OpenVINO knows one cache of prompts for all and finds blocks in it by their tokens. Our files are
changed in one place so that people can be kept apart: behind the vocabulary lie other names of
the tokens every prompt begins with. A prompt that begins with such names is the same to the
model, and another one to the cache. Knows neither requests nor scopes.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chat_app.llm import prompt as prompts
from chat_app.llm.engine import ChatMessage

NAMES = 1024
"""Other names of each token that prompts begin with."""
MODEL = "openvino_model.xml"
_NOTE = "ready.json"
_VERSION = 1
# Every byte is read before a model of up to this size is used; of a larger one only the sizes.
_HASHED_BYTES = 1024**3
_KEPT = (
    "openvino_tokenizer",
    "openvino_detokenizer",
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "chat_template",
    "special_tokens_map.json",
)
# The sampler may pick a name only if a model made all else impossible.
_NEVER = -1e30


class Unusable(Exception):
    """These files are no text model that can be changed; the sentence says why."""


@dataclass(frozen=True)
class Ready:
    """What is known of a folder made here.

    `heads` are the tokens with other names: the names of the one at index i are the NAMES
    numbers from `vocabulary + i * NAMES`. `cache_values` is how many numbers the cache takes
    for one token of a prompt.
    """

    vocabulary: int
    heads: tuple[int, ...]
    cache_values: int

    def named(self, tokens: Sequence[int], number: int) -> list[int]:
        """The same prompt under the names of this number: its first two tokens are renamed.

        Raises ValueError for a prompt that does not begin as the family's prompts do.
        """
        renamed = list(tokens)
        for position, digit in enumerate(divmod(number % (NAMES * NAMES), NAMES)):
            index = self.heads.index(renamed[position])
            renamed[position] = self.vocabulary + index * NAMES + digit
        return renamed


def read(folder: Path, *, source: Path | None = None) -> Ready | None:
    """What a folder made here says of itself; None when it is damaged, old or not ours.

    With a source, it must have been made from this very file by the library of today.
    """
    try:
        note = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
        if note["version"] != _VERSION or not _whole(folder, note["files"]):
            return None
        if source is not None and note["source"] != _identity(source):
            return None
        facts = note["ready"]
        return Ready(facts["vocabulary"], tuple(facts["heads"]), facts["cache_values"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def beside(gguf: Path) -> Path:
    """Where the files made from this GGUF lie."""
    return gguf.with_suffix(".openvino")


def from_gguf(gguf: Path, family: str) -> Path:
    """Make the folder beside the GGUF, whole or not at all. Raises OSError, RuntimeError."""
    folder = beside(gguf)
    with _draft(folder) as draft:
        # The library writes beside the file that it reads.
        raw = draft / "raw"
        raw.mkdir()
        link = raw / gguf.name
        link.symlink_to(gguf.resolve())
        _written_by_library(link)
        link.unlink()
        _make(raw, draft / "ready", family, _identity(gguf))
        # Another process may have been faster, and may be reading its files already.
        if read(folder, source=gguf) is None:
            _put(draft / "ready", folder)
    return folder


def from_conversion(converted: Path, folder: Path, family: str) -> Path:
    """Make the folder from one that optimum-intel has written. Raises OSError, Unusable."""
    with _draft(folder) as draft:
        _make(converted, draft / "ready", family, {})
        _put(draft / "ready", folder)
    return folder


def prompt_text(tokenizer: Any, family: str, messages: Sequence[ChatMessage]) -> str:
    """The prompt's text: by the file's own template, or the family's where we know it better."""
    if family == "gemma3" or not tokenizer.chat_template:
        return prompts.render(messages, family)
    turns = [{"role": message.role, "content": message.content} for message in messages]
    return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True))


def tokens_of(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text, nothing added."""
    if not text:
        return []
    encoded = tokenizer.encode(text, add_special_tokens=False)
    return [int(token) for token in encoded.input_ids.data[0]]


def _written_by_library(gguf: Path) -> None:
    import openvino_genai

    openvino_genai.Tokenizer(str(gguf), enable_save_ov_model=True)
    try:
        # It writes before it looks for the device, and making the model ready for one that
        # is there would take as long again.
        openvino_genai.ContinuousBatchingPipeline(
            str(gguf), openvino_genai.SchedulerConfig(), "NONE", {"enable_save_ov_model": True}
        )
    except RuntimeError:
        if not gguf.with_name(MODEL).is_file():
            raise


def _make(raw: Path, folder: Path, family: str, source: dict[str, Any]) -> None:
    import openvino
    import openvino_genai

    tokenizer = openvino_genai.Tokenizer(str(raw))
    model = openvino.Core().read_model(raw / MODEL)
    heads = _heads(tokenizer, family)
    ready = Ready(_vocabulary(model), heads, _cache_values(model))
    _rename(model, ready)
    folder.mkdir()
    openvino.save_model(model, folder / MODEL, compress_to_fp16=False)
    for path in raw.iterdir():
        if path.name.startswith(_KEPT):
            shutil.copy(path, folder)
    files = {path.name: _fingerprint(path) for path in sorted(folder.iterdir())}
    note = {"version": _VERSION, "source": source, "ready": asdict(ready), "files": files}
    (folder / _NOTE).write_text(json.dumps(note, indent=2), encoding="utf-8")


def _heads(tokenizer: Any, family: str) -> tuple[int, ...]:
    """The first and second tokens of all prompts, whoever speaks first."""
    found: dict[int, None] = {}
    for role in ("system", "user", "assistant"):
        messages = [ChatMessage(role, "A"), ChatMessage("user", "B")]
        try:
            text = prompt_text(tokenizer, family, messages)
        except RuntimeError:  # templates may insist on who begins
            continue
        found |= dict.fromkeys(tokens_of(tokenizer, text)[:2])
    return tuple(found)


def _vocabulary(model: Any) -> int:
    shape = model.output(0).partial_shape
    if len(model.outputs) != 1 or len(shape) != 3 or shape[2].is_dynamic:
        raise Unusable("These files are not a text model's.")
    return int(shape[2].get_length())


def _cache_values(model: Any) -> int:
    values = 0
    for op in model.get_ops():
        if op.get_type_name() == "ReadValue":
            shape = op.output(0).partial_shape
            if len(shape) != 4 or shape[1].is_dynamic or shape[3].is_dynamic:
                raise Unusable("These files keep their cache in a way that is not known here.")
            values += int(shape[1].get_length() * shape[3].get_length())
    if not values:
        raise Unusable("These files were made without a cache. Convert them with past.")
    return values


def _rename(model: Any, ready: Ready) -> None:
    """Let the model take names for tokens, and never say one."""
    import numpy as np
    import openvino
    from openvino import opset13 as op

    extra = len(ready.heads) * NAMES
    result = model.output(0).get_node()
    last = result.input_value(0).get_node()
    names = last.output(0).tensor.names
    if last.get_type_name() != "MatMul" or "input_ids" not in {
        name for port in model.inputs for name in port.names
    }:
        raise Unusable("The end of this model is not one that is known here.")
    # The library looks for a multiplication at the very end to pick the rows that it samples
    # from. It is not the last any more, so the same is done here, under the same name.
    rows = op.parameter([-1], openvino.Type.i64, name="sampled_tokens_indices")
    rows.output(0).tensor.set_names({"sampled_tokens_indices"})
    picked = op.gather(last.input_value(0), rows, np.array([0], dtype=np.int64))
    last.input(0).replace_source_output(picked.output(0))
    ends = np.array([0, 0, extra], dtype=np.int64)
    wider = op.pad(
        last.output(0), np.zeros(3, dtype=np.int64), ends, "constant", np.float32(_NEVER)
    )
    result.input(0).replace_source_output(wider.output(0))
    model.add_parameters([rows])

    ids = model.input("input_ids")
    readers = list(ids.get_target_inputs())
    table = np.concatenate([np.arange(ready.vocabulary), np.repeat(ready.heads, NAMES)])
    real = op.convert(op.gather(op.constant(table.astype(np.int32)), ids, np.int64(0)), "i64")
    for reader in readers:
        reader.replace_source_output(real.output(0))
    model.output(0).tensor.set_names(names or {"logits"})
    model.validate_nodes_and_infer_types()


def _identity(source: Path) -> dict[str, Any]:
    from importlib.metadata import version

    stat = source.stat()
    return {
        "name": source.name,
        "size": stat.st_size,
        "modified_ns": stat.st_mtime_ns,
        "library": version("openvino-genai"),
    }


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {
            "size": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def _whole(folder: Path, files: dict[str, dict[str, Any]]) -> bool:
    if MODEL not in files or any(
        (folder / name).stat().st_size != expected["size"] for name, expected in files.items()
    ):
        return False
    return all(
        expected["size"] > _HASHED_BYTES or _fingerprint(folder / name) == expected
        for name, expected in files.items()
    )


@contextlib.contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    draft = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _put(ready: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    ready.rename(folder)
