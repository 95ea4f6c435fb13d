"""The online stage as a user meets it: whole commands, environments that fail, Ctrl-C, and a kill."""

import json
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from iq_offline.cli import main
from iq_offline.config import RunConfig, from_table, read_toml, saved_config
from iq_offline.training import checkpoint
from iq_offline.training.tracking import read_metrics
from tests.data_helpers import PROGRESS, change_metadata, start_python
from tests.environments.worlds import COMMAND, environment_dataset, point_dataset, specification
from tests.training.program import assert_same_run, weights
from tests.warm import warm_python

SMALL = ("--hidden-sizes", "8", "--batch-size", "16", "--checkpoint-every", "10", "--log-every", "5")
SHORT = ("--online.env-steps", "80", "--online.start-steps", "20", "--online.evaluate-every", "40")
TUNED = ("--env-steps", "80", "--start-steps", "20", "--evaluate-every", "40", "--critic-warmup", "10")
LATEST = "checkpoint/latest.safetensors"


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, list[str]]:
    """A command in this process: what it prints, and its lines on stderr.

    Without the progress, and the notes that the point mass has no state that could be saved and that few episodes of
    hardly trained policies differ.
    """
    capsys.readouterr()
    ended = main([*map(str, arguments)])
    printed = capsys.readouterr()
    assert ended == code, printed.err
    usual = re.compile(
        f"{PROGRESS.pattern}|note: the state of Point-v0 cannot be saved|note: .* episodes differ so much"
    )
    return printed.out, [line for line in printed.err.splitlines() if not usual.match(line)]


def train_offline(capsys: pytest.CaptureFixture[str], output: Path, *more: str) -> list[str]:
    """A short run of each learner on fixed data of the point mass; its lines on stderr."""
    few = ("--expert", "test/point-v0", "--gradient-steps", "20", "--evaluation.episodes", "2", *SMALL, *more)
    return said(capsys, "train", "hopper_offline", *few, "--output", output)[1]


def online(output: Path, *more: str, dataset: str = "test/point-v0") -> tuple[str, ...]:
    """``iq-offline train hopper_offline --online`` on a small dataset."""
    given = ("train", "hopper_offline", "--online", "--expert", dataset, "--output", str(output))
    return ("-c", COMMAND, *given, "--held-out-trajectories", "1", "--evaluation.episodes", "2", *SMALL, *SHORT, *more)


def test_offline_then_finetune(tmp_path: Path):
    """A policy that never met the environment goes on in it; the summary says what came of it."""
    point_dataset()
    few = (
        "--expert",
        "test/point-v0",
        "--gradient-steps",
        "20",
        "--algorithms",
        "iq_learn",
        "--evaluation.episodes",
        "2",
    )
    folder = tmp_path / "runs"
    done = warm_python("-c", COMMAND, "train", "hopper_offline", *few, *SMALL, "--output", str(folder))
    assert done.returncode == 0, done.stderr
    again = warm_python("-c", COMMAND, "finetune", str(folder))
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert f"error: {folder} holds several runs: give {folder / 'iq_learn'}" in again.stderr

    short = ("--env-steps", "80", "--start-steps", "20", "--evaluate-every", "40", "--environments", "2")
    arguments = ("-c", COMMAND, "finetune", str(folder / "iq_learn"), *short, "--output", str(tmp_path / "tuned"))
    done = warm_python(*arguments)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        "error: online.critic_warmup = 2000 of 60 updates leaves none in which the policy moves: give more "
        "online.env_steps, or a shorter warm-up",
    )
    done = warm_python(*arguments, "--critic-warmup", "10")
    assert done.returncode == 0, done.stderr
    assert "80 steps in the environment: " in done.stdout
    assert "env steps, " in done.stderr, "the progress says how fast the environment goes"
    config = from_table(RunConfig, read_toml(tmp_path / "tuned" / "config.toml"), "test")
    assert (config.online.start, config.online.critic_warmup) == (str(folder / "iq_learn"), 10)
    assert (config.iq_learn.value_states, config.iq_learn.chi2_states) == ("mixture", "mixture")
    assert config.training.hidden_sizes == (8,)
    summary = json.loads((tmp_path / "tuned" / "summary.json").read_text())
    offline = json.loads((folder / "iq_learn" / "summary.json").read_text())
    assert [point["env_steps"] for point in summary["curve"]] == [0, 40, 80]
    assert summary["curve"][0]["returns"] == offline["returns"], "the curve begins with the offline policy"
    assert summary["online"]["start_score"] == pytest.approx(offline["normalized_score"])
    assert (summary["env_steps"], summary["gradient_steps"]) == (80, 60)
    before, after = weights(folder / "iq_learn" / "policy.safetensors"), weights(tmp_path / "tuned/policy.safetensors")
    assert not any(torch.equal(before[name], after[name]) for name in before if name.endswith("weight"))
    assert (tmp_path / "tuned" / "curve.png").stat().st_size > 10_000
    assert all("time/env_steps_per_second" in row for row in read_metrics(tmp_path / "tuned" / "metrics.ndjson"))
    again = warm_python("-c", COMMAND, "finetune", str(tmp_path / "tuned"))
    assert again.returncode == 2
    assert "is an online run already" in again.stderr


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["iq_learn", "sqil"])
def test_cartpole_is_learned_without_its_reward(algorithm: str, tmp_path: Path):
    """Not to the end, which takes 15,000 steps: five times as long as a random policy holds it."""
    budget = ("--online.env-steps", "6000", "--online.evaluate-every", "6000", "--algorithms", algorithm)
    done = warm_python("-m", "iq_offline", "train", "cartpole_online", *budget, "--output", str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "runs" / algorithm / "summary.json").read_text())
    before, after = (point["return_mean"] for point in (summary["curve"][0], summary["curve"][-1]))
    assert before < 60
    assert after > 100


RECIPE = """
recipe = "two_halves"
algorithms = ["iq_learn"]
data = { expert = "test/point-v0", held_out_trajectories = 1 }
training = { gradient_steps = 20, hidden_sizes = [8], batch_size = 16, snapshots = 2, log_every = 5 }
online = { start = "offline", env_steps = 80, start_steps = 20, evaluate_every = 40, critic_warmup = 10 }
evaluation = { episodes = 2 }
"""


def test_both_halves_in_one_command(tmp_path: Path):
    """The offline run is whole, with a verdict of its own, in a folder within the online one's."""
    point_dataset()
    (tmp_path / "two_halves.toml").write_text(RECIPE)
    folder = tmp_path / "runs"
    command = ("-c", COMMAND, "train", str(tmp_path / "two_halves.toml"), "--output", str(folder))
    done = warm_python(*command)
    assert done.returncode == 0, done.stderr
    before, after = (json.loads((folder / "iq_learn" / name / "summary.json").read_text()) for name in ("offline", "."))
    assert after["curve"][0]["returns"] == before["returns"]
    assert (before["gradient_steps"], after["gradient_steps"], after["env_steps"]) == (20, 60, 80)
    words = f"IQ-Learn, by recorded data alone: {after['health']['verdict']} ({after['health']['reason']})"
    assert words in " ".join(done.stdout.split())
    assert "IQ-Learn, 80 steps in the environment: " in done.stdout
    rates = [line for line in done.stderr.splitlines() if line.startswith("training iq_learn: 60/60  ")]
    assert re.fullmatch(r"training iq_learn: 60/60  \d+/s  80 env steps, \d+/s  .*", rates[0]), rates
    again = warm_python(*command)
    assert (again.returncode, again.stdout) == (0, done.stdout)


def test_a_run_of_two_halves_may_be_moved(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Cut off or finished; once it has a checkpoint of its own, its offline half is not needed any more."""
    broken = tmp_path / "broken"
    point_dataset(fault="raise", after=57, while_there=str(broken))
    broken.touch()
    command = "train", _written(tmp_path, RECIPE)
    _, lines = said(capsys, *command, "--output", tmp_path / "runs", code=2)
    assert "a wheel came off" in lines[-1]
    broken.unlink()
    shutil.copytree(tmp_path / "runs", tmp_path / "copied")
    (tmp_path / "runs").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "iq_learn" / "offline")
    first, _ = said(capsys, *command, "--output", tmp_path / "moved")
    assert not (tmp_path / "moved" / "iq_learn" / "offline").exists(), "it was not trained again"
    assert saved_config(tmp_path / "moved" / "iq_learn" / "config.toml").online.start.startswith(str(tmp_path))
    said(capsys, *command, "--output", tmp_path / "copied")
    assert_same_run(tmp_path / "copied" / "iq_learn", tmp_path / "moved" / "iq_learn")
    (tmp_path / "moved").rename(tmp_path / "archive")
    again, lines = said(capsys, *command, "--output", tmp_path / "archive")
    assert again.replace("archive", "moved") == first
    assert "is finished already: nothing to train" in lines[-1]


def test_what_cannot_be_online_is_told_before_the_offline_half(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """And the folder is nobody's yet: the same command with other settings may have it."""
    point_dataset()
    command = "train", _written(tmp_path, RECIPE), "--output", tmp_path / "runs"
    for *wrong, words in (
        ("--online.critic-warmup", "60", "online.critic_warmup = 60 of 60 updates leaves none"),
        ("--batch-size", "1", "batch_size 1 with online_fraction 0.5 leaves"),
        ("--expert", "test/other-v0", "no dataset 'test/other-v0'"),
        ("--action-low", "2", "action"),
    ):
        _, lines = said(capsys, *command, *wrong, code=2)
        assert len(lines) == 1, wrong
        assert words in lines[0]
        assert not (tmp_path / "runs").exists()
    said(capsys, *command)


@pytest.mark.parametrize("words", [("--no-online",), ("--online.env-steps", "0")])
def test_what_an_online_recipe_is_without_its_environment(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    point_dataset()
    _, lines = said(capsys, "train", _written(tmp_path, RECIPE), *words, "--output", tmp_path / "runs")
    assert not lines or words != ("--no-online",), "its section of steps in the environment is nobody's wish"
    folder = tmp_path / "runs" / "iq_learn"
    config, summary = saved_config(folder / "config.toml"), json.loads((folder / "summary.json").read_text())
    assert not config.is_online
    assert config.iq_learn.policy == "soft_actor_critic"
    assert (summary["gradient_steps"], "env_steps" in summary) == (20, False)
    assert not (folder / "offline").exists()


def test_what_the_command_line_contradicts_or_changes_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    point_dataset()
    command = ["train", "cartpole_online", "--expert", "test/point-v0", "--output", str(tmp_path / "run")]
    for given, told in (
        (["--no-online", "--online.env-steps", "30"], "--no-online and --online.env-steps 30: leave one of them out"),
        (["--online.time-limit", "inf"], "time_limit = inf"),
        (["--online.updates-per-env-step", "inf"], "updates_per_env_step = inf"),
    ):
        assert main([*command, *given]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_wrappers_are_missed_before_the_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """And once, though the environment is looked at before either half."""
    point_dataset()
    wrapper = {"name": "Flat", "entry_point": "gymnasium.wrappers:TransformReward", "kwargs": {}}
    named = json.loads(specification().to_json()) | {"additional_wrappers": [wrapper]}
    change_metadata(tmp_path / "minari" / "test" / "point-v0" / "data", env_spec=json.dumps(named))
    assert main(["train", _written(tmp_path, RECIPE), "--output", str(tmp_path / "runs")]) == 0
    lines = capsys.readouterr().err.splitlines()
    (note,) = [line for line in lines if "stepped without" in line]
    assert note == (
        "note: Point-v0 is stepped without the wrappers Flat that test/point-v0 names: they are code; --trust-env runs "
        "it"
    )
    assert lines.index(note) < next(i for i, line in enumerate(lines) if line.startswith("training "))


def _written(folder: Path, recipe: str) -> str:
    """The path of a recipe's file."""
    (folder / "two_halves.toml").write_text(recipe)
    return str(folder / "two_halves.toml")


def test_another_environment_than_the_data_name_is_told_before_the_offline_half(tmp_path: Path):
    """Which may take minutes."""
    environment_dataset("test/other-v0", "CartPole-v1", named="MountainCar-v0")
    (tmp_path / "two_halves.toml").write_text(RECIPE.replace("test/point-v0", "test/other-v0"))
    done = warm_python("-c", COMMAND, "train", str(tmp_path / "two_halves.toml"), "--output", str(tmp_path / "runs"))
    assert done.returncode == 2, done.stderr
    assert "training iq_learn" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "MountainCar-v0" in line
    assert not (tmp_path / "runs" / "iq_learn" / "offline").exists()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise", "Point-v0 raised ZeroDivisionError in a step: a wheel came off"),
        ("hang", "Point-v0 hangs: a step took more than 2 seconds (online.time_limit)"),
        ("nan", "the environment observed values in 'observation' that are not finite"),
    ],
)
def test_an_environment_that_fails_leaves_a_checkpoint(fault: str, words: str, tmp_path: Path):
    """One line, the state saved, and the same command goes on where the environment has been mended."""
    broken = tmp_path / "broken"
    broken.touch()
    point_dataset(fault=fault, after=47, while_there=str(broken))
    command = online(tmp_path / "runs", "--online.time-limit", "2")
    done = warm_python(*command)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert words in line
    assert "the state after step 27 is saved, and the same command goes on from there" in line
    assert "Traceback" not in done.stderr
    run = tmp_path / "runs" / "iq_learn"
    tensors, values = checkpoint.load(run / LATEST)
    assert (values["step"], int(tensors["online/env_steps"]), len(tensors["online/table/numbered"])) == (27, 47, 47)
    broken.unlink()
    patient = ("--online.time-limit", "30", "--online.in-processes", "no")  # Which change no result.
    done = warm_python(*online(tmp_path / "runs", *patient))
    assert done.returncode == 0, done.stderr
    assert read_toml(run / "config.toml")["online"]["time_limit"] == 30
    assert int(weights(run / LATEST)["online/env_steps"]) == 80
    assert (run / "summary.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_cut_off_anywhere_it_ends_with_the_same_bits(number: signal.Signals, tmp_path: Path):
    """With environments in processes of their own, which Ctrl-C and a scheduler's signal reach as well."""
    environment_dataset("test/pole-v0", "CartPole-v1")
    more = ("--online.environments", "2", "--online.env-steps", "400", "--online.in-processes", "yes")
    whole = warm_python(*online(tmp_path / "whole", *more, dataset="test/pole-v0"))
    assert whole.returncode == 0, whole.stderr
    command = online(tmp_path / "cut", *more, dataset="test/pole-v0")
    process = start_python(*command, start_new_session=True)
    run = tmp_path / "cut" / "iq_learn"
    deadline = time.monotonic() + 200
    while not (run / LATEST).exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if number != signal.SIGKILL:
        import os

        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == (130 if number != signal.SIGKILL else -9), errors
    assert not (run / "summary.json").exists(), "it was cut off before its end"
    if number != signal.SIGKILL:
        assert "goes on from there" in errors
        assert "Traceback" not in errors
    done = warm_python(*command)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "whole" / "iq_learn", run)


def test_a_start_is_the_same_however_it_is_spelled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """From another folder, by its whole path, and after it was moved; another run is another start."""
    broken = tmp_path / "broken"
    point_dataset(fault="raise", after=20, while_there=str(broken))
    train_offline(capsys, tmp_path / "out" / "a b")
    broken.touch()
    (tmp_path / "elsewhere").mkdir()
    output, run = ("--output", tmp_path / "tuned"), tmp_path / "out" / "a b" / "iq_learn"

    def cut_off(start: object) -> None:
        _, lines = said(capsys, "finetune", start, *TUNED, *output, code=2)
        assert "a wheel came off" in lines[-1]

    monkeypatch.chdir(tmp_path)
    cut_off("out/a b/iq_learn")
    assert saved_config(tmp_path / "tuned" / "config.toml").online.start == str(run)
    _, lines = said(capsys, "finetune", "out/a b/bc", *TUNED, *output, code=2)
    assert f"online.start is {str(run)!r} there and {str(run.with_name('bc'))!r} here" in lines[-1]
    monkeypatch.chdir(tmp_path / "elsewhere")
    cut_off(run)
    cut_off("../out/a b/iq_learn")
    (tmp_path / "out").rename(tmp_path / "archive")
    broken.unlink()
    said(capsys, "finetune", tmp_path / "archive" / "a b" / "iq_learn", *TUNED, *output)
    assert json.loads((tmp_path / "tuned" / "summary.json").read_text())["env_steps"] == 80


def test_fine_tuning_says_what_it_begins_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A run that is not at its end; ValueDICE's, of which only the policy is taken."""
    point_dataset()
    train_offline(capsys, tmp_path / "runs", "--algorithms", "valuedice")
    run = tmp_path / "runs" / "valuedice"
    file = run / "config.toml"  # As if it had been cut off.
    file.write_text(file.read_text().replace("gradient_steps = 20", "gradient_steps = 2000"))
    _, notes = said(capsys, "finetune", run, *TUNED, "--output", tmp_path / "tuned")
    assert notes[0] == f"note: {run} is not at its end: its networks are those of step 20 of 2,000"
    assert notes[1] == (
        "note: ValueDICE's policy goes on by IQ-Learn; ValueDICE itself goes on, with its nu, where a recipe has the "
        "run as online.start: iq-offline train RUN_DIR/config.toml --online.start RUN_DIR --online.env-steps 100000"
    )
    assert len(notes) == 2
    _, notes = said(capsys, "finetune", run, *TUNED, "--output", tmp_path / "tuned")
    assert notes == [f"{tmp_path / 'tuned'} is finished already: nothing to train"]
    short = ("--online.env-steps", "80", "--online.start-steps", "20", "--online.critic-warmup", "10")
    command = ("train", run / "config.toml", "--online.start", run, *short)
    _, notes = said(capsys, *command, "--output", tmp_path / "both")
    assert not notes
    assert "learner/parameters/nu/0.weight" in weights(tmp_path / "both" / "valuedice" / LATEST)


def test_what_was_set_for_the_offline_half_and_is_decided_anew_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Two things were set: one is set here as well, the other is not."""
    point_dataset()
    own = ("--iq-learn.behavior-anchor", "0", "--iq-learn.temperature", "0.02")
    train_offline(capsys, tmp_path / "runs", "--algorithms", "iq_learn", *own)
    run = tmp_path / "runs" / "iq_learn"
    given = ("--iq-learn.temperature", "0.05", "--training.log-every", "7")
    _, notes = said(capsys, "finetune", run, *TUNED, *given, "--output", tmp_path / "tuned")
    assert notes == [
        "note: iq_learn.behavior_anchor = 0.0 is the offline run's; here it is decided anew "
        "(--iq-learn.behavior-anchor sets it)"
    ]
    config = from_table(RunConfig, read_toml(tmp_path / "tuned" / "config.toml"), "test")
    assert (config.iq_learn.behavior_anchor, config.iq_learn.temperature) == (100.0, 0.05)
    assert config.training.log_every == 7


def test_the_advice_on_mixtures_is_for_fixed_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """What it advises does not exist online."""
    point_dataset()
    point_dataset("test/other-v0")
    plain = ("--suboptimal", "test/other-v0", "--iq-learn.policy", "soft_actor_critic", "--algorithms", "iq_learn")
    lines = train_offline(capsys, tmp_path / "offline", *plain)
    assert any("known to score near zero offline" in line for line in lines)
    (_, _, *arguments) = online(tmp_path / "online", *plain)
    _, lines = said(capsys, *arguments)
    assert not any("known to score near zero offline" in line for line in lines)
