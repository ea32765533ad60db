"""What the chat tab reads: the user's conversations, the messages of one, models and prices."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.chat import conversations, images
from chat_app.credits import ledger, pricing
from chat_app.credits.pricing import Price
from chat_app.errors import AppError
from chat_app.flows import reply, shelf
from chat_app.flows.shelf import ModelView
from ui import parts, stream

LISTED = 40


def user_id(user: User) -> int:
    assert user.id is not None
    return user.id


def rows(app: App, user: User) -> list[conversations.ConversationRow]:
    with app.db.read() as session:
        return conversations.list_for(session, user_id=user_id(user), limit=LISTED)[0]


@dataclass(frozen=True)
class Opened:
    """A conversation as it stands: what is shown of it, and the answers that are being written."""

    messages: list[stream.Message]
    model: str
    running: list[str]
    temporary: bool


def opened(app: App, user: User, conversation: str) -> Opened:
    """The active path of a conversation. A running answer of another branch is left alone."""
    with app.db.read() as session:
        found = conversations.get(session, user_id=user_id(user), conversation_id=conversation)
        rows = conversations.messages(session, user_id=user_id(user), conversation_id=conversation)
    here = {row.reply_id for row in (*rows, *(rows[-1].beside if rows else ()))}
    running = reply.running(app, user_id=user_id(user), conversation_id=conversation)
    return Opened(
        stream.shown(rows),
        found.model,
        [one for one in running if one in here],
        found.temporary_until is not None,
    )


@dataclass(frozen=True)
class Before:
    """What is shown while answers are written: all there is, and the text that one goes on from."""

    messages: list[Any]
    rest: list[Any]
    text: str
    packed: stream.Packed

    def with_text(self, written: str) -> list[Any]:
        """The messages with an answer so far, joined to what it continues."""
        if not written:
            return self.messages
        return [*self.rest, stream.writing(self.text + written)]


def before(app: App, user: User, conversation: str, following: Sequence[str]) -> Before:
    """The active path up to the answers that are followed."""
    with app.db.read() as session:
        rows = conversations.messages(session, user_id=user_id(user), conversation_id=conversation)
    kept = [row for row in rows if row.reply_id not in following]
    shown, packed = stream.shown(kept), stream.Packed()
    goes_on = [row for row in rows if row.reply_id in following and row.parent_id]
    if not (kept and goes_on and kept[-1].role == "assistant"):
        return Before(packed(shown), packed(shown), "", packed)
    last = [row for row in kept if row.role == "user"][-1:]
    at = kept.index(last[0]) + 1 if last else 0
    text = "".join(row.content for row in kept[at:])
    return Before(packed(shown), packed(shown[:-1]), text, packed)


def after(app: App, user: User, views: Sequence[reply.ReplyView]) -> list[stream.Message] | None:
    """The active path with answers that have ended; None when they are not on it."""
    view = views[0]
    try:
        with app.db.read() as session:
            rows = conversations.messages(
                session, user_id=user_id(user), conversation_id=view.conversation_id
            )
    except AppError:  # deleted meanwhile
        return None
    here = {row.reply_id for row in (*rows[-1:], *(rows[-1].beside if rows else ()))}
    if not here & {each.reply_id for each in views}:
        return None
    return stream.shown(rows, balance=view.balance.available if view.org_id is None else None)


def talk_of(app: App, user: User, message_id: str) -> str:
    """The conversation of the user's message; raises MessageNotFound."""
    with app.db.read() as session:
        found = conversations.message(session, user_id=user_id(user), message_id=message_id)
        return found.conversation_id


@dataclass(frozen=True)
class Edited:
    """A question that is written anew: what it follows, and the images it shows."""

    parent_id: str
    images: tuple[str, ...]


def edited(app: App, user: User, message_id: str) -> Edited | None:
    """The user's question with this id; None without one. Raises MessageNotFound."""
    if not message_id:
        return None
    with app.db.read() as session:
        found = conversations.message(session, user_id=user_id(user), message_id=message_id)
        shown = images.of(session, [found.id]).get(found.id, [])
    return Edited(found.parent_id or conversations.ROOT, tuple(each.id for each in shown))


def models(app: App) -> list[ModelView]:
    with app.db.read() as session:
        return shelf.models(app, session=session)


def preferred(app: App, views: list[ModelView]) -> ModelView | None:
    able = [view for view in views if view.available]
    wanted = app.settings.llm.default_model
    return next((view for view in able if view.id == wanted), able[0] if able else None)


def price(app: App, user: User, model: str | None) -> Price | None:
    if model is None:
        return None
    try:
        with app.db.read() as session:
            now = app.clock.micros()
            return pricing.for_user(session, model, user_id=user_id(user), now=now)
    except AppError:
        return None


def pill(app: App, user: User) -> str:
    with app.db.read() as session:
        return parts.pill(ledger.balance(session, user_id=user_id(user)))
