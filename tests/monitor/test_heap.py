"""The heap: pages between what is kept are given back when it is told to."""

import os
import platform
import subprocess
import sys

import pytest

SCATTERED = """
import os
from chat_app.monitor import heap
from chat_app.monitor.probe import rss_of
kept = [bytes(4000) for _ in range(20_000)]
kept = kept[::100]
before = rss_of(os.getpid())
print(heap.trim(), int(before - rss_of(os.getpid())))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_free_pages_go_back() -> None:
    """80 MB in blocks of which one of a hundred stays: the end of the heap is never free."""
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": str(2**40)}
    found = subprocess.run(
        [sys.executable, "-c", SCATTERED],
        env=environment,
        capture_output=True,
        check=True,
        text=True,
    )
    done, freed = found.stdout.split()
    assert done == "True"
    assert int(freed) > 50_000_000
