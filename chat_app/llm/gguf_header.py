"""The first pages of a GGUF file: what it says of itself, and where its weights lie.

The library that reads whole files takes ten seconds over a large vocabulary; this leaves it out.
"""

import mmap
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_NUMBERS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
# Longer arrays are vocabularies.
_LONG = 1024
_MOST = 10_000
"""Fields, and tensors, of a file that is what it says."""
_MOST_SIDES = 4
_ALIGNMENT = 32


class NotGguf(ValueError):
    """The file is no GGUF file, or is cut off within its header."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """`shape` has the rows first; `kind` is a number of `gguf.GGMLQuantizationType`; `start` is the
    place of its first byte in the file.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int


@dataclass(frozen=True, slots=True)
class Header:
    """Values by their names, long arrays left out, and the tensors."""

    fields: dict[str, Any]
    tensors: tuple[Tensor, ...]


def read(path: Path) -> Header:
    """The header of a file. Raises NotGguf and OSError."""
    with path.open("rb") as file:
        if file.read(4) != _MAGIC:
            raise NotGguf(f"{path.name} is no GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _header(_Cursor(data, 4))
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

    def next(self, alignment: int) -> int:
        """The next place that this divides."""
        return -(-self._at // alignment) * alignment

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


def _header(cursor: _Cursor) -> Header:
    cursor.number("I")  # the version: later ones only added kinds of values
    tensors, count = cursor.number("Q"), cursor.number("Q")
    if max(tensors, count) > _MOST:
        raise IndexError
    fields = {}
    for _ in range(count):
        name = cursor.text()
        if (value := cursor.value(cursor.number("I"))) is not None:
            fields[name] = value
    found = [_tensor(cursor) for _ in range(tensors)]
    alignment = fields.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise IndexError
    weights = cursor.next(alignment)
    return Header(fields, tuple(replace(one, start=weights + one.start) for one in found))


def _tensor(cursor: _Cursor) -> Tensor:
    name, sides = cursor.text(), cursor.number("I")
    if sides > _MOST_SIDES:
        raise IndexError
    shape = tuple(cursor.number("Q") for _ in range(sides))
    return Tensor(name, shape[::-1], kind=cursor.number("I"), start=cursor.number("Q"))
