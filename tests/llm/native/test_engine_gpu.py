"""The benchmark for a GPU runs without one, from the first part to the table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import tree


@pytest.mark.full
def test_the_smoke_run_fills_every_part(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.engine_gpu", "--smoke", "--out", str(out)],
        cwd=tree.ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    results = json.loads(out.read_text())
    assert results["checks smoke"]["same_texts"]
    assert not results["checks smoke"]["differs"]
    for form in ("bfloat16", "float8", "nf4"):
        assert results["ours smoke"][form]["3"]["tokens_per_second"] > 0
        assert f"smoke  {form}" in done.stdout
    assert "failed" not in done.stdout
