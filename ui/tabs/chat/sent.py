"""What the page sends, which may be anything: text, images, parameters, who pays."""

import base64
import json
import re
from dataclasses import dataclass

from chat_app.chat import parameters
from chat_app.chat.images import BadImage
from chat_app.chat.parameters import Parameters

MOST_IMAGES = 16
# What the page holds in place of a conversation's id.
TEMPORARY = "temporary"
_NUMBER = re.compile(r"[1-9]\d{0,17}", re.ASCII)


def org(payer: object) -> int | None:
    """The organisation that the picker names. Whether the user may spend from it is asked later."""
    return int(payer) if isinstance(payer, str) and _NUMBER.fullmatch(payer) else None


def talk(value: object) -> tuple[str | None, bool]:
    """The conversation that is open, None for a new one, and whether it is a temporary one."""
    given = text(value)
    if given == TEMPORARY:
        return None, True
    id = given.removeprefix(f"{TEMPORARY}:")
    return id[:64] or None, id != given


def held(conversation: str, *, temporary: bool) -> str:
    """What the page holds of a conversation; `talk` reads it."""
    return f"{TEMPORARY}:{conversation}" if temporary else conversation


def deed(value: object) -> tuple[str, str]:
    """What was pressed under a message, and the id it is about."""
    name, _, id = text(value).partition(" ")
    return name, id[:64]


def text(value: object) -> str:
    """Text from the page, which may send anything."""
    return value if isinstance(value, str) else ""


@dataclass(frozen=True)
class Extras:
    """What the composer holds beside its text: images, the message that is edited, a second model.

    `settings` are the parameters of a conversation that begins with the message.
    """

    files: tuple[bytes, ...] = ()
    editing: str = ""
    against: str = ""
    settings: Parameters = parameters.NONE


def extras(value: object) -> Extras:
    """The page sends a list of images, or `images`, `editing`, `against` and `settings`, in JSON.

    Raises BadImage and BadParameters.
    """
    try:
        given = json.loads(value) if isinstance(value, str) and value else {}
    except (ValueError, RecursionError) as error:
        raise BadImage(number=1) from error
    if not isinstance(given, dict):
        given = {"images": given}
    return Extras(
        files(given.get("images")),
        text(given.get("editing"))[:64],
        text(given.get("against"))[:128],
        parameters.from_page(given.get("settings")),
    )


def files(items: object) -> tuple[bytes, ...]:
    """Images that the page sends: a list of files in base64. Raises BadImage."""
    if items is None:
        return ()
    if not isinstance(items, list):
        raise BadImage(number=1)
    try:
        return tuple(base64.b64decode(item, validate=True) for item in items[: MOST_IMAGES + 1])
    except (ValueError, TypeError) as error:
        raise BadImage(number=1) from error
