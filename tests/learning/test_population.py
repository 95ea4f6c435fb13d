"""Learners trained as one program go the way that each would have gone alone."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from tensordict import TensorDict
from torch import Tensor

from iq_offline.config import DataConfig, IQLearnConfig, RunConfig, Suboptimal, TrainingConfig, resolved
from iq_offline.data.cache import CachedSource
from iq_offline.errors import UserError
from iq_offline.experiment import obtain
from iq_offline.learning.learner import named_leaves
from iq_offline.training.setup import choose_data, population, prepare
from tests.data_helpers import write_spaces_dataset
from tests.helpers import point_mass_dataset, point_mass_episodes, write_dataset

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
        data=DataConfig("test/expert-v0", suboptimal=(Suboptimal("test/other-v0"),) if suboptimal else ()),
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


@pytest.mark.parametrize("algorithm", ["bc", "iq_learn"])
def test_a_population_goes_on_from_its_state(algorithm: str, sources: list[CachedSource]):
    """Every learner's draws go on, not those of the first alone."""
    chosen = configs(algorithm, False)
    data = [choose_data(config, sources[0], []) for config in chosen]
    straight = population(chosen, data)
    for _ in range(5):
        straight.update()
    states = [{name: value.clone() for name, value in one.state().items()} for one in straight.members]
    resumed = population(chosen, data)
    for one, state in zip(resumed.members, states, strict=True):
        one.load_state(state)
    assert resumed.learner.step == 5
    for _ in range(5):
        expected, found = straight.update(), resumed.update()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)
    resumed_leaves = leaves(resumed.learner.parameters)
    assert all(torch.equal(leaf, resumed_leaves[name]) for name, leaf in leaves(straight.learner.parameters).items())


def test_learners_of_other_action_boxes_are_trained_in_their_own_or_refused(sources: list[CachedSource]):
    """A population has one agent, but members may name other datasets."""
    write_dataset("test/wide-v0", point_mass_episodes(8, 15, seed=0), low=-4.0, high=4.0)
    wide = obtain("test/wide-v0")
    narrow_config, wide_config = configs("bc", False)[0], configs("bc", False)[1]
    wide_config = replace(wide_config, data=replace(wide_config.data, expert="test/wide-v0"))
    data = [choose_data(narrow_config, sources[0], []), choose_data(wide_config, wide, [])]
    alone = prepare(wide_config, data[1]).update()["actor/loss"]
    try:
        together = population([narrow_config, wide_config], data)
    except (AssertionError, UserError):
        return
    torch.testing.assert_close(together.update()["actor/loss"][1], alone, rtol=0, atol=1e-8)


def test_learners_of_other_shares_of_suboptimal_data_are_refused(sources: list[CachedSource]):
    """Their batches have other sizes, which no stack takes."""
    chosen = configs("iq_learn", True)[:2]
    chosen[1] = replace(chosen[1], data=replace(chosen[1].data, suboptimal_fraction=0.25))
    with pytest.raises(UserError, match=r"need the same data\.suboptimal_fraction: train"):
        population(chosen, [choose_data(config, sources[0], sources[1:]) for config in chosen])


# ---------------------------------------------------------------------------------------------------- other spaces


PARTS = Dict({"camera": Box(0, 255, (9, 8, 2), np.uint8), "state": Box(-1, 1, (3,)), "which": Discrete(3)})
OTHER_CASES = [
    ("iq_learn", PARTS["state"], Discrete(4, start=1)),
    ("iq_learn", PARTS["state"], MultiDiscrete([3, 1, 4], start=[0, 2, -1])),
    ("bc", Dict({name: PARTS[name] for name in ("state", "which")}), MultiDiscrete([3, 1, 4])),
    ("iq_learn", PARTS, Discrete(3)),
    ("bc", PARTS, Box(-1, 1, (2,))),
]


@pytest.mark.parametrize(("algorithm", "observed", "space"), OTHER_CASES, ids=lambda value: type(value).__name__)
def test_together_is_alone_with_finitely_many_actions_and_images(
    algorithm: str, observed: gymnasium.Space, space: gymnasium.Space
):
    """Three learners, other seeds and other numbers of trajectories, in float64."""
    write_spaces_dataset("test/any-v0", observed, space, lengths=[6, 5, 7, 4])
    source = obtain("test/any-v0")
    base = RunConfig(
        algorithm=algorithm,  # type: ignore[arg-type]
        data=DataConfig("test/any-v0", frame_stack=2, held_out_trajectories=1),
        training=TrainingConfig(10, batch_size=8, hidden_sizes=(8,), dtype="float64", average_decay=0.9),
        iq_learn=IQLearnConfig(critic_learning_rate=3e-3),
    )
    chosen = [
        resolved(replace(base, seed=seed, data=replace(base.data, num_expert_trajectories=1 + seed)))
        for seed in range(3)
    ]
    data = [choose_data(config, source, []) for config in chosen]
    together = population(chosen, data)
    rows = [together.update() for _ in range(10)]
    for index, (config, one) in enumerate(zip(chosen, data, strict=True)):
        alone = prepare(config, one)
        start = leaves(alone.learner.parameters.clone())
        for row in rows:
            for name, value in alone.update().items():
                torch.testing.assert_close(row[name][index], value, rtol=0, atol=1e-8, msg=name)
        theirs = leaves(together.learner.parameters)
        mine = leaves(alone.learner.parameters)
        for name, leaf in mine.items():
            torch.testing.assert_close(theirs[name][index], leaf, rtol=0, atol=1e-8, msg=name)
            assert leaf.isfinite().all()
        group = together.learner.agent.averaged
        moved = {name for name, leaf in mine.items() if (leaf - start[name]).abs().max() > 1e-4}
        assert {name for name in mine if name.startswith(f"{group}/")} <= moved, "a layer that learns nothing"
