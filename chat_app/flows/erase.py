"""A conversation is deleted: texts and images leave the house, and the cache of answers."""

from sqlmodel import Session

from chat_app.app import App
from chat_app.chat import conversations, images
from chat_app.flows import images as pictures


async def conversation(app: App, *, user_id: int, conversation_id: str) -> None:
    """Wipe texts and images and hide the conversation. What was charged stays in the books."""
    now = app.clock.micros()

    def delete(session: Session) -> set[str]:
        conversations.delete(session, user_id=user_id, conversation_id=conversation_id, now=now)
        return images.detach(session, conversation_id=conversation_id)

    digests = await app.db.awrite(delete)
    await pictures.leave(app, user_id=user_id, digests=digests)
    # The cache does not know which conversations its answers were given in.
    app.cache.forget(str(user_id))
