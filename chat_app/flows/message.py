"""A message, from the question to the reply that is under way.

`start` refuses or places a hold; everything that can refuse does so here, before any stream
exists, and costs nothing. From then on the reply is a job that the app owns: `flows/reply.py`.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlmodel import Session, col, select, update

from chat_app.accounts import keys
from chat_app.accounts.key_tables import ApiKey
from chat_app.app import App
from chat_app.chat import conversations
from chat_app.chat import images as pictures
from chat_app.chat.images import Picture
from chat_app.chat.live import Live
from chat_app.chat.tables import Conversation, Message, MessageImage, Reply
from chat_app.clock import MICROS_PER_SECOND
from chat_app.credits import guards, holds, ledger, operations, plans, pricing, usage
from chat_app.credits.key_budgets import KeyUse
from chat_app.credits.pricing import Price
from chat_app.errors import Conflict, Invalid, OutOfCredits, TooLarge, Unavailable
from chat_app.flows import images as image_files
from chat_app.flows import orgs, reply
from chat_app.ids import new_id
from chat_app.llm import cache, catalogue
from chat_app.llm.engine import (
    IMAGE_TOKENS,
    ChatMessage,
    ModelCannotSee,
    ModelNotReady,
    Request,
    Role,
    Sampling,
    UnknownModel,
)
from chat_app.money import format_credits

# The hold outlives the longest answer, its queueing and a restart; the lease, not the hold's
# end, is what finds a dead process quickly.
HOLD_MARGIN_SECONDS = 3600
TOKENS_PER_MESSAGE = 16
# As long as a key's answer is promised; then the texts of a program's request go.
PROGRAM_TEXT_SECONDS = 24 * 3600


class EmptyMessage(Invalid):
    """Nothing but white space."""

    code = "empty_message"
    message = "The message is empty. Write something and send it again."


class MessageTooLong(TooLarge):
    """More bytes than `chat.max_message_kib`."""

    code = "message_too_long"
    message = "The message is too long. Shorten it or send it in parts."


class StillAnswering(Conflict):
    """The conversation has a running answer."""

    code = "still_answering"
    message = "This conversation is still being answered. Wait for it, or stop it first."


class NothingToRetry(Conflict):
    """The conversation has no question."""

    code = "nothing_to_retry"
    message = "There is no message to answer again. Send one first."


class Draining(Unavailable):
    """The server is going down and takes no new messages."""

    code = "draining"
    message = "The server is about to restart. Send the message again in a minute."


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


@dataclass(frozen=True)
class Turn:
    """A message of a list that a program sends whole; the images are files."""

    role: Role
    text: str
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class _Order:
    """What the person asked for, checked. With `turns` they are all that the model reads."""

    user_id: int
    entry: catalogue.Entry
    text: str
    conversation_id: str | None
    question_id: str | None
    max_tokens: int
    temperature: float | None
    spend_limit: int | None
    images: tuple[bytes, ...] = ()
    org_id: int | None = None
    key_id: str | None = None
    turns: tuple[Turn, ...] = ()
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Terms:
    """On what terms it is answered: the user's price and guard, and what the model reads."""

    price: Price
    per_answer: int | None
    told: list[ChatMessage]

    def max_tokens(self, order: _Order, prompt_tokens: int) -> int:
        """The longest answer that the user's guard for one answer pays for, but one token."""
        if self.per_answer is None:
            return order.max_tokens
        return max(
            1,
            pricing.longest(
                self.price,
                prompt_tokens=prompt_tokens,
                max_tokens=order.max_tokens,
                limit=self.per_answer,
                images=len(order.images),
            ),
        )


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
    order = _checked(
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

    def look() -> tuple[_Terms, int, int | None]:
        with app.db.read() as session:
            terms = _terms(app, session, order, now)
            if org_id is None:
                available = ledger.balance(session, user_id=user_id).available
            else:
                available = orgs.available(session, org_id=org_id, user_id=user_id, now=now)
            length = None
            if terms.price.output_per_million:
                length = usage.usual_length(session, user_id=user_id, model=model)
            return terms, available, length

    terms, available, length = await asyncio.to_thread(look)
    prompt_tokens = await _prompt_tokens(app, model, terms.price, terms.told)
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
    order = _checked(
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
    order = _checked(
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
        _check_length(app, turn.text)
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
    order = _checked(
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


def _checked(
    app: App,
    *,
    user_id: int,
    text: str,
    model: str,
    conversation_id: str | None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    spend_limit: int | None = None,
    images: tuple[bytes, ...] = (),
    api_key: ApiKey | None = None,
) -> _Order:
    if app.draining:
        raise Draining
    if not text.strip() and not images:
        raise EmptyMessage
    _check_length(app, text)
    entry = catalogue.get(model)
    if entry.hidden:
        raise UnknownModel(model=model)
    keys.refuse_model(api_key, model)
    if images and not app.engine.sees(model):
        raise ModelCannotSee(model=model)
    if len(images) > app.settings.chat.max_images:
        raise pictures.TooManyImages(limit=app.settings.chat.max_images, images=len(images))
    ceiling = app.settings.llm.max_output_tokens
    return _Order(
        user_id=user_id,
        entry=entry,
        text=text,
        conversation_id=conversation_id,
        question_id=None,
        max_tokens=max(1, min(max_tokens or ceiling, ceiling)),
        temperature=temperature,
        spend_limit=spend_limit,
        images=images,
        key_id=None if api_key is None else api_key.id,
    )


def _check_length(app: App, text: str) -> None:
    limit = app.settings.chat.max_message_kib * 1024
    size = len(text.encode("utf-8", errors="surrogatepass"))
    if size > limit:
        raise MessageTooLong(limit_bytes=limit, bytes=size)


async def _start(app: App, order: _Order, key: str) -> Started:
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
        terms = await asyncio.to_thread(_read_terms, app, order, shown, now)
        price = terms.price
        prompt_tokens = await _prompt_tokens(app, order.entry.id, price, terms.told)
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
                request=_request_of(order),
                now=now,
                actor=f"user:{order.user_id}",
                run=lambda: _place(
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
        sampling=_sampling(order),
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


def _replayed(app: App, order: _Order, key: str) -> Started | None:
    """The reply that the key stands for already; learns whose plan's limits count on the way."""
    with app.db.read() as session:
        outcome = operations.replay(
            session, scope=f"message:{order.user_id}", key=key, request=_request_of(order)
        )
        if app.settings.limits.plans:
            app.limits.know(order.user_id, plans.in_force(session, user_id=order.user_id))
    return Started(**outcome, replayed=True) if outcome is not None else None


def _request_of(order: _Order) -> dict[str, Any]:
    request = {
        "model": order.entry.id,
        "text": order.text,
        "conversation_id": order.conversation_id,
        "question_id": order.question_id,
        "max_tokens": order.max_tokens,
        "temperature": None if order.temperature is None else str(order.temperature),
        "spend_limit": order.spend_limit,
        **(
            {"images": [hashlib.sha256(file).hexdigest() for file in order.images]}
            if order.images
            else {}
        ),
    }
    if order.turns:
        told = [
            [turn.role, turn.text, [hashlib.sha256(file).hexdigest() for file in turn.images]]
            for turn in order.turns
        ]
        request |= {
            "turns": operations.digest({"turns": told}),
            "top_p": None if order.top_p is None else str(order.top_p),
            "seed": order.seed,
            "stop": list(order.stop),
        }
    # Only then: keys of messages that people pay for themselves stay what they were.
    return request if order.org_id is None else {**request, "org_id": order.org_id}


def _place(
    app: App,
    session: Session,
    *,
    order: _Order,
    shown: list[Picture],
    price: Price,
    maximum: int,
    now: int,
) -> dict[str, Any]:
    """Write transaction 1: the question, the hold, and the reply that pins the price."""
    conversation_id, reply_id = order.conversation_id, new_id("rep")
    if conversation_id is None:
        conversation_id = new_id("con")
        if order.turns:
            until = now + PROGRAM_TEXT_SECONDS * MICROS_PER_SECOND
            made = conversations.hidden(
                id=conversation_id,
                user_id=order.user_id,
                model=order.entry.id,
                now=now,
                until=until,
            )
        else:
            made = Conversation(
                id=conversation_id,
                user_id=order.user_id,
                title=conversations.title_of(order.text) or "Image",
                model=order.entry.id,
                created_at=now,
                updated_at=now,
            )
        session.add(made)
        session.flush()
    else:
        # The update comes first: on PostgreSQL its row lock puts two senders in a line.
        session.execute(
            update(Conversation)
            .where(
                col(Conversation.id) == conversation_id,
                col(Conversation.user_id) == order.user_id,
            )
            .values(updated_at=now, model=order.entry.id)
        )
        conversations.get(session, user_id=order.user_id, conversation_id=conversation_id)
        if conversations.count_running(session, conversation_id=conversation_id):
            raise StillAnswering
    question_id = order.question_id
    if question_id is None:
        question_id = new_id("msg")
        question = Message(
            id=question_id,
            conversation_id=conversation_id,
            role="user",
            content="" if order.turns else order.text,
            model=order.entry.id,
            created_at=now,
        )
        session.add(question)
        session.flush()
        if shown:
            pictures.attach(session, message=question, user_id=order.user_id, pictures=shown)
    answer_id = new_id("msg")
    session.add(
        Message(
            id=answer_id,
            conversation_id=conversation_id,
            parent_id=question_id,
            role="assistant",
            model=order.entry.id,
            created_at=now + 1,
        )
    )
    session.flush()
    limit = None
    if order.org_id is not None:
        limit = orgs.spender(session, org_id=order.org_id, user_id=order.user_id)
    else:  # what an organisation pays is bounded by its budgets
        guards.check(
            session,
            user_id=order.user_id,
            micro=maximum,
            conversation_spent=lambda: conversations.spent(
                session, conversation_id=conversation_id
            ),
            now=now,
        )
    hold = holds.place(
        session,
        user_id=order.user_id,
        org_id=order.org_id,
        limit_micro=limit,
        by_key=_key_use(session, order, now=now),
        micro=maximum,
        ttl_seconds=app.settings.llm.answer_seconds
        + app.settings.llm.load_seconds
        + HOLD_MARGIN_SECONDS,
        now=now,
        scope="reply",
        key=reply_id,
        reference=reply_id,
    )
    session.add(
        Reply(
            id=reply_id,
            user_id=order.user_id,
            conversation_id=conversation_id,
            question_id=question_id,
            message_id=answer_id,
            model=order.entry.id,
            hold_id=hold.id,
            key_id=order.key_id,
            price_version=price.version,
            price_tier=price.tier,
            cached_percent=app.settings.pricing.cached_percent,
            maximum=maximum,
            images=len(order.images),
            lease_until=now + int(app.settings.chat.lease_seconds * MICROS_PER_SECOND),
            created_at=now,
        )
    )
    session.flush()
    return {
        "reply_id": reply_id,
        "conversation_id": conversation_id,
        "message_id": answer_id,
        "maximum": maximum,
    }


def _key_use(session: Session, order: _Order, *, now: int) -> KeyUse | None:
    """The API key with its limits as they are in this transaction; raises BadKey."""
    if order.key_id is None:
        return None
    limits = keys.limits_of(keys.spending(session, order.key_id, now=now))
    return KeyUse(order.key_id, limits.day, limits.month, limits.total)


def _read_terms(app: App, order: _Order, shown: Sequence[Picture], now: int) -> _Terms:
    with app.db.read() as session:
        return _terms(app, session, order, now, shown)


def _terms(
    app: App, session: Session, order: _Order, now: int, shown: Sequence[Picture] = ()
) -> _Terms:
    return _Terms(
        price=pricing.for_user(session, order.entry.id, user_id=order.user_id, now=now),
        per_answer=(
            guards.per_answer(session, user_id=order.user_id) if order.org_id is None else None
        ),
        told=_told(app, session, order, shown),
    )


def _told(
    app: App, session: Session, order: _Order, shown: Sequence[Picture] = ()
) -> list[ChatMessage]:
    """What the model reads: its system prompt, the conversation so far, the question.

    A model that does not see reads a conversation without its images.
    """
    if order.turns:
        return _told_turns(app, order, shown)
    told = []
    if order.entry.system_prompt:
        told.append(ChatMessage("system", order.entry.system_prompt))
    if order.conversation_id is not None:
        conversations.get(session, user_id=order.user_id, conversation_id=order.conversation_id)
        earlier = conversations.history(
            session, conversation_id=order.conversation_id, until=order.question_id
        )
        seen: dict[str, list[MessageImage]] = {}
        if app.engine.sees(order.entry.id):
            seen = pictures.of(session, [message.id for message in earlier])
        told += [
            ChatMessage(
                "user" if message.role == "user" else "assistant",
                message.content,
                image_files.told(app, user_id=order.user_id, pictures=seen.get(message.id, ())),
            )
            for message in earlier
        ]
    if order.question_id is None:
        now_shown = image_files.told(app, user_id=order.user_id, pictures=shown)
        told.append(ChatMessage("user", order.text, now_shown))
    return told


def _told_turns(app: App, order: _Order, shown: Sequence[Picture]) -> list[ChatMessage]:
    """The turns as they were sent. Without `shown` they are told without their images."""
    told, left = [], list(shown)
    for turn in order.turns:
        own, left = left[: len(turn.images)], left[len(turn.images) :]
        seen = image_files.told(app, user_id=order.user_id, pictures=own)
        told.append(ChatMessage(turn.role, turn.text, seen))
    return told


def _sampling(order: _Order) -> Sampling:
    base = order.entry.sampling
    return replace(
        base,
        temperature=base.temperature if order.temperature is None else order.temperature,
        top_p=base.top_p if order.top_p is None else order.top_p,
        seed=base.seed if order.seed is None else order.seed,
    )


def _repeatable(app: App, order: _Order, request: Request) -> bool:
    """Whether the answer may be kept, and an earlier one given."""
    if not app.cache.on or not cache.repeatable(request):
        return False
    # The script engine is there to be measured: it is spared only when a test asks for it.
    return app.settings.llm.engine != "script" or order.temperature is not None


async def _prompt_tokens(app: App, model: str, price: Price, told: list[ChatMessage]) -> int:
    """Tokens of the prompt: counted when the model is loaded, else bounded by its bytes.

    A token of a byte-level or byte-fallback vocabulary stands for at least one byte; the
    template adds a few per message, and images have a number of their own.
    """
    if app.engine.state(model).state == "ready" or app.settings.llm.engine == "script":
        return await app.engine.count_tokens(model, told)
    return sum(
        len(item.content.encode()) + TOKENS_PER_MESSAGE + len(item.images) * IMAGE_TOKENS
        for item in told
    )
