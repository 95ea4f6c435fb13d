"""Reading a Minari dataset from disk, one episode in memory at a time, without building its environment.

HDF5 is read directly: Minari's own iteration decodes ``infos`` and rewards that nothing here wants. Other formats go
through Minari. Rewards are read by :func:`episode_returns` alone, which training never calls (nor ``data.raw``, which
reads all of a dataset to look at it).
"""

import io
import itertools
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import gymnasium
import h5py
import numpy as np
from minari.dataset.minari_storage import MinariStorage, is_image_space
from minari.serialization import deserialize_space
from PIL import Image

from iq_offline.data.spaces import Leaf, is_learnable, leaves_of, part_of
from iq_offline.errors import UserError

UNREADABLE = (
    *(OSError, LookupError, RuntimeError, ValueError, TypeError, AttributeError),
    *(ArithmeticError, MemoryError, Image.DecompressionBombError),  # Numbers and sizes that were never written.
    AssertionError,  # Minari's.
)
"""What reading a damaged file raises, whichever library reads it."""

MOST = 2**48
"""Steps or episodes that no dataset has."""

FEW = 1_000
"""Episodes that the metadata may promise whatever is stored: those that are missing are named one by one."""


@dataclass(frozen=True)
class Source:
    """A dataset on disk: its metadata, read once, and no data yet."""

    id: str
    path: Path
    """The folder that holds ``metadata.json``."""
    metadata: dict[str, Any]
    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    view: tuple[int, ...] | None = None
    """Ids of the episodes of a filtered or split view; None: all that are stored."""
    view_steps: int = 0

    @property
    def total_episodes(self) -> int:
        """Episodes of the dataset, or of the view of it."""
        return int(self.metadata["total_episodes"]) if self.view is None else len(self.view)

    @property
    def total_steps(self) -> int:
        """Transitions, over all these episodes."""
        return int(self.metadata["total_steps"]) if self.view is None else self.view_steps

    @property
    def episode_ids(self) -> Sequence[int]:
        """Ids in the storage, in order."""
        return range(self.total_episodes) if self.view is None else self.view

    def positions_of(self, ids: Collection[int]) -> list[int]:
        """Where the episodes with these ids in the storage are in the dataset, or in the view; others are left out."""
        return [position for position, stored in enumerate(self.episode_ids) if stored in ids]

    def with_other_pieces(self, ids: Collection[int]) -> set[int]:
        """These episodes and all others of the same recordings, by their ids in the storage.

        Where a log has a hole, ``datasets import`` cuts an episode into pieces, and its metadata say which belong
        together: they share a driver, a day and a road, so that one tells too much of the other. Of other datasets each
        episode is its own.
        """
        pieces_of = self.log.get("pieces_of")
        if not isinstance(pieces_of, list) or len(pieces_of) != int(self.metadata["total_episodes"]):
            return set(ids)
        recordings = [str(recording) for recording in pieces_of]
        chosen = {recordings[index] for index in ids}
        return {index for index, recording in enumerate(recordings) if recording in chosen}

    @property
    def log(self) -> dict[str, Any]:
        """By :func:`log_of`."""
        return log_of(self.metadata)

    @property
    def is_hdf5(self) -> bool:
        """Whether it is stored as HDF5; else as Arrow or Parquet."""
        return self.metadata.get("data_format", "hdf5") == "hdf5"

    @property
    def environment_id(self) -> str | None:
        """Id of the environment it was recorded in, where the metadata name one."""
        try:
            identifier = json.loads(self.metadata.get("env_spec") or "{}").get("id")
        except (ValueError, TypeError, AttributeError):  # Said where the environment is needed.
            return None
        return identifier if isinstance(identifier, str) else None


def log_of(metadata: dict[str, Any]) -> dict[str, Any]:
    """What ``datasets import`` wrote of the log that a dataset was made from; empty for others."""
    log = metadata.get("log")
    return log if isinstance(log, dict) else {}


@dataclass(frozen=True)
class EpisodeArrays:
    """One episode: T+1 observations, T actions and terminations."""

    observations: dict[str, np.ndarray]
    """For each learnable leaf of the space, by its name."""
    actions: np.ndarray
    terminations: np.ndarray


def open_source(path: Path) -> Source:
    """Read a dataset's metadata.

    Raises:
        UserError: not a Minari dataset, no spaces in it, no episodes, or far more promised than are stored.
    """
    try:
        metadata = MinariStorage.read_raw_metadata(path)
        identifier = str(metadata["dataset_id"])
        if not identifier.isprintable():  # It goes to terminals and into names of files.
            raise UserError(
                f"{path} holds the id {identifier!r}, which cannot be printed: correct dataset_id in its metadata.json"
            )
        spaces = [metadata.get(name) for name in ("observation_space", "action_space")]
        if None in spaces:
            raise UserError(f"{identifier}: metadata.json lacks its spaces, and training builds no environment to ask")
        observation_space, action_space = (cast(gymnasium.Space, deserialize_space(str(space))) for space in spaces)
        promises = [int(metadata.get(name) or 0) for name in ("total_episodes", "total_steps")]
        if max(promises) > MOST:
            raise ValueError(f"it promises {max(promises)} steps or episodes")
    except UNREADABLE as error:
        raise UserError(f"{path} is not a readable Minari dataset ({type(error).__name__}: {error})") from error
    source = Source(identifier, path, metadata, observation_space, action_space)
    if min(promises) <= 0:
        raise UserError(f"{identifier} is empty: it holds no episodes")
    promised = source.total_episodes
    if promised > FEW:  # Whoever reads on goes through as many as are promised, and keeps something for each.
        stored = len(stored_ids(source))
        if promised > 2 * stored + FEW:
            raise UserError(
                f"{identifier}: its metadata promise {promised:,} episodes, {path} holds {stored:,}: it was cut, or "
                "its metadata.json is damaged; download or build it again"
            )
    return source


def stored_ids(source: Source) -> list[int]:
    """Ids of all episodes in the storage, also of those that the metadata do not count. Nothing of them is read.

    Raises:
        UserError: the file is cut or damaged.
    """

    def names() -> Iterator[str]:
        if source.is_hdf5:
            with h5py.File(source.path / "main_data.hdf5") as file:
                yield from map(str, file)
        else:
            with os.scandir(source.path) as entries:  # Ten times as fast as asking each path.
                yield from (entry.name for entry in entries if entry.is_dir())

    pattern = re.compile(r"episode_(\d{1,18})" if source.is_hdf5 else r"(\d{1,18})")
    found = (pattern.fullmatch(name) for name in with_clear_errors(names(), source))
    return sorted(int(match[1]) for match in found if match)


def view_of(source: Source, ids: Sequence[int] | None) -> Source:
    """Some episodes of a dataset, in this order.

    Args:
        source: the whole of it.
        ids: of the episodes; None for all.

    Raises:
        UserError: an episode is not in the dataset, or the files are damaged.
    """
    if ids is None or list(ids) == list(range(source.total_episodes)):
        return source
    missing = [index for index in ids if not 0 <= index < source.total_episodes]
    if missing:
        raise UserError(f"{source.id} holds the episodes 0 to {source.total_episodes - 1}: there is no {missing[0]}")

    def steps() -> Iterator[int]:
        if source.is_hdf5:
            with h5py.File(source.path / "main_data.hdf5") as file:  # An episode's metadata may be of its last part.
                for index in ids:
                    yield file[f"episode_{index}/terminations"].shape[0]  # type: ignore[union-attr]
        else:
            yield from (int(about["total_steps"]) for about in storage_of(source).get_episode_metadata(ids))

    return replace(source, view=tuple(ids), view_steps=sum(with_clear_errors(steps(), source)))


def episodes(source: Source, first: int = 0) -> Iterator[EpisodeArrays]:
    """All episodes in the order of their ids, or those from position ``first`` on, each checked for its lengths.

    Raises:
        UserError: a file is cut or damaged, an episode is missing, or its lengths do not fit together.
    """
    read = _hdf5_episodes if source.is_hdf5 else _minari_episodes
    ids = source.episode_ids[first:]
    for index, episode in zip(ids, with_clear_errors(read(source, ids), source), strict=False):
        steps = len(episode.actions)
        lengths = {len(array) for array in episode.observations.values()}
        if lengths != {steps + 1} or len(episode.terminations) != steps:
            raise UserError(
                f"{source.id}: episode {index} has {'/'.join(map(str, sorted(lengths)))} observations, {steps} actions "
                f"and {len(episode.terminations)} terminations; a Minari episode of T steps has T+1, T and T"
            )
        yield episode


def episode_returns(source: Source) -> np.ndarray:
    """Sum of rewards of each episode, shape ``(episodes,)``: for reference scores and tables, never for training."""

    def read() -> Iterator[float]:
        if source.is_hdf5:
            with h5py.File(source.path / "main_data.hdf5") as file:
                for index in source.episode_ids:
                    yield float(np.sum(file[f"episode_{index}"]["rewards"][()]))  # type: ignore[index]
        else:
            for episode in stored_episodes(source, source.episode_ids):
                yield float(np.sum(episode["rewards"]))

    return np.array(list(with_clear_errors(read(), source)))


def learnable_leaves(source: Source) -> list[Leaf]:
    """The leaves of the observations that hold numbers; the others are not read."""
    return [leaf for leaf in leaves_of(source.observation_space) if is_learnable(leaf.space)]


ReadArray = Callable[[h5py.File, str], np.ndarray]


def hdf5_places(source: Source) -> dict[str, tuple[str, ReadArray]]:
    """For each learnable leaf, by its name: where it is inside the group of an episode, and the function to read it."""
    jpeg = source.metadata.get("jpeg_encoding", True)
    places: dict[str, tuple[str, ReadArray]] = {}
    for leaf in learnable_leaves(source):
        path = "/".join(["observations", *(f"_index_{key}" if isinstance(key, int) else key for key in leaf.path)])
        places[leaf.name] = path, _jpeg_array if jpeg and is_image_space(leaf.space) else hdf5_array
    return places


def _hdf5_episodes(source: Source, ids: Sequence[int]) -> Iterator[EpisodeArrays]:
    places = hdf5_places(source)
    with h5py.File(source.path / "main_data.hdf5") as file:
        for index in ids:
            group = f"episode_{index}"
            observations = {name: read(file, f"{group}/{path}") for name, (path, read) in places.items()}
            yield EpisodeArrays(
                observations, hdf5_array(file, f"{group}/actions"), per_step(hdf5_array(file, f"{group}/terminations"))
            )


def hdf5_array(file: h5py.File, name: str) -> np.ndarray:
    """A whole array. By h5py's low-level interface: its objects cost as much as reading a short episode."""
    try:
        dataset = h5py.h5d.open(file.id, name.encode())
    except KeyError as error:
        raise KeyError(f"no {name}: {error}") from error
    if not dataset.shape:
        raise ValueError(f"{name} is a single value")
    array = np.empty(dataset.shape, dataset.dtype)
    dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
    return array


def _jpeg_array(file: h5py.File, name: str) -> np.ndarray:
    """Pictures that Minari keeps as JPEG files, one a row."""
    rows = file[name][()]  # type: ignore[index]
    return np.stack([np.asarray(Image.open(io.BytesIO(row.tobytes()))) for row in rows])  # type: ignore[union-attr]


def per_step(values: np.ndarray) -> np.ndarray:
    """One value a step, shape ``(T,)``; a column of them, ``(T, 1)``, is what a vector of one environment gives."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def storage_of(source: Source) -> MinariStorage:
    """Minari's reader of the files. What it makes of the environment's specification is not asked for.

    Raises:
        UserError: it needs a package that is not there.
    """
    try:
        return MinariStorage.read(source.path)
    except ImportError as error:
        raise UserError(
            f"{source.id} is stored as Arrow or Parquet, which needs pyarrow: pip install pyarrow"
        ) from error


def stored_episodes(source: Source, ids: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Episodes as Minari reads them. Of Arrow files each by itself: the infos of one may be others than the next's.

    Raises:
        UserError: an episode comes back shorter than it is.
    """
    storage = storage_of(source)
    if source.is_hdf5:  # Opened once for all of them.
        yield from storage.get_episodes(ids)
        return
    for index in ids:
        (episode,) = itertools.islice(storage.get_episodes([index]), 1)
        steps, (about,) = len(episode["terminations"]), storage.get_episode_metadata([index])
        if steps != about["total_steps"]:
            raise UserError(
                f"{source.id}: episode {index} comes back with {steps} of its {about['total_steps']} steps (Minari "
                "cuts Arrow episodes over 32,767 steps): store it as HDF5"
            )
        yield episode


def _minari_episodes(source: Source, ids: Sequence[int]) -> Iterator[EpisodeArrays]:
    leaves = learnable_leaves(source)
    for episode in stored_episodes(source, ids):
        observations = {leaf.name: np.asarray(part_of(episode["observations"], leaf.path)) for leaf in leaves}
        yield EpisodeArrays(observations, np.asarray(episode["actions"]), np.asarray(episode["terminations"]))


def with_clear_errors(items: Iterator[Any], source: Source) -> Iterator[Any]:
    """What is read from a dataset's files, one by one.

    Raises:
        UserError: a file is cut or damaged.
    """
    try:
        yield from items
    except UNREADABLE as error:
        raise UserError(
            f"{source.id}: the file in {source.path} is cut or damaged ({str(error) or type(error).__name__}); "
            "download or build it again"
        ) from error
