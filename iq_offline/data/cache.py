"""The tensors of a dataset, converted once and memory-mapped ever after.

A cache is a memory-mapped TensorDict (``TensorDict.load_memmap`` opens it) of R = steps + episodes rows:

    observation  (R, observation size) float32    T+1 rows an episode, stored once
    action       (R, action size)      float32    the last row of an episode is zero and never sampled
    terminated   (R,)                  float32    1 where the episode ended for good in the next row

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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from iq_offline.data.spaces import check_learnable
from iq_offline.data.stream import EpisodeArrays, Source, episodes
from iq_offline.errors import UserError
from iq_offline.files import cache_folder, disk_errors, new_folder, write_atomically

LAYOUT = 1
MANIFEST = "manifest.json"
NAME = re.compile(r"[0-9a-f]{20}|\.[0-9a-f]{20}\.\w+")
"""Of a cache's folder, and of the temporary one it is filled in."""
LEAVES = ("observation", "action", "terminated")

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

    @property
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
    steps = {name: mapped[name].as_subclass(Tensor) for name in LEAVES}
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
    return {"layout": LAYOUT, "dataset": source.id, "path": str(source.path.resolve()), "files": digest}


def _whole_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest, if every file it names is there with its size."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        sizes = {name: (folder / name).stat().st_size for name in manifest["files"]}
    except (OSError, ValueError, KeyError):
        return None
    return manifest if sizes == manifest["files"] else None


def _check_shapes(source: Source, index: int, episode: EpisodeArrays) -> None:
    for name, array in (("observation", episode.observations), ("action", episode.actions)):
        expected = getattr(source, f"{name}_space").shape
        if array.shape[1:] != expected:
            raise UserError(
                f"{source.id}: episode {index} holds {name}s of shape {array.shape[1:]}, its space has {expected}"
            )


def _fill(source: Source, folder: Path, fingerprint: dict[str, Any], on_progress: Progress) -> None:
    observation_space, action_space = check_learnable(source)
    rows = source.total_steps + source.total_episodes
    sizes = int(np.prod(observation_space.shape)), int(np.prod(action_space.shape))
    empty = {"observation": torch.zeros(sizes[0]), "action": torch.zeros(sizes[1]), "terminated": torch.zeros(())}
    with ExitStack() as stack:
        for name, value in empty.items():  # A full disk is an error here; in a memory map it would be a fatal signal.
            file = stack.enter_context(open(folder / f"{name}.memmap", "wb"))
            os.posix_fallocate(file.fileno(), 0, rows * value.numel() * value.element_size())
    TensorDict({name: value.expand(rows, *value.shape) for name, value in empty.items()}, [rows]).memmap_like(folder)

    lengths: list[int] = []
    filled = 0
    not_finite: dict[str, int] = {"observations": 0, "actions": 0}
    outside = 0
    first_bad: int | None = None
    with ExitStack() as stack:
        files = [stack.enter_context(open(folder / f"{name}.memmap", "r+b")) for name in LEAVES]
        for index, episode in enumerate(episodes(source)):
            steps = len(episode.actions)
            lengths.append(steps)
            filled += steps + 1
            if filled > rows:
                break
            _check_shapes(source, index, episode)
            with np.errstate(over="ignore"):
                observations = np.ascontiguousarray(episode.observations.reshape(steps + 1, sizes[0]), np.float32)
                actions = np.zeros((steps + 1, sizes[1]), np.float32)
                actions[:-1] = episode.actions.reshape(steps, sizes[1])
            terminated = np.zeros(steps + 1, np.float32)
            terminated[:-1] = episode.terminations
            for name, array in (("observations", observations), ("actions", actions)):
                if not np.isfinite(array.sum(dtype=np.float64)):
                    not_finite[name] += array.size - int(np.isfinite(array).sum())
                    first_bad = index if first_bad is None else first_bad
            beyond = (episode.actions < action_space.low) | (episode.actions > action_space.high)
            if beyond.any():
                outside += int(beyond.reshape(steps, -1).any(-1).sum())
            for file, array in zip(files, (observations, actions, terminated), strict=True):
                file.write(array.data)
            on_progress(index + 1, source.total_episodes)
    if first_bad is not None:
        counts = " and ".join(f"{count} in {name}" for name, count in not_finite.items() if count)
        raise UserError(f"{source.id} holds values that are not finite: {counts}, first in episode {first_bad}")
    if (len(lengths), sum(lengths)) != (source.total_episodes, source.total_steps):
        raise UserError(
            f"{source.id}: its metadata promise {source.total_episodes} episodes of {source.total_steps} steps in "
            f"all, its file holds {len(lengths)} of {sum(lengths)}: it was cut; download or build it again"
        )
    manifest = fingerprint | {
        "observation_shape": list(observation_space.shape),
        "action_shape": list(action_space.shape),
        "actions_outside_box": outside,
        "files": {file.name: file.stat().st_size for file in folder.iterdir()},
        "lengths": lengths,
    }
    write_atomically(folder / MANIFEST, json.dumps(manifest))
