"""`/v1`: what OpenAI's clients speak. The same admission, prices and books as every message.

A request is complete in itself and leaves no conversation behind. Who goes away ends the answer
and pays what was written, unless an Idempotency-Key says that they will come back for it.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Field
from starlette.types import Receive, Scope, Send

from chat_app.accounts import keys
from chat_app.accounts.sessions import SignedIn
from chat_app.api import deps, errors, openai_errors, payer, sse
from chat_app.api.chat import InProgress
from chat_app.api.deps import errors_in
from chat_app.api.openai_errors import REQUEST_ID
from chat_app.api.openai_request import Completion, turns
from chat_app.api.payer import PayerHeader
from chat_app.api.views import PriceOut, Shown
from chat_app.app import App
from chat_app.chat.live import Piece
from chat_app.clock import MICROS_PER_SECOND
from chat_app.errors import AppError
from chat_app.flows import message, orgs, reply, shelf
from chat_app.flows.reply import ReplyView
from chat_app.flows.shelf import ModelView
from chat_app.llm.engine import UnknownModel
from chat_app.money import format_credits

router = APIRouter(prefix="/v1", tags=["openai"], route_class=openai_errors.Route)

OWNER = "ml-chat-billing"
# A failure in this time has its status; afterwards the stream has begun and tells it itself.
FIRST_SECONDS = 2.0
CLIENT_GONE = 499  # nobody reads it
_EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


class ModelCard(Shown):
    """A model for sale, as OpenAI's clients know one, with what it costs."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Since when the price is in force, in Unix seconds.")
    owned_by: str
    name: str
    context_tokens: int
    available: bool
    sees_images: bool
    price: PriceOut

    @classmethod
    def of(cls, model: ModelView) -> "ModelCard":
        return cls(
            id=model.id,
            created=model.price.valid_from // MICROS_PER_SECOND,
            owned_by=OWNER,
            name=model.name,
            context_tokens=model.context_tokens,
            available=model.available,
            sees_images=model.sees_images,
            price=PriceOut.model_validate(model.price.as_json()),
        )


class ModelList(Shown):
    """All models for sale."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class AnswerMessage(Shown):
    """The answer's text."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(Shown):
    """The one answer."""

    index: int = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: str


class PromptDetails(Shown):
    """Of the prompt's tokens, those that came out of a cache."""

    cached_tokens: int


class CompletionUsage(Shown):
    """Tokens, counted by the model."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails

    @classmethod
    def of(cls, view: ReplyView) -> "CompletionUsage":
        return cls(
            prompt_tokens=view.prompt_tokens,
            completion_tokens=view.completion_tokens,
            total_tokens=view.prompt_tokens + view.completion_tokens,
            prompt_tokens_details=PromptDetails(cached_tokens=view.cached_tokens),
        )


class Credits(Shown):
    """What the answer cost, and what whoever paid has left to spend."""

    charged: str
    available: str
    payer: str | None
    receipt_id: str | None
    dropped_messages: int = Field(description="Of the list, so many did not fit into the model.")


class CompletionOut(Shown):
    """An answer. `id` is that of the reply: `GET /api/chat/replies/{id}` shows it for a day."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: CompletionUsage
    credits: Credits
    system_fingerprint: None = None


@router.get("/models", responses=errors_in(401))
def models(app: deps.App, who: deps.CurrentUser) -> ModelList:
    """The models for sale, as OpenAI's clients list them."""
    with app.db.read() as session:
        found = shelf.models(app, session=session)
    return ModelList(
        data=[ModelCard.of(model) for model in found if keys.allows(who.key, model.id)]
    )


@router.get("/models/{id}", responses=errors_in(401, 404))
def model(app: deps.App, who: deps.CurrentUser, id: str) -> ModelCard:
    """One model for sale."""
    with app.db.read() as session:
        for found in shelf.models(app, session=session):
            if found.id == id and keys.allows(who.key, id):
                return ModelCard.of(found)
    raise UnknownModel(model=id[:128])


@router.post(
    "/chat/completions",
    response_model=CompletionOut,
    responses={**_EVENTS, **errors_in(400, 401, 402, 403, 404, 409, 413, 429, 503)},
)
async def complete(  # noqa: PLR0917 - what a route asks for
    request: Request,
    app: deps.App,
    who: deps.CurrentUser,
    key: deps.IdempotencyKey,
    header: PayerHeader,
    body: Completion,
) -> Response:
    """Answer a list of messages, whole or as a stream of chunks with `stream`.

    Nothing is remembered between requests and no conversation is shown for it; hold, charge,
    usage and receipt are those of every message. The model reads the messages as they are sent:
    system messages first, as one, neighbours of one role as one. Images are priced in every
    request that shows them.

    Fields that would change the answer and are not offered (tools, penalties, logprobs, `n`
    above 1, formats other than text) are refused with a 400 that names them. Who goes away ends
    the answer and pays for what was written; with an `Idempotency-Key` it is written to its end
    and the same request gets it for a day.
    """
    started = await message.complete(
        app,
        user_id=deps.user_id(who),
        turns=turns(body),
        model=body.model,
        max_tokens=body.longest,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
        stop=body.stops,
        idempotency_key=key,
        org_id=payer.chosen(body.payer, header),
        api_key=who.key,
    )
    if started.replayed:
        view = await reply.view(app, user_id=deps.user_id(who), reply_id=started.reply_id)
        if view.state == "running":
            raise InProgress(reply_id=started.reply_id)

    def leave() -> None:
        if "idempotency-key" not in request.headers:
            reply.leave(app, reply_id=started.reply_id)

    answer = _Answer(app, who, started.reply_id, body, leave)
    try:
        return await (answer.stream() if body.stream else answer.whole(request))
    except BaseException:
        leave()
        raise


class _Stream(StreamingResponse):
    """A stream that says when it is over: at its end, or because the client has gone."""

    def __init__(self, content: AsyncIterator[str], *, over: Callable[[], None], **more: Any):
        super().__init__(content, media_type="text/event-stream", **more)
        self._over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not in the generator: one that never began runs none of its code.
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._over()


class _Answer:
    """A reply on its way to a client; `leave` is what the client's going away means for it."""

    def __init__(
        self, app: App, who: SignedIn, reply_id: str, body: Completion, leave: Callable[[], None]
    ) -> None:
        self.app, self.who, self.id, self.body, self.leave = app, who, reply_id, body, leave
        self.created = int(time.time())
        self.headers = {**sse.HEADERS, REQUEST_ID: reply_id}

    async def whole(self, request: Request) -> Response:
        """The answer in one piece."""
        waiting = asyncio.ensure_future(self._collect())
        leaving = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                self.leave()
                return Response(status_code=CLIENT_GONE)
            text, view = waiting.result()
        finally:
            waiting.cancel()
            leaving.cancel()
        if view.state == "failed":
            return self._failed(view)
        credits = await self._credits(view)
        shown = CompletionOut(
            id=self.id,
            created=view.created_at // MICROS_PER_SECOND,
            model=view.model,
            choices=[Choice(message=AnswerMessage(content=text), finish_reason=_reason(view))],
            usage=CompletionUsage.of(view),
            credits=credits,
        )
        headers = self.headers | {
            "X-Credits-Charged": credits.charged,
            "X-Credits-Available": credits.available,
        }
        return JSONResponse(shown.model_dump(mode="json"), headers=headers)

    async def stream(self) -> Response:
        """The answer in chunks.

        Waits a moment for the first piece, so that an answer that fails at once has a status.
        """
        items = sse.listen(self.app, who=self.who, reply_id=self.id)
        began = time.monotonic()
        held: sse.Item = None
        async for held in items:
            if isinstance(held, Piece) or time.monotonic() - began > FIRST_SECONDS:
                break
            if isinstance(held, ReplyView) and held.state == "failed":
                return self._failed(held)
        return _Stream(self._chunks(held, items), over=self.leave, headers=self.headers)

    async def _chunks(self, held: sse.Item, items: AsyncIterator[sse.Item]) -> AsyncIterator[str]:
        spoke = time.monotonic()
        yield self._chunk({"role": "assistant", "content": "", "refusal": None})
        try:
            for text in await self._said(held):
                yield text
            async for item in items:
                texts = await self._said(item)
                if not texts and time.monotonic() - spoke >= sse.HEARTBEAT_SECONDS:
                    texts = [": still here\n\n"]
                for text in texts:
                    spoke = time.monotonic()
                    yield text
        except AppError as error:
            yield _event(openai_errors.body_of(error))
        except Exception as error:
            yield _event(errors.crash_body(f"reply {self.id}", error))

    async def _said(self, item: sse.Item) -> list[str]:
        if isinstance(item, Piece):
            return [self._chunk({"content": item.text})]
        if not isinstance(item, ReplyView):
            return []
        if item.state == "failed":
            return [_event(openai_errors.failure(item))]
        last = [await self._usage(item)] if self.body.usage_wanted else []
        return [self._chunk({}, reason=_reason(item)), *last, "data: [DONE]\n\n"]

    def _chunk(self, delta: dict[str, Any], *, reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        usage = {"usage": None} if self.body.usage_wanted else {}
        return _event({**self._head(), "choices": [choice], **usage})

    async def _usage(self, view: ReplyView) -> str:
        usage = CompletionUsage.of(view).model_dump(mode="json")
        credits = (await self._credits(view)).model_dump(mode="json")
        return _event({**self._head(), "choices": [], "usage": usage, "credits": credits})

    def _head(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.body.model,
            "system_fingerprint": None,
        }

    async def _collect(self) -> tuple[str, ReplyView]:
        pieces: list[str] = []
        async for item in sse.listen(self.app, who=self.who, reply_id=self.id):
            if isinstance(item, Piece):
                pieces.append(item.text)
            elif isinstance(item, ReplyView):
                return "".join(pieces), item
        raise AssertionError("a reply has an end")

    async def _credits(self, view: ReplyView) -> Credits:
        org_id, available = view.org_id, view.balance.available
        if org_id is not None:
            with suppress(AppError):  # no member any more
                available = await asyncio.to_thread(self._pool, org_id)
        return Credits(
            charged=format_credits(view.charged),
            available=format_credits(available),
            payer=None if org_id is None else f"org:{org_id}",
            receipt_id=view.receipt_id,
            dropped_messages=view.dropped_messages,
        )

    def _pool(self, org_id: int) -> int:
        now, owner = self.app.clock.micros(), deps.user_id(self.who)
        with self.app.db.read() as session:
            return orgs.available(session, org_id=org_id, user_id=owner, now=now)

    def _failed(self, view: ReplyView) -> Response:
        status = sse.failure_status(view)
        headers = self.headers | ({"Retry-After": "5"} if status == 503 else {})
        status = openai_errors.INVALID_STATUS if status == 422 else status
        return JSONResponse(openai_errors.failure(view), status_code=status, headers=headers)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _reason(view: ReplyView) -> str:
    return "length" if view.finish_reason == "length" else "stop"


def _event(data: dict[str, Any]) -> str:
    line = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"data: {line.encode('utf-8', 'replace').decode('utf-8')}\n\n"
