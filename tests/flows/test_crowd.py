"""A thousand requests at once: as many as fit are answered, the rest is told to come back."""

import asyncio
from pathlib import Path

from sqlmodel import func, select

from chat_app.accounts.limits import QueueFull
from chat_app.chat.tables import Conversation, Message, Reply
from chat_app.credits import ledger
from chat_app.credits.tables import Hold
from chat_app.flows import message
from chat_app.money import MICRO
from tests.apps import answer, ask, person, running_app

PLACES = 120


def test_a_thousand_at_once_are_admitted_to_the_limit(tmp_path: Path) -> None:
    """Nothing is held, stored or charged for the refused; the admitted all end; books verify."""

    async def story() -> None:
        async with running_app(
            tmp_path,
            accounts={"welcome_credits": 1000},
            script={"tokens": 5, "first_token_ms": 1500},
            limits={"queue_total": PLACES},
        ) as app:
            people = [await person(app, f"user{number}") for number in range(5)]
            sent = await asyncio.gather(
                *(ask(app, people[number % 5]) for number in range(1000)), return_exceptions=True
            )
            admitted = [
                (people[number % 5], item)
                for number, item in enumerate(sent)
                if isinstance(item, message.Started)
            ]
            refused = [item for item in sent if isinstance(item, QueueFull)]
            assert len(admitted) + len(refused) == 1000
            # Places that became free while the thousand were on their way may be taken again.
            assert PLACES <= len(admitted) < 1000
            assert {item.code for item in refused} == {"queue_full"}
            assert all(item.retry_after_seconds >= 1 for item in refused)
            assert app.limits.counts()[0] <= PLACES
            ends = await asyncio.gather(*(answer(app, user, item) for user, item in admitted))
            assert {(end.state, end.charged) for end in ends} == {("done", 1 * MICRO)}
            assert app.limits.counts() == (0, 0)
            assert app.engine.stats()["running"] == 0
            with app.db.read() as session:
                for table in (Hold, Reply, Conversation):
                    found = session.exec(select(func.count()).select_from(table)).one()
                    assert found == len(admitted), table
                messages = session.exec(select(func.count()).select_from(Message)).one()
                assert messages == 2 * len(admitted)
                spent = 0
                for user in people:
                    balance = ledger.balance(session, user_id=user)
                    assert balance.held == 0
                    spent += 1000 * MICRO - balance.total
                assert spent == len(admitted) * MICRO

    asyncio.run(story())
