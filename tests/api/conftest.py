"""A real server on a free port with the script engine, and people to talk to it."""

import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from chat_app import api, settings
from chat_app.accounts import users
from chat_app.accounts.passwords import Passwords
from chat_app.app import App, build
from chat_app.credits import verify
from chat_app.flows import signup

PASSWORD = "correct horse battery staple"
MODEL = "smollm2-135m-instruct"
_UNLIMITED = dict.fromkeys(set(settings.Limits.model_fields) - {"plans"}, 0)
_names = itertools.count(1)


@dataclass
class Person:
    """Somebody with an account and an HTTP client that carries their access token."""

    client: httpx.Client
    username: str
    id: str
    tokens: dict[str, Any]

    def ask(self, text: str = "hello there", **more: Any) -> httpx.Response:
        """Send a message to the demo model."""
        headers = {"Idempotency-Key": key} if (key := more.pop("key", None)) else {}
        body = {"model": MODEL, "message": text, **more}
        return self.client.post("/api/chat/message", json=body, headers=headers)

    def available(self) -> str:
        """The available credits."""
        return str(self.client.get("/api/billing/balance").json()["available"])


@dataclass
class Server:
    """A served App."""

    app: App
    url: str
    clients: list[httpx.Client] = field(default_factory=list)

    def client(self, **headers: str) -> httpx.Client:
        """A client without any account."""
        made = httpx.Client(base_url=self.url, headers=headers, timeout=30)
        self.clients.append(made)
        return made

    def person(self, name: str = "", *, admin: bool = False, role: str = "user") -> Person:
        """A new account, signed in; `admin` is short for that role."""
        name = name or f"person{next(_names)}"
        client = self.client()
        email = f"{name}@example.org"
        made = client.post(
            "/api/auth/register", json={"username": name, "email": email, "password": PASSWORD}
        )
        assert made.status_code == 201, made.text
        role = "admin" if admin else role
        if role != "user":
            number = int(made.json()["id"])
            self.app.db.write(lambda s: users.set_role(s, user_id=number, role=role))
        tokens = client.post("/api/auth/login", json={"login": name, "password": PASSWORD}).json()
        client.cookies.clear()
        client.headers["Authorization"] = f"Bearer {tokens['access_token']}"
        return Person(client, name, made.json()["id"], tokens)


Serve = Callable[..., Server]


@contextmanager
def serving(data_dir: Path, **sections: Any) -> Iterator[Server]:
    """Serve an app with these settings on a free port; at the end its books must verify."""
    app = build(_settings(data_dir, **sections))
    app.passwords = Passwords(app.secrets.pepper, cost=4, max_waiting=100)
    web = api.create(app)
    problems: list[object] = []

    @asynccontextmanager
    async def lifespan(_web: object) -> AsyncIterator[None]:
        await app.start()
        yield
        await app.drain()
        with app.db.read() as session:
            problems.extend(verify.run(session))
        await app.stop()

    web.router.lifespan_context = lifespan
    config = uvicorn.Config(web, host="127.0.0.1", port=0, log_level="error", lifespan="on")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    served = Server(app, f"http://127.0.0.1:{port}")
    try:
        yield served
    finally:
        for client in served.clients:
            client.close()
        running.should_exit = True
        thread.join(timeout=40)
    assert not thread.is_alive(), "the server did not stop"
    assert problems == []


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Start servers with their own settings; all are stopped after the file's last test."""
    with ExitStack() as stack:

        def start(**sections: Any) -> Server:
            return stack.enter_context(serving(tmp_path_factory.mktemp("data"), **sections))

        yield start


@pytest.fixture(scope="module")
def server(serve: Serve) -> Server:
    """One server with fast answers of eight tokens and no limits."""
    return serve()


@pytest.fixture(scope="module")
def slow(serve: Serve) -> Server:
    """One server whose answers take ten seconds: 400 tokens at 40 a second."""
    return serve(script={"tokens": 400, "tokens_per_second": 40})


@pytest.fixture
def ann(server: Server) -> Person:
    return server.person()


@pytest.fixture
def bob(server: Server) -> Person:
    return server.person()


@pytest.fixture(scope="module")
def root(server: Server) -> Person:
    return server.person("root", admin=True)


def first_admin(server: Server) -> str:
    """The token of the one-time link."""
    token = signup.ensure_first_admin(server.app)
    assert token is not None
    return token


def _settings(data_dir: Path, **sections: Any) -> settings.Settings:
    script = {"tokens": 8, "tokens_per_second": 0, "first_token_ms": 0}
    script |= sections.pop("script", {})
    return settings.load(
        data_dir=data_dir,
        llm={"engine": "script", "script": script, **sections.pop("llm", {})},
        limits=_UNLIMITED | sections.pop("limits", {}),
        **sections,
    )
