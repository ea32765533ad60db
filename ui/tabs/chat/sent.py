"""What the page sends, which may be anything: text, images, who pays."""

import base64
import json
import re

from chat_app.chat.images import BadImage

MOST_IMAGES = 16
_NUMBER = re.compile(r"[1-9]\d{0,17}", re.ASCII)


def org(payer: object) -> int | None:
    """The organisation that the picker names. Whether the user may spend from it is asked later."""
    return int(payer) if isinstance(payer, str) and _NUMBER.fullmatch(payer) else None


def text(value: object) -> str:
    """Text from the page, which may send anything."""
    return value if isinstance(value, str) else ""


def files(value: object) -> list[bytes]:
    """The images that the page sends: JSON with a list of files in base64."""
    if not isinstance(value, str) or not value:
        return []
    try:
        items = json.loads(value)
        return [base64.b64decode(item, validate=True) for item in items[: MOST_IMAGES + 1]]
    except (ValueError, TypeError, RecursionError) as error:
        raise BadImage(number=1) from error
