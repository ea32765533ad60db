"""The heap: threads share it, and pages between what is kept are given back when it is told to."""

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

THREADS = """
import ctypes, sys, threading
from chat_app.monitor import heap
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
if "share" in sys.argv:
    assert heap.share()
here = threading.Barrier(9)
def ask():
    libc.malloc(4000)
    here.wait()
    here.wait()
threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads:
    thread.start()
here.wait()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
here.wait()
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_threads_share_two_arenas() -> None:
    """Eight threads that ask at once have one each without it."""

    def arenas(*given: str) -> int:
        program = [sys.executable, "-c", THREADS, *given]
        return subprocess.run(program, capture_output=True, check=True).stdout.count(b"<heap nr=")

    assert arenas() > 2
    assert arenas("share") == 2
