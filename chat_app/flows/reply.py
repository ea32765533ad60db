"""A reply, from its first token to the settled answer, written anew or taken from the cache.

The job meters what the engine delivers and settles exactly once, whoever listens. `follow`
gives the pieces to any number of readers, during and after. Nothing here trusts a reader to
stay.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace

from sqlmodel import Session, col, select, update

from chat_app import logs
from chat_app.accounts.limits import Place, Ticket
from chat_app.app import App
from chat_app.chat import live
from chat_app.chat.live import Live, Piece, Status
from chat_app.chat.relay import Mirror
from chat_app.chat.tables import Conversation, Message, Reply
from chat_app.credits import holds, ledger, pricing
from chat_app.credits.holds import UsageFacts
from chat_app.credits.ledger import Balance
from chat_app.errors import AppError, NotFound, Unavailable
from chat_app.flows import fraud, title, topup
from chat_app.llm import cache, catalogue, loader
from chat_app.llm.engine import Delta, Done, Failed, Loading, Queued, Request, Usage
from chat_app.llm.engine import Started as PromptRead

log = logging.getLogger(__name__)

SETTLE_RETRY_SECONDS = 5.0
POLL_SECONDS = 0.5
# How often somebody who waits is told their place.
PLACE_SECONDS = 1.0


class StopUnheard(Unavailable):
    """The process that writes the answer could not be told to stop."""

    code = "stop_unheard"
    message = "The answer could not be stopped just now. Try again in a few seconds."


class ReplyNotFound(NotFound):
    """No such reply of this user."""

    code = "reply_not_found"
    message = "This answer does not exist. Open the conversation again."


@dataclass(frozen=True)
class ReplyView:
    """A reply as it is shown: amounts in microcredits, `created_at` in µs."""

    reply_id: str
    conversation_id: str
    message_id: str
    model: str
    state: str
    content: str
    finish_reason: str | None
    error_code: str | None
    error_message: str | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    dropped_messages: int
    charged: int
    balance: Balance
    receipt_id: str | None
    created_at: int
    cached: bool = False
    hold_id: int | None = None
    # The organisation that paid; None: the user did.
    org_id: int | None = None
    ended_at: int | None = None


async def follow(
    app: App, *, user_id: int, reply_id: str, after: int = 0
) -> AsyncIterator[Piece | Status | ReplyView]:
    """The pieces after number `after`, status lines while waiting, and the ReplyView at last.

    Works for running replies, for those of another process, for finished ones and after a
    restart. Leaving early changes nothing.
    """
    running = app.replies.get(reply_id)
    if running is not None:
        if running.user_id != user_id:
            raise ReplyNotFound
        async for item in running.follow(after):
            assert isinstance(item, (Piece, Status, ReplyView))
            yield item
        return
    said: Status | None = None
    with ExitStack() as reading:
        mirror: Mirror | None = None
        while True:
            shown = await view(app, user_id=user_id, reply_id=reply_id)
            pieces = await asyncio.to_thread(_stored_pieces, app, reply_id, after)
            for piece in pieces:
                after = piece.index
                yield piece
            if shown.state != "running":
                break
            if app.relay is None or not app.relay.up:
                await asyncio.sleep(POLL_SECONDS)
                continue
            mirror = mirror or reading.enter_context(app.relay.mirror(reply_id, user_id))
            if mirror.live.end is not None:  # it has ended; that is being written, or seen late
                await asyncio.sleep(POLL_SECONDS)
                continue
            async with aclosing(app.relay.read(mirror, after)) as heard:
                async for item in heard:
                    if isinstance(item, Piece):
                        after = item.index
                    elif item == said:
                        continue
                    else:
                        said = item
                    yield item
    yield shown


async def stop(app: App, *, user_id: int, reply_id: str) -> None:
    """End the answer before its next token. What was delivered is kept and settled.

    Raises StopUnheard when it is written by another process that does not answer.
    """
    running = app.replies.get(reply_id)
    if running is None:
        shown = await view(app, user_id=user_id, reply_id=reply_id)
        if shown.state != "running" or app.relay is None:
            return
        if not await app.relay.stop(reply_id, user_id):
            shown = await view(app, user_id=user_id, reply_id=reply_id)
            if shown.state == "running":
                raise StopUnheard
        return
    if running.user_id != user_id:
        raise ReplyNotFound
    running.stop_wanted.set()


def leave(app: App, *, reply_id: str) -> None:
    """End an answer that nobody waits for any more, if this process still writes it."""
    running = app.replies.get(reply_id)
    if running is not None:
        running.stop_wanted.set()


async def view(app: App, *, user_id: int, reply_id: str) -> ReplyView:
    """The reply as it stands."""

    def look() -> ReplyView:
        with app.db.read() as session:
            found = session.get(Reply, reply_id)
            if found is None or found.user_id != user_id:
                raise ReplyNotFound
            return _view(session, found)

    return await asyncio.to_thread(look)


def running(app: App, *, user_id: int, conversation_id: str | None = None) -> list[str]:
    """The ids of the user's replies that are being written."""
    found = under_way(app, user_id=user_id)
    return [id for id, talk in found.items() if conversation_id in (None, talk)]


def under_way(app: App, *, user_id: int) -> dict[str, str]:
    """The user's replies that are being written, each with its conversation.

    Where there are other processes, theirs come first; what died with its process does not count.
    """
    here = {item.reply_id: item.conversation_id for item in app.replies if item.user_id == user_id}
    if app.relay is None:
        return here
    with app.db.read() as session:
        return elsewhere(app, session, user_id=user_id) | here


def elsewhere(app: App, session: Session, *, user_id: int) -> dict[str, str]:
    """Replies that other processes are writing for the user, each with its conversation."""
    rows = session.exec(
        select(Reply.id, Reply.conversation_id)
        .where(
            Reply.user_id == user_id,
            Reply.state == "running",
            col(Reply.lease_until) > app.clock.micros(),
        )
        .order_by(col(Reply.created_at))
    )
    return {id: talk for id, talk in rows if app.replies.get(id) is None}


def prompt_tokens(app: App, reply_id: str) -> int:
    """Tokens of the prompt of an answer that is being written, as far as they are known here."""
    item = app.replies.get(reply_id)
    if item is None and app.relay is not None:
        item = app.relay.mirrored(reply_id)
    return 0 if item is None else item.prompt_tokens


async def write(
    app: App,
    item: Live[object],
    request: Request,
    ticket: Ticket,
    *,
    keep: bool = False,
    fresh: bool = False,
) -> None:
    """The reply's job: take a turn, generate, settle. Nothing ends it but itself.

    With `keep` a complete answer is kept for the same user, and one that was kept is given
    instead of a new one, unless it has to be `fresh`.
    """
    logs.bind(reply=item.reply_id)
    began = time.monotonic()
    key: cache.Key | None = None
    end: Done | Failed
    try:
        if keep:
            key = await asyncio.to_thread(_cache_key, app, request)
        end = await _generate(app, item, request, ticket, key=None if fresh else key)
    except Exception:
        log.exception("reply %s failed", item.reply_id)
        end = Failed("engine_error", "The model failed. Nothing was charged; try again.", Usage())
    finally:
        ticket.leave()
    item.say("Finishing the books…")
    duration_ms = int((time.monotonic() - began) * 1000)
    shown = await _settle(app, item, end, duration_ms)
    if shown is not None:
        log.info(
            "answer ended",
            extra={
                "model": shown.model,
                "reason": shown.finish_reason,
                "error_code": shown.error_code,
                "completion_tokens": shown.completion_tokens,
                "charged": shown.charged,
                "hold": shown.hold_id,
                "duration_ms": duration_ms,
            },
        )
        # A conversation that was deleted meanwhile has no text, and none is kept of it.
        if key is not None and shown.content == item.text and not item.cached:
            _keep(app, key, item, end)
        item.finish(shown)
        fraud.answered(
            app,
            user_id=item.user_id,
            reply_id=item.reply_id,
            micro=shown.charged or 0,
            tokens=shown.completion_tokens,
            api=item.key_id is not None,
        )
        await topup.look(app, user_id=item.user_id)
    app.replies.remove(item.reply_id)
    if shown is not None and shown.state == "done" and shown.finish_reason != "cancelled":
        title.begin(
            app,
            user_id=item.user_id,
            conversation_id=item.conversation_id,
            model=request.model,
        )


def _cache_key(app: App, request: Request) -> cache.Key | None:
    # What weights another machine has today is not known here.
    if app.engine.state(request.model).backend == "remote":
        return None
    version = loader.version(catalogue.get(request.model), app.settings.models_dir)
    return cache.key(request, version=version)


def _keep(app: App, key: cache.Key, item: Live[object], end: Done | Failed) -> None:
    """Keep a complete answer. One that was stopped, failed or has no text is none."""
    if isinstance(end, Done) and end.reason != "cancelled" and item.text.strip():
        pieces = tuple((piece.text, piece.tokens) for piece in item.pieces)
        app.cache.put(
            key,
            cache.Kept(pieces, end.reason, item.prompt_tokens, item.dropped_messages),
        )


def _repeat(item: Live[object], kept: cache.Kept) -> Done:
    """Deliver an answer that was kept: the same pieces, counted as they were."""
    item.cached = True
    item.prompt_tokens = item.cached_tokens = kept.prompt_tokens
    item.dropped_messages = kept.dropped_messages
    for text, tokens in kept.pieces:
        item.add(text, tokens)
    return Done(kept.reason, Usage())


async def _generate(
    app: App, item: Live[object], request: Request, ticket: Ticket, *, key: cache.Key | None
) -> Done | Failed:
    wanted = asyncio.create_task(item.stop_wanted.wait())
    came = time.monotonic()
    try:
        if not await _turn(item, ticket, wanted):
            return Done("cancelled", Usage())
        request = replace(request, waited_seconds=time.monotonic() - came)
        if key is not None and (kept := app.cache.get(key)) is not None:
            return _repeat(item, kept)
        wanted.add_done_callback(lambda _: app.engine.cancel(item.reply_id))
        end: Done | Failed | None = None
        async for event in app.engine.submit(request):
            match event:
                case Queued(position=position):
                    item.say(f"Number {position} in line…" if position else "Starting…")
                case Loading(sentence=sentence):
                    item.say(sentence)
                case PromptRead():
                    ticket.began()
                    item.prompt_tokens = event.prompt_tokens
                    item.cached_tokens = event.cached_tokens
                    item.dropped_messages = event.dropped_messages
                    item.say("Thinking…")
                case Delta(text=text, tokens=tokens):
                    item.add(text, tokens)
                case Done() | Failed():
                    end = event
        assert end is not None, "an engine ends every request"
        return end
    finally:
        wanted.cancel()


async def _turn(item: Live[object], ticket: Ticket, wanted: "asyncio.Task[bool]") -> bool:
    """Wait for the ticket's turn and say how long it takes; False when the answer is unwanted."""
    turn = asyncio.create_task(ticket.turn())
    while not turn.done() and not wanted.done():
        if place := ticket.place():
            item.say(
                _in_line(place),
                position=place.position,
                expected_seconds=place.expected_seconds,
            )
        await asyncio.wait(
            {turn, wanted}, timeout=PLACE_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
    turn.cancel()
    return not item.stop_wanted.is_set()


def _in_line(place: Place) -> str:
    seconds = place.expected_seconds
    wait = f"{seconds} s" if seconds < 90 else f"{round(seconds / 60)} min"
    return f"Number {place.position} in line, about {wait}…"


async def _settle(
    app: App, item: Live[object], end: Done | Failed, duration_ms: int
) -> ReplyView | None:
    """End the reply in the books, trying again for as long as the process lives.

    A settlement that fails keeps its hold: the answer is neither free nor charged twice, and
    after a restart the sweeper settles it by its saved progress.
    """
    pause = 0.1
    while True:
        try:
            return await app.db.awrite(lambda session: _end(app, session, item, end, duration_ms))
        except AppError as error:
            log.warning("reply %s is not settled yet: %s", item.reply_id, error)
        except Exception:
            log.exception("reply %s is not settled yet", item.reply_id)
        if app.draining and pause >= SETTLE_RETRY_SECONDS:
            return None
        await asyncio.sleep(pause)
        pause = min(2 * pause, SETTLE_RETRY_SECONDS)


def _end(
    app: App, session: Session, item: Live[object], end: Done | Failed, duration_ms: int
) -> ReplyView:
    """Write transaction 2: the charge, the answer and the usage, or nothing of it."""
    usage = end.usage
    return finish(
        app,
        session,
        reply_id=item.reply_id,
        text=item.text,
        lengths=item.piece_lengths,
        prompt_tokens=usage.prompt_tokens or item.prompt_tokens,
        # What was delivered is what is paid; a token in flight at the stop is free.
        completion_tokens=item.completion_tokens,
        cached_tokens=usage.cached_tokens or item.cached_tokens,
        dropped_messages=item.dropped_messages,
        cached=item.cached,
        duration_ms=duration_ms,
        engine_ms=round(usage.engine_ms),
        finish_reason="error" if isinstance(end, Failed) else end.reason,
        error_code=end.code if isinstance(end, Failed) else None,
        error_message=end.message if isinstance(end, Failed) else None,
        failed=isinstance(end, Failed),
        # A failed answer is free, whatever of it arrived.
        billable=not isinstance(end, Failed),
    )


def finish(
    app: App,
    session: Session,
    *,
    reply_id: str,
    text: str,
    lengths: str,
    prompt_tokens: int,
    completion_tokens: int,
    cached_tokens: int,
    dropped_messages: int,
    cached: bool,
    duration_ms: int,
    engine_ms: int,
    finish_reason: str,
    error_code: str | None,
    error_message: str | None,
    failed: bool,
    billable: bool,
) -> ReplyView:
    """End a reply in the books, once: the charge, the answer and the usage, or nothing of it.

    Runs inside a write transaction. Whoever comes second gets the reply as the first left it.
    """
    now = app.clock.micros()
    # This update decides who ends the reply; everybody else finds it ended.
    mine = session.execute(
        update(Reply)
        .where(col(Reply.id) == reply_id, col(Reply.state) == "running")
        .values(state="failed" if failed else "done", ended_at=now)
    ).rowcount  # type: ignore[attr-defined]
    reply = session.exec(
        select(Reply).where(Reply.id == reply_id).execution_options(populate_existing=True)
    ).one()
    if not mine:
        return _view(session, reply)
    visible = completion_tokens if billable and text.strip() else 0
    price = pricing.version(session, reply.model, reply.price_version, reply.price_tier)
    cost = pricing.cost(
        price, prompt_tokens=prompt_tokens, completion_tokens=visible, images=reply.images
    )
    if cached:
        cost = pricing.share(cost, percent=reply.cached_percent)
    cost = min(cost, reply.maximum)
    settled = holds.settle(
        session,
        hold_id=reply.hold_id,
        micro=cost,
        now=now,
        usage=UsageFacts(
            reply_id=reply_id,
            model=reply.model,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            cached_tokens=cached_tokens,
            duration_ms=duration_ms,
            engine_ms=engine_ms,
            status=finish_reason,
            price_version=reply.price_version,
            price_tier=reply.price_tier,
        ),
    )
    reply.pieces = lengths
    reply.prompt_tokens = prompt_tokens
    reply.completion_tokens = completion_tokens
    reply.cached_tokens = cached_tokens
    reply.dropped_messages = dropped_messages
    reply.cached = cached
    reply.charged = settled.charged
    reply.transfer_id = settled.transfer_id
    reply.finish_reason = finish_reason
    reply.error_code = error_code
    reply.error_message = error_message
    session.add(reply)
    conversation = session.get(Conversation, reply.conversation_id)
    answer = session.get(Message, reply.message_id)
    assert conversation is not None
    assert answer is not None
    answer.content = text if conversation.keeps_texts else ""
    session.add(answer)
    session.flush()
    return _view(session, reply)


def _view(session: Session, reply: Reply) -> ReplyView:
    answer = session.get(Message, reply.message_id)
    return ReplyView(
        reply_id=reply.id,
        conversation_id=reply.conversation_id,
        message_id=reply.message_id,
        model=reply.model,
        state=reply.state,
        content=answer.content if answer is not None else "",
        finish_reason=reply.finish_reason,
        error_code=reply.error_code,
        error_message=reply.error_message,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        cached_tokens=reply.cached_tokens,
        dropped_messages=reply.dropped_messages,
        charged=reply.charged,
        balance=ledger.balance(session, user_id=reply.user_id),
        receipt_id=str(reply.transfer_id) if reply.transfer_id is not None else None,
        created_at=reply.created_at,
        cached=reply.cached,
        hold_id=reply.hold_id,
        org_id=holds.paid_by(session, hold_id=reply.hold_id),
        ended_at=reply.ended_at,
    )


def _stored_pieces(app: App, reply_id: str, after: int) -> list[Piece]:
    with app.db.read() as session:
        reply = session.get(Reply, reply_id)
        answer = session.get(Message, reply.message_id) if reply is not None else None
        if reply is None or answer is None:
            return []
        return live.cut(answer.content, reply.pieces, after=after)
