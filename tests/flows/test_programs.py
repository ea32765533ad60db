"""What programs do, on both databases: completions that leave no trace, imports, bulk credits."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from chat_app.accounts import users
from chat_app.app import App
from chat_app.chat import conversations
from chat_app.chat.export import FORMAT
from chat_app.chat.tables import Conversation
from chat_app.clock import ManualClock
from chat_app.credits import holds, ledger
from chat_app.errors import OutOfCredits
from chat_app.flows import bulk, erase, imports, message, reply
from chat_app.flows.order import Turn
from chat_app.money import MICRO
from tests.apps import MODEL, answer, follow, in_loop, person, running_app

TURNS = (Turn("system", "be brief"), Turn("user", "hello there"))


async def complete(app: App, user: int, **more: Any) -> message.Started:
    return await message.complete(app, user_id=user, **{"turns": TURNS, "model": MODEL, **more})


def available(app: App, user: int) -> int:
    with app.db.read() as session:
        return ledger.balance(session, user_id=user).available // MICRO


@in_loop
async def test_a_program_is_answered_like_everybody(tmp_path: Path, database_url: str) -> None:
    """T18: a hold for the most it may cost, one charge, a receipt, an inference on record."""
    async with running_app(tmp_path, url=database_url) as app:
        ann = await person(app)
        started = await complete(app, ann)
        view = await answer(app, ann, started)
        assert (view.charged, view.prompt_tokens) == (started.maximum, 4)
        assert view.receipt_id is not None
        with app.db.read() as session:
            assert conversations.list_for(session, user_id=ann) == ([], None)
            assert holds.count_open(session) == 0
        assert available(app, ann) == 99


@in_loop
async def test_parallel_completions_never_overdraw(tmp_path: Path, database_url: str) -> None:
    """T1: funds for two, twenty asked at once, two are answered."""
    async with running_app(tmp_path, url=database_url) as app:
        ann = await person(app)
        asked = [complete(app, ann, model="gemma-3-12b-it") for _ in range(20)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        started = [item for item in outcomes if isinstance(item, message.Started)]
        refused = [item for item in outcomes if isinstance(item, OutOfCredits)]
        assert (len(started), len(refused)) == (2, 18)
        for item in started:
            await answer(app, ann, item)
        assert available(app, ann) == 0


@in_loop
async def test_the_answers_text_goes_after_a_day(tmp_path: Path, database_url: str) -> None:
    clock = ManualClock()
    async with running_app(tmp_path, url=database_url, clock=clock) as app:
        ann = await person(app)
        started = await complete(app, ann, idempotency_key="k")
        await answer(app, ann, started)
        clock.advance(hours=23)
        assert erase.forget_programs_texts(app) == 0
        again = await complete(app, ann, idempotency_key="k")
        assert (again.reply_id, again.replayed) == (started.reply_id, True)
        pieces, _ = await follow(app, ann, again.reply_id)
        assert len(pieces) == 8
        clock.advance(hours=2)
        assert erase.forget_programs_texts(app) == 1
        assert erase.forget_programs_texts(app) == 0
        assert (await reply.view(app, user_id=ann, reply_id=started.reply_id)).content == ""


@in_loop
async def test_a_deleted_conversation_still_keeps_no_text(
    tmp_path: Path, database_url: str
) -> None:
    """What a program's answer may keep, one that was deleted meanwhile may not."""
    script = {"tokens": 20, "tokens_per_second": 200}
    async with running_app(tmp_path, url=database_url, script=script) as app:
        ann = await person(app)
        started = await message.start(app, user_id=ann, text="hello", model=MODEL)
        await erase.conversation(app, user_id=ann, conversation_id=started.conversation_id)
        await answer(app, ann, started)
        view = await reply.view(app, user_id=ann, reply_id=started.reply_id)
        assert (view.content, view.completion_tokens) == ("", 20)
        with app.db.read() as session:
            assert conversations.due(session, now=app.clock.micros() + 1) == []
            found = session.get(Conversation, started.conversation_id)
            assert found is not None
            assert found.title == ""


@in_loop
async def test_import(tmp_path: Path, database_url: str) -> None:
    said = [
        {"role": role, "content": f"{role} {number}"}
        for number in range(40)
        for role in ("user", "assistant", "user")
    ]
    async with running_app(tmp_path, url=database_url) as app:
        ann = await person(app)
        file = {"format": FORMAT, "title": "Long ago", "messages": said}
        (made,) = await imports.conversations(app, user_id=ann, data=file, key="k")
        assert made.messages == 120
        assert await imports.conversations(app, user_id=ann, data=file, key="k") == [made]
        with app.db.read() as session:
            shown = conversations.messages(session, user_id=ann, conversation_id=made.id)
        assert [(row.role, row.content) for row in shown] == [
            (item["role"], item["content"]) for item in said
        ]


@pytest.mark.parametrize("dry_run", [False, True])
@in_loop
async def test_bulk_at_once(tmp_path: Path, database_url: str, dry_run: bool) -> None:
    """Two files with the same people in other orders do not wait for each other for ever."""
    async with running_app(tmp_path, url=database_url) as app:
        people = [await person(app, f"person{number}") for number in range(4)]
        with app.db.read() as session:
            names = [users.get(session, id).username for id in people]
        rows = [bulk.Row(name, MICRO, "a gift") for name in names]
        orders = [rows, rows[::-1]] * 4
        done = await asyncio.gather(
            *(
                bulk.credits(app, admin_id=99, rows=order, key=f"k{number}", dry_run=dry_run)
                for number, order in enumerate(orders)
            )
        )
        assert all(result.code is None for results in done for result in results)
        expected = 100 if dry_run else 108
        assert [available(app, id) for id in people] == [expected] * 4
