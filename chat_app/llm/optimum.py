"""Safetensors to OpenVINO's files with optimum-intel, which lives in an environment of its own.

It needs an older transformers than the rest, so it is called as a program and never imported.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Literal

from chat_app.llm import ir, loader
from chat_app.llm.catalogue import Entry
from chat_app.llm.loader import PullFailed

_INT4_BYTES = 1_600_000_000
"""bfloat16 weights of the smallest model that four bits leave usable."""


def convert(
    entry: Entry, models_dir: Path, *, python: Path, weights: Literal["int8", "int4"]
) -> Path:
    """Make the model's OpenVINO folder, whole or not at all; minutes. Raises PullFailed."""
    source = loader.weights(entry, models_dir).safetensors
    if source is None:
        if loader.weights(entry, models_dir).gguf is None:
            raise PullFailed(f"The weights of {entry.name} are not here. Pull them first.")
        source = loader.prepare(entry, models_dir)
    size = sum(file.stat().st_size for file in source.glob("*.safetensors"))
    if weights == "int4" and size < _INT4_BYTES:
        raise PullFailed(f"Four bits destroy a model as small as {entry.name}. Take int8.")
    draft = models_dir / f".convert-{entry.id}"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        _export(python, source, draft, weights)
        return ir.from_conversion(draft, models_dir / entry.id / loader.OPENVINO, entry.family)
    except (OSError, RuntimeError, ir.Unusable) as error:
        raise PullFailed(f"{entry.name} could not be converted: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _export(python: Path, source: Path, draft: Path, weights: str) -> None:
    task = ["--task", "text-generation-with-past", "--weight-format", weights]
    # Not the script beside it: that one may be missing or belong to another Python.
    command = [str(python), "-m", "optimum.commands.optimum_cli", "export", "openvino"]
    done = subprocess.run(  # noqa: S603 - the operator's own Python
        [*command, "--model", str(source.resolve()), *task, str(draft.resolve())],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise PullFailed(
            f"optimum-intel gave up: {lines[-1] if lines else done.returncode}. "
            "Its environment is described in docs/commands.md."
        )
