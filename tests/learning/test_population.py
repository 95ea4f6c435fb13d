"""Learners trained as one program go the way that each would have gone alone."""

from dataclasses import replace

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from iq_offline.config import DataConfig, IQLearnConfig, RunConfig, TrainingConfig, resolved
from iq_offline.data.cache import CachedSource
from iq_offline.experiment import obtain
from iq_offline.learning.learner import named_leaves
from iq_offline.training.setup import choose_data, population, prepare
from tests.helpers import point_mass_dataset

STEPS, LEARNERS = 50, 4


@pytest.fixture
def sources() -> list[CachedSource]:
    """Expert and suboptimal data."""
    point_mass_dataset("test/expert-v0", 8, 15, seed=0)
    point_mass_dataset("test/other-v0", 5, 15, seed=1, noise=1.0)
    return [obtain("test/expert-v0"), obtain("test/other-v0")]


def configs(algorithm: str, suboptimal: bool, value_states: str = "auto") -> list[RunConfig]:
    base = RunConfig(
        algorithm=algorithm,  # type: ignore[arg-type]
        data=DataConfig("test/expert-v0", suboptimal=("test/other-v0",) if suboptimal else ()),
        training=TrainingConfig(STEPS, batch_size=24, hidden_sizes=(16, 16), dtype="float64", average_decay=0.95),
        iq_learn=IQLearnConfig(critic_learning_rate=3e-3, value_states=value_states),  # type: ignore[arg-type]
    )
    return [
        resolved(
            replace(base, seed=seed, data=replace(base.data, num_expert_trajectories=1 + seed, subsample=1 + seed))
        )
        for seed in range(LEARNERS)
    ]


def leaves(parameters: TensorDict) -> dict[str, Tensor]:
    return {name: leaf.detach() for name, leaf in named_leaves(parameters)}


CASES = [
    ("bc", False, "auto"),
    ("iq_learn", False, "auto"),
    ("iq_learn", False, "initial"),
    ("iq_learn", True, "auto"),
]


@pytest.mark.parametrize(("algorithm", "suboptimal", "value_states"), CASES)
def test_together_is_alone(algorithm: str, suboptimal: bool, value_states: str, sources: list[CachedSource]):
    chosen = configs(algorithm, suboptimal, value_states)
    data = [choose_data(config, sources[0], sources[1:] if suboptimal else []) for config in chosen]
    assert len({tuple(one.expert.rows.tolist()) for one in data}) == LEARNERS

    together = population(chosen, data)
    rows = [together.update() for _ in range(STEPS)]
    for index, (config, one) in enumerate(zip(chosen, data, strict=True)):
        alone = prepare(config, one)
        start = leaves(alone.learner.parameters.clone())
        for row in rows:
            for name, value in alone.update().items():
                torch.testing.assert_close(row[name][index], value, rtol=0, atol=1e-8, msg=name)
        for mine, theirs in (
            (alone.learner.parameters, together.learner.parameters),
            (alone.learner.average, together.learner.average),
        ):
            theirs_by_name = leaves(theirs)
            for name, leaf in leaves(mine).items():
                torch.testing.assert_close(theirs_by_name[name][index], leaf, rtol=0, atol=1e-8, msg=name)
        moved = max((leaf - start[name]).abs().max() for name, leaf in leaves(alone.learner.parameters).items())
        assert moved > 1e-3
    assert together.learner.step == STEPS


def test_learners_differ(sources: list[CachedSource]):
    chosen = configs("bc", False)
    together = population(chosen, [choose_data(config, sources[0], []) for config in chosen])
    together.update()
    weights = leaves(together.learner.parameters)["actor/0.weight"]
    distances = [(weights[i] - weights[j]).abs().max() for i in range(LEARNERS) for j in range(i)]
    assert min(distances) > 0.01
