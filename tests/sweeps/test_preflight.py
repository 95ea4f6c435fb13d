"""What a sweep is told before its first run: all that would fail later, and what can be scored."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from iq_offline.config import DataConfig, IQLearnConfig, OnlineConfig, RunConfig, Suboptimal, TrainingConfig, resolved
from iq_offline.errors import UserError
from iq_offline.experiment import Options, run_together
from iq_offline.sweeps import preflight
from iq_offline.sweeps.folders import finished, run_folder, summary_file
from iq_offline.sweeps.grid import PlannedRun
from iq_offline.sweeps.preflight import check_runs, let_be_scored
from tests.environments.worlds import environment_dataset
from tests.sweeps.program import planned
from tests.training.program import EXPERT, OTHER, QUIET, write_datasets


@pytest.fixture(autouse=True)
def datasets(own_folders: None) -> None:
    write_datasets()


def runs(count: int = 2, **training: object) -> list[PlannedRun]:
    return [run for (run,) in planned(count, **{"gradient_steps": 5, "snapshots": 0} | training)]


def test_runs_that_can_be_done_leave_the_folder_empty(tmp_path: Path) -> None:
    check_runs(runs(), tmp_path / "sweep", QUIET)
    assert list((tmp_path / "sweep").iterdir()) == []


def test_a_batch_without_room_for_both_kinds_is_found_before_anything_starts(tmp_path: Path) -> None:
    (good, bad) = runs()
    mixed = DataConfig(EXPERT, suboptimal=(Suboptimal(OTHER),))
    config = replace(bad.config, data=mixed, training=replace(bad.config.training, batch_size=1))
    with pytest.raises(UserError, match=r"run bad cannot be trained: batch_size 1 .* both need some; no run was start"):
        check_runs([good, PlannedRun("bad", config)], tmp_path / "sweep", QUIET)
    assert not (tmp_path / "sweep").exists()


def test_a_warm_up_as_long_as_the_budget_is_found_before_anything_starts(tmp_path: Path) -> None:
    """Not after the offline half of the run that has it."""
    (good, bad) = runs()
    online = OnlineConfig(60, "offline", start_steps=20, critic_warmup=40)
    config = replace(bad.config, algorithm="iq_learn", iq_learn=IQLearnConfig(), online=online)
    with pytest.raises(
        UserError, match=r"run bad cannot be trained: online.critic_warmup = 40 of 40 .* no run was start"
    ):
        check_runs([good, PlannedRun("bad", config)], tmp_path / "sweep", QUIET)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("counts", "held_out", "words"),
    [
        ((1, 2), 3, "note: 2 to 3 trajectories of test/expert-v0 are held out"),
        ((1, 4), 3, "some runs have none"),
        ((1, 2), 2, ""),
    ],
)
def test_errors_that_are_not_of_the_same_trajectories(
    counts: tuple[int, int], held_out: int, words: str, tmp_path: Path
) -> None:
    """Few trajectories are left beside many: what is measured on them changes with what is asked."""
    said: list[str] = []
    choices = [DataConfig(EXPERT, num_expert_trajectories=count, held_out_trajectories=held_out) for count in counts]
    pairs = zip(runs(), choices, strict=True)
    check_runs(
        [PlannedRun(run.name, replace(run.config, data=data)) for run, data in pairs],
        tmp_path,
        Options(say=said.append),
    )
    assert [line for line in said if "held out" in line] == [line for line in said if words and words in line]
    assert bool(said) == bool(words)


def notes_on(configs: list[RunConfig], folder: Path) -> list[str]:
    """Which keys the runs are said to differ in without an effect."""
    said: list[str] = []
    check_runs([PlannedRun(str(i), config) for i, config in enumerate(configs)], folder, Options(say=said.append))
    return [line.split()[5].rstrip(",") for line in said if "has no effect" in line]


def test_runs_differ_in_vain_in_what_someone_set(tmp_path: Path) -> None:
    """And not in what was decided for each by itself, as with and without suboptimal data."""
    environment_dataset("test/cart-v0", "CartPole-v1")
    alone = RunConfig(
        data=DataConfig("test/cart-v0", held_out_trajectories=0),
        iq_learn=IQLearnConfig(policy="soft_actor_critic"),
        training=replace(runs()[0].config.training, gradient_steps=5),
    )
    mixed = replace(alone, data=replace(alone.data, suboptimal=(Suboptimal("test/cart-v0", 1),)))
    anchors = [resolved(config).iq_learn.behavior_anchor for config in (alone, mixed)]
    assert anchors == [30.0, 10.0]
    assert notes_on([resolved(alone), resolved(mixed)], tmp_path / "by themselves") == []
    wished = [replace(mixed, iq_learn=replace(mixed.iq_learn, behavior_anchor=anchor)) for anchor in (0.0, 3.0)]
    assert notes_on([*map(resolved, wished)], tmp_path / "wished") == ["iq_learn.behavior_anchor"]


def test_what_one_of_two_stages_reads_is_not_in_vain(tmp_path: Path) -> None:
    """The first has a budget of updates, the second has it by its steps in the environment."""
    budgets = [TrainingConfig(gradient_steps=steps, batch_size=16) for steps in (5, 6)]
    base = RunConfig(data=DataConfig(EXPERT), online=OnlineConfig(20_000))
    scratch = [resolved(replace(base, training=budget)) for budget in budgets]
    assert notes_on(scratch, tmp_path / "scratch") == ["training.gradient_steps"]
    two_stages = [replace(base, training=budget, online=OnlineConfig(20_000, "offline")) for budget in budgets]
    assert notes_on(two_stages, tmp_path / "stages") == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_devices_of_other_machines_are_not_looked_for_on_this_one(tmp_path: Path) -> None:
    check_runs(runs(device="cuda"), tmp_path / "sweep", QUIET, here=False)
    with pytest.raises(UserError, match="device = 'cuda' cannot be used here"):
        check_runs(runs(device="cuda"), tmp_path / "sweep", QUIET)


def test_what_could_not_be_scored_is_scored_when_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, said = runs(1), []
    options = Options(say=said.append)
    (name,) = (run.name for run in own)
    run_together([own[0].config], [run_folder(tmp_path, name)], QUIET)
    let_be_scored(own, tmp_path, options)
    assert finished(tmp_path, name), "its dataset names no environment"
    (note,) = said
    assert f"{EXPERT} names no environment" in note

    monkeypatch.setattr(preflight, "evaluation_environment", lambda *_: "CartPole-v1")
    let_be_scored(own, tmp_path, options)
    assert not finished(tmp_path, name)

    run_together([own[0].config], [run_folder(tmp_path, name)], QUIET)
    file = summary_file(tmp_path, name)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"returns": [1.0]}))
    let_be_scored(own, tmp_path, options)
    assert finished(tmp_path, name), "it has a score"


def test_online_runs_whose_dataset_names_no_environment_cannot_be_trained(tmp_path: Path) -> None:
    (offline,) = runs(1)
    online = replace(offline, config=replace(offline.config, online=OnlineConfig(20_000)))
    with pytest.raises(UserError, match=f"{EXPERT} names no environment, so there is none to train in"):
        let_be_scored([offline, online], tmp_path, QUIET)
