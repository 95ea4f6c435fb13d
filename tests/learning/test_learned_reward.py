"""Rewards that are networks of their own: losses row by row in numpy, and what is left when the policy stands still."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from tensordict import TensorDict
from torch import Tensor

from iq_offline.config import IQLearnConfig, RunConfig, resolved
from iq_offline.config.baselines import GAILConfig
from iq_offline.config.iq_learn import decided
from iq_offline.config.online import OnlineConfig
from iq_offline.data.actions import ActionBranches
from iq_offline.data.spaces import ObservationEncoder, chosen_leaves
from iq_offline.errors import UserError
from iq_offline.learning.adversarial import adversarial_reward, discriminator_loss
from iq_offline.learning.agents import Transitions, call, call_each, fresh, normalized, rows_of
from iq_offline.learning.agents.gail import GAIL
from iq_offline.learning.agents.iq_learn_reward import ContinuousRewardIQLearn, DiscreteRewardIQLearn
from iq_offline.learning.agents.learned_reward import LearnedReward
from iq_offline.learning.learner import named_leaves
from iq_offline.learning.networks import Hidden, gaussian, network
from iq_offline.learning.objective import separate_reward_loss
from tests.learning import test_agents as box
from tests.learning.gradients import slopes

GAIL_CONFIG = GAILConfig(discount=0.9, temperature=0.2, gradient_penalty=0.7, critics=1)
IQ_CONFIG = decided(
    IQLearnConfig(
        discount=0.9,
        temperature=0.2,
        chi2_alpha=0.3,
        reward_penalty=0.7,
        behavior_anchor=1.7,
        policy="learned_reward",
        critics=1,
    ),
    mixed=False,
)
AGENTS: dict[str, GAIL | ContinuousRewardIQLearn] = {
    "gail": GAIL(GAIL_CONFIG, box.ENCODER, box.UNIT_BOX, box.HIDDEN, ("suboptimal",)),
    "iq_learn": ContinuousRewardIQLearn(IQ_CONFIG, box.ENCODER, box.UNIT_BOX, box.HIDDEN, ("suboptimal",)),
}
each = pytest.mark.parametrize("name", AGENTS)


def parameters_of(agent: LearnedReward) -> TensorDict:
    """Float64; the target critic is another one than the critic."""
    torch.manual_seed(2)
    parameters = agent.initial_parameters(torch.from_numpy(box.MEAN), torch.from_numpy(box.STD)).double()
    for _, leaf in named_leaves(parameters["target_critic"]):
        leaf.add_(0.3 * torch.randn(leaf.shape).double())
    for _, leaf in named_leaves(parameters["reward"]):
        leaf.mul_(3)
    return parameters


def points(batch: TensorDict, kind: str) -> list[np.ndarray]:
    """State and action as the networks read them."""
    found = []
    for row in batch[kind]:
        state = (row["observation"].numpy() - box.MEAN) / box.STD
        unit = np.clip(2 * (row["action"].numpy() - box.LOW) / (box.HIGH - box.LOW) - 1, -1, 1)
        found.append(np.concatenate([state, unit]))
    return found


def by_hand(name: str, outputs: list[float], slopes: list[np.ndarray]) -> tuple[float, float, list[float]]:
    """What is minimised, without and of the slopes, and what is earned."""
    expert, others = np.array(outputs[: box.EXPERTS]), np.array(outputs[box.EXPERTS :])
    lengths = np.array([np.linalg.norm(slope) for slope in slopes])
    if name == "gail":
        chance = 1 / (1 + np.exp(-expert)), 1 / (1 + np.exp(-others))
        separation = -np.mean(np.log(chance[0])) - np.mean(np.log(1 - chance[1]))
        return (
            float(separation),
            float(np.mean((lengths - 1) ** 2)),
            [-math.log(1 - 1 / (1 + math.exp(-x))) for x in outputs],
        )
    squares = np.mean(expert**2) + np.mean(others**2)
    separation = -expert.mean() + others.mean() + squares / (8 * 0.3)
    earned = [min(max(x + 4 * 0.3, 0.0), 8 * 0.3) for x in outputs]
    return float(separation), float(np.mean(np.maximum(lengths - 1, 0) ** 2)), earned


@each
def test_the_losses_are_the_formulas(name: str):
    agent = AGENTS[name]
    parameters = parameters_of(agent)
    batch, noise = box.draw_batch(True)
    slow = box.Slow(parameters, batch, noise, cast(Any, agent.config))
    slow.groups["reward"] = {name: leaf.numpy() for name, leaf in named_leaves(parameters["reward"])}
    at = points(batch, "expert") + points(batch, "suboptimal")
    outputs = [float(slow.network("reward", point)[0]) for point in at]

    found = []
    for index, draw in enumerate(noise["suboptimal"][:, 2, 0].numpy()):
        share = 0.5 * (1 + math.erf(draw / math.sqrt(2)))
        expert, other = at[index % box.EXPERTS], at[box.EXPERTS + index]
        middle = expert + share * (other - expert)
        nudges = 1e-6 * np.eye(len(middle))
        differences = [slow.network("reward", middle + n) - slow.network("reward", middle - n) for n in nudges]
        found.append(np.array([difference[0] / 2e-6 for difference in differences]))
    separation, penalty, rewards = by_hand(name, outputs, found)
    assert penalty > 0.001
    loss, metrics = agent.reward_loss(parameters, batch, noise)
    assert metrics["reward/penalty"].item() == pytest.approx(penalty, rel=1e-5)
    assert loss.item() == pytest.approx(separation + 0.7 * penalty, rel=1e-5)
    assert metrics["reward/expert"].item() == pytest.approx(np.mean(outputs[: box.EXPERTS]))

    rows = slow.rows("expert") + slow.rows("suboptimal")
    squares = [(row["reward"] - reward) ** 2 for row, reward in zip(rows, rewards, strict=True)]
    loss, metrics = agent.critic_loss(parameters, batch, noise)
    assert loss.item() == pytest.approx(np.mean(squares), rel=1e-10)
    assert metrics["critic/reward"].item() == pytest.approx(np.mean(rewards), rel=1e-10)
    raised = 4 * 0.3 if name == "iq_learn" else 0.0
    diagnosed = agent.diagnose(parameters, batch["expert"])
    np.testing.assert_allclose(diagnosed["reward"].numpy(), np.array(rewards[: box.EXPERTS]) - raised, rtol=1e-10)
    q = [row["q"] - raised / 0.1 for row in rows[: box.EXPERTS]]
    np.testing.assert_allclose(diagnosed["value"].detach().numpy(), q, rtol=1e-10)
    loss, metrics = agent.actor_loss(parameters, batch, noise)
    anchor = 1.7 * metrics["actor/squared_error"].item() if name == "iq_learn" else 0.0
    assert loss.item() == pytest.approx(anchor + box.mean_of(rows, "policy"), rel=1e-10)


@each
def test_gradients_are_finite_differences(name: str):
    agent = AGENTS[name]
    parameters = parameters_of(agent)
    batch, noise = box.draw_batch(True)
    assert [phase.group for phase in agent.phases] == ["reward", "critic", "actor"]
    for phase in agent.phases:
        leaves = [leaf.requires_grad_() for _, leaf in named_leaves(parameters[phase.group])]
        exact, differences = slopes(phase.loss, (parameters, batch, noise), leaves, 7)
        assert differences == pytest.approx(exact, rel=1e-5, abs=1e-7)
        assert max(map(abs, exact)) > 1e-3


@each
def test_the_actor_is_held_to_where_it_began(name: str):
    """weight · E|Q| · E|tanh(mean) - tanh(mean at the start)|² more, over all states."""
    agent = AGENTS[name]
    parameters, (batch, noise) = parameters_of(agent), box.draw_batch(True)
    free, _ = agent.actor_loss(parameters, batch, noise)
    parameters["start"] = agent.start_group(parameters).double()
    parameters["start", "weight"].fill_(0.3)
    assert agent.actor_loss(parameters, batch, noise)[0].item() == free.item(), "it is still there"
    for _, leaf in named_leaves(parameters["start", "actor"]):
        leaf.add_(0.2)
    held, metrics = agent.actor_loss(parameters, batch, noise)

    state = normalized(parameters, rows_of(batch, agent.states, "observation"))
    mean, std = gaussian(call(agent.actor, parameters["actor"], state))
    theirs, _ = gaussian(call(agent.actor, parameters["start", "actor"], state))
    distances = ((torch.tanh(mean) - torch.tanh(theirs)) ** 2).sum(-1)
    action = torch.tanh(mean + std * rows_of(noise, agent.states)[:, 2])
    size = agent.q(parameters["critic"], state, action).abs().mean().item()
    assert metrics["actor/from_start"].item() == pytest.approx(distances.mean().item())
    assert held.item() == pytest.approx(free.item() + 0.3 * size * distances.mean().item())
    assert distances.mean() > 0.001


@each
def test_how_alike_the_reward_finds_online_and_expert(name: str):
    agent = AGENTS[name]
    parameters, (batch, noise) = parameters_of(agent), box.draw_batch(True)
    batch["online"] = batch["suboptimal"]
    slow = box.Slow(parameters, batch, noise, cast(Any, agent.config))
    slow.groups["reward"] = {name: leaf.numpy() for name, leaf in named_leaves(parameters["reward"])}

    def mean_of(kind: str) -> float:
        outputs = np.array([slow.network("reward", point)[0] for point in points(batch, kind)])
        return float(np.mean(2 / (1 + np.exp(-outputs)) - 1 if name == "gail" else outputs / (4 * 0.3)))

    expected = 1 - (mean_of("expert") - mean_of("online")) / 2
    assert 0 < expected < 2
    if expected > 1:  # The online rows look better: whoever they are, no more is asked.
        assert agent.resemblance(parameters, batch).item() == 1
        batch["expert"], batch["online"] = batch["online"], batch["expert"]
        expected = 2 - expected
    assert agent.resemblance(parameters, batch).item() == pytest.approx(expected)
    expert, other = torch.tensor([6.0, 3.0, 1.0]), torch.tensor([1.0, 3.0, 4.0])
    losses = {"gail": discriminator_loss, "iq_learn": lambda one, two: separate_reward_loss(one, two, 0.3)}
    one, two = expert / expert.sum(), other / other.sum()
    best = agent.relative_density(parameters, minimising(losses[name], expert, other))
    torch.testing.assert_close(best.float(), (one - two) / (one + two), atol=1e-3, rtol=0)


def test_of_several_critics_the_smallest_counts():
    """Each is held to the same targets, which are by the smallest value of the targets, as the policy's step is."""
    several = ContinuousRewardIQLearn(
        replace(IQ_CONFIG, critics=3), box.ENCODER, box.UNIT_BOX, box.HIDDEN, ("suboptimal",)
    )
    parameters, one = parameters_of(several), AGENTS["iq_learn"]
    batch, noise = box.draw_batch(True)
    state, action = torch.randn(5, box.SIZE).double(), torch.rand(5, 2).double()
    each_q = torch.stack([one.q(parameters["critic"][index], state, action) for index in range(3)])
    torch.testing.assert_close(several.each_q(parameters["critic"], state, action), each_q)
    torch.testing.assert_close(several.q(parameters["critic"], state, action), each_q.amin(0))
    rows = Transitions.of(parameters, batch, several.states)
    following = several.value(parameters, "target_critic", rows.next_state, rows_of(noise, several.states)[:, 0])
    draws, targets = rows_of(noise, several.states)[:, 0], []
    for index in range(3):
        alone = TensorDict({**dict(parameters.items()), "target_critic": parameters["target_critic"][index]})
        targets.append(one.value(alone, "target_critic", rows.next_state, draws))
    torch.testing.assert_close(following, torch.stack(targets).amin(0))
    loss, _ = several.critic_loss(parameters, batch, noise)
    inputs = several.reward.inputs(rows.state, rows.action)
    reward = several.earned(parameters, several.reward(parameters["reward"], inputs))
    goal = reward + 0.9 * (1 - rows.terminated) * following
    each_q = several.each_q(parameters["critic"], rows.state, several.as_input(rows.action))
    assert loss.item() == pytest.approx((each_q - goal).square().mean().item(), rel=1e-10)


def test_several_critics_see_images():
    """Each through convolutions of its own, as if it were alone."""
    encoder = ObservationEncoder(chosen_leaves(Box(0, 255, (12, 12, 3), np.uint8), (), "the test"))
    torch.manual_seed(0)
    critic = network(encoder, Hidden((8,)), 1, extra=2)
    several = fresh(critic, 3)
    inputs = torch.rand(5, encoder.size + 2)
    alone = torch.stack([call(critic, several[index], inputs) for index in range(3)])
    torch.testing.assert_close(call_each(critic, several, inputs), alone)
    assert (alone.std(0) > 0).all()


def test_the_reward_of_finitely_many_actions():
    """It reads which action was taken, and Q follows it as in a box."""
    branches = ActionBranches(Discrete(3))
    agent = DiscreteRewardIQLearn(IQ_CONFIG, box.ENCODER, branches, box.HIDDEN, ("suboptimal",))
    parameters = parameters_of(agent)
    batch, noise = box.draw_batch(True)
    for kind in ("expert", "suboptimal"):
        batch[kind, "action"] = torch.arange(len(batch[kind, "action"]))[:, None] % 3
        noise[kind] = torch.randn(len(batch[kind, "action"]), *agent.noise_shape).double()
    rows = Transitions.of(parameters, batch, agent.states)
    ones = torch.eye(3, dtype=torch.float64)[rows.action.squeeze(-1)]
    outputs = agent.reward(parameters["reward"], torch.cat([rows.state, ones], -1)).detach().numpy()
    _, metrics = agent.reward_loss(parameters, batch, noise)
    assert metrics["reward/expert"].item() == pytest.approx(outputs[: box.EXPERTS].mean())
    q = agent.q(parameters["critic"], rows.state, rows.action)
    following = agent.value(parameters, "target_critic", rows.next_state, noise["expert"])
    earned = torch.tensor(outputs + 4 * 0.3).clamp(0, 8 * 0.3)
    goal = earned + 0.9 * (1 - rows.terminated) * following
    loss, _ = agent.critic_loss(parameters, batch, noise)
    assert loss.item() == pytest.approx((q - goal).square().mean().item(), rel=1e-10)


def minimising(loss: Callable[[Tensor, Tensor], Tensor], expert: Tensor, other: Tensor) -> Tensor:
    """The outputs for three transitions with the least loss, each so often in the data of the expert and of others."""
    outputs = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([outputs], 0.05)
    for _ in range(1000):
        optimizer.zero_grad()
        loss(outputs.repeat_interleave(expert.long()), outputs.repeat_interleave(other.long())).backward()
        optimizer.step()
    return outputs.detach()


def test_the_best_reward_is_a_difference_of_the_distributions():
    """4 alpha (d_E - d_O) / (d_E + d_O), whatever the shares of the batch."""
    expert, other = torch.tensor([6.0, 3.0, 1.0]), torch.tensor([1.0, 3.0, 16.0])
    reward = minimising(lambda one, two: separate_reward_loss(one, two, 0.3), expert, other)
    one, two = expert / expert.sum(), other / other.sum()
    torch.testing.assert_close(reward, 1.2 * (one - two) / (one + two), atol=1e-3, rtol=0)


def test_the_best_discriminator_is_the_ratio_of_the_distributions():
    """Its logit is log d_E / d_pi where the loss is least; the reward is log(1 + d_E / d_pi)."""
    expert, other = torch.tensor([6.0, 3.0, 1.0]), torch.tensor([1.0, 3.0, 4.0])
    logits = minimising(discriminator_loss, expert, other)
    ratio = (expert / expert.sum()) / (other / other.sum())
    torch.testing.assert_close(logits, ratio.log(), atol=1e-3, rtol=0)
    torch.testing.assert_close(adversarial_reward(logits), torch.log1p(ratio), atol=1e-3, rtol=0)


def test_gail_is_for_the_online_stage():
    with pytest.raises(UserError, match=r"gail needs the environment: give --online \(online\.env_steps\)"):
        resolved(RunConfig(algorithm="gail"))
    resolved(RunConfig(algorithm="gail", online=OnlineConfig(5000)))
