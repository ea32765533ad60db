"""Write transaction 1 of a message: the question, the hold, the reply that pins the price."""

from typing import Any

from sqlmodel import Session, col, update

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
# As long as a key's answer is promised; then the texts of a program's request go.
PROGRAM_TEXT_SECONDS = 24 * 3600


class StillAnswering(Conflict):
    """The conversation has a running answer."""

    code = "still_answering"
    message = "This conversation is still being answered. Wait for it, or stop it first."


def place(
    app: App,
    session: Session,
    *,
    order: Order,
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
            # What is written in again is no longer put away.
            .values(updated_at=now, model=order.entry.id, archived_at=None)
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


def _key_use(session: Session, order: Order, *, now: int) -> KeyUse | None:
    """The API key with its limits as they are in this transaction; raises BadKey."""
    if order.key_id is None:
        return None
    limits = keys.limits_of(keys.spending(session, order.key_id, now=now))
    return KeyUse(order.key_id, limits.day, limits.month, limits.total)
