"""The real application behind its shield on a free port, and people who speak to Gradio's queue."""

import json
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

import launch
from chat_app.accounts import users
from chat_app.accounts.passwords import Passwords
from chat_app.app import App, build
from tests.apps import PASSWORD, script_settings
from ui import connections


@dataclass
class Visitor:
    """Somebody with a browser session of Gradio, signed in or not."""

    client: httpx.Client
    username: str = ""
    session: str = field(default_factory=lambda: secrets.token_hex(6))

    def config(self) -> dict[str, Any]:
        """What the page tells the browser about components and handlers."""
        text = self.client.get("/").text
        start = text.index("window.gradio_config = ") + len("window.gradio_config = ")
        content: dict[str, Any] = json.JSONDecoder().raw_decode(text[start:])[0]
        return content

    def join(self, fn_index: int, data: list[Any], event_data: Any = None) -> httpx.Response:
        """Ask for a handler by its number, as anybody can."""
        return self.client.post(
            "/gradio_api/queue/join",
            json={
                "data": data,
                "fn_index": fn_index,
                "session_hash": self.session,
                "event_data": event_data,
                "trigger_id": None,
            },
        )

    def events(self) -> Iterator[dict[str, Any]]:
        """The messages of the session's stream."""
        query = {"session_hash": self.session}
        with self.client.stream("GET", "/gradio_api/queue/data", params=query) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    def call(
        self, fn_index: int, data: list[Any], event_data: Any = None
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Run a handler to its end: the last message and all before it."""
        event = self.join(fn_index, data, event_data).raise_for_status().json()["event_id"]
        seen: list[dict[str, Any]] = []
        for message in self.events():
            if message.get("event_id") not in {None, event}:
                continue
            if message["msg"] == "process_completed":
                return message, seen
            seen.append(message)
        raise AssertionError(f"the stream ended early: {seen}")


@dataclass
class Site:
    """The running site."""

    app: App
    url: str
    demo: Any
    data_dir: Path
    server: uvicorn.Server
    visitors: list[Visitor] = field(default_factory=list)

    def visitor(self) -> Visitor:
        """Somebody who is not signed in."""
        client = httpx.Client(base_url=self.url, headers={"Origin": self.url}, timeout=30)
        made = Visitor(client)
        self.visitors.append(made)
        return made

    def person(self, *, admin: bool = False, role: str = "user") -> Visitor:
        """Somebody with an account and a cookie; `admin` is short for that role."""
        role = "admin" if admin else role
        made = self.visitor()
        made.username = f"{role}-{secrets.token_hex(4)}"
        body = {
            "username": made.username,
            "email": f"{made.username}@example.org",
            "password": PASSWORD,
        }
        made.client.post("/api/auth/register", json=body).raise_for_status()
        if role != "user":
            with self.app.db.read() as session:
                found = users.find(session, made.username)
            assert found is not None
            assert found.id is not None
            number = found.id
            self.app.db.write(lambda session: users.set_role(session, user_id=number, role=role))
        body = {"login": made.username, "password": PASSWORD}
        made.client.post("/api/auth/login", json=body).raise_for_status()
        return made

    def number(self, name: str) -> int:
        """The number of the first handler of this name."""
        return next(n for n, fn in self.demo.fns.items() if fn.fn and fn.fn.__name__ == name)


@contextmanager
def serving(data_dir: Path, *, shielded: bool = True, **over: Any) -> Iterator[Site]:
    """A site with the script engine; without the shield it is as Gradio alone would serve it."""
    app = build(script_settings(data_dir, **over))
    app.passwords = Passwords(app.secrets.pepper, cost=4, max_waiting=100)
    web = launch.build_web(app) if shielded else bare(app)
    server = uvicorn.Server(
        uvicorn.Config(
            web,
            port=0,
            log_level="warning",
            timeout_graceful_shutdown=1,
            http=connections.limited(app.settings.server) if shielded else "httptools",
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    site = Site(app, f"http://127.0.0.1:{port}", _demo(web), data_dir, server)
    try:
        yield site
    finally:
        for visitor in site.visitors:
            visitor.client.close()
        server.should_exit = True
        thread.join(20)


def bare(app: App) -> Any:
    """The same page and the same REST API, mounted the usual way: nothing guards the paths."""
    import gradio as gr

    from chat_app import api
    from ui import page

    web = api.create(app)

    @asynccontextmanager
    async def lifespan(_web: object) -> AsyncIterator[None]:
        await app.start()
        yield
        await app.stop()

    web.router.lifespan_context = lifespan
    return gr.mount_gradio_app(web, page.build(app), path="/", ssr_mode=False)


def _demo(web: Any) -> Any:
    """The Blocks inside the mounted application."""
    while hasattr(web, "inner"):
        web = web.inner
    return next(
        route.app.get_blocks()
        for route in web.routes
        if hasattr(getattr(route, "app", None), "get_blocks")
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One site for the tests of a module."""
    with serving(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture
def sites(tmp_path: Path) -> Callable[..., Any]:
    """Sites with other settings."""
    return lambda **over: serving(tmp_path, **over)
