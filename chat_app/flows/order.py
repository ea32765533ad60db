"""An order: what a person or a program asks to have answered, checked and within bounds."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from chat_app.accounts import keys
from chat_app.accounts.key_tables import ApiKey
from chat_app.app import App
from chat_app.chat import images as pictures
from chat_app.credits import operations
from chat_app.errors import Invalid, TooLarge, Unavailable
from chat_app.llm import catalogue
from chat_app.llm.engine import (
    ModelCannotSee,
    Role,
    Sampling,
    UnknownModel,
)


class EmptyMessage(Invalid):
    """Nothing but white space."""

    code = "empty_message"
    message = "The message is empty. Write something and send it again."


class MessageTooLong(TooLarge):
    """More bytes than `chat.max_message_kib`."""

    code = "message_too_long"
    message = "The message is too long. Shorten it or send it in parts."


class NewChatsAlone(Invalid):
    """`temporary` for a conversation that is kept, or a place in one that is not there yet."""

    code = "new_chats_alone"
    message = "A chat is temporary from its beginning, and a new one has no branches. Begin anew."


class Draining(Unavailable):
    """The server is going down and takes no new messages."""

    code = "draining"
    message = "The server is about to restart. Send the message again in a minute."


@dataclass(frozen=True)
class Turn:
    """A message of a list that a program sends whole; the images are files."""

    role: Role
    text: str
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Order:
    """What the person asked for, checked. With `turns` they are all that the model reads.

    The question is a new one that follows the message `parent_id`, or the end of the active path;
    or it is `question_id`, for another answer. `continues_id` is an answer that goes on.
    """

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
    parent_id: str | None = None
    continues_id: str | None = None
    temporary: bool = False

    @property
    def at(self) -> str | None:
        """The message up to which the conversation is read; None: the whole active path."""
        return self.continues_id or self.question_id or self.parent_id


def checked(
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
    parent_id: str | None = None,
    temporary: bool = False,
) -> Order:
    """The order, or the refusal: nothing is read from the database for it."""
    if app.draining:
        raise Draining
    if not text.strip() and not images:
        raise EmptyMessage
    check_length(app, text)
    if parent_id is not None and conversation_id is None:
        raise NewChatsAlone(param="parent_id")
    entry = catalogue.get(model)
    if entry.hidden:
        raise UnknownModel(model=model)
    keys.refuse_model(api_key, model)
    if images and not app.engine.sees(model):
        raise ModelCannotSee(model=model)
    if len(images) > app.settings.chat.max_images:
        raise pictures.TooManyImages(limit=app.settings.chat.max_images, images=len(images))
    ceiling = app.settings.llm.max_output_tokens
    return Order(
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
        parent_id=parent_id,
        temporary=temporary,
    )


def check_length(app: App, text: str) -> None:
    """Raises MessageTooLong."""
    limit = app.settings.chat.max_message_kib * 1024
    size = len(text.encode("utf-8", errors="surrogatepass"))
    if size > limit:
        raise MessageTooLong(limit_bytes=limit, bytes=size)


def request_of(order: Order) -> dict[str, Any]:
    """What an idempotency key stands for: the same key with another request is a conflict."""
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
    places = {"parent_id": order.parent_id, "continues_id": order.continues_id}
    request |= {name: value for name, value in places.items() if value is not None}
    if order.temporary:
        request["temporary"] = True
    # Only then: keys of messages that people pay for themselves stay what they were.
    return request if order.org_id is None else {**request, "org_id": order.org_id}


def sampling(order: Order) -> Sampling:
    """The model's own sampling with what the order asks for."""
    base = order.entry.sampling
    return replace(
        base,
        temperature=base.temperature if order.temperature is None else order.temperature,
        top_p=base.top_p if order.top_p is None else order.top_p,
        seed=base.seed if order.seed is None else order.seed,
    )
