"""Learning for real: on the point mass both learners come near the expert within seconds.

Scores are normalised on 200 fixed episodes of 50 steps: 0 is a policy that draws its actions uniformly, 1 the expert;
a policy that does nothing reaches about a half. The thresholds stand between that and what twenty runs reached.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from iq_offline.config import DataConfig, RunConfig, TrainingConfig, resolved
from iq_offline.learning.policy import Policy
from tests.helpers import Act, point_mass_dataset, point_mass_expert, point_mass_returns
from tests.training.program import EXPERT, OTHER, run_training

STEPS = 50


def score(act: Act) -> float:
    generator = np.random.default_rng(7)

    def mean_return(policy: Callable[[np.ndarray], np.ndarray]) -> float:
        return float(point_mass_returns(policy, 200, STEPS, seed=100).mean())

    random, expert = (
        mean_return(lambda states: generator.uniform(-1, 1, (len(states), 2))),
        mean_return(point_mass_expert),
    )
    return (mean_return(act) - random) / (expert - random)


def learned(
    algorithm: str, folder: Path, suboptimal: bool = False, gradient_steps: int = 1500, seed: int = 0
) -> Policy:
    config = RunConfig(
        algorithm=algorithm,  # type: ignore[arg-type]
        seed=seed,
        data=DataConfig(EXPERT, num_expert_trajectories=10, suboptimal=(OTHER,) if suboptimal else ()),
        training=TrainingConfig(gradient_steps, batch_size=64, hidden_sizes=(32, 32), average_decay=0.99, snapshots=0),
    )
    return run_training(resolved(config), folder)


@pytest.fixture(autouse=True)
def datasets(own_folders: None) -> None:
    point_mass_dataset(EXPERT, 10, STEPS, seed=0)


def test_the_scale_itself():
    generator = np.random.default_rng(8)
    assert score(point_mass_expert) == pytest.approx(1)
    assert score(lambda states: generator.uniform(-1, 1, (len(states), 2))) == pytest.approx(0, abs=0.05)
    assert 0.4 < score(lambda states: np.zeros((len(states), 2))) < 0.6


@pytest.mark.parametrize("algorithm", ["bc", "iq_learn"])
def test_from_expert_data_alone(algorithm: str, tmp_path: Path):
    assert score(learned(algorithm, tmp_path / "run")) > 0.95


def test_an_untrained_policy_does_not_pass(tmp_path: Path):
    assert score(learned("bc", tmp_path / "run", gradient_steps=1)) < 0.75


def test_demonstrations_of_something_else_do_not_pass(tmp_path: Path):
    """The same controller with its actions turned around: what is learned is what was shown."""
    point_mass_dataset(OTHER, 10, STEPS, seed=0, act=lambda state: -0.3 * point_mass_expert(state))
    config = RunConfig(
        algorithm="bc",
        data=DataConfig(OTHER, num_expert_trajectories=10),
        training=TrainingConfig(500, batch_size=64, hidden_sizes=(32, 32), average_decay=0.99, snapshots=0),
    )
    assert score(run_training(resolved(config), tmp_path / "run")) < 0
