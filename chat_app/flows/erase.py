"""A conversation is deleted: texts and images leave the house, and the cache of answers."""

from collections.abc import Sequence
from functools import partial

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


def forget_programs_texts(app: App) -> int:
    """Wipe the answers to programs, and the images they sent, that are due; returns how many."""
    gone = 0
    while True:
        with app.db.read() as session:
            found = conversations.due(session, now=app.clock.micros())
        if not found:
            return gone
        shown = app.db.write(partial(_forget, [id for id, _ in found]))
        owners = dict(found)
        for id, digests in shown.items():
            if digests:
                app.db.write(
                    partial(
                        images.drop,
                        data_dir=app.settings.data_dir,
                        user_id=owners[id],
                        digests=digests,
                    )
                )
        gone += len(found)


def _forget(ids: Sequence[str], session: Session) -> dict[str, set[str]]:
    conversations.wipe(session, conversation_ids=ids)
    return {id: images.detach(session, conversation_id=id) for id in ids}
