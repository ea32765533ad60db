"""On what terms a message is answered: the user's price and guard, and what the model reads."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import Session

from chat_app.app import App
from chat_app.chat import conversations, parameters
from chat_app.chat import images as pictures
from chat_app.chat.images import Picture
from chat_app.chat.tables import Conversation, MessageImage
from chat_app.credits import guards, pricing
from chat_app.credits.pricing import Price
from chat_app.flows import images as image_files
from chat_app.flows.order import NewChatsAlone, Order, with_own
from chat_app.llm.engine import (
    IMAGE_TOKENS,
    ChatMessage,
)

# A template adds a few tokens to each message.
TOKENS_PER_MESSAGE = 16


@dataclass(frozen=True)
class Terms:
    """On what terms it is answered: the user's price and guard, and what the model reads.

    `order` is the order with the parameters of its conversation.
    """

    price: Price
    per_answer: int | None
    told: list[ChatMessage]
    order: Order

    def max_tokens(self, order: Order, prompt_tokens: int) -> int:
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


def read_terms(app: App, order: Order, shown: Sequence[Picture], now: int) -> Terms:
    """`agree` in a read session of its own."""
    with app.db.read() as session:
        return agree(app, session, order, now, shown)


def agree(
    app: App, session: Session, order: Order, now: int, shown: Sequence[Picture] = ()
) -> Terms:
    """The price in force for the user, their guard for one answer, and what the model reads."""
    found = None
    if order.conversation_id is not None:
        found = conversations.get(
            session, user_id=order.user_id, conversation_id=order.conversation_id
        )
        if order.temporary and found.temporary_until is None:
            raise NewChatsAlone(param="temporary")
        order = with_own(app, order, parameters.load(found.settings))
    return Terms(
        order=order,
        price=pricing.for_user(session, order.entry.id, user_id=order.user_id, now=now),
        per_answer=(
            guards.per_answer(session, user_id=order.user_id) if order.org_id is None else None
        ),
        told=told(app, session, order, found, shown),
    )


def told(
    app: App,
    session: Session,
    order: Order,
    conversation: Conversation | None,
    shown: Sequence[Picture] = (),
) -> list[ChatMessage]:
    """What the model reads: its system prompt, the conversation so far, the question.

    A model that does not see reads a conversation without its images.
    """
    if order.turns:
        return _told_turns(app, order, shown)
    told = []
    system = order.system or order.entry.system_prompt
    if system:
        told.append(ChatMessage("system", system))
    if conversation is not None:
        earlier = conversations.history(
            session, conversation_id=conversation.id, leaf_id=conversation.leaf_id, at=order.at
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


def _told_turns(app: App, order: Order, shown: Sequence[Picture]) -> list[ChatMessage]:
    """The turns as they were sent. Without `shown` they are told without their images."""
    told, left = [], list(shown)
    for turn in order.turns:
        own, left = left[: len(turn.images)], left[len(turn.images) :]
        seen = image_files.told(app, user_id=order.user_id, pictures=own)
        told.append(ChatMessage(turn.role, turn.text, seen))
    return told


async def count_prompt(app: App, model: str, price: Price, told: list[ChatMessage]) -> int:
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
