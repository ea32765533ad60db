"""How often a test repeats what must never go wrong: `pytest --full` takes all the time it needs.

The counts that acceptance names are those of `--full`; every run takes a part of them, so that
the whole suite stays within minutes on two cores.
"""

import os
from typing import TypeVar

T = TypeVar("T")

FULL = "TESTS_FULL"


def effort(full: T, quick: T) -> T:
    """`full` with `pytest --full`, else `quick`."""
    return full if os.environ.get(FULL) else quick
