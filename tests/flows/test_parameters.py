"""Parameters of a conversation on every way on from it: the engine, the price, the keys."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from chat_app.app import App
from chat_app.chat import branches, conversations, feedback, parameters
from chat_app.chat.answer_tables import MessageFeedback
from chat_app.chat.parameters import Parameters
from chat_app.chat.tables import Conversation
from chat_app.clock import ManualClock
from chat_app.credits import pricing
from chat_app.credits.operations import IdempotencyConflict
from chat_app.flows import composer, erase, message, onward
from chat_app.flows.order import Turn
from chat_app.llm.engine import Request
from chat_app.money import MICRO
from tests.apps import MODEL, answer, ask, in_loop, person, running_app

GOLEM = "You are a golem."
WISH: dict[str, Any] = {
    "system": GOLEM, "temperature": 0.3, "top_p": 0.8, "seed": 11, "max_tokens": 5
}  # fmt: skip
TWO = [MODEL, "gemma-3-1b-it"]


@contextmanager
def reaching(app: App) -> Iterator[list[Request]]:
    """What people's messages bring to the engine."""
    seen: list[Request] = []
    submit = app.engine.submit

    def note(request: Request) -> Any:
        if not request.background:
            seen.append(request)
        return submit(request)

    app.engine.submit = note  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        app.engine.submit = submit  # type: ignore[method-assign]


def own(app: App, conversation_id: str) -> Parameters:
    """The settings of a conversation, of anybody's."""
    with app.db.read() as session:
        return parameters.load(session.get_one(Conversation, conversation_id).settings)


@in_loop
async def test_every_way_on_is_written_with_them(tmp_path: Path) -> None:
    """Retry, continue, an edited question, two models, a fork; a program's turns know nothing."""
    async with running_app(tmp_path, script={"tokens": 40}) as app:
        ann = await person(app)
        with reaching(app) as seen:
            first = await ask(app, ann, "one", **WISH)
            await answer(app, ann, first)
            talk = first.conversation_id
            again = await message.retry(app, user_id=ann, conversation_id=talk)
            assert (await answer(app, ann, again)).finish_reason == "length"
            await answer(app, ann, await onward.resume(app, user_id=ann, reply_id=again.reply_id))
            edited = await ask(app, ann, "two", conversation_id=talk, parent_id="root")
            await answer(app, ann, edited)
            where = {"user_id": ann, "text": "three", "models": TWO}
            for both in (
                await onward.compare(app, conversation_id=talk, **where),  # type: ignore[arg-type]
                await onward.compare(app, **where, **WISH),  # type: ignore[arg-type]
            ):
                for one in both:
                    await answer(app, ann, one)
                assert own(app, both[0].conversation_id) == Parameters(**WISH)
            copy = await app.db.awrite(
                lambda session: branches.fork(
                    session, user_id=ann, conversation_id=talk, message_id=edited.message_id,
                    now=app.clock.micros(),
                ).id
            )  # fmt: skip
            await answer(app, ann, await ask(app, ann, "four", conversation_id=copy))
        assert len(seen) == 9
        for request in seen:
            told = request.sampling
            assert (told.temperature, told.top_p, told.seed, request.max_tokens) == (
                0.3, 0.8, 11, 5,
            )  # fmt: skip
            assert request.messages[0].content == GOLEM
        alone = await message.complete(
            app, user_id=ann, turns=[Turn("user", "hello")], model=MODEL, temperature=0.3
        )
        await answer(app, ann, alone)
        assert own(app, alone.conversation_id) == parameters.NONE


@in_loop
async def test_the_price_of_every_way_on_knows_them(tmp_path: Path) -> None:
    """By token: the quote of a message, of another branch and of going on is what is held."""
    async with running_app(tmp_path, script={"tokens": 40}) as app:
        ann = await person(app)
        app.db.write(
            lambda session: pricing.publish(
                session, model_id=MODEL, kind="per_token", per_message=None, per_image=None,
                input_per_million=9_000 * MICRO, output_per_million=30_000 * MICRO,
                now=app.clock.micros(),
            )
        )  # fmt: skip
        first = await ask(app, ann, "one two three", **WISH)
        await answer(app, ann, first)
        talk = first.conversation_id
        second = await ask(app, ann, "four", conversation_id=talk)
        await answer(app, ann, second)
        histories = []
        for place in (None, first.message_id, conversations.ROOT):
            where = {"user_id": ann, "model": MODEL, "conversation_id": talk, "parent_id": place}
            rule = await composer.rule(app, **where)  # type: ignore[arg-type]
            histories.append(rule.history_tokens)
            words = "a b c"
            quote = await message.quote(app, text=words, **where)  # type: ignore[arg-type]
            assert rule.prompt_tokens + len(words.split()) - 1 == quote.prompt_tokens
            assert composer.bound(rule, size=len(words)) >= quote.maximum
            began = await message.start(app, text=words, **where)  # type: ignore[arg-type]
            assert began.maximum == quote.maximum
            await answer(app, ann, began)
            await app.db.awrite(
                lambda session: branches.pick(
                    session, user_id=ann, conversation_id=talk, message_id=second.message_id
                )
            )
        assert histories == [3 + 5 + 1 + 5, 3 + 5, 0]
        quote = await onward.quote_resume(app, user_id=ann, reply_id=second.reply_id)
        more = await onward.resume(app, user_id=ann, reply_id=second.reply_id)
        assert more.maximum == quote.maximum
        assert (await answer(app, ann, more)).completion_tokens == 5


@in_loop
async def test_a_key_stands_for_the_place_and_for_the_parameters(tmp_path: Path) -> None:
    """T12: the same again is one reply; another place, kind of chat or parameter is a conflict."""
    async with running_app(tmp_path) as app:
        ann = await person(app)
        first = await ask(app, ann, "one", idempotency_key="a", temporary=True, **WISH)
        await answer(app, ann, first)
        again = await ask(app, ann, "one", idempotency_key="a", temporary=True, **WISH)
        assert (again.replayed, again.reply_id) == (True, first.reply_id)
        others: list[dict[str, Any]] = [
            {"temporary": True, **WISH, name: value}
            for name, value in (("system", "x"), ("top_p", 0.9), ("seed", 1), ("max_tokens", 6),
                                ("temperature", 0.4), ("temporary", False))
        ]  # fmt: skip
        for other in others:
            with pytest.raises(IdempotencyConflict):
                await ask(app, ann, "one", idempotency_key="a", **other)
        talk = first.conversation_id
        asked = {"text": "two", "idempotency_key": "b", "conversation_id": talk}
        branch = await ask(app, ann, parent_id="root", seed=1, **asked)
        await answer(app, ann, branch)
        # What the conversation says later changes nothing of what the key stands for.
        await app.db.awrite(
            lambda session: conversations.set_parameters(
                session, user_id=ann, conversation_id=talk, settings=Parameters(seed=2)
            )
        )
        assert (await ask(app, ann, parent_id="root", seed=1, **asked)).replayed
        for other in ({"seed": 1}, {"parent_id": "root"}, {"parent_id": "root", "seed": 2}):
            with pytest.raises(IdempotencyConflict):
                await ask(app, ann, **asked, **other)
        pair = {"user_id": ann, "text": "three", "models": TWO, "idempotency_key": "c"}
        both = await onward.compare(app, **pair, system="x")  # type: ignore[arg-type]
        for one in both:
            await answer(app, ann, one)
        with pytest.raises(IdempotencyConflict):
            await onward.compare(app, **pair, system="y")  # type: ignore[arg-type]
        assert (await onward.compare(app, **pair, system="x"))[0].replayed  # type: ignore[arg-type]


@in_loop
async def test_a_temporary_chat_leaves_no_settings_and_no_notes(tmp_path: Path) -> None:
    """They are a person's words; the vote stays as a number."""
    clock = ManualClock()
    async with running_app(tmp_path, clock=clock) as app:
        ann = await person(app)
        for wiped in ("by the day", "by its owner"):
            began = await ask(app, ann, "herons", temporary=True, **WISH)
            await answer(app, ann, began)
            talk = began.conversation_id
            assert own(app, talk) == Parameters(**WISH)
            await app.db.awrite(
                lambda session, id=began.message_id: feedback.put(  # type: ignore[misc]
                    session, user_id=ann, message_id=id, vote="up", note="herons",
                    now=clock.micros(),
                )
            )  # fmt: skip
            if wiped == "by the day":
                clock.advance(hours=25)
                assert erase.forget_programs_texts(app) == 1
            else:
                await erase.conversation(app, user_id=ann, conversation_id=talk)
            assert own(app, talk) == parameters.NONE
            with app.db.read() as session:
                vote = session.exec(
                    select(MessageFeedback).where(MessageFeedback.message_id == began.message_id)
                ).one()
                assert (vote.vote, vote.note) == (1, "")
