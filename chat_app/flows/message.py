"""A message, from the question to the reply that is under way.

`start` refuses or places a hold; everything that can refuse does so here, before any stream
exists, and costs nothing. From then on the reply is a job that the app owns: `flows/reply.py`.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlmodel import col, select

from chat_app.accounts.key_tables import ApiKey
from chat_app.app import App
from chat_app.chat import conversations
from chat_app.chat import images as pictures
from chat_app.chat.images import Picture
from chat_app.chat.live import Live
from chat_app.chat.tables import Message
from chat_app.credits import ledger, operations, plans, pricing, usage
from chat_app.errors import Conflict, OutOfCredits
from chat_app.flows import images as image_files
from chat_app.flows import orgs, reply
from chat_app.flows.order import Order, Turn, check_length, checked, request_of, sampling
from chat_app.flows.placing import place
from chat_app.flows.terms import Terms, agree, count_prompt, read_terms
from chat_app.ids import new_id
from chat_app.llm import cache
from chat_app.llm.engine import (
    IMAGE_TOKENS,
    ModelNotReady,
    Request,
)
from chat_app.money import format_credits


class NothingToRetry(Conflict):
    """The conversation has no question."""

    code = "nothing_to_retry"
    message = "There is no message to answer again. Send one first."


class OverSpendLimit(OutOfCredits):
    """The most this message can cost is above the limit given with it."""

    code = "over_spend_limit"
    message = "This message could cost more than your limit for it. Raise the limit and send again."


@dataclass(frozen=True)
class Started:
    """A reply that is under way. `maximum` microcredits are held; more is never charged."""

    reply_id: str
    conversation_id: str
    message_id: str
    maximum: int
    replayed: bool = False


@dataclass(frozen=True)
class Quote:
    """What a message would cost, in microcredits; the charge is never above `maximum`."""

    prompt_tokens: int
    likely: int
    maximum: int
    price_version: int
    available: int


async def quote(
    app: App,
    *,
    user_id: int,
    text: str,
    model: str,
    conversation_id: str | None = None,
    max_tokens: int | None = None,
    images: int = 0,
    org_id: int | None = None,
    api_key: ApiKey | None = None,
) -> Quote:
    """What the message would cost with so many images. Exact where tokens do not matter.

    With `org_id` that organisation would pay; OrgNotFound when the user is no member of it.
    For prices by token the prompt is counted by the model when it is loaded; before that its
    bytes bound it from above, so the maximum still holds. What is likely follows from the
    lengths of the user's last answers with the model, or is a quarter of the longest.
    """
    order = checked(
        app,
        user_id=user_id,
        text=text,
        model=model,
        conversation_id=conversation_id,
        max_tokens=max_tokens,
        images=(b"",) * images,
        api_key=api_key,
    )
    order = replace(order, org_id=org_id)
    app.limits.check_quotes(user_id)
    now = app.clock.micros()

    def look() -> tuple[Terms, int, int | None]:
        with app.db.read() as session:
            terms = agree(app, session, order, now)
            if org_id is None:
                available = ledger.balance(session, user_id=user_id).available
            else:
                available = orgs.available(session, org_id=org_id, user_id=user_id, now=now)
            length = None
            if terms.price.output_per_million:
                length = usage.usual_length(session, user_id=user_id, model=model)
            return terms, available, length

    terms, available, length = await asyncio.to_thread(look)
    prompt_tokens = await count_prompt(app, model, terms.price, terms.told)
    prompt_tokens += images * IMAGE_TOKENS
    max_tokens = terms.max_tokens(order, prompt_tokens)
    if length is None:
        length = order.max_tokens // 4
    return Quote(
        prompt_tokens=prompt_tokens,
        likely=pricing.maximum(
            terms.price,
            prompt_tokens=prompt_tokens,
            max_tokens=min(length, max_tokens),
            images=images,
        ),
        maximum=pricing.maximum(
            terms.price, prompt_tokens=prompt_tokens, max_tokens=max_tokens, images=images
        ),
        price_version=terms.price.version,
        available=available,
    )


async def start(
    app: App,
    *,
    user_id: int,
    text: str,
    model: str,
    conversation_id: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    idempotency_key: str | None = None,
    spend_limit: int | None = None,
    images: Sequence[bytes] = (),
    org_id: int | None = None,
    api_key: ApiKey | None = None,
) -> Started:
    """Hold the most the message may cost, store it with its images, and have it answered.

    Everything that can refuse does so here, before any stream exists, and costs nothing. The
    same `idempotency_key` with the same request returns the first reply, charged once. With
    `org_id` that organisation pays, within the member's monthly limit. `api_key` is the key that
    asks: its models and its budgets are the limit too.
    """
    order = checked(
        app,
        user_id=user_id,
        text=text,
        model=model,
        conversation_id=conversation_id,
        max_tokens=max_tokens,
        temperature=temperature,
        spend_limit=spend_limit,
        images=tuple(images),
        api_key=api_key,
    )
    order = replace(order, org_id=org_id)
    # Shielded: a caller that goes away between the commit and the job must not orphan a hold.
    return await asyncio.shield(
        asyncio.ensure_future(_start(app, order, idempotency_key or new_id("key")))
    )


async def complete(
    app: App,
    *,
    user_id: int,
    turns: Sequence[Turn],
    model: str,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: Sequence[str] = (),
    idempotency_key: str | None = None,
    spend_limit: int | None = None,
    org_id: int | None = None,
    api_key: ApiKey | None = None,
) -> Started:
    """Answer a list of messages that a program keeps itself; the last one is a user's.

    As `start` in everything that costs: the same refusals, hold, price and settlement. The
    model reads the turns and nothing else, and all their images are priced. The conversation
    behind it is never shown; the questions are not stored, the answer is for a day, so that
    the same `idempotency_key` gives it again.
    """
    order = checked(
        app,
        user_id=user_id,
        text=turns[-1].text,
        model=model,
        conversation_id=None,
        max_tokens=max_tokens,
        temperature=temperature,
        spend_limit=spend_limit,
        images=tuple(file for turn in turns for file in turn.images),
        api_key=api_key,
    )
    for turn in turns[:-1]:
        check_length(app, turn.text)
    order = replace(
        order, turns=tuple(turns), top_p=top_p, seed=seed, stop=tuple(stop), org_id=org_id
    )
    return await asyncio.shield(
        asyncio.ensure_future(_start(app, order, idempotency_key or new_id("key")))
    )


async def retry(
    app: App,
    *,
    user_id: int,
    conversation_id: str,
    idempotency_key: str | None = None,
    model: str | None = None,
    org_id: int | None = None,
    api_key: ApiKey | None = None,
) -> Started:
    """Answer the last question of the conversation again; the new answer replaces the old.

    The question's images are priced again like all of it.
    """

    def look() -> tuple[Message, int]:
        with app.db.read() as session:
            conversations.get(session, user_id=user_id, conversation_id=conversation_id)
            last = session.exec(
                select(Message)
                .where(Message.conversation_id == conversation_id, Message.role == "user")
                .order_by(col(Message.created_at).desc(), col(Message.id).desc())
            ).first()
            if last is None:
                raise NothingToRetry
            return last, len(pictures.of(session, [last.id]).get(last.id, ()))

    question, shown = await asyncio.to_thread(look)
    order = checked(
        app,
        user_id=user_id,
        text=question.content,
        model=model or question.model,
        conversation_id=conversation_id,
        images=(b"",) * shown,
        api_key=api_key,
    )
    order = replace(order, question_id=question.id, org_id=org_id)
    return await asyncio.shield(
        asyncio.ensure_future(_start(app, order, idempotency_key or new_id("key")))
    )


async def _start(app: App, order: Order, key: str) -> Started:
    # Before anything is read: a flood is refused without a thread and without the database.
    app.limits.check_rate(order.user_id)
    replayed = await asyncio.to_thread(_replayed, app, order, key)
    if replayed is not None:
        app.limits.undo_rate(order.user_id)
        return replayed
    state = app.engine.state(order.entry.id)
    if not state.usable:
        raise ModelNotReady(state.reason, model=order.entry.id, state=state.state)
    ticket = app.limits.enter(order.user_id, model=order.entry.id)
    shown: list[Picture] = []
    try:
        now = app.clock.micros()
        if order.question_id is None:
            shown = await image_files.take(app, user_id=order.user_id, files=order.images)
        terms = await asyncio.to_thread(read_terms, app, order, shown, now)
        price = terms.price
        prompt_tokens = await count_prompt(app, order.entry.id, price, terms.told)
        max_tokens = terms.max_tokens(order, prompt_tokens)
        maximum = pricing.maximum(
            price, prompt_tokens=prompt_tokens, max_tokens=max_tokens, images=len(order.images)
        )
        if order.spend_limit is not None and maximum > order.spend_limit:
            raise OverSpendLimit(
                reason="spend_limit",
                limit_source="request",
                needed=format_credits(maximum),
                available=format_credits(order.spend_limit),
            )
        outcome, again = await app.db.awrite(
            lambda session: operations.once(
                session,
                scope=f"message:{order.user_id}",
                key=key,
                request=request_of(order),
                now=now,
                actor=f"user:{order.user_id}",
                run=lambda: place(
                    app, session, order=order, shown=shown, price=price, maximum=maximum, now=now
                ),
            )
        )
        started = Started(**outcome, replayed=again)
        if again:
            ticket.leave()
            return started
        with contextlib.suppress(OSError):  # it is placed: now nothing may refuse
            await asyncio.to_thread(image_files.keep, app, user_id=order.user_id, pictures=shown)
    except BaseException:
        ticket.leave()
        await image_files.leave(app, user_id=order.user_id, digests={each.digest for each in shown})
        raise
    item: Live[object] = Live(
        started.reply_id, order.user_id, started.conversation_id, key_id=order.key_id
    )
    item.say("Waiting for a free place…")
    app.replies.add(item)
    request = Request(
        id=started.reply_id,
        model=order.entry.id,
        messages=tuple(terms.told),
        max_tokens=max_tokens,
        sampling=sampling(order),
        stop=order.stop,
        user_scope=str(order.user_id),
        deadline_seconds=app.settings.llm.answer_seconds,
    )
    item.task = asyncio.create_task(
        reply.write(
            app,
            item,
            request,
            ticket,
            keep=_repeatable(app, order, request),
            # Who asks again wants another answer.
            fresh=order.question_id is not None,
        ),
        name=started.reply_id,
    )
    return started


def _replayed(app: App, order: Order, key: str) -> Started | None:
    """The reply that the key stands for already; learns whose plan's limits count on the way."""
    with app.db.read() as session:
        outcome = operations.replay(
            session, scope=f"message:{order.user_id}", key=key, request=request_of(order)
        )
        if app.settings.limits.plans:
            app.limits.know(order.user_id, plans.in_force(session, user_id=order.user_id))
    return Started(**outcome, replayed=True) if outcome is not None else None


def _repeatable(app: App, order: Order, request: Request) -> bool:
    """Whether the answer may be kept, and an earlier one given."""
    if not app.cache.on or not cache.repeatable(request):
        return False
    # The script engine is there to be measured: it is spared only when a test asks for it.
    return app.settings.llm.engine != "script" or order.temperature is not None
