"""Shared conversations: their links, and who may open them."""

import asyncio
from dataclasses import dataclass
from functools import partial

from sqlmodel import Session

from chat_app.accounts import tokens
from chat_app.app import App
from chat_app.chat import shares
from chat_app.chat.share_tables import Share
from chat_app.errors import NotSignedIn
from chat_app.flows import signin


@dataclass(frozen=True)
class Link:
    """A share as its owner sees it; times in µs."""

    id: str
    conversation_id: str
    title: str
    access: str
    messages: int
    path: str
    created_at: int
    updated_at: int


async def publish(
    app: App, *, user_id: int, conversation_id: str, access: str | None, update: bool
) -> Link:
    """Share a conversation, or change how; raises what `shares.publish` raises."""
    now = app.clock.micros()

    def story(session: Session) -> Link:
        return _link(
            app,
            shares.publish(
                session,
                user_id=user_id,
                conversation_id=conversation_id,
                access=access,
                update=update,
                hash_of=lambda share_id: tokens.token_hash(_token(app, share_id)),
                now=now,
            ),
        )

    return await app.db.awrite(story)


async def take_back(app: App, *, user_id: int, conversation_id: str) -> None:
    """End a link at once. Raises NotShared."""
    await app.db.awrite(partial(shares.take_back, user_id=user_id, conversation_id=conversation_id))


def mine(app: App, *, user_id: int) -> list[Link]:
    """The user's links, newest first."""
    with app.db.read() as session:
        return [_link(app, share) for share in shares.listed(session, user_id=user_id)]


async def opened(app: App, *, token: str, cookie: str | None) -> Share:
    """The share behind a link, for whoever may see it.

    Raises ShareNotFound, or ShareForMembers when it is not for everybody and nobody is signed in.
    """

    def look() -> Share:
        with app.db.read() as session:
            return shares.behind(session, token_hash=tokens.token_hash(token))

    share = await asyncio.to_thread(look)
    if share.access != "open":
        try:
            await signin.identify(app, cookie=cookie)
        except NotSignedIn as error:
            raise shares.ShareForMembers from error
    return share


def _token(app: App, share_id: str) -> str:
    return tokens.derive(app.secrets.link_key, "conversation share", share_id)


def _link(app: App, share: Share) -> Link:
    return Link(
        id=share.id,
        conversation_id=share.conversation_id,
        title=share.title,
        access=share.access,
        messages=share.messages,
        path=f"/share/{_token(app, share.id)}",
        created_at=share.created_at,
        updated_at=share.updated_at,
    )
