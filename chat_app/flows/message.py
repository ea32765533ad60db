"""A message, from the question to the reply that is under way.

`start` refuses or places a hold; everything that can refuse does so here, before any stream
exists, and costs nothing. From then on the reply is a job that the app owns: `flows/reply.py`.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from chat_app.accounts.key_tables import ApiKey
from chat_app.accounts.limits import Ticket
from chat_app.app import App
from chat_app.chat import conversations
from chat_app.chat import images as pictures
from chat_app.chat.images import Picture
from chat_app.chat.live import Live
from chat_app.chat.parameters import Parameters
from chat_app.chat.tables import Message
from chat_app.credits import ledger, operations, plans, pricing, usage
from chat_app.errors import AppError, Conflict, OutOfCredits
from chat_app.flows import images as image_files
from chat_app.flows import orgs, reply
from chat_app.flows.order import Order, Turn, check_length, checked, request_of, sampling
from chat_app.flows.placing import Offer, place
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
    system: str | None = None,
    images: int = 0,
    org_id: int | None = None,
    api_key: ApiKey | None = None,
    parent_id: str | None = None,
) -> Quote:
    """What the message would cost with so many images. Exact where tokens do not matter.

    With `parent_id` it would follow that message, as in `start`. With `org_id` that organisation
    would pay; OrgNotFound when the user is no member of it.
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
        asked=Parameters(max_tokens=max_tokens, system=system),
        images=(b"",) * images,
        api_key=api_key,
        parent_id=parent_id,
    )
    return await quote_order(app, replace(order, org_id=org_id))


async def quote_order(app: App, order: Order) -> Quote:
    """What a checked order would cost; see `quote`."""
    user_id, org_id, model, images = order.user_id, order.org_id, order.entry.id, len(order.images)
    await app.limits.count_quote(user_id)
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
    max_tokens = terms.max_tokens(terms.order, prompt_tokens)
    if length is None:
        length = terms.order.max_tokens // 4
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
) -> Started:
    """Hold the most the message may cost, store it with its images, and have it answered.

    Everything that can refuse does so here, before any stream exists, and costs nothing. The
    same `idempotency_key` with the same request returns the first reply, charged once. With
    `org_id` that organisation pays, within the member's monthly limit. `api_key` is the key that
    asks: its models and its budgets are the limit too. Parameters that are left out are those
    of the conversation; one that begins with this message keeps them. Raises BadParameters.

    The message follows `parent_id`, a message of the conversation or `conversations.ROOT`, and
    the active path leads there from now on; without it the message follows the active path. A
    `temporary` conversation is in no list, and its texts go within a day.
    """
    order = checked(
        app,
        user_id=user_id,
        text=text,
        model=model,
        conversation_id=conversation_id,
        asked=Parameters(system, temperature, top_p, seed, max_tokens),
        spend_limit=spend_limit,
        images=tuple(images),
        api_key=api_key,
        parent_id=parent_id,
        temporary=temporary,
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
        asked=Parameters(temperature=temperature, max_tokens=max_tokens),
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
    message_id: str | None = None,
    org_id: int | None = None,
    api_key: ApiKey | None = None,
) -> Started:
    """Answer a question again; the new answer is shown, the others stay beside it.

    The question is `message_id`, or what that answers; without it the last one of the active
    path. Its images are priced again like all of it. Raises NothingToRetry and MessageNotFound.
    """

    def look() -> tuple[Message, int]:
        with app.db.read() as session:
            found = conversations.get(session, user_id=user_id, conversation_id=conversation_id)
            told = conversations.path(
                session, conversation_id=found.id, end=message_id or found.leaf_id
            )
            if message_id is not None and (not told or told[-1].id != message_id):
                raise conversations.MessageNotFound
            asked = [row for row in told if row.role == "user"]
            if not asked:
                raise NothingToRetry
            return asked[-1], len(pictures.of(session, [asked[-1].id]).get(asked[-1].id, ()))

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
    return (await begin(app, [order], key))[0]


async def begin(app: App, orders: Sequence[Order], key: str) -> list[Started]:
    """Have checked orders for one question answered, one reply each: all of them, or none.

    To be shielded: a caller that goes away between the commit and the job must not orphan a hold.
    """
    order = orders[0]
    # Before anything is read: a flood is refused without a thread and without the database.
    await _count(app, order.user_id, len(orders))
    replayed, elsewhere = await asyncio.to_thread(_replayed, app, orders, key)
    if replayed is not None:
        for _ in orders:
            await app.limits.uncount_message(order.user_id)
        return replayed
    for each in orders:
        state = app.engine.state(each.entry.id)
        if not state.usable:
            raise ModelNotReady(state.reason, model=each.entry.id, state=state.state)
    tickets: list[Ticket] = []
    shown: list[Picture] = []
    try:
        for each in orders:
            tickets.append(
                app.limits.enter(order.user_id, model=each.entry.id, elsewhere=elsewhere)
            )
        now = app.clock.micros()
        if order.question_id is None:
            shown = await image_files.take(app, user_id=order.user_id, files=order.images)
        plotted = [await _plan(app, each, shown, now) for each in orders]
        started = await _placed(app, plotted, shown=shown, key=key, now=now)
        if started[0].replayed:
            _leave(tickets)
            return started
        with contextlib.suppress(OSError):  # it is placed: now nothing may refuse
            await asyncio.to_thread(image_files.keep, app, user_id=order.user_id, pictures=shown)
    except BaseException:
        _leave(tickets)
        await image_files.leave(app, user_id=order.user_id, digests={each.digest for each in shown})
        raise
    for one, plan, ticket in zip(started, plotted, tickets, strict=True):
        _write(app, one, plan, ticket)
    return started


async def _count(app: App, user_id: int, messages: int) -> None:
    """Count so many messages of the user's minute, or none and raise RateLimited."""
    for number in range(messages):
        try:
            await app.limits.count_message(user_id)
        except AppError:
            for _ in range(number):
                await app.limits.uncount_message(user_id)
            raise


def _leave(tickets: Sequence[Ticket]) -> None:
    for ticket in tickets:
        ticket.leave()


async def _placed(
    app: App, plotted: "Sequence[_Plan]", *, shown: list[Picture], key: str, now: int
) -> list[Started]:
    """Write transaction 1, once for the key. Raises OverSpendLimit before it."""
    orders = [plan.offer.order for plan in plotted]
    order, maximum = orders[0], sum(plan.offer.maximum for plan in plotted)
    if order.spend_limit is not None and maximum > order.spend_limit:
        raise OverSpendLimit(
            reason="spend_limit",
            limit_source="request",
            needed=format_credits(maximum),
            available=format_credits(order.spend_limit),
        )
    offers = [plan.offer for plan in plotted]
    outcome, again = await app.db.awrite(
        lambda session: operations.once(
            session,
            scope=f"message:{order.user_id}",
            key=key,
            request=_request_of(orders),
            now=now,
            actor=f"user:{order.user_id}",
            run=lambda: _outcome(place(app, session, offers=offers, shown=shown, now=now)),
        )
    )
    return _started(outcome, replayed=again)


@dataclass(frozen=True)
class _Plan:
    """How an order will be answered: the offer for it, and what the model is given.

    The offer has the order as it came, which is what its key stands for; `terms.order` has the
    parameters of its conversation too.
    """

    offer: Offer
    terms: Terms
    max_tokens: int


async def _plan(app: App, order: Order, shown: Sequence[Picture], now: int) -> _Plan:
    terms = await asyncio.to_thread(read_terms, app, order, shown, now)
    prompt_tokens = await count_prompt(app, order.entry.id, terms.price, terms.told)
    max_tokens = terms.max_tokens(terms.order, prompt_tokens)
    maximum = pricing.maximum(
        terms.price, prompt_tokens=prompt_tokens, max_tokens=max_tokens, images=len(order.images)
    )
    return _Plan(Offer(order, terms.price, maximum), terms, max_tokens)


def _write(app: App, started: Started, plan: _Plan, ticket: Ticket) -> None:
    """Have the reply written; from here on it is a job that the app owns."""
    order = plan.terms.order
    item: Live[object] = Live(
        started.reply_id, order.user_id, started.conversation_id, key_id=order.key_id
    )
    item.say("Waiting for a free place…")
    app.replies.add(item)
    request = Request(
        id=started.reply_id,
        model=order.entry.id,
        messages=tuple(plan.terms.told),
        max_tokens=plan.max_tokens,
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


def _request_of(orders: Sequence[Order]) -> dict[str, Any]:
    """What the idempotency key stands for."""
    if len(orders) == 1:
        return request_of(orders[0])
    return {"side_by_side": [request_of(order) for order in orders]}


def _outcome(placed: list[dict[str, Any]]) -> dict[str, Any]:
    return placed[0] if len(placed) == 1 else {"side_by_side": placed}


def _started(outcome: dict[str, Any], *, replayed: bool) -> list[Started]:
    return [Started(**one, replayed=replayed) for one in outcome.get("side_by_side", [outcome])]


def _replayed(app: App, orders: Sequence[Order], key: str) -> tuple[list[Started] | None, int]:
    """The replies that the key stands for already, and how many are written for the user by other
    processes; learns whose plan's limits count on the way.
    """
    user_id = orders[0].user_id
    with app.db.read() as session:
        outcome = operations.replay(
            session, scope=f"message:{user_id}", key=key, request=_request_of(orders)
        )
        if app.settings.limits.plans:
            app.limits.know(user_id, plans.in_force(session, user_id=user_id))
        others = 0 if app.relay is None else len(reply.elsewhere(app, session, user_id=user_id))
    return (_started(outcome, replayed=True) if outcome is not None else None), others


def _repeatable(app: App, order: Order, request: Request) -> bool:
    """Whether the answer may be kept, and an earlier one given."""
    if not app.cache.on or not cache.repeatable(request):
        return False
    # The script engine is there to be measured: it is spared only when a test asks for it.
    return app.settings.llm.engine != "script" or order.temperature is not None
