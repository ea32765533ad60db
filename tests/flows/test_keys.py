"""API keys in a message's story, on both databases: budgets, attribution, and the end of a key."""

import asyncio
from pathlib import Path

import pytest
from sqlmodel import select

from chat_app.accounts import keys
from chat_app.accounts.key_tables import ApiKey
from chat_app.accounts.keys import Limits
from chat_app.app import App
from chat_app.chat.tables import Reply
from chat_app.credits import ledger, verify
from chat_app.credits.key_budgets import KeyBudgetReached
from chat_app.flows import keys as flow
from chat_app.flows.message import Started
from chat_app.money import MICRO
from tests.apps import answer, ask, person, running_app
from tests.flows.test_spending import price


async def key_of(app: App, user_id: int, **limits: int) -> ApiKey:
    amounts = {period: amount * MICRO for period, amount in limits.items()}
    view, _ = await flow.make(app, user_id=user_id, name="robot", limits=Limits(**amounts))
    return view.key


def spent(app: App, user_id: int) -> int:
    (view,) = flow.mine(app, user_id=user_id)
    return view.spent.total


def test_64_messages_with_a_key_for_ten(tmp_path: Path, database_url: str) -> None:
    """T1: exactly ten, each with the key's name on it; settled to what was charged (T31)."""

    async def story() -> None:
        async with running_app(tmp_path, url=database_url, script={"tokens": 4}) as app:
            alice = await person(app)
            price(app, per_message=MICRO)
            key = await key_of(app, alice, month=10)
            results = await asyncio.gather(
                *(ask(app, alice, f"number {n}", api_key=key) for n in range(64)),
                return_exceptions=True,
            )
            started = [result for result in results if isinstance(result, Started)]
            refused = [result for result in results if isinstance(result, KeyBudgetReached)]
            assert (len(started), len(refused)) == (10, 54)
            for each in started:
                await answer(app, alice, each)
            assert spent(app, alice) == 10 * MICRO
            own = await answer(app, alice, await ask(app, alice))
            with app.db.read() as session:
                rows = session.exec(select(Reply).where(Reply.key_id == key.id)).all()
                assert {row.id for row in rows} == {each.reply_id for each in started}
                before = ledger.balance(session, user_id=alice)
                assert verify.run(session) == []
            assert own.charged == MICRO
            await flow.revoke(app, user_id=alice, key_id=key.id)
            with app.db.read() as session:
                assert ledger.balance(session, user_id=alice) == before

    asyncio.run(story())


def test_a_key_that_ends_before_the_hold_holds_nothing(tmp_path: Path) -> None:
    """It is asked for again in the transaction that spends, so no late message slips through."""

    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice = await person(app)
            key = await key_of(app, alice)
            await flow.revoke(app, user_id=alice, key_id=key.id)
            with pytest.raises(keys.BadKey):
                await ask(app, alice, api_key=key)
            with app.db.read() as session:
                assert ledger.balance(session, user_id=alice).held == 0
                assert session.exec(select(Reply)).all() == []

    asyncio.run(story())


def test_a_limit_is_the_one_of_now_and_a_retry_is_counted_once(tmp_path: Path) -> None:
    """The same idempotency key is one message, one hold and one part of the budget (T12)."""

    async def story() -> None:
        async with running_app(tmp_path) as app:
            alice = await person(app)
            price(app, per_message=MICRO)
            key = await key_of(app, alice, total=5)
            for _ in range(3):
                again = await ask(app, alice, api_key=key, idempotency_key="same")
            await answer(app, alice, again)
            assert spent(app, alice) == MICRO
            await flow.change(app, user_id=alice, key_id=key.id, limits=Limits(total=MICRO))
            with pytest.raises(KeyBudgetReached):  # though the caller still has the old row
                await ask(app, alice, api_key=key)
            assert spent(app, alice) == MICRO

    asyncio.run(story())
