"""Episodes as they lie on disk, in whatever state: for looking at a dataset that training might refuse.

``stream.episodes`` stops at the first thing that is wrong. Here every part of every episode is read on its own, and
what cannot be read is named. All of it is read, rewards and seeds as well; no training imports this.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import h5py
import numpy as np

from iq_offline.data.spaces import is_learnable, part_of
from iq_offline.data.stream import UNREADABLE, Source, hdf5_array, hdf5_places, learnable_leaves, storage_of
from iq_offline.errors import UserError

LABELS = ("rewards", "terminations", "truncations")


@dataclass(frozen=True)
class RawEpisode:
    """One episode: whatever of it could be read, with the lengths and shapes it came in."""

    id: int
    observations: dict[str, np.ndarray] = field(default_factory=dict)
    """For each learnable leaf that could be read, by its name."""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """``actions`` (where the action space holds numbers), ``rewards``, ``terminations``, ``truncations``."""
    seed: str | None = None
    promised_steps: int | None = None
    """Its length by its own metadata."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Parts that could not be read, and why; of an observation, ``observations NAME``."""


def raw_episodes(source: Source) -> Iterator[RawEpisode]:
    """Every episode that the metadata promise, one in memory at a time, in the order of the ids.

    Raises:
        UserError: no episode at all can be read, as from a file that was cut.
    """
    read = _hdf5_episodes if source.is_hdf5 else _arrow_episodes
    try:
        yield from read(source)
    except UNREADABLE as error:
        raise UserError(f"{source.id}: the file in {source.path} is cut or damaged ({error})") from error


def _reason(error: BaseException) -> str:
    """Its words in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _metadata(attributes: Any) -> tuple[str | None, int | None]:
    """Seed and length of an episode by its own metadata, where they say."""
    seed, promised = attributes.get("seed"), None
    with suppress(KeyError, TypeError, ValueError):
        promised = int(attributes["total_steps"])
    return None if seed is None else str(seed), promised


def _usable(array: Any) -> np.ndarray:
    """The array, if it is one of numbers."""
    array = np.asarray(array)
    if array.ndim == 0 or array.dtype.kind not in "biuf":
        raise ValueError(f"an array of numbers is wanted, not {array.dtype} of shape {array.shape}")
    return array


def _read(reads: dict[str, Callable[[], Any]], unreadable: dict[str, str], prefix: str = "") -> dict[str, np.ndarray]:
    found = {}
    for name, read in reads.items():
        try:
            found[name] = _usable(read())
        except UNREADABLE as error:
            unreadable[prefix + name] = _reason(error)
    return found


def _hdf5_episodes(source: Source) -> Iterator[RawEpisode]:
    places = hdf5_places(source)
    names = ("actions", *LABELS) if is_learnable(source.action_space) else LABELS
    with h5py.File(source.path / "main_data.hdf5") as file:
        for index in source.episode_ids:
            group = f"episode_{index}"
            unreadable: dict[str, str] = {}
            try:
                seed, promised = _metadata(file[group].attrs)
            except UNREADABLE as error:
                yield RawEpisode(index, unreadable={"episode": _reason(error)})
                continue
            reads = {name: partial(read, file, f"{group}/{path}") for name, (path, read) in places.items()}
            observations = _read(reads, unreadable, "observations ")
            arrays = _read({name: partial(hdf5_array, file, f"{group}/{name}") for name in names}, unreadable)
            yield RawEpisode(index, observations, arrays, seed, promised, unreadable)


def _arrow_episodes(source: Source) -> Iterator[RawEpisode]:
    """Each episode on its own: one that cannot be read does not hide the next."""
    leaves = {leaf.name: leaf for leaf in learnable_leaves(source)}
    names = ("actions", *LABELS) if is_learnable(source.action_space) else LABELS
    storage = storage_of(source)
    for index in source.episode_ids:
        unreadable: dict[str, str] = {}
        try:
            seed, promised = _metadata(next(iter(storage.get_episode_metadata([index]))))
            stored: Any = next(iter(storage.get_episodes([index])))
        except (*UNREADABLE, StopIteration) as error:
            yield RawEpisode(index, unreadable={"episode": _reason(error)})
            continue
        reads = {name: partial(part_of, stored["observations"], leaf.path) for name, leaf in leaves.items()}
        observations = _read(reads, unreadable, "observations ")
        arrays = _read({name: partial(stored.__getitem__, name) for name in names}, unreadable)
        yield RawEpisode(index, observations, arrays, seed, promised, unreadable)
