"""Helpers for the tests of the data path and of whole commands: odd datasets, small disks, real processes."""

import hashlib
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium.spaces import Dict, Text, Tuple
from minari.data_collector import EpisodeBuffer

from iq_offline.data.cache import CachedSource, cached
from iq_offline.data.stream import Source, open_source, view_of
from iq_offline.data.views import name_of, parsed
from tests.helpers import Episode, point_mass_dataset, write_dataset
from tests.warm import CHECKOUT

QUICK = ("--gradient-steps", "20", "--hidden-sizes", "8", "--batch-size", "8", "--checkpoint-every", "10")
"""A training of a moment."""

PROGRESS = re.compile(r"(training|recording|caching|evaluating) \S+: \d+/\d+")
"""Lines of progress on stderr."""

NOTES = ("trained, but not evaluated: ", "note: ")
"""How lines on stderr begin that are neither progress nor errors."""


def source_of(view: minari.MinariDataset) -> Source:
    """A filtered or split view as its name says it."""
    return view_of(open_source(Path(str(view.storage.data_path))), parsed(name_of(view))[1])


def random_episodes(
    generator: np.random.Generator,
    lengths: Sequence[int],
    observation_shape: tuple[int, ...] = (3,),
    action_shape: tuple[int, ...] = (2,),
    dtype: type = np.float64,
) -> list[Episode]:
    """Episodes of random numbers; about half end in a terminal state, some are also truncated there."""
    episodes = []
    for length in lengths:
        terminations, truncations = np.zeros(length, bool), np.zeros(length, bool)
        terminations[-1] = generator.random() < 0.5
        truncations[-1] = not terminations[-1] or generator.random() < 0.2
        episodes.append(
            (
                generator.standard_normal((length + 1, *observation_shape)).astype(dtype),
                generator.uniform(-1, 1, (length, *action_shape)).astype(np.float32),
                generator.standard_normal(length),
                terminations,
                truncations,
            )
        )
    return episodes


def counting_episodes(lengths: Sequence[int], terminated: Sequence[bool] | None = None) -> list[Episode]:
    """Episodes whose numbers say where they stand: observation t of episode e is (e, t), its action (e/100, t/1000)."""
    episodes = []
    for index, length in enumerate(lengths):
        times = np.arange(length + 1)
        last = times[1:] == length
        ends = last if terminated is None or terminated[index] else np.zeros(length, bool)
        episodes.append(
            (
                np.stack([np.full(length + 1, index), times], -1).astype(np.float64),
                np.stack([np.full(length, index / 100), times[:-1] / 1000], -1).astype(np.float32),
                np.full(length, np.nan),
                ends,
                last & ~ends,
            )
        )
    return episodes


def cached_dataset(identifier: str, episodes: Sequence[Episode], **options: Any) -> CachedSource:
    """Write a dataset and open its cache."""
    return cached(open_source(write_dataset(identifier, episodes, **options)))


def stacked_samples(space: gymnasium.Space, count: int) -> Any:
    """Samples as Minari buffers hold them: an array a leaf, dictionaries and tuples outside, texts in a list."""
    if isinstance(space, Dict):
        return {key: stacked_samples(part, count) for key, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(stacked_samples(part, count) for part in space.spaces)
    samples = [space.sample() for _ in range(count)]
    return samples if isinstance(space, Text) else np.array(samples)


def write_spaces_dataset(
    identifier: str,
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    episodes: int = 2,
    steps: int = 5,
    lengths: Sequence[int] = (),
    seed: int = 0,
    **options: Any,
) -> Path:
    """Write a Minari dataset of samples from any spaces; every other episode ends in a terminal state.

    Args:
        identifier: such as ``test/any-v0``.
        observation_space: of the dataset.
        action_space: of the dataset.
        episodes: how many, where ``lengths`` are not given.
        steps: of each of these.
        lengths: steps of each episode.
        seed: of the samples.
        options: of ``minari.create_dataset_from_buffers``.

    Returns:
        The folder that holds ``metadata.json``.
    """
    observation_space.seed(seed)
    action_space.seed(seed)
    buffers = []
    for index, length in enumerate(lengths or [steps] * episodes):
        ends = [False] * (length - 1)
        buffers.append(
            EpisodeBuffer(
                id=index,
                seed=index,
                observations=stacked_samples(observation_space, length + 1),
                actions=stacked_samples(action_space, length),
                rewards=[0.0] * length,
                terminations=[*ends, index % 2 == 1],
                truncations=[*ends, index % 2 == 0],
            )
        )
    return write_buffers(identifier, buffers, observation_space, action_space, **options)


def write_buffers(
    identifier: str,
    buffers: list[EpisodeBuffer],
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    **options: Any,
) -> Path:
    """Write a Minari dataset; returns the folder that holds ``metadata.json``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = minari.create_dataset_from_buffers(
            identifier, buffers, observation_space=observation_space, action_space=action_space, **options
        )
    return Path(str(dataset.storage.data_path))


def change_metadata(folder: Path, **changes: Any) -> None:
    """Set keys of a dataset's metadata; None removes one."""
    file = folder / "metadata.json"
    metadata = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in metadata.items() if value is not None}))


def stored_episode(file: h5py.File, index: int) -> h5py.Group:
    """An episode's group in a dataset's HDF5 file, to look into or to damage."""
    return cast(h5py.Group, file[f"episode_{index}"])


def stored_array(file: h5py.File, index: int, name: str) -> h5py.Dataset:
    """An array of an episode in a dataset's HDF5 file."""
    return cast(h5py.Dataset, stored_episode(file, index)[name])


def small_dataset(identifier: str = "test/small-v0", episodes: int = 3, **options: Any) -> Source:
    """A point-mass dataset of 20 steps an episode; it names no environment."""
    return open_source(point_mass_dataset(identifier, episodes, 20, 0, **options))


def snapshot(*folders: Path) -> dict[str, str]:
    """Every file below the folders, with a hash of its content; folders with none."""
    found = {}
    for folder in folders:
        for path in folder.rglob("*"):
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return found


@contextmanager
def tmpfs(path: Path, size: str = "16m") -> Iterator[Path]:
    """A small disk of its own at ``path``; skips the test where mounting is not permitted."""
    path.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(path)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip(f"mounting a small disk is not permitted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, capture_output=True)


def make_read_only(path: Path) -> None:
    """Remount a disk made by :func:`tmpfs` so that nobody can write on it, root included."""
    subprocess.run(["mount", "-o", "remount,ro", str(path)], check=True, capture_output=True)


def python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the tests' Python with these arguments from the checkout; the environment is the test's."""
    options = {"check": False, "cwd": CHECKOUT, "capture_output": True, "text": True, "timeout": 300} | options
    return subprocess.run([sys.executable, *arguments], **options)  # noqa: PLW1510


def start_python(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """The same without waiting for the end."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        **options,
    )


def the_error(stderr: str) -> str:
    """The one error line of a failed command, after checking that it is the only one and no traceback is near."""
    lines = [line for line in stderr.splitlines() if not PROGRESS.match(line) and not line.startswith(NOTES)]
    assert len(lines) == 1, f"not one line:\n{stderr}"
    assert lines[0].startswith("error: "), stderr
    assert "(a bug; --debug shows where)" not in lines[0], stderr
    return lines[0]
