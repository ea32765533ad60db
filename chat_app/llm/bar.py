"""The progress of a download on a terminal; silence where nobody watches."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from chat_app.llm.loader import Progress


@contextmanager
def bar() -> Iterator[Progress]:
    """A progress function for `loader.pull` and `loader.verify` that draws on stderr."""
    from tqdm import tqdm

    with tqdm(
        unit="B", unit_scale=True, unit_divisor=1000, leave=False, disable=not sys.stderr.isatty()
    ) as line:

        def tell(done: int, total: int, sentence: str) -> None:
            line.total = total or None
            line.set_description_str(sentence, refresh=False)
            if done < line.n:  # another step begins
                line.reset(line.total)
            line.update(done - line.n)

        yield tell
