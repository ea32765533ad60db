"""What a handler is given has the type that it asks for, whatever a program has sent.

The page itself always sends the right type. Knows the annotations of handlers, nothing of what
they do.
"""

import math
import types
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, Union, get_args, get_origin

import gradio as gr

MAX_PRESSED = 200
_MOST = 2**53


def fitter(handler: Callable[..., Any]) -> Callable[[Sequence[Any]], list[Any]]:
    """Makes a handler's inputs fit its parameters after the first, which is the user."""
    kinds = [item.annotation for item in list(signature(handler).parameters.values())[1:]]

    def fit(values: Sequence[Any]) -> list[Any]:
        known = [*kinds, *[Any] * (len(values) - len(kinds))]
        return [fitted(value, kind) for value, kind in zip(values, known, strict=False)]

    return fit


def fitted(value: Any, kind: Any) -> Any:
    """The value if it is of this kind, else the nearest thing, which is often nothing."""
    if isinstance(value, gr.EventData):
        value._data = _pressed(value._data)
        return value
    if get_origin(kind) in (Union, types.UnionType):
        of = [option for option in get_args(kind) if option is not type(None)]
        return fitted(value, of[0]) if len(of) == 1 and _is(value, of[0]) else _or_none(value, of)
    if _is(value, kind):
        return [item for item in value if _is(item, str)] if kind == list[str] else value
    return _NOTHING[kind](value) if kind in _NOTHING else value


def _text(value: Any) -> str:
    return str(value) if isinstance(value, (int, float, bool)) else ""


def _number(value: Any) -> float:
    whole = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if whole and math.isfinite(value) else 0.0


_NOTHING: dict[Any, Callable[[Any], Any]] = {
    str: _text,
    float: _number,
    int: lambda _value: 0,
    bool: lambda _value: False,
    list[str]: lambda _value: [],
    list[Any]: lambda _value: [],
}


def _is(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if kind is float:
        return isinstance(value, float) and _number(value) == value
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MOST
    plain = get_origin(kind) or kind
    return isinstance(value, plain) if isinstance(plain, type) else True


def _or_none(value: Any, options: list[Any]) -> Any:
    return value if any(_is(value, option) for option in options) else None


def _pressed(data: Any) -> dict[str, Any]:
    """What the page says was pressed: a few names with short plain values."""
    if not isinstance(data, dict):
        return {}
    plain = {name: item for name, item in data.items() if isinstance(item, (str, int, bool))}
    return {
        name: item[:MAX_PRESSED] if isinstance(item, str) else item for name, item in plain.items()
    }
