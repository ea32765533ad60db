"""How often a test repeats what must never go wrong: `pytest --full` takes all the time it needs.

The counts that acceptance names are those of `--full`; every run takes a part of them, so that
the whole suite stays within minutes on two cores.
"""

import os

FULL = "TESTS_FULL"


def effort(full: int, quick: int) -> int:
    """`full` repetitions with `pytest --full`, else `quick`."""
    return full if os.environ.get(FULL) else quick
