"""Damaged datasets: refused in words, or read as h5py and Minari read them; never a crash, a hang, or another error."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from iq_offline.data.cache import cached
from iq_offline.data.d4rl import qlearning_dataset
from iq_offline.data.irregularities import irregularities
from iq_offline.data.stream import open_source
from iq_offline.data.survey import survey
from iq_offline.errors import UserError
from tests.data.fuzz_program import KINDS, MIXED
from tests.data_helpers import (
    change_metadata,
    counting_episodes,
    python,
    small_dataset,
    stored_array,
    stored_episode,
    write_spaces_dataset,
)
from tests.helpers import write_dataset


def run(seed: int, count: int, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """All cases, each with what came of it."""
    done = python("-m", "tests.data.fuzz_program", str(seed), str(count), *kinds, timeout=1800)
    assert done.returncode == 0, done.stderr
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(case["kind"], case["case"]) for case in cases] == [(kind, i) for kind in kinds for i in range(count)]
    return cases


def assert_all_right(cases: list[dict[str, Any]]) -> None:
    """Refusals and right readings alone, and enough of both. Where h5py itself fails, so do we: see the program."""
    wrong = [case for case in cases if case["result"] not in ("refused", "same", "as h5py")]
    assert not wrong, wrong[:3]
    assert {case["kind"] for case in cases if case["detail"].startswith("exit status")} <= {"jpeg", "arrow"}
    for kind in {case["kind"] for case in cases}:
        counts = Counter(case["result"] for case in cases if case["kind"] == kind)
        assert min(counts["refused"], counts["same"]) > 0.2 * counts.total(), f"{kind} is not tried enough: {counts}"
    for case in cases:
        if case["result"] == "refused":
            assert case["detail"].strip(), case
            assert "Traceback" not in case["detail"], case


def test_damaged_at_random() -> None:
    pytest.importorskip("pyarrow")
    assert_all_right(run(0, 20, KINDS))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_at_random_many_times(kind: str, seed: int) -> None:
    pytest.importorskip("pyarrow")
    assert_all_right(run(seed, 2000, [kind]))


# ---------------------------------------------------------------------------------------------------- found before

ODD: dict[str, Any] = {
    "nothing": None,
    "zero": 0,
    "negative": -3,
    "fraction": 2.5,
    "huge": 10**30,
    "large": 10**15,
    "a million": 10**6,
    "a milliard": 10**9,
    "beyond any memory": 2**40,
    "infinite": float("inf"),
    "not a number": float("nan"),
    "words": "many",
    "number in words": "3",
    "list": [3],
    "table": {"a": 1},
    "true": True,
    "surrogate": "\ud800",
}


READERS: dict[str, Callable[[Path], Any]] = {
    "training": lambda folder: cached(open_source(folder)).steps["observation_0"].tolist(),
    "check": lambda folder: len(irregularities(survey(open_source(folder)))),
    "d4rl": lambda folder: qlearning_dataset("test/odd-v0")["observations"].tolist(),
}
"""Whoever reads a dataset, and what they make of it."""


@pytest.mark.parametrize("data_format", ["hdf5", pytest.param("arrow", marks=pytest.mark.slow)])
@pytest.mark.parametrize("reader", READERS)
def test_every_value_of_the_metadata_may_be_odd(data_format: str, reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused in words, or read as if nothing were wrong, where the value does not matter."""
    if data_format == "arrow":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 0, 10**9))
    folder = write_dataset("test/odd-v0", counting_episodes([4, 5]), data_format=data_format)
    file = folder / "metadata.json"
    pristine = file.read_text()
    right = READERS[reader](folder)
    leaked = []
    for key in [*json.loads(pristine), "jpeg_encoding", "env_spec"]:
        for name, value in ODD.items():
            file.write_text(json.dumps(json.loads(pristine) | {key: value}))
            try:
                found = READERS[reader](folder)
            except UserError:
                continue
            except Exception as error:
                leaked.append(f"{key} = {name}: {error!r}")
            else:
                assert reader == "check" or found == right, (key, name)
    assert not leaked, "\n".join(leaked)


SPACES = {
    "bound too large": lambda space: space | {"high": [10**400] * 2},
    "bound of bytes too large": lambda space: space | {"dtype": "uint8", "low": [0, 0], "high": [256, 256]},
    "huge shape": lambda space: space | {"shape": [10**12, 10**12]},
    "negative shape": lambda space: space | {"shape": [-2]},
    "another shape": lambda space: space | {"shape": [3]},
    "no shape": lambda space: {key: value for key, value in space.items() if key != "shape"},
    "no type": lambda space: space | {"dtype": "float65"},
    "times": lambda space: space | {"dtype": "datetime64[s]"},
    "words": lambda space: space | {"dtype": "U3"},
    "another kind": lambda space: space | {"type": "Graph"},
    "kinds within": lambda space: {"type": "Tuple", "subspaces": 3},
    "deep": lambda space: {"type": "Tuple", "subspaces": [{"type": "Tuple", "subspaces": []}] * 3},
    "no categories": lambda space: {"type": "Discrete", "dtype": "int64", "start": 0, "n": 0},
    "categories in words": lambda space: {"type": "Discrete", "dtype": "int64", "start": 0, "n": "three"},
    "too many categories": lambda space: {"type": "Discrete", "dtype": "int64", "start": 0, "n": 10**30},
    "list": lambda space: [space],
}


@pytest.mark.parametrize("which", ["observation_space", "action_space"])
@pytest.mark.parametrize("change", SPACES)
def test_damaged_spaces(which: str, change: str) -> None:
    folder = write_dataset("test/odd-v0", counting_episodes([4, 5]))
    space = json.loads(json.loads((folder / "metadata.json").read_text())[which])
    change_metadata(folder, **{which: json.dumps(SPACES[change](space))})
    with pytest.raises(UserError):
        cached(open_source(folder))


def as_scalar(values: np.ndarray) -> Any:
    return values.ravel()[0]


ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "a single value": as_scalar,
    "nothing": lambda values: h5py.Empty(values.dtype),
    "words": lambda values: np.full(values.shape, b"word"),
    "texts": lambda values: np.full(values.shape, "text", h5py.string_dtype()),
    "records": lambda values: np.zeros(values.shape, [("a", np.float32), ("b", np.int64)]),
    "complex": lambda values: values * (1 + 2j),
    "opaque": lambda values: np.zeros(values.shape, "V7"),
    "more dimensions": lambda values: np.stack([values, values], -1),
    "fewer dimensions": lambda values: values.reshape(len(values), -1)[:, 0] if values.ndim > 1 else values[:1],
    "no rows": lambda values: values[:0],
    "neither true nor false": lambda values: np.full(values.shape, 0.5) if values.ndim == 1 else values[:-1],
    "not a number": lambda values: np.full(values.shape, np.nan),
}


@pytest.mark.parametrize("leaf", ["observations", "actions", "terminations"])
@pytest.mark.parametrize("change", ARRAYS)
def test_arrays_of_another_kind(leaf: str, change: str) -> None:
    folder = write_dataset("test/odd-v0", counting_episodes([4, 5]))
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        values = stored_array(file, 1, leaf)[()]
        del stored_episode(file, 1)[leaf]
        stored_episode(file, 1)[leaf] = ARRAYS[change](values)
    with pytest.raises(UserError):
        cached(open_source(folder))


@pytest.mark.parametrize("rows", [10**6, 10**12, 2**60])
def test_an_array_that_claims_more_than_there_is_memory(rows: int) -> None:
    """Its rows were never written: the file is small."""
    source = small_dataset()
    with h5py.File(source.path / "main_data.hdf5", "r+") as file:
        del stored_episode(file, 1)["observations"]
        stored_episode(file, 1).create_dataset("observations", (rows, 4), np.float64, chunks=(100, 4))
    with pytest.raises(UserError, match="test/small-v0"):
        cached(source)


def test_a_picture_that_claims_to_be_huge() -> None:
    """Pillow calls it a bomb, with an exception of its own."""
    folder = write_spaces_dataset("test/bomb-v0", Box(0, 255, (32, 32, 3), np.uint8), Box(-1, 1, (1,)))
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        pictures = stored_array(file, 0, "observations")
        first = np.array(pictures[0])
        (place,) = [i for i in range(len(first) - 1) if first[i] == 0xFF and first[i + 1] in (0xC0, 0xC2)][:1]
        first[place + 5 : place + 9] = 0xFF  # Height and width.
        pictures[0] = first
    with pytest.raises(UserError, match=r"test/bomb-v0.*damaged"):
        cached(open_source(folder))


def test_categories_that_are_none() -> None:
    folder = write_spaces_dataset("test/none-v0", Discrete(5), Discrete(3, start=-1))
    for leaf in ("observations", "actions"):
        with h5py.File(folder / "main_data.hdf5", "r+") as file:
            before = stored_array(file, 1, leaf)[()]
            stored_array(file, 1, leaf)[2] = 77
        with pytest.raises(UserError, match="test/none-v0: episode 1 holds a value that is not in its Discrete space"):
            cached(open_source(folder))
        with h5py.File(folder / "main_data.hdf5", "r+") as file:
            stored_array(file, 1, leaf)[:] = before
    assert len(cached(open_source(folder)).lengths) == 2


def test_parts_that_are_missing() -> None:
    folder = write_spaces_dataset("test/parts-v0", MIXED, Box(-1, 1, (2,)))
    for part in ("state", "state/mode", "pair", "pair/_index_1"):
        pristine = (folder / "main_data.hdf5").read_bytes()
        with h5py.File(folder / "main_data.hdf5", "r+") as file:
            del stored_episode(file, 1)[f"observations/{part}"]
        with pytest.raises(UserError, match="test/parts-v0"):
            cached(open_source(folder))
        Path(folder / "main_data.hdf5").write_bytes(pristine)
