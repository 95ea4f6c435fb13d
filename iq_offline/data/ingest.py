"""Filling the files of a cache from a dataset, one episode in memory at a time, so that it can be gone on with."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from iq_offline.data.actions import ActionBranches, check_actions, has_finite_actions
from iq_offline.data.spaces import Leaf, chosen_leaves
from iq_offline.data.stream import EpisodeArrays, Source, episodes, learnable_leaves
from iq_offline.errors import UserError
from iq_offline.files import write_atomically

Progress = Callable[[int, int], None]
"""Called with (episodes done, episodes in all)."""

JOURNAL = "journal.json"
JOURNAL_EVERY = 64_000_000
"""Bytes between two moments from which a killed ingestion goes on."""


def ingest(source: Source, folder: Path, on_progress: Progress = lambda done, total: None) -> dict[str, Any]:
    """Write the row files of a cache (see :mod:`iq_offline.data.cache`) into a folder that is empty or was begun.

    Returns:
        What the manifest says of the data: the names of the leaves, the episodes' lengths, the range of the actions.

    Raises:
        UserError: the data cannot be learned from, have no finite actions or no leaf that is finite throughout, or are
            not what their metadata say.
    """
    check_actions(source.action_space, source.id)
    leaves = learnable_leaves(source)
    if not leaves:
        chosen_leaves(source.observation_space, (), source.id)  # Raises, naming what is there instead.
    rows = source.total_steps + source.total_episodes
    branches = ActionBranches(source.action_space) if has_finite_actions(source.action_space) else None
    width = int(np.prod(cast(tuple[int, ...], source.action_space.shape)))
    one_row = {f"observation_{i}": torch.zeros(leaf.size, dtype=leaf.dtype) for i, leaf in enumerate(leaves)}
    one_row["action"] = torch.zeros(width, dtype=torch.int64 if branches else torch.float32)
    one_row["terminated"] = torch.zeros(())

    for half_written in folder.glob(".*"):  # By a process that was killed in the middle of its journal.
        half_written.unlink()
    state = _begun(folder, one_row, rows) or _begin(folder, one_row, rows, width)
    unsaved = 0
    with ExitStack() as stack:
        files = [stack.enter_context(open(folder / f"{name}.memmap", "r+b")) for name in one_row]
        for file, value in zip(files, one_row.values(), strict=True):
            file.seek(state.rows * value.nbytes)
        for position, episode in enumerate(episodes(source, first=len(state.lengths)), start=len(state.lengths)):
            steps = len(episode.actions)
            if state.rows + steps + 1 > rows:
                state.lengths.append(steps)  # More than was promised: said below.
                break
            _check_shapes(source, leaves, position, episode)
            try:
                observations = [leaf.stored(episode.observations[leaf.name]) for leaf in leaves]
                actions = _action_rows(episode.actions, branches, width)
                terminated = _terminated_rows(episode.terminations)
            except (ValueError, TypeError) as error:
                raise UserError(f"{source.id}: episode {source.episode_ids[position]} holds {error}") from error
            named = dict(zip((leaf.name for leaf in leaves), observations, strict=True))
            state.add(source.episode_ids[position], named, actions)
            for file, array in zip(files, (*observations, actions, terminated), strict=True):
                file.write(array.data)
                unsaved += array.nbytes
            on_progress(position + 1, source.total_episodes)
            if unsaved > JOURNAL_EVERY:
                _save(folder, state, files)
                unsaved = 0
    state.require_finite(source, [leaf.name for leaf in leaves])
    if (len(state.lengths), sum(state.lengths)) != (source.total_episodes, source.total_steps):
        raise UserError(
            f"{source.id}: its metadata promise {source.total_episodes} episodes of {source.total_steps} steps in "
            f"all, its file holds {len(state.lengths)} of {sum(state.lengths)}: it was cut; download or build it again"
        )
    (folder / JOURNAL).unlink(missing_ok=True)
    return {
        "observations": {f"observation_{i}": leaf.name for i, leaf in enumerate(leaves)},
        "action_min": state.action_min,
        "action_max": state.action_max,
        "lengths": state.lengths,
        "not_finite": state.not_finite,
    }


def require_finite(source: Source, manifest: dict[str, Any], names: Sequence[str]) -> None:
    """Stop where an observation that is read is not finite: nothing can be learned around it unseen.

    Args:
        source: of the data.
        manifest: what was counted when they were ingested.
        names: of the leaves that are read.

    Raises:
        UserError: one is not. Those that are can be read without it.
    """
    not_finite: dict[str, list[int]] = manifest["not_finite"]
    bad = [name for name in names if name in not_finite]
    if not bad:
        return
    good = [name for name in manifest["observations"].values() if name not in not_finite]
    words = _words_of([(name, not_finite[name]) for name in bad], source)
    raise UserError(f"{words}; observation_keys = {json.dumps(good)} leaves them out")


@dataclass
class _State:
    """How far an ingestion has come, and what it has counted."""

    action_min: list[float]
    action_max: list[float]
    lengths: list[int] = field(default_factory=list)
    rows: int = 0
    not_finite: dict[str, list[int]] = field(default_factory=dict)
    """Of each leaf that is not finite throughout: how many numbers are not, and the episode of the first of them."""
    not_finite_actions: list[int] = field(default_factory=list)
    """The same, empty where all are finite."""

    def add(self, episode: int, observations: dict[str, np.ndarray], actions: np.ndarray) -> None:
        """Count one episode's rows."""
        self.lengths.append(len(actions) - 1)
        self.rows += len(actions)
        for name, array in observations.items():
            if counted := _counted(self.not_finite.get(name, []), array, episode):
                self.not_finite[name] = counted
        self.not_finite_actions = _counted(self.not_finite_actions, actions, episode)
        if len(actions) > 1:
            self.action_min = np.minimum(self.action_min, actions[:-1].min(0)).tolist()
            self.action_max = np.maximum(self.action_max, actions[:-1].max(0)).tolist()

    def require_finite(self, source: Source, names: Sequence[str]) -> None:
        """Stop where an action is not, or something in each of the leaves: whatever is read, nothing can be learned."""
        if self.not_finite_actions or self.not_finite.keys() >= set(names):
            actions = {"actions": self.not_finite_actions} if self.not_finite_actions else {}
            raise UserError(_words_of([*self.not_finite.items(), *actions.items()], source))


def _counted(before: list[int], array: np.ndarray, episode: int) -> list[int]:
    """With an episode's numbers that are NaN or infinite. Their sum is much faster, and finite wherever all are."""
    if array.dtype != np.float32 or np.isfinite(array.sum(dtype=np.float64)):
        return before
    count, first = before or (0, episode)
    return [count + array.size - int(np.isfinite(array).sum()), first]


def _words_of(found: Sequence[tuple[str, list[int]]], source: Source) -> str:
    counts = " and ".join(f"{count} in {name}" for name, (count, _) in found)
    first = min(first for _, (_, first) in found)
    return f"{source.id} holds values that are not finite: {counts}, first in episode {first}"


def _begin(folder: Path, one_row: dict[str, Tensor], rows: int, width: int) -> _State:
    """Reserve the files.

    What cannot fit is not begun: to reserve it, some systems first take all the space that others need.
    """
    for left in folder.glob("*.memmap"):  # By a process that was killed before its first journal.
        left.unlink()
    if rows * sum(value.nbytes for value in one_row.values()) > shutil.disk_usage(folder).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    with ExitStack() as stack:
        for name, value in one_row.items():  # A full disk is an error here; in a memory map it would be a fatal signal.
            file = stack.enter_context(open(folder / f"{name}.memmap", "wb"))
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, max(rows * value.nbytes, 1))
            else:  # macOS
                file.truncate(rows * value.nbytes)
    TensorDict({name: value.expand(rows, *value.shape) for name, value in one_row.items()}, [rows]).memmap_like(folder)
    return _State([np.inf] * width, [-np.inf] * width)


def _begun(folder: Path, one_row: dict[str, Tensor], rows: int) -> _State | None:
    """Where a killed ingestion can be gone on with, if it left such a place."""
    try:
        journal = json.loads((folder / JOURNAL).read_text())
        sizes = [(folder / f"{name}.memmap").stat().st_size for name in one_row]
        believed = journal["digest"] == _digest(folder, journal)
        state = _State(**journal["state"])
    except (OSError, ValueError, TypeError, LookupError):
        return None
    return state if believed and sizes == [rows * value.nbytes for value in one_row.values()] else None


def _save(folder: Path, state: _State, files: Sequence[BinaryIO]) -> None:
    for file in files:
        file.flush()
        os.fsync(file.fileno())
    journal = {"state": asdict(state)}
    write_atomically(folder / JOURNAL, json.dumps(journal | {"digest": _digest(folder, journal)}))


def _digest(folder: Path, journal: dict[str, Any]) -> str:
    """Of all that a journal says, of the folder it was written for (named for the cache), and of its meta.json."""
    what = [folder.name, (folder / "meta.json").read_text(), journal["state"]]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _check_shapes(source: Source, leaves: Sequence[Leaf], position: int, episode: EpisodeArrays) -> None:
    arrays = [(f"observations {leaf.name}", episode.observations[leaf.name], leaf.shape) for leaf in leaves]
    arrays += [("actions", episode.actions, source.action_space.shape), ("terminations", episode.terminations, ())]
    for name, array, expected in arrays:
        if array.dtype.kind not in "biuf":
            raise UserError(
                f"{source.id}: episode {source.episode_ids[position]} holds {name} of type {array.dtype}, "
                "which are not numbers"
            )
        if array.shape[1:] != expected:
            raise UserError(
                f"{source.id}: episode {source.episode_ids[position]} holds {name} of shape {array.shape[1:]}, "
                f"its space has {expected}"
            )


def _terminated_rows(terminations: np.ndarray) -> np.ndarray:
    """Stored ends of an episode, with the empty row at its end."""
    rows = np.zeros(len(terminations) + 1, np.float32)
    rows[:-1] = terminations
    if not np.isin(rows, (0, 1)).all():
        raise ValueError("terminations that are neither true nor false")
    return rows


def _action_rows(actions: np.ndarray, branches: ActionBranches | None, width: int) -> np.ndarray:
    """Stored actions of an episode, with the empty row at its end."""
    rows = np.zeros((len(actions) + 1, width), np.int64 if branches else np.float32)
    with np.errstate(over="ignore"):
        rows[:-1] = branches.stored(actions) if branches else actions.reshape(len(actions), width)
    return rows
