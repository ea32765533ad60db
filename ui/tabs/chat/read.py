"""What the chat tab reads: the user's conversations, the messages of one, models and prices."""

from chat_app.accounts.tables import User
from chat_app.app import App
from chat_app.chat import conversations
from chat_app.credits import ledger, pricing
from chat_app.credits.pricing import Price
from chat_app.errors import AppError
from chat_app.flows import message, reply, shelf
from chat_app.flows.shelf import ModelView
from ui import parts, stream

LISTED = 40


def user_id(user: User) -> int:
    assert user.id is not None
    return user.id


def rows(app: App, user: User) -> list[conversations.ConversationRow]:
    with app.db.read() as session:
        return conversations.list_for(session, user_id=user_id(user), limit=LISTED)[0]


def messages(app: App, user: User, conversation: str) -> tuple[list[stream.Message], str]:
    with app.db.read() as session:
        found = conversations.get(session, user_id=user_id(user), conversation_id=conversation)
        rows = conversations.messages(session, user_id=user_id(user), conversation_id=conversation)
        return stream.shown(rows), found.model


def before(
    app: App, user: User, following: message.Started | reply.ReplyView
) -> list[stream.Message]:
    """The conversation up to the answer that is followed."""
    with app.db.read() as session:
        rows = conversations.messages(
            session, user_id=user_id(user), conversation_id=following.conversation_id
        )
    return stream.shown([row for row in rows if row.reply_id != following.reply_id])


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
