"""A new conversation gets a title from the model: free, in the background, or not at all.

The person's first words are the title until then, and stay it when the model is not in memory,
has no room, or says something that is no title. A title that a person gave is never replaced.
"""

import asyncio
import logging
from functools import partial

from sqlmodel import Session, col, func, select

from chat_app.app import App
from chat_app.chat import conversations
from chat_app.chat.tables import Conversation, Message, Reply
from chat_app.ids import new_id
from chat_app.llm import catalogue
from chat_app.llm.engine import ChatMessage, Delta, Done, Request, Sampling, Usage
from chat_app.llm.engine import Started as PromptRead

log = logging.getLogger(__name__)

MAX_TOKENS = 24
SECONDS = 20.0
LOOK_SECONDS = 0.1
_READ_CHARACTERS = 600
_ORDER = (
    "Write a title of two to six words for the conversation below. "
    "Answer with the title alone, in the language of the conversation."
)


def begin(app: App, *, user_id: int, conversation_id: str, model: str) -> None:
    """Have an answered conversation named by its model, if that has nothing better to do."""
    if not app.settings.chat.auto_titles or app.draining or conversation_id in app.titles:
        return
    # The demo model was tried: of five ways to ask it, none gave titles. It greets instead.
    if catalogue.get(model).demo:
        return
    state = app.engine.state(model)
    # Nobody wants to be called "w0 w1 w2" by the script engine.
    if state.state != "ready" or state.backend == "script" or _somebody_waits(app):
        return
    task = asyncio.create_task(
        _write(app, user_id=user_id, conversation_id=conversation_id, model=model),
        name=f"title {conversation_id}",
    )
    app.titles[conversation_id] = task
    task.add_done_callback(lambda _: app.titles.pop(conversation_id, None))


async def _write(app: App, *, user_id: int, conversation_id: str, model: str) -> None:
    try:
        told = await asyncio.to_thread(_wanted, app, conversation_id)
        if told is None:
            return
        request = Request(
            id=new_id("ttl"),
            model=model,
            messages=(ChatMessage("user", f"{_ORDER}\n\n{told}"),),
            max_tokens=MAX_TOKENS,
            sampling=Sampling(temperature=0.0),
            stop=("\n\n",),
            user_scope=str(user_id),
            deadline_seconds=SECONDS,
            background=True,
        )
        text, usage = await _generate(app, request)
        # T19: nobody pays for these tokens, but they are on record.
        log.info(
            "a title took %d + %d tokens, free of charge",
            usage.prompt_tokens,
            usage.completion_tokens,
        )
        title = conversations.title_from(text)
        if title is not None:
            await app.db.awrite(
                partial(conversations.give_title, conversation_id=conversation_id, title=title)
            )
    except Exception:
        log.exception("a title could not be made")


async def _generate(app: App, request: Request) -> tuple[str, Usage]:
    """The model's words, or nothing when it had to give way."""
    pieces: list[str] = []
    giving_way = asyncio.create_task(_give_way(app, request.id))
    try:
        async for event in app.engine.submit(request):
            match event:
                case PromptRead() if _somebody_waits(app):
                    app.engine.cancel(request.id)
                case Delta(text=text):
                    pieces.append(text)
                case Done(reason="stop" | "length", usage=usage):
                    return "".join(pieces), usage
                case Done(usage=usage):
                    return "", usage
        return "", Usage()
    finally:
        giving_way.cancel()


async def _give_way(app: App, request_id: str) -> None:
    """Cancel the title as soon as an answer that somebody waits for does not get its turn."""
    waited = False
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        before, waited = waited, _somebody_waits(app)
        # Every answer waits for a step before it starts; one that still does needs the place.
        if before and waited:
            app.engine.cancel(request_id)
            return


def _somebody_waits(app: App) -> bool:
    return any(live.end is None and live.prompt_tokens == 0 for live in app.replies)


def _wanted(app: App, conversation_id: str) -> str | None:
    """What the title is about: the beginning of the first exchange; None when none is wanted."""
    with app.db.read() as session:
        return _first_exchange(session, conversation_id)


def _first_exchange(session: Session, conversation_id: str) -> str | None:
    found = session.get(Conversation, conversation_id)
    if found is None or found.renamed or found.deleted_at is not None:
        return None
    answered = session.exec(
        select(func.count())
        .select_from(Reply)
        .where(Reply.conversation_id == conversation_id, Reply.state == "done")
    ).one()
    if answered != 1:
        return None
    rows = session.exec(
        select(Message)
        .where(Message.conversation_id == conversation_id, col(Message.content) != "")
        .order_by(col(Message.created_at), col(Message.id))
    ).all()
    # The question whose answer it is, if earlier ones came to nothing.
    told = [row for row in rows if row.role == "user"][-1:]
    told += [row for row in rows if row.role == "assistant"][-1:]
    if len(told) < 2:
        return None
    names = {"user": "Question", "assistant": "Answer"}
    return "\n".join(
        f"{names[row.role]}: {' '.join(row.content.split())[:_READ_CHARACTERS]}" for row in told
    )
