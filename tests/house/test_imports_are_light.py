"""Looking at the program costs nothing: no model library and no page is loaded for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import tree

HEAVY = [
    "torch", "transformers", "openvino", "openvino_genai", "gguf", "bitsandbytes", "accelerate",
    "gradio", "lightgbm", "sklearn", "statsmodels", "pandas", "scipy", "pynvml", "huggingface_hub",
]  # fmt: skip
REPORT = (
    "import json, sys, threading;"
    f"print(json.dumps([[n for n in {HEAVY} if n in sys.modules], threading.active_count()]))"
)


@pytest.mark.parametrize(
    "module",
    [
        "chat_app",
        "chat_app.app",
        "chat_app.flows.message",
        "chat_app.flows.selfcheck",
        "chat_app.schedule",
        "chat_app.__main__",
        "chat_app.llm.build",
        "chat_app.llm.supervisor",
        "chat_app.api",
        "ui",
        "launch",
    ],
)
def test_import_is_light(module: str) -> None:
    done = tree.run_python("-c", f"import {module}; {REPORT}")
    assert done.returncode == 0, done.stderr
    loaded, threads = json.loads(done.stdout)
    assert loaded == []
    assert threads == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["launch.py", "--help"],
        ["-m", "chat_app", "--help"],
        ["-m", "chat_app", "verify", "--help"],
        ["-m", "chat_app", "models", "list"],
    ],
)
def test_command_is_light(arguments: list[str]) -> None:
    done = tree.run_python("-X", "importtime", *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    # How a model would run depends on the GPU, and the driver's library is asked for that.
    known = {"pynvml"} if "list" in arguments else set()
    assert loaded & set(HEAVY) <= known


def test_importing_the_app_touches_no_file(tmp_path: Path) -> None:
    """No database, secrets or log file appears because something was imported."""
    code = (
        "import sys, os; sys.path.insert(0, os.environ['HOUSE']); before = set(os.listdir('.'));"
        "import chat_app.app, chat_app.schedule, launch; print(set(os.listdir('.')) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "HOUSE": str(tree.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "set()", done.stderr
