"""``iq-offline datasets inspect``, ``check`` and ``download`` as a user runs them."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from PIL import Image

from iq_offline.cli import main
from tests.data_helpers import (
    change_metadata,
    python,
    random_episodes,
    small_dataset,
    the_error,
    write_spaces_dataset,
)
from tests.helpers import write_dataset

Output = tuple[int, str, str]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands run in a folder of their own, which they may write a picture to."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def datasets(capsys: pytest.CaptureFixture[str]) -> Callable[..., Output]:
    """Run a command on datasets; returns its exit code, what it printed (in one line), and what it complained of."""

    def run(*arguments: str) -> Output:
        capsys.readouterr()
        code = main(["datasets", *arguments])
        printed = capsys.readouterr()
        return code, " ".join(re.sub(r"[│┃━┏┓┗┛┡┩╇┳└┘┴├┤┼─]", " ", printed.out).split()), printed.err

    return run


def test_inspect(datasets: Callable[..., Output], elsewhere: Path) -> None:
    write_dataset(
        "test/hopper-v0", random_episodes(np.random.default_rng(0), [20, 30, 25], (11,), (3,)), env_spec_id="Hopper-v5"
    )
    code, out, err = datasets("inspect", "test/hopper-v0")
    assert (code, err) == (0, "")
    for words in (
        "storage HDF5",
        "environment Hopper-v5, can be built here",
        "episodes 3; at the end",
        "steps 75",
        "repeated 0 of 75 pairs of observation and action, 0 whole episodes",
        "steps in an episode 20 22.5 25 27.5 30 25",
        "observation Box (11,) no bounds float64",
        "actions: Box, (3,), -1 to 1, float32",
        "picture: test-hopper-v0.png",
    ):
        assert words in out
    with Image.open(elsewhere / "test-hopper-v0.png") as picture:
        assert picture.format == "PNG"
        assert picture.width == 840
    assert [file.name for file in elsewhere.iterdir()] == ["test-hopper-v0.png"]


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_inspect_all_kinds_of_spaces(data_format: str, datasets: Callable[..., Output], tmp_path: Path) -> None:
    if data_format != "hdf5":
        pytest.importorskip("pyarrow")
    parts = {
        "camera": Box(0, 255, (40, 48, 3), np.uint8),
        "frames": Box(0, 255, (4, 9, 9), np.uint8),
        "goal": Discrete(4),
        "state": Tuple((Box(-np.inf, np.inf, (3,), np.float64), MultiBinary(2))),
    }
    write_spaces_dataset("test/robot-v0", Dict(parts), MultiDiscrete([2, 30]), lengths=[6, 8], data_format=data_format)
    picture = tmp_path / "pictures" / "robot.png"
    code, out, err = datasets("inspect", "test/robot-v0", "--picture", str(picture))
    assert (code, err) == (0, "")
    for words in (
        "storage Arrow" if data_format == "arrow" else f"storage {data_format.upper().replace('PARQUET', 'Parquet')}",
        "camera image (40, 48, 3) 0 to 255 uint8",
        "frames image (4, 9, 9) 0 to 255 uint8",
        "goal Discrete 4 choices int64",
        "state.0 Box (3,) no bounds float64",
        "state.1 MultiBinary (2,) 0 or 1 int8",
        "actions: MultiDiscrete, (2,), choices: 2, 30, int64",
        "… and 8 more",
        "environment names no environment",
    ):
        assert words in out
    assert picture.is_file()
    assert datasets("check", "test/robot-v0")[0] == 0


@pytest.mark.parametrize("width", [1, 60, 300])
def test_inspect_any_number_of_dimensions(width: int, datasets: Callable[..., Output], elsewhere: Path) -> None:
    written = random_episodes(np.random.default_rng(0), [6, 7], (width,), (width,))
    for observations, _, rewards, *_ in written:
        observations[:, 0], rewards[:] = 5, np.nan
    written[0][0][0, -1] = 1e6
    write_dataset("test/wide-v0", written)
    code, out, _ = datasets("inspect", "test/wide-v0")
    assert code == 0
    assert ("… and" in out) == (width > 24)
    assert "every reward is NaN" in out
    assert (elsewhere / "test-wide-v0.png").stat().st_size > 10_000


def test_inspect_dirty_data(datasets: Callable[..., Output], elsewhere: Path) -> None:
    written = random_episodes(np.random.default_rng(0), [6, 7])
    for observations, actions, *_ in written:
        observations[:], actions[:] = np.nan, np.inf
    write_dataset("test/nan-v0", written)
    code, _, err = datasets("inspect", "test/nan-v0")
    assert (code, err) == (0, "")
    assert (elsewhere / "test-nan-v0.png").is_file()


def test_check_finds_nothing(datasets: Callable[..., Output], elsewhere: Path) -> None:
    small_dataset("test/small-v0")
    code, out, err = datasets("check", "test/small-v0")
    assert (code, err) == (0, "")
    assert out.startswith("test/small-v0: 3 episodes, 60 steps nothing irregular not held against an environment")
    assert list(elsewhere.iterdir()) == []


def test_check_warns(datasets: Callable[..., Output]) -> None:
    written = random_episodes(np.random.default_rng(0), [200, 30], (3,), (1,))
    for _, actions, _, terminations, truncations in written:
        actions *= 3
        terminations[-1], truncations[-1] = True, False
    write_dataset("test/pendulum-v0", written, low=-2.5, high=2.5, env_spec_id="Pendulum-v1")
    code, out, err = datasets("check", "test/pendulum-v0")
    assert (code, err) == (0, "")
    outside = sum((np.abs(actions) > 2.5).any(1).sum() for _, actions, *_ in written)
    assert f"{outside} steps" in out
    assert "clipped" in out
    assert "worth knowing" in out
    for words in ("time limit", "narrower", "action_low = [-2.0]", "action_high", "[2.0]"):
        assert words in out


def test_check_refuses(datasets: Callable[..., Output]) -> None:
    written = random_episodes(np.random.default_rng(0), [20, 30])
    written[1][0][3] = np.nan
    write_dataset("test/nan-v0", written)
    code, out, err = datasets("check", "test/nan-v0")
    assert code == 2
    assert "refused" in out
    assert "3 values" in out
    assert "training would refuse test/nan-v0: observations that are NaN" in the_error(err)


def test_check_runs_no_foreign_code(datasets: Callable[..., Output], monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that only the metadata name is not built."""
    write_dataset("test/foreign-v0", random_episodes(np.random.default_rng(0), [5]), env_spec_id="Foreign-v0")
    monkeypatch.setattr(gymnasium, "make", lambda *_, **__: pytest.fail("built"))
    code, out, _ = datasets("check", "test/foreign-v0")
    assert code == 0
    assert "not held against an environment" in out
    assert "Foreign-v0, which no installed package registers" in out


def test_wrappers_that_are_left_out_are_named(datasets: Callable[..., Output]) -> None:
    folder = write_dataset("test/wrapped-v0", random_episodes(np.random.default_rng(0), [5], (3,), (1,)), -2, 2)
    wrappers = [{"name": name, "entry_point": f"nowhere:{name}", "kwargs": {}} for name in ("Flat", "Rescale")]
    specification = json.loads(gymnasium.spec("Pendulum-v1").to_json()) | {"additional_wrappers": wrappers}
    change_metadata(folder, env_spec=json.dumps(specification))
    code, out, _ = datasets("inspect", "test/wrapped-v0")
    assert code == 0
    assert "environment Pendulum-v1, can be built here, without the wrappers Flat, Rescale" in out
    code, out, _ = datasets("check", "test/wrapped-v0")
    assert code == 0
    for words in ("worth knowing wrappers", "Flat, Rescale around", "2 wrappers", "--trust-env"):
        assert words in out


@pytest.mark.parametrize("command", ["inspect", "check"])
def test_errors_are_one_line(command: str, datasets: Callable[..., Output], elsewhere: Path) -> None:
    folder = small_dataset("test/small-v0").path
    for name, words in {
        "test/smal-v0": r"no dataset 'test/smal-v0'.*did you mean 'test/small-v0'.*datasets download test/smal-v0",
        "small": "neither a built-in dataset nor a Minari id",
        "hopper/expert": "built in and not recorded here yet: iq-offline datasets build hopper/expert",
    }.items():
        code, out, err = datasets(command, name)
        assert (code, out) == (2, "")
        assert re.search(words, the_error(err))
    file = folder / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:100])
    code, out, err = datasets(command, "test/small-v0")
    assert (code, out) == (2, "")
    assert "cut or damaged" in the_error(err)
    assert list(elsewhere.iterdir()) == []


def test_inspect_a_long_view(datasets: Callable[..., Output], elsewhere: Path) -> None:
    """Whose name is longer than a file's may be."""
    small_dataset("test/small-v0", episodes=200)
    view = ",".join(map(str, range(199, 0, -2)))
    code, out, _ = datasets("inspect", f"test/small-v0[{view}]")
    assert code == 0
    (picture,) = elsewhere.iterdir()
    assert out.endswith(f"picture: {picture.name}")
    assert picture.name.startswith("test-small-v0-199-197")


@pytest.mark.parametrize("picture", ["picture.jpg", ".", "taken/picture.png"])
def test_a_picture_that_cannot_be_written(picture: str, datasets: Callable[..., Output], elsewhere: Path) -> None:
    small_dataset("test/small-v0")
    (elsewhere / "taken").write_text("a file")
    code, _, err = datasets("inspect", "test/small-v0", "--picture", picture)
    assert code == 2
    assert picture.split("/")[0] in the_error(err)


def test_download(datasets: Callable[..., Output], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(identifier: str) -> None:
        asked.append(identifier)
        small_dataset("test/new-v0")

    monkeypatch.setattr(minari, "download_dataset", fetch)
    code, out, _ = datasets("download", "test/new-v0")
    assert code == 0
    assert out.startswith("test/new-v0: ")
    code, out, _ = datasets("download", "test/new-v0")
    assert code == 0
    assert "was there already" in out
    assert asked == ["test/new-v0"]


def test_download_without_a_network(datasets: Callable[..., Output], monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(identifier: str) -> None:
        raise ConnectionError("no route\nto anywhere")

    monkeypatch.setattr(minari, "download_dataset", fetch)
    code, out, err = datasets("download", "test/far-v0")
    assert (code, out) == (2, "")
    assert the_error(err) == "error: could not download 'test/far-v0': no route (is there a network?)"
    code, _, err = datasets("download", "hopper/expert")
    assert code == 2
    assert "is built in: iq-offline datasets build hopper/expert" in the_error(err)


def test_download_without_the_package_for_it(datasets: Callable[..., Output], monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(identifier: str) -> None:
        raise ImportError("huggingface_hub is not installed")

    monkeypatch.setattr(minari, "download_dataset", fetch)
    code, _, err = datasets("download", "test/far-v0")
    assert code == 2
    assert the_error(err) == "error: could not download 'test/far-v0': huggingface_hub is not installed"


@pytest.mark.parametrize("command", [["datasets", "check", "test/read-v0"], ["train", "hopper_offline", "--help"]])
def test_nobody_reads_on(command: list[str]) -> None:
    """As in ``iq-offline … | head``: no complaint, and the exit code that such programs have."""
    small_dataset("test/read-v0")
    reads, writes = os.pipe()
    os.close(reads)
    done = python("-m", "iq_offline", *command, capture_output=False, stdout=writes, stderr=subprocess.PIPE)
    os.close(writes)
    assert (done.returncode, done.stderr) == (141, "")
