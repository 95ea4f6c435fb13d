"""Runs trained together leave the folders of runs alone, whatever ends them, and whoever of them fails."""

import json
import math
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iq_offline import scoring
from iq_offline.config import RunConfig, Suboptimal
from iq_offline.errors import UserError
from iq_offline.experiment import Options, Summary, run, run_together
from iq_offline.learning.learner import Learner
from iq_offline.training import checkpoint
from iq_offline.training.offline import LATEST, InterruptedTrainingError, seconds_and_commit, step_reached
from iq_offline.training.tracking import read_metrics
from tests.helpers import Episode, write_dataset
from tests.training.program import (
    EXPERT,
    INTERRUPTED,
    OTHER,
    QUIET,
    assert_same_run,
    configuration,
    rows_without_time,
    train_together,
    weights,
    with_iq_learn,
    write_config,
    write_datasets,
)
from tests.warm import Started


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than these trainings."""
    monkeypatch.setattr(scoring, "plot_run", lambda file, *_: file.write_bytes(b""))


@pytest.fixture(autouse=True)
def datasets(own_folders: None) -> None:
    write_datasets()


def members(count: int = 3, algorithm: str = "iq_learn", **training: Any) -> list[RunConfig]:
    """Runs that differ in seed, data and coefficients, in float64."""
    found = []
    for seed in range(count):
        config = configuration(
            algorithm, seed, algorithm == "sqil", **{"dtype": "float64", "hidden_sizes": (8,)} | training
        )
        config = with_iq_learn(config, chi2_alpha=0.5 + 0.1 * seed, behavior_anchor=1.0 * seed)
        found.append(replace(config, data=replace(config.data, num_expert_trajectories=1 + seed % 3, subsample=2)))
    return found


def folders(base: Path, count: int = 3) -> list[Path]:
    return [base / str(index) for index in range(count)]


def files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def assert_close_runs(one: Path, other: Path) -> None:
    """The same files; numbers but for their last digits, draws to the bit."""
    assert files(one) == files(other)
    for name in ("config.toml", "data.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    for name in files(one):
        if name.endswith(".safetensors"):
            mine, theirs = weights(one / name), weights(other / name)
            assert mine.keys() == theirs.keys()
            for key, value in mine.items():
                assert (value.dtype, value.shape) == (theirs[key].dtype, theirs[key].shape), key
                if key.startswith("random/"):
                    assert torch.equal(value, theirs[key]), key
                tolerance = 1e-8 if value.dtype == torch.float64 else 1e-6
                torch.testing.assert_close(value, theirs[key], rtol=tolerance, atol=tolerance, msg=f"{name} {key}")
    rows, expected = rows_without_time(one), rows_without_time(other)
    assert len(rows) == len(expected) > 0
    for row, like in zip(rows, expected, strict=True):
        assert row == pytest.approx(like, rel=1e-8, abs=1e-10)


def test_a_member_whose_numbers_end_does_not_take_the_others_along(tmp_path: Path):
    """Also where they decide what is imitated: a reward in units of almost nothing overflows."""
    configs = [
        replace(config, data=replace(config.data, suboptimal=(Suboptimal(OTHER),)))
        for config in members(log_every=10, gradient_steps=40, snapshots=0)
    ]
    terms: dict[str, Any] = {"policy": "lookahead", "choose_every": 5, "value_states": "auto", "chi2_states": "auto"}
    configs = [with_iq_learn(config, **terms) for config in configs]
    configs[1] = with_iq_learn(configs[1], chi2_alpha=1e-320)
    first, broken, last = run_together(configs, folders(tmp_path), QUIET)
    assert isinstance(broken, UserError)
    assert "stopped being finite" in str(broken)
    assert isinstance(first, dict)
    assert isinstance(last, dict)
    alone = run(configs[2], tmp_path / "alone", QUIET)
    assert last["held_out"]["error"] == pytest.approx(alone["held_out"]["error"], rel=1e-5)


@contextmanager
def signal_at(step: int, number: signal.Signals = signal.SIGINT) -> Iterator[None]:
    """Sent once, in that update."""
    update = Learner.update

    def signalling(learner: Learner, *arguments: object) -> object:
        if learner.step + 1 == step:
            signal.raise_signal(number)
        return update(learner, *arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "update", signalling)
        yield


@pytest.mark.parametrize(
    ("algorithm", "suboptimal"),
    [
        *(("iq_learn", False), ("iq_learn", True), ("bc", False)),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("valuedice", False), ("sqil", True))),
    ],
)
def test_folders_are_those_of_runs_alone(algorithm: str, suboptimal: bool, tmp_path: Path):
    configs = members(algorithm=algorithm)
    if suboptimal:
        parts = [(Suboptimal(OTHER),), (Suboptimal(OTHER, 1), Suboptimal(EXPERT, 1)), (Suboptimal(EXPERT, 1),)]
        configs = [
            replace(config, data=replace(config.data, suboptimal=some, held_out_trajectories=0))
            for config, some in zip(configs, parts, strict=True)
        ]
        configs = [with_iq_learn(config, value_states="auto", chi2_states="auto") for config in configs]
    together, alone = folders(tmp_path / "together"), folders(tmp_path / "alone")
    outcomes = run_together(configs, together, QUIET)
    summaries = [run(config, folder, QUIET) for config, folder in zip(configs, alone, strict=True)]
    for one, other, outcome, summary in zip(together, alone, outcomes, summaries, strict=True):
        assert_close_runs(one, other)
        assert isinstance(outcome, dict)
        assert json.loads((one / "summary.json").read_text()) == outcome
        same = outcome.keys() - {"seconds", "evaluation_seconds", "held_out"}
        assert outcome.keys() == summary.keys()
        assert {key: outcome[key] for key in same} == {key: summary[key] for key in same}
        if summary["held_out"]:
            assert outcome["held_out"]["error"] == pytest.approx(summary["held_out"]["error"], rel=1e-5)


def test_the_seconds_of_runs_together_add_up_to_what_they_took(tmp_path: Path):
    """In two sessions."""
    configs, places = members(), folders(tmp_path)
    started = time.monotonic()
    with signal_at(30), pytest.raises(InterruptedTrainingError):
        run_together(configs, places, QUIET)
    before = [seconds_and_commit(place)[0] for place in places]
    run_together(configs, places, QUIET)
    seconds = [seconds_and_commit(place)[0] for place in places]
    assert 0 < sum(seconds) < time.monotonic() - started
    assert max(seconds) < 1.5 * min(seconds)
    assert all(first < last for first, last in zip(before, seconds, strict=True))
    rows = [read_metrics(place / "metrics.ndjson")[-1] for place in places]
    assert [row["time/seconds"] for row in rows] == pytest.approx(seconds, rel=0.5)


def pendulum_episodes() -> list[Episode]:
    """Of an inverted pendulum that nobody holds up."""
    generator = np.random.default_rng(0)
    ends = np.arange(12) == 11
    return [
        (generator.standard_normal((13, 4)), generator.uniform(-3, 3, (12, 1)), np.ones(12), ends, np.zeros(12, bool))
        for _ in range(4)
    ]


def test_everyone_is_scored_and_what_is_finished_is_not_run_again(tmp_path: Path):
    write_dataset("test/pendulum-v0", pendulum_episodes(), low=[-3.0], high=3.0, env_spec_id="InvertedPendulum-v5")
    configs = [replace(config, data=replace(config.data, expert="test/pendulum-v0")) for config in members(snapshots=1)]
    configs = [replace(config, evaluation=replace(config.evaluation, episodes=2)) for config in configs]
    outcomes = run_together(configs[:2], folders(tmp_path, 2), QUIET)
    alone = run(configs[0], tmp_path / "alone", QUIET)
    assert isinstance(outcomes[0], dict)
    assert len(outcomes[0]["returns"]) == 2
    assert outcomes[0]["returns"] == alone["returns"]
    assert [part["returns"] for part in outcomes[0]["curve"]] == [part["returns"] for part in alone["curve"]]

    said: list[str] = []
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in tmp_path.rglob("[01]/**/*.safetensors")}
    again = run_together(configs, folders(tmp_path), Options(say=said.append))
    assert again[:2] == outcomes
    assert isinstance(again[2], dict)
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in before} == before
    assert [line for line in said if "finished already" in line] == [
        f"{tmp_path / name} is finished already: nothing to train" for name in "01"
    ]


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_population_ended_at_a_random_moment_goes_on_as_if_nothing_had_happened(
    number: signal.Signals, tmp_path: Path
):
    """Bit for bit: the members stand at one step, whenever the process ended."""
    configs = members(gradient_steps=150, log_every=7, checkpoint_every=10, snapshots=4)
    straight, broken = folders(tmp_path / "straight"), folders(tmp_path / "broken")
    assert train_together(configs, straight) == [None] * 3
    command = ["-m", "tests.training.program"]
    for index, (config, folder) in enumerate(zip(configs, broken, strict=True)):
        command += [str(write_config(config, tmp_path / f"{index}.toml")), str(folder)]
    program = Started(*command)
    while program.poll() is None and not (broken[0] / LATEST).exists():
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.2))
    program.send_signal(number)
    output = program.communicate(timeout=60)
    assert program.returncode == (-number if number == signal.SIGKILL else INTERRUPTED), output
    assert not any((folder / "policy.safetensors").exists() for folder in broken)

    assert train_together(configs, broken) == [None] * 3
    for one, other in zip(straight, broken, strict=True):
        assert_same_run(one, other)


def test_a_signal_saves_all_and_says_where(tmp_path: Path):
    configs = members()
    with signal_at(33), pytest.raises(InterruptedTrainingError, match="step 33 "):
        run_together(configs, folders(tmp_path), QUIET)
    assert [step_reached(folder) for folder in folders(tmp_path)] == [33] * 3
    assert all(len(read_metrics(folder / "metrics.ndjson")) == 3 for folder in folders(tmp_path))


def test_begun_together_and_finished_alone(tmp_path: Path):
    configs = members()
    with signal_at(33), pytest.raises(InterruptedTrainingError):
        run_together(configs, folders(tmp_path / "broken"), QUIET)
    pairs = zip(configs, folders(tmp_path / "broken"), folders(tmp_path / "straight"), strict=True)
    for config, broken, straight in pairs:
        run(config, broken, QUIET)
        run(config, straight, QUIET)
        assert_close_runs(broken, straight)


def test_members_at_different_steps_are_brought_to_the_same_end(tmp_path: Path):
    """Two begun alone and stopped at one step, one at another, one that was never begun, and one that is trained."""
    configs, broken = members(5, gradient_steps=30), folders(tmp_path / "broken", 5)
    for index, step in ((0, 7), (1, 22), (2, 7)):
        with signal_at(step), pytest.raises(InterruptedTrainingError):
            run(configs[index], broken[index], QUIET)
    run(configs[4], broken[4], QUIET)
    assert [step_reached(folder) for folder in broken] == [7, 22, 7, 0, 30]
    assert train_together(configs, broken) == [None] * 5
    for config, one, other in zip(configs, broken, folders(tmp_path / "straight", 5), strict=True):
        run(config, other, QUIET)
        assert_close_runs(one, other)


def test_a_run_that_diverges_does_not_stop_the_others(tmp_path: Path):
    """Its error is that of a run alone."""
    configs = members()
    configs[1] = with_iq_learn(configs[1], chi2_alpha=1e-320)
    together, alone = folders(tmp_path / "together"), folders(tmp_path / "alone")
    first, second, third = run_together(configs, together, QUIET)
    assert isinstance(second, UserError)
    with pytest.raises(UserError) as error:
        run(configs[1], alone[1], QUIET)
    assert str(second) == str(error.value).replace(str(alone[1]), str(together[1]))
    assert "critic/loss" in str(second)
    assert files(together[1]) == {"config.toml", "data.json", "metrics.ndjson"}
    for index, outcome in ((0, first), (2, third)):
        assert isinstance(outcome, dict)
        run(configs[index], alone[index], QUIET)
        assert_close_runs(together[index], alone[index])


def test_the_last_good_checkpoint_of_a_failed_member_is_kept(tmp_path: Path):
    """At step 20 one finds an infinity among its weights; the others go on from there to the end."""
    configs, broken = members(), folders(tmp_path)
    with signal_at(20), pytest.raises(InterruptedTrainingError):
        run_together(configs, broken, QUIET)
    tensors, values = checkpoint.load(broken[2] / LATEST)
    tensors["learner/parameters/critic/0.bias"][0] = math.inf
    checkpoint.save(broken[2] / LATEST, tensors, values)
    before = (broken[2] / LATEST).read_bytes()
    *others, failed = train_together(configs, broken)
    assert others == [None, None]
    assert failed is not None
    assert "critic/q" in failed
    assert "the checkpoint of step 20 is kept" in failed
    assert (broken[2] / LATEST).read_bytes() == before
    assert [step_reached(folder) for folder in broken] == [60, 60, 20]
    rows = [len(read_metrics(folder / "metrics.ndjson")) for folder in broken]
    assert rows == [6, 6, 2]


def test_everyone_has_event_files_of_its_own(tmp_path: Path):
    pytest.importorskip("tensorboard")
    run_together(members(), folders(tmp_path), replace(QUIET, tensorboard=True))
    assert all(len(list((folder / "tensorboard").iterdir())) == 1 for folder in folders(tmp_path))


def test_when_all_fail_it_ends(tmp_path: Path):
    configs = [with_iq_learn(config, chi2_alpha=1e-320) for config in members(gradient_steps=1_000_000)]
    outcomes = run_together(configs, folders(tmp_path), QUIET)
    assert all(isinstance(outcome, UserError) for outcome in outcomes)


def test_a_run_that_cannot_begin_does_not_stop_the_others(tmp_path: Path):
    """Too few trajectories for one; another's folder holds other things."""
    configs = members(4)
    configs[1] = replace(configs[1], data=replace(configs[1].data, num_expert_trajectories=9))
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "letter.txt").write_text("Dear Sir")
    first, second, third, fourth = run_together(configs, folders(tmp_path, 4), QUIET)
    assert isinstance(first, dict)
    assert isinstance(fourth, dict)
    assert "9 were asked for" in str(second)
    assert "holds no run" in str(third)
    assert not (tmp_path / "1").exists()


def test_a_full_disk_is_one_error_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*arguments: object) -> None:
        raise UserError("no space left")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(UserError, match="no space left"):
        run_together(members(), folders(tmp_path), QUIET)


def test_who_cannot_train_together_is_told_before_anything_is_written(tmp_path: Path):
    configs = members()
    with pytest.raises(UserError, match=r"need the same training\.batch_size: train the others on their own"):
        run_together([*configs[:2], members(batch_size=8)[2]], folders(tmp_path), QUIET)
    with pytest.raises(UserError, match="two runs cannot have one folder"):
        run_together(configs, [tmp_path / "0", tmp_path / "1", tmp_path / "x" / ".." / "0"], QUIET)
    assert not (tmp_path / "0").exists()


def test_what_is_special_is_said_once(tmp_path: Path):
    """Not by every member."""
    write_dataset("test/wide-v0", [(o, 3 * a, *rest) for o, a, *rest in episodes()], low=-1.0, high=1.0)  # type: ignore[misc]
    configs = [
        replace(config, data=replace(config.data, expert="test/wide-v0", num_expert_trajectories=3, subsample=1))
        for config in members()
    ]
    said: list[str] = []
    outcomes: list[Summary | UserError] = run_together(configs, folders(tmp_path), Options(say=said.append))
    assert all(isinstance(outcome, dict) for outcome in outcomes)
    assert len([line for line in said if "outside the box and clipped" in line]) == 1


def episodes() -> list[Episode]:
    generator = np.random.default_rng(1)
    ends = np.arange(9) == 8
    return [
        (generator.standard_normal((10, 3)), generator.uniform(-1, 1, (9, 2)), np.ones(9), np.zeros(9, bool), ends)
        for _ in range(3)
    ]
