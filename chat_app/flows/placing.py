"""Write transaction 1 of a message: the question, the hold, the reply that pins the price.

Answers side by side are placed in one such transaction: all of their holds, or none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select, update

from chat_app.accounts import keys
from chat_app.app import App
from chat_app.chat import conversations
from chat_app.chat import images as pictures
from chat_app.chat.images import Picture
from chat_app.chat.tables import Conversation, Message, Reply
from chat_app.clock import MICROS_PER_SECOND
from chat_app.credits import guards, holds
from chat_app.credits.key_budgets import KeyUse
from chat_app.credits.pricing import Price
from chat_app.errors import Conflict
from chat_app.flows import orgs
from chat_app.flows.order import Order
from chat_app.ids import new_id

# The hold outlives the longest answer, its queueing and a restart; the lease, not the hold's
# end, is what finds a dead process quickly.
HOLD_MARGIN_SECONDS = 3600
# As long as a key's answer is promised; then the texts of a program's request go, and those of a
# temporary chat.
TEXT_SECONDS = 24 * 3600


class StillAnswering(Conflict):
    """The conversation has a running answer."""

    code = "still_answering"
    message = "This conversation is still being answered. Wait for it, or stop it first."


@dataclass(frozen=True)
class Offer:
    """An order with the price in force for it, and the most it costs, in microcredits."""

    order: Order
    price: Price
    maximum: int


@dataclass(frozen=True)
class _Spot:
    """Where in the tree an answer is written: its question, and the message it follows."""

    conversation_id: str
    question_id: str
    parent_id: str


def place(
    app: App, session: Session, *, offers: Sequence[Offer], shown: list[Picture], now: int
) -> list[dict[str, Any]]:
    """Write transaction 1: the question, and for each offer a hold and a reply.

    The orders are the same but for their models; `shown` are the images of the question.
    """
    order = offers[0].order
    conversation = _conversation(session, order, now=now)
    spot = _spot(session, order, conversation, shown=shown, now=now)
    pair_id = new_id("pair") if len(offers) > 1 else None
    placed = [
        _answer(app, session, offer, spot=spot, pair_id=pair_id, now=now, number=number)
        for number, offer in enumerate(offers)
    ]
    conversation.leaf_id = placed[0]["message_id"]
    session.add(conversation)
    session.flush()
    return placed


def _conversation(session: Session, order: Order, *, now: int) -> Conversation:
    """The conversation, locked and not being answered, or a new one."""
    if order.conversation_id is not None:
        # The update comes first: on PostgreSQL its row lock puts two senders in a line.
        session.execute(
            update(Conversation)
            .where(
                col(Conversation.id) == order.conversation_id,
                col(Conversation.user_id) == order.user_id,
            )
            # What is written in again is no longer put away.
            .values(updated_at=now, model=order.entry.id, archived_at=None)
        )
        found = conversations.get(
            session, user_id=order.user_id, conversation_id=order.conversation_id
        )
        if conversations.count_running(session, conversation_id=found.id):
            raise StillAnswering
        return found
    until = now + TEXT_SECONDS * MICROS_PER_SECOND
    if order.turns:
        made = conversations.hidden(
            id=new_id("con"), user_id=order.user_id, model=order.entry.id, now=now, until=until
        )
    else:
        title = conversations.title_of(order.text) or "Image"
        made = Conversation(
            id=new_id("con"),
            user_id=order.user_id,
            title=conversations.TEMPORARY_TITLE if order.temporary else title,
            renamed=order.temporary,  # so that no model reads it for a title
            model=order.entry.id,
            settings=order.asked.dump(),
            created_at=now,
            updated_at=now,
            temporary_until=until if order.temporary else None,
        )
    session.add(made)
    session.flush()
    return made


def _spot(
    session: Session, order: Order, conversation: Conversation, *, shown: list[Picture], now: int
) -> _Spot:
    """The question, which is stored now if it is a new one."""
    if order.continues_id is not None:
        answered = session.exec(
            select(Reply.question_id).where(
                Reply.message_id == order.continues_id, Reply.conversation_id == conversation.id
            )
        ).one()
        return _Spot(conversation.id, answered, order.continues_id)
    if order.question_id is not None:
        return _Spot(conversation.id, order.question_id, order.question_id)
    parent_id = conversations.place_of(
        session,
        conversation_id=conversation.id,
        leaf_id=conversation.leaf_id,
        parent_id=order.parent_id,
    )
    question = Message(
        id=new_id("msg"),
        conversation_id=conversation.id,
        parent_id=parent_id,
        role="user",
        content="" if order.turns else order.text,
        model=order.entry.id,
        created_at=now,
    )
    session.add(question)
    session.flush()
    if shown:
        pictures.attach(session, message=question, user_id=order.user_id, pictures=shown)
    return _Spot(conversation.id, question.id, question.id)


def _answer(
    app: App,
    session: Session,
    offer: Offer,
    *,
    spot: _Spot,
    pair_id: str | None,
    now: int,
    number: int,
) -> dict[str, Any]:
    """The hold for one answer, its empty message and the reply behind it."""
    order, maximum = offer.order, offer.maximum
    reply_id, answer_id = new_id("rep"), new_id("msg")
    session.add(
        Message(
            id=answer_id,
            conversation_id=spot.conversation_id,
            parent_id=spot.parent_id,
            role="assistant",
            model=order.entry.id,
            created_at=now + 1 + number,
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
                session, conversation_id=spot.conversation_id
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
            conversation_id=spot.conversation_id,
            question_id=spot.question_id,
            message_id=answer_id,
            model=order.entry.id,
            hold_id=hold.id,
            key_id=order.key_id,
            pair_id=pair_id,
            price_version=offer.price.version,
            price_tier=offer.price.tier,
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
        "conversation_id": spot.conversation_id,
        "message_id": answer_id,
        "maximum": maximum,
    }


def _key_use(session: Session, order: Order, *, now: int) -> KeyUse | None:
    """The API key with its limits as they are in this transaction; raises BadKey."""
    if order.key_id is None:
        return None
    limits = keys.limits_of(keys.spending(session, order.key_id, now=now))
    return KeyUse(order.key_id, limits.day, limits.month, limits.total)
