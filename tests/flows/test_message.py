"""A message is quoted, held, answered and settled exactly once, whatever happens meanwhile."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import func, select

from chat_app.chat import conversations
from chat_app.chat.live import Piece
from chat_app.chat.tables import Message, Reply
from chat_app.credits import ledger, pricing
from chat_app.credits.operations import IdempotencyConflict
from chat_app.credits.tables import Hold, UsageRow
from chat_app.errors import AppError, NotFound, OutOfCredits, TooMany
from chat_app.flows import message, placing, reply, shelf
from chat_app.llm.engine import UnknownModel
from chat_app.money import MICRO
from tests.apps import MODEL, answer, ask, follow, person, running_app


def test_an_answer_is_charged_its_price_and_kept(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path, script={"tokens": 5}) as app:
            alice = await person(app)
            started = await ask(app, alice)
            pieces, end = await follow(app, alice, started.reply_id)

            assert "".join(piece.text for piece in pieces) == "w0 w1 w2 w3 w4 "
            assert end.content == "w0 w1 w2 w3 w4 "
            assert (end.state, end.finish_reason) == ("done", "stop")
            assert end.completion_tokens == 5
            assert started.maximum == end.charged == 1 * MICRO
            assert (end.balance.total, end.balance.held) == (99 * MICRO, 0)
            with app.db.read() as session:
                rows = conversations.messages(
                    session, user_id=alice, conversation_id=started.conversation_id
                )
                assert [(row.role, row.content) for row in rows] == [
                    ("user", "hello there"),
                    ("assistant", "w0 w1 w2 w3 w4 "),
                ]
                usage = session.exec(select(UsageRow)).one()
                assert (usage.completion_tokens, usage.cost) == (5, 1 * MICRO)

    asyncio.run(story())


def test_every_paid_call_has_a_hold_even_for_the_rich(tmp_path: Path) -> None:
    """T2: no bypass for large balances. T3: the hold covers the whole answer's price."""

    async def story() -> None:
        async with running_app(
            tmp_path, accounts={"welcome_credits": 10**9}, script={"tokens_per_second": 20}
        ) as app:
            alice = await person(app)
            started = await ask(app, alice, model="gemma-3-12b-it")
            with app.db.read() as session:
                hold = session.exec(select(Hold)).one()
                assert (hold.state, hold.amount) == ("open", 50 * MICRO)
                assert ledger.balance(session, user_id=alice).held == 50 * MICRO
            assert (await answer(app, alice, started)).charged == 50 * MICRO

    asyncio.run(story())


@pytest.mark.parametrize("followers", [0, 1, 3])
def test_nobody_has_to_listen(tmp_path: Path, followers: int) -> None:
    """T9, T15: the job settles, not a reader; readers that leave or never came change nothing."""

    async def story() -> None:
        async with running_app(tmp_path, script={"tokens": 20, "tokens_per_second": 200}) as app:
            alice = await person(app)
            started = await ask(app, alice)
            for number in range(followers):
                stream = reply.follow(app, user_id=alice, reply_id=started.reply_id)
                seen = 0
                async for item in stream:
                    seen += isinstance(item, Piece)
                    if seen > number:
                        break
                if number % 2:
                    await stream.aclose()  # the others are dropped without a word
            live = app.replies.get(started.reply_id)
            assert live is not None
            assert live.task is not None
            await live.task
            end = await reply.view(app, user_id=alice, reply_id=started.reply_id)
            assert (end.completion_tokens, end.charged) == (20, 1 * MICRO)

    asyncio.run(story())


def test_stop_keeps_what_was_delivered_and_frees_the_place(tmp_path: Path) -> None:
    """T14: stop halts the model before its next step. T11: stops racing settle once."""

    async def story() -> None:
        async with running_app(tmp_path, script={"tokens": 500, "tokens_per_second": 50}) as app:
            alice = await person(app)
            started = await ask(app, alice)
            stream = reply.follow(app, user_id=alice, reply_id=started.reply_id)
            async for item in stream:
                if isinstance(item, Piece) and item.index == 3:
                    break
            await asyncio.gather(
                *(reply.stop(app, user_id=alice, reply_id=started.reply_id) for _ in range(5))
            )
            _, end = await follow(app, alice, started.reply_id)
            assert end.finish_reason == "cancelled"
            # A busy machine writes on between the fourth word and the stop, but not for long.
            assert 3 <= end.completion_tokens <= 50
            assert end.charged == 1 * MICRO
            assert app.engine.stats()["running"] == 0
            assert app.limits.counts() == (0, 0)

    asyncio.run(story())


def test_stop_before_the_first_token_costs_nothing(tmp_path: Path) -> None:
    """T13: no visible token, no charge."""

    async def story() -> None:
        async with running_app(tmp_path, script={"first_token_ms": 5000}) as app:
            alice = await person(app)
            started = await ask(app, alice)
            await reply.stop(app, user_id=alice, reply_id=started.reply_id)
            end = await answer(app, alice, started)
            assert (end.finish_reason, end.charged) == ("cancelled", 0)
            assert end.balance.available == 100 * MICRO

    asyncio.run(story())


@pytest.mark.parametrize(
    ("fault", "code"),
    [("error_at:0", "engine_error"), ("error_at:3", "engine_error"), ("oom", "out_of_memory")],
)
def test_a_failed_answer_is_free_and_its_error_is_no_text(
    tmp_path: Path, fault: str, code: str
) -> None:
    """T6, T10: a fault at any step nets to 0; the error's words are not billed as output."""

    async def story() -> None:
        async with running_app(tmp_path, script={"fault": fault}) as app:
            alice = await person(app)
            end = await answer(app, alice, await ask(app, alice))
            assert (end.state, end.error_code, end.charged) == ("failed", code, 0)
            assert end.error_message
            assert end.error_message not in end.content
            assert end.balance.available == 100 * MICRO

    asyncio.run(story())


def test_an_empty_answer_is_free(tmp_path: Path) -> None:
    """T13: an answer without one visible token costs nothing."""

    async def story() -> None:
        async with running_app(tmp_path, script={"fault": "empty"}) as app:
            alice = await person(app)
            end = await answer(app, alice, await ask(app, alice))
            assert (end.content.strip(), end.charged) == ("", 0)
            assert end.balance.available == 100 * MICRO

    asyncio.run(story())


def test_a_hanging_model_is_ended_by_the_watchdog(tmp_path: Path) -> None:
    """T5: a stall never keeps a hold for ever."""

    async def story() -> None:
        async with running_app(
            tmp_path, script={"fault": "hang_at:2"}, llm={"stall_seconds": 0.3}
        ) as app:
            alice = await person(app)
            end = await answer(app, alice, await ask(app, alice))
            assert (end.state, end.error_code, end.charged) == ("failed", "engine_stalled", 0)
            assert end.balance.held == 0

    asyncio.run(story())


def test_the_same_key_is_one_reply_and_one_charge(tmp_path: Path) -> None:
    """T12: a double click or a retry with the same key has the same hold."""

    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice = await person(app)
            sent = await asyncio.gather(
                *(ask(app, alice, idempotency_key="click") for _ in range(20))
            )
            assert len({started.reply_id for started in sent}) == 1
            assert [started.replayed for started in sent].count(False) == 1
            end = await answer(app, alice, sent[0])
            assert end.balance.total == 99 * MICRO
            with pytest.raises(IdempotencyConflict):
                await ask(app, alice, "another text", idempotency_key="click")
            with app.db.read() as session:
                assert session.exec(select(func.count()).select_from(Reply)).one() == 1

    asyncio.run(story())


def test_a_second_tab_cannot_answer_the_same_conversation_twice(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path, script={"first_token_ms": 2000}) as app:
            alice = await person(app)
            first = await ask(app, alice)
            with pytest.raises(placing.StillAnswering):
                await ask(app, alice, conversation_id=first.conversation_id)
            end = await answer(app, alice, first)
            assert end.balance.total == 99 * MICRO
            await answer(app, alice, await ask(app, alice, conversation_id=first.conversation_id))

    asyncio.run(story())


def test_funds_for_ten_admit_ten_of_sixty_four(tmp_path: Path, database_url: str) -> None:
    """T1: parallel sends never pass the check together."""

    async def story() -> None:
        async with running_app(
            tmp_path,
            url=database_url,
            accounts={"welcome_credits": 10},
            script={"tokens_per_second": 100},
        ) as app:
            alice = await person(app)
            sent = await asyncio.gather(
                *(ask(app, alice) for _ in range(64)), return_exceptions=True
            )
            won = [item for item in sent if isinstance(item, message.Started)]
            assert len(won) == 10
            assert sum(isinstance(item, OutOfCredits) for item in sent) == 54
            ends = [await answer(app, alice, started) for started in won]
            assert all(end.charged == 1 * MICRO for end in ends)
            with app.db.read() as session:
                balance = ledger.balance(session, user_id=alice)
                assert (balance.total, balance.held, balance.available) == (0, 0, 0)

    asyncio.run(story())


def test_a_price_change_meanwhile_does_not_matter(tmp_path: Path) -> None:
    """T25: the price version is pinned with the hold."""

    async def story() -> None:
        async with running_app(tmp_path, script={"tokens_per_second": 30}) as app:
            alice = await person(app)
            started = await ask(app, alice)
            app.db.write(
                lambda session: pricing.publish(
                    session,
                    model_id=MODEL,
                    kind="per_message",
                    per_message=7 * MICRO,
                    now=app.clock.micros(),
                )
            )
            assert (await answer(app, alice, started)).charged == 1 * MICRO
            assert (await answer(app, alice, await ask(app, alice))).charged == 7 * MICRO

    asyncio.run(story())


def test_a_price_by_token_follows_the_tokens_up_to_the_quote(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path, script={"tokens": 30}) as app:
            alice = await person(app)
            app.db.write(
                lambda session: pricing.publish(
                    session,
                    model_id=MODEL,
                    kind="per_token",
                    input_per_million=1000 * MICRO,
                    output_per_million=2000 * MICRO,
                    now=app.clock.micros(),
                )
            )
            quoted = await message.quote(
                app, user_id=alice, text="one two three", model=MODEL, max_tokens=100
            )
            end = await answer(app, alice, await ask(app, alice, "one two three", max_tokens=100))
            assert end.prompt_tokens == quoted.prompt_tokens
            assert end.charged == end.prompt_tokens * 1000 + 30 * 2000
            assert end.charged <= quoted.maximum

    asyncio.run(story())


@pytest.mark.parametrize(
    ("request_of", "code"),
    [
        ({"text": " \n\t"}, "empty_message"),
        ({"text": "a" * (1 << 20)}, "message_too_long"),
        ({"model": "gpt-17"}, "unknown_model"),
        ({"model": "gemma-3-270m"}, "unknown_model"),
        ({"conversation_id": "con_nobodys"}, "conversation_not_found"),
        ({"spend_limit": MICRO // 2}, "over_spend_limit"),
    ],
)
def test_a_refusal_comes_first_and_leaves_nothing(
    tmp_path: Path, request_of: dict[str, Any], code: str
) -> None:
    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice = await person(app)
            with pytest.raises(AppError) as refused:
                await ask(app, alice, **request_of)
            assert refused.value.code == code
            assert str(refused.value)
            assert app.limits.counts() == (0, 0)
            with app.db.read() as session:
                for table in (Hold, Reply, Message):
                    assert session.exec(select(func.count()).select_from(table)).one() == 0

    asyncio.run(story())


def test_a_model_without_a_price_is_not_sold(tmp_path: Path) -> None:
    """T22: unknown price, no hold, no answer."""

    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice = await person(app)
            with app.db.read() as session:
                assert "gemma-3-270m" not in {
                    item.id for item in shelf.models(app, session=session)
                }
                with pytest.raises(pricing.Unpriced):
                    pricing.current(session, "gemma-3-270m", app.clock.micros())
            with pytest.raises(UnknownModel):
                await ask(app, alice, model="gemma-3-270m")

    asyncio.run(story())


def test_no_credits_is_a_refusal_with_facts(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path, accounts={"welcome_credits": 20}) as app:
            alice = await person(app)
            with pytest.raises(OutOfCredits) as refused:
                await ask(app, alice, model="gemma-3-12b-it")
            assert refused.value.facts["needed"] == "50"
            assert refused.value.facts["available"] == "20"
            assert app.limits.counts() == (0, 0)

    asyncio.run(story())


def test_another_users_reply_does_not_exist(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path, script={"tokens_per_second": 20}) as app:
            alice, bob = await person(app), await person(app, "bob")
            started = await ask(app, alice)
            for attempt in (
                follow(app, bob, started.reply_id),
                reply.stop(app, user_id=bob, reply_id=started.reply_id),
                reply.view(app, user_id=bob, reply_id=started.reply_id),
                ask(app, bob, conversation_id=started.conversation_id),
            ):
                with pytest.raises(NotFound):
                    await attempt
            assert (await answer(app, alice, started)).finish_reason == "stop"
            with pytest.raises(NotFound):
                await follow(app, bob, started.reply_id)

    asyncio.run(story())


def test_a_replay_gives_the_same_pieces_from_any_point(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path, script={"tokens": 12}) as app:
            alice = await person(app)
            started = await ask(app, alice)
            live, _ = await follow(app, alice, started.reply_id)
            for after in (0, 5, 12):
                again, end = await follow(app, alice, started.reply_id, after=after)
                assert [(piece.index, piece.text) for piece in again] == [
                    (piece.index, piece.text) for piece in live[after:]
                ]
                assert end.content == "".join(piece.text for piece in live)

    asyncio.run(story())


def test_limits_refuse_with_a_time_and_no_hold(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(
            tmp_path,
            script={"tokens": 200, "tokens_per_second": 100},
            limits={"running_per_user": 1, "waiting_per_user": 1},
        ) as app:
            alice = await person(app)
            first, second = await ask(app, alice), await ask(app, alice)
            with pytest.raises(TooMany) as refused:
                await ask(app, alice)
            assert refused.value.retry_after_seconds >= 1
            with app.db.read() as session:
                assert ledger.balance(session, user_id=alice).held == 2 * MICRO
            # A waiting answer can be stopped before it ever runs, and is free.
            await reply.stop(app, user_id=alice, reply_id=second.reply_id)
            assert (await answer(app, alice, second)).charged == 0
            await reply.stop(app, user_id=alice, reply_id=first.reply_id)
            await answer(app, alice, first)

    asyncio.run(story())


def test_retry_answers_again_and_replaces(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path, script={"tokens": 3}) as app:
            alice = await person(app)
            first = await ask(app, alice)
            await answer(app, alice, first)
            second = await message.retry(app, user_id=alice, conversation_id=first.conversation_id)
            end = await answer(app, alice, second)
            assert end.balance.total == 98 * MICRO
            with app.db.read() as session:
                rows = conversations.messages(
                    session, user_id=alice, conversation_id=first.conversation_id
                )
            assert [row.reply_id for row in rows] == [None, second.reply_id]

    asyncio.run(story())


def test_a_deleted_conversation_is_settled_and_stays_empty(tmp_path: Path) -> None:
    """T31: deleting creates no credits and saves no charge."""

    async def story() -> None:
        async with running_app(tmp_path, script={"tokens": 20, "tokens_per_second": 100}) as app:
            alice = await person(app)
            started = await ask(app, alice)
            app.db.write(
                lambda session: conversations.delete(
                    session,
                    user_id=alice,
                    conversation_id=started.conversation_id,
                    now=app.clock.micros(),
                )
            )
            end = await answer(app, alice, started)
            assert (end.content, end.charged) == ("", 1 * MICRO)

    asyncio.run(story())


def test_an_unbounded_request_is_clamped_and_holds_no_more(tmp_path: Path) -> None:
    """T23: without a limit of its own a message holds the configured maximum, not everything;
    what does not reach is refused in words that say how much is needed."""

    async def story() -> None:
        async with running_app(
            tmp_path, llm={"max_output_tokens": 100}, script={"first_token_ms": 2000}
        ) as app:
            alice = await person(app)
            app.db.write(
                lambda session: pricing.publish(
                    session,
                    model_id=MODEL,
                    kind="per_token",
                    input_per_million=0,
                    output_per_million=600_000 * MICRO,
                    now=app.clock.micros(),
                )
            )
            first = await ask(app, alice)
            assert first.maximum == 60 * MICRO
            with pytest.raises(OutOfCredits) as refused:
                await ask(app, alice, max_tokens=10**9)
            assert refused.value.facts["needed"] == "60"
            assert refused.value.facts["available"] == "40"
            assert (await answer(app, alice, first)).charged == 8 * 600_000

    asyncio.run(story())


def test_what_was_not_read_is_said_and_stays_said(tmp_path: Path, database_url: str) -> None:
    """A trimmed conversation: with the answer, after a reload, and after a restart."""

    async def story() -> None:
        async with running_app(
            tmp_path,
            url=database_url,
            script={"context_tokens": 60},
            llm={"max_output_tokens": 10},
        ) as app:
            alice = await person(app)
            conversation: str | None = None
            dropped = []
            for number in range(4):
                started = await ask(
                    app, alice, f"{number} " + "word " * 9, conversation_id=conversation
                )
                end = await answer(app, alice, started)
                conversation = end.conversation_id
                dropped.append(end.dropped_messages)
                # What is charged and counted is what was really read.
                assert end.prompt_tokens <= 50
            assert dropped[0] == 0
            assert dropped[-1] >= 2
            assert all(number % 2 == 0 for number in dropped)
            assert conversation is not None
            with app.db.read() as session:
                rows = conversations.messages(session, user_id=alice, conversation_id=conversation)
            assert [row.dropped_messages for row in rows if row.role == "assistant"] == dropped

    asyncio.run(story())


def test_the_engine_time_of_an_answer_is_kept_with_its_usage(tmp_path: Path) -> None:
    """Two answers at once share the time; what they get adds up to the model's busy time."""

    async def story() -> None:
        async with running_app(tmp_path, script={"tokens": 20, "tokens_per_second": 100}) as app:
            alice = await person(app)
            both = [await ask(app, alice, f"hello {number}") for number in range(2)]
            await asyncio.gather(*(answer(app, alice, started) for started in both))
            busy = app.engine.stats()["recent"][MODEL]["busy_seconds_total"]
            with app.db.read() as session:
                used = session.exec(select(UsageRow)).all()
            assert all(80 <= row.engine_ms < row.duration_ms for row in used)
            assert sum(row.engine_ms for row in used) == pytest.approx(busy * 1000, abs=3)

    asyncio.run(story())
