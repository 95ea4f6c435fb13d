"""Kept steps that show one phase of a motion, and that this is said."""

from pathlib import Path

import numpy as np
import pytest

from iq_offline.cli import main
from iq_offline.config import DataConfig, RunConfig
from iq_offline.data import subsampling
from iq_offline.data.subsampling import better_distance, variation_kept
from iq_offline.training.setup import Data, choose_data
from tests.data_helpers import QUICK, cached_dataset
from tests.helpers import Episode


def gait(period: float, length: int = 400, noise: float = 0.05, seed: int = 0) -> Episode:
    """Three joints that go round and round, a constant, and a little noise."""
    generator = np.random.default_rng(seed)
    angle = 2 * np.pi * np.arange(length + 1)[:, None] / period + np.array([0.0, 1.0, 2.0])
    moving = np.sin(angle) + noise * generator.standard_normal(angle.shape)
    observations = np.concatenate([moving, np.ones((length + 1, 1))], 1)
    ends = np.arange(length) == length - 1
    return observations, np.zeros((length, 1), np.float32), np.zeros(length), np.zeros(length, bool), ends


def chosen(episodes: list[Episode], subsample: int, count: int = 1, name: str = "test/gait-v0") -> Data:
    """The labelled trajectories of a dataset of these."""
    data = cached_dataset(name, episodes)
    config = RunConfig(data=DataConfig(name, count, subsample, held_out_trajectories=0))
    return choose_data(config, data, [])


def test_a_gait_whose_period_divides_the_distance_is_at_better_distance() -> None:
    """Of the sine only the noise is left, 0.05 beside a deviation of 1/sqrt(2); at 19 all four phases are there."""
    data = chosen([gait(4)], 20)
    assert better_distance(data.expert, data.observations, 20) == 19
    assert variation_kept(data.expert, data.observations, 20) == pytest.approx(0.05 * 2**0.5, rel=0.4)
    assert variation_kept(data.expert, data.observations, 19) == pytest.approx(1, abs=0.1)


def test_of_every_other_step_all_are_named() -> None:
    data = chosen([gait(2)], 2)
    assert better_distance(data.expert, data.observations, 2) == 1


def test_of_a_long_log_the_beginning_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is still another motion than later."""
    first, second = gait(4, length=400), gait(7.3, length=4000)
    joined = tuple(
        np.concatenate([a, b[1:] if index == 0 else b]) for index, (a, b) in enumerate(zip(first, second, strict=True))
    )
    monkeypatch.setattr(subsampling, "LONGEST", 400)
    data = chosen([joined], 20)  # type: ignore[list-item]
    assert better_distance(data.expert, data.observations, 20) is not None
    monkeypatch.setattr(subsampling, "LONGEST", 5000)
    assert better_distance(data.expert, data.observations, 20) is None


@pytest.mark.parametrize(("period", "subsample"), [(4, 19), (4, 1), (7.3, 20), (23, 20), (1000, 20)])
def test_other_distances_show_the_motion(period: float, subsample: int) -> None:
    data = chosen([gait(period)], subsample)
    assert better_distance(data.expert, data.observations, subsample) is None


def test_where_chance_could_do_it_nothing_is_said() -> None:
    """Few kept steps; noise alone; nothing that varies; many trajectories, which complete each other."""
    for name, episodes in (
        ("few", [gait(4, length=300)]),
        ("noise", [gait(4, noise=100.0)]),
        ("many", [gait(4, seed=seed) for seed in range(11)]),
    ):
        data = chosen(episodes, 20, len(episodes), f"test/{name}-v0")
        assert better_distance(data.expert, data.observations, 20) is None
    constant = [np.ones_like(part) if index == 0 else part for index, part in enumerate(gait(4))]
    data = chosen([tuple(constant)], 20)  # type: ignore[list-item]
    assert variation_kept(data.expert, data.observations, 20) == 1
    assert better_distance(data.expert, data.observations, 20) is None


def test_each_trajectory_is_looked_at_by_itself() -> None:
    """Together a few at different phases vary as all steps do, and each still shows one."""
    data = chosen([gait(4, seed=seed) for seed in range(10)], 20, 10)
    together = data.expert.data.steps["observation_0"][data.expert.rows].std(0)[:3]
    assert (together > 0.4).all()
    assert better_distance(data.expert, data.observations, 20) is not None
    assert variation_kept(data.expert, data.observations, 20) < 0.1


def test_a_stretch_that_is_missed_is_no_phase() -> None:
    """A start far away that no kept step shows: no distance from there on would show it either."""
    observations, actions, *ends = gait(1000, noise=0.001)
    observations[:2, :3] += 100
    data = chosen([(observations, actions, *ends)], 20)  # type: ignore[arg-type]
    assert data.expert.rows[0] >= 2
    assert variation_kept(data.expert, data.observations, 20) < 0.6
    assert better_distance(data.expert, data.observations, 20) is None


def test_it_is_said_once_before_the_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cached_dataset("test/gait-v0", [gait(4, seed=seed) for seed in range(2)])
    command = ("train", "hopper_offline", "--expert", "test/gait-v0", "--subsample", "20", *QUICK)
    assert main([*command, "--held-out-trajectories", "1", "--output", str(tmp_path / "runs")]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "one phase" in line]
    assert len(notes) == 1
    assert notes[0] == (
        "note: test/gait-v0: steps 20 apart show one phase of a motion that repeats itself, and vary less than 0.6 "
        "times as much as all steps of their trajectory; with --subsample 19 at least 0.9 times"
    )
