"""The tensors on disk: equal to Minari's values, made once, never half."""

import errno
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from iq_offline.config import DataConfig, RunConfig
from iq_offline.data import cache
from iq_offline.data.actions import ActionBox
from iq_offline.data.cache import CachedSource, cached
from iq_offline.data.stream import Source, learnable_leaves, open_source
from iq_offline.errors import UserError
from iq_offline.files import cache_folder
from iq_offline.training.setup import Data, choose_data
from tests.data_helpers import (
    cached_dataset,
    change_metadata,
    counting_episodes,
    python,
    random_episodes,
    small_dataset,
    source_of,
    start_python,
    stored_array,
    tmpfs,
    write_spaces_dataset,
)
from tests.helpers import write_dataset

NUMBER = itertools.count()

MAKE = """
import sys
from pathlib import Path
from iq_offline.data.cache import cached
from iq_offline.data.stream import open_source
from iq_offline.errors import UserError
def slowly(done, total):
    print(done, flush=True)
    if len(sys.argv) > 2 and done == 2:
        input()
try:
    data = cached(open_source(Path(sys.argv[1])), slowly)
except UserError as error:
    sys.exit(f"error: {error}")
print("sum", float(data.steps["observation_0"].double().sum()))
"""
"""Make a cache in a process of its own; with a second argument, wait in the middle for a line of input."""


def expected_rows(identifier: str) -> dict[str, np.ndarray]:
    """The cache's rows, put together from Minari's own episodes."""
    rows: dict[str, list[np.ndarray]] = {"observation_0": [], "action": [], "terminated": []}
    for episode in minari.load_dataset(identifier).iterate_episodes():
        steps = len(episode.actions)
        actions = np.asarray(episode.actions).reshape(steps, -1)
        rows["observation_0"].append(np.asarray(episode.observations).reshape(steps + 1, -1))
        rows["action"].append(np.concatenate([actions, np.zeros_like(actions[:1])]))
        rows["terminated"].append(np.append(episode.terminations, False))
    return {name: np.concatenate(parts).astype(np.float32) for name, parts in rows.items()}


def assert_whole(data: CachedSource, identifier: str) -> None:
    """The cache holds what Minari reads, in memory and when opened by any reader of TensorDicts."""
    expected = expected_rows(identifier)
    opened = TensorDict.load_memmap(folder_of(data))
    assert set(data.steps) == set(expected) == set(map(str, opened.keys()))
    for name, values in expected.items():
        assert data.steps[name].dtype == torch.float32
        np.testing.assert_array_equal(data.steps[name].numpy(), values)
        np.testing.assert_array_equal(opened[name].numpy(), values)


def chosen(data: CachedSource, **options: Any) -> Data:
    """All of a dataset, as a run would read it."""
    count = len(data.lengths)
    return choose_data(RunConfig(data=DataConfig(num_expert_trajectories=count, **options)), data, [])


def box_of(data: CachedSource, **options: Any) -> tuple[list[float], list[float]]:
    """The bounds that a run maps to -1 and 1."""
    actions = chosen(data, **options).actions
    assert isinstance(actions, ActionBox)
    return actions.low.tolist(), actions.high.tolist()


def folders() -> list[Path]:
    """Everything in the cache's folder, hidden or not."""
    return sorted(cache_folder().iterdir())


def folder_of(data: CachedSource) -> Path:
    """The only cache there is."""
    visible = [folder for folder in folders() if not folder.name.startswith(".")]
    assert len(visible) == 1
    assert visible[0] / "manifest.json"
    return visible[0]


def changed_times(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    shapes=st.tuples(*[st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple)] * 2),
    dtype=st.sampled_from([np.float32, np.float64]),
    data_format=st.sampled_from(["hdf5"] * 7 + ["arrow"]),
)
def test_cache_holds_minaris_values(
    seed: int,
    lengths: list[int],
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    dtype: type,
    data_format: str,
) -> None:
    identifier = f"test/cached{next(NUMBER)}-v0"
    written = random_episodes(np.random.default_rng(seed), lengths, *shapes, dtype)
    shutil.rmtree(cache_folder())
    data = cached_dataset(identifier, written, data_format=data_format, observation_dtype=dtype)
    assert_whole(data, identifier)
    assert data.lengths.tolist() == lengths
    assert data.starts.tolist() == [sum(length + 1 for length in lengths[:i]) for i in range(len(lengths))]
    assert data.manifest["lengths"] == lengths
    assert data.manifest["observations"] == {"observation_0": "observation"}
    assert list(data.manifest["files"]) == sorted(data.manifest["files"])  # Not as the disk lists them.
    actions = np.concatenate([episode[1].reshape(len(episode[1]), -1) for episode in written])
    assert data.manifest["action_min"] == actions.min(0).tolist()
    assert data.manifest["action_max"] == actions.max(0).tolist()
    assert chosen(data).actions_outside_box == 0


def test_reopened_without_refilling() -> None:
    source = small_dataset()
    first = cached(source)
    before = changed_times(folder_of(first))
    calls: list[int] = []
    second = cached(open_source(source.path), lambda done, total: calls.append(done))
    assert calls == []
    assert changed_times(folder_of(second)) == before
    assert_whole(second, source.id)


def test_progress_counts_episodes() -> None:
    calls: list[tuple[int, int]] = []
    cached(small_dataset(episodes=3), lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_rebuilt_when_the_dataset_changes() -> None:
    source = small_dataset()
    before = cached(source).steps["observation_0"].clone()
    time.sleep(0.02)
    with h5py.File(source.path / "main_data.hdf5", "r+") as file:
        stored_array(file, 0, "observations")[3] = 7.0  # The size stays the same.
    after = cached(open_source(source.path)).steps["observation_0"]
    assert after[3].tolist() == [7.0] * 4
    assert torch.equal(after[4:], before[4:])
    np.testing.assert_array_equal(after.numpy(), expected_rows(source.id)["observation_0"])


def test_rebuilt_when_an_episode_is_added() -> None:
    old = cached_dataset("test/grows-v0", counting_episodes([3, 4]))
    assert old.lengths.tolist() == [3, 4]
    minari.delete_dataset("test/grows-v0")
    new = cached_dataset("test/grows-v0", counting_episodes([3, 4, 5]))
    assert new.lengths.tolist() == [3, 4, 5]
    np.testing.assert_array_equal(new.steps["action"].numpy(), expected_rows("test/grows-v0")["action"])


@pytest.mark.parametrize(
    "damage", ["truncated", "no manifest", "half manifest", "no leaf", "no meta.json", "half meta.json", "empty"]
)
def test_a_damaged_cache_is_made_again(damage: str) -> None:
    source = small_dataset()
    folder = folder_of(cached(source))
    assert (folder / "meta.json").is_file()
    if damage == "truncated":
        os.truncate(folder / "observation_0.memmap", 100)
    elif damage.startswith("no "):
        (folder / {"manifest": "manifest.json", "leaf": "action.memmap"}.get(damage[3:], damage[3:])).unlink()
    elif damage.startswith("half "):
        file = folder / {"manifest": "manifest.json"}.get(damage[5:], damage[5:])
        file.write_bytes(file.read_bytes()[:20])
    else:
        shutil.rmtree(folder)
        folder.mkdir()
    assert_whole(cached(source), source.id)
    assert len(folders()) == 1


def test_killed_while_filling() -> None:
    source = small_dataset(episodes=4)
    process = start_python("-c", MAKE, str(source.path), "wait", stdin=subprocess.PIPE)
    assert process.stdout
    assert [process.stdout.readline().strip() for _ in range(2)] == ["1", "2"]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    left = folders()
    assert all(folder.name.startswith(".") for folder in left), "a half cache stands under its real name"
    assert_whole(cached(source), source.id)
    cache.clear()
    assert folders() == []


@pytest.mark.slow
def test_two_processes_fill_at_the_same_time() -> None:
    """Both are in the middle before either goes on; a third that comes late finds the same cache."""
    source = small_dataset(episodes=4)
    processes = [start_python("-c", MAKE, str(source.path), "wait", stdin=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        assert process.stdout
        assert [process.stdout.readline().strip() for _ in range(2)] == ["1", "2"]
    assert len(folders()) == 2
    outputs = [process.communicate("\n", timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    before = changed_times(folders()[0])
    data = cached(source)
    assert changed_times(folder_of(data)) == before
    assert_whole(data, source.id)
    total = f"sum {float(data.steps['observation_0'].double().sum())}"
    assert [output.splitlines()[-1] for output, _ in outputs] == [total, total]
    assert len(folders()) == 1, "the slower one left its temporary folder"


def test_not_finite_values_are_counted() -> None:
    written = counting_episodes([4, 5, 6])
    written[1][0][2] = np.nan
    written[2][0][0, 1] = np.inf
    written[2][1][3, 0] = -np.inf
    with pytest.raises(UserError, match=r"not finite: 3 in observation and 1 in actions, first in episode 1$"):
        cached_dataset("test/bad-v0", written)
    assert folders() == []


def test_a_leaf_that_is_not_finite_is_in_nobodys_way_who_leaves_it_out() -> None:
    space = Dict({"lidar": Box(0, np.inf, (2,)), "mode": Discrete(3), "state": Box(-1, 1, (3,))})
    folder = write_spaces_dataset("test/lidar-v0", space, Box(-1, 1, (1,)), lengths=[4, 5, 6])
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        stored_array(file, 1, "observations/lidar")[3, 1] = np.inf
        stored_array(file, 2, "observations/lidar")[0] = np.nan
    data = cached(open_source(folder))
    leaves = {leaf.name: leaf for leaf in learnable_leaves(data.source)}
    data.require_finite([leaves["state"], leaves["mode"]])
    with pytest.raises(UserError) as caught:
        data.require_finite(list(leaves.values()))
    assert str(caught.value) == (
        "test/lidar-v0 holds values that are not finite: 3 in lidar, first in episode 1; "
        'observation_keys = ["mode", "state"] leaves them out'
    )
    with pytest.raises(UserError, match="3 in lidar"):
        choose_data(RunConfig(data=DataConfig("test/lidar-v0")), data, [])
    choose_data(RunConfig(data=DataConfig("test/lidar-v0", observation_keys=("state",))), data, [])


def test_numbers_too_large_for_float32_are_not_finite() -> None:
    written = counting_episodes([4])
    written[0][0][1, 1] = 1e39
    with pytest.raises(UserError, match=r"not finite: 1 in observation, first in episode 0$"):
        cached_dataset("test/large-v0", written)


def test_actions_outside_the_box_are_counted_by_row() -> None:
    written = counting_episodes([4, 5])
    written[0][1][1] = (2.0, -2.0)
    written[1][1][4] = (0.0, 1.0001)
    data = cached_dataset("test/outside-v0", written)
    assert chosen(data).actions_outside_box == 2
    assert chosen(data, subsample=10).actions_outside_box <= 2, "only what is chosen counts"
    assert chosen(data, action_low=(-2.0,)).actions_outside_box == 2
    assert chosen(data, action_low=(-2.0,), action_high=(2.0, 1.0)).actions_outside_box == 1
    assert chosen(data, action_high=(2.0, 1.5), action_low=(0.0, -2.0)).actions_outside_box == 0
    assert data.steps["action"][1].tolist() == [2.0, -2.0], "the cache keeps what was recorded"


def test_exact_bounds_are_inside() -> None:
    written = counting_episodes([4])
    written[0][1][:2] = [[1.0, -1.0], [-1.0, 1.0]]
    assert chosen(cached_dataset("test/bounds-v0", written)).actions_outside_box == 0


@pytest.mark.parametrize("promise", [{"total_steps": 61}, {"total_steps": 59}, {"total_episodes": 2}])
def test_a_promise_of_the_metadata_that_is_not_kept(promise: dict[str, int]) -> None:
    source = small_dataset()
    change_metadata(source.path, **promise)
    with pytest.raises(UserError, match="its metadata promise"):
        cached(open_source(source.path))
    assert folders() == []


def test_a_box_of_another_size_than_the_rows() -> None:
    source = small_dataset()
    other = write_dataset("test/other-v0", counting_episodes([3]))
    shape_of_two = json.loads((other / "metadata.json").read_text())["observation_space"]
    change_metadata(source.path, observation_space=shape_of_two)
    with pytest.raises(UserError, match="test/small-v0"):
        cached(open_source(source.path))
    assert folders() == []


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-np.inf, 0.5, ([0.0, 0.0], [0.5, 0.5])),
        (-0.5, np.inf, ([-0.5, -0.5], [0.75, 0.5])),
        (-np.inf, np.inf, ([0.0, 0.0], [0.75, 0.5])),
        ([-np.inf, -2.0], [3.0, np.inf], ([0.0, -2.0], [3.0, 0.5])),
        (1.0, 1.0, ([0.0, 0.0], [2.0, 2.0])),
    ],
    ids=["low", "high", "both", "each", "flat"],
)
def test_missing_bounds_are_the_range_of_the_recorded_actions(
    low: Any, high: Any, expected: tuple[list[float], list[float]]
) -> None:
    """Also of those episodes that a run does not choose; a dimension without width gets one."""
    written = counting_episodes([3, 2])
    written[0][1][:] = [[0.25, 0.5], [0.0, 0.125], [0.5, 0.0]]
    written[1][1][:] = [[0.75, 0.25], [0.5, 0.375]]
    assert box_of(cached_dataset("test/box-v0", written, low=low, high=high)) == expected


def test_integer_observations_are_kept_as_they_are() -> None:
    path = write_spaces_dataset("test/bytes-v0", Box(0, 255, (3,), np.uint8), Box(-1, 1, (1,)))
    data = cached(open_source(path))
    stored = [episode.observations for episode in minari.load_dataset("test/bytes-v0").iterate_episodes()]
    assert data.steps["observation_0"].dtype == torch.uint8
    np.testing.assert_array_equal(data.steps["observation_0"].numpy(), np.concatenate(stored))


def test_a_view_has_a_cache_of_its_own() -> None:
    """With its episodes alone, in its order; beside that of the whole dataset and of other views."""
    written = counting_episodes([2, 3, 4, 5], terminated=[True, False, True, False])
    whole = cached_dataset("test/viewed-v0", written)
    dataset = minari.load_dataset("test/viewed-v0")
    part, rest = minari.split_dataset(dataset, sizes=[2, 2], seed=1)
    for view in (part, rest, dataset.filter_episodes(lambda episode: episode.id == 2)):
        data = cached(source_of(view))
        theirs = list(view.iterate_episodes())
        assert data.lengths.tolist() == [len(episode.actions) for episode in theirs]
        expected = np.concatenate([episode.observations for episode in theirs])
        np.testing.assert_array_equal(data.steps["observation_0"].numpy(), expected)
        ends = np.concatenate([[*episode.terminations, False] for episode in theirs])
        np.testing.assert_array_equal(data.steps["terminated"].numpy(), ends)
        largest = np.concatenate([episode.actions for episode in theirs]).max(0).tolist()
        assert data.manifest["action_max"] == largest
    assert len(folders()) == 4
    before = [changed_times(folder) for folder in folders()]
    for again in (source_of(part), source_of(rest), whole.source):
        cached(again)
    assert [changed_times(folder) for folder in folders()] == before


def test_bad_values_in_a_view_name_the_stored_episode() -> None:
    written = counting_episodes([4, 5, 6])
    written[2][0][2] = np.nan
    path = write_dataset("test/bad-v0", written)
    dataset = minari.load_dataset("test/bad-v0")
    with pytest.raises(UserError, match=r"not finite: 2 in observation, first in episode 2$"):
        cached(source_of(dataset.filter_episodes(lambda episode: episode.id > 0)))
    good = cached(source_of(dataset.filter_episodes(lambda episode: episode.id < 2)))
    assert good.lengths.tolist() == [4, 5]
    assert open_source(path).total_episodes == 3


def test_clear() -> None:
    source = small_dataset()
    cached(source)
    size = sum(file.stat().st_size for file in cache_folder().rglob("*") if file.is_file())
    assert cache.clear() == size > 0
    assert folders() == []
    assert cache.clear() == 0
    shutil.rmtree(cache_folder())
    assert cache.clear() == 0


@pytest.mark.parametrize("manifest", ["[]", "null", '{"files": []}', '{"files": {}}', "", None])
def test_damaged_metadata_are_made_again(manifest: str | None) -> None:
    source = small_dataset()
    folder = folder_of(cached(source))
    lengths = cached(source).lengths.tolist()
    if manifest is None:  # Of its size, but not what tensordict reads.
        (folder / "meta.json").write_text("x" * (folder / "meta.json").stat().st_size)
    else:
        (folder / "manifest.json").write_text(manifest)
    assert cached(source).lengths.tolist() == lengths
    assert json.loads((folder / "manifest.json").read_text())["lengths"] == lengths
    assert folders() == [folder]


def test_clear_removes_damaged_caches_too() -> None:
    folder = folder_of(cached(small_dataset()))
    (folder / "manifest.json").unlink()
    cache.clear()
    assert folders() == []


def test_clear_leaves_everything_else() -> None:
    """IQ_OFFLINE_CACHE may point to a folder with other things in it, a home folder even."""
    cached(small_dataset())
    others = {cache_folder() / ".ssh" / "key", cache_folder() / ".profile", cache_folder() / "notes" / "text"}
    for file in others:
        file.parent.mkdir(exist_ok=True)
        file.write_text("precious")
    cache.clear()
    left = {file for file in cache_folder().rglob("*") if file.is_file()}
    assert left == others


def full_disk_source() -> Source:
    """A dataset whose cache is larger than three megabytes."""
    generator = np.random.default_rng(0)
    return open_source(write_dataset("test/wide-v0", random_episodes(generator, [400] * 5, (400,), (2,), np.float32)))


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = full_disk_source()
    with tmpfs(tmp_path / "small", "1m") as disk:
        monkeypatch.setenv("IQ_OFFLINE_CACHE", str(disk))
        done = python("-c", MAKE, str(source.path))  # In a process of its own: a fatal signal would end the tests.
        assert done.returncode == 1, done
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith(f"error: no space left while caching test/wide-v0 in {disk}")
        assert list(disk.iterdir()) == []


def test_full_disk_leaves_the_other_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = small_dataset()
    source = full_disk_source()
    with tmpfs(tmp_path / "small", "1m") as disk:
        monkeypatch.setenv("IQ_OFFLINE_CACHE", str(disk))
        cached(small)
        with pytest.raises(UserError, match="no space left"):
            cached(source)
        assert_whole(cached(small), small.id)
        assert len(folders()) == 1


def test_file_size_limit() -> None:
    source = full_disk_source()
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))  # noqa: E731
    done = python("-c", MAKE, str(source.path), preexec_fn=limit)
    assert done.returncode == 1, done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: no space left while caching test/wide-v0")
    assert folders() == []


def test_read_only_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = small_dataset()
    with tmpfs(tmp_path / "small") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        monkeypatch.setenv("IQ_OFFLINE_CACHE", str(disk))
        with pytest.raises(UserError, match=f"not allowed to write while caching test/small-v0 in {disk}"):
            cached(source)


def test_a_file_in_place_of_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IQ_OFFLINE_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match="file"):
        cached(small_dataset())
    assert (tmp_path / "file").read_text() == "precious"


def test_other_errors_of_the_disk_are_not_hidden() -> None:
    with pytest.raises(OSError, match="Input/output") as caught, cache.disk_errors("testing", Path("x")):
        raise OSError(errno.EIO, "Input/output error")
    assert caught.value.errno == errno.EIO
