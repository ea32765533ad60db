"""Images of messages: from bytes to files that a model can look at, and out of the house again."""

import asyncio
import time
from collections.abc import Sequence
from functools import partial

from chat_app.app import App
from chat_app.chat import images
from chat_app.chat.images import Picture
from chat_app.chat.tables import MessageImage
from chat_app.llm.engine import Image


async def take(app: App, *, user_id: int, files: Sequence[bytes]) -> list[Picture]:
    """Decode and store the images of a message. Raises BadImage, or ImageNotStored."""

    def work() -> list[Picture]:
        limit = app.settings.chat.max_image_megapixels * 1_000_000
        pictures = [
            images.read(file, max_pixels=limit, number=number)
            for number, file in enumerate(files, start=1)
        ]
        try:
            keep(app, user_id=user_id, pictures=pictures)
        except OSError as error:
            raise images.ImageNotStored from error
        return pictures

    return await asyncio.to_thread(work) if files else []


def keep(app: App, *, user_id: int, pictures: Sequence[Picture]) -> None:
    """Store what is not there: also after the commit, if somebody deleted the same meanwhile.

    Raises OSError.
    """
    for picture in pictures:
        images.keep(app.settings.data_dir, user_id=user_id, picture=picture)


async def leave(app: App, *, user_id: int, digests: Sequence[str] | set[str]) -> None:
    """Delete the files that no message shows any more."""
    if digests:
        await app.db.awrite(
            lambda session: images.drop(
                session, app.settings.data_dir, user_id=user_id, digests=digests
            )
        )


def told(
    app: App, *, user_id: int, pictures: Sequence[Picture | MessageImage]
) -> tuple[Image, ...]:
    """As a model is told of them; a file that is lost is left out."""
    found = []
    for each in pictures:
        path = images.path(
            app.settings.data_dir, user_id=user_id, digest=each.digest, kind=each.kind
        )
        if path.exists():
            found.append(Image(str(path), each.digest))
    return tuple(found)


async def show(app: App, *, user_id: int, image_id: str) -> tuple[bytes, str]:
    """The bytes of a user's image and its media type. Raises ImageNotFound."""

    def look() -> tuple[bytes, str]:
        with app.db.read() as session:
            row = images.get(session, user_id=user_id, image_id=image_id)
            path = images.path(
                app.settings.data_dir, user_id=user_id, digest=row.digest, kind=row.kind
            )
        try:
            return path.read_bytes(), f"image/{row.kind}"
        except FileNotFoundError as error:
            raise images.ImageNotFound from error

    return await asyncio.to_thread(look)


def tidy(app: App) -> int:
    """Delete old files that no message shows: left by a crash. Returns how many."""
    gone = 0
    for user_id, digests in images.strays(app.settings.data_dir, now_seconds=time.time()).items():
        gone += app.db.write(
            partial(images.drop, data_dir=app.settings.data_dir, user_id=user_id, digests=digests)
        )
    return gone
