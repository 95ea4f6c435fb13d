"""What a log's rows become, whatever file they are in: records, and how the columns named by the user lie in them.

A record is a row of numbers, one numpy structure: time, observation, action, reward, terminal, truncated. NaN stands
for what the log does not say.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import polars as pl

from iq_offline.errors import UserError, nearest

UNKNOWN = -1
"""Width of a column in a file that holds nothing there: a number or a vector in each row."""

NULL_TIME = np.iinfo(np.int64).min
"""No time, among whole numbers; numpy's own not-a-time."""


@dataclass(frozen=True)
class Columns:
    """What the columns of a log are."""

    observation: tuple[str, ...]
    action: tuple[str, ...]
    episode: str | None = None
    """None: every file is an episode."""
    time: str | None = None
    """None: rows are in their order already."""
    terminal: str | None = None
    truncated: str | None = None
    reward: str | None = None
    next_observation: str | None = None
    """A prefix: with ``next_``, the column ``next_speed`` holds what ``speed`` became."""

    def fields(self) -> dict[str, tuple[str, ...]]:
        """The columns of numbers behind each field of a record."""
        fields = {"observation": self.observation, "action": self.action}
        if self.next_observation is not None:
            fields["next_observation"] = tuple(self.next_observation + name for name in self.observation)
        for field in ("reward", "terminal", "truncated"):
            name = getattr(self, field)
            if name is not None:
                fields[field] = (name,)
        return fields


class Column(NamedTuple):
    """What a file says of a column."""

    dtype: np.dtype
    """Of its values; objects where they are no numbers."""
    width: int | None = None
    """Of the vector in each row; None for a single value, :data:`UNKNOWN` where every row is null."""
    words: str = ""
    """Its type in the file's own words."""


class Part(NamedTuple):
    """One number of a record: its field and place there, and the column (and its element) that it comes from."""

    field: str
    place: int
    column: str
    element: int | None

    @property
    def name(self) -> str:
        """Such as ``speed`` or ``joints[2]``."""
        return self.column if self.element is None else f"{self.column}[{self.element}]"


@dataclass(frozen=True)
class Layout:
    """How a log's rows become records."""

    columns: Columns
    parts: tuple[Part, ...]
    time: str
    """``none``, ``integer``, ``float`` or ``timestamp`` (nanoseconds)."""
    action_kinds: tuple[str, ...]
    """Kind (numpy's letter: b, i, u or f) of the column behind each number of the action."""
    dtype: np.dtype
    """Of a record."""

    def names(self, field: str) -> list[str]:
        """Name of each number of a field."""
        return [part.name for part in self.parts if part.field == field]

    def empty(self, rows: int) -> np.ndarray:
        """Records in which nothing is known."""
        records = np.zeros(rows, self.dtype)
        for field in ("observation", "next_observation", "action", "reward"):
            if field in (self.dtype.names or ()):
                records[field] = np.nan
        return records


class Batch(NamedTuple):
    """Rows in the order of the file: the episode of each (null where unknown), and their records."""

    episodes: pl.Series
    records: np.ndarray
    file: int = 0
    """Number of the file they are in."""


@runtime_checkable
class LogFile(Protocol):
    """One file of a log."""

    path: Path

    def rows(self) -> int:
        """How many there are."""
        ...

    def column(self, name: str) -> Column:
        """What kind of column that is; one of those that are named as numbers or as the time."""
        ...

    def batches(self, layout: Layout) -> Iterator[Batch]:
        """All rows, in the file's order."""
        ...


def plan(files: Sequence[LogFile], columns: Columns) -> Layout:
    """How the rows of these files become records; every file is asked, none is read.

    Raises:
        UserError: a column is missing, holds no numbers, or differs from file to file.
    """
    parts: list[Part] = []
    kinds: dict[str, list[np.dtype]] = {}
    for field, names in columns.fields().items():
        for name in names:
            column = _agreed(files, name)
            elements = [None] if column.width is None else list(range(column.width))
            place = sum(part.field == field for part in parts)
            parts += [Part(field, place + step, name, element) for step, element in enumerate(elements)]
            kinds.setdefault(field, []).append(column.dtype)
    sizes = {field: sum(part.field == field for part in parts) for field in kinds}
    for field in ("reward", "terminal", "truncated"):
        if sizes.get(field, 1) != 1:
            raise UserError(
                f"--{field} {columns.fields()[field][0]} holds {sizes[field]} numbers in a row: it takes one"
            )
    if sizes.get("next_observation", sizes["observation"]) != sizes["observation"]:
        raise UserError(
            f"the next observations hold {sizes['next_observation']} numbers and the observations "
            f"{sizes['observation']}: their columns differ in length"
        )
    seen = [*kinds["observation"], *kinds.get("next_observation", [])]
    time = _time_kind(files, columns.time)
    fields: list[tuple] = [("time", "f8" if time == "float" else "i8")]
    fields += [("observation", _floating(seen), (sizes["observation"],))]
    fields += [("next_observation", _floating(seen), (sizes["observation"],))] * ("next_observation" in sizes)
    fields += [("action", _floating(kinds["action"]), (sizes["action"],))]
    fields += [("reward", "f8"), ("terminal", "?"), ("truncated", "?")]
    action_kinds = [_agreed(files, part.column).dtype.kind for part in parts if part.field == "action"]
    return Layout(columns, tuple(parts), time, tuple(action_kinds), np.dtype(fields))


def _agreed(files: Sequence[LogFile], name: str) -> Column:
    """The type that holds a column's numbers in every file."""
    found = [file.column(name) for file in files]
    for file, column in zip(files, found, strict=True):
        if column.dtype.kind not in "biuf":
            raise UserError(f"{file.path}: column {name!r} holds no numbers but {column.words}")
        if column.width == 0:
            raise UserError(f"{file.path}: column {name!r} holds empty lists")
    widths = {column.width: file for file, column in zip(files, found, strict=True) if column.width != UNKNOWN}
    if len(widths) > 1:
        (one, here), (other, there) = list(widths.items())[:2]
        raise UserError(
            f"column {name!r} holds {one or 1} numbers a row in {here.path} and {other or 1} in {there.path}: "
            "every row needs the same"
        )
    known = [column.dtype for column in found if column.width != UNKNOWN]
    return Column(np.result_type(*(known or [bool])), next(iter(widths), None))


def _time_kind(files: Sequence[LogFile], name: str | None) -> str:
    if name is None:
        return "none"
    found = [file.column(name) for file in files]
    kinds = {column.dtype.kind for column in found if column.width != UNKNOWN}
    if any(column.width not in (None, UNKNOWN) for column in found):
        raise UserError(f"--time {name} holds vectors: it takes one number or time a row")
    for file, column in zip(files, found, strict=True):
        if column.words.endswith("Int128"):
            raise too_large(file.path, name)
        if column.dtype.kind == "O" and not column.words.startswith("text"):
            what = "numbers, dates and times are read"
            if column.words == "Time":
                what = "a time of day alone does not say which day: combine it with the date into one column"
            raise UserError(f"{file.path}: --time {name} holds {column.words}: {what}")
    if kinds <= set("biuf"):
        return "float" if "f" in kinds else "integer"
    if kinds <= set("MO") or kinds == {"m"}:
        return "timestamp"
    raise UserError(f"--time {name} holds times in one file and numbers in another")


def _floating(dtypes: Sequence[np.dtype]) -> np.dtype:
    """The smallest of float32 and float64 that holds all of these exactly (64-bit integers up to 2**53)."""
    return np.result_type(np.float32, *dtypes)


def too_large(path: Path, name: str) -> UserError:
    """The error for times that are whole numbers of more than 64 bits: rounded, different ones would be the same."""
    return UserError(
        f"{path}: --time {name} holds whole numbers that do not fit in 64 bits: write seconds, or times such as "
        "2024-12-31 23:59:59.5"
    )


def missing(path: Path, name: str, known: Sequence[str]) -> UserError:
    """The error for a column that a file does not have."""
    shown = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
    quoted = "; a name with a comma in it stands in double quotes" if any("," in each for each in known) else ""
    return UserError(f"{path} has no column {name!r}{nearest(name, known) or f' (it has: {shown})'}{quoted}")


def without_blanks(frame: pl.LazyFrame) -> pl.LazyFrame:
    """With blanks around the names of columns gone, as they go around values: ``trip, speed`` names ``speed``."""
    names = frame.collect_schema().names()
    stripped = [name.strip() for name in names]
    return frame.rename(dict(zip(names, stripped, strict=True))) if len(set(stripped)) == len(names) else frame
