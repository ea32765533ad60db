"""Our own `/v1` as the model server: a second program that is asked, stopped, killed and started.

It is `launch.py` in a process of its own; the first one is an app with the engine `remote`.
"""

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pil

from chat_app.app import App
from chat_app.chat.live import Piece
from chat_app.credits import holds
from chat_app.flows import message, reply, shelf
from chat_app.flows.reply import ReplyView
from chat_app.llm import catalogue
from chat_app.llm.engine import ModelNotReady
from tests.apps import MODEL, answer, ask, person, running_app
from tests.effort import effort
from tests.servers import Person, Server, launch

SEEING = "gemma-3-4b-it"
SETTINGS = {
    "LLM__SCRIPT__TOKENS": "30",
    "LLM__SCRIPT__TOKENS_PER_SECOND": "100",
    "ACCOUNTS__WELCOME_CREDITS": "5000",
}


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = launch(tmp_path_factory.mktemp("far") / "data", **SETTINGS)
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture(scope="module")
def operator(far: Server) -> Iterator[Person]:
    """Whose account at the other program pays."""
    somebody = Person(far, "operator")
    yield somebody
    somebody.close()


@pytest.fixture(scope="module")
def key(operator: Person) -> str:
    made = operator.bearer.post("/api/auth/keys", json={"name": "the other program"})
    return str(made.raise_for_status().json()["key"])


@asynccontextmanager
async def near(tmp_path: Path, far: Server, key: str, **remote: Any) -> AsyncIterator[App]:
    remote = {"api_key": key, "connect_seconds": 2, "idle_seconds": 1, "open_seconds": 0.2} | remote
    llm = {"engine": "remote", "remote_url": f"{far.url}/v1", "remote": remote}
    async with running_app(tmp_path, llm=llm) as app:
        await usable(app)
        yield app


async def usable(app: App, *, well: bool = True) -> None:
    """Wait until the servers are, or are not."""
    servers = app.engine.engine._servers  # type: ignore[attr-defined]
    while servers.can(catalogue.get(MODEL)) is not well:
        servers._checked = 0.0
        await servers.refresh()
        await asyncio.sleep(0.05)


def open_holds(app: App) -> int:
    with app.db.read() as session:
        return holds.count_open(session)


def test_both_programs_count_the_same(
    tmp_path: Path, far: Server, key: str, operator: Person
) -> None:
    async def story() -> None:
        before = operator.balance()["available"]
        async with near(tmp_path, far, key) as app:
            alice = await person(app)
            view = await answer(app, alice, await ask(app, alice, "count four words here"))
            assert view.state == "done"
            assert view.content == "".join(f"w{n} " for n in range(30))
            assert view.completion_tokens == 30
            (there,) = app.engine.stats()["servers"]
            assert (there["state"], there["answers_total"]) == ("up", 1)
            assert there["answers_counted_here_total"] == there["odd_usage_total"] == 0
            assert set(there["models"]) == {entry.id for entry in catalogue.offered()}
        assert float(before) - float(operator.balance()["available"]) == 1

    asyncio.run(story())


def test_an_image_is_there_as_it_is_here(tmp_path: Path, far: Server, key: str) -> None:
    """The other program decodes what arrives and draws it anew: of a PNG that is the same file."""
    out = io.BytesIO()
    Pil.effect_noise((64, 48), 80).convert("RGB").save(out, "PNG")

    async def story() -> None:
        async with near(tmp_path, far, key) as app:
            alice = await person(app)
            with app.db.read() as session:
                views = {view.id: view for view in shelf.models(app, session=session)}
            assert views[SEEING].sees_images
            assert not views[MODEL].sees_images
            sent = await message.start(
                app, user_id=alice, text="what is it", model=SEEING, images=[out.getvalue()]
            )
            assert (await answer(app, alice, sent)).state == "done"

    asyncio.run(story())
    (mine,) = (tmp_path / "images").rglob("*.png")
    theirs = {path.name: path for path in (far.data_dir / "images").rglob("*.png")}
    assert theirs[mine.name].read_bytes() == mine.read_bytes()


def test_a_key_that_is_no_good_there_is_said(tmp_path: Path, far: Server, key: str) -> None:
    async def story() -> None:
        async with near(tmp_path, far, key) as app:
            alice = await person(app)
            servers = app.engine.engine._servers  # type: ignore[attr-defined]
            servers.client.headers["Authorization"] = "Bearer nobody"
            view = await answer(app, alice, await ask(app, alice))
            assert (view.state, view.charged) == ("failed", 0)
            assert view.error_code == "model_not_available"

    asyncio.run(story())


def test_killed_in_the_middle_stopped_and_back(tmp_path: Path, far: Server, key: str) -> None:
    """T6, T10: what broke off is free, what cannot be asked holds nothing, then all is well."""

    async def story() -> None:
        async with near(tmp_path, far, key) as app:
            alice = await person(app)
            for blow in (signal.SIGSTOP, signal.SIGKILL):
                sent = await ask(app, alice)
                ended: ReplyView | None = None
                pieces = 0
                async for item in reply.follow(app, user_id=alice, reply_id=sent.reply_id):
                    if isinstance(item, ReplyView):
                        ended = item
                    elif isinstance(item, Piece):
                        pieces += 1
                        if pieces == 5:
                            os.kill(far.process.pid, blow)
                assert ended is not None
                code = "engine_stalled" if blow == signal.SIGSTOP else "engine_crashed"
                assert (ended.state, ended.error_code, ended.charged) == ("failed", code, 0)
                assert open_holds(app) == 0
                os.kill(far.process.pid, signal.SIGCONT)
            far.process.wait()
            await usable(app, well=False)
            with pytest.raises(ModelNotReady):
                await ask(app, alice)
            assert open_holds(app) == 0
            if effort(full=True, quick=False):
                port = far.url.rsplit(":", 1)[1]
                far.process = launch(far.data_dir, **SETTINGS, SERVER__PORT=port).process
                await usable(app)
                view = await answer(app, alice, await ask(app, alice))
                assert (view.state, view.completion_tokens) == ("done", 30)

    asyncio.run(story())
