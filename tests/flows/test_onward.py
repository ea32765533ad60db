"""Answers that go on and chats that leave nothing, with the books and the clock."""

import asyncio
from pathlib import Path

from sqlmodel import func, select

from chat_app.chat import conversations
from chat_app.chat.tables import Conversation, Message, Reply
from chat_app.clock import ManualClock
from chat_app.credits import ledger
from chat_app.credits.tables import Hold
from chat_app.errors import OutOfCredits
from chat_app.flows import erase, onward, reply
from chat_app.money import MICRO
from tests.apps import MODEL, answer, ask, in_loop, person, running_app


@in_loop
async def test_a_temporary_chat_is_wiped_after_a_day(tmp_path: Path) -> None:
    """The texts go with the job, the charge stays, and an ordinary chat keeps its words."""
    clock = ManualClock()
    async with running_app(tmp_path, clock=clock) as app:
        ann = await person(app)
        secret = await ask(app, ann, "herons", temporary=True)
        kept = await ask(app, ann, "eagles")
        for started in (secret, kept):
            await answer(app, ann, started)
        clock.advance(hours=23)
        assert erase.forget_programs_texts(app) == 0
        clock.advance(hours=2)
        assert erase.forget_programs_texts(app) == 1
        assert erase.forget_programs_texts(app) == 0
        with app.db.read() as session:
            gone = session.get_one(Conversation, secret.conversation_id)
            assert (gone.title, gone.deleted_at) == ("", gone.temporary_until)
            texts = session.exec(
                select(Message.content).where(Message.conversation_id == gone.id)
            ).all()
            assert set(texts) == {""}
            shown, _ = conversations.search(session, user_id=ann)
            assert {hit.conversation_id for hit in shown} == {kept.conversation_id}
            assert ledger.balance(session, user_id=ann).total == 98 * MICRO


@in_loop
async def test_who_can_pay_for_one_answer_compares_nothing(
    tmp_path: Path,
) -> None:
    """T1, T6: with funds for one of five comparisons, one has both holds and the rest none."""
    async with running_app(
        tmp_path, accounts={"welcome_credits": 20}, script={"tokens_per_second": 100}
    ) as app:
        ann = await person(app)
        ends = await asyncio.gather(
            *(
                onward.compare(app, user_id=ann, text="both", models=[MODEL, "gemma-3-1b-it"])
                for _ in range(5)
            ),
            return_exceptions=True,
        )
        began = [end for end in ends if isinstance(end, list)]
        assert len(began) == 1
        assert sum(isinstance(end, OutOfCredits) for end in ends) == 4
        with app.db.read() as session:
            counts = [
                session.exec(select(func.count()).select_from(table)).one()
                for table in (Hold, Reply, Conversation, Message)
            ]
            assert counts == [2, 2, 1, 3]
        charged = [(await answer(app, ann, one)).charged for one in began[0]]
        assert charged == [1 * MICRO, 10 * MICRO]
        assert not app.limits.counts(ann)[0]


@in_loop
async def test_an_answer_that_is_stopped_goes_on_once_for_a_key(tmp_path: Path) -> None:
    """T12: the same key is the same reply; what was stopped and what goes on are both paid."""
    async with running_app(tmp_path, script={"tokens": 500, "tokens_per_second": 100}) as app:
        ann = await person(app)
        first = await ask(app, ann)
        async for item in reply.follow(app, user_id=ann, reply_id=first.reply_id):
            if getattr(item, "index", 0) == 3:
                break
        await reply.stop(app, user_id=ann, reply_id=first.reply_id)
        assert (await answer(app, ann, first)).finish_reason == "cancelled"
        more = [
            await onward.resume(
                app, user_id=ann, reply_id=first.reply_id, max_tokens=4, idempotency_key="on"
            )
            for _ in range(2)
        ]
        assert [one.replayed for one in more] == [False, True]
        end = await answer(app, ann, more[0])
        assert (end.finish_reason, end.completion_tokens) == ("length", 4)
        assert end.balance.total == 98 * MICRO
