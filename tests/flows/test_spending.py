"""A user's own limits, from the quote to the settled answer; and what chatting would cost."""

import asyncio
from pathlib import Path

import pytest

from chat_app.app import App
from chat_app.credits import guards, ledger, packages, pricing
from chat_app.credits.guards import Limits, OverSpendGuard
from chat_app.credits.pricing import Tier
from chat_app.flows import estimate, message, spending
from chat_app.flows.estimate import BadEstimate, Estimate
from chat_app.money import MICRO
from tests.apps import MODEL, answer, ask, person, running_app


def price(app: App, **parts: object) -> None:
    values = {"kind": "per_message", "model_id": MODEL, "now": app.clock.micros(), **parts}
    app.db.write(lambda session: pricing.publish(session, **values))  # type: ignore[arg-type]


def test_an_answer_is_cut_where_the_limit_for_one_is_reached(
    tmp_path: Path, database_url: str
) -> None:
    """T23: the limit makes the answer shorter, not the hold bigger than the user wants."""

    async def story() -> None:
        async with running_app(tmp_path, url=database_url, script={"tokens": 500}) as app:
            alice = await person(app)
            price(
                app,
                kind="mixed",
                per_message=MICRO,
                input_per_million=0,
                output_per_million=100_000 * MICRO,
            )
            await spending.limit(app, user_id=alice, limits=Limits(per_answer=3 * MICRO))
            quote = await message.quote(app, user_id=alice, text="hello", model=MODEL)
            assert quote.maximum == 3 * MICRO
            end = await answer(app, alice, await ask(app, alice))
            assert (end.completion_tokens, end.charged) == (20, 3 * MICRO)
            assert end.finish_reason == "length"
            # Not even one token fits: refused, and nothing was held.
            await spending.limit(app, user_id=alice, limits=Limits(per_answer=MICRO))
            with pytest.raises(OverSpendGuard) as refused:
                await ask(app, alice)
            assert refused.value.facts["reason"] == "per_answer"
            assert refused.value.facts["needed"] == "1.1"
            with app.db.read() as session:
                assert ledger.balance(session, user_id=alice).held == 0

    asyncio.run(story())


def test_a_conversation_ends_at_its_limit_and_another_begins(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice = await person(app)
            await spending.limit(app, user_id=alice, limits=Limits(per_conversation=2 * MICRO))
            first = await ask(app, alice)
            await answer(app, alice, first)
            inside = {"conversation_id": first.conversation_id}
            await answer(app, alice, await ask(app, alice, **inside))
            with pytest.raises(OverSpendGuard) as refused:
                await ask(app, alice, **inside)
            assert refused.value.facts["reason"] == "per_conversation"
            with pytest.raises(OverSpendGuard):
                await message.retry(app, user_id=alice, conversation_id=first.conversation_id)
            await answer(app, alice, await ask(app, alice))

    asyncio.run(story())


def test_64_parallel_messages_keep_to_the_day(tmp_path: Path, database_url: str) -> None:
    """T1 for the user's own limit, through the whole message."""

    async def story() -> None:
        async with running_app(
            tmp_path, url=database_url, script={"tokens": 2, "tokens_per_second": 10}
        ) as app:
            alice = await person(app)
            await spending.limit(app, user_id=alice, limits=Limits(per_day=10 * MICRO))
            results = await asyncio.gather(
                *(ask(app, alice, f"number {number}") for number in range(64)),
                return_exceptions=True,
            )
            started = [result for result in results if isinstance(result, message.Started)]
            assert len(started) == 10
            assert sum(isinstance(result, OverSpendGuard) for result in results) == 54
            await asyncio.gather(*(answer(app, alice, item) for item in started))
            with app.db.read() as session:
                spent = guards.spent(session, user_id=alice, now=app.clock.micros())
                assert (spent.today, spent.messages_this_month) == (10 * MICRO, 10)
                assert ledger.balance(session, user_id=alice).available == 90 * MICRO

    asyncio.run(story())


def test_a_changed_limit_leaves_the_key_of_a_message_alone(tmp_path: Path) -> None:
    """T12: a retry with the same key gets the first reply, whatever the limit is by now."""

    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice = await person(app)
            first = await ask(app, alice, idempotency_key="k")
            await answer(app, alice, first)
            await spending.limit(app, user_id=alice, limits=Limits(per_answer=1, per_day=1))
            again = await ask(app, alice, idempotency_key="k")
            assert (again.reply_id, again.replayed) == (first.reply_id, True)

    asyncio.run(story())


def test_what_is_likely_follows_the_users_own_answers(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path, script={"tokens": 30}) as app:
            alice = await person(app)
            price(app, kind="per_token", input_per_million=0, output_per_million=1000 * MICRO)

            async def likely() -> int:
                quote = await message.quote(
                    app, user_id=alice, text="hello", model=MODEL, max_tokens=200
                )
                assert quote.maximum == 200_000
                return quote.likely

            assert await likely() == 50_000  # a quarter, before anything is known
            for _ in range(3):
                await answer(app, alice, await ask(app, alice))
            assert await likely() == 30_000

    asyncio.run(story())


def test_an_estimate_goes_through_the_tiers_and_finds_a_package(tmp_path: Path) -> None:
    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice = await person(app)
            price(
                app,
                per_message=2 * MICRO,
                tiers=[Tier("messages", 100, MICRO), Tier("messages", 200, 0)],
            )
            await answer(app, alice, await ask(app, alice))

            def of(**more: int) -> Estimate:
                values = {"messages_per_day": 10, "prompt_tokens": 9, "completion_tokens": 9}
                with app.db.read() as session:
                    return estimate.of_chatting(
                        app, session, user_id=alice, model=MODEL, **{**values, **more}
                    )

            found = of()
            assert (found.per_message, found.per_day) == (2 * MICRO, 20 * MICRO)
            assert found.per_month == (99 * 2 + 100) * MICRO
            assert found.days == pytest.approx(98 * 30 / 298)
            assert found.package is not None
            assert (found.package.code, found.packages) == ("starter", 1)
            price(app, per_message=100 * MICRO)
            most = of(budget=3100 * MICRO, messages_per_day=100)
            assert most.affordable == 1
            assert most.package is not None
            assert (most.package.code, most.packages) == ("pro", 50)
            nothing = of(messages_per_day=0)
            assert (nothing.per_month, nothing.days, nothing.package) == (0, None, None)
            with pytest.raises(BadEstimate):
                of(messages_per_day=-1)
            with app.db.read() as session:
                assert packages.list_packages(session)[-1].code == "pro"

    asyncio.run(story())
