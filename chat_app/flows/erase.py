"""A conversation is deleted: its texts leave the database, and the cache of answers."""

from chat_app.app import App
from chat_app.chat import conversations


async def conversation(app: App, *, user_id: int, conversation_id: str) -> None:
    """Wipe the texts and hide the conversation. What was charged stays in the books."""
    now = app.clock.micros()
    await app.db.awrite(
        lambda session: conversations.delete(
            session, user_id=user_id, conversation_id=conversation_id, now=now
        )
    )
    # The cache does not know which conversations its answers were given in.
    app.cache.forget(str(user_id))
