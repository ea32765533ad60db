"""Sessions: what Gradio keeps of an open page, as little as our pages need.

Gradio copies its table of components for each page that opens, and describes every component of
it anew, again with each update of one, so that a link to the page's state could be made. There is
no such link here: a page keeps only the components that it changed, of these only those that read
what is given to them by what they are, such as a list by its choices, and no values at all.
"""

from collections.abc import Iterator, MutableMapping
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from gradio.blocks import BlocksConfig
from gradio.components import State
from gradio.routes import App as GradioApp
from gradio.state_holder import SessionState, StateHolder

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI


class Changed(dict[int, Any]):
    """The components that one page changed; all others are those that the pages share."""

    def __init__(self, shared: dict[int, Any]) -> None:
        super().__init__()
        self._shared = shared

    def __missing__(self, key: int) -> Any:
        return self._shared[key]

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or key in self._shared

    def get(self, key: int, default: Any = None) -> Any:
        return super().get(key, self._shared.get(key, default))

    def __iter__(self) -> Iterator[int]:
        return iter(self._shared)

    def __len__(self) -> int:
        return len(self._shared)

    def keys(self) -> Any:
        return self._shared.keys()

    def values(self) -> Any:
        return [self[key] for key in self]

    def items(self) -> Any:
        return [(key, self[key]) for key in self]


def reading(blocks: "gr.Blocks") -> frozenset[int]:
    """Components that a handler is given the value of, or that hold values to their choices."""
    given = {part._id for handler in blocks.fns.values() for part in handler.inputs}
    choosing = {id for id, part in blocks.blocks.items() if hasattr(part, "choices")}
    return frozenset(given | choosing)


class Session(SessionState):  # type: ignore[misc]
    """One open page. Components in `reading` are set as Gradio does, and none is described."""

    def __init__(self, blocks: "gr.Blocks", reading: frozenset[int]) -> None:
        shared = blocks.default_config
        self._reading = reading
        self._passing: tuple[int, Any] = (-1, None)
        self.blocks_config = BlocksConfig(shared.root_block)
        self.blocks_config.blocks = Changed(shared.blocks)
        self.blocks_config.fns = shared.fns
        self.blocks_config.fn_id = shared.fn_id
        self.config_values: dict[int, Any] = {}
        self.state_data: dict[int, Any] = {}
        self._state_ttl: dict[int, Any] = {}
        self.is_closed = False
        self.STATE_TTL_WHEN_CLOSED = 3600

    def __setitem__(self, key: int, value: Any) -> None:
        block = self.blocks_config.blocks.get(key)
        if isinstance(block, State):
            self._state_ttl[key] = (block.time_to_live, datetime.now())  # noqa: DTZ005 - Gradio's
            self.state_data[key] = value
        elif key in self._reading:
            self.blocks_config.blocks[key] = value
        else:
            self._passing = (key, value)

    def __getitem__(self, key: int) -> Any:
        # Gradio reads what it has just set, once, to say to the page what has changed of it.
        passing, self._passing = self._passing, (-1, None)
        return passing[1] if passing[0] == key else super().__getitem__(key)

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


class Sessions(StateHolder):  # type: ignore[misc]
    """Gradio's sessions, which are cheap to begin and to keep."""

    def __init__(self, blocks: "gr.Blocks") -> None:
        super().__init__()
        self.set_blocks(blocks)
        self._reading = reading(blocks)

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = Session(self.blocks, self._reading)
        return super().__getitem__(session_id)


class Pending(dict[str, set[str]]):
    """Which events each page waits for.

    Gradio keeps an empty entry of every page there ever was, and an empty queue for each of the
    last 2,000. Whenever a page is new, two others are looked at, the one longest not looked at
    first; one that waits for nothing is forgotten with its queue, and begins anew when it asks.
    """

    def __init__(self, queues: MutableMapping[str, Any]) -> None:
        super().__init__()
        self._queues = queues

    def __missing__(self, session: str) -> set[str]:
        return set()

    def __setitem__(self, session: str, waiting: set[str]) -> None:
        for other in list(islice(self, 2)):
            kept = self.pop(other)
            if kept:
                super().__setitem__(other, kept)
            elif other != session:
                self._queues.pop(other, None)
        super().__setitem__(session, waiting)


def install(web: "FastAPI", blocks: "gr.Blocks") -> None:
    """Have the application that is mounted in `web` keep its sessions so."""
    mounted = [getattr(route, "app", None) for route in web.routes]
    (gradio_app,) = [found for found in mounted if isinstance(found, GradioApp)]
    gradio_app.state_holder = Sessions(blocks)
    blocks._queue.pending_event_ids_session = Pending(blocks._queue.pending_messages_per_session)
