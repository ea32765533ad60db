"""REST: the branches of a conversation, answers that go on, and two models side by side."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import Field, StrictBool

from chat_app.api import chat, deps, images, payer
from chat_app.api.chat import ModelId, Place, Temporary
from chat_app.api.composer import MaxTokens, Seed, System, Temperature, TopP
from chat_app.api.deps import Body, Credits, PublicId, Text, errors_in
from chat_app.api.images import ImageIn
from chat_app.api.payer import Payer, PayerHeader
from chat_app.api.views import ConversationOut, OpenConversationOut, QuoteOut, ReplyOut, Shown
from chat_app.chat import branches, conversations
from chat_app.flows import message, onward, reply
from chat_app.money import format_credits

router = APIRouter(prefix="/chat", tags=["chat"])


class AtMessage(Body):
    message_id: PublicId


class Continue(Body):
    model: ModelId | None = None
    max_tokens: MaxTokens | None = None
    payer: Payer | None = None
    stream: StrictBool = False
    spend_limit: Annotated[Credits, Field(ge=0)] | None = None


class QuoteContinue(Body):
    model: ModelId | None = None
    max_tokens: MaxTokens | None = None
    payer: Payer | None = None


class Compare(Body):
    models: Annotated[
        list[ModelId],
        Field(
            min_length=2,
            max_length=2,
            json_schema_extra={"example": ["gemma-3-1b-it", "gemma-3-12b-it"]},
        ),
    ]
    message: Text
    conversation_id: PublicId | None = None
    parent_id: Place | None = None
    max_tokens: MaxTokens | None = None
    system: System | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: Seed | None = None
    images: Annotated[
        list[ImageIn],
        Field(max_length=16, default_factory=list, description="Where both models see images."),
    ]
    payer: Payer | None = None
    spend_limit: Annotated[
        Credits | None, Field(ge=0, description="The most that both together may cost.")
    ] = None
    temporary: Temporary = False


class StartedOut(Shown):
    """A reply that is under way; at most `maximum` credits are held for it."""

    reply_id: str
    message_id: str
    model: str
    maximum: str


class ComparisonOut(Shown):
    """Two replies to one question, to be followed at `/chat/replies/{id}/events`."""

    conversation_id: str
    replies: list[StartedOut]

    @classmethod
    def of(cls, started: Sequence[message.Started], models: Sequence[str]) -> "ComparisonOut":
        return cls(
            conversation_id=started[0].conversation_id,
            replies=[
                StartedOut(
                    reply_id=one.reply_id,
                    message_id=one.message_id,
                    model=model,
                    maximum=format_credits(one.maximum),
                )
                for one, model in zip(started, models, strict=True)
            ],
        )


@router.put("/conversations/{id}/path", responses=errors_in(401, 403, 404, 422))
async def pick_path(
    app: deps.App, who: deps.CurrentUser, id: deps.Id, body: AtMessage
) -> OpenConversationOut:
    """Show another branch: the path through a message, and on to the newest below it.

    From now on models read this path, and the next message follows it.
    """
    owner = deps.user_id(who)
    await app.db.awrite(
        lambda session: branches.pick(
            session, user_id=owner, conversation_id=id, message_id=body.message_id
        )
    )
    with app.db.read() as session:
        found = conversations.get(session, user_id=owner, conversation_id=id)
        shown = conversations.messages(session, user_id=owner, conversation_id=id)
    running = await asyncio.to_thread(reply.running, app, user_id=owner, conversation_id=id)
    return OpenConversationOut.opened(found, shown, running)


@router.post(
    "/conversations/{id}/fork", status_code=201, responses=errors_in(401, 403, 404, 409, 422)
)
async def fork(
    app: deps.App, who: deps.CurrentUser, id: deps.Id, body: AtMessage
) -> ConversationOut:
    """Copy the path up to a message into a new conversation. Nothing is charged.

    Receipts and costs stay with the original messages.
    """
    owner, now = deps.user_id(who), app.clock.micros()
    made = await app.db.awrite(
        lambda session: branches.fork(
            session, user_id=owner, conversation_id=id, message_id=body.message_id, now=now
        )
    )
    return ConversationOut.of(made)


@router.post(
    "/replies/{id}/continue/quote", responses=errors_in(401, 403, 404, 409, 413, 422, 429, 503)
)
async def quote_continue(
    app: deps.App, who: deps.CurrentUser, id: deps.Id, header: PayerHeader, body: QuoteContinue
) -> QuoteOut:
    """What it would cost to go on with an answer. Nothing is stored or held."""
    return QuoteOut.of(
        await onward.quote_resume(
            app,
            user_id=deps.user_id(who),
            reply_id=id,
            model=body.model,
            max_tokens=body.max_tokens,
            org_id=payer.chosen(body.payer, header),
            api_key=who.key,
        )
    )


@router.post(
    "/replies/{id}/continue",
    response_model=ReplyOut,
    responses=errors_in(401, 402, 403, 404, 409, 413, 422, 429, 503),
)
async def go_on(  # noqa: PLR0917 - what a route asks for
    app: deps.App,
    who: deps.CurrentUser,
    id: deps.Id,
    key: deps.IdempotencyKey,
    header: PayerHeader,
    body: Continue,
) -> Response:
    """Go on with an answer that was stopped or ended at its length limit.

    It is a new reply with its own charge and receipt, whose message follows the first answer;
    models read both as one text. Streams as `/chat/message` does.
    """
    started = await onward.resume(
        app,
        user_id=deps.user_id(who),
        reply_id=id,
        model=body.model,
        max_tokens=body.max_tokens,
        idempotency_key=key,
        spend_limit=body.spend_limit,
        org_id=payer.chosen(body.payer, header),
        api_key=who.key,
    )
    return await chat.answered(app, who, started, stream=body.stream)


@router.post(
    "/compare",
    status_code=202,
    responses=errors_in(401, 402, 403, 404, 409, 413, 422, 429, 503),
)
async def compare(
    app: deps.App,
    who: deps.CurrentUser,
    key: deps.IdempotencyKey,
    header: PayerHeader,
    body: Compare,
) -> ComparisonOut:
    """Have one message answered by two models side by side: two holds and receipts, or none.

    Ask for each price at `/chat/quote` before. The answers are siblings; say with
    `PUT /chat/conversations/{id}/path` which one the conversation goes on with, else it is the
    first.
    """
    started = await onward.compare(
        app,
        user_id=deps.user_id(who),
        text=body.message,
        models=body.models,
        conversation_id=body.conversation_id,
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
        system=body.system,
        idempotency_key=key,
        spend_limit=body.spend_limit,
        images=images.files(body.images),
        org_id=payer.chosen(body.payer, header),
        api_key=who.key,
        parent_id=body.parent_id,
        temporary=body.temporary,
    )
    return ComparisonOut.of(started, body.models)
