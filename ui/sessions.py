"""Sessions: what Gradio keeps of an open page, made from one description that all pages share.

Gradio describes every component anew for each page that opens, which takes the event loop longer
the more components there are. Here a page has a description of its own only of what it changed.
"""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from gradio.routes import App as GradioApp
from gradio.state_holder import SessionState, StateHolder

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI

Description = dict[str, Any]


class Descriptions(dict[int, Description]):
    """The descriptions of one page: the shared ones, copied when they are first asked for."""

    def __init__(self, shared: dict[int, Description]) -> None:
        super().__init__()
        self._shared = shared

    def __missing__(self, key: int) -> Description:
        found = self._shared[key]
        own = self[key] = {**found, "props": dict(found["props"])} if "props" in found else found
        return own

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or key in self._shared

    def items(self) -> Any:
        """All of them, the page's own before the shared."""
        return {**self._shared, **dict(super().items())}.items()


class Sessions(StateHolder):  # type: ignore[misc]
    """Gradio's sessions, which are cheap to begin."""

    def __init__(self, blocks: "gr.Blocks") -> None:
        super().__init__()
        self.set_blocks(blocks)
        made = blocks.default_config
        self._shared = {
            key: made.config_for_block(key, [], block)
            for key, block in made.blocks.items()
            if key in blocks.blocks
        }

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            # Without blocks it describes none; all else is as Gradio makes it.
            bare: Any = SimpleNamespace(default_config=self.blocks.default_config, blocks={})
            state = SessionState(bare)
            state.config_values = Descriptions(self._shared)
            self.session_data[session_id] = state
        return super().__getitem__(session_id)


def install(web: "FastAPI", blocks: "gr.Blocks") -> None:
    """Have the application that is mounted in `web` keep its sessions so."""
    mounted = [getattr(route, "app", None) for route in web.routes]
    (gradio_app,) = [found for found in mounted if isinstance(found, GradioApp)]
    gradio_app.state_holder = Sessions(blocks)
