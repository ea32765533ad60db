"""A conversation is named by the model: free, never in anybody's way, never over a person's."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from chat_app.app import App
from chat_app.chat import conversations
from chat_app.chat.tables import Conversation
from chat_app.flows import erase, reply
from chat_app.llm.engine import Delta, Done, Event, Failed, ModelState, Request, Started, Usage
from chat_app.llm.script import ScriptEngine
from chat_app.money import MICRO
from tests.apps import MODEL, answer, ask, person, running_app

GEMMA = "gemma-3-1b-it"


class Namer(ScriptEngine):
    """A script engine that passes for a model in memory and says `words` when asked for a title."""

    words = "Walls in the harbour"
    seconds = 0.0
    shown = "ready"

    def __init__(self, script: Any) -> None:
        super().__init__(script)
        self.asked: list[Request] = []

    def state(self, model: str) -> ModelState:
        return ModelState(self.shown, backend="double", device="cpu")  # type: ignore[arg-type]

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        if not request.background:
            async for event in super().submit(request):
                yield event
            return
        self.asked.append(request)
        yield Started(prompt_tokens=30)
        until = asyncio.get_running_loop().time() + self.seconds
        while asyncio.get_running_loop().time() < until:
            if request.id in self.cancelled:
                yield Done("cancelled", Usage(prompt_tokens=30))
                return
            await asyncio.sleep(0.01)
        yield Delta(self.words, 4)
        if self.words == "broken":
            yield Failed("engine_error", "no", Usage(prompt_tokens=30))
        else:
            yield Done("stop", Usage(prompt_tokens=30, completion_tokens=4))

    @property
    def cancelled(self) -> set[str]:
        return self.__dict__.setdefault("_cancelled", set())

    def cancel(self, request_id: str) -> None:
        self.cancelled.add(request_id)
        super().cancel(request_id)


def namer(app: App, **values: Any) -> Namer:
    """Puts the double below the app's watch."""
    watched: Any = app.engine
    watched.engine = Namer(watched.engine.script)
    for name, value in values.items():
        setattr(watched.engine, name, value)
    return watched.engine  # type: ignore[no-any-return]


async def named(app: App, conversation: str) -> str:
    """The title when nothing is on its way any more."""
    if task := app.titles.get(conversation):
        await task
    with app.db.read() as session:
        found = session.get(Conversation, conversation)
        assert found is not None
        return found.title


async def settled(app: App, user: int, **more: Any) -> str:
    """The conversation of an answered question."""
    started = await ask(app, user, **{"text": "What is a quay?", "model": GEMMA, **more})
    live = app.replies.get(started.reply_id)
    await answer(app, user, started)
    if live is not None and live.task is not None:
        await live.task
    return started.conversation_id


def test_the_first_answer_brings_a_title_for_free(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """T19: background tokens are on record, and the policy is that nobody pays for them."""

    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice = await person(app)
            engine = namer(app)
            with caplog.at_level(logging.INFO, "chat_app.flows.title"):
                conversation = await settled(app, alice)
                assert await named(app, conversation) == "Walls in the harbour"
            assert "30 + 4 tokens, free" in caplog.text
            await settled(app, alice, text="and a pier?", conversation_id=conversation)
            assert await named(app, conversation) == "Walls in the harbour"
            assert len(engine.asked) == 1
            (asked,) = engine.asked
            assert asked.background
            assert "What is a quay?" in asked.messages[-1].content
            end = await answer(app, alice, await ask(app, alice))
            assert end.balance.total == (100 - 10 - 10 - 1) * MICRO

    asyncio.run(story())


@pytest.mark.parametrize(
    "words",
    ["", "broken", "w " * 9, "<script>alert(1)</script>", "x" * 61, "!!!", "see www.evil.example"],
)
def test_what_is_no_title_leaves_the_first_words(tmp_path: Path, words: str) -> None:
    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice = await person(app)
            namer(app, words=words or "\n")
            assert await named(app, await settled(app, alice)) == "What is a quay?"

    asyncio.run(story())


def test_a_persons_own_title_is_never_replaced(tmp_path: Path) -> None:
    """Also when it comes while the model is thinking, and says the very same as before."""

    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice = await person(app)
            engine = namer(app, seconds=0.2)
            conversation = await settled(app, alice)
            while not engine.asked:
                await asyncio.sleep(0.01)
            await app.db.awrite(
                lambda session: conversations.rename(
                    session,
                    user_id=alice,
                    conversation_id=conversation,
                    title="What is a quay?",
                )
            )
            assert await named(app, conversation) == "What is a quay?"

    asyncio.run(story())


def test_a_deleted_conversation_stays_nameless(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice = await person(app)
            namer(app, seconds=0.2)
            conversation = await settled(app, alice)
            await erase.conversation(app, user_id=alice, conversation_id=conversation)
            assert await named(app, conversation) == ""

    asyncio.run(story())


def test_a_title_gives_way_to_somebody_who_waits(tmp_path: Path) -> None:
    """An answer that does not get its turn ends the title at once, and it is never tried again."""

    async def story() -> None:
        async with running_app(
            tmp_path,
            limits={"running_per_user": 1, "waiting_per_user": 5},
            script={"tokens": 30, "tokens_per_second": 50},
        ) as app:
            alice = await person(app)
            engine = namer(app, seconds=30.0)
            conversation = await settled(app, alice)
            while not engine.asked:
                await asyncio.sleep(0.01)
            task = app.titles[conversation]
            running, waiting = await ask(app, alice), await ask(app, alice)
            await asyncio.wait_for(task, 3)
            assert await named(app, conversation) == "What is a quay?"
            await asyncio.gather(answer(app, alice, running), answer(app, alice, waiting))

    asyncio.run(story())


def test_an_answer_that_runs_beside_it_does_not_end_a_title(tmp_path: Path) -> None:
    """Batching has room for both: only somebody who has to wait is in need of the place."""

    async def story() -> None:
        async with running_app(tmp_path, script={"tokens": 40, "tokens_per_second": 50}) as app:
            alice = await person(app)
            engine = namer(app, seconds=0.5)
            conversation = await settled(app, alice)
            while not engine.asked:
                await asyncio.sleep(0.01)
            beside = await ask(app, alice)
            assert await named(app, conversation) == "Walls in the harbour"
            await answer(app, alice, beside)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("shown", "over"),
    [("available", {}), ("loading", {}), ("ready", {"chat": {"auto_titles": False}})],
)
def test_no_model_is_loaded_for_a_title(tmp_path: Path, shown: str, over: dict[str, Any]) -> None:
    """Nor is one asked when the settings say no."""

    async def story() -> None:
        async with running_app(tmp_path, **over) as app:
            alice = await person(app)
            engine = namer(app, shown=shown)
            conversation = await settled(app, alice)
            assert await named(app, conversation) == "What is a quay?"
            assert engine.asked == []

    asyncio.run(story())


def test_the_demo_model_is_not_asked(tmp_path: Path) -> None:
    """It answers with greetings and halves of sentences, so the first words are better."""

    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice = await person(app)
            engine = namer(app)
            conversation = await settled(app, alice, model=MODEL)
            assert await named(app, conversation) == "What is a quay?"
            assert engine.asked == []

    asyncio.run(story())


def test_the_script_engine_names_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice = await person(app)
            assert await named(app, await settled(app, alice)) == "What is a quay?"

    asyncio.run(story())


def test_a_stopped_answer_brings_no_title(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path, script={"tokens": 90, "tokens_per_second": 50}) as app:
            alice = await person(app)
            engine = namer(app)
            started = await ask(app, alice, model=GEMMA)
            while not (live := app.replies.get(started.reply_id)) or not live.pieces:
                await asyncio.sleep(0.01)
            await reply.stop(app, user_id=alice, reply_id=started.reply_id)
            assert live.task is not None
            await live.task
            assert engine.asked == []
            assert app.titles == {}

    asyncio.run(story())


def test_the_end_of_the_program_waits_for_no_title(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice = await person(app)
            namer(app, seconds=30.0)
            await settled(app, alice)
            began = asyncio.get_running_loop().time()
            await app.drain()
            assert asyncio.get_running_loop().time() - began < 2

    asyncio.run(story())
