"""What is chosen from unlabelled data: the reward against its closed form, the choice in worlds small enough to see."""

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from tensordict import TensorDict
from torch import Tensor

from iq_offline.config import DataConfig, IQLearnConfig, RunConfig, Suboptimal, TrainingConfig, resolved
from iq_offline.config.iq_learn import Q_TERMS, decided
from iq_offline.data.actions import ActionBranches
from iq_offline.data.spaces import ObservationEncoder, chosen_leaves
from iq_offline.errors import UserError
from iq_offline.experiment import obtain
from iq_offline.learning.agents import UnitBox, call
from iq_offline.learning.agents.chosen import (
    Appraisal,
    BestEpisodesImitation,
    ChosenImitation,
    LookaheadIQLearn,
    SurvivalImitation,
    WeightedImitation,
)
from iq_offline.learning.learner import named_leaves, sorted_leaves
from iq_offline.learning.networks import Hidden
from iq_offline.training.setup import choose_data, prepare
from iq_offline.training.training import Training
from tests.helpers import point_mass_dataset, point_mass_returns

SIZE = 3
ENCODER = ObservationEncoder(chosen_leaves(Box(-np.inf, np.inf, (SIZE,)), (), "the test"))
UNIT_BOX = UnitBox(torch.tensor([-2.0, 0.5]).double(), torch.tensor([1.0, 0.75]).double())
CONFIG = decided(
    IQLearnConfig(discount=0.9, chi2_alpha=0.3, reward_penalty=0.0, lasting=1, relevance=10.0, least_rows=1),
    mixed=False,
)


def rows(observation: Tensor, action: Tensor, **more: Tensor) -> TensorDict:
    following = TensorDict({"observation": observation, "terminated": torch.zeros(len(action)).double()}, [len(action)])
    return TensorDict({"observation": observation, "action": action, "next": following, **more}, [len(action)])


def parameters_of(agent: LookaheadIQLearn) -> TensorDict:
    torch.manual_seed(0)
    return agent.initial_parameters(torch.zeros(SIZE), torch.ones(SIZE)).double()


def test_the_reward_is_the_chi_squared_optimum():
    """On states and actions that can be counted: 4 alpha (d_E - d_S) / (d_E + d_S), whatever the batch's shares."""
    agent = LookaheadIQLearn(CONFIG, ENCODER, ActionBranches(Discrete(2)), Hidden((64,)))
    parameters = parameters_of(agent)
    states = torch.eye(SIZE).double()

    def batch(counts: list[int]) -> TensorDict:
        pairs = torch.arange(6).repeat_interleave(torch.tensor(counts))
        return rows(states[pairs // 2], (pairs % 2).unsqueeze(-1))

    expert, suboptimal = [3, 0, 1, 2, 2, 0], [2, 6, 2, 2, 0, 4]
    both = TensorDict({"expert": batch(expert), "suboptimal": batch(suboptimal)})
    weights = [leaf.requires_grad_() for leaf in sorted_leaves(parameters["reward"])]
    optimizer = torch.optim.LBFGS(weights, lr=1, max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss, _ = agent.reward_loss(parameters, both, TensorDict({}))
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    pairs = torch.arange(6)
    found = agent.appraise(parameters, rows(states[pairs // 2], (pairs % 2).unsqueeze(-1))).reward
    d_e, d_s = torch.tensor(expert).double() / 8, torch.tensor(suboptimal).double() / 16
    torch.testing.assert_close(found, 4 * 0.3 * (d_e - d_s) / (d_e + d_s), rtol=0, atol=1e-4)


@pytest.mark.parametrize("finite", [False, True])
def test_gradients_are_those_of_finite_differences(finite: bool):
    config = replace(CONFIG, reward_penalty=0.7)
    actions = ActionBranches(MultiDiscrete([2, 3])) if finite else UNIT_BOX
    agent = LookaheadIQLearn(config, ENCODER, actions, Hidden((5,)))
    parameters = parameters_of(agent)
    for leaf in sorted_leaves(parameters["reward"]):
        leaf.mul_(4)  # Steep enough for the penalty to count.
    torch.manual_seed(1)

    def some(count: int, **more: Tensor) -> TensorDict:
        drawn = torch.rand(count, 2).double() * torch.tensor([2.0, 0.2]) + torch.tensor([-1.0, 0.55])
        taken = torch.stack([torch.arange(count) % 2, torch.arange(count) % 3], -1) if finite else drawn
        return rows(torch.randn(count, SIZE).double(), taken, **more)

    kinds = {"expert": 4, "suboptimal": 6}
    batch = TensorDict({kind: some(n, planned_return=torch.randn(n).double()) for kind, n in kinds.items()})
    noise = TensorDict({"expert": torch.randn(4, 1).double(), "suboptimal": torch.randn(6, 1).double()})
    _, metrics = agent.reward_loss(parameters, batch, noise)
    assert metrics["critic/penalty"] > 0.01
    for group, loss in (("reward", agent.reward_loss), ("value", agent.value_loss)):
        leaves = sorted_leaves(parameters[group])
        for leaf in leaves:
            leaf.requires_grad_()
        gradients = torch.autograd.grad(loss(parameters, batch, noise)[0], leaves)
        with torch.no_grad():
            for leaf, gradient in zip(leaves, gradients, strict=True):
                direction = torch.randn_like(leaf)
                sides = []
                for step in (1e-6, -1e-6):
                    leaf.add_(step * direction)
                    sides.append(loss(parameters, batch, noise)[0])
                    leaf.sub_(step * direction)
                slope = (sides[0] - sides[1]) / 2e-6
                torch.testing.assert_close(slope, (gradient * direction).sum(), rtol=1e-4, atol=1e-7)


def test_values_are_regressed_to_the_returns_of_both_kinds():
    agent = LookaheadIQLearn(CONFIG, ENCODER, UNIT_BOX, Hidden((5,)))
    parameters = parameters_of(agent)
    kinds, by_hand = {"expert": 2, "suboptimal": 3}, 0.0
    batch = TensorDict({})
    for kind, count in kinds.items():
        drawn = rows(torch.randn(count, SIZE).double(), torch.zeros(count, 2).double())
        drawn["planned_return"] = torch.randn(count).double()
        by_hand += (agent.appraise(parameters, drawn).value - drawn["planned_return"]).square().mean().item()
        batch[kind] = drawn
    assert agent.value_loss(parameters, batch, TensorDict({}))[0].item() == pytest.approx(by_hand)


def test_an_end_goes_on_with_the_reward_of_the_way_into_it():
    agent = LookaheadIQLearn(CONFIG, ENCODER, UNIT_BOX, Hidden((5,)))
    parameters = parameters_of(agent)
    batch = rows(torch.randn(3, SIZE).double(), torch.zeros(3, 2).double())
    batch["next", "terminated"] = torch.tensor([0.0, 1.0, 0.0]).double()
    found = agent.appraise(parameters, batch)
    assert found.following[1] == found.reward[1] / (1 - 0.9)
    torch.testing.assert_close(found.following[[0, 2]], found.value[[0, 2]])


def test_the_same_first_step_counts_where_it_leads_to_the_expert():
    """Two episodes that look alike at first; one comes to where the expert is."""
    agent = LookaheadIQLearn(CONFIG, ENCODER, UNIT_BOX, Hidden((5,)))
    value = torch.tensor([-5.0, 0.0, 8.0, 6.0, -5.0, -6.0, -7.0, -8.0])
    last = torch.tensor([False, False, False, True] * 2)
    nothing = torch.zeros(8)
    expert = Appraisal(torch.zeros(3), torch.tensor([7.0, 8.0, 9.0]), torch.zeros(3))
    weights = agent.weigh(Appraisal(nothing, value, nothing), expert, last)
    assert weights[:3].tolist() == [1, 1, 1]
    assert 0.01 < weights[3] < 1, "its peak is past"
    assert (weights[4:] < 1e-3).all()


def test_a_value_that_does_not_last_does_not_count():
    """A moment at the expert's value, and two steps a little below it."""
    value = torch.tensor([0.0, 8.0, 0.0, -8.0, 0.0, 6.0, 6.0, -8.0])
    last = torch.tensor([False, False, False, True] * 2)
    nothing = torch.zeros(8)
    expert = Appraisal(torch.zeros(1), torch.tensor([8.0]), torch.zeros(1))
    starts = []
    for steps in (1, 2, 100):
        agent = LookaheadIQLearn(replace(CONFIG, lasting=steps), ENCODER, UNIT_BOX, Hidden((5,)))
        weights = agent.weigh(Appraisal(nothing, value, nothing), expert, last)
        starts.append(weights[[0, 4]])
        if steps == 100:
            assert weights[:4].unique().numel() == 1, "an episode that is shorter counts as a whole"
    moment, two, whole = starts
    assert moment[0] == 1 > moment[1]
    assert 1 > two[1] > 1.5 * two[0]
    assert 1 > whole[1] > 1.5 * whole[0]


def test_a_value_counts_only_where_the_reward_is_nearer_to_the_experts():
    """Three episodes come to the expert's value; for one of them the reward speaks, if late."""
    agent = LookaheadIQLearn(CONFIG, ENCODER, UNIT_BOX, Hidden((5,)))
    value, last = torch.tensor([9.0, 9.0, 9.0, 0.0, 0.0, 9.0]), torch.tensor([False, True] * 3)
    reward = torch.tensor([-1.0, 0.9, -1.0, -1.0, 0.9, -1.0])
    expert = Appraisal(torch.ones(2), torch.full((2,), 8.0), torch.zeros(2))
    assert agent.weigh(Appraisal(reward, value, value), expert, last).tolist() == [1, 1, 0, 0, 1, 0]
    survival = SurvivalImitation(CONFIG, ENCODER, UNIT_BOX, Hidden((5,)))
    nothing, same = torch.zeros(6), Appraisal(torch.zeros(2), expert.value, torch.zeros(2))
    found = survival.weigh(Appraisal(nothing, value, nothing), same, last)
    assert found[[0, 1, 2, 4, 5]].tolist() == [1] * 5, "where nothing is rewarded the value is all there is"
    assert found[3] < 1e-3


def test_a_wrong_value_does_not_even_fill_up():
    """Four labelled rows: r calls nobody the expert's, only twenty hidden episodes less unlike; V is far off on two."""
    config = replace(CONFIG, lasting=5, least_rows=60)
    agent = LookaheadIQLearn(config, ENCODER, UNIT_BOX, Hidden((5,)))
    hidden, wrong = torch.arange(2_000) >= 1_800, torch.arange(2_000) < 20
    last = torch.arange(2_000) % 10 == 9
    reward = torch.where(hidden, -1.2, -1.95)
    value = torch.where(hidden, 4.0, torch.where(wrong, 20.0, -8.0))
    expert = Appraisal(torch.full((4,), 1.98), torch.full((4,), 5.0), torch.zeros(4))
    weights = agent.weigh(Appraisal(reward, value, value), expert, last)
    assert weights[hidden].sum().item() == pytest.approx(56, rel=1e-3)
    assert (weights[~hidden] == 0).all()


@pytest.mark.parametrize("kind", [LookaheadIQLearn, SurvivalImitation])
def test_values_are_kept_within_what_rewards_add_up_to(kind: type[LookaheadIQLearn]):
    """4 alpha / (1 - discount), for survival 2 / (1 - discount), on both sides; also after an end."""
    agent = kind(CONFIG, ENCODER, UNIT_BOX, Hidden((5,)))
    parameters = parameters_of(agent)
    batch = rows(torch.randn(4, SIZE).double(), torch.zeros(4, 2).double())
    batch["next", "terminated"] = torch.tensor([0.0, 0.0, 0.0, 1.0]).double()
    most = (4 * 0.3 if kind is LookaheadIQLearn else 2) / (1 - 0.9)
    bias = next(leaf for name, leaf in named_leaves(parameters["value"]) if name == "2.bias")
    for far in (1e3, -1e3):
        bias.fill_(far)
        found = agent.appraise(parameters, batch)
        assert found.following[:3].tolist() == pytest.approx([math.copysign(most, far)] * 3)
        assert (found.value.abs() > 900).all(), "what is regressed is not cut off"
        assert -most <= found.following[3] <= most


def test_returns_are_those_of_following_the_data():
    agent = LookaheadIQLearn(CONFIG, ENCODER, UNIT_BOX, Hidden((5,)))
    reward = torch.tensor([1.0, 0.0, 5.0, 2.0])
    same = torch.full((4,), 4.0)
    last = torch.tensor([True, True, False, True])
    returns, weights = agent.choose(Appraisal(reward, same, same), last, labelled=2)
    assert returns is not None
    assert returns.tolist() == pytest.approx([1 + 0.9 * 4, 0.9 * 4, 5 + 0.9 * (2 + 0.9 * 4), 2 + 0.9 * 4])
    assert weights[2:].tolist() == [1, 1], "the labelled rows are imitated like any that are as good"


def test_the_controls_do_not_look_ahead():
    """A row by its own reward; an episode by the mean of its own."""
    reward, last = torch.tensor([1.1, -1.1, 0.0, 0.0, 0.6]), torch.tensor([False, True, False, True, True])
    rows_ = Appraisal(reward, torch.zeros(5), torch.zeros(5))
    weighted = WeightedImitation(CONFIG, ENCODER, UNIT_BOX, Hidden((5,))).weigh(rows_, rows_, last)
    assert weighted.tolist() == pytest.approx([2.3 / 0.1, 0.1 / 2.3, 1, 1, 1.8 / 0.6], rel=1e-4)
    best = BestEpisodesImitation(CONFIG, ENCODER, UNIT_BOX, Hidden((5,))).weigh(rows_, rows_, last)
    assert best.tolist() == pytest.approx([np.exp(-10)] * 4 + [1.0], rel=1e-4)


@pytest.mark.parametrize("kind", [LookaheadIQLearn, BestEpisodesImitation])
def test_some_rows_count_though_nearly_none_is_good(kind: type[ChosenImitation]):
    """A hundred episodes of two rows, each better than the last: a twentieth of the rows is 10. One row is labelled."""
    score = torch.linspace(0, 1, 100).repeat_interleave(2)
    found, expert = (Appraisal(of, of, of) for of in (score, torch.full((1,), 1.1)))
    last = torch.arange(200) % 2 == 1
    for least, enough in ((1, 0), (8, 7), (51, 10)):
        agent = kind(replace(CONFIG, relevance=1e3, least_rows=least), ENCODER, UNIT_BOX, Hidden((5,)))
        weights = agent.weigh(found, expert, last)
        assert weights.sum().item() == pytest.approx(enough, abs=1e-6), "none is as good as the expert's"


def test_for_survival_only_ends_count():
    agent = SurvivalImitation(CONFIG, ENCODER, UNIT_BOX, Hidden((5,)))
    assert [phase.group for phase in agent.phases] == ["value", "actor"]
    parameters = parameters_of(agent)
    batch = rows(torch.randn(3, SIZE).double(), torch.zeros(3, 2).double())
    batch["next", "terminated"] = torch.tensor([0.0, 1.0, 0.0]).double()
    found = agent.appraise(parameters, batch)
    assert found.reward.tolist() == [0, 0, 0]
    assert found.following[1].item() == pytest.approx(-2 / (1 - 0.9))
    torch.testing.assert_close(found.following[[0, 2]], found.value[[0, 2]])


def weights_in(training: Training) -> Tensor:
    """Of all rows that are imitated."""
    cumulative = training.replay.piles["imitated"].cumulative
    assert cumulative is not None
    return cumulative.diff(prepend=cumulative.new_zeros(1))


def configuration(**changes: Any) -> RunConfig:
    suboptimal = (Suboptimal("test/wild-v0"), Suboptimal("test/expert-v0", 4, hidden=True))
    return resolved(
        RunConfig(
            data=DataConfig("test/expert-v0", 1, subsample=5, suboptimal=suboptimal),
            training=TrainingConfig(600, batch_size=64, hidden_sizes=(32, 32), actors=1, average_decay=0.98),
            iq_learn=IQLearnConfig(reward_learning_rate=1e-3, actor_learning_rate=1e-3, choose_every=50, **changes),
        )
    )


def test_hidden_experts_are_found_and_followed():
    """Ten labelled steps; four expert episodes among forty that go nowhere."""
    point_mass_dataset("test/expert-v0", 12, 50, seed=0)
    point_mass_dataset("test/wild-v0", 40, 50, seed=1, act=lambda state: np.zeros(2), noise=1.0)
    config = configuration()
    data = choose_data(config, obtain("test/expert-v0"), [obtain("test/wild-v0"), obtain("test/expert-v0")])
    training = prepare(config, data)
    for _ in range(600):
        training.update()
    weights = weights_in(training)
    hidden, labelled = weights[40 * 50 : 44 * 50], weights[44 * 50 :]
    assert labelled.tolist() == pytest.approx([1] * 10)
    assert hidden.sum() / weights.sum() > 0.75, "though they are one in eleven"

    learner = training.learner
    mean, std = learner.parameters["normalizer", "mean"], learner.parameters["normalizer", "std"]

    @torch.no_grad()
    def act(state: np.ndarray) -> np.ndarray:
        features = ((torch.from_numpy(state).float() - mean) / std).float()
        return torch.tanh(call(learner.agent.cloning.actor, learner.average, features)[..., :2]).numpy()  # type: ignore

    expert = point_mass_returns(lambda state: np.clip(-2 * state[..., :2] - 2 * state[..., 2:], -1, 1), 20, 50, 7)
    nothing = point_mass_returns(lambda state: np.zeros((*state.shape[:-1], 2)), 20, 50, 7)
    ours = point_mass_returns(act, 20, 50, 7)
    assert (ours.mean() - nothing.mean()) / (expert.mean() - nothing.mean()) > 0.5


@pytest.mark.parametrize(
    ("kind", "least", "share"), [("lookahead", 50, 0.99), ("lookahead", 51, 0.97), ("best_episodes", 50, 0.9)]
)
def test_data_that_come_nowhere_near_the_expert_are_left_alone(kind: str, least: int, share: float):
    """One complete trajectory, and forty episodes that do the opposite: what is labelled is enough."""
    point_mass_dataset("test/expert-v0", 12, 50, seed=0)
    point_mass_dataset("test/wild-v0", 40, 50, seed=1, act=lambda state: np.sign(state[..., :2]))
    plain = configuration(policy=kind, least_rows=least)
    data_config = replace(plain.data, subsample=1, suboptimal=(Suboptimal("test/wild-v0"),))
    config = replace(plain, data=data_config)
    training = prepare(config, choose_data(config, obtain("test/expert-v0"), [obtain("test/wild-v0")]))
    for _ in range(400):
        training.update()
    weights = weights_in(training)
    assert weights[-50:].sum() / weights.sum() > share


PLAIN = configuration()
OTHERS: dict[str, Any] = {
    "divergence": "kl",
    "constraint_weight": 3.0,
    "discount": 0.5,
    "chi2_alpha": 0.1,
    "temperature": 0.7,
    "value_states": "initial",
    "chi2_states": "expert",
    "gradient_penalty": 0.9,
    "behavior_anchor": 3.0,
    "critic_learning_rate": 1e-2,
    "actor_learning_rate": 1e-2,
    "adam_beta1": 0.8,
    "target_network": False,
    "target_update_rate": 0.5,
    "reward_penalty": 30.0,
    "reward_learning_rate": 1e-2,
    "choose_every": 2,
    "lasting": 3,
    "relevance": 1.0,
    "least_rows": 1,
    "outlier_error": 1.0,
    "expert_term": "fixed_target",
    "clip_targets": True,
    "absorbing_value": "bound",
    "smoothness_penalty": 2.0,
    "largest_slope": 0.1,
    "value": "expectile",
    "expectile": 0.3,
    "advantage_temperature": 0.1,
    "critics": 3,
}


IN_SAMPLE = {"value": "expectile", "value_states": "suboptimal"}


@pytest.mark.parametrize(
    ("policy", "terms"),
    [
        *((policy, {}) for policy in ("lookahead", "best_episodes")),
        *(pytest.param(policy, {}, marks=pytest.mark.slow) for policy in ("survival", "weighted")),
        ("soft_actor_critic", {}),
        ("advantage_weighted", IN_SAMPLE),
        pytest.param("soft_actor_critic", IN_SAMPLE, marks=pytest.mark.slow),
        pytest.param("advantage_weighted", {}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_keys_count_unless_they_are_said_not_to(policy: str, terms: dict[str, str]):
    """Every key of the section, after a few steps: the actor is another one, or the key is among the unread."""
    point_mass_dataset("test/expert-v0", 12, 30, seed=0)
    point_mass_dataset("test/wild-v0", 10, 30, seed=1, noise=2.0)
    sources = [obtain("test/wild-v0"), obtain("test/expert-v0")]

    def actor_after(**changes: Any) -> tuple[list[Tensor], tuple[str, ...]]:
        plain = {"policy": policy, "reward_learning_rate": 3e-2, "choose_every": 5, "lasting": 5, **terms}
        config = resolved(replace(PLAIN, iq_learn=replace(PLAIN.iq_learn, **plain | changes)))
        training = prepare(config, choose_data(config, sources[1], sources))
        for _ in range(11):
            training.update()
        learner = training.learner
        return sorted_leaves(learner.parameters["actor"]), learner.agent.unread

    names = {field.name for field in fields(IQLearnConfig)} - {"policy"}
    assert names == OTHERS.keys()
    changes = {name: {name: value} for name, value in OTHERS.items() if name in names}
    changes["reward_learning_rate"] = {"reward_learning_rate": 1e-2}
    del changes["least_rows"]  # More of these data are at the expert's level than it may ask for.
    if policy in ("soft_actor_critic", "advantage_weighted"):
        del changes["absorbing_value"]  # Nothing ends in these data.
        del changes["clip_targets"]  # Values are far from their bounds so early.
        changes["value"] = {"value": "policy"} if terms else IN_SAMPLE
        assert {"absorbing_value", "clip_targets"}.isdisjoint(actor_after()[1])
    else:
        for name in Q_TERMS:
            with pytest.raises(UserError, match="policy = 'soft_actor_critic'"):
                actor_after(**changes.pop(name))
    if terms:
        with pytest.raises(UserError, match="value_states = 'initial' says nothing of Q"):
            actor_after(value_states="initial")
        del changes["value_states"]
    expected, unread = actor_after()
    for name, change in sorted(changes.items()):
        same = all(torch.equal(a, b) for a, b in zip(expected, actor_after(**change)[0], strict=True))
        assert same == (name in unread), name
