"""The tensors of a dataset, converted once and memory-mapped ever after.

A cache is a memory-mapped TensorDict (``TensorDict.load_memmap`` opens it) of R = steps + episodes rows:

    observation_I  (R, size of leaf I)  float32, uint8 or int64   T+1 rows an episode, stored once
    action         (R, action size)     float32, or int64         the last row of an episode is zero and never sampled
    terminated     (R,)                 float32                   1 where the episode ended for good in the next row

(one ``observation_I`` for each leaf of the observation space that holds numbers, in its order: ``spaces.Leaf``)
and a manifest: what it was made from, the episodes' lengths, the sizes of its files. It is filled in a temporary
folder (:mod:`iq_offline.data.ingest`) and renamed at the end; of two processes that build it at once both end up with a
whole one, and what a killed process left is gone on with.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tensordict import TensorDict
from torch import Tensor

from iq_offline.data.ingest import Progress, ingest, require_finite
from iq_offline.data.spaces import Leaf
from iq_offline.data.stream import UNREADABLE, Source, learnable_leaves
from iq_offline.errors import UserError
from iq_offline.files import (
    LOCK,
    cache_folder,
    disk_errors,
    remove_unused,
    remove_whole,
    resumable_folder,
    write_atomically,
)

LAYOUT = 4
MANIFEST = "manifest.json"
NAME = re.compile(r"[0-9a-f]{20}|\.[0-9a-f]{20}\.\w+")
"""Of a cache's folder, and of the temporary one it is filled in."""


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

    def require_finite(self, leaves: Sequence[Leaf]) -> None:
        """Stop where an observation that is read is not finite.

        Raises:
            UserError: one of these leaves is not throughout.
        """
        require_finite(self.source, self.manifest, [leaf.name for leaf in leaves])

    def longest(self) -> int:
        """Transitions of the longest episode."""
        return int(self.lengths.max())

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
    promise = (
        f" (its metadata promise {source.total_steps:,} steps; iq-offline datasets check {source.id} says whether its "
        "file holds them)"
    )
    for _ in range(3):  # Another process may remove a damaged cache just when this one has mended it.
        found = _opened(source, folder)
        if found is not None:
            return found
        with disk_errors("caching " + source.id, cache_folder(), promise):
            if folder.exists() and _opened(source, folder) is None:
                remove_whole(folder)
            with resumable_folder(folder) as temporary:
                facts = ingest(source, temporary, on_progress)
                sizes = {file.name: file.stat().st_size for file in sorted(temporary.iterdir()) if file.name != LOCK}
                write_atomically(temporary / MANIFEST, json.dumps(fingerprint | facts | {"files": sizes}))
    raise UserError(f"the cache {folder} is damaged as soon as it is written: check the disk")


def clear() -> int:
    """Delete every cache, also half-written ones, but those that a process is filling. Returns the bytes freed."""
    before = size()
    for cache in _caches():
        remove_unused(cache)
    return before - size()


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


def _opened(source: Source, folder: Path) -> CachedSource | None:
    """The cache, if every file that its manifest names is there with its size and can be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        sizes = {name: (folder / name).stat().st_size for name in manifest["files"]}
        if sizes != manifest["files"]:
            return None
        mapped = TensorDict.load_memmap(folder)
        steps = {str(name): mapped[name].as_subclass(Tensor) for name in mapped.keys()}  # noqa: SIM118
        return CachedSource(source, steps, np.array(manifest["lengths"], np.int64), manifest)
    except UNREADABLE:
        return None
