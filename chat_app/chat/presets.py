"""Presets: parameters under a name. A few are built in, the others are a user's own."""

from dataclasses import dataclass

from sqlmodel import Session, col, delete, func, select

from chat_app.chat import parameters
from chat_app.chat.answer_tables import Preset
from chat_app.chat.parameters import Parameters
from chat_app.errors import Conflict, Invalid, NotFound
from chat_app.ids import new_id

MAX_NAME = 60
MAX_PRESETS = 50


class PresetNotFound(NotFound):
    """No such preset of this user, or a built-in one."""

    code = "preset_not_found"
    message = "This preset does not exist any more. Choose another one or save a new one."


class TooManyPresets(Conflict):
    """A user has the most presets that one may have."""

    code = "too_many_presets"
    message = "You have 50 presets, which is the most. Delete one and save again."


class BadPresetName(Invalid):
    """No name, a very long one, or that of a built-in preset."""

    code = "bad_preset_name"
    message = (
        "A preset's name has 1 to 60 characters and is none of the built-in ones. "
        "Choose another name."
    )


@dataclass(frozen=True)
class PresetRow:
    """A preset as it is shown."""

    id: str
    name: str
    settings: Parameters
    built_in: bool = False


BUILT_IN = (
    PresetRow("precise", "Precise", Parameters(temperature=0.2, top_p=0.9), built_in=True),
    PresetRow("balanced", "Balanced", Parameters(temperature=0.7, top_p=0.95), built_in=True),
    PresetRow("creative", "Creative", Parameters(temperature=1.1, top_p=0.98), built_in=True),
)


def list_for(session: Session, *, user_id: int) -> list[PresetRow]:
    """The built-in ones, then the user's own by name."""
    rows = session.exec(select(Preset).where(Preset.user_id == user_id).order_by(Preset.name)).all()
    return [*BUILT_IN, *(_row(row) for row in rows)]


def save(session: Session, *, user_id: int, name: str, settings: Parameters, now: int) -> PresetRow:
    """Keep parameters under a name; the user's preset of that name is replaced.

    Raises BadPresetName, BadParameters or TooManyPresets. `now` in µs.
    """
    name = " ".join(name.split())
    taken = {preset.name.casefold() for preset in BUILT_IN}
    if not 1 <= len(name) <= MAX_NAME or name.casefold() in taken:
        raise BadPresetName(param="name")
    text = parameters.checked(settings).dump()
    row = session.exec(select(Preset).where(Preset.user_id == user_id, Preset.name == name)).first()
    if row is None:
        count = session.exec(
            select(func.count()).select_from(Preset).where(Preset.user_id == user_id)
        ).one()
        if count >= MAX_PRESETS:
            raise TooManyPresets
        row = Preset(id=new_id("pre"), user_id=user_id, name=name, created_at=now)
    row.settings = text
    session.add(row)
    session.flush()
    return _row(row)


def drop(session: Session, *, user_id: int, preset_id: str) -> None:
    """Delete a preset of the user; raises PresetNotFound."""
    gone = session.execute(
        delete(Preset).where(col(Preset.id) == preset_id, col(Preset.user_id) == user_id)
    ).rowcount  # type: ignore[attr-defined]
    if not gone:
        raise PresetNotFound


def _row(row: Preset) -> PresetRow:
    return PresetRow(row.id, row.name, parameters.load(row.settings))
