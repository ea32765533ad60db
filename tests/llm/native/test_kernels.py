"""Our Triton kernels without a GPU: right in the interpreter, and buildable for an H100."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import tree

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is made for Linux on x86-64"
)


def run(program: str, tmp_path: Path, **environment: str) -> str:
    # A cache of its own: with the user's, nothing would be built the second time.
    done = subprocess.run(
        [sys.executable, "-m", f"tests.llm.native.{program}"],
        cwd=tree.ROOT,
        env=os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.mark.full
def test_kernels_agree_with_plain_pytorch(tmp_path: Path) -> None:
    assert "all kernels agree" in run("kernel_checks", tmp_path, TRITON_INTERPRET="1")


@pytest.mark.full
def test_kernels_build_for_an_h100(tmp_path: Path) -> None:
    assert "of 7 kernels" in run("kernel_builds", tmp_path)
