"""The C library's heap: threads share it, and what is free in it goes back when it is told to."""

import ctypes
from contextlib import suppress

_M_ARENA_MAX = -8  # malloc.h
_ARENAS = 2


def share() -> bool:
    """Let threads share two arenas; call it before they begin. Whether the C library does so.

    Each would get an arena of its own, and what it freed there stays with it: under the lock of
    the interpreter they hardly ever ask at once.
    """
    with suppress(OSError, AttributeError, TypeError):
        return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS))
    return False


def trim() -> bool:
    """Give free pages back to the system; whether the C library takes that order (glibc does)."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
        return True
    return False
