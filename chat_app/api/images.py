"""REST: images of messages, in and out."""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Response
from pydantic import Field

from chat_app.api import deps
from chat_app.api.deps import Body, errors_in
from chat_app.chat.images import BadImage
from chat_app.flows import images

router = APIRouter(prefix="/chat", tags=["chat"])


class ImageIn(Body):
    """An image in a message: its file in base64."""

    data: Annotated[str, Field(max_length=32 * 2**20, description="The file in base64.")]
    type: Literal["image/png", "image/jpeg", "image/webp"]


def files(sent: Sequence[ImageIn]) -> list[bytes]:
    """The bytes of the images. Raises BadImage."""
    found = []
    for number, image in enumerate(sent, start=1):
        try:
            found.append(base64.b64decode(image.data, validate=True))
        except (binascii.Error, ValueError) as error:
            raise BadImage(number=number) from error
    return found


@router.get(
    "/images/{id}",
    response_class=Response,
    responses={200: {"content": {"image/png": {}, "image/jpeg": {}}}, **errors_in(401, 404)},
)
async def show_image(app: deps.App, who: deps.CurrentUser, id: deps.Id) -> Response:
    """An image of the caller's messages, as it is stored: upright and without metadata."""
    data, kind = await images.show(app, user_id=deps.user_id(who), image_id=id)
    headers = {"Cache-Control": "private, max-age=3600", "Content-Disposition": "inline"}
    return Response(data, media_type=kind, headers=headers)
