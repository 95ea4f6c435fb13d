"""From the rows of a log, in whatever order, to the episodes that can be learned from, one in memory at a time.

Rows go to a file on the disk; where the log mixes its episodes, they go to a second one that is in their order. Then
each episode is read, sorted by time, freed of duplicates, and cut where a next row is not the next state. Nothing is
ever filled in. What was done is counted in :class:`Counts`.
"""

import math
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import polars as pl

from iq_offline.data.log_records import NULL_TIME, Batch
from iq_offline.errors import UserError

GAP_FACTOR = 1.5
"""A step longer than this many median steps is a gap."""

COARSE, FINE = 1e-6, 1e-12
"""Share of a step that is no difference, between floating point and between whole numbers."""

NANOSECOND = 1e-9
"""In seconds; times are whole ones where they are no numbers."""

NANOSECONDS = {"ns": 1, "us": 1_000, "ms": 1_000_000}
"""In each of polars' units of time."""

CHUNK_BYTES = 16 * 2**20


@dataclass
class Counts:
    """What a log held and what became of it. Every row is in exactly one of those marked with *."""

    rows: int = 0
    episodes_in_log: int = 0
    episodes_continued: int = 0
    """Of these, such as have rows in several files."""
    episodes: int = 0
    """Written."""
    transitions: int = 0
    """Written."""
    rows_written: int = 0
    """* As the observation of a written episode."""
    rows_without_episode: int = 0
    """* Dropped."""
    rows_without_time: int = 0
    """* Dropped."""
    identical_duplicates: int = 0
    """* Dropped: the same episode, time and values as a row before."""
    contradicting_duplicates: int = 0
    """* Dropped: the same episode and time as a row before, other values."""
    rows_without_observation: int = 0
    """* Dropped, the episode cut there."""
    rows_without_action: int = 0
    """Inside an episode: cut there. * Where next observations are given, also at the end, and dropped."""
    short_pieces: int = 0
    """* Single rows that were left between cuts, dropped."""
    out_of_order: int = 0
    """Rows with an earlier time than the row before in their episode."""
    gaps: int = 0
    """Steps that are too long: cut there."""
    jumps: int = 0
    """Rows whose next observation is not the observation of the row that follows: cut there."""
    ends_inside: int = 0
    """Rows flagged as the end that others follow: cut there."""
    ends_lost: int = 0
    """Rows flagged as terminal that are not written, whatever the reason, and whose flag no other row stands for."""
    terminated: int = 0
    """Written episodes that end in a terminal state; the others end truncated."""
    last_actions: int = 0
    """Transitions lost because the state that the last action of a written episode led to is not in the log."""
    actions_outside: int = 0
    """Written actions outside the bounds that were given."""
    rewards_unknown: int = 0
    """Written transitions without a reward."""

    def table(self) -> dict[str, int]:
        """All of them by name."""
        return asdict(self)


class Episode(NamedTuple):
    """A piece of a log that can be learned from: T transitions, T+1 observations."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool
    truncated: bool
    recording: int = 0
    """Which of the log's episodes it is a piece of, in the order in which they begin."""


class Grouped:
    """Records on the disk, those of one episode beside each other and in the order of the log."""

    def __init__(self, file: IO[bytes], dtype: np.dtype, counts: np.ndarray) -> None:
        self._file, self._dtype, self._counts = file, dtype, counts

    def __iter__(self) -> Iterator[np.ndarray]:
        """The records of each episode, in the order in which they began in the log."""
        self._file.seek(0)
        for count in self._counts:
            yield _read(self._file, self._dtype, int(count))

    @property
    def rows(self) -> int:
        """Over all episodes."""
        return int(self._counts.sum())

    def __len__(self) -> int:
        """Episodes of the log."""
        return len(self._counts)

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()


def group(batches: Iterable[Batch], dtype: np.dtype, folder: Path, counts: Counts) -> Grouped:
    """Bring the rows of each episode together, in files without a name in ``folder``: a killed process leaves none.

    Raises:
        UserError: ids of episodes are text in one file and numbers in another.
    """
    stored = np.dtype([("episode", "u4"), ("record", dtype)])
    known: dict[object, int] = {}
    sizes: list[int] = []
    begun_in: list[int] = []
    continued: set[int] = set()
    kinds: set[str] = set()
    runs, last = 0, -1
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    for batch in (_attributed(batch, counts) for batch in batches):
        if not len(batch.records):
            continue
        kinds.add(_kind(batch.episodes))
        if len(kinds) > 1:
            raise UserError(
                f"--episode holds {' in one file and '.join(sorted(kinds))} in another, so which ids are the same? "
                "write all of them alike"
            )
        indices = _indices(batch.episodes, known)
        begun_in += [batch.file] * (len(known) - len(sizes))
        sizes += [0] * (len(known) - len(sizes))
        for index, size in zip(*np.unique(indices, return_counts=True), strict=True):
            sizes[index] += int(size)
            if begun_in[index] != batch.file:
                continued.add(int(index))
        runs += int(np.count_nonzero(np.diff(indices))) + int(indices[0] != last)
        last = int(indices[-1])
        rows = np.empty(len(indices), stored)
        rows["episode"], rows["record"] = indices, batch.records
        file.write(rows.tobytes())
    counts.episodes_in_log, counts.episodes_continued = len(sizes), len(continued)
    if runs > len(sizes):
        mixed, file = file, tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        with mixed:
            _scatter(mixed, file, stored, sizes)
    return Grouped(file, stored, np.array(sizes, np.int64))


def median_step(episodes: Iterable[np.ndarray], unit: float, folder: Path) -> float:
    """The median time between neighbouring rows of one episode, over the whole log; NaN where there are none."""
    with tempfile.TemporaryFile(dir=folder) as file:
        for records in episodes:
            times = np.unique(records["time"])
            file.write((np.diff(times).astype(np.float64) * unit).tobytes())
        file.flush()
        if not file.tell():
            return math.nan
        steps = np.memmap(file, np.float64, "r+")
        return float(np.median(steps, overwrite_input=True))  # In the file: the system keeps in memory what it can.


def unique_in_time(records: np.ndarray, counts: Counts) -> np.ndarray:
    """The records of one episode in the order of their times, the first of each time."""
    counts.out_of_order += int(np.count_nonzero(np.diff(records["time"]) < 0))
    records = records[np.argsort(records["time"], kind="stable")]
    new = np.concatenate([[True], np.diff(records["time"]) != 0])
    if new.all():
        return records
    first = np.maximum.accumulate(np.where(new, np.arange(len(records)), 0))
    repeated = ~new
    identical = _same(records[repeated], records[first[repeated]])
    counts.identical_duplicates += int(identical.sum())
    counts.contradicting_duplicates += int((~identical).sum())
    counts.ends_lost += int((records["terminal"] & ~records["terminal"][first]).sum())
    return records[new]


def gaps(times: np.ndarray, max_gap: float, unit: float) -> np.ndarray:
    """Which steps from one time to the next are longer than ``max_gap``; one fewer than there are times.

    Args:
        times: of an episode, in order, in ``unit``.
        max_gap: in seconds where ``unit`` is one of seconds.
        unit: of the times; :data:`NANOSECOND` where they are timestamps.
    """
    steps, longest = np.diff(times).astype(np.float64), max_gap / unit
    if times.dtype.kind == "f":  # 0.3 - 0.2 is less than 0.1, 0.4 - 0.3 is more.
        return steps > longest * (1 + COARSE) + np.spacing(np.abs(times).max(initial=0))
    return steps > longest * (1 + FINE)


def pieces(records: np.ndarray, gap: np.ndarray, counts: Counts) -> Iterator[Episode]:
    """Cut one episode, in order, into pieces in which every next row is the next state.

    Args:
        records: of the episode.
        gap: whether the step from each row to the next is too long; one fewer than there are rows.
        counts: what is found is added here.
    """
    complete = "next_observation" in (records.dtype.names or ())
    seen, acted = _known(records["observation"]), _known(records["action"])
    ended = records["terminal"] | records["truncated"]
    counts.rows_without_observation += int((~seen).sum())
    counts.gaps += int(gap.sum())
    counts.ends_inside += int(ended[:-1].sum())
    whole_step = ~ended[:-1] & ~gap
    if complete:
        future = records["next_observation"]
        acted = acted & _known(future)
        counts.rows_without_action += int((seen & ~acted).sum())
        jump = (
            whole_step
            & (seen & acted)[:-1]
            & seen[1:]
            & np.asarray((future[:-1] != records["observation"][1:]).any(-1))
        )
        counts.jumps += int(jump.sum())
        usable, linked = seen & acted, whole_step & ~jump & (seen & acted)[:-1] & (seen & acted)[1:]
    else:
        counts.rows_without_action += int((seen & ~acted)[:-1].sum())
        usable, linked = seen, whole_step & (seen & acted)[:-1] & seen[1:]
    lost = records["terminal"] & ~np.concatenate([[False], records["terminal"][:-1]])  # The flag may stay up.
    for first, last in _runs(usable, linked):
        if complete:
            steps_of = slice(first, last + 1)
            observations = np.concatenate(
                [records["observation"][steps_of], records["next_observation"][last : last + 1]]
            )
        elif first == last:
            counts.short_pieces += 1
            continue
        else:
            steps_of = slice(first, last)
            observations = records["observation"][first : last + 1]
            counts.last_actions += int(acted[last])
        lost[last] = False
        terminated, rewards = bool(records["terminal"][last]), records["reward"][steps_of]
        truncated = bool(records["truncated"][last]) or not terminated
        counts.episodes += 1
        counts.terminated += int(terminated)
        counts.transitions += len(rewards)
        counts.rows_written += last - first + 1
        counts.rewards_unknown += int(np.isnan(rewards).sum())
        yield Episode(observations, records["action"][steps_of], rewards, terminated, truncated)
    counts.ends_lost += int(lost.sum())


def _known(values: np.ndarray) -> np.ndarray:
    """Rows in which every number is finite."""
    return np.asarray(np.isfinite(values).all(-1))


def _runs(usable: np.ndarray, linked: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last row of each run of usable rows that are linked to the next."""
    starts = np.flatnonzero(usable & ~np.concatenate([[False], linked]))
    ends = np.flatnonzero(usable & ~np.concatenate([linked, [False]]))
    yield from zip(starts.tolist(), ends.tolist(), strict=True)


def _attributed(batch: Batch, counts: Counts) -> Batch:
    """The rows that say which episode they are of, and when."""
    episodes, times = batch.episodes, batch.records["time"]
    counts.rows += len(times)
    if episodes.dtype.is_float():
        episodes = episodes.fill_nan(None)
    owned = episodes.is_not_null().to_numpy()
    timed = np.isfinite(times) if times.dtype.kind == "f" else times != NULL_TIME
    counts.rows_without_episode += int((~owned).sum())
    counts.rows_without_time += int((owned & ~timed).sum())
    kept = owned & timed
    counts.ends_lost += int((batch.records["terminal"] & ~kept).sum())
    return Batch(episodes.filter(pl.Series(kept)), batch.records[kept], batch.file)


def _indices(episodes: pl.Series, known: dict[object, int]) -> np.ndarray:
    """The number of each row's episode, new ones numbered on."""
    names = episodes.unique(maintain_order=True)
    numbers = [known.setdefault(name, len(known)) for name in _exact(names)]
    return episodes.replace_strict(names, numbers, return_dtype=pl.UInt32).to_numpy()


def _exact(names: pl.Series) -> list[object]:
    """The names as Python has them; times in whole nanoseconds, which Python's own would round to microseconds."""
    if not isinstance(names.dtype, pl.Datetime | pl.Duration | pl.Time):
        return names.to_list()
    nanoseconds = NANOSECONDS[getattr(names.dtype, "time_unit", "ns")]
    return [number * nanoseconds for number in names.to_physical().to_list()]


def _kind(names: pl.Series) -> str:
    """What the ids of episodes are, in words."""
    dtype = names.dtype
    if dtype.is_numeric() or dtype == pl.Boolean:
        return "numbers"
    return "text" if dtype in (pl.String, pl.Categorical, pl.Enum) else str(dtype.base_type())


def _scatter(mixed: IO[bytes], sorted_file: IO[bytes], stored: np.dtype, sizes: list[int]) -> None:
    """Copy rows so that those of one episode are beside each other: each run of a chunk goes where its episode lies."""
    places = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    chunk = max(1, CHUNK_BYTES // stored.itemsize)
    mixed.seek(0)
    left = sum(sizes)
    while left:
        rows = np.frombuffer(mixed.read(min(chunk, left) * stored.itemsize), stored)
        left -= len(rows)
        rows = rows[np.argsort(rows["episode"], kind="stable")]
        cuts = np.flatnonzero(np.diff(rows["episode"])) + 1
        for first, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(rows)], strict=True):
            index = int(rows["episode"][first])
            sorted_file.seek(int(places[index]) * stored.itemsize)
            sorted_file.write(rows[first:end].tobytes())
            places[index] += end - first


def _read(file: IO[bytes], stored: np.dtype, count: int) -> np.ndarray:
    return np.frombuffer(file.read(count * stored.itemsize), stored)["record"]


def _same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Which records hold the same values, shape ``(records,)``; unknown is the same as unknown."""
    same = np.ones(len(one), bool)
    for field in one.dtype.names or ():
        a, b = (records[field].reshape(len(one), -1) for records in (one, other))
        equal = a == b
        if a.dtype.kind == "f":
            equal |= np.isnan(a) & np.isnan(b)
        same &= equal.all(-1)
    return same
