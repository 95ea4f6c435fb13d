"""Learners trained as one program go the way that each would have gone alone."""

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from tensordict import TensorDict
from torch import Tensor

from iq_offline.config import (
    DataConfig,
    IQLearnConfig,
    RunConfig,
    SQILConfig,
    Suboptimal,
    TrainingConfig,
    ValueDICEConfig,
    resolved,
)
from iq_offline.data.cache import CachedSource
from iq_offline.errors import UserError
from iq_offline.experiment import obtain
from iq_offline.learning import learner as learners
from iq_offline.learning.agents.chosen import CHOSEN_COEFFICIENTS
from iq_offline.learning.agents.iq_learn import COEFFICIENTS, IN_SAMPLE_COEFFICIENTS
from iq_offline.learning.learner import named_leaves
from iq_offline.training.setup import FACTORS, Data, choose_data, population, prepare, program_of
from tests.data_helpers import write_spaces_dataset
from tests.helpers import point_mass_dataset

STEPS, LEARNERS = 30, 4
NETWORKS = ("activation", "layer_norm", "weight_decay", "input_decay")
Sources = dict[str, CachedSource]

EXPERT, OTHER, THIRD = "test/expert-v0", "test/other-v0", "test/third-v0"
MIXTURES = (
    (Suboptimal(OTHER),),
    (Suboptimal(OTHER, 2), Suboptimal(EXPERT, 1, hidden=True)),
    (Suboptimal(THIRD),),
    (Suboptimal(EXPERT, 1), Suboptimal(THIRD, 1), Suboptimal(OTHER, 3)),
)
"""One a learner: one source and several, others and the expert's own, labelled trajectories among none of them."""


@pytest.fixture
def sources() -> Sources:
    """Expert and suboptimal data."""
    point_mass_dataset(EXPERT, 8, 15, seed=0)
    point_mass_dataset(OTHER, 5, 15, seed=1, noise=1.0)
    point_mass_dataset(THIRD, 3, 20, seed=2, noise=0.5)
    return {name: obtain(name) for name in (EXPERT, OTHER, THIRD)}


def chosen_data(config: RunConfig, sources: Sources) -> Data:
    return choose_data(config, sources[config.data.expert], [sources[part.dataset] for part in config.data.suboptimal])


def changed(config: RunConfig, part: str, **changes: Any) -> RunConfig:
    return replace(config, **{part: replace(getattr(config, part), **changes)})


def configs(algorithm: str, suboptimal: bool, **options: Any) -> list[RunConfig]:
    """Learners that differ in all that the learners of one population may differ in."""
    base = RunConfig(
        algorithm=algorithm,  # type: ignore[arg-type]
        training=TrainingConfig(STEPS, batch_size=24, hidden_sizes=(16, 16), dtype="float64", average_decay=0.95),
        iq_learn=IQLearnConfig(critic_learning_rate=3e-3, choose_every=10),
        valuedice=ValueDICEConfig(actor_learning_rate=3e-4),
        sqil=SQILConfig(critic_learning_rate=3e-3),
    )
    base = changed(base, "training", **{name: options.pop(name) for name in set(options) & set(NETWORKS)})
    base = changed(base, algorithm, **options)
    found = []
    for seed in range(LEARNERS):
        data = DataConfig(EXPERT, 1 + seed, 1 + seed, MIXTURES[seed] if suboptimal else (), held_out_trajectories=seed)
        coefficients = {
            "discount": 0.9 + 0.03 * seed,
            "chi2_alpha": 0.3 + 0.2 * seed,
            "temperature": 0.01 * (1 + seed),
            "gradient_penalty": 0.1 + 0.2 * seed,
            "behavior_anchor": 2.0 * seed,
            "reward_penalty": 0.5 + seed,
            "replay_alpha": 0.05 + 0.1 * seed,
            "orthogonal_penalty": 0.01 * (1 + seed),
            "other_weight": 0.5 + seed,
            "expectile": 0.6 + 0.1 * seed,
            "advantage_temperature": 0.5 + seed,
        }
        assert coefficients.keys() == {name for names in FACTORS.values() for name in names}
        own = {name: coefficients[name] for name in FACTORS[algorithm]}
        found.append(changed(resolved(replace(base, seed=seed, data=data)), algorithm, **own))
    return found


def leaves(parameters: TensorDict) -> dict[str, Tensor]:
    return {name: leaf.detach() for name, leaf in named_leaves(parameters)}


LS_IQ: dict[str, Any] = {"expert_term": "fixed_target", "clip_targets": True, "absorbing_value": "bound"}
CASES = [
    ("bc", False, {}),
    ("iq_learn", False, {}),
    pytest.param("iq_learn", False, {"value_states": "initial"}, marks=pytest.mark.slow),
    ("iq_learn", True, {"policy": "soft_actor_critic"}),
    ("iq_learn", True, {"policy": "lookahead"}),
    pytest.param("valuedice", False, {}, marks=pytest.mark.slow),
    ("valuedice", True, {"start_states": "initial"}),
    ("sqil", True, {}),
    ("iq_learn", False, {"layer_norm": "all", "activation": "elu", "weight_decay": 0.1, "input_decay": 2.0}),
    pytest.param("iq_learn", True, {"policy": "soft_actor_critic", **LS_IQ}, marks=pytest.mark.slow),
    ("iq_learn", True, {"policy": "advantage_weighted", "value": "expectile", **LS_IQ}),
]


@pytest.mark.parametrize(("algorithm", "suboptimal", "options"), CASES)
def test_together_is_alone(
    algorithm: str, suboptimal: bool, options: dict[str, Any], sources: Sources, monkeypatch: pytest.MonkeyPatch
):
    """Also where a CPU takes the learners in parts, three and one."""
    monkeypatch.setattr(learners, "CACHED", 3)
    chosen = configs(algorithm, suboptimal, **options)
    data = [chosen_data(config, sources) for config in chosen]
    assert len({tuple(one.expert.rows.tolist()) for one in data}) == LEARNERS

    together = population(chosen, data)
    tables = [member.replay.tables for member in together.members]
    assert all(one is tables[0] for one in tables)
    assert len(tables[0]) == (3 if suboptimal else 1)
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


IN_SAMPLE = {"policy": "advantage_weighted", "value": "expectile"}


@pytest.mark.parametrize("name", IN_SAMPLE_COEFFICIENTS)
def test_every_coefficient_counts_in_sample(name: str, sources: Sources):
    """The expectile first of all in V."""
    first = configs("iq_learn", True, **IN_SAMPLE)[0]
    other = changed(first, "iq_learn", **{name: 0.5 * getattr(first.iq_learn, name)})
    together = population([first, other], [chosen_data(first, sources)] * 2)
    for _ in range(3):
        together.update()
    one, two = (leaves(member.learner.parameters) for member in together.members)
    moved = {leaf.split("/")[0] for leaf in one if (one[leaf] - two[leaf]).abs().max() > 1e-9}
    behind = {"value", "critic", "target_critic"} if name == "expectile" else set()
    assert moved == {"coefficients", "actor"} | behind


@pytest.mark.parametrize(
    ("algorithm", "name"),
    [
        *(("iq_learn", name) for name in COEFFICIENTS),
        *((algorithm, name) for algorithm in ("valuedice", "sqil") for name in FACTORS[algorithm]),
    ],
)
def test_every_coefficient_counts(algorithm: str, name: str, sources: Sources):
    """Learners that differ in nothing else go other ways."""
    first = configs(algorithm, algorithm != "iq_learn")[0]
    other = changed(first, algorithm, **{name: 0.5 * getattr(getattr(first, algorithm), name) + 0.1})
    together = population([first, other], [chosen_data(first, sources)] * 2)
    for _ in range(3):
        together.update()
    one, two = (leaves(member.learner.parameters) for member in together.members)
    moved = {leaf.split("/")[0] for leaf in one if (one[leaf] - two[leaf]).abs().max() > 1e-9}
    critics = {"nu"} if algorithm == "valuedice" else {"critic", "target_critic"}
    assert moved == {"coefficients", "actor", *critics}


def test_the_members_are_where_the_population_is(sources: Sources):
    """Their tensors are slices of the stack; and one may leave it and go on alone."""
    chosen = configs("iq_learn", False)
    together = population(chosen, [chosen_data(config, sources) for config in chosen])
    for _ in range(3):
        together.update()
    for index, member in enumerate(together.members):
        assert member.learner.step == together.learner.step == 3
        for kind in ("parameters", "average"):
            mine, theirs = (leaves(getattr(learner, kind)) for learner in (member.learner, together.learner))
            assert all(leaf.data_ptr() == theirs[name][index].data_ptr() for name, leaf in mine.items())
    again = population(chosen, [chosen_data(config, sources) for config in chosen])
    leaver = prepare(chosen[1], chosen_data(chosen[1], sources))
    leaver.load_state(together.members[1].state())
    for _ in range(3):
        again.update()
    for _ in range(4):
        again.update()
        leaver.update()
    expected = leaves(again.members[1].learner.parameters)
    for name, leaf in leaves(leaver.learner.parameters).items():
        torch.testing.assert_close(leaf, expected[name], rtol=0, atol=1e-9, msg=name)


def test_learners_differ(sources: Sources):
    chosen = configs("bc", False)
    together = population(chosen, [chosen_data(config, sources) for config in chosen])
    together.update()
    weights = leaves(together.learner.parameters)["actor/0.weight"]
    distances = [(weights[i] - weights[j]).abs().max() for i in range(LEARNERS) for j in range(i)]
    assert min(distances) > 0.01


@pytest.mark.parametrize(
    ("algorithm", "suboptimal", "options"),
    [
        ("bc", False, {}),
        ("iq_learn", False, {}),
        ("iq_learn", True, {}),
        ("iq_learn", True, IN_SAMPLE),
        ("valuedice", False, {}),
        ("sqil", True, {}),
    ],
)
def test_a_population_goes_on_from_its_state(
    algorithm: str, suboptimal: bool, options: dict[str, str], sources: Sources
):
    """Every learner's draws go on, not those of the first alone."""
    chosen = configs(algorithm, suboptimal, **options)
    data = [chosen_data(config, sources) for config in chosen]
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


FREE: list[tuple[str, dict[str, Any]]] = [
    *(("iq_learn", {name: 0.25}) for name in (*COEFFICIENTS, *IN_SAMPLE_COEFFICIENTS, *CHOSEN_COEFFICIENTS)),
    ("data", {"num_expert_trajectories": 3}),
    ("data", {"subsample": 7}),
    ("data", {"held_out_trajectories": 0}),
    ("data", {"suboptimal": (Suboptimal(THIRD), Suboptimal(OTHER))}),
    ("evaluation", {"episodes": 3}),
    ("bc", {"learning_rate": 0.5}),
]
BOUND: list[tuple[str, dict[str, Any]]] = [
    ("data", {"expert": THIRD}),
    ("data", {"suboptimal_fraction": 0.25}),
    ("data", {"suboptimal": ()}),
    ("data", {"frame_stack": 2}),
    ("data", {"action_high": (0.5,)}),
    ("iq_learn", {"gradient_penalty": 0.0}),
    ("iq_learn", {"reward_penalty": 0.0}),
    ("iq_learn", {"policy": "lookahead"}),
    ("iq_learn", {"policy": "advantage_weighted"}),
    ("iq_learn", {"value_states": "initial"}),
    ("iq_learn", {"value_states": "suboptimal"}),
    ("iq_learn", {"chi2_states": "mixture"}),
    ("iq_learn", {"target_network": False}),
    *(("iq_learn", {name: 0.01}) for name in ("critic_learning_rate", "actor_learning_rate", "target_update_rate")),
    ("iq_learn", {"adam_beta1": 0.8}),
    *(("training", {name: 11}) for name in ("gradient_steps", "batch_size", "log_every", "checkpoint_every")),
    ("training", {"hidden_sizes": (8,)}),
    ("training", {"dtype": "float32"}),
    ("training", {"cosine_schedule": False}),
]


def test_who_can_train_together(sources: Sources):
    """Whoever has the same program; those that may not are told apart, and refused by the name of what differs."""
    terms = {"value_states": "expert", "chi2_states": "expert", "policy": "soft_actor_critic"}
    base = changed(configs("iq_learn", True)[0], "iq_learn", **terms)
    for part, changes in FREE:
        assert program_of(changed(base, part, **changes)) == program_of(base), changes
        assert hash(program_of(changed(base, part, **changes))) == hash(program_of(base))
    assert program_of(replace(base, seed=8, recipe="another")) == program_of(base)
    compiled = changed(base, "training", compile=True)
    with pytest.raises(UserError, match=r"need the same .*training\.compile = false: train the others on their own"):
        population([compiled, replace(compiled, seed=8)], [chosen_data(compiled, sources)] * 2)
    data = chosen_data(base, sources)
    for part, changes in BOUND:
        other = changed(base, part, **changes)
        assert program_of(other) != program_of(base), changes
        with pytest.raises(UserError, match=rf"need the same .*{part}\.{next(iter(changes))}"):
            population([base, other], [data, data])
    with pytest.raises(UserError, match="need the same algorithm"):
        population([base, replace(base, algorithm="bc")], [data, data])


@pytest.mark.parametrize(
    ("algorithm", "bound"),
    [
        (
            "valuedice",
            {"start_states": "initial", "gradient_penalty": 0.0, "orthogonal_penalty": 0.0, "adam_beta1": 0.3},
        ),
        ("sqil", {"critic_learning_rate": 0.01, "actor_learning_rate": 0.01, "target_update_rate": 0.01}),
    ],
)
def test_who_can_train_together_of_the_other_algorithms(algorithm: str, bound: dict[str, Any]):
    base = configs(algorithm, True)[0]
    for name in FACTORS[algorithm]:
        assert program_of(changed(base, algorithm, **{name: 0.25})) == program_of(base)
    for name, value in bound.items():
        assert program_of(changed(base, algorithm, **{name: value})) != program_of(base), name
    assert program_of(changed(base, "iq_learn", temperature=0.5, gradient_penalty=0.0)) == program_of(base)


def test_a_share_of_no_suboptimal_data_is_none():
    """And what is decided automatically is decided before it is compared."""
    base = configs("bc", False)[0]
    assert program_of(changed(base, "data", suboptimal_fraction=0.1)) == program_of(base)
    auto = RunConfig()
    assert program_of(changed(auto, "iq_learn", value_states="expert")) == program_of(auto)
    likelihood = changed(base, "bc", loss="likelihood")
    assert program_of(likelihood) != program_of(base)
    assert program_of(changed(base, "iq_learn", temperature=0.5, gradient_penalty=0.0)) == program_of(base)


# ---------------------------------------------------------------------------------------------------- other spaces


PARTS = Dict({"camera": Box(0, 255, (9, 8, 2), np.uint8), "state": Box(-1, 1, (3,)), "which": Discrete(3)})
OTHER_CASES = [
    ("iq_learn", PARTS["state"], Discrete(4, start=1)),
    ("iq_learn", PARTS["state"], MultiDiscrete([3, 1, 4], start=[0, 2, -1])),
    ("bc", Dict({name: PARTS[name] for name in ("state", "which")}), MultiDiscrete([3, 1, 4])),
    ("iq_learn", PARTS, Discrete(3)),
    ("bc", PARTS, Box(-1, 1, (2,))),
    ("valuedice", PARTS, MultiDiscrete([3, 1, 4], start=[0, 2, -1])),
    ("valuedice", PARTS, Box(-1, 1, (2,))),
    ("sqil", PARTS, Discrete(3)),
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
        data=DataConfig(
            "test/any-v0",
            suboptimal=(Suboptimal("test/any-v0"),) if algorithm == "sqil" else (),
            frame_stack=2,
            held_out_trajectories=0 if algorithm == "sqil" else 1,
        ),
        training=TrainingConfig(10, batch_size=8, hidden_sizes=(8,), dtype="float64", average_decay=0.9),
        iq_learn=IQLearnConfig(critic_learning_rate=3e-3),
        valuedice=ValueDICEConfig(actor_learning_rate=3e-4),
    )
    chosen = [
        resolved(replace(base, seed=seed, data=replace(base.data, num_expert_trajectories=1 + seed)))
        for seed in range(3)
    ]
    data = [choose_data(config, source, [source for _ in config.data.suboptimal]) for config in chosen]
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
