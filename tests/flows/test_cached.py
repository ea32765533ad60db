"""An answer that is given again: shown as such, paid by the rule that its hold has pinned."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from chat_app.app import App
from chat_app.chat import conversations
from chat_app.chat.tables import Reply
from chat_app.credits import pricing
from chat_app.credits.tables import Transfer, UsageRow
from chat_app.flows import erase, message, reply, sweep
from chat_app.flows.reply import ReplyView
from chat_app.money import MICRO
from tests.apps import MODEL, answer, ask, follow, person, running_app


async def asked(app: App, user: int, text: str = "What is a quay?", **more: Any) -> ReplyView:
    """The answer at temperature 0."""
    return await answer(app, user, await ask(app, user, text, **{"temperature": 0.0, **more}))


def price_by_token(app: App) -> None:
    app.db.write(
        lambda session: pricing.publish(
            session,
            model_id=MODEL,
            kind="per_token",
            input_per_million=1001 * MICRO,
            output_per_million=2003 * MICRO,
            now=app.clock.micros(),
        )
    )


def test_the_same_question_is_answered_from_the_cache(tmp_path: Path, database_url: str) -> None:
    """Held, settled, in the ledger and in the usage like any answer; the engine does nothing."""

    async def story() -> None:
        async with running_app(tmp_path, url=database_url) as app:
            alice = await person(app)
            first = await asked(app, alice)
            started = await ask(app, alice, "What is a quay?", temperature=0.0)
            pieces, second = await follow(app, alice, started.reply_id)

            assert (first.cached, second.cached) == (False, True)
            assert second.content == first.content == "".join(piece.text for piece in pieces)
            assert len(pieces) == 8
            assert (second.prompt_tokens, second.completion_tokens) == (
                first.prompt_tokens,
                first.completion_tokens,
            )
            assert second.cached_tokens == second.prompt_tokens
            assert (first.charged, second.charged) == (1 * MICRO, 1 * MICRO)
            assert app.engine.stats()["recent"][MODEL]["answers_done"] == 1
            with app.db.read() as session:
                used = session.exec(select(UsageRow).order_by(UsageRow.id)).all()
                assert [row.completion_tokens for row in used] == [8, 8]
                assert used[1].engine_ms == 0
                moved = session.get(Transfer, used[1].transfer_id)
                assert moved is not None
                assert (moved.kind, moved.amount) == ("post", 1 * MICRO)
                rows = conversations.messages(
                    session, user_id=alice, conversation_id=second.conversation_id
                )
                assert [row.cached for row in rows] == [False, True]
                hits, _ = conversations.search(session, user_id=alice, q="w1")
                assert [hit.cached for hit in hits] == [True, False]
            again, end = await follow(app, alice, started.reply_id, after=5)
            assert [piece.index for piece in again] == [6, 7, 8]
            assert end.cached

    asyncio.run(story())


def test_nobody_gets_the_text_of_somebody_else(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice, bob = await person(app), await person(app, "bob")
            await asked(app, alice)
            assert not (await asked(app, bob)).cached
            assert (await asked(app, bob)).cached

    asyncio.run(story())


@pytest.mark.parametrize(
    "other",
    [
        {"text": "What is a quay"},
        {"temperature": 0.3},
        {"max_tokens": 7},
        {"model": "gemma-3-1b-it"},
    ],
)
def test_another_request_is_answered_anew(tmp_path: Path, other: dict[str, Any]) -> None:
    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice = await person(app)
            await asked(app, alice)
            assert not (await asked(app, alice, **other)).cached

    asyncio.run(story())


def test_the_same_words_in_another_place_are_another_request(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice = await person(app)
            first = await asked(app, alice)
            inside = await asked(app, alice, conversation_id=first.conversation_id)
            assert not inside.cached

    asyncio.run(story())


@pytest.mark.parametrize("percent", [0, 1, 33, 50, 100])
def test_the_price_is_a_share_of_the_pinned_one(tmp_path: Path, percent: int) -> None:
    """T25: neither a new price nor a new share reaches an answer whose hold is placed."""

    async def story() -> None:
        async with running_app(tmp_path, pricing={"cached_percent": percent}) as app:
            alice = await person(app)
            price_by_token(app)
            first = await asked(app, alice)
            full = first.prompt_tokens * 1001 + 8 * 2003
            assert first.charged == full
            second = await asked(app, alice)
            assert second.cached
            assert second.charged == -(-full * percent // 100)
            assert second.balance.total == 100 * MICRO - full - second.charged

    asyncio.run(story())


def test_a_cached_answer_whose_process_died_costs_its_share(tmp_path: Path) -> None:
    """T5: it was delivered and saved, so the sweeper settles it by the same rule."""

    async def story() -> None:
        async with running_app(
            tmp_path, pricing={"cached_percent": 50}, chat={"lease_seconds": 0.05}
        ) as app:
            alice = await person(app)
            await asked(app, alice)
            settling, holding = app.db.awrite, asyncio.Event()

            async def stuck(work: Any) -> Any:
                if "_settle" in work.__qualname__:
                    await holding.wait()
                return await settling(work)

            app.db.awrite = stuck  # type: ignore[method-assign]
            started = await ask(app, alice, "What is a quay?", temperature=0.0)
            live = app.replies.get(started.reply_id)
            assert live is not None
            while not live.cached:
                await asyncio.sleep(0.01)
            await sweep.save_progress(app)
            app.replies.remove(started.reply_id)  # as if its process were gone
            await asyncio.sleep(0.1)
            assert await asyncio.to_thread(sweep.settle_abandoned, app) == 1
            end = await reply.view(app, user_id=alice, reply_id=started.reply_id)
            assert (end.cached, end.charged) == (True, MICRO // 2)
            holding.set()
            assert live.task is not None
            await live.task
            end = await reply.view(app, user_id=alice, reply_id=started.reply_id)
            assert end.balance.total == 100 * MICRO - MICRO - MICRO // 2

    asyncio.run(story())


def test_asking_again_gives_a_new_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry passes the cache by, also for a model that is greedy by itself."""
    monkeypatch.setattr(message, "_repeatable", lambda *_: True)

    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice = await person(app)
            await asked(app, alice)
            cached = await asked(app, alice)
            started = await message.retry(
                app, user_id=alice, conversation_id=cached.conversation_id
            )
            assert not (await answer(app, alice, started)).cached
            assert (await answer(app, alice, await ask(app, alice, "What is a quay?"))).cached

    asyncio.run(story())


@pytest.mark.parametrize("fault", ["error_at:3", "empty"])
def test_an_answer_that_failed_is_not_kept(tmp_path: Path, fault: str) -> None:
    async def story() -> None:
        async with running_app(tmp_path, script={"fault": fault}) as app:
            alice = await person(app)
            await asked(app, alice)
            again = await asked(app, alice)
            assert (again.cached, again.charged) == (False, 0)
            assert app.cache.stats()["entries"] == 0

    asyncio.run(story())


def test_an_answer_that_was_stopped_is_not_kept(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path, script={"tokens": 90, "tokens_per_second": 50}) as app:
            alice = await person(app)
            started = await ask(app, alice, temperature=0.0)
            while not (live := app.replies.get(started.reply_id)) or not live.pieces:
                await asyncio.sleep(0.01)
            await reply.stop(app, user_id=alice, reply_id=started.reply_id)
            assert (await answer(app, alice, started)).finish_reason == "cancelled"
            assert app.cache.stats()["entries"] == 0

    asyncio.run(story())


def test_a_deleted_conversation_leaves_the_cache(tmp_path: Path) -> None:
    """What a person deletes is nowhere: neither stored nor kept, also while it was written."""

    async def story() -> None:
        async with running_app(tmp_path, script={"tokens": 20, "tokens_per_second": 100}) as app:
            alice = await person(app)
            first = await asked(app, alice)
            assert app.cache.stats()["entries"] == 1
            await erase.conversation(app, user_id=alice, conversation_id=first.conversation_id)
            assert app.cache.stats()["entries"] == 0
            started = await ask(app, alice, temperature=0.0)
            await erase.conversation(app, user_id=alice, conversation_id=started.conversation_id)
            assert (await answer(app, alice, started)).content == ""
            assert app.cache.stats()["entries"] == 0

    asyncio.run(story())


def test_a_trimmed_answer_keeps_its_note_in_the_cache(tmp_path: Path) -> None:
    """What was not read for the first answer was not read for the second either."""

    async def story() -> None:
        async with running_app(
            tmp_path, script={"context_tokens": 60}, llm={"max_output_tokens": 10}
        ) as app:
            alice = await person(app)

            async def talk() -> ReplyView:
                conversation: str | None = None
                for number in range(5):
                    end = await asked(
                        app,
                        alice,
                        f"number {number} " + "word " * 8,
                        conversation_id=conversation,
                    )
                    conversation = end.conversation_id
                return end

            first, second = await talk(), await talk()
            assert first.dropped_messages > 0
            assert (first.cached, second.cached) == (False, True)
            assert second.dropped_messages == first.dropped_messages

    asyncio.run(story())


def test_the_cache_can_be_switched_off(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path, llm={"cache": {"entries": 0}}) as app:
            alice = await person(app)
            await asked(app, alice)
            assert not (await asked(app, alice)).cached

    asyncio.run(story())


def test_the_script_engine_is_not_spared_by_accident(tmp_path: Path) -> None:
    """The demo model is greedy by itself; a load run on the script engine must still reach it."""

    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice = await person(app)
            for _ in range(2):
                assert not (await answer(app, alice, await ask(app, alice))).cached

    asyncio.run(story())


def test_the_same_key_joins_the_running_answer(tmp_path: Path) -> None:
    """T12: whoever comes second with the key follows the same answer from its first piece."""

    async def story() -> None:
        async with running_app(tmp_path, script={"tokens": 30, "tokens_per_second": 100}) as app:
            alice = await person(app)
            first = await ask(app, alice, idempotency_key="once", temperature=0.0)
            while not (live := app.replies.get(first.reply_id)) or len(live.pieces) < 3:
                await asyncio.sleep(0.01)
            second = await ask(app, alice, idempotency_key="once", temperature=0.0)
            assert (second.reply_id, second.replayed) == (first.reply_id, True)
            one, two = await asyncio.gather(
                follow(app, alice, first.reply_id), follow(app, alice, second.reply_id)
            )
            assert one[0] == two[0]
            assert len(two[0]) == 30
            assert two[1].balance.total == 99 * MICRO
            with app.db.read() as session:
                assert len(session.exec(select(Reply)).all()) == 1
                assert len(session.exec(select(UsageRow)).all()) == 1

    asyncio.run(story())
