"""Reading logs: Parquet, CSV, NDJSON and npz files become batches of records, never whole in memory."""

import glob
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from iq_offline.data.log_paths import find_files, kind_of
from iq_offline.data.log_records import (
    NULL_TIME,
    UNKNOWN,
    Batch,
    Column,
    Columns,
    Layout,
    LogFile,
    missing,
    too_large,
    without_blanks,
)
from iq_offline.errors import UserError

PolarsType = Any
"""A ``pl.DataType``, whose name is not its repr: the tests' checks of annotations refuse it."""
BATCH_ROWS = 50_000
NULLS = ["", "NA", "N/A", "n/a", "null", "NULL", "None", "NaN", "nan"]
"""What stands for no value in a CSV file, which has no other way to say it."""

ISO_8601 = r"^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2})(?::(\d{2})(?:[.,](\d+))?)?(Z|[+-]\d{2}(?::?\d{2})?)?)?$"
"""Day, minute, second, fraction and zone of a time."""
YEARS = (1678, 2261)
"""That 64 bits of nanoseconds hold whole."""

NOT_JSON = re.compile(r"at character \d+ \('[NI]'\)")
"""In polars' error for words that Python's json writes, and no other reader knows."""


def open_files(sources: Sequence[str], columns: Columns) -> list[LogFile]:
    """The files behind paths, globs and folders, all of one kind, in the order of the numbers in their names.

    Raises:
        UserError: nothing there, several kinds, a kind that is not read, or files that would be left out unsaid.
    """
    paths = find_files(sources)
    kinds = {kind_of(path) for path in paths}
    if len(kinds) > 1:
        raise UserError(f"{' and '.join(sorted(kinds))} files at once: give files of one kind")
    if kinds == {"npz"}:
        return [ArrayFile(path, columns) for path in paths]
    zoned: set[bool] = set()
    return [TableFile(path, number, columns, zoned) for number, path in enumerate(paths)]


def _flags(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    """True where a 1 stands; null is no flag."""
    odd = values[~((values == 0) | (values == 1) | np.isnan(values))]
    if len(odd):
        raise UserError(f"{path}: column {name!r} holds {odd[0]:g}; a flag is true or false, 1 or 0")
    return values == 1


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """One line for a file that cannot be read."""
    try:
        yield
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, pl.exceptions.PolarsError) as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        remedy = " (NaN and Infinity are not JSON: write null)" * bool(NOT_JSON.search(words[0]))
        raise UserError(f"{path} cannot be read as {kind_of(path)}: {words[0]}{remedy}") from error


class TableFile:
    """A Parquet, CSV or NDJSON file, read through polars' streaming engine.

    Args:
        path: of the file.
        number: of the file in the log.
        columns: what is read of it.
        zoned: whether times have a zone, as far as the log's files have been read; shared by all of them.
    """

    def __init__(self, path: Path, number: int, columns: Columns, zoned: set[bool]) -> None:
        self.path = path
        self._number = number
        self._text = kind_of(path) == "CSV"
        self._zoned = zoned
        with _readable(path):
            match kind_of(path):
                case "Parquet":
                    self._frame = pl.scan_parquet(path, glob=False)
                case "CSV":  # As text: polars would read the whole file into memory to find the types of its columns.
                    self._frame = without_blanks(pl.scan_csv(path, infer_schema=False, null_values=NULLS, glob=False))
                case _:  # It has no glob=False: log[1].ndjson would be log1.ndjson.
                    self._frame = pl.scan_ndjson(glob.escape(str(path)), infer_schema_length=None)
            self._schema = dict(self._frame.collect_schema())
        numbers = dict.fromkeys(name for names in columns.fields().values() for name in names)
        if columns.time is not None:
            numbers[columns.time] = None
        for name in (*numbers, columns.episode):
            if name is not None and name not in self._schema:
                raise missing(path, name, list(self._schema))
            if self._text and f"{name}_duplicated_0" in self._schema:  # What polars calls the second.
                raise UserError(f"{path} has two columns {name!r}: rename one of them")
        if columns.episode is not None and self._schema[columns.episode].is_nested():
            raise _no_name(path, columns.episode, str(self._schema[columns.episode]))
        with _readable(path):
            if self._text:
                self._rows, types = self._types_of_text(list(numbers), columns.time)
                self._schema |= types
            else:
                self._rows = self._frame.select(pl.len()).collect(engine="streaming").item()
            self._columns = {name: self._look(name) for name in numbers}

    def rows(self) -> int:
        """How many there are."""
        return self._rows

    def column(self, name: str) -> Column:
        """What kind of column that is."""
        return self._columns[name]

    def _look(self, name: str) -> Column:
        dtype = self._schema[name]
        if isinstance(dtype, pl.List | pl.Array):
            return self._vector(name, dtype)
        if dtype == pl.Null:
            return Column(np.dtype(bool), UNKNOWN)
        found = _numpy_type(dtype)
        return Column(found, words=self._words(name, dtype) if found.kind == "O" else str(dtype))

    def _words(self, name: str, dtype: PolarsType) -> str:
        """What a column holds that are no numbers, with the first of them."""
        if dtype != pl.String:
            return str(dtype)
        number = pl.col(name).str.strip_chars().cast(pl.Float64, strict=False)
        rows = self._frame.select(name).with_row_index(f"row of {name}", 1)
        first = rows.filter(pl.col(name).is_not_null() & number.is_null()).head(1).collect(engine="streaming")
        return f"text (String), {first[name][0]!r} in row {first[:, 0][0]}" if len(first) else "text (String)"

    def _types_of_text(self, names: list[str], time: str | None) -> tuple[int, dict[str, PolarsType]]:
        """The rows, and what all words of a column can be read as: whole numbers, numbers, booleans, or else text."""
        types = (pl.Int64(), pl.Float64(), pl.Boolean(), pl.String())
        times = pl.lit(None, pl.String) if time is None else pl.col(time).str.strip_chars()
        too_many = times.str.contains(r"^[+-]?\d+$") & times.cast(pl.Int64, strict=False).is_null()
        counts = [pl.len(), too_many.any().alias("too large")]
        for name in names:
            text = pl.col(name).str.strip_chars()
            readings = (
                text.cast(pl.Int64, strict=False).is_not_null(),
                text.cast(pl.Float64, strict=False).is_not_null(),
                text.str.to_lowercase().is_in(["true", "false"]),
                text.is_not_null(),
            )
            counts += [reading.sum().alias(f"{name} {number}") for number, reading in enumerate(readings)]
        rows, wrong, *found = self._frame.select(counts).collect(engine="streaming").row(0)
        if wrong:
            raise too_large(self.path, str(time))
        result: dict[str, PolarsType] = {}
        for name, *fits, known in zip(names, *(found[number::4] for number in range(4)), strict=True):
            result[name] = types[[*fits, known].index(known)] if known else pl.Null()
        return rows, result

    def _vector(self, name: str, dtype: PolarsType) -> Column:
        inner = _numpy_type(dtype.inner)
        if inner.kind not in "biuf":
            raise UserError(f"{self.path}: column {name!r} holds {dtype}; vectors of numbers are read")
        if isinstance(dtype, pl.Array):
            return Column(inner, dtype.size)
        length = pl.col(name).list.len()
        ends = self._frame.select(length.min().alias("least"), length.max().alias("most")).collect(engine="streaming")
        least, most = ends.row(0)
        if least is None:
            return Column(inner, UNKNOWN)
        if least != most:
            raise UserError(
                f"{self.path}: column {name!r} holds {least} to {most} numbers a row; every row needs the same"
            )
        return Column(inner, most)

    def _number_of(self, name: str, index: int | None) -> pl.Expr:
        dtype, value = self._schema[name], pl.col(name)
        if name in self._columns and self._columns[name].width == UNKNOWN:
            return pl.when(value.is_null()).then(None)
        if index is not None:
            return value.arr.get(index) if isinstance(dtype, pl.Array) else value.list.get(index, null_on_oob=True)
        if self._text:
            text = value.str.strip_chars()
            return text.str.to_lowercase() == "true" if dtype == pl.Boolean else text.cast(dtype)
        return value

    def batches(self, layout: Layout) -> Iterator[Batch]:
        """All rows, in the file's order."""
        columns = layout.columns
        wanted = []
        for number, part in enumerate(layout.parts):
            size = pl.Float32 if _field_type(layout, part.field) == np.float32 else pl.Float64
            value = self._number_of(part.column, part.element).cast(size).fill_null(float("nan"))
            wanted.append(value.alias(f"part {number}"))
        if columns.episode is not None:
            wanted.append(pl.col(columns.episode).alias("episode"))
        if columns.time is not None:
            text = self._text and layout.time == "timestamp"
            time = pl.col(columns.time) if text else self._number_of(columns.time, None)
            wanted.append(time.alias("time"))
        with _readable(self.path):
            for frame in self._frame.select(wanted).collect_batches(chunk_size=BATCH_ROWS, maintain_order=True):
                for start in range(0, frame.height, BATCH_ROWS):  # The size is a wish that the engine need not fulfil.
                    yield self._records(frame.slice(start, BATCH_ROWS), layout)

    def _records(self, frame: pl.DataFrame, layout: Layout) -> Batch:
        records = layout.empty(frame.height)
        for number, part in enumerate(layout.parts):
            values = frame[f"part {number}"].to_numpy()
            if part.field in ("terminal", "truncated"):
                records[part.field] = _flags(self.path, part.column, values)
            elif part.field == "reward":
                records["reward"] = values
            else:
                records[part.field][:, part.place] = values
        if layout.time != "none":
            records["time"] = self._times(frame["time"], layout)
        if layout.columns.episode is None:
            return Batch(pl.repeat(self._number, frame.height, eager=True), records)
        return Batch(frame["episode"], records)

    def _times(self, values: pl.Series, layout: Layout) -> np.ndarray:
        if layout.time == "float":
            return values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        if layout.time == "timestamp" and values.dtype != pl.Null:
            if values.dtype == pl.String:
                values = self._parsed(values, str(layout.columns.time))
            elif values.dtype == pl.Date:
                values = values.cast(pl.Datetime("ns"))
            else:
                self._note_zones({getattr(values.dtype, "time_zone", None) is not None}, str(layout.columns.time))
            values = values.dt.cast_time_unit("ns").to_physical()
        times = values.cast(pl.Int64, strict=False)
        if times.null_count() > values.null_count():
            raise too_large(self.path, str(layout.columns.time))
        return times.fill_null(NULL_TIME).to_numpy()

    def _parsed(self, words: pl.Series, name: str) -> pl.Series:
        """Dates and times out of text: ISO 8601 and nothing else, for 1/2/2024 is a day in January or in February."""
        parts = words.str.strip_chars().str.extract_groups(ISO_8601).struct.unnest()
        day, minute, second, fraction, zone = map(pl.col, parts.columns)
        text = pl.format(
            "{} {}:{}.{}{}",
            day,
            minute.fill_null("00:00"),
            second.fill_null("00"),
            fraction.fill_null("").str.pad_end(9, "0").str.head(9),
            zone.fill_null("Z").replace("Z", "+0000").str.replace(":", "").str.pad_end(5, "0"),
        )
        known = day.str.head(4).cast(pl.Int32, strict=False).is_between(*YEARS)
        time = text.str.to_datetime("%Y-%m-%d %H:%M:%S%.9f%z", time_unit="ns", strict=False)
        times = parts.select(pl.when(known).then(time)).to_series()
        bad = words.filter(words.is_not_null() & times.is_null())
        if len(bad):
            raise UserError(
                f"{self.path}: {bad[0]!r} in column {name!r} is no ISO 8601 time, such as 2024-12-31 23:59:59.5 or "
                f"2024-12-31T23:59:59+01:00, of the years {YEARS[0]} to {YEARS[1]}"
            )
        self._note_zones(set(parts.filter(day.is_not_null()).select(zone.is_not_null().unique()).to_series()), name)
        return times

    def _note_zones(self, found: set[bool], name: str) -> None:
        """Stop where times with a zone meet times without, in whichever of the files."""
        self._zoned |= found
        if len(self._zoned) > 1:
            raise UserError(
                f"{self.path}: in this file or beside those before it, column {name!r} holds times with a zone and "
                "times without, and nothing says which is first: give all of them one, such as +01:00, or none"
            )


def _no_name(path: Path, name: str, what: str) -> UserError:
    """The error for a column that cannot tell episodes apart."""
    return UserError(f"{path}: --episode {name} holds {what}: it takes one value a row, a number, a word or a date")


def _field_type(layout: Layout, field: str) -> np.dtype:
    return layout.dtype[field].base if field in ("observation", "next_observation", "action") else np.dtype(np.float64)


def _numpy_type(dtype: PolarsType) -> np.dtype:
    """The numpy type of a column's values; objects stand for what is no number."""
    if dtype == pl.Null:
        return np.dtype(bool)
    if str(dtype).endswith("Int128"):  # numpy has none.
        return np.dtype("O")
    if dtype == pl.Boolean or dtype.is_integer() or dtype.is_float():
        return pl.Series([], dtype=dtype).to_numpy().dtype
    if dtype.is_decimal():
        return np.dtype(np.float64)
    return np.dtype("M8[ns]" if dtype in (pl.Date, pl.Datetime) else "m8[ns]" if dtype == pl.Duration else "O")


class ArrayFile:
    """An npz file of arrays of one length: an episode, or rows of several with a column that tells them apart.

    In a file that is an episode, actions, rewards and flags may be one shorter than the observations, as Minari has
    them: the last row has no action then, and the flag of a step stands on the row that it led to.
    """

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path = path
        self._columns = columns
        self._shapes: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
        with _readable(path), self._open() as archive:
            names = [name for field in columns.fields().values() for name in field]
            for name in (*names, columns.episode, columns.time):
                if name is not None:
                    array = self._array(archive, name)
                    self._shapes[name] = array.dtype, array.shape
        longest = self.rows()
        behind = columns.fields().keys() - {"observation", "next_observation"}
        steps = {name for field in behind for name in columns.fields()[field]} if columns.episode is None else set()
        for name, (dtype, shape) in self._shapes.items():
            if len(shape) not in (1, 2):
                raise UserError(f"{path}: {name!r} has shape {shape}: arrays of one or two dimensions are read")
            if name == columns.episode and (len(shape) == 2 or dtype.kind not in "biufMmUS"):
                raise _no_name(path, name, f"{dtype} in {shape}")
            if shape[0] not in (longest, longest - (name in steps)):
                raise UserError(
                    f"{path}: {name!r} has shape {shape}, {columns.observation[0]!r} has {longest} rows: arrays of "
                    "one length are read"
                )

    def _open(self) -> np.lib.npyio.NpzFile:
        archive = np.load(self.path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UserError(f"{self.path} is no npz file: it holds a single array")
        return archive

    def _array(self, archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
        if name not in archive.files:
            raise missing(self.path, name, archive.files)
        values = archive[name]
        if values.dtype.kind != "f" or values.dtype.itemsize <= 8:
            return values
        with np.errstate(over="ignore"):
            return values.astype(np.float64)  # JSON, polars and torch know no wider ones.

    def rows(self) -> int:
        """How many there are."""
        shape = self._shapes[self._columns.observation[0]][1]
        return shape[0] if shape else 0

    def column(self, name: str) -> Column:
        """What kind of column that is."""
        dtype, shape = self._shapes[name]
        width = shape[1] if len(shape) == 2 else None
        return Column(dtype if dtype.kind in "biufMm" else np.dtype("O"), width, str(dtype))

    def batches(self, layout: Layout) -> Iterator[Batch]:
        """All rows, in the file's order."""
        rows, columns = self.rows(), self._columns
        records = layout.empty(rows)
        with _readable(self.path), self._open() as archive:
            for part in layout.parts:
                values = self._array(archive, part.column)
                values = values if part.element is None else values[:, part.element]
                if part.field in ("terminal", "truncated"):
                    flags = _flags(self.path, part.column, values.astype(np.float64))
                    records[part.field][rows - len(flags) :] = flags
                elif part.field == "reward":
                    records["reward"][: len(values)] = values
                else:
                    records[part.field][: len(values), part.place] = values
            if columns.time is not None:
                times = self._array(archive, columns.time)
                if times.dtype.kind in "Mm":
                    whole = times.astype(f"{times.dtype.kind}8[ns]")
                    wrapped = times[(whole.astype(times.dtype) != times) & ~np.isnat(times)]
                    if len(wrapped):
                        raise UserError(
                            f"{self.path}: {wrapped[0]} in {columns.time!r} is of none of the years {YEARS[0]} to "
                            f"{YEARS[1]}"
                        )
                    times = whole.view(np.int64)
                elif layout.time == "timestamp":
                    raise UserError(f"{self.path}: column {columns.time!r} holds text; times are numbers or datetime64")
                elif times.dtype == np.uint64 and (times > np.iinfo(np.int64).max).any():
                    raise too_large(self.path, columns.time)
                records["time"] = times
            if columns.episode is None:
                episodes = pl.repeat(str(self.path), rows, eager=True)
            else:
                names = self._array(archive, columns.episode)
                episodes = pl.Series(names.astype(f"{names.dtype.kind}8[ns]") if names.dtype.kind in "Mm" else names)
        for start in range(0, rows, BATCH_ROWS):
            yield Batch(episodes.slice(start, BATCH_ROWS), records[start : start + BATCH_ROWS])
