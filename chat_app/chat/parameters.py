"""Parameters: how the answers of a conversation are written, as its owner wishes.

What is left out is the model's own. Knows no model and no price.
"""

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from chat_app.errors import Invalid

MAX_SYSTEM_CHARACTERS = 8_000
MAX_TEMPERATURE = 2.0
MAX_NUMBER = 2**31 - 1


class BadParameters(Invalid):
    """A parameter is out of its range; `param` names it."""

    code = "bad_parameters"
    message = (
        "A temperature is 0 to 2, top_p above 0 and at most 1, a seed and a length whole numbers, "
        "and a system prompt has at most 8,000 characters. Correct it and try again."
    )


@dataclass(frozen=True)
class Parameters:
    """None is the model's own. `system` takes the place of its system prompt."""

    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None

    @property
    def any(self) -> bool:
        """Whether anything is set."""
        return self != Parameters()

    def over(self, base: "Parameters") -> "Parameters":
        """These, and where they say nothing what `base` says."""
        mine = self.as_json()
        return Parameters(**{**base.as_json(), **mine})

    def as_json(self) -> dict[str, Any]:
        """What is set, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def dump(self) -> str:
        """For a text column; empty when nothing is set."""
        return json.dumps(self.as_json(), ensure_ascii=False, sort_keys=True) if self.any else ""


NONE = Parameters()


def checked(parameters: Parameters) -> Parameters:
    """The same in its plain form: a blank system prompt is none. Raises BadParameters."""
    system = parameters.system
    if system is not None:
        _require("system", len(system) <= MAX_SYSTEM_CHARACTERS and _storable(system))
        system = system if system.strip() else None
    for name, low, high in (("temperature", 0.0, MAX_TEMPERATURE), ("top_p", 0.0, 1.0)):
        value = getattr(parameters, name)
        if value is not None:
            _require(name, type(value) in (int, float) and math.isfinite(value))
            _require(name, low <= value <= high and (name != "top_p" or value > 0))
    for name, least in (("seed", 0), ("max_tokens", 1)):
        value = getattr(parameters, name)
        _require(name, value is None or (type(value) is int and least <= value <= MAX_NUMBER))
    return Parameters(
        system=system,
        temperature=None if parameters.temperature is None else float(parameters.temperature),
        top_p=None if parameters.top_p is None else float(parameters.top_p),
        seed=parameters.seed,
        max_tokens=parameters.max_tokens,
    )


def load(text: str) -> Parameters:
    """What `dump` wrote. Names that a newer program wrote are left out."""
    if not text:
        return Parameters()
    known = {field.name for field in fields(Parameters)}
    return Parameters(**{name: item for name, item in json.loads(text).items() if name in known})


def from_page(value: object) -> Parameters:
    """What a page sent, which may be anything. Raises BadParameters."""
    if not isinstance(value, dict):
        return Parameters()
    known = {field.name for field in fields(Parameters)}
    given = {str(name): item for name, item in value.items() if item is not None}
    _require("settings", given.keys() <= known)
    _require("system", isinstance(given.get("system", ""), str))
    return checked(Parameters(**given))


def _storable(text: str) -> bool:
    return "\x00" not in text and not any("\ud800" <= mark <= "\udfff" for mark in text)


def _require(name: str, fine: bool) -> None:
    if not fine:
        raise BadParameters(param=name)
