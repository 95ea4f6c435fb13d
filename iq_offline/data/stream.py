"""Reading a Minari dataset from disk, one episode in memory at a time, without building its environment.

HDF5 is read directly: Minari's own iteration decodes ``infos`` and rewards that nothing here wants. Other formats go
through Minari. Rewards are read by :func:`episode_returns` alone, which training never calls.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import gymnasium
import h5py
import numpy as np
from minari import MinariDataset
from minari.dataset.minari_storage import MinariStorage
from minari.serialization import deserialize_space

from iq_offline.errors import UserError


@dataclass(frozen=True)
class Source:
    """A dataset on disk: its metadata, read once, and no data yet."""

    id: str
    path: Path
    """The folder that holds ``metadata.json``."""
    metadata: dict[str, Any]
    observation_space: gymnasium.Space
    action_space: gymnasium.Space

    @property
    def total_episodes(self) -> int:
        """Episodes stored."""
        return int(self.metadata["total_episodes"])

    @property
    def total_steps(self) -> int:
        """Transitions stored, over all episodes."""
        return int(self.metadata["total_steps"])

    @property
    def environment_id(self) -> str | None:
        """Id of the environment it was recorded in, where the metadata name one."""
        specification = self.metadata.get("env_spec")
        return json.loads(specification).get("id") if specification else None


@dataclass(frozen=True)
class EpisodeArrays:
    """One episode: T+1 observations, T actions and terminations."""

    observations: np.ndarray
    actions: np.ndarray
    terminations: np.ndarray


def open_source(path: Path) -> Source:
    """Read a dataset's metadata.

    Raises:
        UserError: not a Minari dataset, no spaces in it, or no episodes.
    """
    try:
        metadata = MinariStorage.read_raw_metadata(path)
        identifier = str(metadata["dataset_id"])
        spaces = [metadata.get(name) for name in ("observation_space", "action_space")]
        if None in spaces:
            raise UserError(f"{identifier}: metadata.json lacks its spaces, and training builds no environment to ask")
        observation_space, action_space = (cast(gymnasium.Space, deserialize_space(str(space))) for space in spaces)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"{path} is not a readable Minari dataset ({type(error).__name__}: {error})") from error
    source = Source(identifier, path, metadata, observation_space, action_space)
    if not metadata.get("total_episodes") or not metadata.get("total_steps"):
        raise UserError(f"{identifier} is empty: it holds no episodes")
    return source


def episodes(source: Source) -> Iterator[EpisodeArrays]:
    """All episodes in the order of their ids, each checked for its lengths.

    Raises:
        UserError: a file is cut or damaged, an episode is missing, or its lengths do not fit together.
    """
    read = _hdf5_episodes if source.metadata.get("data_format", "hdf5") == "hdf5" else _minari_episodes
    for index, episode in enumerate(_with_clear_errors(read(source), source)):
        steps = len(episode.actions)
        if len(episode.observations) != steps + 1 or len(episode.terminations) != steps:
            raise UserError(
                f"{source.id}: episode {index} has {len(episode.observations)} observations, {steps} actions and "
                f"{len(episode.terminations)} terminations; a Minari episode of T steps has T+1, T and T"
            )
        yield episode


def episode_returns(source: Source) -> np.ndarray:
    """Sum of rewards of each episode, shape ``(episodes,)``: for reference scores and tables, never for training."""

    def read() -> Iterator[float]:
        if source.metadata.get("data_format", "hdf5") == "hdf5":
            with h5py.File(source.path / "main_data.hdf5") as file:
                for index in range(source.total_episodes):
                    yield float(np.sum(file[f"episode_{index}"]["rewards"][()]))  # type: ignore[index]
        else:
            for episode in MinariDataset(source.path).iterate_episodes():
                yield float(np.sum(episode.rewards))

    return np.array(list(_with_clear_errors(read(), source)))


def _hdf5_episodes(source: Source) -> Iterator[EpisodeArrays]:
    with h5py.File(source.path / "main_data.hdf5") as file:
        for index in range(source.total_episodes):
            names = ("observations", "actions", "terminations")
            yield EpisodeArrays(*(_hdf5_array(file, f"episode_{index}/{name}") for name in names))


def _hdf5_array(file: h5py.File, name: str) -> np.ndarray:
    """A whole array. By h5py's low-level interface: its objects cost as much as reading a short episode."""
    try:
        dataset = h5py.h5d.open(file.id, name.encode())
    except KeyError as error:
        raise KeyError(f"no {name}: {error}") from error
    array = np.empty(dataset.shape, dataset.dtype)
    dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
    return array


def _minari_episodes(source: Source) -> Iterator[EpisodeArrays]:
    dataset = MinariDataset(source.path)
    recorded = dataset.storage.get_episode_metadata(range(source.total_episodes))
    for episode, about in zip(dataset.iterate_episodes(), recorded, strict=True):
        if len(episode.actions) != about["total_steps"]:
            raise UserError(
                f"{source.id}: episode {episode.id} comes back with {len(episode.actions)} of its "
                f"{about['total_steps']} steps (Minari cuts Arrow episodes over 32,767 steps): store it as HDF5"
            )
        yield EpisodeArrays(*map(np.asarray, (episode.observations, episode.actions, episode.terminations)))


def _with_clear_errors(items: Iterator[Any], source: Source) -> Iterator[Any]:
    try:
        yield from items
    except (OSError, LookupError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{source.id}: the file in {source.path} is cut or damaged ({error}); download or build it again"
        ) from error
