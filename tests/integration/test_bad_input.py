"""What goes wrong for users is one line that names the thing, a non-zero exit code, and nothing lost on the disk.

Most commands run in this process, through the same function as ``iq-offline``; some in processes of their own.
"""

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch
from gymnasium.spaces import Box, Dict, Discrete, Text, Tuple
from minari.serialization import serialize_space

from iq_offline import scoring
from iq_offline.cli import main
from iq_offline.config import saved_config
from iq_offline.data import cache, catalog
from iq_offline.environments import record
from iq_offline.errors import UserError
from iq_offline.files import cache_folder
from iq_offline.learning.policy import Policy
from tests.data_helpers import (
    PROGRESS,
    QUICK,
    change_metadata,
    make_read_only,
    python,
    random_episodes,
    small_dataset,
    snapshot,
    start_python,
    stored_array,
    the_error,
    tmpfs,
    write_spaces_dataset,
)
from tests.environments.worlds import endless_dataset, point_dataset
from tests.helpers import point_mass_dataset, point_mass_episodes, write_dataset
from tests.warm import warm_python

NAME = "test/small-v0"
NO_HELD_OUT = ("--held-out-trajectories", "0")
RUN_FILES = {
    "config.toml",
    "data.json",
    "metrics.ndjson",
    "diagnostics.ndjson",
    "policy.safetensors",
    "episodes.parquet",
    "summary.json",
    "curve.png",
}


def train(*arguments: object, expert: str = NAME) -> list[str]:
    """The arguments of a short training."""
    return ["train", "hopper_offline", "--expert", expert, *QUICK, *map(str, arguments)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The Minari root with one good dataset in it, ``test/small-v0``."""
    small_dataset(NAME)
    return tmp_path / "minari"


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs go; the current folder is elsewhere, and empty."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "runs" / "one"


Fails = Callable[..., str]


@pytest.fixture
def fails(root: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> Fails:
    """Run a command that must fail as the user's mistakes do; returns its one line."""

    def run(arguments: list[str], code: int = 2) -> str:
        before = snapshot(root, output, Path.cwd())
        capsys.readouterr()
        assert main(arguments) == code
        printed = capsys.readouterr()
        assert printed.out == ""
        assert snapshot(root, output, Path.cwd()) == before, "a failed command changed something on the disk"
        assert [path.name for path in cache_folder().glob(".*")] == [], "left in the cache"
        with pytest.raises(UserError):
            main([*arguments, "--debug"])
        return the_error(printed.err)

    return run


def succeeds(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[str, list[str]]:
    """Run a command that must work; returns what it prints and its notes on stderr, progress aside."""
    capsys.readouterr()
    code = main(arguments)
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out, [line for line in printed.err.splitlines() if not PROGRESS.match(line)]


def assert_same_policies(one: Path, other: Path) -> None:
    """Two run folders hold the same weights, bit for bit."""
    first, second = (safetensors.torch.load_file(folder / "policy.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    assert len(first) >= 6
    assert all(torch.equal(value, second[name]) for name, value in first.items())


# ---------------------------------------------------------------------------------------------- names of datasets


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test/smal-v0", r"no dataset 'test/smal-v0'.*did you mean.*'test/small-v0'.*--download"),
        ("hopper/exprt-v0", r"no dataset.*did you mean.*'hopper/expert'"),
        ("hoper/expert", r"neither a built-in dataset nor a Minari id.*did you mean.*'hopper/expert'"),
        ("small", r"neither a built-in dataset nor a Minari id"),
        ("../x-v0", r"'\.\./x-v0' is neither a built-in dataset nor a Minari id"),
        ("test/../../x-v0", r"neither a built-in dataset nor a Minari id"),
        ("/tmp/x-v0", r"neither a built-in dataset nor a Minari id"),
        ("", r"neither a built-in dataset nor a Minari id"),
    ],
)
def test_unknown_and_malformed_names(name: str, expected: str, fails: Fails, output: Path) -> None:
    assert re.search(expected, fails(train("--output", output, expert=name)))
    assert not output.exists()


def test_unknown_suboptimal_dataset(fails: Fails, output: Path) -> None:
    line = fails(train("--output", output, "--suboptimal", NAME, "test/smal-v0"))
    assert "no dataset 'test/smal-v0'" in line
    assert not output.exists()


def test_the_data_of_a_run_that_is_fine_tuned_can_be_fetched_again(
    fails: Fails, root: Path, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    succeeds(train("--output", output, "--algorithms", "bc"), capsys)
    shutil.rmtree(root / NAME)
    command = ["finetune", str(output / "bc"), "--output", str(output.with_name("tuned"))]
    assert "--download fetches it" in fails(command)
    monkeypatch.setattr(catalog, "download", lambda name: small_dataset(name).path)
    assert main([*command, "--download"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"downloading {NAME}"
    assert f"error: {NAME} names no environment, so there is none to train in" in lines[-1]


# ---------------------------------------------------------------------------------------------- bad data


def test_data_without_an_environment_to_train_in(fails: Fails, output: Path) -> None:
    line = fails(train("--output", output, "--online", "--algorithms", "iq_learn"))
    assert line == (
        f"error: {NAME} names no environment, so there is none to train in: train on the data alone, without --online "
        "(online.env_steps)"
    )


def test_suboptimal_data_of_another_environment(fails: Fails, output: Path) -> None:
    written = point_mass_episodes(2, 5, 0)
    write_dataset("test/hopper-v0", written, env_spec_id="Hopper-v5")
    write_dataset("test/walker-v0", written, env_spec_id="Walker2d-v5")
    line = fails(train("--output", output, "--suboptimal", "test/walker-v0", expert="test/hopper-v0"))
    assert "test/walker-v0 cannot be mixed with test/hopper-v0" in line
    assert "Walker2d-v5" in line
    assert "Hopper-v5" in line


@pytest.mark.parametrize(("observation", "action"), [((3,), (2,)), ((4,), (1,)), ((2, 2), (2,))])
def test_suboptimal_data_of_other_shapes(
    observation: tuple[int, ...], action: tuple[int, ...], fails: Fails, output: Path
) -> None:
    write_dataset("test/other-v0", random_episodes(np.random.default_rng(0), [4, 5], observation, action))
    line = fails(train("--output", output, "--suboptimal", "test/other-v0"))
    assert "test/other-v0 cannot be mixed with test/small-v0" in line
    assert str(observation if observation != (4,) else action) in line


def test_values_that_are_not_finite(fails: Fails, output: Path) -> None:
    written = point_mass_episodes(3, 20, 0)
    written[1][0][4:6, 1] = np.nan
    written[2][1][3, 0] = np.inf
    write_dataset("test/nan-v0", written)
    expected = "test/nan-v0 holds values that are not finite: 2 in observation and 1 in actions, first in episode 1"
    assert fails(train("--output", output, expert="test/nan-v0")) == f"error: {expected}"
    assert fails(train("--output", output, "--suboptimal", "test/nan-v0")) == f"error: {expected}"


def test_rewards_do_not_matter(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With every reward NaN the same weights come out, bit for bit."""
    written = point_mass_episodes(3, 20, 0)
    write_dataset("test/with-v0", written)
    write_dataset("test/without-v0", [(o, a, r * np.nan, t, u) for o, a, r, t, u in written])
    for name in ("with", "without"):
        succeeds(train("--output", output / name, expert=f"test/{name}-v0"), capsys)
    for algorithm in ("bc", "iq_learn"):
        assert_same_policies(output / "with" / algorithm, output / "without" / algorithm)


def test_an_empty_dataset(fails: Fails, output: Path) -> None:
    change_metadata(small_dataset("test/empty-v0").path, total_episodes=0, total_steps=0)
    assert "test/empty-v0 is empty" in fails(train("--output", output, expert="test/empty-v0"))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_hdf5_file(share: float, fails: Fails, output: Path) -> None:
    file = small_dataset("test/cut-v0").path / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    line = fails(train("--output", output, expert="test/cut-v0"))
    assert line.startswith("error: test/cut-v0: ")
    assert "cut or damaged" in line


def test_damage_inside_an_hdf5_file(fails: Fails, output: Path) -> None:
    """The size is right, but a third of the file holds nothing."""
    file = small_dataset("test/hole-v0", episodes=20).path / "main_data.hdf5"
    content = bytearray(file.read_bytes())
    content[len(content) // 3 : 2 * len(content) // 3] = b"\xff" * (2 * len(content) // 3 - len(content) // 3)
    file.write_bytes(content)
    assert "test/hole-v0" in fails(train("--output", output, expert="test/hole-v0"))


def test_missing_files(fails: Fails, output: Path) -> None:
    folder = small_dataset("test/none-v0").path
    (folder / "main_data.hdf5").unlink()
    assert "cut or damaged" in fails(train("--output", output, expert="test/none-v0"))
    (folder / "metadata.json").unlink()
    assert "not a readable Minari dataset" in fails(train("--output", output, expert="test/none-v0"))


def test_a_missing_episode(fails: Fails, output: Path) -> None:
    folder = small_dataset("test/less-v0").path
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        del file["episode_1"]
    line = fails(train("--output", output, expert="test/less-v0"))
    assert "test/less-v0" in line
    assert "episode_1" in line


def test_more_trajectories_than_there_are(fails: Fails, output: Path) -> None:
    line = fails(train("--output", output, "--num-expert-trajectories", 4))
    assert line == f"error: {NAME} holds 3 trajectories, 4 were asked for"
    line = fails(train("--output", output, "--num-expert-trajectories", 3, "--suboptimal", NAME))
    assert NAME in line
    assert not output.exists()


def test_spaces_that_cannot_be_learned(fails: Fails, output: Path) -> None:
    box = Box(-1, 1, (3,))
    cases: dict[str, tuple[gymnasium.Space, gymnasium.Space, str]] = {
        "whole": (box, Box(0, 9, (2,), np.int64), "its actions are Box of int64; Box of floating point, Discrete,"),
        "bytes": (box, Box(0, 9, (2,), np.uint8), "its actions are Box of uint8; Box of floating point, Discrete,"),
        "words": (Text(5), box, "observation 'observation' is Text, not numbers: nothing else is observed"),
        "saying": (box, Text(5), "its actions are Text; Box of floating point, Discrete,"),
    }
    for name, (observation, action, expected) in cases.items():
        write_spaces_dataset(f"test/{name}-v0", observation, action)
        assert f"test/{name}-v0: {expected}" in fails(train("--output", output, expert=f"test/{name}-v0"))
    for name, space in {"dict": Dict({"a": box}), "tuple": Tuple([box])}.items():
        folder = small_dataset(f"test/{name}-v0").path
        change_metadata(folder, action_space=serialize_space(space))
        assert f"its actions are {name.title()}; Box" in fails(train("--output", output, expert=f"test/{name}-v0"))


def test_a_text_among_the_observations_is_named_with_how_to_drop_it(
    fails: Fails, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = Dict({"mission": Text(8), "state": Box(-1, 1, (3,)), "where": Discrete(4)})
    write_spaces_dataset("test/mission-v0", space, Discrete(3))
    line = fails(train("--output", output, expert="test/mission-v0"))
    assert "test/mission-v0: observation 'mission' is Text, not numbers" in line
    assert "drop it with observation_keys = ['state', 'where']" in line
    line = fails(train("--output", output, "--observation-keys", "stat", expert="test/mission-v0"))
    assert "no observation 'stat'; did you mean 'state'? (it has: mission, state, where)" in line
    arguments = train("--output", output, "--observation-keys", "state", "where", expert="test/mission-v0")
    succeeds(arguments, capsys)
    assert Policy.load(output / "bc" / "policy.safetensors").encoder.size == 3 + 4


def test_spaces_that_the_data_do_not_have(fails: Fails, output: Path) -> None:
    """The metadata promise parts of observations that the file lacks."""
    folder = small_dataset("test/parts-v0").path
    change_metadata(folder, observation_space=serialize_space(Dict({"a": Box(-1, 1, (3,))})))
    line = fails(train("--output", output, expert="test/parts-v0"))
    assert re.search(r"test/parts-v0: the file in .* is cut or damaged .*observations/a", line)


def test_a_value_that_is_not_in_its_discrete_space(fails: Fails, output: Path) -> None:
    """Of the actions or of an observation: the episode is named."""
    for name, part in (("action", "actions"), ("observation", "observations")):
        path = write_spaces_dataset(f"test/{name}-v0", Discrete(5, start=2), Discrete(3, start=-1), episodes=4)
        with h5py.File(path / "main_data.hdf5", "r+") as file:
            stored_array(file, 2, part)[3] = 7
        line = fails(train("--output", output, expert=f"test/{name}-v0"))
        assert line == f"error: test/{name}-v0: episode 2 holds a value that is not in its Discrete space"


def test_actions_outside_the_box_are_clipped(root: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says how many; and training on them is training on the clipped ones."""
    written = point_mass_episodes(2, 20, 0)
    clipped = [episode[1].copy() for episode in written]
    for index, (row, values) in enumerate([(3, (5.0, 0.1)), (7, (-3.0, 2.0)), (19, (0.2, -1.5))]):
        written[index % 2][1][row] = values
        clipped[index % 2][row] = np.clip(values, -1, 1)
    write_dataset("test/wide-v0", written)
    write_dataset("test/clipped-v0", [(o, a, r, t, u) for (o, _, r, t, u), a in zip(written, clipped, strict=True)])
    for name in ("wide", "clipped"):
        folder = output / name
        arguments = train("--output", folder, "--num-expert-trajectories", 2, expert=f"test/{name}-v0")
        _, notes = succeeds(arguments, capsys)
        said = [line for line in notes if "clipped" in line and "outside" in line]
        if name == "wide":
            assert set(said) == {"test/wide-v0: 3 of 40 actions are outside the box and clipped"}
        else:
            assert said == []
    for algorithm in ("bc", "iq_learn"):
        assert_same_policies(output / "wide" / algorithm, output / "clipped" / algorithm)


# ---------------------------------------------------------------------------------------------- bad commands


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--gradient-steps", "0"], "gradient_steps = 0"),
        (["--gradient-steps", "many"], "gradient-steps"),
        (["--hidden-sizes", "8", "x"], "hidden-sizes"),
        (["--hidden-sizes", "0"], "hidden_sizes"),
        (["--seed", "-1"], "seed = -1"),
        (["--evaluation.seed", "-1"], "seed = -1"),
        (["--dtype", "float16"], "dtype"),
        (["--device", "nonsense"], "nonsense"),
        (["--device", "cuda:77"], "cuda:77"),
        (["--algorithms", "dac"], "algorithms"),
        (["--subsample", "0"], "subsample = 0"),
        (["--iq-learn.discount", "1.0"], "discount = 1"),
        (["--iq-learn.temperature", "-1"], "error: temperature = -1.0: input should be greater than 0"),
        (["--iq-learn.temperature", "aut"], "error: --iq-learn.temperature aut: must be FLOAT|{auto}"),
        (["--iq-learn.value-states", "mixture"], "iq_learn.value_states = 'mixture' needs suboptimal data"),
        (["--iq-learn.chi2-states", "mixture"], "iq_learn.chi2_states = 'mixture' needs suboptimal data"),
        (["--suboptimal", f"{NAME}:0"], "suboptimal"),
        (
            ["--suboptimal", f"{NAME}:3:hidden", *NO_HELD_OUT],
            "(2 of them with steps, and not taken already), 3 were asked for",
        ),
        (["--observation-keys", "stat"], f"{NAME} has no observation 'stat' (it has: observation)"),
        (["--frame-stack", "0"], "frame_stack = 0"),
        (["--held-out-trajectories", "-1"], "held_out_trajectories = -1"),
        (["--action-low", "0", "0", "0"], f"action_low has 3 numbers, {NAME} has actions of 2: give 1 or 2"),
        (["--action-high", "-2"], f"{NAME}: its action box is empty or not finite"),
        (["--action-high", "inf"], f"{NAME}: its action box is empty or not finite"),
        (["--suboptimal", NAME, "--suboptimal-fraction", "1.0"], "suboptimal_fraction = 1"),
        (["--suboptimal", NAME, "--suboptimal-fraction", "0.999", *NO_HELD_OUT], "suboptimal_fraction 0.999"),
        (["--suboptimal", NAME, "--batch-size", "1", *NO_HELD_OUT], "suboptimal_fraction"),
        (["--suboptimal", NAME], "no trajectories left: all are labelled expert or held out"),
        (["--gradient-stepz", "5"], "--gradient-steps"),
        (["--output"], "output"),
        (["surprise"], "surprise"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_values_on_the_command_line(arguments: list[str], expected: str, fails: Fails, output: Path) -> None:
    assert expected in fails([*train("--output", output), *arguments])
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trane"], "no command 'trane'; did you mean 'train'? (there are: train, finetune, sweep, results, report, "),
        (["train", "one_trajectory"], "no recipe 'one_trajectory'; it is a sweep: iq-offline sweep one_trajectory"),
        (["sweep", "hopper_offline"], "no sweep 'hopper_offline'; it is a recipe: iq-offline train hopper_offline"),
        (["sweep", "one_trajectory", "--set", "seeds=2"], "unknown key 'seeds'; it stands in [grid]"),
        (["train", "hoper_offline"], "no recipe 'hoper_offline'; did you mean 'hopper_offline'"),
        (["train", "nothing.toml"], "nothing.toml"),
        (["train"], "which recipe?"),
        ([], "train"),
        (["datasets", "lst"], "no command 'lst'; did you mean 'list'? (there are: list, build, "),
        (["datasets"], "list"),
        (["datasets", "build"], "hopper/expert"),
        (["datasets", "build", "hopper/exprt"], "no built-in dataset 'hopper/exprt'; did you mean 'hopper/expert'"),
        (["datasets", "build", "hopper/random", "hopper/exprt"], "did you mean 'hopper/expert'"),
        (["datasets", "train-expert", "hoper"], "no dataset card 'hoper'; did you mean 'hopper'"),
        (["datasets", "cache", "--cleer"], "--clear"),
        (["--surprise"], "surprise"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_commands(arguments: list[str], expected: str, fails: Fails) -> None:
    assert expected in fails(arguments)


@pytest.mark.parametrize(("command", "kind"), [("train", "recipe"), ("sweep", "sweep")])
def test_a_file_without_its_ending_is_suggested(command: str, kind: str, output: Path, fails: Fails) -> None:
    """The current folder holds it."""
    Path("s.toml").write_text("")
    assert f"no {kind} 's'; did you mean the file 's.toml'? (shipped: " in fails([command, "s"])


def test_debug_may_stand_anywhere(root: Path, output: Path, capsys: pytest.CaptureFixture[str], fails: Fails) -> None:
    """It decides nothing but what is shown of an error; and where more help is to be had is a command."""
    for place in range(3):
        words = train("--output", output, "--seed", "1.5")
        words.insert(place, "--debug")
        with pytest.raises(UserError, match="Error parsing --seed: invalid literal"):
            main(words)
    with pytest.raises(SystemExit) as stop:
        main(["train", "--debug", "hopper_offline", "--help"])
    printed = capsys.readouterr().out
    assert not stop.value.code
    assert "usage: iq-offline train hopper_offline " in printed
    assert "--iq-learn.temperature" in printed
    assert "run iq-offline train hopper_offline --help" in fails(["train", "hopper_offline", "--sed", "1"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[training]\ngradient_step = 5\n", "unknown key 'training.gradient_step'; did you mean 'gradient_steps'"),
        ("seeds = 5\n", "unknown key 'seeds'; did you mean 'seed'"),
        ("[iq_learns]\n", "unknown key 'iq_learns'; did you mean 'iq_learn'"),
        ("[data]\nsubsample = 0\n", "data.subsample = 0"),
        ("[data\n", "is not valid TOML"),
    ],
)
def test_mistakes_in_a_recipe_file(content: str, expected: str, fails: Fails, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(content)
    line = fails(["train", str(file), "--expert", NAME])
    assert expected in line
    assert str(file) in line


def test_recipe_files_are_followed(
    root: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also a run's own config.toml: it repeats the run, to the same weights."""
    file = tmp_path / "mine.toml"
    training = "gradient_steps = 30\nhidden_sizes = [4]\nbatch_size = 4\nsnapshots = 0"
    file.write_text(f'recipe = "mine"\nalgorithm = "bc"\nseed = 3\n[data]\nexpert = "{NAME}"\n[training]\n{training}\n')
    printed, _ = succeeds(["train", str(file)], capsys)
    folder = Path("runs/mine/test-small-v0-n1-k1-seed3")
    assert str(folder) in printed
    assert [path.name for path in sorted(folder.iterdir()) if path.is_dir()] == ["bc"]
    summary = json.loads((folder / "bc" / "summary.json").read_text())
    assert (summary["recipe"], summary["seed"], summary["gradient_steps"]) == ("mine", 3, 30)
    succeeds(["train", str(folder / "bc" / "config.toml"), "--output", str(output)], capsys)
    assert (output / "bc" / "config.toml").read_text() == (folder / "bc" / "config.toml").read_text()
    assert_same_policies(folder / "bc", output / "bc")


# ---------------------------------------------------------------------------------------------- output folders


@pytest.mark.slow
def test_without_a_compiler_nothing_is_compiled(root: Path, output: Path) -> None:
    """One line before anything is trained, in a process of its own: what torch finds once it remembers."""
    given = train("--compile", "--gradient-steps", "20", "--algorithms", "bc")
    without = os.environ | {"CXX": "no-such-compiler", "MINARI_DATASETS_PATH": str(root)}
    done = python("-m", "iq_offline", *given, "--output", str(output), env=without)
    assert done.returncode == 2, done.stderr
    assert "training.compile cannot be used here, it needs a C++ compiler (on a GPU Triton): " in the_error(done.stderr)
    assert not list(output.rglob("*.safetensors"))


def train_pendulum(output: Path, *more: object) -> list[str]:
    """The arguments of a short training that can be scored, on data that are there then."""
    written = random_episodes(np.random.default_rng(0), [20, 30], (3,), (1,))
    folder = write_dataset("test/pendulum-v0", written, low=-2, high=2, env_spec_id="Pendulum-v1")
    change_metadata(folder, ref_min_score=-1200.0, ref_max_score=-150.0)
    return train("--output", output, "--evaluation.episodes", 2, *more, expert="test/pendulum-v0")


def test_a_finished_run_is_not_trained_again(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = train_pendulum(output)
    first, _ = succeeds(arguments, capsys)
    times = {path: path.stat().st_mtime_ns for path in output.glob("*/*") if path.is_file()}
    assert {path.name for path in times} == RUN_FILES
    again, notes = succeeds(arguments, capsys)
    assert again == first
    assert [line for line in notes if "finished already: nothing to train" in line] == [
        f"{output / name} is finished already: nothing to train" for name in ("bc", "iq_learn")
    ]
    assert {path: path.stat().st_mtime_ns for path in output.glob("*/*") if path.is_file()} == times
    for name, label in (("bc", "BC"), ("iq_learn", "IQ-Learn")):
        summary = json.loads((output / name / "summary.json").read_text())
        assert summary["return_mean"] == pytest.approx(np.mean(summary["returns"]))
        assert summary["normalized_score"] == pytest.approx((summary["return_mean"] + 1200) / 1050)
        (row,) = [line for line in first.splitlines() if f" {label} " in line]
        assert f"{summary['return_mean']:.1f}" in row
        assert f"{summary['normalized_score']:.3f}" in row


def test_a_finished_run_is_scored_anew_in_other_episodes(
    output: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the note on few episodes advises; nothing is trained, and the old scores stay until there are new ones."""
    arguments = train_pendulum(output, "--algorithms", "bc")
    run, more = output / "bc", ("--evaluation.episodes", "3")
    succeeds(arguments, capsys)
    written = {name: (run / name).read_bytes() for name in ("summary.json", "config.toml", "episodes.parquet")}
    trained = {path: path.read_bytes() for path in run.rglob("*.safetensors")}
    before = json.loads(written["summary.json"])

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def refuse(*_: object) -> None:
        raise UserError("no such environment here")

    for name, raising, code in (("_score_all", interrupt, 130), ("evaluation_environment", refuse, 2)):
        with monkeypatch.context() as context:
            context.setattr(scoring, name, raising)
            assert main([*arguments, *more]) == code
        assert {name: (run / name).read_bytes() for name in written} == written
    capsys.readouterr()

    _, notes = succeeds([*arguments, *more], capsys)
    assert f"{run} is trained already: only scored anew, for its evaluation was another" in notes
    summary = json.loads((run / "summary.json").read_text())
    assert summary["returns"][:2] == before["returns"]
    assert [len(point["returns"]) for point in summary["curve"]] == [3] * len(before["curve"])
    assert {key: summary[key] for key in ("seconds", "health", "held_out")} == {
        key: before[key] for key in ("seconds", "health", "held_out")
    }
    assert saved_config(run / "config.toml").evaluation.episodes == 3
    assert pl.read_parquet(run / "episodes.parquet").filter("is_final").height == 3
    assert {path: path.read_bytes() for path in run.rglob("*.safetensors")} == trained
    _, notes = succeeds([*arguments, *more], capsys)
    assert notes == [f"{run} is finished already: nothing to train"]

    shutil.rmtree(run / "checkpoint")
    assert main([*arguments, "--evaluation.episodes", "4"]) == 2
    assert "evaluation.episodes is 3 there and 4 here" in capsys.readouterr().err
    assert json.loads((run / "summary.json").read_text()) == summary


def test_an_output_folder_with_another_configuration(
    root: Path, output: Path, fails: Fails, capsys: pytest.CaptureFixture[str]
) -> None:
    succeeds(train("--output", output, "--algorithms", "bc"), capsys)
    line = fails(train("--output", output, "--algorithms", "bc", "--average-decay", 0.5))
    assert f"{output / 'bc'} holds another configuration" in line
    assert "training.average_decay is 0.999 there and 0.5 here" in line
    line = fails(train("--output", output, "--algorithms", "bc", "--seed", 1, "--batch-size", 16))
    assert "1 more" in line


def test_an_output_folder_of_a_run_on_other_data(
    root: Path, output: Path, fails: Fails, capsys: pytest.CaptureFixture[str]
) -> None:
    """The dataset was replaced while the run was unfinished: going on would mix the two."""
    arguments = train("--output", output, "--algorithms", "bc")
    succeeds(arguments, capsys)
    (output / "bc" / "summary.json").unlink()
    shutil.rmtree(root / "test")
    point_mass_dataset(NAME, 3, 20, seed=5)
    assert "was begun on other data" in fails(arguments)


@pytest.mark.parametrize("name", ["summary.json", "diagnostics.ndjson"])
def test_a_damaged_file_of_a_run_is_named_and_can_be_removed(
    name: str, output: Path, fails: Fails, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = train("--output", output, "--algorithms", "bc", "--snapshots", 2)
    succeeds(arguments, capsys)
    file, policy = output / "bc" / name, (output / "bc" / "policy.safetensors").read_bytes()
    cut = file.read_bytes()[:-10]
    (output / "bc" / "summary.json").unlink()  # It is not finished, and its diagnostics are read.
    file.write_bytes(cut)
    assert f"{file} is cut or damaged" in fails(arguments)
    file.unlink()
    succeeds(arguments, capsys)
    assert (output / "bc" / "policy.safetensors").read_bytes() == policy


@pytest.mark.parametrize("inside", ["notes.txt", "bc/notes.txt"])
def test_an_output_folder_that_is_no_run(inside: str, fails: Fails, output: Path) -> None:
    (output / inside).parent.mkdir(parents=True)
    (output / inside).write_text("precious")
    line = fails(train("--output", output))
    assert "choose another --output" in line
    assert str(output) in line


@pytest.mark.parametrize("depth", [0, 1])
def test_an_output_folder_that_is_a_file(depth: int, fails: Fails, output: Path) -> None:
    output.parent.mkdir()
    output.write_text("precious")
    target = output if depth == 0 else output / "inner"
    assert str(output) in fails(train("--output", target))
    assert output.read_text() == "precious"


def test_an_empty_output_folder_is_used(root: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output.mkdir(parents=True)
    (output / ".hidden").write_text("")
    succeeds(train("--output", output, "--algorithms", "bc"), capsys)
    assert {path.name for path in (output / "bc").iterdir() if path.is_file()} == RUN_FILES


def test_a_read_only_output_folder(fails: Fails, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk") as disk:
        make_read_only(disk)
        line = fails(train("--output", disk / "run"))
        assert "not allowed to write" in line
        assert str(disk) in line


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ([*train("--output", "x" * 300)], "x" * 200),
        ([*train("--algorithms", "bc", expert=f"test/{'x' * 300}-v0")], "xxx"),
        (["train", f"{'x' * 300}.toml"], "xxx"),
        (["datasets", "inspect", NAME, "--picture", f"{'x' * 300}.png"], "xxx"),
        (["results", "x" * 300], "no folder xxx"),
    ],
    ids=["output", "dataset", "recipe", "picture", "folder"],
)
def test_names_that_are_too_long_for_a_file(command: list[str], problem: str, fails: Fails) -> None:
    line = fails(command)
    assert problem in line
    assert "a name is too long for a file" in line or "no folder" in line


@pytest.mark.parametrize(
    ("number", "file", "line"),
    [
        (errno.EACCES, "/far/summary.json", "not allowed to use /far/summary.json: change its permissions, or give an"),
        (errno.EROFS, "/far/cache", "not allowed to use /far/cache: change its permissions, or give another"),
        (errno.ENOSPC, "/far/cache", "no space left for /far/cache: free some space"),
        (errno.EDQUOT, None, "no space left for what is printed: free some space"),
    ],
)
def test_what_a_disk_refuses_is_no_bug(
    number: int, file: str | None, line: str, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it happens: here where a cache is looked at."""

    def refuse() -> None:
        raise OSError(number, os.strerror(number), file)

    monkeypatch.setattr(cache, "size", refuse)
    assert f"error: {line}" in fails(["datasets", "cache"])


def test_nothing_is_recorded_where_nothing_can_be_written(
    fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tmpfs(tmp_path / "disk") as disk:
        make_read_only(disk)
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(disk / "minari"))
        monkeypatch.setattr(record, "rollout", lambda *_: pytest.fail("it was recorded first"))
        line = fails(["datasets", "build", "cartpole/expert"])
        assert "not allowed to write while recording iq-offline/cartpole/expert-v0" in line


def test_a_finished_run_prints_its_table_where_nothing_can_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where its picture would be another one, of the runs that are asked for; then it says so."""
    with tmpfs(tmp_path / "disk") as disk:
        arguments = train_pendulum(disk / "run")
        first, _ = succeeds(arguments, capsys)
        make_read_only(disk)
        again, notes = succeeds(arguments, capsys)
        assert again == first
        assert all("finished already: nothing to train" in line for line in notes)
        assert main([*arguments, "--algorithms", "bc"]) == 2
        printed = capsys.readouterr()
        assert " BC " in printed.out
        assert "error: not allowed to write while drawing the comparison in" in printed.err


# ---------------------------------------------------------------------------------------------- full disks


def test_full_disk_while_caching(fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: Path) -> None:
    write_dataset("test/large-v0", random_episodes(np.random.default_rng(0), [300] * 3, (400,), (2,)))
    with tmpfs(tmp_path / "disk", "1m") as disk:
        monkeypatch.setenv("IQ_OFFLINE_CACHE", str(disk))
        line = fails(train("--output", output, expert="test/large-v0"))
        assert line.startswith(f"error: no space left while caching test/large-v0 in {disk}")
        assert list(disk.iterdir()) == []


def test_full_disk_while_checkpointing(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line; the older checkpoint stays, nothing half beside it; with space again the command goes on and ends."""
    with tmpfs(tmp_path / "disk", "1m") as disk:
        arguments = train("--output", disk / "run", "--algorithms", "iq_learn", "--snapshots", 0)
        arguments += ["--hidden-sizes", "300", "300"]
        folder = disk / "run" / "iq_learn"
        assert main(arguments) == 2
        line = the_error(capsys.readouterr().err)
        assert line.startswith(f"error: no space left while writing a checkpoint in {folder}"), line
        assert list(folder.rglob(".*")) == []
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        succeeds(arguments, capsys)
        whole = tmp_path / "whole"
        succeeds([*arguments, "--output", str(whole)], capsys)
        assert_same_policies(disk / "run" / "iq_learn", whole / "iq_learn")


def test_disks_of_every_size(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever in the run the disk is full, the failure is one line, leaves nothing half, and can be mended."""
    outcomes = []
    with tmpfs(tmp_path / "disk", "4m") as disk:
        for free in range(0, 360_000, 45_056):
            block = disk / "block"
            block.unlink(missing_ok=True)
            shutil.rmtree(disk / "run", ignore_errors=True)
            available = shutil.disk_usage(disk).free
            block.write_bytes(b"\0" * (available - free))
            arguments = train("--output", disk / "run", "--algorithms", "bc", "--snapshots", 2)
            code = main(arguments)
            printed = capsys.readouterr()
            if code:
                assert (code, free) == (2, free)
                line = the_error(printed.err)
                assert "no space left while" in line
                outcomes.append(line.split(" while ")[1].split(" in ")[0])
                assert not list(disk.rglob(".*"))
                block.unlink()
                succeeds(arguments, capsys)
            else:
                outcomes.append("finished")
    assert outcomes[0] == "starting a run"
    assert outcomes[-1] == "finished"
    assert len(set(outcomes)) >= 4, outcomes


@pytest.mark.parametrize("size", ["1m", "4m"])
def test_full_disk_while_importing_and_recording(size: str, tmp_path: Path) -> None:
    """In processes of their own, which HDF5 would take down with it: it cannot close a file on a full disk."""
    rows = [f"{trip},{time},{time / 7},{trip / 9}" for trip in range(120) for time in range(30)]
    (tmp_path / "log.csv").write_text("\n".join(["trip,t,x,u", *rows]))
    roles = ("--episode", "trip", "--time", "t", "--observation", "x", "--action", "u", "--id", "lab/log-v0")
    with tmpfs(tmp_path / "disk", size) as disk:
        environment = os.environ | {"MINARI_DATASETS_PATH": str(disk / "minari")}
        for command in (("import", str(tmp_path / "log.csv"), *roles), ("build", "cartpole/expert")):
            done = python("-m", "iq_offline", "datasets", *command, env=environment)
            assert done.returncode == (0 if size == "4m" else 2), done.stderr
            if done.returncode:
                assert "no space left while" in the_error(done.stderr)
                assert not [path for path in disk.rglob("*") if path.is_file()]
            else:
                shutil.rmtree(disk / "minari")


def test_file_size_limit_while_logging(root: Path, output: Path) -> None:
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731
    arguments = train("--output", output, "--algorithms", "bc", "--gradient-steps", 3000, "--log-every", 1)
    arguments += ["--checkpoint-every", "3000", "--snapshots", "0", "--hidden-sizes", "2"]
    done = python("-m", "iq_offline", *arguments, preexec_fn=limit)
    assert done.returncode == 2, done.stderr
    assert the_error(done.stderr).startswith("error: no space left while writing metrics")


# ---------------------------------------------------------------------------------------------- environments


EVIL = "from pathlib import Path\nPath({mark!r}).write_text('was here')\n"


def test_untrusted_environments_are_not_run(
    root: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dataset that names code: trained, said so, not evaluated; with --trust-env it runs."""
    mark = tmp_path / "mark"
    (tmp_path / "code").mkdir()
    evil = "from gymnasium.envs.classic_control import PendulumEnv\n" + EVIL.format(mark=str(mark))
    (tmp_path / "code" / "evil_env.py").write_text(evil)
    monkeypatch.syspath_prepend(tmp_path / "code")
    written = random_episodes(np.random.default_rng(0), [20], (3,), (1,))
    folder = write_dataset("test/evil-v0", written, low=-2, high=2)
    specification = json.loads(gymnasium.spec("Pendulum-v1").to_json())
    specification |= {"id": "Evil-v0", "entry_point": "evil_env:PendulumEnv"}
    change_metadata(folder, env_spec=json.dumps(specification), ref_min_score=0.0, ref_max_score=1.0)
    arguments = train("--algorithms", "bc", "--evaluation.episodes", 1, "--snapshots", 1, expert="test/evil-v0")
    printed, notes = succeeds([*arguments, "--output", str(output)], capsys)
    assert not mark.exists()
    assert "not evaluated" in printed
    (note,) = [line for line in notes if line.startswith("trained, but not evaluated: ")]
    assert "--trust-env" in note
    summary = json.loads((output / "bc" / "summary.json").read_text())
    assert (summary["returns"], summary["normalized_score"], summary["curve"]) == ([], None, [])
    printed, notes = succeeds([*arguments, "--output", str(tmp_path / "trusted"), "--trust-env"], capsys)
    assert mark.exists()
    assert notes == []
    assert len(json.loads((tmp_path / "trusted" / "bc" / "summary.json").read_text())["returns"]) == 1


def test_what_the_note_advises_works(root: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command with --trust-env evaluates a run that could not be evaluated, and trains nothing again."""
    folder = write_dataset("test/odd-v0", random_episodes(np.random.default_rng(0), [20], (3,), (1,)), -2, 2)
    specification = json.loads(gymnasium.spec("Pendulum-v1").to_json()) | {"id": "NotInstalled-v0"}
    change_metadata(folder, env_spec=json.dumps(specification), ref_min_score=0.0, ref_max_score=1.0)
    arguments = train("--output", output, "--algorithms", "bc", "--evaluation.episodes", 1, expert="test/odd-v0")
    _, notes = succeeds(arguments, capsys)
    assert "--trust-env" in notes[0]
    policy = output / "bc" / "policy.safetensors"
    before = policy.read_bytes()
    printed, _ = succeeds([*arguments, "--trust-env"], capsys)
    assert "not evaluated" not in printed
    assert len(json.loads((output / "bc" / "summary.json").read_text())["returns"]) == 1
    assert policy.read_bytes() == before


@pytest.mark.parametrize(("width", "did"), [(3, "evaluated"), (2, "its environment was built")])
def test_wrappers_that_are_left_out_are_named(
    width: int, did: str, root: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the wrappers the scores might be others, or the observations those of the data."""
    folder = write_dataset("test/odd-v0", random_episodes(np.random.default_rng(0), [20], (width,), (1,)), -2, 2)
    wrappers = [{"name": name, "entry_point": f"nowhere:{name}", "kwargs": {}} for name in ("Flat", "Rescale")]
    specification = json.loads(gymnasium.spec("Pendulum-v1").to_json()) | {"additional_wrappers": wrappers}
    change_metadata(folder, env_spec=json.dumps(specification), ref_min_score=0.0, ref_max_score=1.0)
    arguments = train("--output", output, "--algorithms", "bc", "--evaluation.episodes", 1, expert="test/odd-v0")
    _, notes = succeeds(arguments, capsys)
    note = f"note: {did} without the wrappers Flat, Rescale that test/odd-v0 names: they are code; --trust-env runs it"
    assert [line for line in notes if line.startswith("note: ")] == [note]
    assert len([line for line in notes if line.startswith("trained, but not evaluated: ")]) == (width == 2)


@pytest.mark.parametrize("problem", ["arguments", "shape"])
def test_environments_that_do_not_fit(
    problem: str, root: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training is not lost: there is a summary, and the policy."""
    folder = write_dataset("test/odd-v0", random_episodes(np.random.default_rng(0), [20], (3,), (1,)), -2, 2)
    specification = json.loads(gymnasium.spec("Pendulum-v1").to_json())
    if problem == "arguments":
        specification["kwargs"] = {"no_such_argument": 1}
    else:
        specification = json.loads(gymnasium.spec("MountainCarContinuous-v0").to_json())
    change_metadata(folder, env_spec=json.dumps(specification), ref_min_score=0.0, ref_max_score=1.0)
    _, notes = succeeds(train("--output", output, "--algorithms", "bc", expert="test/odd-v0"), capsys)
    assert len([line for line in notes if line.startswith("trained, but not evaluated: ")]) == 1
    assert json.loads((output / "bc" / "summary.json").read_text())["returns"] == []


# ---------------------------------------------------------------------------------------------- other commands


def test_list_survives_a_damaged_dataset(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_metadata(small_dataset("test/empty-v0").path, total_episodes=0, total_steps=0)
    (small_dataset("test/half-v0").path / "metadata.json").write_text("{")
    printed, _ = succeeds(["datasets", "list"], capsys)
    assert "hopper/expert" in printed
    (row,) = [line for line in printed.splitlines() if NAME in line]
    assert "60" in row
    for name in ("test/empty-v0", "test/half-v0"):
        assert name in printed


def test_cache_command(root: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    succeeds(train("--output", output, "--algorithms", "bc"), capsys)
    assert list(cache_folder().iterdir())
    printed, _ = succeeds(["datasets", "cache"], capsys)
    assert str(cache_folder()) in printed
    succeeds(["datasets", "cache", "--clear"], capsys)
    assert list(cache_folder().iterdir()) == []
    printed, _ = succeeds(["datasets", "cache"], capsys)
    assert "0.0 MB" in printed


# ---------------------------------------------------------------------------------------------- real processes


def test_an_environment_that_fails_in_the_scoring(output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The policies are there, the next learner is trained, and where it is mended the same command scores them."""
    broken = tmp_path / "broken"
    broken.touch()
    point_dataset(fault="raise", after=3, while_there=str(broken))
    command = train("--output", output, "--algorithms", "bc", "iq_learn", *NO_HELD_OUT, expert="test/point-v0")
    _, notes = succeeds(command, capsys)
    words = "trained, but not evaluated: Point-v0 raised ZeroDivisionError in a step: a wheel came off"
    assert notes.count(words) == 1
    summaries = [output / name / "summary.json" for name in ("bc", "iq_learn")]
    assert [json.loads(file.read_text())["returns"] for file in summaries] == [[], []]
    broken.unlink()
    succeeds(command, capsys)
    assert all(json.loads(file.read_text())["returns"] for file in summaries)


def test_checkpoints_one_step_after_a_row(root: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the sums of the metrics hold one number only, and two metrics are one tensor."""
    steps = ("--algorithms", "bc", "--log-every", 10, "--checkpoint-every", 11)
    succeeds(train("--output", output / "one", *steps), capsys)
    succeeds(train("--output", output / "other", "--algorithms", "bc", "--log-every", 10), capsys)
    assert_same_policies(output / "one" / "bc", output / "other" / "bc")


def test_a_real_process(root: Path, output: Path) -> None:
    command = ("-m", "iq_offline.recipes.hopper_offline", "--expert", "test/smal-v0", "--output", str(output))
    done = python(*command)
    assert (done.returncode, done.stdout) == (2, "")
    assert "test/small-v0" in the_error(done.stderr)
    assert len(done.stderr.splitlines()) == 1
    assert not output.exists()


@pytest.mark.parametrize("locale", [{}, {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}, {"FORCE_COLOR": "1"}])
def test_real_processes_on_every_terminal(locale: dict[str, str]) -> None:
    done = python("-m", "iq_offline", "train", "hopper_offline", "--gradient-steps", "many", env=os.environ | locale)
    assert (done.returncode, done.stdout) == (2, "")
    line = the_error(done.stderr)
    assert "gradient-steps" in line
    assert "many" in line
    assert len(line) < 300
    assert line.isprintable()


def test_output_that_cannot_be_printed() -> None:
    """A full disk is one line; what a terminal has no letter for is a question mark."""
    with open("/dev/full", "w") as full:
        done = python("-m", "iq_offline", "datasets", "list", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (2, "error: no space left for what is printed: free some space\n")
    done = python("-m", "iq_offline", "datasets", "list", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = [line for line in done.stdout.splitlines() if "hopper/expert " in line]
    assert " ? " in row


def test_debug_shows_the_traceback() -> None:
    done = warm_python("-m", "iq_offline", "train", "hoper_offline", "--debug")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert "UserError: no recipe 'hoper_offline'" in done.stderr


def test_ctrl_c(root: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 130 and one line; the same command finishes, with the bits of an uninterrupted run."""
    steps = ("--gradient-steps", 600, "--log-every", 10, "--algorithms", "bc", "--snapshots", 1)
    arguments = train("--output", output, *steps)
    process = start_python("-m", "iq_offline", *arguments)
    assert process.stderr
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("training bc:"):
            break
    process.send_signal(signal.SIGINT)
    rest, printed = process.stderr.read(), process.stdout.read() if process.stdout else ""
    assert process.wait(60) == 130
    assert printed == ""
    said = [line for line in (*lines, *rest.splitlines()) if not PROGRESS.match(line)]
    assert len(said) == 1
    assert said[0].startswith("interrupted: stopped at step ")
    step = int(said[0].split("step ")[1].split(" of")[0].replace(",", ""))
    assert 0 < step < 600
    assert not (output / "bc" / "summary.json").exists()
    torch.set_num_threads(1)
    succeeds(arguments, capsys)
    succeeds(train("--output", tmp_path / "whole", *steps), capsys)
    assert_same_policies(output / "bc", tmp_path / "whole" / "bc")
    rows = [json.loads(line) for line in (output / "bc" / "metrics.ndjson").read_text().splitlines()]
    assert [row["gradient_steps"] for row in rows] == list(range(10, 601, 10))


def test_an_environment_without_a_time_limit_is_scored_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], own_folders: None
):
    endless_dataset("test/swing-v0")
    given = ["--gradient-steps", "5", "--hidden-sizes", "4", "--batch-size", "4", "--algorithms", "bc"]
    code = main(["train", "hopper_offline", "--expert", "test/swing-v0", *given, "--output", str(tmp_path / "runs")])
    said = capsys.readouterr().err
    assert code == 0, said
    assert "note: Pendulum-v1 has no time limit: episodes are cut after 30 steps" in said
    assert len(json.loads((tmp_path / "runs" / "bc" / "summary.json").read_text())["returns"]) == 10


def test_options_may_name_their_section_as_files_do(tmp_path: Path, own_folders: None):
    write_dataset("test/named-v0", random_episodes(np.random.default_rng(0), [5, 6]))
    given = ["--data.expert", "test/named-v0", "--training.gradient-steps=5", "--training.hidden-sizes", "4"]
    code = main(["train", "hopper_offline", *given, "--algorithms", "bc", "--output", str(tmp_path / "runs")])
    assert code == 0
    table = tomllib.loads((tmp_path / "runs" / "bc" / "config.toml").read_text())
    assert (table["data"]["expert"], table["training"]["gradient_steps"]) == ("test/named-v0", 5)
