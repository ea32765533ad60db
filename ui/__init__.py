"""The browser's side: Gradio on the same port as the REST API, behind a shield.

Importing this package is light; Gradio itself is imported by `mount`.
"""

import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from chat_app.app import App
from ui.shield import ASGI, Shield

if TYPE_CHECKING:
    from fastapi import FastAPI

_ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Gradio groups its own events with pandas after each one unless told to do so rarely.
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000000",
    "GRADIO_ANALYTICS_MAX_EVENTS": "100",
}
MAX_EVENTS = 256
MAX_SESSIONS = 1000


@contextmanager
def _no_stubs() -> Iterator[None]:
    """Gradio writes type stubs into its own folder at every import, which takes a second and is
    nothing for a server; it goes on without those of what has no file.
    """
    found = inspect.getfile

    def getfile(thing: Any) -> str:
        if sys._getframe(1).f_code.co_name == "create_or_modify_pyi":
            raise OSError
        return found(thing)

    inspect.getfile = getfile  # type: ignore[assignment]
    try:
        yield
    finally:
        inspect.getfile = found


def mount(app: App, web: "FastAPI") -> ASGI:
    """Add the browser UI at `/` and return the shielded application that is to be served.

    The routes that `web` has already keep their precedence.
    """
    os.environ.update(_ENVIRONMENT)
    folder = app.settings.data_dir.absolute() / "ui"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    # Gradio tries to import matplotlib on every update; a known absence is cheap.
    sys.modules.setdefault("matplotlib", None)  # type: ignore[arg-type]

    with _no_stubs():
        import gradio as gr
    from starlette.middleware.cors import CORSMiddleware

    from ui import front, guard, installed, languages, page, scripts, sessions, straight, theme

    made = page.assemble(app)
    demo = made.demo
    # Gradio checks file paths only in apps that were launched; a mounted one never is.
    demo.has_launched = True
    demo.max_threads = MAX_EVENTS
    demo.state_session_capacity = MAX_SESSIONS
    demo.queue(api_open=False, status_update_rate=5, default_concurrency_limit=MAX_EVENTS)
    # With a policy on the parent Gradio does not answer other sites' preflight requests.
    web.add_middleware(CORSMiddleware, allow_origins=[])
    installed.install(web)
    languages.install(web)
    gr.mount_gradio_app(
        web,
        demo,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=True,
        ssr_mode=False,
        max_file_size="1kb",
        favicon_path=str(theme.STATIC / "favicon.png"),
        theme=theme.build(),
        css=theme.css(),
        head=theme.head(),
    )
    sessions.install(web, demo)
    straight.install(web)
    types = {block.get_block_name() for block in demo.blocks.values()}
    early = scripts.install(web, types=types, script=theme.script())
    front.install(web, who=partial(guard.role_of, app), looks=made.looks, dress=early.head)
    return Shield(web, app.settings, handlers=demo.fns)
