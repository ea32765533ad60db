"""Ways on from a message: an answer that goes on, and two models side by side.

Both end in `message.begin`, the one place where holds are placed and replies begin.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from sqlmodel import Session

from chat_app.accounts.key_tables import ApiKey
from chat_app.app import App
from chat_app.chat import conversations
from chat_app.chat.parameters import Parameters
from chat_app.chat.tables import Message, Reply
from chat_app.errors import Conflict, Invalid
from chat_app.flows import reply
from chat_app.flows.message import Quote, Started, begin, quote_order
from chat_app.flows.order import Order, checked
from chat_app.ids import new_id

# What a model is told to go on with an answer; the person reads both parts as one.
GO_ON = "Continue your last answer exactly where it stopped. Repeat nothing and add no preface."
_CUT_SHORT = ("length", "cancelled")


class NothingToContinue(Conflict):
    """The answer said all it wanted to, failed, or has no text."""

    code = "nothing_to_continue"
    message = "This answer ended by itself. Ask a new question, or have it answered again."


class OneModelTwice(Invalid):
    """Side by side are two different models."""

    code = "one_model_twice"
    message = "Both models are the same. Choose two different ones to compare."


async def compare(
    app: App,
    *,
    user_id: int,
    text: str,
    models: Sequence[str],
    conversation_id: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    system: str | None = None,
    idempotency_key: str | None = None,
    spend_limit: int | None = None,
    images: Sequence[bytes] = (),
    org_id: int | None = None,
    api_key: ApiKey | None = None,
    parent_id: str | None = None,
    temporary: bool = False,
) -> list[Started]:
    """Have one message answered by two models side by side: both holds are placed, or none.

    As `start` in everything else; `spend_limit` bounds the sum. The answers are siblings, the
    conversation goes on with the first until another one is picked. Raises OneModelTwice.
    """
    if len(set(models)) != len(models):
        raise OneModelTwice(param="models")
    asked = Parameters(system, temperature, top_p, seed, max_tokens)
    orders = [
        replace(
            checked(
                app,
                user_id=user_id,
                text=text,
                model=model,
                conversation_id=conversation_id,
                asked=asked,
                spend_limit=spend_limit,
                images=tuple(images),
                api_key=api_key,
                parent_id=parent_id,
                temporary=temporary,
            ),
            org_id=org_id,
        )
        for model in models
    ]
    return await asyncio.shield(
        asyncio.ensure_future(begin(app, orders, idempotency_key or new_id("key")))
    )


async def resume(
    app: App,
    *,
    user_id: int,
    reply_id: str,
    model: str | None = None,
    max_tokens: int | None = None,
    idempotency_key: str | None = None,
    spend_limit: int | None = None,
    org_id: int | None = None,
    api_key: ApiKey | None = None,
) -> Started:
    """Go on with an answer that was stopped, or ended at its length limit, in a new reply.

    It costs what an answer to a message costs; both are shown and read as one text. Raises
    ReplyNotFound, and NothingToContinue when the answer ended by itself.
    """
    order = await _going_on(
        app,
        user_id=user_id,
        reply_id=reply_id,
        model=model,
        max_tokens=max_tokens,
        spend_limit=spend_limit,
        org_id=org_id,
        api_key=api_key,
    )
    started = await asyncio.shield(
        asyncio.ensure_future(begin(app, [order], idempotency_key or new_id("key")))
    )
    return started[0]


async def quote_resume(
    app: App,
    *,
    user_id: int,
    reply_id: str,
    model: str | None = None,
    max_tokens: int | None = None,
    org_id: int | None = None,
    api_key: ApiKey | None = None,
) -> Quote:
    """What it would cost to go on with the answer; raises what `resume` does."""
    order = await _going_on(
        app,
        user_id=user_id,
        reply_id=reply_id,
        model=model,
        max_tokens=max_tokens,
        spend_limit=None,
        org_id=org_id,
        api_key=api_key,
    )
    return await quote_order(app, order)


async def _going_on(
    app: App,
    *,
    user_id: int,
    reply_id: str,
    model: str | None,
    max_tokens: int | None,
    spend_limit: int | None,
    org_id: int | None,
    api_key: ApiKey | None,
) -> Order:
    def look(session: Session) -> Reply:
        found = session.get(Reply, reply_id)
        if found is None or found.user_id != user_id:
            raise reply.ReplyNotFound
        conversations.get(session, user_id=user_id, conversation_id=found.conversation_id)
        written = session.get(Message, found.message_id)
        if found.finish_reason not in _CUT_SHORT or not (written and written.content.strip()):
            raise NothingToContinue
        return found

    def read() -> Reply:
        with app.db.read() as session:
            return look(session)

    found = await asyncio.to_thread(read)
    order = checked(
        app,
        user_id=user_id,
        text=GO_ON,
        model=model or found.model,
        conversation_id=found.conversation_id,
        asked=Parameters(max_tokens=max_tokens),
        spend_limit=spend_limit,
        api_key=api_key,
    )
    return replace(order, continues_id=found.message_id, org_id=org_id)
