"""What the page sends, which may be anything: text, images, who pays."""

import base64
import json
import re
from dataclasses import dataclass

from chat_app.chat.images import BadImage

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

    `count` is how many images there are, also where only that was sent.
    """

    files: tuple[bytes, ...] = ()
    count: int = 0
    editing: str = ""
    against: str = ""


def extras(value: object) -> Extras:
    """The page sends images alone, or JSON with `images`, `editing` and `against`."""
    try:
        given = json.loads(value) if isinstance(value, str) and value[:1] == "{" else None
    except (ValueError, RecursionError) as error:
        raise BadImage(number=1) from error
    if not isinstance(given, dict):
        return Extras(count=_count(value)) if isinstance(value, int) else _files(value, {})
    shown = given.get("images")
    if isinstance(shown, int):
        return Extras((), _count(shown), text(given.get("editing"))[:64], _model(given))
    return _files(json.dumps(shown) if shown else "", given)


def _files(value: object, given: dict[str, object]) -> Extras:
    found = files(value)
    return Extras(tuple(found), len(found), text(given.get("editing"))[:64], _model(given))


def _count(value: int) -> int:
    return value if 0 <= value <= MOST_IMAGES else 0


def _model(given: dict[str, object]) -> str:
    return text(given.get("against"))[:128]


def files(value: object) -> list[bytes]:
    """The images that the page sends: JSON with a list of files in base64."""
    if not isinstance(value, str) or not value:
        return []
    try:
        items = json.loads(value)
        return [base64.b64decode(item, validate=True) for item in items[: MOST_IMAGES + 1]]
    except (ValueError, TypeError, RecursionError) as error:
        raise BadImage(number=1) from error
