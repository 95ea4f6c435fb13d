"""A log becomes a Minari dataset: files with a row for every step, and a word on what their columns are."""

import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import gymnasium
import minari
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from minari.data_collector import EpisodeBuffer

from iq_offline.data import catalog
from iq_offline.data.log_episodes import (
    GAP_FACTOR,
    NANOSECOND,
    Counts,
    Episode,
    Grouped,
    gaps,
    group,
    median_step,
    pieces,
    unique_in_time,
)
from iq_offline.data.log_files import open_files
from iq_offline.data.log_records import Batch, Columns, Layout, LogFile, plan
from iq_offline.data.writing import install, temporary_root, while_they_fit
from iq_offline.errors import UserError
from iq_offline.files import disk_errors

MOST_CHOICES = 65_536
"""A discrete action with more alternatives is rather an amount, or a code that is no action."""


@dataclass(frozen=True)
class Actions:
    """What the numbers of an action mean."""

    discrete: bool = False
    """Each is a choice among alternatives."""
    continuous: bool = False
    """Each is an amount, even where all are whole."""
    low: tuple[float, ...] = ()
    """Least value of each number, or one for all; none: the least in the log."""
    high: tuple[float, ...] = ()
    """Greatest value, likewise."""


@dataclass(frozen=True)
class Imported:
    """A dataset that was made from a log."""

    id: str
    path: Path
    """The folder that holds ``metadata.json``."""
    counts: Counts
    max_gap: float
    """A longer step was a gap: seconds where the log has times, else in its own unit."""
    observation_space: gymnasium.Space
    action_space: gymnasium.Space


def import_log(
    sources: Sequence[str],
    identifier: str,
    columns: Columns,
    actions: Actions = Actions(),
    max_gap: float | None = None,
    replace: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Imported:
    """Write a log into the local Minari root as the dataset ``identifier``.

    Args:
        sources: files, globs or folders; Parquet, CSV, NDJSON or npz.
        identifier: ``namespace/name-vN``.
        columns: what the columns of the log are.
        actions: what the numbers of an action mean.
        max_gap: a longer step in time cuts the episode; None: 1.5 times the median step of the log.
        replace: a dataset of that id may be replaced.
        on_progress: called with (rows read and rows written, twice the rows there are).

    Raises:
        UserError: the id is malformed or taken, a file or column cannot be used, nothing is left, the disk is full.
    """
    root = catalog.minari_root()
    _check_id(identifier, root, replace)
    _check_columns(columns)
    if max_gap is not None and not (max_gap > 0 and columns.time is not None):
        raise UserError(f"--max-gap {max_gap:g}: it takes a number over 0, and needs --time")
    files = open_files(sources, columns)
    layout = plan(files, columns)
    choices = _are_choices(layout, actions)
    counts = Counts()
    with disk_errors(f"importing {identifier}", root), temporary_root(root) as temporary:
        bounds = _Bounds(layout, choices)
        total = 2 * sum(file.rows() for file in files)
        batches = (bounds.seen(batch) for batch in _read(files, layout, total, on_progress))
        grouped = group(batches, layout.dtype, temporary, counts)
        unit = NANOSECOND if layout.time == "timestamp" else 1.0
        if max_gap is None:
            max_gap = GAP_FACTOR * median_step(grouped, unit, temporary) if layout.time != "none" else math.inf
        space = bounds.space(actions)
        observation_space = Box(
            -np.inf, np.inf, layout.dtype["observation"].shape, layout.dtype["observation"].base.type
        )
        found = _episodes(grouped, layout, unit, max_gap, counts, total, on_progress)
        checked = (_check_bounds(episode, space, layout, counts) for episode in found)
        fitting = while_they_fit(checked, root, layout.dtype.itemsize, grouped.rows, len(grouped))
        about = f"{', '.join(file.path.name for file in files[:3])}{' and more' * (len(files) > 3)}"
        _write(identifier, fitting, observation_space, space, f"Imported from the log {about}.", layout, counts)
        grouped.close()
        if not counts.episodes:
            raise UserError(f"nothing is left of {about}: {_losses(counts)}")
        _check_id(identifier, root, replace)
        path = install(identifier, temporary, root)
    return Imported(identifier, path, counts, max_gap, observation_space, space)


def _check_id(identifier: str, root: Path, replace: bool) -> None:
    if not re.fullmatch(r"[\w-]{2,}(/[\w-]+)*/[\w-]+-v\d+", identifier):
        rule = "letters, digits, - and _, the namespace two of them or more"
        raise UserError(f"--id {identifier!r} is no dataset id: namespace/name-vN ({rule}), such as company/driving-v0")
    if identifier.split("/")[0] == catalog.NAMESPACE:
        raise UserError(
            f"--id {identifier!r}: the namespace {catalog.NAMESPACE} is for the built-in datasets; take another"
        )
    folder = root / identifier
    for other in catalog.local_ids():
        if identifier.startswith(f"{other}/"):
            raise UserError(f"--id {identifier!r} lies in the folder of the dataset {other}: choose another")
        if other.startswith(f"{identifier}/"):
            raise UserError(
                f"--id {identifier!r}: the dataset {other} lies in its folder and would be lost with it: choose another"
            )
    if (folder / "data" / "metadata.json").is_file():
        if not replace:
            raise UserError(f"{identifier} exists already in {root}: choose another --id, or say --replace")
    elif folder.exists():
        raise UserError(f"{folder} exists already and is no dataset: choose another --id")


def _check_columns(columns: Columns) -> None:
    for option, names in (("--observation", columns.observation), ("--action", columns.action)):
        if not names:
            raise UserError(f"{option} names no column")
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise UserError(f"{option} names {twice[0]!r} twice")


def _are_choices(layout: Layout, actions: Actions) -> bool:
    """Whether the actions are discrete. Floating point means amounts, booleans choices; the rest must be said."""
    if actions.discrete and actions.continuous:
        raise UserError("--discrete or --continuous, not both")
    if actions.discrete or actions.continuous:
        return actions.discrete
    kinds = set(layout.action_kinds)
    if kinds & {"i", "u"} and "f" not in kinds:
        raise UserError(
            f"--action {','.join(layout.columns.action)} holds whole numbers: say --discrete if each is a choice among "
            "alternatives, --continuous if each is an amount"
        )
    return kinds == {"b"}


class _Bounds:
    """Least and greatest value of each number of the action, over the whole log, and the space that follows."""

    def __init__(self, layout: Layout, choices: bool) -> None:
        self._layout, self._choices = layout, choices
        self._names = layout.names("action")
        self._low, self._high = np.full(len(self._names), np.inf), np.full(len(self._names), -np.inf)

    def seen(self, batch: Batch) -> Batch:
        """Take a batch into account, and hand it on."""
        values = batch.records["action"]
        known = np.isfinite(values)
        self._low = np.minimum(self._low, np.where(known, values, np.inf).min(0, initial=np.inf))
        self._high = np.maximum(self._high, np.where(known, values, -np.inf).max(0, initial=-np.inf))
        if self._choices:
            broken = known & (values != np.round(values))
            if broken.any():
                row, place = np.argwhere(broken)[0]
                raise UserError(
                    f"action column {self._names[place]!r} holds {values[row, place]:g}: --discrete takes whole numbers"
                )
        return batch

    def space(self, actions: Actions) -> gymnasium.Space:
        """The space of the actions."""
        for name, least in zip(self._names, self._low, strict=True):
            if not np.isfinite(least):
                raise UserError(f"action column {name!r} holds no number in the whole log")
        boolean = np.array([kind == "b" for kind in self._layout.action_kinds]) & self._choices
        low = self._given("--action-low", actions.low, np.where(boolean, 0, self._low))
        high = self._given("--action-high", actions.high, np.where(boolean, 1, self._high))
        for name, least, most in zip(self._names, low, high, strict=True):
            if not least < most:
                raise UserError(
                    f"action column {name!r} goes from {least:g} to {most:g}: leave it out, or give its range by "
                    "--action-low and --action-high"
                )
        if not self._choices:
            dtype = self._layout.dtype["action"].base.type
            return Box(low.astype(dtype), high.astype(dtype), dtype=dtype)
        starts, sizes = low.astype(np.int64), (high - low).astype(np.int64) + 1
        if sizes.max() > MOST_CHOICES:
            name = self._names[int(sizes.argmax())]
            raise UserError(
                f"action column {name!r} would be a choice among {sizes.max():,} alternatives: if it is an amount, "
                "say --continuous"
            )
        if len(sizes) == 1:
            return Discrete(int(sizes[0]), start=int(starts[0]))
        return MultiDiscrete(sizes, start=starts)

    def _given(self, option: str, given: tuple[float, ...], found: np.ndarray) -> np.ndarray:
        if not given:
            return found
        if len(given) not in (1, len(found)):
            raise UserError(f"{option} takes one number or {len(found)} ({', '.join(self._names)}), not {len(given)}")
        if not np.isfinite(given).all() or (self._choices and any(value != round(value) for value in given)):
            raise UserError(f"{option} takes {'whole' if self._choices else 'finite'} numbers")
        return np.broadcast_to(np.array(given, np.float64), found.shape)


def _read(
    files: Sequence[LogFile], layout: Layout, total: int, on_progress: Callable[[int, int], None]
) -> Iterator[Batch]:
    done = 0
    for number, file in enumerate(files):
        before = done
        for batch in file.batches(layout):
            yield batch._replace(file=number)
            done += len(batch.records)
            on_progress(done, total)
        if done - before != file.rows():  # Some versions of polars end quietly where a file is damaged.
            raise UserError(f"{file.path} is damaged: {done - before} of its {file.rows()} rows can be read")


def _episodes(
    grouped: Grouped,
    layout: Layout,
    unit: float,
    max_gap: float,
    counts: Counts,
    total: int,
    on_progress: Callable[[int, int], None],
) -> Iterator[Episode]:
    done = total // 2
    for number, records in enumerate(grouped):
        done += len(records)
        ordered = records if layout.time == "none" else unique_in_time(records, counts)
        for piece in pieces(ordered, gaps(ordered["time"], max_gap, unit), counts):
            yield piece._replace(recording=number)
        on_progress(done, total)


def _check_bounds(episode: Episode, space: gymnasium.Space, layout: Layout, counts: Counts) -> Episode:
    """Count actions outside of given bounds: an amount may lie there, a choice cannot."""
    if isinstance(space, Box):
        low, high = space.low, space.high
    else:
        low = np.atleast_1d(np.asarray(cast(Discrete | MultiDiscrete, space).start))
        high = low + np.atleast_1d(space.n if isinstance(space, Discrete) else cast(MultiDiscrete, space).nvec) - 1
    outside = (episode.actions < low) | (episode.actions > high)
    if outside.any() and not isinstance(space, Box):
        row, place = np.argwhere(outside)[0]
        raise UserError(
            f"action column {layout.names('action')[place]!r} holds {episode.actions[row, place]:g}, outside of "
            f"{low[place]} to {high[place]} (--action-low, --action-high)"
        )
    counts.actions_outside += int(outside.any(-1).sum())
    return episode


def _buffer(episode: Episode, space: gymnasium.Space) -> EpisodeBuffer:
    actions = episode.actions if isinstance(space, Box) else episode.actions.astype(np.int64)
    ends = np.zeros((2, len(actions)), bool)
    ends[:, -1] = episode.terminated, episode.truncated
    return EpisodeBuffer(
        observations=episode.observations,  # type: ignore[arg-type]
        actions=actions[:, 0] if isinstance(space, Discrete) else actions,  # type: ignore[arg-type]
        rewards=episode.rewards,  # type: ignore[arg-type]
        terminations=ends[0],  # type: ignore[arg-type]
        truncations=ends[1],  # type: ignore[arg-type]
    )


def _write(
    identifier: str,
    episodes: Iterable[Episode],
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    description: str,
    layout: Layout,
    counts: Counts,
) -> None:
    """Write episodes as they come; Minari takes any iterable and keeps none of them."""
    pieces_of: list[int] = []

    def buffers() -> Iterator[EpisodeBuffer]:
        for episode in episodes:
            pieces_of.append(episode.recording)
            yield _buffer(episode, action_space)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari asks for an author, an environment and a permanent link.
        dataset = minari.create_dataset_from_buffers(
            identifier,
            buffers(),  # type: ignore[arg-type]
            observation_space=observation_space,
            action_space=action_space,
            description=description,
            data_format="hdf5",
        )
    names = {field: layout.names(field) for field in ("observation", "action")}
    belong = {"pieces_of": pieces_of} if len(set(pieces_of)) < len(pieces_of) else {}
    dataset.storage.update_metadata({"log": names | {"counts": counts.table()} | belong})


def _losses(counts: Counts) -> str:
    cut = counts.gaps or counts.jumps or counts.ends_inside
    cut = cut or counts.rows_without_observation or counts.rows_without_action
    single = "single rows between cuts" if cut else "episodes of one row: --next-observation would name the next state"
    lost = {
        "no rows": int(counts.rows == 0),
        "without an episode": counts.rows_without_episode,
        "without a time": counts.rows_without_time,
        "without an observation": counts.rows_without_observation,
        "without an action": counts.rows_without_action,
        single: counts.short_pieces,
        "duplicates": counts.identical_duplicates + counts.contradicting_duplicates,
    }
    return f"{counts.rows} rows, " + ", ".join(f"{number} {what}" for what, number in lost.items() if number)
