"""The tensors of a dataset, converted once and memory-mapped ever after.

A cache is a memory-mapped TensorDict (``TensorDict.load_memmap`` opens it) of R = steps + episodes rows:

    observation_I  (R, size of leaf I)  float32, uint8 or int64   T+1 rows an episode, stored once
    action         (R, action size)     float32, or int64         the last row of an episode is zero and never sampled
    terminated     (R,)                 float32                   1 where the episode ended for good in the next row

(one ``observation_I`` for each leaf of the observation space that holds numbers, in its order: ``spaces.Leaf``)
and a manifest: what it was made from, the episodes' lengths, the sizes of its files. It is filled in a temporary
folder, one episode in memory at a time, and renamed at the end; of two processes that build it at once both end up
with a whole one.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from iq_offline.data.actions import ActionBranches, check_actions, has_finite_actions
from iq_offline.data.spaces import Leaf, chosen_leaves
from iq_offline.data.stream import EpisodeArrays, Source, episodes, learnable_leaves
from iq_offline.errors import UserError
from iq_offline.files import cache_folder, disk_errors, new_folder, write_atomically

LAYOUT = 2
MANIFEST = "manifest.json"
NAME = re.compile(r"[0-9a-f]{20}|\.[0-9a-f]{20}\.\w+")
"""Of a cache's folder, and of the temporary one it is filled in."""

Progress = Callable[[int, int], None]
"""Called with (episodes done, episodes in all)."""


@dataclass(frozen=True)
class CachedSource:
    """A dataset as tensors on disk, shared by every run that reads it."""

    source: Source
    steps: dict[str, Tensor]
    """Row tensors, memory-mapped: see the head of this file."""
    lengths: np.ndarray
    """Transitions of each episode, shape ``(episodes,)``."""
    manifest: dict[str, Any]

    def column(self, leaf: Leaf) -> str:
        """The key in ``steps`` that holds this leaf of the observations."""
        return f"observation_{[one.name for one in learnable_leaves(self.source)].index(leaf.name)}"

    @cached_property
    def starts(self) -> np.ndarray:
        """Row of each episode's first observation, shape ``(episodes,)``."""
        return np.concatenate([[0], np.cumsum(self.lengths[:-1] + 1)])


def cached(source: Source, on_progress: Progress = lambda done, total: None) -> CachedSource:
    """Open the cache of a dataset, making it first where it is missing, outdated or damaged.

    Raises:
        UserError: the data cannot be learned from, hold values that are not finite, or do not fit on the disk.
    """
    fingerprint = _fingerprint(source)
    key = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:20]
    folder = cache_folder() / key
    for _ in range(3):  # Another process may remove a damaged cache just when this one has mended it.
        manifest = _whole_manifest(folder)
        if manifest is not None:
            break
        with disk_errors("caching " + source.id, cache_folder()):
            shutil.rmtree(folder, ignore_errors=True)
            with new_folder(folder) as temporary:
                _fill(source, temporary, fingerprint, on_progress)
    else:
        raise UserError(f"the cache {folder} is damaged as soon as it is written: check the disk")
    mapped = TensorDict.load_memmap(folder)
    steps = {str(name): mapped[name].as_subclass(Tensor) for name in mapped.keys()}  # noqa: SIM118
    return CachedSource(source, steps, np.array(manifest["lengths"], np.int64), manifest)


def clear() -> int:
    """Delete every cache, also half-written ones. Returns the bytes freed."""
    freed = size()
    for cache in _caches():
        shutil.rmtree(cache)
    return freed


def size() -> int:
    """Bytes of all caches."""
    return sum(file.stat().st_size for cache in _caches() for file in cache.rglob("*") if file.is_file())


def _caches() -> list[Path]:
    """The folders that this module made, by their names: nothing else in the cache folder is ever touched."""
    folder = cache_folder()
    entries = folder.iterdir() if folder.is_dir() else ()
    return [entry for entry in entries if NAME.fullmatch(entry.name) and entry.is_dir()]


def _fingerprint(source: Source) -> dict[str, Any]:
    """What a cache is the cache of: another size or time of the files is another dataset."""
    files = sorted(file for file in source.path.rglob("*") if file.is_file())
    sizes = [(file.relative_to(source.path).as_posix(), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    digest = hashlib.sha256(json.dumps(sizes).encode()).hexdigest()
    about = {"layout": LAYOUT, "dataset": source.id, "path": str(source.path.resolve()), "files": digest}
    return about if source.view is None else about | {"view": list(source.view)}


def _whole_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest, if every file it names is there with its size."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        sizes = {name: (folder / name).stat().st_size for name in manifest["files"]}
    except (OSError, ValueError, KeyError):
        return None
    return manifest if sizes == manifest["files"] else None


def _check_shapes(source: Source, leaves: list[Leaf], index: int, episode: EpisodeArrays) -> None:
    arrays = [(f"observations {leaf.name}", episode.observations[leaf.name], leaf.shape) for leaf in leaves]
    for name, array, expected in (*arrays, ("actions", episode.actions, source.action_space.shape)):
        if array.shape[1:] != expected:
            raise UserError(
                f"{source.id}: episode {index} holds {name} of shape {array.shape[1:]}, its space has {expected}"
            )


def _fill(source: Source, folder: Path, fingerprint: dict[str, Any], on_progress: Progress) -> None:
    space = source.action_space
    check_actions(space, source.id)
    leaves = learnable_leaves(source)
    if not leaves:
        chosen_leaves(source.observation_space, (), source.id)  # Raises, naming what is there instead.
    branches = ActionBranches(space) if has_finite_actions(space) else None
    width = int(np.prod(cast(tuple[int, ...], space.shape)))
    rows = source.total_steps + source.total_episodes
    empty = {f"observation_{i}": torch.zeros(leaf.size, dtype=leaf.dtype) for i, leaf in enumerate(leaves)}
    empty["action"] = torch.zeros(width, dtype=torch.int64 if branches else torch.float32)
    empty["terminated"] = torch.zeros(())
    with ExitStack() as stack:
        for name, value in empty.items():  # A full disk is an error here; in a memory map it would be a fatal signal.
            file = stack.enter_context(open(folder / f"{name}.memmap", "wb"))
            os.posix_fallocate(file.fileno(), 0, rows * value.numel() * value.element_size())
    TensorDict({name: value.expand(rows, *value.shape) for name, value in empty.items()}, [rows]).memmap_like(folder)

    tally = _Tally(source)
    lengths: list[int] = []
    filled = 0
    with ExitStack() as stack:
        files = [stack.enter_context(open(folder / f"{name}.memmap", "r+b")) for name in empty]
        for index, episode in enumerate(episodes(source)):
            steps = len(episode.actions)
            lengths.append(steps)
            filled += steps + 1
            if filled > rows:
                break
            _check_shapes(source, leaves, index, episode)
            try:
                observations = [leaf.stored(episode.observations[leaf.name]) for leaf in leaves]
                actions = _action_rows(episode.actions, branches, width)
            except ValueError as error:
                raise UserError(f"{source.id}: episode {index} holds {error}") from error
            terminated = np.zeros(steps + 1, np.float32)
            terminated[:-1] = episode.terminations
            tally.count(index, observations, actions)
            for file, array in zip(files, (*observations, actions, terminated), strict=True):
                file.write(array.data)
            on_progress(index + 1, source.total_episodes)
    tally.require_finite()
    if (len(lengths), sum(lengths)) != (source.total_episodes, source.total_steps):
        raise UserError(
            f"{source.id}: its metadata promise {source.total_episodes} episodes of {source.total_steps} steps in "
            f"all, its file holds {len(lengths)} of {sum(lengths)}: it was cut; download or build it again"
        )
    manifest = fingerprint | {
        "observations": {f"observation_{i}": leaf.name for i, leaf in enumerate(leaves)},
        "action_min": tally.action_min.tolist(),
        "action_max": tally.action_max.tolist(),
        "files": {file.name: file.stat().st_size for file in folder.iterdir()},
        "lengths": lengths,
    }
    write_atomically(folder / MANIFEST, json.dumps(manifest))


def _action_rows(actions: np.ndarray, branches: ActionBranches | None, width: int) -> np.ndarray:
    """Stored actions of an episode, with the empty row at its end."""
    rows = np.zeros((len(actions) + 1, width), np.int64 if branches else np.float32)
    with np.errstate(over="ignore"):
        rows[:-1] = branches.stored(actions) if branches else actions.reshape(len(actions), width)
    return rows


class _Tally:
    """What is counted while a cache is filled: values that are not finite, and the range of the actions."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.not_finite = {"observations": 0, "actions": 0}
        self.first_bad: int | None = None
        width = int(np.prod(cast(tuple[int, ...], source.action_space.shape)))
        self.action_min, self.action_max = np.full(width, np.inf), np.full(width, -np.inf)

    def count(self, index: int, observations: list[np.ndarray], actions: np.ndarray) -> None:
        """Look at one episode's stored rows."""
        for name, arrays in (("observations", observations), ("actions", [actions])):
            for array in arrays:
                if array.dtype == np.float32 and not np.isfinite(array.sum(dtype=np.float64)):
                    self.not_finite[name] += array.size - int(np.isfinite(array).sum())
                    self.first_bad = index if self.first_bad is None else self.first_bad
        if len(actions) > 1:
            self.action_min = np.minimum(self.action_min, actions[:-1].min(0))
            self.action_max = np.maximum(self.action_max, actions[:-1].max(0))

    def require_finite(self) -> None:
        """Stop where a value is not: nothing can be learned around it unseen."""
        if self.first_bad is not None:
            counts = " and ".join(f"{count} in {name}" for name, count in self.not_finite.items() if count)
            where = self.source.episode_ids[self.first_bad]
            raise UserError(f"{self.source.id} holds values that are not finite: {counts}, first in episode {where}")
