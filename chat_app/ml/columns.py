"""Reads a table of any columns into numbers: what each column is, and which say nothing.

Numbers, times, truth values and text each become columns of a matrix. A column that only names
its rows (an id) is dropped with its reason, so that it can gain nothing. Knows no target.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chat_app.ml.scores import Floats
from chat_app.revenue.frames import BadFrame

Kind = Literal["number", "flag", "day", "text"]
MISSING = ""
ID_NAME = re.compile(
    r"(^|[_\s.-])(id|ids|uuid|guid|pk|rownum|rownumber|row_number|index|hash)$"
    r"|(?<=[a-z])(Id|ID|Uuid|UUID|Guid|GUID)$"
    r"|^(rownumber|customerid|userid|accountid|email|phone|phonenumber|phone_number|name|surname"
    r"|lastname|last_name|firstname|first_name|unnamed: 0)$",
    re.I,
)
ID_SHARE = 0.5  # text that differs in more than half of the rows names them
ID_LEVELS = 20
ID_ROWS = 1000  # from so many rows on, whole numbers that never repeat are names
MOST_LEVELS = 40
FEW_ROWS = 3
RARE_SHARE = 0.004
PARSED_SHARE = 0.95


@dataclass(frozen=True)
class Column:
    """A column that is used: its name in the table and what it holds."""

    name: str
    kind: Kind


@dataclass(frozen=True)
class Table:
    """A table as numbers (NaN: missing) and texts ("": missing), columns in order of name."""

    columns: tuple[Column, ...]
    values: dict[str, Any]
    rows: int

    def take(self, rows: Any) -> "Table":
        """Only these rows."""
        picked = {name: values[rows] for name, values in self.values.items()}
        return Table(self.columns, picked, len(rows))


def known(frame: Any, name: str = "X") -> pd.DataFrame:
    """The frame with text names in order of name; raises BadFrame for what is no table."""
    if isinstance(frame, np.ndarray) and frame.ndim == 2:
        frame = pd.DataFrame(frame, columns=[f"x{place}" for place in range(frame.shape[1])])
    if not isinstance(frame, pd.DataFrame):
        raise BadFrame(f"{name} must be a pandas DataFrame.", param=name)
    frame = frame.reset_index(drop=True)
    frame.columns = pd.Index([str(column) for column in frame.columns])
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise BadFrame(f"{name} has the column {twice[0]} twice.", param=name, column=twice[0])
    return frame[sorted(frame.columns)]


def learn(frame: pd.DataFrame) -> tuple[tuple[Column, ...], dict[str, str]]:
    """The columns that can say something, and why each other was dropped.

    Reasons: `constant` (one value or none), `id` (names its rows).
    """
    used, dropped = [], {}
    for name in frame.columns:
        kind = _kind(frame[name])
        reason = _useless(name, kind, _read(frame[name], kind))
        if reason:
            dropped[name] = reason
        else:
            used.append(Column(name, kind))
    return tuple(used), dropped


def read(frame: pd.DataFrame, columns: Sequence[Column], name: str = "X") -> Table:
    """The columns as they were learnt; others are ignored. Raises BadFrame when one is missing.

    What cannot be read as its kind, and infinite numbers, count as missing.
    """
    values = {}
    for column in columns:
        if column.name not in frame.columns:
            raise BadFrame(
                f"{name} lacks the column {column.name}.", param=name, column=column.name
            )
        values[column.name] = _read(frame[column.name], column.kind)
    return Table(tuple(columns), values, len(frame))


def _kind(values: "pd.Series[Any]") -> Kind:
    kind = values.dtype
    if pd.api.types.is_bool_dtype(kind):
        return "flag"
    if isinstance(kind, pd.CategoricalDtype):
        return "text"
    if pd.api.types.is_complex_dtype(kind):
        return "text"
    if pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_timedelta64_dtype(kind):
        return "number"
    if pd.api.types.is_datetime64_any_dtype(kind):
        return "day"
    return _kind_of_objects(values)


def _kind_of_objects(values: "pd.Series[Any]") -> Kind:
    there = values[values.notna()]
    there = there[there.map(lambda value: not (isinstance(value, str) and not value.strip()))]
    if there.empty:
        return "text"
    if there.map(lambda value: isinstance(value, bool | np.bool_)).all():
        return "flag"
    if float(_to_numbers(there).notna().mean()) >= PARSED_SHARE:
        return "number"
    words = there.map(str)
    if words.str.match(r"\s*\d{4}-\d\d-\d\d").mean() >= PARSED_SHARE:
        return "day"
    return "text"


def _to_numbers(values: "pd.Series[Any]") -> "pd.Series[Any]":
    plain = values.map(lambda value: value.strip() if isinstance(value, str) else value)
    plain = plain.map(lambda value: value if np.isscalar(value) else _number(value))
    return pd.to_numeric(plain, errors="coerce")


def _number(value: Any) -> float:
    """Decimals and fractions as floats, anything else as missing."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _read(values: "pd.Series[Any]", kind: Kind) -> Any:
    if kind == "text":
        return _words(values)
    found: Floats
    if kind == "day":
        times = pd.to_datetime(values, utc=True, errors="coerce", format="ISO8601")
        epoch = pd.Timestamp(0, tz="UTC")
        found = ((times - epoch) / pd.Timedelta(days=1)).to_numpy(np.float64, na_value=np.nan)
    elif pd.api.types.is_timedelta64_dtype(values.dtype):
        found = (values / pd.Timedelta(days=1)).to_numpy(np.float64, na_value=np.nan)
    elif pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_complex_dtype(
        values.dtype
    ):
        found = values.to_numpy(np.float64, na_value=np.nan)
    else:
        found = _to_numbers(values.astype(object)).to_numpy(np.float64, na_value=np.nan)
    return np.where(np.isfinite(found), found, np.nan)


def _words(values: "pd.Series[Any]") -> NDArray[Any]:
    def word(value: Any) -> str:
        if isinstance(value, float | np.floating) and value == np.floor(value):
            return str(int(value)) if np.isfinite(value) else MISSING
        return str(value).strip()

    plain = values.astype(object)
    there = plain.notna().to_numpy()
    words = np.empty(len(plain), dtype=object)
    words[:] = MISSING
    words[there] = [word(value) for value in plain[there]]
    return words


def _useless(name: str, kind: Kind, values: Any) -> str | None:
    there = values[values != MISSING] if kind == "text" else values[~np.isnan(values)]
    distinct = len(np.unique(there.astype(str) if kind == "text" else there))
    if distinct == 0 or (distinct == 1 and len(there) == len(values)):
        return "constant"
    named = bool(ID_NAME.search(name)) and distinct > max(ID_LEVELS, ID_SHARE * len(there))
    if kind == "text":
        repeats = distinct > ID_LEVELS and distinct > ID_SHARE * len(there)
        return "id" if named or repeats else None
    if kind != "number" or not (there == np.floor(there)).all():
        return None
    dense = float(there.max() - there.min()) < 2 * distinct and distinct >= ID_LEVELS
    alone = distinct == len(there) and (dense or len(there) >= ID_ROWS)
    return "id" if named or alone else None


@dataclass
class Encoder:
    """Turns a table into a matrix; levels, middles and spreads come from the rows it is fitted to.

    Numbers stay themselves (NaN: missing) with a column that says so where some are missing; each
    common level of a text has a column of 0 and 1. `source[j]` is the table's column behind j.
    """

    columns: tuple[Column, ...] = ()
    levels: dict[str, list[str]] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    source: list[int] = field(default_factory=list)
    middle: Floats = field(default_factory=lambda: np.empty(0))

    @classmethod
    def fit(cls, table: Table) -> "Encoder":
        """Learn from these rows alone."""
        made = cls(table.columns)
        least = max(FEW_ROWS, int(np.ceil(RARE_SHARE * table.rows)))
        for place, column in enumerate(table.columns):
            values = table.values[column.name]
            if column.kind == "text":
                made._levels(place, column.name, values, least)
                continue
            made._add(place, column.name)
            missing = int(np.isnan(values).sum())
            if least <= missing <= table.rows - least:
                made.gaps.append(column.name)
                made._add(place, f"{column.name} is missing")
        matrix = made.matrix(table)
        known = ~np.isnan(matrix)
        middle = np.zeros(matrix.shape[1])
        for j in range(matrix.shape[1]):
            if known[:, j].any():
                middle[j] = np.median(matrix[known[:, j], j])
        made.middle = middle
        return made

    def _add(self, place: int, name: str) -> None:
        self.names.append(name)
        self.source.append(place)

    def _levels(self, place: int, name: str, values: Any, least: int) -> None:
        words, counts = np.unique(values.astype(str), return_counts=True)
        ranked = sorted(zip(words.tolist(), counts.tolist(), strict=True),
                        key=lambda pair: (-pair[1], pair[0]))  # fmt: skip
        common = [word for word, count in ranked if count >= least][:MOST_LEVELS]
        if len(common) == len(ranked) == 2:
            common = common[1:]  # one column says it all
        self.levels[name] = common
        for word in common:
            self._add(place, f"{name} = {word or '(missing)'}")

    def matrix(self, table: Table) -> Floats:
        """Rows × columns; NaN where a number is missing."""
        parts = []
        for column in self.columns:
            values = table.values[column.name]
            if column.kind == "text":
                for word in self.levels[column.name]:
                    parts.append((values == word).astype(np.float64))
                continue
            parts.append(values)
            if column.name in self.gaps:
                parts.append(np.isnan(values).astype(np.float64))
        if not parts:
            return np.zeros((table.rows, 0))
        found: Floats = np.column_stack(parts)
        return found

    def filled(self, matrix: Floats) -> Floats:
        """The matrix with the middle of its column for what is missing."""
        found: Floats = np.where(np.isnan(matrix), self.middle, matrix)
        return found

    def to_params(self) -> dict[str, Any]:
        """Plain data for `from_params`."""
        return {
            "columns": [[column.name, column.kind] for column in self.columns],
            "levels": self.levels,
            "gaps": self.gaps,
            "names": self.names,
            "source": self.source,
            "middle": self.middle.tolist(),
        }

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> "Encoder":
        """What `to_params` wrote."""
        columns = tuple(Column(name, kind) for name, kind in params["columns"])
        middle = np.array(params["middle"], dtype=np.float64)
        return cls(
            columns, params["levels"], params["gaps"], params["names"], params["source"], middle
        )
