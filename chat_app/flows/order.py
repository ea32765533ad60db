"""An order: what a person or a program asks to have answered, checked and within bounds."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from chat_app.accounts import keys
from chat_app.accounts.key_tables import ApiKey
from chat_app.app import App
from chat_app.chat import images as pictures
from chat_app.chat import parameters
from chat_app.chat.parameters import Parameters
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

    `asked` are the parameters that came with it; `max_tokens` and those below are what counts,
    see `with_own`.
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
    system: str | None = None
    asked: Parameters = parameters.NONE
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
    asked: Parameters = parameters.NONE,
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
    order = Order(
        user_id=user_id,
        entry=entry,
        text=text,
        conversation_id=conversation_id,
        question_id=None,
        max_tokens=1,
        temperature=None,
        spend_limit=spend_limit,
        images=images,
        key_id=None if api_key is None else api_key.id,
        asked=parameters.checked(asked),
        parent_id=parent_id,
        temporary=temporary,
    )
    return with_own(app, order, parameters.NONE)


def with_own(app: App, order: Order, own: Parameters) -> Order:
    """The order with its conversation's own parameters where it brought none, and clamped."""
    told = order.asked.over(own)
    ceiling = app.settings.llm.max_output_tokens
    return replace(
        order,
        max_tokens=min(told.max_tokens or ceiling, ceiling),
        temperature=told.temperature,
        top_p=told.top_p,
        seed=told.seed,
        system=told.system,
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
    else:
        more = order.asked.as_json()
        told_own = {name: more[name] for name in ("system", "top_p", "seed") if name in more}
        request |= {name: str(value) for name, value in told_own.items()}
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
