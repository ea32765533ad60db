"""REST: models, messages and their answers, conversations, history."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Field, StrictBool, StrictInt
from sqlmodel import Session

from chat_app.accounts import keys
from chat_app.api import deps, etags, images, payer, sse
from chat_app.api.composer import MaxTokens, Seed, SettingsIn, System, Temperature, TopP
from chat_app.api.deps import Body, Credits, PublicId, Text, errors_in
from chat_app.api.images import ImageIn
from chat_app.api.payer import Payer, PayerHeader
from chat_app.api.views import (
    ChatStatusOut,
    ConversationOut,
    HitOut,
    ModelOut,
    OpenConversationOut,
    Page,
    QueuedOut,
    QuoteOut,
    ReplyOut,
    ReplyStateOut,
)
from chat_app.chat import conversations, export, folders
from chat_app.chat.tables import Conversation
from chat_app.clock import from_micros
from chat_app.errors import Conflict
from chat_app.flows import erase, message, reply, shelf
from chat_app.flows import export as export_flow

router = APIRouter(prefix="/chat", tags=["chat"])

_STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
MAX_AFTER = 2**31 - 1
ModelId = Annotated[str, Field(max_length=128), deps.Clean]


class InProgress(Conflict):
    """The same key was used a moment ago and its answer is still being written."""

    code = "in_progress"
    message = "This request is still being answered. Wait for it or follow its reply."


Place = Annotated[
    PublicId,
    Field(
        description="A message of the conversation that this one follows, as another branch; "
        "`root` to begin it anew. Left out: the end of the active path."
    ),
]
Temporary = Annotated[
    StrictBool,
    Field(
        description="A new conversation that is in no list, search or export. Its texts go when "
        "it is deleted, at the latest after 24 hours; charge and receipt stay."
    ),
]


class Question(Body):
    model: ModelId
    message: Text
    conversation_id: PublicId | None = None
    parent_id: Place | None = None
    max_tokens: MaxTokens | None = None
    system: System | None = None
    payer: Payer | None = None


class QuoteQuestion(Question):
    images: Annotated[StrictInt, Field(ge=0, le=16, description="How many there will be.")] = 0


class Message(Question):
    images: Annotated[
        list[ImageIn],
        Field(max_length=16, default_factory=list, description="For models with `sees_images`."),
    ]
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: Seed | None = None
    stream: StrictBool = False
    spend_limit: Annotated[Credits, Field(ge=0)] | None = None
    temporary: Temporary = False


class Retry(Body):
    model: ModelId | None = None
    message_id: Annotated[
        PublicId | None, Field(description="A question, or an answer to it; else the last one.")
    ] = None
    payer: Payer | None = None
    stream: StrictBool = False


class ConversationPatch(Body):
    """What is given is changed, the rest stays. `settings` are set as a whole."""

    title: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    pinned: StrictBool | None = None
    archived: StrictBool | None = None
    folder_id: Annotated[
        PublicId | None, Field(description="The folder it goes into; null: out of any.")
    ] = None
    settings: SettingsIn | None = None


@router.get(
    "/models",
    response_model=Page[ModelOut],
    responses={**etags.NOT_CHANGED, **errors_in(401)},
)
def models(request: Request, app: deps.App, who: deps.CurrentUser) -> Response:
    """The models for sale, with price and state; with an API key those that it may use.

    With an ETag for `If-None-Match`.
    """
    with app.db.read() as session:
        shown = shelf.models(app, session=session)
    allowed = [model for model in shown if keys.allows(who.key, model.id)]
    page = Page[ModelOut](items=[ModelOut.of(model) for model in allowed])
    return etags.answer(request, page)


@router.post("/quote", responses=errors_in(401, 403, 404, 413, 422, 429, 503))
async def quote(
    app: deps.App, who: deps.CurrentUser, header: PayerHeader, body: QuoteQuestion
) -> QuoteOut:
    """What a message would cost. Nothing is stored or held."""
    return QuoteOut.of(
        await message.quote(
            app,
            user_id=deps.user_id(who),
            text=body.message,
            model=body.model,
            conversation_id=body.conversation_id,
            max_tokens=body.max_tokens,
            system=body.system,
            images=body.images,
            org_id=payer.chosen(body.payer, header),
            api_key=who.key,
            parent_id=body.parent_id,
        )
    )


@router.post(
    "/message",
    response_model=ReplyOut,
    responses=errors_in(401, 402, 403, 404, 409, 413, 422, 429, 503),
)
async def send(
    app: deps.App,
    who: deps.CurrentUser,
    key: deps.IdempotencyKey,
    header: PayerHeader,
    body: Message,
) -> Response:
    """Send a message and get the answer, whole or as server-sent events with `stream`.

    A model with `sees_images` takes `images`, each `{data, type}` with the file in base64; the
    whole body is no larger than `server.max_body_kib`. The text may then be empty.

    With `parent_id` the message is a branch: to edit a question, send the new text with the
    parent of the old one. The old branch stays, and the active path leads to the new one.

    `temperature`, `top_p`, `seed`, `max_tokens` and `system`, a system prompt of your own that is
    priced like all of the prompt, hold for this answer; a conversation that the message begins
    keeps them. What is left out is as the conversation's settings say, or the model's own.

    Events: `start {reply_id, conversation_id, message_id, maximum}`, perhaps
    `queued {position, expected_seconds}` while others come first, then
    `delta {text, index}`, then `done` with the whole answer, or `error {error}`. Leaving the
    stream does not stop the answer: follow it again at `/chat/replies/{id}/events`.
    """
    started = await message.start(
        app,
        user_id=deps.user_id(who),
        text=body.message,
        model=body.model,
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
    return await answered(app, who, started, stream=body.stream)


@router.post(
    "/conversations/{id}/retry",
    response_model=ReplyOut,
    responses=errors_in(401, 402, 403, 404, 409, 422, 429, 503),
)
async def retry(  # noqa: PLR0917 - what a route asks for
    app: deps.App,
    who: deps.CurrentUser,
    id: deps.Id,
    key: deps.IdempotencyKey,
    header: PayerHeader,
    body: Retry,
) -> Response:
    """Answer a question of a conversation again. It costs what an answer costs.

    The new answer becomes a sibling of the others and the end of the active path.
    """
    started = await message.retry(
        app,
        user_id=deps.user_id(who),
        conversation_id=id,
        idempotency_key=key,
        model=body.model,
        message_id=body.message_id,
        org_id=payer.chosen(body.payer, header),
        api_key=who.key,
    )
    return await answered(app, who, started, stream=body.stream)


async def answered(
    app: deps.App, who: deps.CurrentUser, started: message.Started, *, stream: bool
) -> Response:
    """The response with a reply that has begun: the whole answer, or its events."""
    if started.replayed:
        view = await reply.view(app, user_id=deps.user_id(who), reply_id=started.reply_id)
        if view.state == "running":
            raise InProgress(reply_id=started.reply_id)
    if stream:
        return sse.stream(app, who=who, reply_id=started.reply_id, started=started)
    view = await sse.wait(app, who=who, reply_id=started.reply_id)
    if view.state != "failed":
        return _json(ReplyOut.of(view).model_dump(mode="json", exclude={"error"}))
    return _json(sse.failure(view), sse.failure_status(view))


@router.get(
    "/replies/{id}/events",
    response_class=StreamingResponse,
    responses={**_STREAM, **errors_in(401, 404, 422)},
)
async def events(
    app: deps.App,
    who: deps.CurrentUser,
    id: deps.Id,
    after: Annotated[
        int | None, Query(ge=0, le=MAX_AFTER, description="Number of the last delta you have.")
    ] = None,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> StreamingResponse:
    """Follow an answer from delta `after` + 1 to its end, also when it has ended already."""
    if after is None:
        known = last_event_id or ""
        after = min(int(known), MAX_AFTER) if known.isascii() and known.isdigit() else 0
    await reply.view(app, user_id=deps.user_id(who), reply_id=id)  # refuses before the stream
    return sse.stream(app, who=who, reply_id=id, after=after)


@router.get("/replies/{id}", responses=errors_in(401, 404))
async def show_reply(app: deps.App, who: deps.CurrentUser, id: deps.Id) -> ReplyOut:
    """An answer as it stands."""
    view = await reply.view(app, user_id=deps.user_id(who), reply_id=id)
    return ReplyOut.of(view, error=sse.failure(view)["error"] if view.state == "failed" else None)


@router.post("/replies/{id}/stop", responses=errors_in(401, 403, 404))
async def stop(app: deps.App, who: deps.CurrentUser, id: deps.Id) -> ReplyStateOut:
    """End an answer before its next token. What was delivered is kept and charged."""
    await reply.stop(app, user_id=deps.user_id(who), reply_id=id)
    view = await reply.view(app, user_id=deps.user_id(who), reply_id=id)
    return ReplyStateOut(reply_id=id, state=view.state)


@router.get("/conversations", responses=errors_in(401, 422))
def list_conversations(
    *,
    app: deps.App,
    who: deps.CurrentUser,
    limit: deps.Limit = 50,
    cursor: deps.Cursor = None,
    q: deps.Search = "",
    pinned: Annotated[bool | None, Query(description="Only those, or only others.")] = None,
    archived: Annotated[
        bool | None,
        Query(description="Only those, or only others; when not given, others, with `q` all."),
    ] = None,
    folder: Annotated[
        PublicId | None, Query(description="A folder's id; `none`: those that are in none.")
    ] = None,
) -> Page[ConversationOut]:
    """The caller's conversations, newest activity first."""
    if archived is None and not q.strip():
        archived = False
    with app.db.read() as session:
        rows, following = conversations.list_for(
            session,
            user_id=deps.user_id(who),
            limit=limit,
            cursor=cursor,
            q=q,
            pinned=pinned,
            archived=archived,
            folder=folder,
        )
    return Page(items=[ConversationOut.of(row) for row in rows], next_cursor=following)


@router.get("/conversations/{id}", responses=errors_in(401, 404, 422))
def show_conversation(
    app: deps.App,
    who: deps.CurrentUser,
    id: deps.Id,
    path: Annotated[
        Literal["active", "all"],
        Query(description="`all` gives every branch, each message after its parent."),
    ] = "active",
) -> OpenConversationOut:
    """A conversation with its messages: those of the active path, or of the whole tree."""
    owner = deps.user_id(who)
    with app.db.read() as session:
        found = conversations.get(session, user_id=owner, conversation_id=id)
        messages = conversations.messages(
            session, user_id=owner, conversation_id=id, whole=path == "all"
        )
    running = reply.running(app, user_id=owner, conversation_id=id)
    return OpenConversationOut.opened(found, messages, running)


@router.patch("/conversations/{id}", responses=errors_in(401, 403, 404, 422))
async def change_conversation(
    app: deps.App, who: deps.CurrentUser, id: deps.Id, body: ConversationPatch
) -> ConversationOut:
    """Give a conversation another title or place in the list, or settings for its next answers."""
    owner, now = deps.user_id(who), app.clock.micros()
    moved = "folder_id" in body.model_fields_set

    def story(session: Session) -> Conversation:
        if body.title is not None:
            conversations.rename(session, user_id=owner, conversation_id=id, title=body.title)
        if body.settings is not None:
            conversations.set_parameters(
                session, user_id=owner, conversation_id=id, settings=body.settings.parameters()
            )
        return folders.arrange(
            session,
            user_id=owner,
            conversation_id=id,
            now=now,
            pinned=body.pinned,
            archived=body.archived,
            folder=(body.folder_id or conversations.NO_FOLDER) if moved else None,
        )

    return ConversationOut.of(await app.db.awrite(story))


@router.delete("/conversations/{id}", status_code=204, responses=errors_in(401, 403, 404))
async def delete(app: deps.App, who: deps.CurrentUser, id: deps.Id) -> None:
    """Delete a conversation and its texts. What was charged stays in the books."""
    await erase.conversation(app, user_id=deps.user_id(who), conversation_id=id)


@router.get("/conversations/{id}/export", responses=errors_in(401, 404, 409, 422))
def export_conversation(
    app: deps.App,
    who: deps.CurrentUser,
    id: deps.Id,
    format: Annotated[Literal["json", "md"], Query(description="The form of the file.")] = "json",
) -> Response:
    """A conversation as a file: JSON with every branch, or Markdown with the active path.

    A temporary conversation is not exported.
    """
    owner = deps.user_id(who)
    with app.db.read() as session:
        found = conversations.get(session, user_id=owner, conversation_id=id)
        if found.temporary_until is not None:
            raise export.TemporaryChat
        messages = conversations.messages(
            session, user_id=owner, conversation_id=id, whole=format == "json"
        )
    if format == "json":
        text = json.dumps(export.as_json(found, messages), ensure_ascii=False, indent=2)
    else:
        text = export.as_markdown(found, messages)
    kind = "application/json" if format == "json" else "text/markdown; charset=utf-8"
    headers = {
        "Content-Disposition": f'attachment; filename="conversation-{id}.{format}"',
        "Cache-Control": "no-store",
    }
    return Response(text.encode("utf-8", "replace"), media_type=kind, headers=headers)


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/json": {}}}, **errors_in(401, 429)},
)
async def export_all(app: deps.App, who: deps.CurrentUser) -> StreamingResponse:
    """All conversations of the caller as one JSON file, which can be imported again."""
    pieces: Iterator[bytes] = export_flow.talks(app, user_id=deps.user_id(who))
    name = f"conversations-{from_micros(app.clock.micros()):%Y-%m-%d}.json"
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Cache-Control": "no-store",
    }
    return StreamingResponse(pieces, media_type="application/json", headers=headers)


@router.get("/history", responses=errors_in(401, 422))
def history(
    *,
    app: deps.App,
    who: deps.CurrentUser,
    since: deps.Since,
    until: deps.Until,
    model: Annotated[str | None, Query(max_length=128), deps.Clean] = None,
    q: deps.Search = "",
    role: Annotated[
        Literal["user", "assistant"] | None, Query(description="Questions or answers only.")
    ] = None,
    min_charged: Annotated[
        Credits | None, Query(description="Answers that cost at least so many credits.")
    ] = None,
    max_charged: Annotated[
        Credits | None, Query(description="Answers that cost at most so many credits.")
    ] = None,
    has_image: Annotated[
        bool | None, Query(description="Messages with an image, or without one.")
    ] = None,
    limit: deps.Limit = 50,
    cursor: deps.Cursor = None,
) -> Page[HitOut]:
    """Search all messages of the caller, newest first.

    Words in `q` are found by their beginnings, "quoted words" as they stand one after another;
    -word keeps messages out. An answer is found when it has ended.
    """
    with app.db.read() as session:
        hits, following = conversations.search(
            session,
            user_id=deps.user_id(who),
            q=q,
            model=model,
            since=since,
            until=until,
            limit=limit,
            cursor=cursor,
            role=role,
            min_charged=min_charged,
            max_charged=max_charged,
            has_image=has_image,
        )
    return Page(items=[HitOut.of(hit) for hit in hits], next_cursor=following)


@router.get("/status", responses=errors_in(401))
def status(app: deps.App, who: deps.CurrentUser) -> ChatStatusOut:
    """The caller's running answers, and how busy the chat is."""
    owner = deps.user_id(who)
    own, everybody = app.limits.counts(owner), app.limits.counts()
    running = reply.under_way(app, user_id=owner)
    return ChatStatusOut(
        running=list(running),
        queued=[
            QueuedOut(
                reply_id=item.reply_id,
                position=item.status.position,
                expected_seconds=item.status.expected_seconds,
            )
            for item in app.replies
            if item.user_id == owner and item.status is not None and item.status.position
        ],
        conversations=list(running.values()),
        own_running=own[0],
        own_waiting=own[1],
        all_running=everybody[0],
        all_waiting=everybody[1],
        draining=app.draining,
    )


def _json(shape: dict[str, Any], status: int = 200) -> JSONResponse:
    headers = {"Cache-Control": "no-store"}
    if status == 503:
        headers["Retry-After"] = "5"
    return JSONResponse(shape, status_code=status, headers=headers)
