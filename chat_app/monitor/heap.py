"""The C library's heap: what is free in it goes back to the system only when it is told to."""

import ctypes
from contextlib import suppress


def trim() -> bool:
    """Give free pages back to the system; whether the C library takes that order (glibc does)."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
        return True
    return False
