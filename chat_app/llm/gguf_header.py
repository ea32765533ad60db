"""The first pages of a GGUF file: what it says of itself, without its vocabulary or weights.

The library that reads whole files takes seconds over a large vocabulary; this takes none.
"""

import mmap
import struct
from pathlib import Path
from typing import Any

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_NUMBERS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
# Longer arrays are vocabularies.
_LONG = 1024
_MAX_FIELDS = 10_000


class NotGguf(ValueError):
    """The file is no GGUF file, or is cut off within its header."""


def read(path: Path) -> dict[str, Any]:
    """Names and values of the header, long arrays left out. Raises NotGguf and OSError."""
    with path.open("rb") as file:
        if file.read(4) != _MAGIC:
            raise NotGguf(f"{path.name} is no GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _fields(_Cursor(data, 4))
            except (struct.error, IndexError, KeyError, UnicodeDecodeError) as error:
                raise NotGguf(f"the header of {path.name} is damaged") from error


class _Cursor:
    def __init__(self, data: mmap.mmap, at: int) -> None:
        self._data = data
        self._at = at

    def number(self, kind: str) -> Any:
        (value,) = struct.unpack_from(f"<{kind}", self._data, self._at)
        self._at += struct.calcsize(f"<{kind}")
        return value

    def skip(self, length: int) -> None:
        self._at += length
        if self._at > len(self._data):
            raise IndexError

    def text(self) -> str:
        length, begin = self.number("Q"), self._at
        self.skip(length)
        return self._data[begin : self._at].decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self.array()
        return self.number(_NUMBERS[kind])

    def array(self) -> list[Any] | None:
        kind, count = self.number("I"), self.number("Q")
        if count <= _LONG:
            return [self.value(kind) for _ in range(count)]
        if kind == _STRING:
            for _ in range(count):
                self.skip(self.number("Q"))
        else:
            self.skip(count * struct.calcsize(_NUMBERS[kind]))
        return None


def _fields(cursor: _Cursor) -> dict[str, Any]:
    cursor.number("I")  # the version: later ones only added kinds of values
    cursor.number("Q")
    count = min(cursor.number("Q"), _MAX_FIELDS)
    found = {}
    for _ in range(count):
        name = cursor.text()
        if (value := cursor.value(cursor.number("I"))) is not None:
            found[name] = value
    return found
