"""A fitted model as files that run nothing: JSON, and LightGBM's own text beside it.

Every model that the registry keeps has `to_files()`, which gives names and bytes, and
`from_files(files)`, which makes the same model of them. Trees of scikit-learn are written as
their arrays, so nothing here or anywhere else is ever unpickled. Knows no folder and no key.
"""

import json
from collections.abc import Mapping
from typing import Any, Protocol, Self

PARAMS = "params.json"
ROWS = "rows.json"
_BOOSTER = "tree\n"  # how LightGBM's text begins
_FILE = "$file"

Files = Mapping[str, bytes]


class Keepable(Protocol):
    """What the registry asks of a model. Names of files are plain: letters, digits, `.-_`."""

    def to_files(self) -> dict[str, bytes]:
        """The fitted model as files."""
        ...

    @classmethod
    def from_files(cls, files: Files) -> Self:
        """The model that `to_files` wrote; predicts the same."""
        ...


def pack(params: Mapping[str, Any], rows: Mapping[str, Any] | None = None) -> dict[str, bytes]:
    """Parameters as `params.json`, each LightGBM text in them as a file `model-N.txt`.

    `rows` are the data that a model goes on knowing, in a file of their own.
    """
    files: dict[str, bytes] = {}

    def part(value: Any) -> Any:
        if isinstance(value, str) and value.startswith(_BOOSTER):
            name = f"model-{len(files) + 1}.txt"
            files[name] = value.encode()
            return {_FILE: name}
        if isinstance(value, Mapping):
            return {str(key): part(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [part(item) for item in value]
        return value

    plain = part(params)
    files[PARAMS] = _json(plain)
    if rows is not None:
        files[ROWS] = _json(rows)
    return files


def unpack(files: Files) -> dict[str, Any]:
    """The parameters that `pack` was given."""

    def part(value: Any) -> Any:
        if isinstance(value, dict):
            if set(value) == {_FILE}:
                return files[value[_FILE]].decode()
            return {key: part(item) for key, item in value.items()}
        if isinstance(value, list):
            return [part(item) for item in value]
        return value

    found: dict[str, Any] = part(json.loads(files[PARAMS]))
    return found


def rows(files: Files) -> dict[str, Any] | None:
    """The data that `pack` was given, if it was given any."""
    found: dict[str, Any] | None = json.loads(files[ROWS]) if ROWS in files else None
    return found


def keys(values: Any) -> dict[str, Any] | None:
    """Keys of people or things as JSON with their kind; None where they are no plain ones."""
    listed = values.tolist()
    if not all(isinstance(key, str | int | float) for key in listed):
        return None
    kind = str(values.dtype)
    return {"kind": "object" if kind == "category" else kind, "values": listed}


def _json(value: Any) -> bytes:
    return json.dumps(value, default=_plain, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy as Python's own."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no plain value")
