"""Logging is the process's own: tests that configure it leave it as it was."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from chat_app import logs


@contextmanager
def kept_handlers() -> Iterator[None]:
    """Whatever is configured within the block is undone."""
    root = logging.getLogger()
    names = (*logs.OWN, *logs.QUIET)
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in names}
    # Those that are there stay open: the next configuration would close them.
    for handler in handlers:
        root.removeHandler(handler)
    try:
        yield
    finally:
        for handler in list(root.handlers):
            root.removeHandler(handler)
            handler.close()
        for handler in handlers:
            root.addHandler(handler)
        root.setLevel(level)
        for name, before in levels.items():
            logging.getLogger(name).setLevel(before)
